"""Servers on a Unix socket: no address and so no throttling, unless proxy headers are read as documented."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.servers.conftest import LIMIT_S, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

GUNICORN = ("gunicorn", "--workers=1", "--bind=unix:{socket}")
TRUSTING = "--forwarded-allow-ips=*"
COMMANDS = {
    "uvicorn": ("uvicorn", "--uds={socket}", "tests.servers.unix_app:asgi_app"),
    "gunicorn": (*GUNICORN, "tests.servers.unix_app:wsgi_app"),
    "uvicorn-proxied": (
        *("uvicorn", "--uds={socket}", "--proxy-headers", TRUSTING, "tests.servers.unix_app:asgi_app"),
    ),
    "gunicorn-proxied": (*GUNICORN, TRUSTING, "tests.servers.unix_app:wsgi_proxied"),
    "gunicorn-uvicorn-worker-proxied": (
        *(*GUNICORN, TRUSTING, "--worker-class=uvicorn_worker.UvicornWorker"),
        "tests.servers.unix_app:asgi_app",
    ),
}
WARNING = "the server does not report the client's address"


@pytest.fixture(scope="module", params=COMMANDS)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, httpx.Client, Path]]:
    name = request.param
    with tempfile.TemporaryDirectory(prefix="unix") as directory:  # short: a socket's path is limited
        path, log = Path(directory, "s"), Path(directory, "log")
        command = [sys.executable, "-m", *(word.format(socket=path) for word in COMMANDS[name])]
        env = {**os.environ, "BASICAUTH_KEYS": "ci:p@55w0rd"}
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)
        try:
            wait_until_served(path, log)
            transport = httpx.HTTPTransport(uds=str(path))
            with httpx.Client(transport=transport, base_url="http://unix", timeout=LIMIT_S) as client:
                yield name, client, log
        finally:
            process.terminate()
            process.wait(LIMIT_S)


def wait_until_served(path: Path, log: Path) -> None:
    ends_at = time.monotonic() + LIMIT_S
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            if connection.connect_ex(str(path)) == 0:
                return
        assert time.monotonic() < ends_at, log.read_text()
        time.sleep(0.05)


def guess(client: httpx.Client, address: str) -> int:
    return client.get("/", auth=("ci", "wrong"), headers={"X-Forwarded-For": address}).status_code


def test_guesses_over_a_unix_socket(server: tuple[str, httpx.Client, Path]) -> None:
    """With the documented settings, the address in the proxy's header is throttled, and no other."""
    name, client, log = server
    seen = [guess(client, "192.0.2.1") for _ in range(5)]

    if name.endswith("proxied"):
        assert seen == [401, 401, 401, 429, 429]
        assert guess(client, "192.0.2.2") == 401
    else:
        assert seen == [401] * 5
    assert client.get("/", auth=("ci", "p@55w0rd"), headers={"X-Forwarded-For": "192.0.2.3"}).text == "hello"
    assert log.read_text().count(WARNING) == (0 if name.endswith("proxied") else 1)
