"""Damaged files, records and IDs."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.auth.cache import VerificationCache
from basicauth_mw.auth.runner import arun, run
from basicauth_mw.auth.verifier import Verifier
from basicauth_mw.backends.reader import StoreReader
from basicauth_mw.errors import BackendUnavailable, UnreadableRecord
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import Deny, Key

if TYPE_CHECKING:
    from pathlib import Path

    from basicauth_mw.backends.sqlite.store import SqliteStore


from tests.backends.sqlite.helpers import (
    NOTICED_WITHIN_S,
    damage,
    eventually,
    name_of,
)


@pytest.mark.proves("F18")
def test_damage_is_an_outage_until_it_is_repaired(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    store.close()
    good = path.read_bytes()
    for damaged in (
        b"\0" * len(good),
        good[:100],
        good[: len(good) // 2],
        good[:200] + b"\xff" * 8000,
        b"junk",
    ):
        path.write_bytes(damaged)
        assert eventually(lambda: name_of(store) == "unavailable") < NOTICED_WITHIN_S
    path.write_bytes(good)
    assert eventually(lambda: name_of(store) == "old") < NOTICED_WITHIN_S


def test_a_damaged_record_is_not_an_unknown_id(store: SqliteStore, path: Path) -> None:
    assert store.put(Key("good"), None)
    assert store.get("id") is not None
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE keys SET record = '{}' WHERE client_id = 'id'")
        with pytest.raises(UnreadableRecord):
            store.get("id")
        connection.execute("UPDATE keys SET record = x'ff00' WHERE client_id = 'id'")
        with pytest.raises(UnreadableRecord):
            store.get("id")
    assert store.get("good") is not None


@pytest.mark.proves("F18")
@pytest.mark.parametrize("name", ["7", "null", '["a"]'])
def test_damage_beside_the_hashes_accepts_nothing(path: Path, name: str) -> None:
    """The right secret and reading the key give an outage; a guess is refused as usual."""
    with closing(open_backend(f"sqlite:///{path}", settings=Settings(), create=True)) as backend:
        issued = backend.create(name="damaged", metadata={"long": "x" * 1000})
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE keys SET record = replace(record, '\"damaged\"', ?)", (name,))
        verifier = Verifier(backend.hasher, VerificationCache(30.0, 10))
        reader = StoreReader(backend.store, deadline_s=5.0, slow_hash_workers=1)
        reasons = []
        for secret in (issued.secret, generate("sk")):
            field = encode_basic(issued.client_id, secret).encode()
            for decision in (
                run(verifier.parse(field), reader),
                asyncio.run(arun(verifier.parse(field), reader)),
            ):
                assert isinstance(decision, Deny)
                reasons.append(decision.reason)
        assert reasons == ["backend_unavailable"] * 2 + ["wrong_secret"] * 2
        with pytest.raises(UnreadableRecord):
            backend.get(issued.client_id)
        with pytest.raises(UnreadableRecord):
            asyncio.run(backend.aget(issued.client_id))
        with pytest.raises(UnreadableRecord):
            backend.disable(issued.client_id)
        assert backend.delete(issued.client_id).name == ""
        assert backend.get(issued.client_id) is None


def test_metadata_is_not_shared_between_lookups(store: SqliteStore) -> None:
    assert store.put(Key("meta", metadata={"a": 1}), None)
    found: Any = store.get("meta")
    found.metadata["a"] = 2
    again = store.get("meta")
    assert again is not None
    assert again.metadata == {"a": 1}


NO_TEXT = "CAST(CAST(replace(record, 'old', 'o') AS BLOB) || x'a4' AS TEXT)"


@pytest.mark.parametrize("record", [NO_TEXT, "x'ff00'", "'{'", "''"], ids=["text", "blob", "cut", "empty"])
def test_a_damaged_record_affects_one_client(store: SqliteStore, path: Path, record: str) -> None:
    """The other keys work, the damaged one can be deleted, and the error contains no hash."""
    assert store.put(Key("later"), None)
    damage(path, f"UPDATE keys SET record = {record} WHERE client_id = 'id'")
    line = store._connections._connections.get().raw
    for call in (store.get, store.get_nowait, lambda _: store.scan("", "", 10)):
        with pytest.raises(UnreadableRecord) as caught:
            call("id")
        assert caught.value.client_id == "id"
        assert "canary" not in f"{caught.value} {caught.value.__cause__}"
    assert [key.client_id for key in store.scan("", "id", 10)] == ["later"]
    assert store.put(Key("later", name="changed", version=1), 0)
    assert store._connections._connections.get().raw is line is not None
    assert store.delete("id")
    assert [key.client_id for key in store.scan("", "", 10)] == ["later"]


def test_a_missing_record_is_not_an_unknown_id(store: SqliteStore, path: Path) -> None:
    """One changed byte in its row can cause this."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'record TEXT NOT NULL', 'record TEXT')"
        )
    damage(path, "UPDATE keys SET record = NULL")
    with pytest.raises(UnreadableRecord):
        store.get("id")


def test_a_damaged_client_id_hides_no_other_key(store: SqliteStore, path: Path) -> None:
    """It is skipped, and the administrator is warned."""
    for number in range(3):
        assert store.put(Key(f"k{number}"), None)
    cursor = store.changes(None).cursor
    damage(path, "UPDATE keys SET client_id = CAST(x'6bff' AS TEXT) WHERE client_id = 'k1'")
    assert store.put(Key("ké"), None)
    assert [key.client_id for key in store.scan("k", "", 2)] == ["k0", "k2"]
    assert [key.client_id for key in store.scan("k", "k2", 2)] == ["ké"]
    assert [key.client_id for key in store.scan("", "", 9)] == ["id", "k0", "k2", "ké"]
    ((code, message, _),) = store.warnings()
    assert code == "sqlite_damaged_ids"
    assert "(1)" in message
    damage(path, "UPDATE changes SET client_id = CAST(x'ff' AS TEXT) WHERE client_id = 'ké'")
    assert store.changes(cursor).incomplete
    assert not store.changes(store.changes(cursor).cursor).incomplete


def test_the_drivers_message_is_not_passed_on(store: SqliteStore) -> None:
    """A message without an SQLite error code may contain stored text."""

    def fail(_execute: object) -> None:
        raise sqlite3.OperationalError("Could not decode to UTF-8 column 'record' with text '$bamw1$canary'")

    for call in (store._connections.read, store._connections.write):
        with pytest.raises(BackendUnavailable, match="OperationalError") as caught:
            call(fail)
        assert "canary" not in str(caught.value)


def test_errors_contain_no_hash(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE keys SET record = replace(record, '\"v\":1', '\"v\":9')")
    with pytest.raises(UnreadableRecord) as caught:
        store.get("id")
    assert "canary" not in str(caught.value)
