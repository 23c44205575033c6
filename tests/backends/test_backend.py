"""``Backend`` over the memory store and over stores with fewer features."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import weakref
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint, EntryPoints
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, Change, Key, Settings, encode_basic, open_backend
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.errors import (
    BackendUnavailable,
    ConfigurationError,
    InvalidKey,
    KeyExists,
    KeyNotFound,
    KeyRevoked,
    ReadOnlyBackend,
    UnreadableRecord,
)
from basicauth_mw.keys.generated_secrets import SecretShape, classify, generate

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.fixture
def backend() -> Backend:
    return open_backend("memory:", settings=Settings(secret_prefix="acme_live"))


@pytest.mark.proves("O2")
def test_a_generated_key(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """The secret is returned once, the key can be looked up, and neither repr nor log shows the secret."""
    caplog.set_level(logging.DEBUG)
    expires_at = datetime.now(UTC) + timedelta(days=90)
    issued = backend.create(name="ci", scopes=["read"], expires_at=expires_at, metadata={"team": "x"})

    assert re.fullmatch("id_[0-9A-Za-z]{12}", issued.client_id)
    assert issued.secret.startswith("acme_live_")
    assert classify(issued.secret) is SecretShape.GENERATED
    assert issued.authorization == encode_basic(issued.client_id, issued.secret) == f"Basic {issued.token}"
    found = backend.get(issued.client_id)
    assert found == issued.key == asyncio.run(backend.aget(issued.client_id))
    assert (found.name, found.scopes, found.expires_at, found.metadata) == (
        "ci",
        {"read"},
        expires_at,
        {"team": "x"},
    )
    shown = f"{issued!r} {found!r} {backend!r} {caplog.text}"
    for secret in (issued.secret, issued.authorization, found.secrets[0].hash):
        assert secret not in shown
    (event,) = [record.basicauth for record in caplog.records if record.name == "basicauth_mw.audit"]  # type: ignore[attr-defined]
    assert (event["event"], event["client_id"]) == ("key.created", issued.client_id)


def test_a_client_id_is_unique(backend: Backend) -> None:
    backend.create(client_id="ci", secret="password")
    with pytest.raises(KeyExists):
        backend.create(client_id="ci")
    backend.delete("ci")

    assert backend.create(client_id="ci").key.version > 0


@pytest.mark.parametrize(
    "fields",
    [
        {"client_id": "a:b"},
        {"secret": ""},
        {"name": "n" * 201},
        {"scopes": "read"},
        {"expires_at": datetime(2000, 1, 1, tzinfo=UTC)},
        {"metadata": {"a": object()}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_nothing_is_stored_of_an_invalid_key(backend: Backend, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidKey):
        backend.create(**fields)

    assert list(backend.iter_keys()) == []


def test_the_life_cycle_of_a_key(backend: Backend) -> None:
    """Disabled and enabled repeatedly, revoked for good, and deleted, which frees the ID."""
    backend.create(client_id="ci")
    for _ in range(2):
        assert backend.disable("ci").disabled
    for _ in range(2):
        assert not backend.enable("ci").disabled
    revoked_at = backend.revoke("ci").revoked_at

    assert revoked_at is not None
    assert backend.revoke("ci").revoked_at == revoked_at
    with pytest.raises(KeyRevoked):
        backend.enable("ci")
    assert backend.delete("ci").client_id == "ci"
    for change in (backend.disable, backend.enable, backend.revoke, backend.delete):
        with pytest.raises(KeyNotFound):
            change("ci")


def test_an_old_version_does_not_match_a_new_key_with_the_same_id(backend: Backend) -> None:
    """A writer that read the key before it was deleted and created again cannot restore its secrets."""
    old = backend.create(client_id="ci").key
    backend.delete("ci")
    backend.create(client_id="ci")

    assert not backend.store.put(replace(old, name="back", version=old.version + 1), old.version)


def test_pages(backend: Backend) -> None:
    """Ordered by the bytes of the IDs; with a prefix, a cursor and a limit."""
    ids = ["a", "a1", "a2", "b", "ä", "\U0001f511"]
    for client_id in reversed(ids):
        backend.create(client_id=client_id)

    def listed(**options: Any) -> list[str]:
        return [key.client_id for key in backend.iter_keys(**options)]

    assert listed() == ids
    assert listed(prefix="a") == ["a", "a1", "a2"]
    assert listed(prefix="a", after="a", limit=1) == ["a1"]
    assert listed(limit=0) == []
    assert listed(after="\U0001f511") == []


def test_a_read_only_store() -> None:
    class Store:
        def get(self, client_id: str) -> Key | None:
            return None

    backend = Backend(Store(), settings=Settings())
    for change in (backend.create, lambda: backend.revoke("a"), lambda: backend.delete("a")):
        with pytest.raises(ReadOnlyBackend):
            change()
    with pytest.raises(ReadOnlyBackend):
        list(backend.iter_keys())
    assert backend.get("a") is None
    with backend:
        pass
    asyncio.run(backend.aclose())


def test_a_change_gives_up_if_others_keep_changing_the_key(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy(MemoryStore):
        def put(self, record: Key, /, expect_version: int | None, changes: Sequence[Change] = ()) -> bool:
            return expect_version is None and super().put(record, expect_version)

    monkeypatch.setattr("basicauth_mw.backends.writes._CHANGE_LIMIT_S", 0.5)
    busy = Backend(Busy(), settings=Settings())
    busy.create(client_id="ci")
    with pytest.raises(BackendUnavailable):
        busy.disable("ci")


def test_a_damaged_record_can_be_deleted() -> None:
    class Damaged(MemoryStore):
        def get(self, client_id: str, /) -> Key | None:
            raise UnreadableRecord("damaged")

    store = Damaged()
    store.put(Key("ci"), None)
    backend = Backend(store, settings=Settings())

    assert backend.delete("ci").client_id == "ci"
    assert list(backend.iter_keys()) == []


def test_a_backend_keeps_no_subscriber_alive(backend: Backend) -> None:
    class Subscriber:
        def __init__(self) -> None:
            self.heard: list[str] = []

        def invalidate(self, client_id: str) -> None:
            self.heard.append(client_id)

        def clear(self) -> None:
            self.heard.append("everything")

    kept, dropped = Subscriber(), Subscriber()
    for follower in (kept, dropped):
        backend.feed.subscribe(follower, keeps_s=30)
    gone = weakref.ref(dropped)
    del dropped, follower
    gc.collect()
    backend.create(client_id="ci")

    assert gone() is None
    assert kept.heard == ["ci"]


class TeamStore:
    def __init__(self, url: str) -> None:
        if url != "team:red":
            raise ValueError(f"cannot use {url}")

    def get(self, client_id: str) -> Key | None:
        return Key(client_id) if client_id == "red" else None


def test_a_third_party_store_is_found_by_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entry point is called with the URL; a URL that it rejects gives a ConfigurationError."""
    point = EntryPoint("team", f"{__name__}:TeamStore", "basicauth_mw.backends")
    monkeypatch.setattr(EntryPoint, "load", lambda _self: TeamStore)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_group: EntryPoints([point]))

    assert open_backend("team:red", settings=Settings()).get("red") is not None
    assert open_backend("team:red", settings=Settings()).get("blue") is None
    with pytest.raises(ConfigurationError, match="ValueError") as problem:
        open_backend("team:canary", settings=Settings())
    assert "canary" not in str(problem.value)
    with pytest.raises(ConfigurationError, match="sqlite, team, unix") as unknown:
        open_backend("canary-without-colon", settings=Settings())
    assert "canary" not in str(unknown.value)


@pytest.mark.parametrize("failure", [BackendUnavailable("away"), OverflowError("out of range")], ids=repr)
def test_a_change_is_returned_even_if_last_uses_cannot_be_read(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Otherwise a new secret would be lost."""
    issued = backend.create()

    def fail(_client_ids: object) -> None:
        raise failure

    monkeypatch.setattr(backend.store, "last_uses", fail)
    rotated = backend.rotate(issued.client_id, overlap_s=0)

    assert backend.hasher.verify_digest(rotated.secret, rotated.key.secrets)
    assert backend.get(issued.client_id) == rotated.key
    assert list(backend.iter_keys()) == [rotated.key]


@pytest.mark.parametrize("client_id", [None, 7, b"id", ["id"], "\ud800"], ids=repr)
def test_an_id_that_is_not_text_is_not_looked_up(
    backend: Backend, caplog: pytest.LogCaptureFixture, client_id: Any
) -> None:
    """It is not an outage."""
    with pytest.raises(InvalidKey):
        backend.get(client_id)
    with pytest.raises(InvalidKey):
        asyncio.run(backend.aget(client_id))
    assert not caplog.records


@pytest.mark.parametrize(
    "arguments",
    [
        *({"prefix": value} for value in (None, 1, "\ud800")),
        *({"after": value} for value in (None, b"a", "a\ud800")),
        *({"limit": value} for value in (-1, 1.5, "5", True)),
    ],
    ids=repr,
)
def test_invalid_arguments_of_iter_keys(backend: Backend, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidKey):
        backend.iter_keys(**arguments)


def test_a_generated_id_that_is_taken_is_replaced(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often that happens; an ID that was passed is refused."""
    backend.create(client_id="id_aaaaaaaaaaaa")
    ids = iter(["id_aaaaaaaaaaaa"] * 3 + ["id_bbbbbbbbbbbb"])
    monkeypatch.setattr("basicauth_mw.backends.backend.generate_id", lambda: next(ids))
    assert backend.create().client_id == "id_bbbbbbbbbbbb"
    with pytest.raises(KeyExists):
        backend.create(client_id="id_aaaaaaaaaaaa")


def test_an_id_of_the_earlier_form_and_one_that_is_a_secret(backend: Backend) -> None:
    long = generate("id")
    assert backend.create(client_id=long).client_id == long
    for secret in (
        generate("sk"),
        generate("acme_live"),
        generate("id_live"),
        generate("sk")[:-6] + "000000",
    ):
        with pytest.raises(InvalidKey, match="swapped"):
            backend.create(client_id=secret)
        (refused,) = backend.add([Key(secret)])
        assert isinstance(refused, InvalidKey)
        assert backend.get(secret) is None


@pytest.mark.parametrize("overlap", [timedelta(hours=1), 3600, 3600.0])
def test_an_overlap_may_be_a_timedelta(backend: Backend, overlap: timedelta | float) -> None:
    backend.create(client_id="ci")
    old, _ = backend.rotate("ci", overlap_s=overlap).key.secrets
    assert old.expires_at is not None
    assert timedelta(minutes=59) < old.expires_at - datetime.now(UTC) <= timedelta(hours=1)


def test_every_change_records_its_actor(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "basicauth_mw.audit")
    backend.create(client_id="ci", actor="ann")
    backend.rotate("ci", actor="bob")
    backend.update("ci", name="x", actor="cy")
    backend.disable("ci", actor="di")
    backend.enable("ci", actor="ed")
    backend.revoke("ci", actor="flo\n")
    backend.delete("ci", actor="gus")
    backend.add([Key("imported")], actor="hal")
    backend.actor = "the default"
    backend.disable("imported")
    records = [record.basicauth for record in caplog.records]  # type: ignore[attr-defined]
    assert [(each["event"], each["actor"]) for each in records] == [
        ("key.created", "ann"),
        ("key.rotated", "bob"),
        ("key.updated", "cy"),
        ("key.disabled", "di"),
        ("key.enabled", "ed"),
        ("key.revoked", "flo\\n"),
        ("key.deleted", "gus"),
        ("key.imported", "hal"),
        ("key.disabled", "the default"),
    ]


def test_a_store_that_keeps_no_history() -> None:
    """It is called as before, so older stores of third parties go on working."""

    class Older:
        def __init__(self) -> None:
            self._store = MemoryStore()
            self.get, self.delete, self.scan = self._store.get, self._store.delete, self._store.scan
            self.changes, self.close = self._store.changes, self._store.close

        def put(self, record: Key, /, expect_version: int | None) -> bool:
            return self._store.put(record, expect_version)

    backend = Backend(Older(), settings=Settings())
    backend.create(client_id="ci")
    backend.disable("ci")
    assert backend.add([Key("imported")]) == [None]
    assert backend.history("ci") == backend.history("imported") == []
    with pytest.raises(KeyNotFound):
        backend.history("unknown")
