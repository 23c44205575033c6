"""What is special about the Postgres store: transactions, tables, connections."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import signal
import threading
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.backends.postgres import clients, schema
from basicauth_mw.backends.postgres import store as postgres_store
from basicauth_mw.backends.postgres.store import CHANGES_KEPT, PostgresStore
from basicauth_mw.errors import BackendUnavailable
from tests.backends.postgres.helpers import BOTH, clients_of, key, on_thread, together
from tests.postgres_server import PostgresServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from basicauth_mw.backends.postgres.libpq import Do


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresStore]:
    with closing(PostgresStore(postgres_url, deadline_s=5.0)) as made:
        yield made


@pytest.fixture
def other(postgres_url: str) -> Iterator[PostgresStore]:
    """The store of another process."""
    with closing(PostgresStore(postgres_url, deadline_s=5.0)) as made:
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server whose connections are all of one test."""
    with PostgresServer(log_statement="all") as made:
        made.url_with_tables()
        yield made


# --- changes


@pytest.mark.proves("F24")
def test_a_change_waits_for_one_with_a_smaller_number(store: PostgresStore, other: PostgresStore) -> None:
    """Otherwise a reader could see the second change first, and never the first."""
    cursor = other.changes(None).cursor
    has_number, may_commit = threading.Event(), threading.Event()

    async def slow(do: Do) -> bool:
        has_number.set()
        may_commit.wait(20)
        await do("SELECT 1")
        return True

    first = threading.Thread(target=store._change, args=(slow, "first"))
    second = threading.Thread(target=other.put, args=(key("second"), None))
    first.start()
    has_number.wait(20)
    second.start()
    second.join(0.3)
    assert second.is_alive()
    assert other.changes(cursor).client_ids == ()
    assert other.get("second") is None
    may_commit.set()
    first.join(20)
    second.join(20)

    changes = other.changes(cursor)
    assert changes.client_ids == ("first", "second")
    assert not changes.incomplete


@pytest.mark.proves("F24")
def test_a_reader_misses_no_change_of_many_writers(postgres_url: str, store: PostgresStore) -> None:
    """Each polls as the feed does; every writer has connections of its own."""
    writers, each = 4, 25
    names = [[f"w{writer}-{number}" for number in range(each)] for writer in range(writers)]
    cursor = store.changes(None).cursor
    seen: list[str] = []

    def write(mine: list[str]) -> None:
        with closing(PostgresStore(postgres_url, deadline_s=5.0)) as writer:
            for name in mine:
                assert writer.put(key(name), None)

    def read() -> None:
        nonlocal cursor
        wanted = writers * each
        ends = time.monotonic() + 50
        while len(seen) < wanted and time.monotonic() < ends:
            changes = store.changes(cursor)
            assert not changes.incomplete
            seen.extend(changes.client_ids)
            cursor = changes.cursor

    together(read, *(partial(write, mine) for mine in names))
    assert sorted(seen) == sorted(name for mine in names for name in mine)
    for mine in names:
        assert [name for name in seen if name in set(mine)] == mine


def test_a_writer_that_stops_in_a_transaction_does_not_block_others_for_long(
    store: PostgresStore, other: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres ends its transaction; the process may be frozen, or cut off from the network."""
    limit = "idle_in_transaction_session_timeout = '5s'"
    assert limit in postgres_store._BEGIN
    shorter = postgres_store._BEGIN.replace(limit, limit.replace("5s", "500ms"))
    monkeypatch.setattr(postgres_store, "_BEGIN", shorter)
    has_begun, has_gone_on = threading.Event(), threading.Event()

    async def stopped(do: Do) -> bool:
        has_begun.set()
        has_gone_on.wait(20)
        return await do("SELECT 1") is not None

    def change() -> None:
        with pytest.raises(BackendUnavailable):
            store._change(stopped, "first")

    def write() -> None:
        has_begun.wait(20)
        assert other.put(key("second"), None)
        has_gone_on.set()

    together(change, write)
    assert store.get("second") is not None


def test_changes_that_wait_for_each_other_leave_connections_for_lookups(
    store: PostgresStore, other: PostgresStore
) -> None:
    has_begun, has_looked_up = threading.Event(), threading.Event()

    async def held(do: Do) -> bool:
        has_begun.set()
        has_looked_up.wait(20)
        return await do("SELECT 1") is not None

    def put(client_id: str) -> None:
        has_begun.wait(20)
        store.put(key(client_id), None)

    def look_up() -> None:
        has_begun.wait(20)
        try:
            wait_until(lambda: store._threads._admin_slots.empty())
            assert store.get("0") is None
            assert store.changes(None).cursor
        finally:
            has_looked_up.set()

    puts = [partial(put, str(number)) for number in range(clients.THREAD_CONNECTIONS)]
    together(partial(other._change, held, "held"), look_up, *puts)
    assert store.get("0") is not None


def test_changes_that_were_pruned_restored_or_lost_are_incomplete(
    postgres_server: PostgresServer, postgres_url: str, store: PostgresStore
) -> None:
    name = postgres_url.partition("schema=")[2]
    store.put(key("id"), None)
    cursor = store.changes(None).cursor
    assert store.changes(cursor).client_ids == ()
    seq, _, mark = cursor.partition(".")
    for unknown in (f"{seq}.{int(mark) ^ 1}", f"{int(seq) + 5}.{mark}", f"{int(seq) - 2}.{mark}", "0-0", ""):
        changes = store.changes(unknown)
        assert (changes.incomplete, changes.cursor) == (True, cursor), unknown

    more = f"SELECT generate_series({seq}::bigint + 1, {CHANGES_KEPT + 9})"
    postgres_server.execute(f"INSERT INTO {name}.basicauth_changes (seq) {more}")
    postgres_server.execute(f"UPDATE {name}.basicauth_state SET seq = {CHANGES_KEPT + 9}")
    store.delete("id")
    assert store.changes(cursor).incomplete
    rows = postgres_server.execute(f"SELECT count(*) FROM {name}.basicauth_changes")
    assert rows == [(CHANGES_KEPT,)]


def test_a_damaged_table_of_changes_is_an_error(
    postgres_server: PostgresServer, postgres_url: str, store: PostgresStore
) -> None:
    name = postgres_url.partition("schema=")[2]
    postgres_server.execute(f"DELETE FROM {name}.basicauth_state")
    with pytest.raises(BackendUnavailable):
        store.changes(None)
    with pytest.raises(BackendUnavailable):
        store.put(key("id"), None)
    store.close()
    with pytest.raises(BackendUnavailable, match="lost its row"):
        store.get("id")


# --- tables


def test_tables_are_made_on_demand(postgres_server: PostgresServer) -> None:
    url = postgres_server.url("on_demand", more="&prefix=other")
    with closing(PostgresStore(url)) as cautious:
        with pytest.raises(BackendUnavailable, match="no tables of keys in the schema on_demand"):
            cautious.get("id")
        with pytest.raises(BackendUnavailable, match="keys create"):
            cautious.upgrade()
    stores = [PostgresStore(url, create=True) for _ in range(4)]
    together(*(partial(each.put, key(f"id{number}"), None) for number, each in enumerate(stores)))
    assert [found.client_id for found in stores[0].scan("", "", 9)] == ["id0", "id1", "id2", "id3"]
    assert stores[0].upgrade() is None
    for each in stores:
        each.close()
    tables = postgres_server.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'on_demand'")
    assert tables
    assert all(name.startswith("other_") for (name,) in tables)


@pytest.mark.parametrize(("version", "remedy"), [(0, "check --upgrade"), (9, "update the package")])
def test_tables_of_another_release(
    postgres_server: PostgresServer, postgres_url: str, store: PostgresStore, version: int, remedy: str
) -> None:
    name = postgres_url.partition("schema=")[2]
    postgres_server.execute(f"UPDATE {name}.basicauth_state SET version = {version}")
    for look in BOTH * 2:  # a connection that was refused is not used later
        with pytest.raises(BackendUnavailable, match=f"version {version}; .*{remedy}"):
            look(store)


def test_an_upgrade_is_made_completely_or_not_at_all(
    store: PostgresStore, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.put(key("id"), None)
    store.close()
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    with pytest.raises(BackendUnavailable, match="check --upgrade"):
        store.get("id")

    wrong = "ALTER TABLE {keys} ADD COLUMN note text; SELECT 1/0"
    monkeypatch.setattr(schema, "_STEPS", (*schema._STEPS[:1], wrong))
    with pytest.raises(BackendUnavailable, match="22012"):
        store.upgrade()
    monkeypatch.setattr(schema, "_STEPS", (*schema._STEPS[:1], wrong.partition(";")[0]))
    stores = [PostgresStore(postgres_url) for _ in range(3)]
    together(*(each.upgrade for each in stores))
    assert store.upgrade() is None
    assert store.get("id") == key("id")
    monkeypatch.undo()
    store.close()
    with pytest.raises(BackendUnavailable, match="update the package"):
        store.upgrade()


def test_the_database_must_be_utf8(postgres_server: PostgresServer) -> None:
    postgres_server.execute(
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    url = postgres_server.url().replace("/postgres?", "/latin?")
    with closing(PostgresStore(url, create=True)) as made, pytest.raises(BackendUnavailable, match="UTF8"):
        made.upgrade()


# --- connections


def lookups_of(server: PostgresServer) -> list[str]:
    """Log lines of the lookups of several IDs so far."""
    text = (server.home / "log").read_text()
    return [line for line in text.splitlines() if "execute" in line and "client_id = ANY" in line]


def test_lookups_of_one_iteration_are_one_statement(server: PostgresServer) -> None:
    store = PostgresStore(server.url(), deadline_s=5.0)
    ids = [f"batch-{number}" for number in range(50)]
    assert store.add(list(map(key, ids)))

    async def main() -> None:
        assert await store.aget("batch-0") is not None
        before = len(lookups_of(server))
        found = await asyncio.gather(*map(store.aget, [*ids, *ids, "unknown", "\0", "\ud800"]))
        assert [each and each.client_id for each in found] == [*ids, *ids, None, None, None]
        assert len(lookups_of(server)) == before + 1
        await store.aclose()

    asyncio.run(asyncio.wait_for(main(), 30))
    store.close()


@pytest.mark.proves("F9")
def test_threads_share_few_connections(server: PostgresServer) -> None:
    before = clients_of(server)
    store = PostgresStore(server.url(), deadline_s=5.0)
    together(*(partial(store.get, "id") for _ in range(40)))
    assert len(clients_of(server) - before) <= clients.THREAD_CONNECTIONS
    store.close()
    wait_until(lambda: clients_of(server) <= before)


def test_idle_connections_are_closed(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "IDLE_S", 0.3)
    monkeypatch.setattr(clients, "_CHECK_EVERY_S", 0.1)
    before = clients_of(server)
    store = PostgresStore(server.url(), deadline_s=5.0)

    async def main() -> None:
        for _ in range(2):
            await store.aget("id")
            await asyncio.to_thread(store.get, "id")
            assert len(clients_of(server) - before) == 2
            while clients_of(server) - before:
                await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(main(), 30))
    store.close()


@pytest.mark.proves("F11")
def test_cancelled_lookups_never_mix_replies(server: PostgresServer) -> None:
    store = PostgresStore(server.url(), deadline_s=5.0)
    ids = [f"cancel-{number}" for number in range(20)]
    store.add(list(map(key, ids)))

    async def look_up(client_id: str) -> None:
        found = await store.aget(client_id)
        assert found is not None
        assert found.client_id == client_id

    async def main() -> None:
        for turn in range(200):
            tasks = [asyncio.create_task(look_up(client_id)) for client_id in ids]
            await asyncio.sleep(turn * 1e-5)
            for task in tasks[:: 1 + turn % 3]:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError)
        await store.aclose()

    asyncio.run(asyncio.wait_for(main(), 60))
    store.close()


@pytest.mark.proves("F31")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_its_own_connections(server: PostgresServer) -> None:
    """It neither uses nor closes those of its parent, whether of threads or of event loops."""
    store = PostgresStore(server.url(), deadline_s=5.0)
    assert store.put(key("fork"), None)
    mine: set[int] = set()

    def child() -> None:
        asyncio._set_running_loop(None)
        assert store.get("fork") is not None
        assert asyncio.run(store.aget("fork")) is not None
        assert len(clients_of(server) - mine) >= 2
        assert store.put(key("child"), None)
        store.close()
        gc.collect()

    async def main() -> None:
        assert await store.aget("fork") == store.get("fork") is not None
        mine.update(clients_of(server))
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        while process.is_alive():
            assert await store.aget("fork") is not None
            assert store.get("fork") is not None
            await asyncio.sleep(0.01)
        process.join()
        assert process.exitcode == 0
        assert mine <= clients_of(server)
        assert await store.aget("child") == store.get("child") is not None
        await store.aclose()

    asyncio.run(asyncio.wait_for(main(), 60))
    store.close()


@pytest.mark.proves("F32")
def test_event_loops_that_ended_are_released(server: PostgresServer) -> None:
    store = PostgresStore(server.url(), deadline_s=5.0)
    before = clients_of(server)
    for _ in range(5):
        asyncio.run(store.aget("id"))
    wait_until(lambda: len(clients_of(server) - before) <= 1)
    store.close()
    wait_until(lambda: not clients_of(server) - before)


def test_a_connection_that_the_server_closed_is_replaced(server: PostgresServer) -> None:
    """Changes too, as nothing was sent yet."""
    store = PostgresStore(server.url(), deadline_s=5.0)

    async def main() -> None:
        for number in range(3):
            assert await store.aget("id") is None
            assert store.get("id") is None
            server.disconnect_all()
            assert store.put(key(f"closed-{number}"), None)
            assert await store.aget(f"closed-{number}") == store.get(f"closed-{number}") is not None
        await store.aclose()

    asyncio.run(asyncio.wait_for(main(), 60))
    store.close()


def test_tables_that_change_while_connections_are_open(
    postgres_server: PostgresServer, postgres_url: str, store: PostgresStore
) -> None:
    """A statement that was prepared before fails once; then it is prepared again."""
    name = postgres_url.partition("schema=")[2]
    store.put(key("id"), None)
    for look in BOTH:
        assert look(store) == key("id")
    postgres_server.execute(f"ALTER TABLE {name}.basicauth_keys ALTER record TYPE varchar")
    with pytest.raises(BackendUnavailable):
        store.get("id")
    for look in BOTH:
        assert look(store) == key("id")


def test_statements_of_clients_that_gave_up_end_on_the_server(server: PostgresServer) -> None:
    store = PostgresStore(server.url(), deadline_s=0.3)
    assert store.get("id") is None
    with server.connect() as lock:
        lock.autocommit = False
        lock.execute("LOCK TABLE basicauth_keys IN ACCESS EXCLUSIVE MODE")
        for look in BOTH:
            with pytest.raises(BackendUnavailable, match="did not respond in time"):
                look(store)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_until(lambda: server.execute(waiting) == [(0,)], 5.0)
    assert store.get("id") is None
    store.close()


@pytest.mark.filterwarnings("ignore:.*never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_signal_handlers_that_raise_take_no_connection_away(store: PostgresStore) -> None:
    """As those of timeouts do, anywhere in a lookup."""

    class Interrupt(BaseException):
        pass

    fired: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        fired.append(number)
        raise Interrupt

    def look_up(seconds: float) -> None:
        fired.clear()
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while not fired:  # what is raised in a finalizer, Python ignores
            store.get("id")

    raised = 0
    store.get("id")
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for turn in range(400):
            try:
                look_up(0.0005 + turn % 30 * 0.0001)
            except Interrupt:
                raised += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert raised > 390
    assert store._threads._slots.qsize() == clients.THREAD_CONNECTIONS
    assert store.get("id") is None


def test_a_lookup_that_is_interrupted_after_it_prepared_its_statement(store: PostgresStore) -> None:
    """The next lookup does not prepare it again on the same connection."""

    class Names(set[str]):
        def add(self, _name: str) -> None:
            raise KeyboardInterrupt

    assert store.scan("", "", 1) == []
    (session,) = store._threads._idle
    session._prepared = Names()
    with pytest.raises(KeyboardInterrupt):
        store.get("id")
    assert store.get("id") is None


def test_a_key_is_replaced_by_its_version_only(store: PostgresStore, other: PostgresStore) -> None:
    """The loser of two concurrent changes writes nothing, whatever the isolation level of the database."""
    assert store.put(key("id"), None)
    outcomes: list[bool] = []

    def change(each: PostgresStore, name: str) -> None:
        outcomes.append(each.put(replace(key("id", 2), name=name), 1))

    together(partial(change, store, "a"), partial(change, other, "b"))
    assert sorted(outcomes) == [False, True]
    found = on_thread(store)
    assert found is not None
    assert found.version == 2
