"""Four workers and one Redis share the limit of failures."""

from __future__ import annotations

import time
from contextlib import closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.keys.generated_secrets import generate
from tests.redis_server import execute
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.redis_server import RedisServer
    from tests.servers.conftest import Served

LIMIT = 20
GUESSES = 200
TIMEOUT_S = 20.0


def status(port: int, authorization: str, source: str = "127.0.0.1") -> int:
    """Send one request on a new connection, which the kernel gives to any worker."""
    with closing(
        HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S, source_address=(source, 0))
    ) as connection:
        connection.request("GET", "/", headers={"Authorization": authorization})
        return connection.getresponse().status


def calls_of(server: RedisServer, command: str) -> int:
    stats = execute(server, "INFO", "commandstats").decode()
    (line,) = [each for each in stats.splitlines() if each.startswith(f"cmdstat_{command}:")] or [""]
    return int(line.partition("calls=")[2].partition(",")[0] or 0)


def test_four_workers_allow_little_more_than_the_limit(
    serve: Callable[..., Served], own_redis_server: RedisServer
) -> None:
    url = own_redis_server.url()
    with open_backend(url, settings=Settings()) as keys:
        issued = keys.create(client_id="ci")
        served = serve("uvicorn-4-workers", BASICAUTH_BACKEND=url)
        assert status(served.port, issued.authorization) == 200
        wait_until(lambda: time.time() % 60 < 40)  # within one minute
        guesses = [encode_basic("ci", generate("sk")) for _ in range(GUESSES)]
        execute(own_redis_server, "CONFIG", "RESETSTAT")
        statuses = [status(served.port, guess) for guess in guesses]

        assert set(statuses) == {401, 429}
        checked = statuses.count(401)
        assert LIMIT <= checked <= LIMIT * 1.5
        assert status(served.port, issued.authorization) == 429, "also with the right secret"
        assert status(served.port, issued.authorization, "127.0.0.2") == 200, "from another address"
        wait_until(lambda: calls_of(own_redis_server, "eval") > 0)
        assert calls_of(own_redis_server, "eval") <= checked
        assert calls_of(own_redis_server, "get") <= checked + 1
