"""How long after a revocation do all four workers refuse the key?

Worker processes of uvicorn and gunicorn, keys in SQLite, Redis and Postgres, revoked by another process.
Each worker has cached the key. The time is from just before the call of ``revoke`` to the first refusal that
a client receives on its connection to that worker. Then the store stops responding instead, and the time is
how long the key is still accepted.
"""

from __future__ import annotations

import http.client
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from report import Goal, Outcome, Table, main
from rounds import spread
from serving import START_LIMIT_S, free_port, gunicorn, served, uvicorn

from basicauth_mw import Settings, open_backend

sys.path.insert(0, str(Path(__file__).parents[1]))
from typing import TYPE_CHECKING

from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from basicauth_mw.backends.backend import Backend

WORKERS = 4
LIMIT_MS = 250.0
TTL_S = 1.0
SEND_EVERY_S = 0.002
GIVE_UP_S = 10.0

SERVERS: dict[str, Callable[[int], list[str]]] = {
    "uvicorn": lambda port: uvicorn(
        "asgi_apps:worker_app", port, f"--workers={WORKERS}", "--timeout-keep-alive=60"
    ),
    "gunicorn": lambda port: gunicorn("wsgi_apps:worker_app", port, f"--workers={WORKERS}"),
}


class Connection:
    """A persistent connection, and so one to the same worker."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=GIVE_UP_S)
        self._connection.connect()

    def send(self, authorization: str) -> tuple[int, bytes]:
        """Send a request; return status and body."""
        self._connection.request("GET", "/", headers={"Authorization": authorization})
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        self._connection.close()


def connect_to_all(port: int, authorization: str) -> dict[bytes, Connection]:
    """A connection to each worker, by process ID."""
    connections: dict[bytes, Connection] = {}
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end:
        connection = Connection(port)
        status, body = connection.send(authorization)
        if status != 200 or body in connections:
            connection.close()
        else:
            connections[body] = connection
        if len(connections) == WORKERS:
            return connections
    raise RuntimeError(f"only {len(connections)} of {WORKERS} workers respond")


def refusals(
    connections: dict[bytes, Connection], authorization: str, begin: float
) -> tuple[list[float], list[float]]:
    """Seconds from ``begin`` to each worker's first refusal, and to the last request that it accepted."""
    left = dict(connections)
    refused, accepted = [], dict.fromkeys(connections, 0.0)
    while left:
        for pid, connection in list(left.items()):
            sent = time.perf_counter()
            status, _ = connection.send(authorization)
            if status == 200:
                accepted[pid] = sent - begin
            else:
                refused.append(time.perf_counter() - begin)
                del left[pid]
        if time.perf_counter() > begin + GIVE_UP_S:
            raise RuntimeError(f"{len(left)} workers still accept a revoked key")
        time.sleep(SEND_EVERY_S)
    return refused, list(accepted.values())


def revoked(keys: Backend, port: int, trials: int) -> tuple[list[float], list[float]]:
    """Milliseconds to the refusal of each worker, and of the last one of each trial."""
    each, last = [], []
    connections = connect_to_all(port, keys.create().authorization)
    for _ in range(trials):
        issued = keys.create()
        for pid, connection in connections.items():
            if connection.send(issued.authorization) != (200, pid):
                raise RuntimeError("a valid credential was refused, or another worker responded")
        time.sleep(random.uniform(0, 0.1))  # at any point between two polls
        begin = time.perf_counter()
        keys.revoke(issued.client_id)
        refused, _ = refusals(connections, issued.authorization, begin)
        each += [seconds * 1e3 for seconds in refused]
        last.append(max(refused) * 1e3)
    for connection in connections.values():
        connection.close()
    return each, last


def outage(server: str, redis: RedisServer, trials: int) -> list[float]:
    """Seconds for which workers accept a key, once verified, while their store does not respond."""
    port, url = free_port(), redis.url("outage")
    settings = {"BASICAUTH_BACKEND": url, "BASICAUTH_CACHE_TTL_S": str(TTL_S), "BASICAUTH_THROTTLE": ""}
    longest = []
    with (
        open_backend(url, settings=Settings()) as keys,
        served(SERVERS[server](port), port, cores=os.sched_getaffinity(0), settings=settings),
    ):
        issued = [keys.create() for _ in range(trials + 1)]
        connections = connect_to_all(port, issued[0].authorization)
        for each in issued[1:]:
            begin = time.perf_counter()
            for connection in connections.values():
                if connection.send(each.authorization)[0] != 200:
                    raise RuntimeError("a valid credential was refused")
            verified = time.perf_counter()
            redis.freeze()
            _, accepted = refusals(connections, each.authorization, begin)
            redis.thaw()
            longest.append(max(accepted) - (verified - begin))
            end = time.monotonic() + GIVE_UP_S
            while any(
                connection.send(issued[0].authorization)[0] != 200 for connection in connections.values()
            ):
                if time.monotonic() > end:
                    raise RuntimeError("the workers do not use the store again")
    return longest


def percentile(figures: list[float], percent: int) -> float:
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def measured(quick: bool) -> Outcome:
    trials = 10 if quick else 100
    rows, goals = [], []
    series: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="basicauth-bench-") as directory,
        RedisServer() as redis,
        PostgresServer() as postgres,
    ):
        stores = {
            "SQLite": f"sqlite:///{directory}/keys.db",
            "Redis": redis.url(),
            "Postgres": postgres.url_with_tables(),
        }
        for store, url in stores.items():
            for server, start in SERVERS.items():
                port = free_port()
                with (
                    open_backend(url, settings=Settings(), create=True) as keys,
                    served(
                        start(port),
                        port,
                        cores=os.sched_getaffinity(0),
                        settings={
                            "BASICAUTH_BACKEND": url,
                            "BASICAUTH_CACHE_TTL_S": "3600",
                            "BASICAUTH_THROTTLE": "",
                        },
                    ),
                ):
                    each, last = revoked(keys, port, trials)
                name = f"{server}, {store}"
                series[name] = each
                worst = percentile(last, 99)
                rows.append(
                    [
                        name,
                        spread(each).text(".0f"),
                        f"{percentile(each, 99):.0f}",
                        spread(last).text(".0f"),
                        f"{worst:.0f}",
                        f"{max(last):.0f}",
                    ]
                )
                goals.append(
                    Goal(
                        "revoke",
                        f"revoke to refusal by all {WORKERS} workers, {name}, 99 %",
                        f"{worst:.0f} ms, median {spread(last).text('.0f')}",
                        f"<= {LIMIT_MS:g} ms",
                        worst <= LIMIT_MS,
                    )
                )
        longest = [seconds for server in SERVERS for seconds in outage(server, redis, 2 if quick else 5)]
    goals.append(
        Goal(
            "revoke",
            f"store down: accepted after verification, with cache_ttl_s = {TTL_S:g}",
            f"{max(longest):.2f} s at most",
            f"<= {TTL_S:g} s",
            max(longest) <= TTL_S,
        )
    )
    table = Table(
        f"From revoke to refusal, {WORKERS} workers; ms",
        [
            "server, store",
            "each worker (quartiles)",
            "99 %",
            "the last worker (quartiles)",
            "99 %",
            "maximum",
        ],
        rows,
        f"{trials} revokes each; a request every {SEND_EVERY_S * 1e3:g} ms or more.",
    )
    return Outcome([table], goals, {"revoke": series})


if __name__ == "__main__":
    main(measured, __doc__)
