"""``python -m basicauth_mw``, which is also the console script ``basicauth-mw``."""

from __future__ import annotations

import sys

from ._extras import require
from .errors import MissingExtra


def main() -> None:
    """Run the command line on ``sys.argv`` and exit with its status."""
    try:
        for module in ("typer", "rich"):
            require(module, extra="cli")
    except MissingExtra as exc:
        sys.exit(f"error: {exc}")  # prints to stderr and exits with 1
    try:
        from .cli.app import run  # needs the extra, so not before it is known to be there

        status = run()
    except KeyboardInterrupt:  # while the modules were loaded: run() sees to the rest
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
