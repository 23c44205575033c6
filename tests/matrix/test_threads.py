"""Servers with all kinds of threads, including green threads, over one SQLite file."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.keys.generated_secrets import generate
from tests.matrix.client import head, send
from tests.matrix.kinds import Server
from tests.waiting import LIMIT_S

if TYPE_CHECKING:
    from pathlib import Path

CLIENTS = 32


@pytest.mark.proves("F20")
@pytest.mark.parametrize("name", ["gunicorn-gthread", "gunicorn-gevent", "waitress"])
def test_thirty_two_at_once(name: str, tmp_path: Path) -> None:
    """Each client gets its own identity."""
    url = f"sqlite:///{tmp_path / 'keys.db'}"
    with open_backend(url, settings=Settings(), create=True) as keys:
        issued = [keys.create(client_id=f"client-{number}") for number in range(CLIENTS)]
    # Without a cache, every request does a lookup.
    settings = {"BASICAUTH_BACKEND": url, "BASICAUTH_CACHE_TTL_S": "0", "BASICAUTH_THROTTLE": ""}
    barrier = threading.Barrier(CLIENTS)

    with Server(name, tmp_path / "log", {**settings, "BASICAUTH_BACKEND_DEADLINE_S": "60"}) as server:

        def press(number: int) -> None:
            barrier.wait(LIMIT_S)
            own = issued[number]
            for _ in range(5):
                response = send(server, head(b"Authorization: " + own.authorization.encode()))
                assert (response.status, response.value("x-reached")) == (200, own.client_id)
                wrong = encode_basic(own.client_id, generate("sk")).encode()
                assert send(server, head(b"Authorization: " + wrong)).outcome == "invalid_credentials"

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(press, range(CLIENTS)))
        assert "Traceback" not in server.log.read_text()
