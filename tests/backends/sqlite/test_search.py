"""Searches in a SQLite file use its indexes, which every change keeps up to date."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, Settings, open_backend
from basicauth_mw.backends.sqlite import search
from basicauth_mw.keys.filters import KeyFilter
from basicauth_mw.keys.model import Key, Secret, utcnow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from basicauth_mw.backends.sqlite.store import SqliteStore

DAY = timedelta(days=1)


def found(store: SqliteStore, *filters: Any, after: str = "", limit: int = 99) -> list[str] | None:
    keys = store.search(KeyFilter(*filters), after, limit)
    return None if keys is None else [key.client_id for key in keys]


def change(path: Path, statement: str) -> None:
    """Change the file as another program does."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


@pytest.fixture
def backend(store: SqliteStore) -> Backend:
    return Backend(store, settings=Settings())


@pytest.fixture
def keys(store: SqliteStore) -> SqliteStore:
    """A store with keys of every kind."""
    now = utcnow()
    some = [
        Key("acme-1", name='The "Acme" Company', scopes=frozenset({"reports:read"})),
        Key("acme-2", name="Stra\u00dfe", expires_at=now - DAY),
        Key("b", name="acme*", expires_at=now + DAY, scopes=frozenset({"Reports:write", "x"})),
        Key("c", disabled=True, expires_at=now - DAY),
        Key("d", revoked_at=now, disabled=True),
        Key("e", secrets=(Secret("x", now - 2 * DAY, now - DAY), Secret("x", now - DAY, now + DAY))),
        Key("f", secrets=(Secret("x", now - 2 * DAY, now - DAY), Secret("x", now - DAY))),
    ]
    assert store.add(some[:4]) == [True] * 4
    assert all(store.put(key, None) for key in some[4:])
    return store


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (("acme",), ["acme-1", "acme-2", "b"]),
        (("ACME-",), ["acme-1", "acme-2"]),
        (('"acme" comp',), ["acme-1"]),
        (("mpany company com",), []),
        (("company the",), []),
        (("compan" + "y" * 190,), []),
        (("me*",), ["b"]),
        (("strasse",), ["acme-2"]),
        (("nothing",), []),
        (("acme", None, "reports:read"), ["acme-1"]),
        (("", None, "reports:write"), ["b"]),
        (("", "expired"), ["acme-2"]),
        (("", "disabled"), ["c"]),
        (("", "revoked"), ["d"]),
        (("", "expiring"), ["b", "e"]),
        (("acme", "revoked"), ["acme-1", "acme-2", "b"]),  # candidates: the caller compares the state
        (("ac", "revoked"), ["d"]),
        (("",), None),
        (("ac",), None),
        (("a\0me",), None),
        (("acme\0",), ["acme-1", "acme-2", "b"]),
        (("", "active"), None),
        (("", "unused"), None),
        (("", None, "x"), None),
    ],
)
def test_candidates(keys: SqliteStore, filters: tuple[Any, ...], expected: list[str] | None) -> None:
    assert found(keys, *filters) == expected


def test_page_by_page(keys: SqliteStore) -> None:
    assert found(keys, "acme", limit=2) == ["acme-1", "acme-2"]
    assert found(keys, "acme", after="acme-2", limit=2) == ["b"]
    assert found(keys, "acme", after="b") == []


def test_changed_keys_are_found(keys: SqliteStore) -> None:
    (key,) = keys.search(KeyFilter("acme-1"), "", 9) or []
    later = replace(key, name="Globex", scopes=frozenset({"admin"}), disabled=True, version=1)
    assert keys.put(later, 0)
    assert (found(keys, "company"), found(keys, "globex"), found(keys, "", None, "admin")) == (
        [],
        ["acme-1"],
        ["acme-1"],
    )
    assert found(keys, "", "disabled") == ["acme-1", "c"]
    assert keys.delete("acme-1")
    assert (found(keys, "globex"), found(keys, "", "disabled")) == ([], ["c"])


def test_too_many_candidates_are_not_sorted(keys: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_CANDIDATES", 2)
    assert found(keys, "acme-") == ["acme-1", "acme-2"]
    assert found(keys, "acme") is None
    assert found(keys, "acme", "expired") == ["acme-2"], "the other index is tried"


def test_a_rare_text_is_found_at_once(
    store: SqliteStore, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although a search looks at a bounded number of keys."""
    monkeypatch.setattr("basicauth_mw.backends.search.MAX_SCANNED", 4)
    store.add([Key(f"k{number}", name="rare" if number in {3, 8} else "") for number in range(10)])
    page = backend.search("RARE")
    assert ([key.client_id for key in page.keys], page.next, page.complete) == (["k3", "k8"], None, True)


def test_a_damaged_record_leaves_it_to_a_scan(keys: SqliteStore, path: Path, backend: Backend) -> None:
    change(path, "UPDATE keys SET record = '{' WHERE client_id = 'acme-2'")
    assert found(keys, "acme") is None
    assert [key.client_id for key in backend.search("acme").keys] == ["acme-1", "b"]


def test_rows_that_another_program_deleted(keys: SqliteStore, path: Path) -> None:
    """Their entries in the index are not found, and are replaced when their numbers are used again."""
    change(path, "DELETE FROM keys")
    assert found(keys, "acme") == []
    assert keys.put(Key("new", name="Hooli"), None)
    assert (found(keys, "acme"), found(keys, "hooli")) == ([], ["new"])


def test_a_file_that_lost_the_index(keys: SqliteStore, path: Path) -> None:
    """SQLite restores the table of an index only if it may write to its schema.

    Keys can still be changed, and the next upgrade builds the index again.
    """
    change(path, "DROP TABLE key_texts")
    change(path, "CREATE TABLE key_texts_data (id INTEGER PRIMARY KEY, block BLOB)")
    assert keys.put(Key("new", name="acme"), None)
    assert keys.delete("acme-1")
    assert found(keys, "acme") is None
    assert keys.upgrade() is None
    assert found(keys, "acme") == ["acme-2", "b", "new"]
    assert keys.delete("acme-2")
    assert found(keys, "acme") == ["b", "new"]


@pytest.fixture
def without_trigrams(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """As if SQLite lacked FTS5 or its trigram tokenizer: the index cannot be created."""
    monkeypatch.setattr(search, "_TEXTS", "CREATE VIRTUAL TABLE key_texts USING missing(text)")
    search.supports_text.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    search.supports_text.cache_clear()


def test_a_process_without_trigrams(
    keys: SqliteStore, path: Path, backend: Backend, without_trigrams: pytest.MonkeyPatch
) -> None:
    """It reads and changes keys. The index is built again by the next upgrade of a process that has them."""
    assert found(keys, "acme") is None
    assert found(keys, "", "revoked") == ["d"]
    assert keys.upgrade() is None
    assert keys.put(Key("new", name="acme"), None)
    assert keys.delete("acme-1")

    without_trigrams.undo()
    search.supports_text.cache_clear()
    assert found(keys, "acme") is None, "it is out of date"
    assert [key.client_id for key in backend.search("acme").keys] == ["acme-2", "b", "new"]
    assert keys.upgrade() is None
    assert found(keys, "acme") == ["acme-2", "b", "new"]
    before = path.read_bytes()
    assert keys.upgrade() is None
    assert path.read_bytes() == before


def test_a_file_created_without_trigrams(path: Path, without_trigrams: pytest.MonkeyPatch) -> None:
    new = path.with_name("new.db")
    with open_backend(f"sqlite:///{new}", settings=Settings(), create=True) as backend:
        backend.create(client_id="ci", name="nightly build")
        assert len(backend.search("nightly").keys) == 1
        without_trigrams.undo()
        search.supports_text.cache_clear()
        assert found(backend.store, "nightly") is None
        assert backend.store.upgrade() is None
        assert found(backend.store, "nightly") == ["ci"]
