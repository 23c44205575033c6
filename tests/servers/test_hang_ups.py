"""Clients that disconnect during a lookup do not affect other requests."""

from __future__ import annotations

import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import Settings, open_backend
from tests.forwarder import Forwarder
from tests.servers.conftest import LIMIT_S, SERVERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.redis_server import RedisServer
    from tests.servers.conftest import Served

REPEATS = 60
DELAY_S = 0.005


@pytest.mark.proves("F11")
@pytest.mark.parametrize("name", SERVERS)
def test_a_disconnect_leaves_no_reply_for_others(
    serve: Callable[..., Served], own_redis_server: RedisServer, name: str
) -> None:
    """Two clients; some disconnect while Redis is slow to reply. No identity is swapped."""
    with Forwarder(own_redis_server.port) as way:
        url = f"redis://127.0.0.1:{way.port}"
        with open_backend(url, settings=Settings()) as keys:
            issued = {each: keys.create(client_id=each).authorization for each in ("one", "two")}
        way.delay_s = DELAY_S
        served = serve(
            name,
            BASICAUTH_BACKEND=url,
            BASICAUTH_CACHE_TTL_S="0",
            BASICAUTH_THROTTLE="",
            BASICAUTH_BACKEND_DEADLINE_S="10",
        )

        def hang_up(client: str, after_s: float) -> None:
            with socket.create_connection(("127.0.0.1", served.port)) as connection:
                request = f"GET /hello HTTP/1.1\r\nHost: x\r\nAuthorization: {issued[client]}\r\n\r\n"
                connection.sendall(request.encode())
                time.sleep(after_s)

        def press(client: str) -> None:
            chance = random.Random(client)
            for _ in range(REPEATS):
                if chance.random() < 0.7:
                    hang_up(client, chance.uniform(0, 2 * DELAY_S))
                else:
                    connection = HTTPConnection("127.0.0.1", served.port, timeout=LIMIT_S)
                    connection.request("GET", "/hello", headers={"Authorization": issued[client]})
                    assert json.loads(connection.getresponse().read()) == {"client_id": client}
                    connection.close()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(press, ("one", "two") * 2))
    assert "Traceback" not in served.log.read_text()
