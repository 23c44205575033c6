"""``python -m basicauth_mw``, which is also the console script ``basicauth-mw``.

What is imported here, and by the package before it, is next to nothing: all that takes time is loaded when
``main`` has seen to it that Ctrl-C ends the program without a traceback.
"""

import os
import sys

INTERRUPTED = 130  # what a shell reports for a program that SIGINT ended


def main() -> None:
    """Run the command line on ``sys.argv`` and exit with its status."""
    try:
        status = _run()
    except KeyboardInterrupt:  # in between: run() sees to the rest
        status = INTERRUPTED
    sys.exit(status)


def _run() -> int | str:
    import signal

    # Nothing has to be cleaned up while modules are loaded, nor when the command is done; and there an
    # exception would come out of places that cannot pass it on.
    is_ours = (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )  # else we are not to be interrupted
    if is_ours:
        signal.signal(signal.SIGINT, _end)

    from .errors import MissingExtra
    from .runtime.extras import require

    try:
        for module in ("typer", "rich"):
            require(module, extra="cli")
    except MissingExtra as exc:
        return f"error: {exc}"  # as the status: it is printed to stderr, and 1
    from .cli.app import run  # needs the extra, so not before it is known to be there

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
