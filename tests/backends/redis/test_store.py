"""The Redis store with a real server: faults of the server and of connections."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import redis

from basicauth_mw.backends import dump_key
from basicauth_mw.backends.redis import checks
from basicauth_mw.backends.redis.cluster import Node
from basicauth_mw.backends.redis.scripts import CHANGES_KEPT
from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.errors import BackendUnavailable, UnreadableRecord
from basicauth_mw.keys.model import Key
from tests.redis_server import Dribbler, RedisCluster, RedisServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE_S = 0.3


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    opened = RedisStore(redis_url, deadline_s=DEADLINE_S)
    assert opened.put(Key("id", name="name"), None)
    yield opened
    opened.close()


@pytest.fixture
def own(own_redis_server: RedisServer) -> Iterator[RedisStore]:
    """A store on a server that the test may break."""
    opened = RedisStore(own_redis_server.url(), deadline_s=DEADLINE_S)
    assert opened.put(Key("id", name="name"), None)
    yield opened
    opened.close()


@pytest.fixture
def admin(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=redis_server.port) as client:
        yield client


def name_in(store: RedisStore, suffix: str) -> bytes:
    return store._names.prefix + suffix.encode()


def run(store: RedisStore, *steps: Callable[[], Any]) -> list[Any]:
    """The outcomes of lookups on one event loop, errors included."""

    async def all_steps() -> list[Any]:
        outcomes: list[Any] = []
        try:
            for step in steps:
                try:
                    outcome = step()
                    outcomes.append(await outcome if asyncio.iscoroutine(outcome) else outcome)
                except BackendUnavailable as exc:
                    outcomes.append(exc)
        finally:
            await store.aclose()
        return outcomes

    return asyncio.run(all_steps())


def kill_connections(port: int) -> None:
    with redis.Redis(port=port) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


# --- stored data


def test_the_names_of_the_keys(store: RedisStore, admin: redis.Redis) -> None:
    """As documented; no ID collides with the names of the store."""
    for client_id in ("index", "changes", "state", "}", "{"):
        assert store.put(Key(client_id), None)
    prefix = store._names.prefix.decode()
    names = {name.decode().removeprefix(prefix) for name in admin.scan_iter(f"{prefix}*")}
    assert names == {"index", "changes", "{id}", "{index}", "{changes}", "{state}", "{}}", "{{}"}


def test_index_members_that_are_not_client_ids_are_omitted(
    store: RedisStore, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In listings. ``check`` reports them with a command that removes them."""
    for number in range(4):
        assert store.put(Key(f"k{number}"), None)
    assert "redis_foreign_ids" not in {code for code, _, _ in store.warnings()}
    foreign = (b"\xff", b"k0\xff", b"k1\xfe", b'k" \\\n\xc3', b"")
    for data in foreign:
        admin.zadd(name_in(store, "index"), {data: 0})
    assert [key.client_id for key in store.scan("", "", 10)] == ["id", "k0", "k1", "k2", "k3"]
    assert [key.client_id for key in store.scan("k", "", 2)] == ["k0", "k1"]
    assert [key.client_id for key in store.scan("k", "k1", 2)] == ["k2", "k3"]
    assert store.scan("k3", "k3", 9) == []
    monkeypatch.setattr(checks, "_PAGE", 3)
    ((message, remedy),) = [warning for code, *warning in store.warnings() if code == "redis_foreign_ids"]
    assert message.startswith("4 members ")
    index, *members = split_args(remedy.rpartition("ZREM ")[2])
    assert sorted(members) == sorted(foreign[:-1])
    assert admin.zrem(index, *members) == 4
    assert "redis_foreign_ids" not in {code for code, _, _ in store.warnings()}
    admin.delete(name_in(store, "index"))
    admin.set(name_in(store, "index"), "of another type")
    assert "redis_foreign_ids" not in {code for code, _, _ in store.warnings()}


def split_args(line: str) -> list[bytes]:
    """Split like redis-cli (``sdssplitargs``), for words in double quotes or without quotes."""
    words = re.findall(r'"((?:[^"\\]|\\x[0-9a-f]{2})*)"|(\S+)', line)
    return [
        re.sub(
            rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), (quoted or plain).encode()
        )
        for quoted, plain in words
    ]


@pytest.mark.proves("F12")
def test_a_value_of_another_type_is_an_outage(store: RedisStore, admin: redis.Redis) -> None:
    admin.set(name_in(store, "state"), "x")
    assert store.changes(None).has_password_hashes is None
    with pytest.raises(UnreadableRecord):
        store.warnings()


def test_invalid_last_used_times(store: RedisStore, admin: redis.Redis) -> None:
    """They are omitted. The key can be changed and deleted, and the other last-used times are read."""
    used = name_in(store, "{id}:used")
    for field, value in (("x", "1"), ("1", "x"), ("9" * 30, "1"), ("1", "9" * 30)):
        admin.delete(used)
        admin.hset(used, field, value)
        assert store.last_uses(["id"]) == []
        admin.hset(used, "60000000", "2")
        assert [use.at.minute for use in store.last_uses(["id"])] == [2]
        stored = store.get("id")
        assert stored is not None
        assert store.put(replace(stored, version=stored.version + 1), stored.version)
    admin.delete(used)
    admin.set(used, "of another type")
    assert store.last_uses(["id"]) == []
    assert store.delete("id")
    assert not admin.exists(used)


def test_lookups_do_not_share_metadata(store: RedisStore) -> None:
    assert store.put(Key("meta", metadata={"a": 1}), None)
    found: Any = store.get("meta")
    found.metadata["a"] = 2
    again = store.get("meta")
    assert again is not None
    assert again.metadata == {"a": 1}


def test_prefixes_are_separate(redis_server: RedisServer, redis_url: str, store: RedisStore) -> None:
    with closing(RedisStore(f"{redis_url}-other", deadline_s=5)) as other:
        assert other.get("id") is None
        assert other.scan("", "", 10) == []
        assert other.changes(None).cursor == "0-0"


NO_TEXT = dump_key(Key("id", name="?")).encode().replace(b"?", b"\xed\xa0\x80")  # half a character of UTF-16


@pytest.mark.proves("F12")
@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff", b"null", b"[]", b'{"v":2}', NO_TEXT], ids=range(7))
def test_a_damaged_record_is_not_an_unknown_id(store: RedisStore, admin: redis.Redis, junk: bytes) -> None:
    assert store.put(Key("good"), None)
    admin.set(name_in(store, "{id}"), junk)
    outcomes = run(store, lambda: store.get("id"), lambda: store.aget("id"), lambda: store.aget("good"))
    assert [type(outcome) for outcome in outcomes] == [UnreadableRecord, UnreadableRecord, Key]


@pytest.mark.proves("F12")
def test_the_wrong_type_is_not_an_unknown_id(store: RedisStore, admin: redis.Redis) -> None:
    assert store.put(Key("good"), None)
    admin.delete(name_in(store, "{id}"))
    admin.hset(name_in(store, "{id}"), "a", "b")
    outcomes = run(store, lambda: store.get("id"), lambda: store.aget("id"), lambda: store.aget("good"))
    assert [type(outcome) for outcome in outcomes] == [UnreadableRecord, UnreadableRecord, Key]
    with pytest.raises(BackendUnavailable):
        store.put(Key("id"), None)


@pytest.mark.proves("X50", "F12")
def test_a_record_of_another_id_is_rejected(store: RedisStore, admin: Any) -> None:
    admin.execute_command("COPY", name_in(store, "{id}"), name_in(store, "{other}"))
    with pytest.raises(UnreadableRecord):
        store.get("other")


def test_trimmed_changes_are_a_gap(store: RedisStore, admin: redis.Redis) -> None:
    cursor = store.changes(None).cursor
    assert store.put(Key("a"), None)
    admin.xtrim(name_in(store, "changes"), maxlen=1, approximate=False)
    seen = store.changes(cursor)
    assert seen.incomplete
    assert store.changes(seen.cursor).client_ids == ()


def test_the_stream_is_bounded(store: RedisStore, admin: redis.Redis) -> None:
    pipe = admin.pipeline(transaction=False)
    for _ in range(CHANGES_KEPT + 500):
        pipe.xadd(name_in(store, "changes"), {"id": "x"})
    pipe.execute()
    assert store.put(Key("a"), None)
    assert admin.xlen(name_in(store, "changes")) <= CHANGES_KEPT + 200


def test_a_flushed_server_is_a_gap(own: RedisStore, own_redis_server: RedisServer) -> None:
    cursor = own.changes(None).cursor
    own_redis_server.stop()
    own_redis_server.start()
    seen = own.changes(cursor)
    assert seen.incomplete
    assert not own.changes(seen.cursor).incomplete
    assert own.put(Key("new"), None)
    assert own.changes(cursor).incomplete
    assert own.changes(seen.cursor).client_ids == ("new",)


def test_the_index_may_list_missing_keys(store: RedisStore, admin: redis.Redis) -> None:
    for number in range(6):
        assert store.put(Key(f"k{number}"), None)
    for number in (0, 1, 3):
        admin.delete(name_in(store, f"{{k{number}}}"))
    assert [key.client_id for key in store.scan("k", "", 2)] == ["k2", "k4"]
    assert [key.client_id for key in store.scan("k", "k4", 2)] == ["k5"]


# --- a server that is down, silent, or refuses


def both(store: RedisStore) -> list[Any]:
    return run(store, lambda: store.get("id"), lambda: store.aget("id"))


@pytest.mark.proves("F1")
def test_stopped_and_started(own: RedisStore, own_redis_server: RedisServer) -> None:
    """The outage and its end are noticed at once."""
    own_redis_server.stop()
    start = time.monotonic()
    assert [type(outcome) for outcome in both(own)] == [BackendUnavailable] * 2
    with pytest.raises(BackendUnavailable):
        own.put(Key("x"), None)
    assert time.monotonic() - start < 2 * DEADLINE_S
    own_redis_server.start()
    assert both(own) == [None, None]


@pytest.mark.proves("F2")
def test_frozen_and_thawed(own: RedisStore, own_redis_server: RedisServer) -> None:
    async def steps() -> None:
        assert await own.aget("id") is not None
        own_redis_server.freeze()
        for _ in range(2):  # on an open connection, and on a new one
            start = time.monotonic()
            outcomes = await asyncio.gather(*(own.aget("id") for _ in range(20)), return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {BackendUnavailable}
            assert DEADLINE_S * 0.9 < time.monotonic() - start < DEADLINE_S + 0.5
        start = time.monotonic()
        with pytest.raises(BackendUnavailable):
            own.get("id")
        assert time.monotonic() - start < DEADLINE_S + 0.5
        own_redis_server.thaw()
        found = await own.aget("id")
        assert found == own.get("id") is not None
        await own.aclose()

    asyncio.run(steps())


@pytest.mark.proves("F8")
def test_the_password_is_in_no_error(own_redis_server: RedisServer) -> None:
    with redis.Redis(port=own_redis_server.port) as admin:
        admin.config_set("requirepass", "right-canary")
    for login in ("", ":wrong-canary@", "unknown:wrong-canary@"):
        url = f"redis://{login}127.0.0.1:{own_redis_server.port}"
        with closing(RedisStore(url, deadline_s=5)) as store:
            for outcome in (*both(store), store):
                assert "canary" not in f"{outcome} {outcome!r}"
            assert [type(outcome) for outcome in both(store)] == [BackendUnavailable] * 2
            assert "password" in str(both(store)[0])
    url = f"redis://:right-canary@127.0.0.1:{own_redis_server.port}"
    with closing(RedisStore(url, deadline_s=5)) as store:
        assert both(store) == [None, None]


@pytest.mark.proves("F8")
def test_a_read_only_user(own: RedisStore, own_redis_server: RedisServer) -> None:
    """A lookup needs only GET, and nothing needs CONFIG."""
    with redis.Redis(port=own_redis_server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~basicauth:1:*", "+@read", "+select")
    with closing(RedisStore(f"redis://reader:pw@127.0.0.1:{own_redis_server.port}", deadline_s=5)) as store:
        assert both(store) == [own.get("id")] * 2
        assert store.changes(None) == own.changes(None)
        assert store.changes(None).has_password_hashes is False
        assert store.warnings() == []
        with pytest.raises(BackendUnavailable):
            store.put(Key("x"), None)
        with pytest.raises(BackendUnavailable):
            store.delete("id")
    assert own.get("id") is not None


@pytest.mark.proves("F4", "F5")
def test_a_replica_refuses_changes(
    own: RedisStore, own_redis_server: RedisServer, redis_server: RedisServer
) -> None:
    with redis.Redis(port=own_redis_server.port) as admin:
        admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(BackendUnavailable, match=r"READONLY|ReadOnly"):
            own.put(Key("x"), None)
        assert own.get("id") is not None
        admin.config_set("replica-serve-stale-data", "no")
        assert [type(outcome) for outcome in both(own)] == [BackendUnavailable] * 2


@pytest.mark.proves("F7")
def test_a_full_server_refuses_changes(own: RedisStore, own_redis_server: RedisServer) -> None:
    with redis.Redis(port=own_redis_server.port) as admin:
        admin.config_set("maxmemory", 1)
        with pytest.raises(BackendUnavailable, match=r"OOM|OutOfMemory"):
            own.put(Key("x"), None)
        assert own.get("id") is not None


@pytest.mark.proves("F6")
def test_a_cluster_node_is_an_outage() -> None:
    with (
        RedisServer("--cluster-enabled", "yes") as server,
        closing(RedisStore(f"redis://127.0.0.1:{server.port}", deadline_s=5)) as store,
    ):
        assert [type(outcome) for outcome in both(store)] == [BackendUnavailable] * 2


@pytest.mark.proves("F6")
def test_a_node_of_a_working_cluster_is_an_outage(redis_cluster: RedisCluster) -> None:
    """For a key on another node; the error says what to do."""
    (node, *_) = redis_cluster.nodes
    elsewhere = next(
        name
        for name in (f"k{number}" for number in range(99))
        if redis_cluster.node_of(b"basicauth:1:{%b}" % name.encode()) is not node
    )
    with closing(RedisStore(f"redis://127.0.0.1:{node.port}", deadline_s=5)) as store:
        for outcome in run(store, lambda: store.get(elsewhere), lambda: store.aget(elsewhere)):
            assert isinstance(outcome, BackendUnavailable)
            assert "redis+cluster://" in str(outcome)


@pytest.mark.proves("F3")
@pytest.mark.parametrize(
    "sends", [b"\x00", b"+", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$-2\r\n", b"*1\r\n", b":1\r\n"]
)
def test_a_server_that_does_not_speak_redis(sends: bytes) -> None:
    """Lookups never return a result, and on an event loop never exceed the deadline."""
    dribbler = Dribbler(sends)
    store = RedisStore(f"redis://127.0.0.1:{dribbler.port}", deadline_s=DEADLINE_S)
    start = time.monotonic()
    (outcome,) = run(store, lambda: store.aget("id"))
    assert isinstance(outcome, BackendUnavailable)
    assert time.monotonic() - start < DEADLINE_S + 0.5
    store.close()
    dribbler.close()


@pytest.mark.proves("F7")
def test_warnings(own: RedisStore, own_redis_server: RedisServer) -> None:
    assert [code for code, _, _ in own.warnings()] == ["redis_not_persistent"]
    with redis.Redis(port=own_redis_server.port) as admin:
        admin.config_set("maxmemory-policy", "allkeys-lru")
        admin.config_set("save", "60 1")
    assert [code for code, _, _ in own.warnings()] == ["redis_evicts"]
    own_redis_server.stop()
    with pytest.raises(BackendUnavailable):
        own.warnings()


# --- connections


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with (
        RedisServer("--unixsocket", str(path)),
        closing(RedisStore(f"unix://{path}?prefix=x", deadline_s=5)) as store,
    ):
        assert store.put(Key("id"), None)
        assert run(store, lambda: store.aget("id"), lambda: store.get("id")) == [store.get("id")] * 2


@pytest.mark.proves("X51", "F1")
def test_a_connection_that_the_server_closed(own: RedisStore, own_redis_server: RedisServer) -> None:
    """No lookup fails, however many connections were closed."""

    async def steps() -> None:
        hurts: list[Callable[[], None]] = [
            partial(kill_connections, own_redis_server.port),
            own_redis_server.restart,
        ]
        for hurt in hurts:
            await asyncio.gather(*(own.aget(f"id{number}") for number in range(500)))
            own.get("id")
            hurt()
            assert await asyncio.gather(*(own.aget(f"id{number}") for number in range(500))) == [None] * 500
            own.get("id")
            hurt()
            await asyncio.sleep(0)
            own.get("id")
            assert await own.aget("unknown") is None
            hurt()
            assert own.put(Key("new"), None)
        await own.aclose()

    asyncio.run(steps())


@pytest.mark.proves("F9")
def test_a_loop_has_few_connections(store: RedisStore, admin: redis.Redis) -> None:
    async def steps() -> list[Any]:
        before = len(admin.client_list())
        found = await asyncio.gather(*(store.aget("id") for _ in range(300)))
        await asyncio.gather(*(store.aget("id") for _ in range(300)))
        assert len(admin.client_list()) - before <= 4
        await store.aclose()
        return found

    assert asyncio.run(asyncio.wait_for(steps(), 10)) == [store.get("id")] * 300


@pytest.mark.proves("A11", "X50", "F11")
def test_cancelled_lookups_never_mix_replies(store: RedisStore) -> None:
    """A cancelled lookup never leaves its reply for another lookup."""
    names = [f"k{number}" for number in range(20)]
    for name in names[::2]:
        assert store.put(Key(name), None)

    async def one(name: str, iterations: int) -> bool:
        task = asyncio.ensure_future(store.aget(name))
        for _ in range(iterations):
            await asyncio.sleep(0)
        if iterations < 12:
            task.cancel()
        try:
            found = await task
        except asyncio.CancelledError:
            return False
        assert (found.client_id if found else None) == (name if name in names[::2] else None)
        return True

    async def steps() -> int:
        answered = 0
        for number in range(600):
            answered += sum(
                await asyncio.gather(
                    *(one(names[(number + k) % 20], (number * 7 + k * 5) % 17) for k in range(4))
                )
            )
        await store.aclose()
        return answered

    assert 400 < asyncio.run(steps()) < 2400


@pytest.mark.proves("X50", "F2", "F11")
def test_a_lookup_inside_a_shorter_timeout(own: RedisStore, own_redis_server: RedisServer) -> None:
    """If the caller's timeout is shorter, the late reply is dropped."""

    async def steps() -> None:
        assert await own.aget("id") is not None
        for _ in range(5):
            own_redis_server.freeze()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await own.aget("id")
            own_redis_server.thaw()
            assert await own.aget("unknown") is None
            assert await own.aget("id") is not None
        await own.aclose()

    asyncio.run(steps())


@pytest.mark.proves("A14")
def test_two_event_loops_at_once(store: RedisStore) -> None:
    failures: list[BaseException] = []

    def serve() -> None:
        async def steps() -> None:
            for _ in range(20):
                assert None not in await asyncio.gather(*(store.aget("id") for _ in range(10)))
            await store.aclose()

        try:
            asyncio.run(steps())
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=serve) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert store._redis._loops == {}


@pytest.mark.proves("F32")
def test_event_loops_that_ended_are_released(store: RedisStore) -> None:
    """Even without ``aclose``, their connections are closed."""

    async def look_up() -> None:
        assert await store.aget("id") is not None

    for _ in range(3):
        asyncio.run(look_up())
        assert len(store._redis._loops) == 1
    gc.collect()


@pytest.mark.proves("F11")
def test_a_loop_whose_tasks_were_all_cancelled(store: RedisStore) -> None:
    """Some apps cancel all tasks, or close the loop; later lookups work."""

    async def steps() -> None:
        for number in range(20):
            waiting = asyncio.ensure_future(store.aget("id"))
            for _ in range(number // 2):
                await asyncio.sleep(0)
            if number % 2:
                await store.aclose()
            for task in asyncio.all_tasks() - {asyncio.current_task(), waiting}:
                task.cancel()
            await asyncio.wait([waiting])
            assert await store.aget("id") is not None
        await store.aclose()
        await store.aclose()

    asyncio.run(steps())


@pytest.mark.proves("X51")
def test_a_server_that_closes_the_connection_on_a_command() -> None:
    """The command is repeated once on a new connection; if that one breaks as well, it is an outage."""
    served: list[int] = []

    def serve(listener: socket.socket) -> None:
        for number in range(1, 9):  # two for a thread, two for a loop, and four for the commands that fail
            connection, _ = listener.accept()
            count = 0
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    if line.strip() == b"CLIENT":
                        connection.sendall(b"+OK\r\n")
                    if line.strip() == b"GET":
                        count += 1
                        if count > (1 if number < 5 else 0):
                            break
                        connection.sendall(b"$-1\r\n")
            served.append(count)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        store = RedisStore(f"redis://127.0.0.1:{listener.getsockname()[1]}", deadline_s=5)
        assert [store.get("a"), store.get("a")] == [None, None]
        store.close()
        assert run(store, lambda: store.aget("a"), lambda: store.aget("a")) == [None, None]
        for outcome in both(store):
            assert isinstance(outcome, BackendUnavailable)
        store.close()
        thread.join(10)
    assert served == [2, 1, 2, 1, 1, 1, 1, 1]


@pytest.mark.proves("X55", "F31")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_its_own_connections(store: RedisStore, admin: redis.Redis) -> None:
    """It sends nothing on its parent's connections, whether of threads or of event loops."""
    mine: set[str] = set()

    def child() -> None:
        assert store.get("id") is not None
        assert both(store) == [store.get("id")] * 2
        with redis.Redis(port=admin.get_connection_kwargs()["port"]) as other:
            assert len({client["id"] for client in other.client_list()} - mine) >= 2, (
                "the thread's own connection, and this one"
            )
        assert store.put(Key("child"), None)
        store.close()
        gc.collect()

    async def steps() -> None:
        assert await store.aget("id") == store.get("id") is not None
        mine.update(client["id"] for client in admin.client_list())
        process = multiprocessing.get_context("fork").Process(target=_outside_of_any_loop, args=(child,))
        process.start()
        while process.is_alive():
            assert await store.aget("id") is not None
            assert store.get("id") is not None
            await asyncio.sleep(0.01)
        process.join()
        assert process.exitcode == 0
        assert mine <= {client["id"] for client in admin.client_list()}
        assert await store.aget("child") == store.get("child") is not None
        await store.aclose()

    asyncio.run(asyncio.wait_for(steps(), 30))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_while_a_thread_takes_a_connection(store: RedisStore) -> None:
    """The lock of redis-py's pool is held forever in the child."""
    assert store.get("id") is not None
    (pool,) = store._redis._lookups._pools.values()
    with pool._lock:
        process = multiprocessing.get_context("fork").Process(target=store.get, args=("id",))
        process.start()
    process.join(20)
    alive = process.is_alive()
    process.kill()
    assert not alive
    assert process.exitcode == 0


def _outside_of_any_loop(work: Callable[[], None]) -> None:
    asyncio._set_running_loop(None)
    work()


def test_threads_share_connections(store: RedisStore, admin: redis.Redis) -> None:
    """There are as many as threads that ever worked at once, until the store closes them."""
    before = len(admin.client_list())
    for _ in range(3):
        threads = [threading.Thread(target=store.get, args=("id",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert len(admin.client_list()) <= before + 4
    store.close()
    wait_until(lambda: len(admin.client_list()) < before)


def test_many_threads_at_once(own_redis_server: RedisServer) -> None:
    """More than the connections that redis-py allows by default."""
    with (
        closing(RedisStore(own_redis_server.url(), deadline_s=60)) as store,
        ThreadPoolExecutor(120) as threads,
    ):
        own_redis_server.freeze()
        lookups = [threads.submit(store.get, "id") for _ in range(120)]
        wait_until(lambda: len(store._redis._lookups._pools[Node()]._in_use_connections) == 120)
        own_redis_server.thaw()
        assert [lookup.result(60) for lookup in lookups] == [None] * 120


def test_nothing_is_opened_before_the_first_use(redis_server: RedisServer) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    store = RedisStore(redis_server.url())
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert store._redis._loops == {}
