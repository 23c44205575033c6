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


def counted(server: RedisServer) -> int:
    """The failures that Redis has counted, for one client."""
    names = execute(server, "KEYS", "*{:failures}:*")
    return sum(int(count) for name in names for count in execute(server, "HVALS", name))


def test_four_workers_allow_little_more_than_the_limit(
    serve: Callable[..., Served], own_redis_server: RedisServer
) -> None:
    url = own_redis_server.url()
    with open_backend(url, settings=Settings()) as keys:
        issued = keys.create(client_id="ci")
        served = serve("uvicorn-4-workers", BASICAUTH_BACKEND=url, BASICAUTH_THROTTLE=f"{LIMIT}/hour")
        assert status(served.port, issued.authorization) == 200
        wait_until(lambda: (key := keys.get("ci")) and key.last_used_at)  # which is written by EVAL too
        wait_until(lambda: time.time() % 3600 < 3550)  # within one hour
        execute(own_redis_server, "CONFIG", "RESETSTAT")
        statuses = []
        for _ in range(GUESSES):
            statuses.append(status(served.port, encode_basic("ci", generate("sk"))))
            if statuses[-1] == 401:  # a worker learns of the others' failures when it reports its own
                wait_until(lambda: counted(own_redis_server) >= statuses.count(401))

        assert set(statuses) == {401, 429}
        checked = statuses.count(401)
        assert LIMIT <= checked <= LIMIT * 1.5
        assert counted(own_redis_server) == checked
        assert calls_of(own_redis_server, "eval") == checked
        assert status(served.port, issued.authorization) == 429, "also with the right secret"
        assert status(served.port, issued.authorization, "127.0.0.2") == 200, "from another address"
        assert calls_of(own_redis_server, "get") <= checked + 1
