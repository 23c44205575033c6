"""A busy server that is stopped completes its responses correctly, and exits without errors."""

from __future__ import annotations

import re
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import Settings, open_backend
from tests.matrix.cases import KEY
from tests.matrix.client import Response, connect, head, send
from tests.matrix.conftest import SETTINGS
from tests.matrix.kinds import SERVERS, Server
from tests.matrix.quirks import STOPS_AT_ONCE
from tests.waiting import LIMIT_S, listens, wait_until

if TYPE_CHECKING:
    from pathlib import Path

# A 503 must come from the shutdown, not from a busy machine.
PATIENT = {"BASICAUTH_BACKEND_DEADLINE_S": "60", "BASICAUTH_THROTTLE": ""}

every_server = pytest.mark.parametrize("name", SERVERS)

# Texts that the log of a stopped server must not contain.
NOISE = re.compile(
    r"Traceback|Error|Exception|loop is closed|never (awaited|retrieved)|was destroyed|Unclosed",
    re.IGNORECASE,
)


@pytest.mark.proves("F32")
@every_server
def test_stopped_under_load(name: str, redis_url: str, tmp_path: Path) -> None:
    """Every response that is sent is the right one, complete, while store connections are in use."""
    with open_backend(redis_url, settings=Settings()) as keys:
        authorization = keys.create().authorization.encode()
    # Without a cache, every request does a lookup.
    settings = {"BASICAUTH_BACKEND": redis_url, "BASICAUTH_CACHE_TTL_S": "0", **PATIENT}
    request = head(b"Authorization: " + authorization, b"Connection: close")
    responses: list[Response] = []
    done = threading.Event()

    def press() -> None:
        while not done.is_set():
            with suppress(OSError):
                responses.append(send(server, request))

    with Server(name, tmp_path / "log", settings) as server:
        clients = [threading.Thread(target=press) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            wait_until(lambda: [response.status for response in responses].count(200) > 50)
            server.process.send_signal(signal.SIGTERM)
            status = server.process.wait(LIMIT_S)
        finally:
            done.set()
            for client in clients:
                client.join()
        assert not listens(server.port)

    assert status in (0, -signal.SIGTERM)
    assert {response.status for response in responses} <= {200, 0}, "the right response, or none"
    if name not in STOPS_AT_ONCE.servers:
        assert all(response.whole for response in responses if response.status)
    assert not NOISE.search(server.log.read_text()), server.log.read_text()


@pytest.mark.proves("F32")
@every_server
def test_stopped_during_a_response(name: str, tmp_path: Path) -> None:
    """A response that has started is completed or cut; either way the server exits by itself."""
    seen = tmp_path / "seen"
    with Server(name, tmp_path / "log", SETTINGS) as server, connect(server) as connection:
        connection.sendall(head(KEY, b"X-Wait-For: " + str(seen).encode(), target=b"/stream"))
        received = b""
        while b"first" not in received:
            chunk = connection.recv(65536)
            assert chunk, received
            received += chunk
        server.process.send_signal(signal.SIGTERM)
        # Some servers stop listening at once, some when they exit. A second suffices to truncate responses.
        with suppress(AssertionError):
            wait_until(lambda: not listens(server.port), LIMIT_S if name in STOPS_AT_ONCE.servers else 1)
        seen.touch()
        with suppress(ConnectionError):
            while chunk := connection.recv(65536):
                received += chunk
        server.process.wait(LIMIT_S)

    assert received.endswith(b"0\r\n\r\n") == (b"second" in received) == (name not in STOPS_AT_ONCE.servers)
    assert not NOISE.search(server.log.read_text()), server.log.read_text()
