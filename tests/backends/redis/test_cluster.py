"""Failures and topology changes of a real Redis Cluster."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import secrets
import threading
import time
from binascii import crc_hqx
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

from basicauth_mw.backends import LastUse
from basicauth_mw.backends.redis.cluster import Node
from basicauth_mw.backends.redis.scripts import KeyNames
from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.model import Change, Key, Secret
from tests.redis_server import SLOTS, RedisCluster, RedisServer, at_work, execute, find_port
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 0.4
SLACK_S = 1.0  # for a busy machine; the StoreReader enforces the deadline
WORK_LIMIT_S = 60.0  # for four threads on a core that also runs other tests


@pytest.fixture
def store(redis_cluster_url: str) -> Iterator[RedisStore]:
    with closing(RedisStore(redis_cluster_url, deadline_s=DEADLINE_S)) as opened:
        yield opened


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[RedisCluster]:
    """With a replica of the first node. One test at a time breaks it."""
    with RedisCluster(replicas=1) as cluster:
        yield cluster


def on_loop(store: RedisStore, main: Any) -> Any:
    async def all_of_it() -> Any:
        try:
            return await main
        finally:
            await store.aclose()

    return asyncio.run(asyncio.wait_for(all_of_it(), 60))


def id_at(cluster: RedisCluster, store: RedisStore, node: RedisServer) -> str:
    """A client ID whose record lies on a node."""
    return next(
        name
        for name in (f"at-{number}" for number in range(10_000))
        if cluster.node_of(store._names.record(name.encode())) is node
    )


def slot_of(store: RedisStore, client_id: str) -> int:
    return int(key_slot(store._names.record(client_id.encode())))


# One suffix for each checksum of four hexadecimal digits.
ENDINGS = {crc_hqx(ending, 0) % SLOTS: ending for ending in (b"%04x" % number for number in range(0x10000))}


def in_slot(slot: int, count: int) -> list[str]:
    """New names in a slot. They are computed, since trying out names would block the other threads."""
    found: list[str] = []
    while len(found) < count:
        start = secrets.token_hex(6).encode()
        # A CRC is linear: a prefix flips the same bits, whatever the suffix.
        before = crc_hqx(bytes(4), crc_hqx(start, 0))
        if ending := ENDINGS.get((slot ^ before) % SLOTS):
            found.append((start + ending).decode())
            assert key_slot(start + ending) == slot
    return found


# --- key names and slots


def test_one_client_is_in_one_slot() -> None:
    names = KeyNames("basicauth")
    for data in (b"ci", b"{", b"a{b}c", b"a}", "日本".encode()):
        assert key_slot(names.record(data)) == key_slot(names.used(data))


def test_ids_that_leave_the_braces_empty(store: RedisStore) -> None:
    """Redis then hashes the whole name, so a record and its last-used times are in different slots."""
    for client_id in ("}", "}}", "}a", "}{b}"):
        key = Key(client_id, secrets=(Secret("x", datetime(2024, 1, 1, tzinfo=UTC)),), version=1)
        use = LastUse(client_id, key.secrets[0].created_at, datetime(2031, 1, 1, 12, tzinfo=UTC))
        assert store.put(key, None)
        assert on_loop(store, store.aget(client_id)) == key
        store.record_uses([use])
        assert store.last_uses([client_id]) == [use]
        assert store.put(replace(key, name="new", version=2), 1)
        assert store.last_uses([client_id]) == [use]
        assert store.delete(client_id)
        assert store.last_uses([client_id]) == []


def test_lookups_of_one_iteration_are_sent_together(store: RedisStore, redis_cluster: RedisCluster) -> None:
    """In a few packets to each node, over a few connections."""
    names = [f"k{number}" for number in range(600)]
    assert store.add([Key(name) for name in names]) == [True] * 600

    def packets() -> list[int]:
        stats = (execute(node, "INFO", "STATS").split() for node in redis_cluster.nodes)
        return [
            int(line.split(b":")[1]) for each in stats for line in each if b"total_reads_processed" in line
        ]

    def clients() -> int:
        return sum(execute(node, "CLIENT", "LIST").count(b"\n") for node in redis_cluster.nodes)

    async def main() -> None:
        assert await store.aget("k0") is not None
        before, clients_before = packets(), clients()
        found = await asyncio.gather(*map(store.aget, names))
        assert [key and key.client_id for key in found] == names
        for now, then in zip(packets(), before, strict=True):
            assert now - then < 40
        assert clients() - clients_before <= 3 * 4

    on_loop(store, main())


def test_equal_lookups_are_sent_once(store: RedisStore, redis_cluster: RedisCluster) -> None:
    """However many concurrent requests one client sends."""
    assert store.put(Key("id"), None)
    node = redis_cluster.node_of(store._names.record(b"id"))

    def gets() -> int:
        stats = execute(node, "INFO", "COMMANDSTATS").split()
        return next(int(line.split(b"calls=")[1].split(b",")[0]) for line in stats if b"cmdstat_get:" in line)

    async def main() -> None:
        assert await store.aget("id") is not None
        before = gets()
        assert None not in await asyncio.gather(*(store.aget("id") for _ in range(300)))
        assert gets() - before <= 4

    on_loop(store, main())


def test_one_reachable_node_of_the_url_is_enough(redis_cluster: RedisCluster) -> None:
    for node in redis_cluster.nodes:
        url = f"redis+cluster://127.0.0.1:{find_port()},127.0.0.1:{node.port}/?prefix={secrets.token_hex(4)}"
        with closing(RedisStore(url, deadline_s=5)) as store:
            assert on_loop(store, store.aget("unknown")) is None
            assert store.add([Key(f"k{number}") for number in range(20)]) == [True] * 20
            assert len(store.scan("", "", 100)) == 20


@pytest.mark.proves("F6")
def test_a_single_server_is_not_a_cluster(redis_server: RedisServer) -> None:
    with closing(RedisStore(f"redis+cluster://127.0.0.1:{redis_server.port}", deadline_s=5)) as store:
        with pytest.raises(BackendUnavailable, match="redis://"):
            store.get("id")
        with pytest.raises(BackendUnavailable, match="redis://"):
            on_loop(store, store.aget("id"))


@pytest.mark.proves("F6")
def test_a_cluster_without_slots() -> None:
    with (
        RedisServer("--cluster-enabled", "yes") as server,
        closing(RedisStore(f"redis+cluster://127.0.0.1:{server.port}", deadline_s=5)) as store,
    ):
        for look_up in (lambda: store.get("id"), lambda: on_loop(store, store.aget("id"))):
            with pytest.raises(BackendUnavailable, match="which slots"):
                look_up()
        # All slots except that of the ID.
        missing = slot_of(store, "id")
        execute(server, "CLUSTER", "ADDSLOTS", *(slot for slot in range(SLOTS) if slot != missing))
        execute(server, "CONFIG", "SET", "cluster-require-full-coverage", "no")
        wait_until(lambda: b"cluster_state:ok" in execute(server, "CLUSTER", "INFO"))
        assert store.get("other") is None
        with pytest.raises(BackendUnavailable, match="serves the slot"):
            store.get("id")
        execute(server, "CLUSTER", "ADDSLOTS", missing)
        wait_until(lambda: _responds(store, "id"), DEADLINE_S)


def _responds(store: RedisStore, client_id: str) -> bool:
    try:
        return store.get(client_id) is None
    except BackendUnavailable:
        return False


def test_warnings_of_every_node(redis_cluster: RedisCluster, store: RedisStore) -> None:
    assert [code for code, _, _ in store.warnings()] == ["redis_not_persistent"]
    execute(redis_cluster.nodes[2], "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        assert {code for code, _, _ in store.warnings()} == {"redis_not_persistent", "redis_evicts"}
    finally:
        execute(redis_cluster.nodes[2], "CONFIG", "SET", "maxmemory-policy", "noeviction")


# --- slots that move


class Reshard:
    """Moves a slot as ``redis-cli`` does, in steps."""

    def __init__(self, cluster: RedisCluster, slot: int) -> None:
        self._cluster = cluster
        self._slot = slot
        name = next(name for name in map(b"%d".__mod__, range(10**6)) if key_slot(name) == slot)
        self.source = cluster.node_of(name)
        self.target = next(node for node in cluster.nodes if node is not self.source)
        self._ids = [execute(node, "CLUSTER", "MYID") for node in (self.source, self.target)]

    def begin(self) -> None:
        execute(self.target, "CLUSTER", "SETSLOT", self._slot, "IMPORTING", self._ids[0])
        execute(self.source, "CLUSTER", "SETSLOT", self._slot, "MIGRATING", self._ids[1])

    def move(self, count: int) -> int:
        """Move some keys; return their number."""
        names = execute(self.source, "CLUSTER", "GETKEYSINSLOT", self._slot, count)
        if names:
            execute(self.source, "MIGRATE", "127.0.0.1", self.target.port, "", 0, 5000, "KEYS", *names)
        return len(names)

    def end(self) -> None:
        for node in (self.target, self.source):
            execute(node, "CLUSTER", "SETSLOT", self._slot, "NODE", self._ids[1])


@pytest.mark.proves("F6")
def test_a_slot_that_is_half_moved(store: RedisStore, redis_cluster: RedisCluster) -> None:
    """ASK for keys that have moved and for new ones; then MOVED."""
    slot = key_slot(b"moving")
    names = in_slot(slot, 6)
    moved = Reshard(redis_cluster, slot)
    assert store.add([Key(name, version=1) for name in names[:4]]) == [True] * 4
    change = Change("key.updated", None, datetime(2024, 1, 1, tzinfo=UTC))
    use = LastUse(names[0], datetime(2024, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, 12, tzinfo=UTC))

    def check_all(version: int) -> None:
        found = on_loop(store, _gather(store, names))
        assert [key and key.client_id for key in found] == [*names[:5], None]
        assert found == [store.get(name) for name in names]
        for name in names[:5]:
            assert not store.put(Key(name, version=9), None)
            assert store.put(Key(name, version=version + 1), version, [change])
        assert store.history(names) == [[change] * version] * 5 + [[]]
        store.record_uses([use])
        assert store.last_uses(names) == [use]

    moved.begin()
    assert moved.move(2) == 2
    assert store.put(Key(names[4], version=1), None)
    check_all(1)
    while moved.move(10):
        pass
    check_all(2)
    moved.end()
    check_all(3)
    check_all(4)
    back = Reshard(redis_cluster, slot)
    back.begin()
    assert store.delete(names[0])
    assert store.history(names[:1]) == [[]]
    while back.move(10):
        pass
    back.end()


async def _gather(store: RedisStore, names: list[str]) -> list[Key | None]:
    return list(await asyncio.gather(*map(store.aget, names)))


@pytest.mark.proves("F6")
def test_moving_slots_loses_nothing(store: RedisStore, redis_cluster: RedisCluster) -> None:
    """During reads and writes of every kind: no error, no missing key, no lost change."""
    slots = [key_slot(b"%d" % number) for number in range(3)]
    counters = [name for slot in slots for name in in_slot(slot, 3)]
    others = [name for slot in slots for name in in_slot(slot, 20)]
    assert store.add([Key(name, version=0) for name in counters + others]) == [True] * 69
    counted = dict.fromkeys(counters, 0)
    made: list[str] = []

    def read() -> None:
        for name in others:
            assert store.get(name) is not None

    def read_on_a_loop() -> None:
        async def main() -> None:
            for _ in range(20):
                assert None not in await _gather(store, others)

        on_loop(store, main())

    def count() -> None:
        name = random.choice(counters)
        key = store.get(name)
        assert key is not None
        assert store.put(replace(key, version=key.version + 1), key.version)  # no other client changes it
        counted[name] += 1

    def make() -> None:
        new = in_slot(random.choice(slots), 1)
        assert store.add([Key(new[0])]) == [True]
        made.extend(new)

    def go_on(failures: list[BaseException], more: int = 10) -> None:
        """Run the work in the background."""
        before = len(made)
        wait_until(lambda: failures or len(made) >= before + more, WORK_LIMIT_S)

    with at_work(read, read_on_a_loop, count, make) as failures:
        for slot in slots:
            moved = Reshard(redis_cluster, slot)
            go_on(failures)
            moved.begin()
            while moved.move(3):
                go_on(failures, 1)
            go_on(failures)
            while moved.move(10):
                pass
            moved.end()
        wait_until(lambda: failures or min(counted.values()) > 0, WORK_LIMIT_S)
    assert failures == []
    assert {name: store.get(name).version for name in counters} == counted  # type: ignore[union-attr]
    assert min(len(made), *counted.values()) > 0
    assert {key.client_id for key in store.scan("", "", 10**5)} == {*counters, *others, *made}


# --- nodes that do not respond


@pytest.mark.proves("F2", "F6")
def test_a_frozen_node(store: RedisStore, redis_cluster: RedisCluster) -> None:
    """Lookups in its slots fail within the deadline; other slots work. It recovers when the node resumes."""
    frozen = redis_cluster.nodes[0]
    lost, fine = (id_at(redis_cluster, store, node) for node in redis_cluster.nodes[:2])
    assert store.add([Key(lost), Key(fine)]) == [True, True]

    async def main() -> None:
        assert None not in await _gather(store, [lost, fine])
        frozen.freeze()
        try:
            start = time.monotonic()
            pending = [asyncio.ensure_future(store.aget(lost)) for _ in range(20)]
            assert None not in await asyncio.gather(*(store.aget(fine) for _ in range(20)))
            assert time.monotonic() - start < DEADLINE_S
            outcomes = await asyncio.gather(*pending, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {BackendUnavailable}
            assert time.monotonic() - start < DEADLINE_S + SLACK_S
            # Cancelled by the caller; no other lookup gets its reply.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await store.aget(lost)
            assert await store.aget(fine) is not None
            start = time.monotonic()
            with pytest.raises(BackendUnavailable):
                store.get(lost)
            assert time.monotonic() - start < DEADLINE_S + SLACK_S
            assert store.get(fine) is not None
        finally:
            frozen.thaw()
        assert store.get(lost) == await store.aget(lost) is not None

    on_loop(store, main())


@pytest.mark.proves("F4", "F6")
def test_a_node_is_killed_and_its_replica_takes_over(own_cluster: RedisCluster) -> None:
    """Reads and writes in its slots fail immediately, others work; after the takeover all slots work."""
    killed, *others, replica = own_cluster.nodes
    # A prefix for which index, changes and meta are on other nodes.
    prefix = next(
        prefix
        for prefix in (f"p{number}" for number in range(10_000))
        if all(
            own_cluster.node_of(name) in others
            for name in (KeyNames(prefix).index, KeyNames(prefix).changes, KeyNames(prefix).state)
        )
    )
    with closing(RedisStore(own_cluster.url(prefix), deadline_s=DEADLINE_S)) as store:
        lost, fine = (id_at(own_cluster, store, node) for node in (killed, others[0]))
        assert store.add([Key(lost, version=1), Key(fine, version=1)]) == [True, True]
        assert execute(killed, "WAIT", 1, 5000) == 1

        async def main() -> None:
            assert None not in await _gather(store, [lost, fine])
            killed.stop()
            start = time.monotonic()
            outcomes = await asyncio.gather(*map(store.aget, [lost, fine] * 20), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [BackendUnavailable, Key] * 20
            with pytest.raises(BackendUnavailable):
                store.get(lost)
            with pytest.raises(BackendUnavailable):
                store.put(Key(lost, version=2), 1)
            with pytest.raises(BackendUnavailable):
                store.add([Key(fine + "new"), Key(lost)])
            assert store.put(Key(fine, version=2), 1)
            with pytest.raises(BackendUnavailable):
                store.warnings()
            assert time.monotonic() - start < DEADLINE_S + SLACK_S

            execute(replica, "CLUSTER", "FAILOVER", "TAKEOVER")
            wait_until(lambda: own_cluster.node_of(store._names.record(lost.encode())) is replica)
            end = time.monotonic() + 5
            while isinstance((await asyncio.gather(store.aget(lost), return_exceptions=True))[0], Exception):
                assert time.monotonic() < end
            # In one iteration of the loop, without any error.
            assert None not in await asyncio.gather(*map(store.aget, [lost, fine] * 20))
            assert store.get(lost) is not None
            assert store.put(Key(lost, version=2), 1)
            assert store.delete(lost)

        on_loop(store, main())


def is_master(node: RedisServer, port: int) -> bool:
    """Whether a node knows of a master with this port."""
    return port in [master[1] for _, _, master, *_ in execute(node, "CLUSTER", "SLOTS")]


@pytest.mark.proves("F4")
def test_a_frozen_node_whose_replica_has_taken_over() -> None:
    """The second attempt of a lookup on an event loop reads from the new node, within the deadline."""
    with RedisCluster(replicas=1) as cluster, closing(RedisStore(cluster.url(), deadline_s=2)) as store:
        frozen, *others, replica = cluster.nodes
        client_id = id_at(cluster, store, frozen)
        assert store.add([Key(client_id)]) == [True]
        assert execute(frozen, "WAIT", 1, 5000) == 1

        async def main() -> None:
            assert await store.aget(client_id) is not None
            frozen.freeze()
            try:
                execute(replica, "CLUSTER", "FAILOVER", "TAKEOVER")
                for node in others:
                    wait_until(partial(is_master, node, replica.port))
                start = time.monotonic()
                assert await store.aget(client_id) is not None
                assert time.monotonic() - start < 2
            finally:
                frozen.thaw()

        on_loop(store, main())


def test_a_change_that_cannot_be_announced_is_not_made(
    own_cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the node of the stream does not respond, a change is refused before anything is written."""
    silent, other = own_cluster.nodes[1:3]
    prefix = next(
        prefix
        for prefix in (f"p{number}" for number in range(10_000))
        if own_cluster.node_of(KeyNames(prefix).changes) is silent
    )
    monkeypatch.setattr("basicauth_mw.backends.redis.commands._ADMIN_TIMEOUT_S", DEADLINE_S)
    with closing(RedisStore(own_cluster.url(prefix), deadline_s=DEADLINE_S)) as store:
        client_id = id_at(own_cluster, store, other)
        assert store.put(Key(client_id, version=1), None)
        silent.freeze()
        thread = threading.Timer(1, silent.thaw)
        try:
            for change in (
                lambda: store.put(Key(client_id, version=2), 1),
                lambda: store.delete(client_id),
            ):
                with pytest.raises(BackendUnavailable):
                    change()
                found = store.get(client_id)
                assert found is not None
                assert found.version == 1
        finally:
            thread.start()
            thread.join()


# --- connections


@pytest.mark.proves("X50", "F11")
def test_cancelled_lookups_never_mix_replies(store: RedisStore) -> None:
    """A cancelled lookup never leaves its reply for another lookup."""
    names = [f"k{number}" for number in range(20)]
    assert store.add([Key(name) for name in names[::2]]) == [True] * 10

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

    async def main() -> int:
        answered = 0
        for number in range(300):
            answered += sum(
                await asyncio.gather(
                    *(one(names[(number + k) % 20], (number * 7 + k * 5) % 17) for k in range(4))
                )
            )
        return answered

    assert 200 < on_loop(store, main()) < 1200


def test_a_cancelled_lookup_does_not_affect_others(store: RedisStore, redis_cluster: RedisCluster) -> None:
    """A stale slot map does not make each lookup open a connection."""

    def clients() -> int:
        return sum(execute(node, "CLIENT", "LIST").count(b"\n") for node in redis_cluster.nodes)

    async def main() -> None:
        for turn in range(5):
            names = [f"k{turn}-{number}" for number in range(300)]
            store._redis._router.mark_stale(Node())
            tasks = [asyncio.ensure_future(store.aget(name)) for name in names]
            for _ in range(turn):
                await asyncio.sleep(0)
            tasks[0].cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert outcomes[1:] == [None] * 299
        assert clients() <= before + 3 * 3

    before = clients()
    on_loop(store, main())


@pytest.mark.proves("X55", "F31")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_its_own_connections(redis_cluster_url: str, redis_cluster: RedisCluster) -> None:
    # No lookup may take too long on a busy machine: its connection would be replaced.
    store = RedisStore(redis_cluster_url, deadline_s=10)
    names = [f"k{number}" for number in range(30)]
    assert store.add([Key(name) for name in names]) == [True] * 30

    def child() -> None:
        asyncio._set_running_loop(None)
        assert None not in [store.get(name) for name in names]
        assert None not in on_loop(store, _gather(store, names))
        assert store.put(Key("child"), None)

    def clients() -> set[bytes]:
        lists = (execute(node, "CLIENT", "LIST").split() for node in redis_cluster.nodes)
        return {word for each in lists for word in each if word.startswith(b"addr=")}

    async def main() -> None:
        assert None not in await _gather(store, names)
        mine = {client for client in clients() if client in clients()}
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        while process.is_alive():
            assert None not in await _gather(store, names)
            assert store.get("k1") is not None
            await asyncio.sleep(0.01)
        process.join()
        assert process.exitcode == 0
        assert mine <= clients()
        assert await store.aget("child") is not None

    with closing(store):
        on_loop(store, main())


def test_connections_to_removed_nodes_are_closed(store: RedisStore) -> None:
    """Connections to nodes that are no longer in the slot map are closed, on threads and on event loops."""
    router: Any = store._redis._router

    async def main() -> None:
        names = [f"k{each}" for each in range(20)]
        assert await asyncio.gather(*map(store.aget, names)) == [None] * 20
        assert [store.get(name) for name in names] == [None] * 20
        (loop,) = store._redis._loops.values()
        threads = store._redis._lookups._pools
        gone = next(node for node in threads if node not in router._seeds[:1])
        stays = next(name for name in names if router._map[slot_of(store, name)] != gone)
        assert {gone} < threads.keys() & loop._readers.keys()
        router.nodes = router.nodes - {gone}
        await loop.run(store._names.get(stays.encode()))
        assert store.get(stays) is None
        assert gone not in threads
        assert gone not in loop._readers

    on_loop(store, main())
