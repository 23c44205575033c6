"""The command line: one file per command group, over ``Backend``. Needs the extra ``cli``."""
