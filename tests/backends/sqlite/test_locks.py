"""Locks, threads and processes."""

from __future__ import annotations

import gc
import multiprocessing
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw.backends.sqlite import wal
from basicauth_mw.backends.sqlite.store import CHANGES_KEPT, SqliteStore
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.model import Key

if TYPE_CHECKING:
    from collections.abc import Callable

from tests.backends.sqlite.helpers import (
    in_threads,
    name_of,
    open_files,
)


@pytest.mark.proves("F13")
def test_a_locked_file(store: SqliteStore, path: Path) -> None:
    """A caller that must not block gets an error at once, others at the deadline; never a wrong result."""
    store.get("id")
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as locker:
        locker.execute("PRAGMA locking_mode = EXCLUSIVE")
        locker.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        with pytest.raises(BlockingIOError):
            store.get_nowait("id")
        assert time.monotonic() - start < 0.1
        with pytest.raises(BackendUnavailable, match="locked"):
            store.get("id")
        assert 0.15 < time.monotonic() - start < 1
        locker.execute("ROLLBACK")
    assert name_of(store) == "old"


def test_one_thread_compares_the_file_at_a_time(store: SqliteStore) -> None:
    store.close()
    store._connections._compare_at = float("-inf")
    with store._connections._comparing, pytest.raises(BlockingIOError):
        store.get_nowait("id")
    assert store.get_nowait("id") is not None


@pytest.mark.proves("F13")
def test_get_waits_for_a_short_lock(store: SqliteStore, path: Path) -> None:
    store.close()
    patient = SqliteStore(f"sqlite:///{path}", deadline_s=5)
    found: list[Key | None] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as locker:
        locker.execute("PRAGMA locking_mode = EXCLUSIVE")
        locker.execute("BEGIN EXCLUSIVE")
        reader = threading.Thread(target=lambda: found.append(patient.get("id")))
        reader.start()
        with pytest.raises(BlockingIOError):
            patient.get_nowait("id")
    reader.join(10)
    assert found[0] is not None
    patient.close()


@pytest.mark.proves("F14")
def test_a_writer_does_not_delay_readers(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE keys SET record = 'x'")
        assert store.get_nowait("id") is not None
        writer.execute("ROLLBACK")


@pytest.mark.proves("F15")
def test_a_failed_write_leaves_no_trace(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON changes BEGIN SELECT raise(ABORT, 'disk full'); END"
        )
        with pytest.raises(BackendUnavailable):
            store.put(Key("id", name="new", version=2), 1)
        with pytest.raises(BackendUnavailable):
            store.delete("id")
        connection.execute("DROP TRIGGER full")
    assert name_of(store) == "old"
    assert store.put(Key("id", name="new", version=2), 1)


WRITES: dict[str, Callable[[SqliteStore], object]] = {
    "put": lambda store: store.put(Key("new"), None),
    "add": lambda store: store.add([Key("new")]),
    "delete": lambda store: store.delete("id"),
    "upgrade": lambda store: store.upgrade(),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_change_is_on_disk_before_it_is_reported(
    store: SqliteStore, path: Path, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever this build of SQLite defaults to: in WAL mode, some builds sync later."""
    store.close()
    if write == "upgrade":
        shutil.copyfile(Path(__file__).parents[2] / "data" / "sqlite-v1.db", path)
    statements: list[str] = []
    connect = wal.connect

    def lazy(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.execute("PRAGMA synchronous = OFF")
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(wal, "connect", lazy)
    assert WRITES[write](store)
    begin = statements.index("BEGIN IMMEDIATE")
    assert "COMMIT" in statements[begin:]
    assert [each for each in statements[:begin] if "synchronous" in each] == ["PRAGMA synchronous = FULL"]
    assert not any("synchronous" in each for each in statements[begin:])


def test_old_changes_are_pruned(store: SqliteStore, path: Path) -> None:
    start = store.changes(None).cursor
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO changes (client_id) SELECT 'other' FROM n",
            (CHANGES_KEPT + 10,),
        )
        middle = store.changes(None).cursor
        assert store.put(Key("id", version=2), 1)
        assert connection.execute("SELECT count(*) FROM changes").fetchone() == (CHANGES_KEPT,)
    assert store.changes(start).incomplete
    assert store.changes(middle).client_ids == ("id",)


def test_prefix_and_page_use_the_index(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT client_id, record FROM keys WHERE client_id > CAST(? AS TEXT) "
            "AND client_id >= CAST(? AS TEXT) AND client_id < CAST(? AS TEXT) ORDER BY client_id LIMIT ?",
            (b"", b"a", b"b", 5),
        ).fetchall()
    assert len(plan) == 1
    assert "SEARCH keys USING INDEX" in plan[0][3]


@pytest.mark.proves("F20")
def test_threads_leave_nothing_open(store: SqliteStore, path: Path) -> None:
    store.get("id")
    for _ in range(10):
        in_threads(4, lambda: store.get("id"))
        # While another connection holds a lock, SQLite keeps the descriptor of a closed one for reuse.
        assert open_files(path) <= 1 + 4
    assert len(store._connections._connections.values()) == 1
    store.close()
    assert open_files(path) == 0


def test_a_collected_store_closes(path: Path) -> None:
    store = SqliteStore(f"sqlite:///{path}", create=True)
    store.get("id")
    del store
    gc.collect()
    assert open_files(path) == 0


def test_close_while_others_read(store: SqliteStore) -> None:
    failures: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                assert store.get("id") is not None
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        store.close()
        time.sleep(0.005)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert not failures


@pytest.mark.proves("X55", "F31")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_its_own_connections(store: SqliteStore) -> None:
    """It does not touch the connections of its parent's threads."""
    go_on, ready = threading.Event(), threading.Event()
    seen: list[str] = []

    def other() -> None:
        seen.append(name_of(store))
        ready.set()
        go_on.wait(30)
        seen.append(name_of(store))

    thread = threading.Thread(target=other)
    thread.start()
    assert ready.wait(10)
    assert name_of(store) == "old"

    def child() -> None:
        assert name_of(store) == "old"
        in_threads(2, lambda: store.get("id"))
        assert store.put(Key("id", name="child", version=2), 1)
        store.close()
        gc.collect()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    go_on.set()
    thread.join(10)

    assert process.exitcode == 0
    assert name_of(store) == "child"
    assert seen == ["old", "child"]
    assert store.put(Key("id", name="parent", version=3), 2)


READS_AT_EXIT = """
import sys, threading, time
from basicauth_mw.backends.sqlite.store import SqliteStore

store, reading = SqliteStore(sys.argv[1]), threading.Event()

def read(connection):
    reading.set()
    time.sleep(600)

store.get("id")
threading.Thread(target=store._connections.read, args=(read,), daemon=True).start()
reading.wait()
"""


def test_a_process_ends_while_a_background_thread_reads(store: SqliteStore, path: Path) -> None:
    """The interpreter stops the thread, which never releases its lock."""
    done = subprocess.run(
        [sys.executable, "-c", READS_AT_EXIT, f"sqlite:///{path}"], capture_output=True, text=True, timeout=30
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert name_of(store) == "old"


def test_a_prefix_is_searched_in_the_index(path: Path) -> None:
    """The time to read a page does not depend on the number of keys before it."""
    with closing(SqliteStore(f"sqlite:///{path}", create=True)) as store:
        statements: list[str] = []
        store.scan("x", "", 1)
        execute = store._connections._connections.get().raw.execute  # type: ignore[union-attr]
        execute("SELECT 1")
        store._connections._connections.get().raw.set_trace_callback(statements.append)  # type: ignore[union-attr]
        for prefix, after in (("x", ""), ("x", "xa"), ("", "xa"), ("", "")):
            store.scan(prefix, after, 10)
        queries = [query for query in statements if query.startswith("SELECT client_id, record")]
        assert len(queries) == 4
        for query in queries:
            assert query.count(">") == 1
            (plan,) = execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
            assert b"SEARCH keys USING INDEX" in plan[3]
