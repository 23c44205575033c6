"""Serving an app on this machine until Ctrl-C, for ``demo`` and ``dashboard``."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

from ._echo import CommandError, reason_of

HOST = "127.0.0.1"

Port = Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="The port; 0 for any free one.")]

_SHUTDOWN_S = 2


def serve(app: Any, listener: socket.socket) -> None:
    """Serve until a signal arrives. uvicorn must be installed."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=_SHUTDOWN_S)
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Listen on a port. Requests wait until the server has started."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
        except OSError as exc:
            raise CommandError(
                f"cannot listen on port {port} of {HOST} ({reason_of(exc)}): choose another with --port"
            ) from None
        yield listener


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, and end without an error, so that temporary files are removed.

    uvicorn raises the signal that stopped it once more when it has shut down, which would end the process
    there. It does not handle SIGHUP, so that is passed on as SIGTERM.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):  # not on Windows
        signal.signal(signal.SIGHUP, lambda _number, _frame: signal.raise_signal(signal.SIGTERM))
    with suppress(KeyboardInterrupt):
        yield
