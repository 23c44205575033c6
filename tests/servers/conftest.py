"""Real server processes on 127.0.0.1, each on a free port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.waiting import free_port, listens, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
LIMIT_S = 20.0

# The arguments of ``python -m`` for each placement and server.
SERVERS = {
    "fastapi-wrapped-h11": ("uvicorn", "tests.servers.apps:wrapped_app", "--http=h11"),
    "fastapi-inside-httptools": ("uvicorn", "tests.servers.apps:inside_app", "--http=httptools"),
    "flask-waitress": ("waitress", "tests.servers.flask_app:app"),
}

# Servers whose responses name the worker.
WORKERS = {
    "uvicorn-4-workers": ("uvicorn", "tests.servers.who_apps:app", "--workers=4"),
    "gunicorn-4-workers": ("gunicorn", "tests.servers.who_apps:wsgi_app", "--workers=4", "--threads=4"),
    "gunicorn-4-preloaded": (
        *("gunicorn", "tests.servers.who_apps:wsgi_app", "--workers=4", "--threads=4"),
        "--preload",
    ),
}

# Servers for single tests.
OTHERS = {
    "fastapi-dashboard": ("uvicorn", "tests.servers.dashboards:fastapi_app"),
    "flask-dashboard": ("waitress", "tests.servers.dashboards:flask_app"),
    "fastapi-documented": ("uvicorn", "tests.system.pages:documented"),
    **{
        f"cors-{place}": ("uvicorn", f"tests.system.pages:cors_{place}")
        for place in ("installed", "outside", "inside")
    },
    "gunicorn-4-used-before-fork": (
        *("gunicorn", "tests.servers.used_before_fork:app", "--workers=4", "--threads=2", "--preload"),
    ),
    "key-service": ("uvicorn", "basicauth_mw.forward_auth:app"),
    "flooded": ("uvicorn", "tests.servers.flood_app:app", "--http=h11", "--loop=asyncio", "--backlog=4096"),
    "measured-2-workers": ("gunicorn", "tests.servers.metrics_app:app", "--workers=2", "--preload"),
}


@dataclass
class Served:
    """A running server.

    Attributes:
        port: The port that it listens on.
        log: The file with its stdout and stderr.
        process: The process.
    """

    port: int
    log: Path
    process: subprocess.Popen[bytes]

    def request(self, method: str, path: str, **more: object) -> httpx.Response:
        """Send one request on a new connection, without TLS: loading the certificates takes 20 ms."""
        with httpx.Client(trust_env=False, timeout=LIMIT_S, verify=False) as client:
            return client.request(method, f"http://127.0.0.1:{self.port}{path}", **more)  # type: ignore[arg-type]


@contextmanager
def servers(directory: Path) -> Iterator[Callable[..., Served]]:
    """Start servers by name, with additional settings; all are stopped at the end."""
    with ExitStack() as stack:

        def start(name: str, **settings: str) -> Served:
            port = free_port()
            module, app, *options = {**SERVERS, **WORKERS, **OTHERS}[name]
            where = {
                "uvicorn": [f"--port={port}", "--log-level=warning"],
                "waitress": [f"--listen=127.0.0.1:{port}"],
                "gunicorn": [f"--bind=127.0.0.1:{port}", "--log-level=warning", "--keep-alive=60"],
            }[module]
            inherited = {
                name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")
            }
            log = directory / f"{name}-{port}.log"
            output = stack.enter_context(log.open("wb"))
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", module, *where, *options, app],
                    cwd=ROOT,
                    env={**inherited, **settings},
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )
            stack.callback(kill_group, process.pid)  # includes its workers
            wait_until(lambda: listens(port) or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            return Served(port, log, process)

        yield start


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start servers by name, with additional settings; all are stopped after the test."""
    with servers(tmp_path) as start:
        yield start


@pytest.fixture(scope="session")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Served]]:
    """Start a server with the key demo:p@55w0rd by name, once for all tests, so do not stop it."""
    with servers(tmp_path_factory.mktemp("demo")) as start:
        yield cache(lambda name: start(name, BASICAUTH_KEYS="demo:p@55w0rd", BASICAUTH_THROTTLE=""))


def kill_group(process_id: int) -> None:
    with suppress(ProcessLookupError):  # it has already ended
        os.killpg(process_id, signal.SIGKILL)
