"""Failover with a real Redis Sentinel."""

from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
import redis

from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.model import Key
from tests.redis_server import RedisServer, Sentinel, WatchedPair, execute, find_port, is_linked
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 0.6
SLACK_S = 0.5
FAILOVER_S = 15


@pytest.fixture
def pair() -> Iterator[WatchedPair]:
    with WatchedPair() as pair:
        yield pair


@pytest.fixture
def store(pair: WatchedPair) -> Iterator[RedisStore]:
    with closing(RedisStore(pair.url(), deadline_s=DEADLINE_S)) as opened:
        assert opened.put(Key("id", version=1), None)
        wait_until(lambda: execute(pair.replica, "EXISTS", opened._names.record(b"id")))
        yield opened


def on_loop(store: RedisStore, main: Any) -> Any:
    async def all_of_it() -> Any:
        try:
            return await main
        finally:
            await store.aclose()

    return asyncio.run(asyncio.wait_for(all_of_it(), 60))


def is_master(server: RedisServer) -> bool:
    with suppress(redis.ConnectionError):  # a server that becomes a master closes its connections
        return b"role:master" in execute(server, "INFO", "REPLICATION")
    return False


async def outcome(look_up: Any) -> Any:
    try:
        return await look_up
    except BackendUnavailable as exc:
        return exc


def attempt(look_up: Callable[[], Any]) -> Any:
    try:
        return look_up()
    except BackendUnavailable as exc:
        return exc


@pytest.mark.proves("F4")
def test_the_master_is_killed(pair: WatchedPair, store: RedisStore) -> None:
    """An outage while there is no master; afterwards the next lookup and the next change use the new one."""

    async def main() -> None:
        assert await store.aget("id") == store.get("id")
        pair.notice_failures()
        pair.master.stop()
        start = time.monotonic()
        assert isinstance(await outcome(store.aget("id")), BackendUnavailable)
        assert isinstance(attempt(lambda: store.get("id")), BackendUnavailable)
        assert isinstance(attempt(lambda: store.put(Key("id", version=2), 1)), BackendUnavailable)
        assert time.monotonic() - start < DEADLINE_S + SLACK_S

        end = time.monotonic() + FAILOVER_S
        while not is_master(pair.replica):
            # While there is no master a lookup raises; it never returns None.
            for found in (await outcome(store.aget("id")), attempt(lambda: store.get("id"))):
                assert isinstance(found, BackendUnavailable) or found is not None
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        port = b"%d" % pair.replica.port
        while execute(pair.sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "keys")[1] != port:
            await asyncio.sleep(0.01)
        assert await store.aget("id") == store.get("id") is not None
        assert store.put(Key("id", version=2), 1)
        assert (await asyncio.gather(*(store.aget("id") for _ in range(50)))).count(None) == 0

    on_loop(store, main())


@pytest.mark.proves("F4")
def test_the_master_steps_down(pair: WatchedPair, store: RedisStore) -> None:
    """It becomes a replica and keeps our connections: one change is refused, and none is lost."""

    async def main() -> None:
        assert await store.aget("id") == store.get("id")
        execute(pair.replica, "REPLICAOF", "NO", "ONE")
        execute(pair.master, "REPLICAOF", "127.0.0.1", pair.replica.port)
        execute(pair.sentinel, "SENTINEL", "REMOVE", "keys")
        execute(pair.sentinel, "SENTINEL", "MONITOR", "keys", "127.0.0.1", pair.replica.port, 1)
        wait_until(lambda: is_linked(pair.master))
        assert await store.aget("id") == store.get("id") is not None
        assert isinstance(attempt(lambda: store.put(Key("id", version=2), 1)), BackendUnavailable)
        for version in range(1, 20):
            assert store.put(Key("id", version=version + 1), version)
        assert b'"n":20' in execute(pair.replica, "GET", store._names.record(b"id"))

    on_loop(store, main())


@pytest.mark.proves("F4")
def test_a_demoted_master_is_rejected(pair: WatchedPair, store: RedisStore) -> None:
    """Even if the Sentinel still names it. A refused change closes the connection to it."""
    assert store.get("id") is not None
    execute(pair.master, "REPLICAOF", "127.0.0.1", str(pair.replica.port))  # a circular replication
    assert isinstance(attempt(lambda: store.put(Key("id", version=2), 1)), BackendUnavailable)
    fresh = RedisStore(pair.url(), deadline_s=DEADLINE_S)
    with closing(fresh):
        for found in (attempt(lambda: fresh.get("id")), on_loop(fresh, outcome(fresh.aget("id")))):
            assert isinstance(found, BackendUnavailable)
            assert "master" in str(found)


@pytest.mark.parametrize("kind", ["down", "silent", "knows-nothing"])
def test_sentinels_are_tried_in_turn(pair: WatchedPair, kind: str) -> None:
    """A Sentinel that does not respond costs a part of the time limit, once."""
    with socket.create_server(("127.0.0.1", 0)) as silent, Sentinel("others", pair.master.port) as other:
        port = {"down": find_port(), "silent": silent.getsockname()[1], "knows-nothing": other.port}[kind]
        url = f"redis+sentinel://127.0.0.1:{port},127.0.0.1:{pair.sentinel.port}/keys"
        for look_up in (
            lambda store: store.get("id"),
            lambda store: on_loop(store, store.aget("id")),
        ):
            with closing(RedisStore(url, deadline_s=DEADLINE_S)) as store:
                start = time.monotonic()
                assert look_up(store) is None
                assert time.monotonic() - start < DEADLINE_S
                store.close()
                start = time.monotonic()
                assert look_up(store) is None
                assert time.monotonic() - start < DEADLINE_S / 3


def test_threads_look_for_the_master_concurrently(pair: WatchedPair) -> None:
    """Each tries every Sentinel, even if the first is silent, and whatever the other threads find."""
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(6) as pool:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{pair.sentinel.port}"
        with closing(RedisStore(f"redis+sentinel://{hosts}/keys", deadline_s=DEADLINE_S)) as store:
            assert list(pool.map(store.get, map(str, range(6)))) == [None] * 6


def test_no_sentinel_knows_the_master() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, Sentinel("others", find_port()) as other:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{find_port()},127.0.0.1:{other.port}"
        with closing(RedisStore(f"redis+sentinel://:canary@{hosts}/keys", deadline_s=DEADLINE_S)) as store:
            start = time.monotonic()
            for found in (attempt(lambda: store.get("id")), on_loop(store, outcome(store.aget("id")))):
                assert isinstance(found, BackendUnavailable)
                assert "know no master" in str(found)
                assert "canary" not in repr(found)
            assert time.monotonic() - start < 2 * DEADLINE_S + SLACK_S


def test_passwords_of_both(pair: WatchedPair) -> None:
    """The passwords of Sentinels and master are sent only to their own servers, and appear in no error."""
    execute(pair.sentinel, "SENTINEL", "SET", "keys", "auth-pass", "master-canary,/@")
    for server in (pair.master, pair.replica):
        execute(server, "CONFIG", "SET", "masterauth", "master-canary,/@")
        execute(server, "CONFIG", "SET", "requirepass", "master-canary,/@")
    with Sentinel(
        "keys",
        pair.master.port,
        "requirepass sentinel-canary",
        'sentinel auth-pass keys "master-canary,/@"',
    ) as sentinel:
        where = f"127.0.0.1:{sentinel.port}/keys"
        master, own = "redis+sentinel://:master-canary%2C%2F%40@", "?sentinel_password=sentinel-canary"
        for url, works in (
            (f"{master}{where}{own}", True),
            (f"{master}{where}{own}&sentinel_username=default", True),
            (f"{master}{where}", False),
            (f"redis+sentinel://{where}{own}", False),
            (f"redis+sentinel://:wrong-canary@{where}{own}", False),
            (f"{master}{where}?sentinel_password=wrong-canary", False),
        ):
            with closing(RedisStore(url, deadline_s=5)) as store:
                for found in (attempt(lambda: store.get("id")), on_loop(store, outcome(store.aget("id")))):
                    assert (found is None) is works, (url, found)
                    assert "canary" not in f"{found!r} {store!r}"


def test_the_database_is_selected_on_the_master(pair: WatchedPair) -> None:
    """Sentinels have no databases."""
    url = f"redis+sentinel://127.0.0.1:{pair.sentinel.port}/keys/3"
    with closing(RedisStore(url, deadline_s=5)) as store:
        assert store.put(Key("id"), None)
        assert on_loop(store, store.aget("id")) is not None
    assert b"db3:keys=3" in execute(pair.master, "INFO", "KEYSPACE")


def test_warnings_describe_the_master(pair: WatchedPair, store: RedisStore) -> None:
    execute(pair.master, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    execute(pair.replica, "CONFIG", "SET", "save", "60 1")
    assert {code for code, _, _ in store.warnings()} == {"redis_not_persistent", "redis_evicts"}


def test_an_unreachable_master_is_reported_as_unreachable(store: RedisStore, pair: WatchedPair) -> None:
    pair.master.stop()
    assert "cannot be reached" in str(attempt(lambda: store.get("id")))


def test_one_server_needs_no_sentinel(own_redis_server: RedisServer) -> None:
    """A URL for Sentinels that names a server that is not a Sentinel."""
    with closing(
        RedisStore(f"redis+sentinel://127.0.0.1:{own_redis_server.port}/keys", deadline_s=5)
    ) as store:
        assert isinstance(attempt(lambda: store.get("id")), BackendUnavailable)
