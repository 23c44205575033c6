"""Lookups on an event loop: commands are batched, and each lookup gets its own reply. With a real server."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import redis

from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.errors import BackendUnavailable, UnreadableRecord
from basicauth_mw.keys.model import Key

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from tests.redis_server import RedisServer

ROOT = Path(__file__).parents[3]
DEADLINE_S = 0.3
NAMES = [f"k{number}" for number in range(32)]


@pytest.fixture
def store(own_redis_server: RedisServer) -> Iterator[RedisStore]:
    with closing(RedisStore(own_redis_server.url(), deadline_s=DEADLINE_S)) as opened:
        assert opened.add([Key(name) for name in NAMES]) == [True] * len(NAMES)
        yield opened


def on_loop(store: RedisStore, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def all_of_it() -> Any:
        try:
            return await asyncio.wait_for(main(), 20)
        finally:
            await store.aclose()

    return asyncio.run(all_of_it())


class Counted:
    """The reads from connections and the GETs of the server since this object was created."""

    def __init__(self, admin: redis.Redis) -> None:
        self._admin = admin
        self._before = self._now()

    def reads_and_gets(self) -> tuple[int, int]:
        reads, gets = (now - before for now, before in zip(self._now(), self._before, strict=True))
        return reads - 2, gets  # two of the reads are this object's own

    def _now(self) -> tuple[int, int]:
        commands: Any = self._admin.info("commandstats")
        stats: Any = self._admin.info("stats")
        return stats["total_reads_processed"], commands.get("cmdstat_get", {}).get("calls", 0)


@pytest.fixture
def admin(own_redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=own_redis_server.port, single_connection_client=True) as client:
        yield client


# --- batches


def test_lookups_of_one_iteration_are_one_batch(store: RedisStore, admin: redis.Redis) -> None:
    async def main() -> None:
        await store.aget("k0")
        for _ in range(3):
            counted = Counted(admin)
            found = await asyncio.gather(*map(store.aget, NAMES))
            assert [key and key.client_id for key in found] == NAMES
            reads, gets = counted.reads_and_gets()
            assert gets == len(NAMES)
            assert reads <= 3

    on_loop(store, main)


def test_lookups_during_a_pending_reply_are_one_batch(
    store: RedisStore, own_redis_server: RedisServer, admin: redis.Redis
) -> None:
    async def main() -> None:
        await store.aget("k0")
        own_redis_server.freeze()
        first = asyncio.ensure_future(store.aget("k0"))
        await asyncio.sleep(0.01)
        later = [asyncio.ensure_future(store.aget(name)) for name in NAMES]
        await asyncio.sleep(0)
        own_redis_server.thaw()
        assert await first is not None
        counted = Counted(admin)
        assert None not in await asyncio.gather(*later)
        assert counted.reads_and_gets()[0] <= 3

    on_loop(store, main)


@pytest.mark.parametrize("gives_up", [(), (0,), (0, 1), (0, 1, 2, 3)], ids=["none", "one", "two", "all"])
def test_equal_lookups_of_one_iteration_are_sent_once(
    store: RedisStore, admin: redis.Redis, gives_up: tuple[int, ...]
) -> None:
    """Whichever callers are cancelled, the others get the reply."""

    async def main() -> None:
        await store.aget("k0")
        counted = Counted(admin)
        names = ("k0", "k0", "k0", "k0", "k1")
        tasks = [asyncio.ensure_future(store.aget(name)) for name in names]
        await asyncio.sleep(0)
        for number in gives_up:
            tasks[number].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert counted.reads_and_gets()[1] == 2
        for number, (key, name) in enumerate(zip(found, names, strict=True)):
            if number in gives_up:
                assert isinstance(key, asyncio.CancelledError)
            else:
                assert isinstance(key, Key)
                assert key.client_id == name

    on_loop(store, main)


def test_every_kind_of_reply_in_one_batch(store: RedisStore, own_redis_server: RedisServer) -> None:
    """An unknown ID, a damaged record and a value of another type give different results."""
    with redis.Redis(port=own_redis_server.port) as admin:
        admin.set(b"basicauth:1:{k1}", b"{}")
        admin.delete(b"basicauth:1:{k2}")
        admin.hset(b"basicauth:1:{k2}", "a", "b")

    async def main() -> None:
        for _ in range(3):
            outcomes = await asyncio.gather(
                *(store.aget(name) for name in ("k0", "k1", "k2", "unknown", "k3")), return_exceptions=True
            )
            kinds = [Key, UnreadableRecord, UnreadableRecord, type(None), Key]
            assert [type(outcome) for outcome in outcomes] == kinds

    on_loop(store, main)


CASES = (
    "redis and not cluster and "
    "(survives or scan or uses or changes or cancelled or damaged or wrong_type or dribbles)"
)


def test_without_hiredis() -> None:
    """redis-py uses hiredis if it is installed. The tests install it; the extra ``redis`` does not."""
    code = """
import sys
sys.modules["hiredis"] = None
import redis.utils, pytest
assert not redis.utils.HIREDIS_AVAILABLE
sys.exit(pytest.main(sys.argv[1:]))
"""
    files = (
        "tests/backends/test_stores.py",
        "tests/backends/redis/test_store.py",
    )  # at least one test of each kind of reply
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov", "-k", CASES)
    done = subprocess.run(
        [sys.executable, "-c", code, *options, *files], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout


# --- deadlines


def test_a_lookup_ends_with_its_deadline(store: RedisStore, own_redis_server: RedisServer) -> None:
    async def main() -> None:
        assert await store.aget("k0") is not None
        own_redis_server.freeze()
        start = time.monotonic()
        outcomes = await asyncio.gather(store.aget("k0"), store.aget("k1"), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BackendUnavailable] * 2
        assert DEADLINE_S * 0.9 < time.monotonic() - start < DEADLINE_S + 0.5
        own_redis_server.thaw()
        assert await store.aget("k0") is not None

    on_loop(store, main)


def test_a_server_that_thaws_in_time_replies(store: RedisStore, own_redis_server: RedisServer) -> None:
    """Lookups that started meanwhile get their replies, too."""

    async def main() -> None:
        assert await store.aget("k0") is not None
        own_redis_server.freeze()
        first = asyncio.ensure_future(store.aget("k0"))
        await asyncio.sleep(DEADLINE_S * 0.3)
        second = asyncio.ensure_future(store.aget("k1"))
        await asyncio.sleep(0)
        own_redis_server.thaw()
        assert [key and key.client_id for key in await asyncio.gather(first, second)] == ["k0", "k1"]

    on_loop(store, main)


# --- servers that misbehave


class Scripted:
    """Accepts connections one after another, and handles each by its own function.

    Args:
        acts: What to do with the first connection, the second, and so on; each gets a function that waits for
            a GET.
    """

    def __init__(self, *acts: Callable[[socket.socket, Callable[[], None]], None]) -> None:
        self._acts = acts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._thread.join(10)
        self._listener.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        for act in self._acts:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as lines:

                def await_get(lines: Any = lines, connection: socket.socket = connection) -> None:
                    while (line := lines.readline()) not in (b"GET\r\n", b""):
                        if line == b"CLIENT\r\n":
                            connection.sendall(b"+OK\r\n")
                    lines.readline()
                    lines.readline()

                act(connection, await_get)


def nil(connection: socket.socket, await_get: Callable[[], None]) -> None:
    await_get()
    connection.sendall(b"$-1\r\n")
    connection.recv(100)


@pytest.mark.proves("X50", "F11")
@pytest.mark.parametrize("extra", [b"$-1\r\n", b"$-1", b"+", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
@pytest.mark.parametrize("together", [True, False])
def test_an_unsolicited_reply_is_never_used(extra: bytes, *, together: bool) -> None:
    """The connection is closed, and the next lookup gets its own reply."""
    sent = threading.Event()

    def act(connection: socket.socket, await_get: Callable[[], None]) -> None:
        await_get()
        connection.sendall(b"$-1\r\n" + (extra if together else b""))
        if not together:
            time.sleep(0.05)
            connection.sendall(extra)
        sent.set()
        connection.recv(100)

    def wrong_type(connection: socket.socket, await_get: Callable[[], None]) -> None:
        await_get()
        connection.sendall(b"-WRONGTYPE no\r\n")
        connection.recv(100)

    with Scripted(act, wrong_type) as server, closing(RedisStore(server.url, deadline_s=5)) as store:

        async def main() -> None:
            assert await store.aget("a") is None
            while not sent.is_set():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            with pytest.raises(UnreadableRecord):
                await store.aget("b")

        on_loop(store, main)


def test_lookups_while_a_connection_fails_get_another() -> None:
    go_on = threading.Event()

    def hang_up(connection: socket.socket, _await_get: Callable[[], None]) -> None:
        connection.recv(1000)
        go_on.wait(10)

    def reply(connection: socket.socket, await_get: Callable[[], None]) -> None:
        for _ in range(2):
            await_get()
            connection.sendall(b"$-1\r\n")
        connection.recv(100)

    with (
        Scripted(hang_up, reply) as server,
        closing(RedisStore(f"{server.url}?client_name=me", deadline_s=5)) as store,
    ):

        async def main() -> None:
            first = asyncio.ensure_future(store.aget("a"))
            await asyncio.sleep(0.05)
            second = asyncio.ensure_future(store.aget("b"))
            await asyncio.sleep(0.05)
            go_on.set()
            assert await asyncio.gather(first, second) == [None, None]

        on_loop(store, main)


@pytest.mark.parametrize("says", [b"-ERR no\r\n", b"+PONG\r\n"])
def test_a_refused_handshake(says: bytes) -> None:
    def act(connection: socket.socket, _await_get: Callable[[], None]) -> None:
        connection.recv(1000)
        connection.sendall(says)
        connection.recv(1000)

    with Scripted(act, act) as server, closing(RedisStore(f"{server.url}/3", deadline_s=5)) as store:

        async def main() -> None:
            with pytest.raises(BackendUnavailable):
                await store.aget("a")

        on_loop(store, main)


def test_the_handshake_uses_every_option_of_the_url(own_redis_server: RedisServer) -> None:
    """Its password, database and client name."""
    with redis.Redis(port=own_redis_server.port, db=3) as admin:
        admin.config_set("requirepass", "pass")
        admin.auth("pass")
        url = f"redis://:pass@127.0.0.1:{own_redis_server.port}/3?client_name=me"
        with closing(RedisStore(url, deadline_s=5)) as store:

            async def main() -> None:
                assert await store.aget("a") is None
                assert ("me", "3") in {(client["name"], client["db"]) for client in admin.client_list()}

            on_loop(store, main)


@pytest.mark.proves("F3")
def test_keepalive_detects_a_connection_that_a_firewall_dropped(
    store: RedisStore, own_redis_server: RedisServer
) -> None:
    """Keepalive is set explicitly, since its default depends on the version of redis-py."""

    async def main() -> None:
        await store.aget("k0")
        connected = [
            each
            for each in gc.get_objects()
            if issubclass(type(each), socket.socket)
            and each.fileno() >= 0
            and _peer(each) == own_redis_server.port
        ]
        assert len(connected) >= 2  # of this thread and of the event loop
        for each in connected:
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert each.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30

    on_loop(store, main)


def _peer(connected: socket.socket) -> int:
    try:
        return int(connected.getpeername()[1])
    except (OSError, IndexError):
        return 0


# --- broken connections


@pytest.mark.proves("X50", "F11")
@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_lookup_leaves_no_reply_to_the_next(
    store: RedisStore, own_redis_server: RedisServer, kind: type[BaseException]
) -> None:
    def interrupt(*_args: object) -> None:
        raise kind

    assert store.get("k0") is not None
    before = signal.signal(signal.SIGALRM, interrupt)
    own_redis_server.freeze()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises((kind, BackendUnavailable)):
            store.get("k1")
    finally:
        signal.signal(signal.SIGALRM, before)
        own_redis_server.thaw()
    assert store.get("unknown") is None
    assert store.get("k2") is not None
