"""Closing the Redis store: nothing stays open, and pending lookups fail with a clear error."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sys
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
import redis

from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.model import Key
from tests.redis_server import Dribbler, RedisServer, TlsFront, make_certificates
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE_S = 0.3
NAMES = [f"k{number}" for number in range(32)]


@pytest.fixture
def store(own_redis_server: RedisServer) -> Iterator[RedisStore]:
    with closing(RedisStore(own_redis_server.url(), deadline_s=DEADLINE_S)) as opened:
        assert opened.add([Key(name) for name in NAMES]) == [True] * len(NAMES)
        yield opened


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


# --- threads


def test_close_fails_pending_lookups_immediately() -> None:
    dribbler = Dribbler(b"$")
    store = RedisStore(f"redis://127.0.0.1:{dribbler.port}", deadline_s=5)

    def look_up() -> None:
        with pytest.raises(BackendUnavailable, match="the store is closed"):
            store.get("id")

    thread = threading.Thread(target=look_up)
    thread.start()
    assert dribbler.received.wait(10)  # a connection that is still being opened is not closed
    start = time.monotonic()
    store.close()
    assert time.monotonic() - start < 0.5
    thread.join(10)
    dribbler.close()
    assert not thread.is_alive()


@pytest.mark.parametrize("server", ["one", "cluster"])
def test_lookups_while_the_store_closes(request: pytest.FixtureRequest, server: str) -> None:
    """A lookup returns a key or raises an error that says that the store is closed. Closing never fails."""
    outcomes: list[Any] = []
    stop = threading.Event()
    url = request.getfixturevalue("redis_url" if server == "one" else "redis_cluster_url")

    def look_up() -> None:
        for name in itertools.cycle(NAMES):
            if stop.is_set():
                break
            try:
                outcomes.append(store.get(name))
            except Exception as exc:
                outcomes.append(exc)

    interval = sys.getswitchinterval()
    with closing(RedisStore(url, deadline_s=5)) as store:
        assert store.add([Key(name) for name in NAMES]) == [True] * len(NAMES)
        threads = [threading.Thread(target=look_up) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            sys.setswitchinterval(0.00001)  # so that threads meet in every place
            for _ in range(200):
                store.close()
                seen = len(outcomes)
                wait_until(lambda seen=seen: len(outcomes) > seen)  # lookups go on meanwhile
        finally:
            sys.setswitchinterval(interval)
            stop.set()
            for thread in threads:
                thread.join(10)
    errors = [outcome for outcome in outcomes if not isinstance(outcome, Key)]
    assert len(errors) < len(outcomes)
    assert {(type(error), str(error)) for error in errors} <= {(BackendUnavailable, "the store is closed")}


# --- event loops


def test_aclose_during_lookups_leaves_nothing_open(store: RedisStore, own_redis_server: RedisServer) -> None:
    """At every stage of a lookup. Pending lookups return a key or raise an error."""
    with redis.Redis(port=own_redis_server.port) as admin:
        before = len(admin.client_list())
        for turns in range(12):

            async def main(turns: int = turns) -> None:
                pending = [asyncio.ensure_future(store.aget(name)) for name in NAMES]
                for _ in range(turns):
                    await asyncio.sleep(0)
                await store.aclose()
                outcomes = await asyncio.wait_for(asyncio.gather(*pending, return_exceptions=True), 5)
                assert {type(outcome) for outcome in outcomes} <= {Key, BackendUnavailable}

            asyncio.run(main())
        wait_until(lambda: len(admin.client_list()) == before)


async def close(store: RedisStore, ending: str) -> None:
    task = asyncio.ensure_future(store.aclose()) if ending != "no aclose" else None
    if ending == "cancelled":
        await asyncio.sleep(0)
        assert task is not None
        task.cancel()
    if task is not None:
        with suppress(asyncio.CancelledError):
            await task


ENDINGS = ["aclose", "cancelled", "no aclose"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("pending", [0, 3])
def test_no_socket_stays_open(
    store: RedisStore, own_redis_server: RedisServer, ending: str, pending: int
) -> None:
    async def main() -> None:
        assert await store.aget("k0") is not None
        own_redis_server.freeze()
        tasks = [asyncio.ensure_future(store.aget(name)) for name in NAMES[:pending]]
        await asyncio.sleep(0.01)
        await close(store, ending)
        own_redis_server.thaw()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        if ending != "no aclose":
            assert [str(outcome) for outcome in outcomes] == ["the store is closed"] * pending

    before = open_files()
    asyncio.run(main())
    assert open_files() == before


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_socket_stays_open_when_a_tls_peer_stalls(
    own_redis_server: RedisServer, tmp_path: Path, ending: str
) -> None:
    """``aclose`` does not wait for the peer's part of the TLS shutdown."""
    context, authority = make_certificates(tmp_path)
    stall = threading.Event()
    with TlsFront(own_redis_server.port, context) as front:
        url = f"rediss://127.0.0.1:{front.port}?ssl_ca_certs={authority}"
        with closing(RedisStore(url, deadline_s=2)) as store:

            async def main() -> None:
                assert await store.aget("id") is None
                front._loop.call_soon_threadsafe(stall.wait, 20)
                start = time.monotonic()
                await close(store, ending)
                assert time.monotonic() - start < 0.5

            try:
                before = ours(front.port)
                asyncio.run(main())
                assert ours(front.port) == before == 0
            finally:
                stall.set()


def ours(port: int) -> int:
    """How many sockets of this process are connected to a port."""
    count = 0
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as copy:
            count += copy.getpeername()[1:2] == (port,)
    return count
