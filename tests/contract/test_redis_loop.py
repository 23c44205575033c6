"""How an event loop asks Redis: what goes out when, and which reply is whose, with a real server."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Self

import pytest
import redis

from basicauth_mw.backends import _redis_wire
from basicauth_mw.backends.redis import RedisStore
from basicauth_mw.errors import BackendUnavailable, UnreadableRecord
from basicauth_mw.model import Key

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from basicauth_mw.backends._redis_loop import LoopLine
    from tests.redis_server import RedisServer

DEADLINE_S = 0.3
NAMES = [f"k{number}" for number in range(32)]


@pytest.fixture
def store(own_redis_server: RedisServer) -> Iterator[RedisStore]:
    with closing(RedisStore(own_redis_server.url(), deadline_s=DEADLINE_S)) as opened:
        assert opened.add([Key(name) for name in NAMES]) == [True] * len(NAMES)
        yield opened


def line(store: RedisStore) -> LoopLine:
    """The only one of the running event loop."""
    (found,) = store._loop()._lines.values()
    return found


def on_loop(store: RedisStore, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def all_of_it() -> Any:
        try:
            return await asyncio.wait_for(main(), 20)
        finally:
            await store.aclose()

    return asyncio.run(all_of_it())


@contextmanager
def writes(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What is written meanwhile."""
    written: list[bytes] = []
    pipe: Any = line(store)._pipe
    transport = pipe._transport

    class Watched:
        abort = transport.abort

        def write(self, octets: bytes) -> None:
            written.append(octets)
            transport.write(octets)

    monkeypatch.setattr(pipe, "_transport", Watched())
    yield written
    monkeypatch.undo()


# --- what goes out when


def test_one_alone_is_asked_at_once(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the look-up suspends for the first time, and without a task."""

    async def main() -> None:
        await store.aget("k0")
        tasks = asyncio.all_tasks()
        with writes(store, monkeypatch) as written:
            look_up = store.aget("k1")
            waited_for: Any = look_up.send(None)
            assert len(written) == 1
            assert asyncio.all_tasks() == tasks
            while not waited_for.done():
                await asyncio.sleep(0)
            with pytest.raises(StopIteration) as done:
                look_up.send(None)
            assert done.value.value == Key("k1", created_at=done.value.value.created_at)

    on_loop(store, main)


def test_those_of_one_turn_are_asked_in_one_go(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the first, as long as nothing says that it is not alone; and later one alone is so again."""

    async def main() -> None:
        await store.aget("k0")
        with writes(store, monkeypatch) as written:
            for expected in ([1, 31], [32], [32]):
                found = await asyncio.gather(*map(store.aget, NAMES))
                assert [key and key.client_id for key in found] == NAMES
                assert [octets.count(b"GET") for octets in written] == expected
                written.clear()
            for _ in range(3):
                await store.aget("k0")
            assert not line(store)._in_company

    on_loop(store, main)


def test_equal_questions_of_one_turn_are_one(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever of those who ask gives up."""

    async def main() -> None:
        await asyncio.gather(*map(store.aget, NAMES))
        for gives_up in ([], [0], [0, 1], range(4)):
            with writes(store, monkeypatch) as written:
                tasks = [asyncio.ensure_future(store.aget(name)) for name in ("k0", "k0", "k0", "k0", "k1")]
                await asyncio.sleep(0)
                await asyncio.sleep(0)  # it is on its way
                for number in gives_up:
                    tasks[number].cancel()
                found = await asyncio.gather(*tasks, return_exceptions=True)
                assert [octets.count(b"GET") for octets in written] == [2]
            for number, (key, name) in enumerate(zip(found, ("k0", "k0", "k0", "k0", "k1"), strict=True)):
                if number in gives_up:
                    assert isinstance(key, asyncio.CancelledError)
                else:
                    assert isinstance(key, Key)
                    assert key.client_id == name

    on_loop(store, main)


def test_who_gave_up_in_time_is_not_asked_for(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        await asyncio.gather(*map(store.aget, NAMES))
        with writes(store, monkeypatch) as written:
            task = asyncio.ensure_future(store.aget("k0"))
            asyncio.get_running_loop().call_soon(task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0)
            assert written == []

    on_loop(store, main)


@pytest.mark.parametrize("fast", [True, False], ids=["hiredis", "ours"])
def test_every_kind_of_answer_in_one_go(
    store: RedisStore, own_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, *, fast: bool
) -> None:
    """An id that is unknown, one that is damaged, and one of another type are each told as such."""
    if not fast:
        monkeypatch.setattr(_redis_wire, "_hiredis", None)
    with redis.Redis(port=own_redis_server.port) as admin:
        admin.set(b"basicauth:1:{k1}", b"{}")
        admin.delete(b"basicauth:1:{k2}")
        admin.hset(b"basicauth:1:{k2}", "a", "b")

    async def main() -> None:
        for _ in range(3):
            outcomes = await asyncio.gather(
                *(store.aget(name) for name in ("k0", "k1", "k2", "nobody", "k3")), return_exceptions=True
            )
            kinds = [Key, UnreadableRecord, UnreadableRecord, type(None), Key]
            assert [type(outcome) for outcome in outcomes] == kinds

    on_loop(store, main)


# --- how long


def test_each_has_a_time_limit_of_its_own(store: RedisStore, own_redis_server: RedisServer) -> None:
    """Who asked later is asked for again, where who asked first has waited too long."""

    async def main() -> None:
        assert await store.aget("k0") is not None
        own_redis_server.freeze()
        first = asyncio.ensure_future(store.aget("k0"))
        await asyncio.sleep(DEADLINE_S * 0.7)
        second = asyncio.ensure_future(store.aget("k1"))
        with pytest.raises(BackendUnavailable, match="in time"):
            await first
        assert not second.done()
        own_redis_server.thaw()
        found = await second
        assert found is not None
        assert found.client_id == "k1"
        own_redis_server.freeze()
        start = time.monotonic()
        outcomes = await asyncio.gather(store.aget("k0"), store.aget("k1"), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BackendUnavailable] * 2
        assert DEADLINE_S * 0.9 < time.monotonic() - start < DEADLINE_S + 0.5
        own_redis_server.thaw()

    on_loop(store, main)


def test_the_timer_is_still_when_nobody_asks(store: RedisStore) -> None:
    async def main() -> None:
        await store.aget("k0")
        await asyncio.sleep(DEADLINE_S / 2)
        await store.aget("k0")
        assert line(store)._timer is not None
        await asyncio.sleep(DEADLINE_S * 2)
        assert line(store)._timer is None
        assert await store.aget("k0") is not None

    on_loop(store, main)


# --- a server that does something else


class Scripted:
    """Accepts connections one after another, and does with each what it is told.

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

                def await_get(lines: Any = lines) -> None:
                    while lines.readline() not in (b"GET\r\n", b""):
                        pass
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
def test_what_nobody_asked_for_is_nobodys_answer(extra: bytes, *, together: bool) -> None:
    """The connection is given up, and the next look-up has the reply to its own question."""
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


def test_who_asks_while_a_connection_fails_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed was made for those who had asked before."""
    go_on = threading.Event()

    def hang_up(connection: socket.socket, _await_get: Callable[[], None]) -> None:
        connection.recv(1000)
        go_on.wait(10)

    def answer(connection: socket.socket, await_get: Callable[[], None]) -> None:
        connection.recv(1000)
        connection.sendall(b"+OK\r\n")
        nil(connection, await_get)

    with (
        Scripted(hang_up, answer) as server,
        closing(RedisStore(f"{server.url}?client_name=me", deadline_s=5)) as store,
    ):

        async def main() -> None:
            first = asyncio.ensure_future(store.aget("a"))
            await asyncio.sleep(0.05)
            second = asyncio.ensure_future(store.aget("b"))
            await asyncio.sleep(0.05)
            go_on.set()
            with pytest.raises(BackendUnavailable):
                await first
            assert await second is None

        on_loop(store, main)


@pytest.mark.parametrize("says", [b"-ERR no\r\n", b"+PONG\r\n"])
def test_a_greeting_that_is_not_returned(says: bytes) -> None:
    def act(connection: socket.socket, _await_get: Callable[[], None]) -> None:
        connection.recv(1000)
        connection.sendall(says)
        connection.recv(1000)

    with Scripted(act) as server, closing(RedisStore(f"{server.url}/3", deadline_s=5)) as store:

        async def main() -> None:
            with pytest.raises(BackendUnavailable):
                await store.aget("a")

        on_loop(store, main)


def test_a_greeting(own_redis_server: RedisServer) -> None:
    """All that a URL says of a connection."""
    with redis.Redis(port=own_redis_server.port, db=3) as admin:
        admin.config_set("requirepass", "pass")
        admin.auth("pass")
        url = f"redis://:pass@127.0.0.1:{own_redis_server.port}/3?client_name=me"
        with closing(RedisStore(url, deadline_s=5)) as store:

            async def main() -> None:
                assert await store.aget("a") is None
                assert ("me", "3") in {(client["name"], client["db"]) for client in admin.client_list()}

            on_loop(store, main)


def test_a_connection_that_is_lost_as_it_is_made(store: RedisStore) -> None:
    """Serves nobody; the next one does."""

    async def main() -> None:
        await store.aget("k0")
        mine: Any = line(store)
        pipe = mine._pipe
        pipe.lose(ConnectionError())
        open_one, mine._open = mine._open, lambda: asyncio.sleep(0, pipe)
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            await store.aget("k0")
        mine._open = open_one
        assert await store.aget("k0") is not None

    on_loop(store, main)


@pytest.mark.proves("F3")
@pytest.mark.parametrize("keeps", [True, False])
def test_a_silent_end_is_noticed_where_the_driver_would(store: RedisStore, *, keeps: bool) -> None:
    """An option that the system does not have is left out."""

    def connect(**options: Any) -> Any:
        connection = store._aconnect(**options)
        connection.socket_keepalive = keeps
        connection.socket_keepalive_options = {socket.TCP_KEEPIDLE: 7, 9999: 1}
        return connection

    async def main() -> None:
        store._loop()._connect = connect
        await store.aget("k0")
        pipe: Any = line(store)._pipe
        connected = pipe._transport.get_extra_info("socket")
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == keeps
        assert (connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7) is keeps

    on_loop(store, main)


# --- what is broken off


@pytest.mark.proves("X50", "F11")
@pytest.mark.parametrize("where", ["write", "gets"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_under_way_crosses_no_answers(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, where: str, kind: type[BaseException]
) -> None:
    """Which reply is whose cannot be told any more, so the connection is given up."""
    raised: list[BaseException] = []

    def hurt(*_args: object) -> None:
        raised.append(kind())
        raise raised[0]

    async def main() -> None:
        await store.aget("k0")
        pipe: Any = line(store)._pipe
        hurts = monkeypatch.context()
        with hurts as patch:
            if where == "write":
                patch.setattr(pipe, "_transport", _Hurt(pipe._transport, hurt))
                with pytest.raises((kind, BackendUnavailable)):
                    await store.aget("k1")
            else:
                pipe.unanswered.append((asyncio.get_running_loop().create_future(), b"", 0.0, False, False))
                patch.setattr(pipe, "_reader", _Hurt(pipe._reader, hurt))
                if kind is KeyboardInterrupt:
                    with pytest.raises(kind):
                        pipe.data_received(b"")
                else:
                    pipe.data_received(b"")
        assert raised
        assert not pipe.is_open
        found = await store.aget("k2")
        assert found is not None
        assert found.client_id == "k2"

    on_loop(store, main)


class _Hurt:
    """Something of which ``write`` and ``gets`` are broken."""

    def __init__(self, wrapped: Any, hurt: Callable[..., None]) -> None:
        self._wrapped = wrapped
        self.write = self.gets = hurt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


def test_closing_under_way_leaves_nothing_open(store: RedisStore, own_redis_server: RedisServer) -> None:
    """At whatever moment; who waits is told, and nobody can ask by what is closed."""
    with redis.Redis(port=own_redis_server.port) as admin:
        before = len(admin.client_list())
        for turns in range(12):

            async def main(turns: int = turns) -> None:
                lines = store._loop()
                asked = [asyncio.ensure_future(store.aget(name)) for name in NAMES]
                for _ in range(turns):
                    await asyncio.sleep(0)
                await store.aclose()
                outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
                assert {type(outcome) for outcome in outcomes} <= {Key, BackendUnavailable}
                with pytest.raises(BackendUnavailable):
                    await lines.get(b"x")
                with pytest.raises(BackendUnavailable):
                    await lines.ask([("PING",)])

            on_loop(store, main)
        end = time.monotonic() + 5
        while len(admin.client_list()) > before and time.monotonic() < end:
            time.sleep(0.01)
        assert len(admin.client_list()) == before
