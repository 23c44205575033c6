"""A server on this machine alone, until it is interrupted: for ``demo`` and ``dashboard``."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ._errors import CommandError, reason_of

HOST = "127.0.0.1"

_SHUTDOWN_S = 2


def serve(app: Any, listener: socket.socket) -> None:
    """Serve until a signal comes. uvicorn is in no extra: look for it before."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=_SHUTDOWN_S)
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Take the port before anything is promised: requests wait in its queue until the server is up."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
        except OSError as exc:
            raise CommandError(
                f"port {port} on {HOST} cannot be used ({reason_of(exc)}): choose another with --port"
            ) from None
        yield listener


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, and end quietly, so that what was made is removed.

    uvicorn raises the signal that stopped it once more when it is done; without this the process would die of
    it there and then. It does not know SIGHUP, so that one is passed on as the other.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):  # not on Windows
        signal.signal(signal.SIGHUP, lambda _number, _frame: signal.raise_signal(signal.SIGTERM))
    with suppress(KeyboardInterrupt):
        yield
