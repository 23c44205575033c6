"""``python -m basicauth_mw``, which is also the console script ``basicauth-mw``.

This module and the package itself import almost nothing. Everything that takes time is loaded after ``main``
has ensured that Ctrl-C ends the program without a traceback.
"""

import os
import sys

INTERRUPTED = 130  # what a shell reports for a program that SIGINT ended


def main() -> None:
    """Run the command line on ``sys.argv`` and exit with its status."""
    try:
        status = _run()
    except KeyboardInterrupt:  # between the handlers of _run and run
        status = INTERRUPTED
    sys.exit(status)


def _run() -> int | str:
    import signal

    # While modules are loaded, and after the command, nothing needs cleaning up, and a KeyboardInterrupt
    # could be raised in code that cannot propagate it.
    is_ours = (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )  # otherwise SIGINT is ignored or handled by others
    if is_ours:
        signal.signal(signal.SIGINT, _end)

    from .errors import MissingExtra
    from .runtime.extras import require

    try:
        for module in ("typer", "rich"):
            require(module, extra="cli")
    except MissingExtra as exc:
        return f"error: {exc}"  # sys.exit prints it to stderr and exits with 1
    from .cli.app import run  # needs the extra, which was checked above

    try:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, _end)


def _end(_number: int, _frame: object) -> None:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
