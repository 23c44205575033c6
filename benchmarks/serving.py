"""Server processes on 127.0.0.1, each on a free port and a chosen core."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).parent
START_LIMIT_S = 20.0


@dataclass
class Server:
    """A running server.

    Attributes:
        port: The port that it listens on.
        process: The process that was started.
    """

    port: int
    process: subprocess.Popen[bytes]

    @property
    def pids(self) -> list[int]:
        """The process and its children."""
        return [self.process.pid, *_children(self.process.pid)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def uvicorn(app: str, port: int, *more: str) -> list[str]:
    """The command that serves the result of a function, such as ``asgi_apps:ours_app``."""
    fast = ("--loop=uvloop", "--http=httptools", "--no-access-log", "--log-level=warning")
    return [sys.executable, "-m", "uvicorn", *fast, f"--port={port}", "--factory", *more, app]


def waitress(app: str, port: int, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "waitress",
        f"--listen=127.0.0.1:{port}",
        "--threads=8",
        "--call",
        *more,
        app,
    ]


def gunicorn(app: str, port: int, *more: str) -> list[str]:
    threads = ("--worker-class=gthread", "--threads=8", "--keep-alive=60", "--log-level=error")
    return [sys.executable, "-m", "gunicorn", *threads, f"--bind=127.0.0.1:{port}", *more, f"{app}()"]


@contextmanager
def served(
    command: list[str], port: int, *, cores: set[int], settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run a server until the end of the block.

    Args:
        command: Starts the server.
        port: The port that it will listen on.
        cores: The cores that it may use.
        settings: Variables for its environment, which otherwise has no settings of this package.

    Raises:
        RuntimeError: The server does not listen in time.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    with tempfile.TemporaryFile() as log:  # no pipe, which could fill up: waitress logs each queued request
        process = subprocess.Popen(
            command,
            cwd=HERE,
            env={**inherited, "PYTHONPATH": str(HERE), **(settings or {})},
            stdout=log,
            stderr=log,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        try:
            _wait(process, port, log)
            yield Server(port, process)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            log.seek(0)
            raise RuntimeError(f"the server exited: {log.read()[-500:].decode(errors='replace')}")
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"no server listens on port {port} within {START_LIMIT_S:g} s")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *_children(child)]
    return found
