"""Last-used times: the file next to the SQLite file of keys."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw.backends import LastUse, UsageStore
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.model import Key, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOON = datetime(2031, 2, 3, 12, 0, tzinfo=UTC)
FIRST = datetime(2031, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
SECOND = datetime(2031, 1, 1, 0, 0, 0, 2, tzinfo=UTC)
THIRD = datetime(2031, 1, 1, 0, 0, 0, 3, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
def uses(path: Path) -> Path:
    return path.with_name("keys.db.last-used")


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(f"sqlite:///{path}", deadline_s=0.2, create=True)) as opened:
        assert opened.put(key("id", FIRST, SECOND), None)
        yield opened


def key(client_id: str, *created: datetime, version: int = 1) -> Key:
    return Key(client_id, version=version, secrets=tuple(Secret("$bamw1$x", moment) for moment in created))


def known(store: SqliteStore, *client_ids: str) -> set[tuple[str, datetime, datetime]]:
    return {
        (use.client_id, use.secret_created_at, use.at) for use in store.last_uses(list(client_ids or ["id"]))
    }


def test_the_last_use_of_each_secret(store: SqliteStore) -> None:
    assert isinstance(store, UsageStore)
    assert store.put(key("ключ", FIRST), None)
    assert store.last_uses(["id"]) == []

    store.record_uses(
        [LastUse("id", FIRST, NOON), LastUse("id", SECOND, NOON + MINUTE), LastUse("ключ", FIRST, NOON)]
    )

    assert known(store) == {("id", FIRST, NOON), ("id", SECOND, NOON + MINUTE)}
    assert known(store, "ключ", "unknown") == {("ключ", FIRST, NOON)}
    assert len(known(store, "id", "ключ")) == 3
    assert store.last_uses([]) == []


def test_it_is_stored_to_the_minute(store: SqliteStore) -> None:
    store.record_uses([LastUse("id", FIRST, NOON + timedelta(seconds=59, microseconds=999_999))])
    assert known(store) == {("id", FIRST, NOON)}


def test_it_never_goes_back(store: SqliteStore) -> None:
    store.record_uses([LastUse("id", FIRST, NOON)])
    store.record_uses([LastUse("id", FIRST, NOON - MINUTE)])
    assert known(store) == {("id", FIRST, NOON)}
    store.record_uses([LastUse("id", FIRST, NOON + 2 * MINUTE), LastUse("id", FIRST, NOON + MINUTE)])
    assert known(store) == {("id", FIRST, NOON + 2 * MINUTE)}


def test_only_of_keys_that_are_stored(store: SqliteStore) -> None:
    store.record_uses([LastUse("unknown", FIRST, NOON), LastUse("id", FIRST, NOON)])
    assert known(store, "unknown", "id") == {("id", FIRST, NOON)}
    assert store.put(key("unknown", FIRST), None)
    assert known(store, "unknown") == set()


def test_a_use_does_not_change_the_key(store: SqliteStore, path: Path) -> None:
    cursor = store.changes(None).cursor
    before = path.read_bytes(), path.stat().st_mtime_ns
    store.record_uses([LastUse("id", FIRST, NOON)])
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    seen = store.changes(cursor)
    assert (seen.cursor, seen.client_ids, seen.incomplete) == (cursor, (), False)
    assert store.put(key("id", FIRST, version=2), 1)


def test_connections_stay_open(store: SqliteStore, path: Path) -> None:
    """A recorded use must not look like a replaced file."""
    with closing(SqliteStore(f"sqlite:///{path}")) as other:
        assert other.get("id")
        connection = other._connections._connections.get().raw
        end = time.monotonic() + 1.5  # longer than the interval between two checks of the file
        minute = NOON
        while time.monotonic() < end:
            minute += MINUTE
            store.record_uses([LastUse("id", FIRST, minute)])
            assert other.get("id")
        assert connection is not None
        assert other._connections._connections.get().raw is connection


def test_uses_of_dropped_secrets_are_deleted(store: SqliteStore) -> None:
    """Except the latest of all, which is the key's last-used time."""
    store.record_uses([LastUse("id", FIRST, NOON + MINUTE), LastUse("id", SECOND, NOON)])
    assert store.put(key("id", THIRD, version=2), 1)
    assert known(store) == {("id", FIRST, NOON + MINUTE)}
    store.record_uses([LastUse("id", THIRD, NOON + 2 * MINUTE)])
    assert known(store) == {("id", FIRST, NOON + MINUTE), ("id", THIRD, NOON + 2 * MINUTE)}
    assert store.put(key("id", THIRD, version=3), 2)
    assert known(store) == {("id", THIRD, NOON + 2 * MINUTE)}


def test_a_refused_put_deletes_nothing(store: SqliteStore) -> None:
    store.record_uses([LastUse("id", FIRST, NOON), LastUse("id", SECOND, NOON + MINUTE)])
    assert not store.put(key("id", THIRD, version=9), 8)
    assert not store.delete("unknown")
    assert len(known(store)) == 2


def test_delete_deletes_all_uses(store: SqliteStore) -> None:
    assert store.put(key("other", FIRST), None)
    store.record_uses(
        [LastUse("id", FIRST, NOON), LastUse("id", SECOND, NOON), LastUse("other", FIRST, NOON)]
    )
    assert store.delete("id")
    assert store.put(key("id", FIRST), None)
    assert known(store, "id", "other") == {("other", FIRST, NOON)}


@pytest.mark.parametrize("way", ["put", "add"])
def test_a_new_key_has_no_uses_of_an_earlier_one(
    store: SqliteStore, path: Path, uses: Path, way: str
) -> None:
    """The file of keys was deleted, and this file was not."""
    store.record_uses([LastUse("id", FIRST, NOON), LastUse("id", SECOND, NOON)])
    store.close()
    path.unlink()
    with closing(SqliteStore(f"sqlite:///{path}", create=True)) as again:
        new = key("id", FIRST)
        assert again.put(new, None) if way == "put" else again.add([new]) == [True]
        assert uses.exists()
        assert known(again) == set()
        again.record_uses([LastUse("id", FIRST, NOON)])
        assert not again.put(new, None)
        assert again.add([new]) == [False]
        assert known(again) == {("id", FIRST, NOON)}


def test_only_the_owner_may_read_it(store: SqliteStore, path: Path, uses: Path) -> None:
    assert not uses.exists()
    store.record_uses([LastUse("id", FIRST, NOON)])
    assert stat.S_IMODE(uses.stat().st_mode) == 0o600
    assert store.warnings() == []
    uses.chmod(0o640)
    ((code, message, remedy),) = store.warnings()
    assert (code, remedy) == ("sqlite_file_mode", f"chmod 600 {uses}")
    assert str(uses) in message


def test_it_has_the_owner_of_the_keys(store: SqliteStore, path: Path, uses: Path) -> None:
    """Otherwise a command run by root would lock the server out."""
    path.chmod(0o660)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65533)
    store.record_uses([LastUse("id", FIRST, NOON)])
    keys, made = path.stat(), uses.stat()
    assert (made.st_uid, made.st_gid) == (keys.st_uid, keys.st_gid)
    assert stat.S_IMODE(made.st_mode) == 0o660


def junk(uses: Path) -> None:
    uses.write_bytes(b"junk" * 2000)


def alien(uses: Path) -> None:
    uses.write_bytes(b"")
    with closing(sqlite3.connect(uses)) as connection:
        connection.execute("CREATE TABLE last_used (a)")


def newer(uses: Path) -> None:
    with closing(sqlite3.connect(uses, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 2")


def directory(uses: Path) -> None:
    uses.unlink()
    uses.mkdir(0o700)


@pytest.mark.parametrize("damage", [junk, alien, newer, directory])
def test_damage_to_it_does_no_harm_to_keys(
    store: SqliteStore, uses: Path, damage: Callable[[Path], None]
) -> None:
    store.record_uses([LastUse("id", FIRST, NOON)])
    damage(uses)

    assert store.last_uses(["id"]) == []
    assert store.put(key("id", FIRST, version=2), 1)
    assert store.delete("id")
    assert store.put(key("id", FIRST), None)
    with pytest.raises(BackendUnavailable, match="last"):
        store.record_uses([LastUse("id", FIRST, NOON)])
    ((code, message, remedy),) = store.warnings()
    assert (code, remedy) == ("sqlite_last_used", f"rm {uses}")
    assert "last" in message

    uses.rmdir() if uses.is_dir() else uses.unlink()
    store.record_uses([LastUse("id", FIRST, NOON)])
    assert known(store) == {("id", FIRST, NOON)}
    assert store.warnings() == []


@pytest.mark.parametrize(
    "row",
    [(2**62, 5), (5, 2**62), ("x", 5), (5, "x"), (b"\xff", 5), (5, 1e300)],
    ids=["secret", "minute", "text-secret", "text-minute", "bytes", "real"],
)
def test_a_damaged_row_hides_nothing_else(store: SqliteStore, uses: Path, row: tuple[Any, Any]) -> None:
    store.record_uses([LastUse("id", FIRST, NOON), LastUse("id", SECOND, NOON + MINUTE)])
    with closing(sqlite3.connect(uses, isolation_level=None)) as connection:
        connection.execute("INSERT INTO last_used VALUES ('id', ?, ?)", row)

    assert known(store) == {("id", FIRST, NOON), ("id", SECOND, NOON + MINUTE)}
    assert store.put(key("id", THIRD, version=2), 1)
    assert known(store) == {("id", SECOND, NOON + MINUTE)}
    assert store.delete("id")


def test_they_are_next_to_the_target_of_a_link(store: SqliteStore, path: Path, uses: Path) -> None:
    """A process that opens the target directly finds them, and the link may point elsewhere later."""
    links, other = path.parent / "links", path.parent / "other.db"
    links.mkdir()
    link = links / "linked.db"
    link.symlink_to(path)
    with closing(SqliteStore(f"sqlite:///{link}")) as linked:
        linked.record_uses([LastUse("id", FIRST, NOON)])
        assert known(store) == known(linked) == {("id", FIRST, NOON)}
        assert list(links.iterdir()) == [link]
        shutil.copyfile(path, other)
        link.unlink()
        link.symlink_to(other)
        assert known(linked) == set()
    assert uses.exists()


def test_an_empty_file_is_filled(store: SqliteStore, uses: Path) -> None:
    """A process that is killed between creating and filling the file leaves it empty."""
    uses.touch(0o600)
    assert store.last_uses(["id"]) == []
    assert store.put(key("id", FIRST, version=2), 1)
    assert store.warnings() == []
    store.record_uses([LastUse("id", FIRST, NOON)])
    assert known(store) == {("id", FIRST, NOON)}


def test_it_is_created_with_the_first_use(store: SqliteStore, path: Path, uses: Path) -> None:
    store.record_uses([])
    store.delete("id")
    assert not uses.exists()
    path.unlink()
    with pytest.raises(BackendUnavailable):
        store.record_uses([LastUse("id", FIRST, NOON)])


def test_it_cannot_be_created(store: SqliteStore, path: Path, uses: Path) -> None:
    uses.symlink_to(path.parent / "none" / "x")
    with pytest.raises(BackendUnavailable, match="last-used"):
        store.record_uses([LastUse("id", FIRST, NOON)])
    assert store.last_uses(["id"]) == []
    uses.unlink()
    shutil.rmtree(path.parent)
    with pytest.raises(BackendUnavailable, match="cannot be created: No such file"):
        store.record_uses([LastUse("id", FIRST, NOON)])


def test_a_restored_backup_keeps_them(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    shutil.copyfile(path, backup)
    store.record_uses([LastUse("id", FIRST, NOON)])
    backup.rename(path)
    with closing(SqliteStore(f"sqlite:///{path}")) as restored:
        assert known(restored) == {("id", FIRST, NOON)}


def test_many_threads(store: SqliteStore) -> None:
    """Four threads write, one deletes and creates the key again: no error, and the final state is right."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(20):
                store.record_uses([LastUse("id", FIRST, NOON + (number + 4 * step) * MINUTE)])
        except BaseException as exc:
            failures.append(exc)

    def remake() -> None:
        try:
            for _ in range(10):
                store.delete("id")
                store.put(key("id", FIRST), None)
        except BaseException as exc:
            failures.append(exc)

    jobs: list[Any] = [(work, (number,)) for number in range(4)]
    threads = [threading.Thread(target=target, args=args) for target, args in [*jobs, (remake, ())]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    store.record_uses([LastUse("id", FIRST, NOON + 1000 * MINUTE)])
    assert known(store) == {("id", FIRST, NOON + 1000 * MINUTE)}
