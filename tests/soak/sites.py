"""The stores and servers of a soak test; all are real, on 127.0.0.1."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from basicauth_mw import Settings, open_backend
from tests.matrix.kinds import Server
from tests.redis_server import RedisServer, find_binary
from tests.soak.model import CACHE_TTL_S, Keys, Windows
from tests.soak.proxy import Proxy
from tests.waiting import wait_until

WORKERS = 2

_COMMANDS = {
    "uvicorn": (
        *("uvicorn", "--port={port}", f"--workers={WORKERS}", "--log-level=warning"),
        *("--timeout-keep-alive=600", "--factory"),
    ),
    "gunicorn": (
        *("gunicorn", "--bind=127.0.0.1:{port}", f"--workers={WORKERS}", "--log-level=warning"),
        *("--worker-class=gthread", "--threads=4", "--keep-alive=600"),
    ),
}
APPS = {
    "uvicorn-sqlite": "tests.soak.apps:asgi",
    "gunicorn-sqlite": "tests.soak.apps:wsgi()",
    "uvicorn-redis": "tests.soak.apps:asgi",
    "gunicorn-redis": "tests.soak.apps:wsgi()",
}
SERVERS = tuple(APPS)


class Site(Server):
    """A server with its workers."""

    @property
    def command(self) -> tuple[str, ...]:
        return (*_COMMANDS[self.name.partition("-")[0]], APPS[self.name])

    @property
    def place(self) -> str:
        """The name of its store."""
        return self.name.partition("-")[2]

    def workers(self) -> list[int]:
        """Process IDs of the workers, the oldest first."""
        return [pid for pid in _children(self.process.pid) if _is_worker(pid)]

    def wait(self) -> None:
        """Wait until all workers run."""
        wait_until(lambda: len(self.workers()) >= WORKERS)


@dataclass
class Store:
    """A key store.

    Attributes:
        place: ``sqlite`` or ``redis``.
        url: Its URL, with faults.
        direct: Its URL without faults of the connection.
        keys: The keys that it must contain.
        path: The SQLite file.
        redis: The Redis server.
        proxy: The forwarder to it.
    """

    place: str
    url: str
    direct: str
    keys: Keys
    path: Path | None = None
    redis: RedisServer | None = None
    proxy: Proxy | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment for the command line."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
        return {**inherited, "BASICAUTH_BACKEND": self.url}


class Fleet:
    """All stores and servers. Use it as a context manager.

    Args:
        names: Names of servers, from ``SERVERS``.
        folder: Folder for files and logs.
    """

    def __init__(self, names: tuple[str, ...], folder: Path) -> None:
        self.windows = Windows()
        self.folder = folder
        self._names = names
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            places = sorted({name.partition("-")[2] for name in self._names})
            self.stores = {place: getattr(self, f"_{place}")() for place in places}
            self.sites = [self._site(name) for name in self._names]
            for site in self.sites:
                site.wait()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    @property
    def places(self) -> tuple[str, ...]:
        """Everything that can fail."""
        return (*self.stores, *(site.name for site in self.sites))

    def _sqlite(self) -> Store:
        path = self.folder / "keys.db"
        url = f"sqlite:///{path}"
        open_backend(url, settings=Settings(), create=True).close()
        return Store("sqlite", url, url, Keys("sqlite", self.windows), path=path)

    def _redis(self) -> Store:
        # The server will be killed, so each write is on the disk before it is acknowledged.
        options = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
        server = self._stack.enter_context(RedisServer(*options, *_debug_options()))
        proxy = self._stack.enter_context(Proxy(server.port))
        url = server.url().replace(f":{server.port}/", f":{proxy.port}/")
        return Store("redis", url, server.url(), Keys("redis", self.windows), redis=server, proxy=proxy)

    def _site(self, name: str) -> Site:
        settings = {
            "BASICAUTH_BACKEND": self.stores[name.partition("-")[2]].url,
            "BASICAUTH_CACHE_TTL_S": f"{CACHE_TTL_S:g}",
            "BASICAUTH_CACHE_SIZE": "500",  # soon full, which tests its limit
            "BASICAUTH_THROTTLE": "999999999/minute",  # counts, but never refuses
        }
        return self._stack.enter_context(Site(name, self.folder / f"{name}.log", settings))


def _debug_options() -> tuple[str, ...]:
    """Redis 7.0 and later need an option for DEBUG, which earlier versions do not know."""
    version = subprocess.run([find_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\d+)", version)
    return ("--enable-debug-command", "local") if found and int(found[1]) >= 7 else ()


def _children(pid: int) -> list[int]:
    """Child processes, in the order of their start."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_worker(pid: int) -> bool:
    """Whether a child is a worker, and not the resource tracker of multiprocessing."""
    try:
        return b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
