"""The servers, and how to start each one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.redis_server import find_port
from tests.waiting import listens, wait_until

ROOT = Path(__file__).parents[2]

_ASGI, _WSGI = "tests.matrix.apps:asgi", "tests.matrix.apps:wsgi"


def _gunicorn(worker: str, *options: str, app: str = _WSGI) -> tuple[str, ...]:
    shared = ("--bind=127.0.0.1:{port}", "--log-level=warning", "--graceful-timeout=20", "--timeout=120")
    return ("gunicorn", *shared, f"--worker-class={worker}", *options, app)


# The arguments of ``python -m``.
ASGI = {
    "uvicorn-h11": (
        *("uvicorn", "--http=h11", "--ws=wsproto", "--loop=asyncio"),
        # By default 16 KiB, unless the head arrives in one part.
        *("--port={port}", "--log-level=warning", "--h11-max-incomplete-event-size=131072", _ASGI),
    ),
    "uvicorn-httptools": (
        *("uvicorn", "--http=httptools", "--ws=websockets-sansio", "--loop=uvloop"),
        *("--port={port}", "--log-level=warning", _ASGI),
    ),
    "hypercorn": ("hypercorn", "--bind=127.0.0.1:{port}", "--log-level=warning", _ASGI),
    "granian-asgi": ("granian", "--port={port}", "--interface=asgi", "--log-level=warning", _ASGI),
    "daphne": ("daphne", "-b", "127.0.0.1", "-p", "{port}", "-v0", _ASGI),
    "gunicorn-uvicorn": _gunicorn("uvicorn_worker.UvicornWorker", app=_ASGI),
    "gunicorn-asgi": _gunicorn("asgi", app=_ASGI),
}
WSGI = {
    "gunicorn-sync": _gunicorn("sync"),
    "gunicorn-gthread": _gunicorn("gthread", "--threads=4"),
    "gunicorn-preload": _gunicorn("gthread", "--threads=4", "--preload", "--workers=2"),
    "gunicorn-gevent": _gunicorn("gevent"),
    "granian-wsgi": (
        *("granian", "--port={port}", "--interface=wsgi", "--blocking-threads=4"),
        *("--log-level=warning", _WSGI),
    ),
    "waitress": ("waitress", "--listen=127.0.0.1:{port}", _WSGI),
    "cheroot": ("cheroot", "--bind=127.0.0.1:{port}", _WSGI),
    "werkzeug": ("tests.matrix.werkzeug_server", "{port}"),
}
SERVERS = {**ASGI, **WSGI}

# Servers that parse requests with the same code.
H11 = frozenset({"uvicorn-h11", "hypercorn"})
HTTPTOOLS = frozenset({"uvicorn-httptools", "gunicorn-uvicorn"})
GUNICORN = frozenset({"gunicorn-sync", "gunicorn-gthread", "gunicorn-preload", "gunicorn-gevent"})
GRANIAN = frozenset({"granian-asgi", "granian-wsgi"})


@dataclass
class Server:
    """A server process. Use it as a context manager.

    Attributes:
        name: One of ``SERVERS``.
        log: The file with its output.
        settings: Additional environment variables.
        options: Additional arguments.
        port: The port that it listens on.
        process: The process.
    """

    name: str
    log: Path
    settings: dict[str, str]
    options: tuple[str, ...] = ()
    port: int = 0

    def __enter__(self) -> Self:
        self.port = find_port()  # not a port that a client could get meanwhile
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
        words = [word.format(port=self.port) for word in self.command]
        words[1:1] = self.options
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                # CGI-like servers would use them as variables of the request.
                env={**inherited, **self.settings, "REMOTE_USER": "outside", "AUTH_TYPE": "outside"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            wait_until(lambda: listens(self.port) or self.process.poll() is not None)
            assert self.process.poll() is None, self.log.read_text()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kill()

    @property
    def command(self) -> tuple[str, ...]:
        """The words after ``python -m``."""
        return SERVERS[self.name]

    @property
    def is_asgi(self) -> bool:
        return self.name in ASGI

    def kill(self) -> None:
        """End it and its workers."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
