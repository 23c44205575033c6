"""A file that is replaced, overwritten, restored or removed while it is open."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.model import Key

if TYPE_CHECKING:
    from collections.abc import Callable

from tests.backends.sqlite.helpers import (
    NOTICED_WITHIN_S,
    eventually,
    name_of,
    open_files,
)


def other_file(directory: Path, name: str, *, keys: int = 1) -> Path:
    """A complete, closed file with other keys."""
    made = directory / f"{name}.db"
    with closing(SqliteStore(f"sqlite:///{made}", create=True)) as store:
        for number in range(keys):
            store.put(Key(f"id{number or ''}", name=name, version=1), None)
    return made


@pytest.mark.proves("F16")
def test_a_replaced_file_is_noticed(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    """Even by a thread that read the old file and has been idle since."""
    cursor = store.changes(None).cursor
    go_on, ready, seen = threading.Event(), threading.Event(), []

    def idle() -> None:
        seen.append(name_of(store))
        ready.set()
        go_on.wait(10)
        seen.append(name_of(store))

    thread = threading.Thread(target=idle)
    thread.start()
    assert ready.wait(10)
    assert name_of(store) == "old"

    other_file(tmp_path, "new").rename(path)
    took_s = eventually(lambda: name_of(store) == "new")
    go_on.set()
    thread.join(10)

    assert took_s < NOTICED_WITHIN_S
    assert seen == ["old", "new"]
    assert store.changes(cursor).incomplete
    assert store.put(Key("id", name="newer", version=2), 1)
    assert name_of(store) == "newer"


@pytest.mark.proves("F16")
def test_the_change_feed_notices_a_replaced_file_at_once(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    """From then on, lookups read the new file."""
    new = other_file(tmp_path, "new")
    cursor = store.changes(None).cursor
    assert name_of(store) == "old"
    new.rename(path)
    assert store.changes(cursor).incomplete
    assert name_of(store) == "new"


@pytest.mark.proves("F16")
def test_a_process_closes_a_replaced_file_in_all_stores(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    """SQLite's locks on the log belong to the process, so all its stores close the file together.

    A store that closed the old file later would drop the locks of the others, which would then read an index
    that another process truncates (SIGBUS).
    """
    with closing(SqliteStore(f"sqlite:///{path}")) as idle, closing(SqliteStore(f"sqlite:///{path}")) as busy:
        assert name_of(idle) == name_of(busy) == name_of(store) == "old"
        other_file(tmp_path, "new").rename(path)
        assert open_files(path, gone=True) > 0
        reading, go_on = threading.Event(), threading.Event()

        def read(_execute: object) -> None:
            reading.set()
            go_on.wait(10)

        thread = threading.Thread(target=busy._connections.read, args=(read,))
        thread.start()
        assert reading.wait(10)
        with pytest.raises(BlockingIOError, match="still reads the old file"):
            store._connections.read(lambda _execute: None, compare=True)
        go_on.set()
        thread.join(10)
        store.changes(None)

        assert open_files(path, gone=True) == 0
        assert name_of(store) == name_of(idle) == name_of(busy) == "new"
        store.changes(None)
        idle.changes(None)
        before = open_files(path)
        store.changes(None)
        assert open_files(path) == before  # a store that has the new file open is unaffected


HOLDS = """
import sys
from basicauth_mw.backends.sqlite.store import SqliteStore
store = SqliteStore(sys.argv[1])
print(store.get("id").name, flush=True)
sys.stdin.readline()
"""


def is_refused(store: SqliteStore) -> bool:
    try:
        store.get("id299")
    except BackendUnavailable as exc:
        return "if it was just replaced, wait" in str(exc)
    return False


@pytest.mark.proves("F16")
@pytest.mark.parametrize("first", ["get", "put"])
def test_a_replaced_file_that_is_still_open_elsewhere(
    store: SqliteStore, path: Path, tmp_path: Path, first: str
) -> None:
    """The log of the old file still exists, and describes fewer pages than the new file has."""
    new = other_file(tmp_path, "new", keys=300)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, f"sqlite:///{path}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "old\n"
    assert store.put(Key("by the log"), None)
    store.close()
    new.rename(path)
    with closing(SqliteStore(f"sqlite:///{path}")) as opened:
        # Newer SQLite releases may refuse until the other process closes the log of the old file.
        if sqlite3.sqlite_version_info >= (3, 41) and is_refused(opened):
            other.communicate("end\n", timeout=30)
        if first == "put":
            assert opened.put(Key("id", name="newer", version=2), 1)
        else:
            assert opened.get("id299") is not None
        assert len(opened.scan("", "", 1000)) == 300
    if other.poll() is None:
        other.communicate("end\n", timeout=30)


def test_a_file_that_is_replaced_during_a_change_is_noticed(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    new = other_file(tmp_path, "new")
    store._connections.write(lambda _execute: new.rename(path))
    assert eventually(lambda: name_of(store) == "new") < NOTICED_WITHIN_S


@pytest.mark.proves("F16")
def test_an_overwritten_file_is_noticed(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    """As ``cp backup.db keys.db`` does, which keeps the inode; the copy is larger."""
    assert name_of(store) == "old"
    shutil.copyfile(other_file(tmp_path, "new", keys=100), path)
    assert eventually(lambda: name_of(store) == "new") < NOTICED_WITHIN_S
    assert len(store.scan("", "", 1000)) == 100


def test_a_cursor_does_not_outlive_an_overwritten_file(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    """Its sequence number may exist in the other file, and the inode is the same."""
    store.put(Key("second"), None)
    cursor = store.changes(None).cursor
    shutil.copyfile(other_file(tmp_path, "new", keys=100), path)
    eventually(lambda: name_of(store) == "new")
    assert store.changes(cursor).incomplete


@pytest.mark.proves("F16")
@pytest.mark.parametrize("change", ["put", "add"])
def test_a_cursor_does_not_outlive_a_restored_backup(store: SqliteStore, path: Path, change: str) -> None:
    """The inode and all changes up to the backup are the same, but later changes are gone."""
    backup = path.read_bytes()
    if change == "put":
        assert store.put(Key("gone"), None)
    else:
        assert store.add([Key("gone")]) == [True]
    cursor = store.changes(None).cursor
    assert not store.changes(cursor).incomplete
    path.write_bytes(backup)
    eventually(lambda: store.get("gone") is None)
    assert store.put(Key("other"), None)
    assert store.changes(cursor).incomplete


def test_a_copy_is_complete_without_its_log(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    """Every change is in the file itself."""
    copied = tmp_path / "copy.db"
    shutil.copyfile(path, copied)
    with closing(SqliteStore(f"sqlite:///{copied}")) as copy:
        assert name_of(copy) == "old"


@pytest.fixture
def link(path: Path) -> Path:
    """A symbolic link in another directory."""
    made = path.parent / "links" / "linked.db"
    made.parent.mkdir()
    made.symlink_to(path)
    return made


def test_a_link_that_is_changed_is_noticed(
    store: SqliteStore, path: Path, link: Path, tmp_path: Path
) -> None:
    with closing(SqliteStore(f"sqlite:///{link}")) as linked:
        assert name_of(linked) == "old"
        cursor = linked.changes(None).cursor
        link.unlink()
        link.symlink_to(other_file(tmp_path, "new"))
        assert eventually(lambda: name_of(linked) == "new") < NOTICED_WITHIN_S
        assert linked.changes(cursor).incomplete
        assert linked.put(Key("id", name="newer", version=2), 1)
        link.unlink()
        link.symlink_to(link)
        assert eventually(lambda: name_of(linked) == "unavailable") < NOTICED_WITHIN_S
        link.unlink()
        link.symlink_to(path)
        assert eventually(lambda: name_of(linked) == "old") < NOTICED_WITHIN_S


def test_the_log_of_a_linked_file(store: SqliteStore, link: Path) -> None:
    """The error names the directory of the file, not that of the link."""
    with closing(SqliteStore(f"sqlite:///{link}")) as linked:
        assert name_of(linked) == "old"
        assert [each.name for each in link.parent.iterdir()] == [link.name]
        assert linked.warnings() == []


ELSEWHERE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA wal_autocheckpoint = 0")
connection.execute("UPDATE keys SET record = replace(record, 'old', 'new')")
print("changed", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("through", ["path", "link"])
def test_a_removed_log_is_noticed(
    store: SqliteStore, path: Path, through: str, request: pytest.FixtureRequest
) -> None:
    """Other processes then write to a new log, and the file itself does not change."""
    store.close()
    with closing(SqliteStore(f"sqlite:///{request.getfixturevalue(through)}")) as opened:
        log = path.with_name("keys.db-wal")
        eventually(lambda: name_of(opened) == "old" and opened._connections._log == log.stat().st_ino)
        before = path.stat()
        held = log.open("rb")  # so that the new log gets another inode
        log.unlink()
        path.with_name("keys.db-shm").unlink()
        other = subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert other.stdout is not None
        assert other.stdout.readline() == "changed\n"
        after = path.stat()
        assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
            before.st_ino,
            before.st_size,
            before.st_mtime_ns,
        )
        assert eventually(lambda: name_of(opened) == "new") < NOTICED_WITHIN_S
        other.communicate("end\n", timeout=30)
        held.close()


@pytest.mark.proves("F17")
@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: os.truncate(path, 0)], ids=["missing", "emptied"]
)
def test_a_missing_file_that_comes_back(
    store: SqliteStore, path: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    assert name_of(store) == "old"
    damage(path)
    assert eventually(lambda: name_of(store) == "unavailable") < NOTICED_WITHIN_S
    with pytest.raises(BackendUnavailable):
        store.put(Key("x"), None)
    assert not path.exists() or path.stat().st_size == 0
    other_file(tmp_path, "new").rename(path)
    assert eventually(lambda: name_of(store) == "new") < NOTICED_WITHIN_S
