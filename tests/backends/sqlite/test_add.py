"""Many new keys at once in a SQLite file."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.backends import BulkStore
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.generated_secrets import ID_PREFIX, generate
from basicauth_mw.keys.hashing import Hasher
from basicauth_mw.keys.model import Key, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAST = "$bamw1$0$" + "A" * 16 + "$" + "B" * 43
SLOW = "$2b$12$" + "A" * 53


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(f"sqlite:///{path}", create=True)) as opened:
        yield opened


def keys(*ids: str, hashed: str = FAST, name: str = "") -> list[Key]:
    return [Key(client_id, name=name, version=1, secrets=(Secret(hashed),)) for client_id in ids]


def test_results_are_in_the_order_of_the_records(store: SqliteStore) -> None:
    """In whatever order they are written. A key whose ID is taken, even by the same call, is unchanged."""
    assert isinstance(store, BulkStore)
    assert store.put(*keys("m", name="before"), None)

    added = store.add([*keys("z", "m", "é", "a"), *keys("z", name="again"), *keys("b")])

    assert added == [True, False, True, True, False, True]
    found = {key.client_id: key.name for key in store.scan("", "", 10)}
    assert found == {"a": "", "b": "", "m": "before", "z": "", "é": ""}
    assert list(found) == ["a", "b", "m", "z", "é"]
    assert store.add([]) == []
    assert store.add(keys("a", "b")) == [False, False]


def test_added_keys_are_like_any_other(store: SqliteStore) -> None:
    secret = generate("sk")
    (new,) = keys(generate(ID_PREFIX), hashed=Hasher().digest_secret(secret))
    assert store.add([new]) == [True]
    found = store.get(new.client_id)
    assert found == new
    assert found is not None
    assert Hasher().verify_digest(secret, found.secrets)
    assert store.put(Key(new.client_id, version=2), 1)
    assert store.delete(new.client_id)


def test_password_hashes_are_recorded(store: SqliteStore) -> None:
    assert store.put(*keys("taken"), None)
    store.add(keys("fast"))
    store.add(keys("taken", hashed=SLOW))
    assert not store.changes(None).has_password_hashes
    store.add([*keys("another"), *keys("slow", hashed=SLOW)])
    assert store.changes(None).has_password_hashes


def test_new_keys_are_not_announced(store: SqliteStore) -> None:
    """No cache can hold a key that did not exist; later changes are announced as usual."""
    cursor = store.changes(None).cursor
    store.add(keys("a", "b"))
    seen = store.changes(cursor)
    assert seen.client_ids == ()
    assert not seen.incomplete
    assert store.put(Key("a", version=2), 1)
    assert store.changes(cursor).client_ids == ("a",)
    assert store.changes(seen.cursor).client_ids == ("a",)


def test_all_or_nothing(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON keys WHEN new.client_id = 'k500' "
            "BEGIN SELECT raise(ABORT, 'the disk is full'); END"
        )
        with pytest.raises(BackendUnavailable):
            store.add(keys(*(f"k{number}" for number in range(1000)), hashed=SLOW))
        assert connection.execute("SELECT count(*) FROM keys").fetchone() == (0,)
        assert not store.changes(None).has_password_hashes
        connection.execute("DROP TRIGGER full")
    assert all(store.add(keys(*(f"k{number}" for number in range(1000)))))


def test_the_file_is_complete_without_its_write_ahead_log(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    ids = [f"k{number:05}" for number in range(5000)]
    assert all(store.add(keys(*ids)))
    copied = tmp_path / "copy.db"
    shutil.copyfile(path, copied)
    with closing(SqliteStore(f"sqlite:///{copied}")) as copy:
        assert [key.client_id for key in copy.scan("", "", 6000)] == ids
