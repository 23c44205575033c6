"""``Backend`` over the memory store and over stores that can do less."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from basicauth_mw import Backend, Key, Settings, encode_basic, open_backend
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
from basicauth_mw.minting import Shape, recognise


@pytest.fixture
def backend() -> Backend:
    return open_backend("memory:", settings=Settings(secret_prefix="acme_live"))


@pytest.mark.proves("O2")
def test_a_minted_key(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """Shown once, found again, and in no repr and no log."""
    caplog.set_level(logging.DEBUG)
    expires_at = datetime.now(UTC) + timedelta(days=90)
    issued = backend.create(name="ci", scopes=["read"], expires_at=expires_at, metadata={"team": "x"})

    assert issued.client_id.startswith("id_")
    assert issued.secret.startswith("acme_live_")
    assert recognise(issued.secret) is recognise(issued.client_id) is Shape.MINTED
    assert issued.authorization == encode_basic(issued.client_id, issued.secret)
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


def test_an_id_is_given_once(backend: Backend) -> None:
    backend.create(client_id="ci", secret="chosen")
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
def test_nothing_is_kept_of_a_key_that_is_refused(backend: Backend, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidKey):
        backend.create(**fields)

    assert list(backend.iter_keys()) == []


def test_the_life_of_a_key(backend: Backend) -> None:
    """Disabled and enabled as often as one likes; revoked for good; deleted, and the id is free."""
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


def test_an_old_version_does_not_meet_a_new_key_of_the_same_id(backend: Backend) -> None:
    """Who read the key before it was deleted and made anew cannot bring its secrets back."""
    old = backend.create(client_id="ci").key
    backend.delete("ci")
    backend.create(client_id="ci")

    assert not backend.store.put(replace(old, name="back", version=old.version + 1), old.version)


def test_pages(backend: Backend) -> None:
    """In the order of the ids' octets, by prefix, from a cursor, up to a limit."""
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


def test_a_key_that_others_change_all_the_time(backend: Backend) -> None:
    class Busy(MemoryStore):
        def put(self, record: Key, /, expect_version: int | None) -> bool:
            return expect_version is None and super().put(record, expect_version)

    busy = Backend(Busy(), settings=Settings())
    busy.create(client_id="ci")
    with pytest.raises(BackendUnavailable):
        busy.disable("ci")


def test_a_record_that_cannot_be_read_can_be_deleted() -> None:
    class Damaged(MemoryStore):
        def get(self, client_id: str, /) -> Key | None:
            raise UnreadableRecord("damaged")

    store = Damaged()
    store.put(Key("ci"), None)
    backend = Backend(store, settings=Settings())

    assert backend.delete("ci").client_id == "ci"
    assert list(backend.iter_keys()) == []


def test_a_backend_keeps_no_follower_alive(backend: Backend) -> None:
    class Follower:
        def __init__(self) -> None:
            self.heard: list[str] = []

        def forget(self, client_id: str) -> None:
            self.heard.append(client_id)

        def clear(self) -> None:
            self.heard.append("everything")

    kept, dropped = Follower(), Follower()
    for follower in (kept, dropped):
        backend.feed.follow(follower, keeps_s=30)
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


def test_a_third_partys_store_is_found_by_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the entry points, called with the URL; what it cannot use is a ConfigurationError."""
    point = EntryPoint("team", f"{__name__}:TeamStore", "basicauth_mw.backends")
    monkeypatch.setattr(EntryPoint, "load", lambda _self: TeamStore)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_group: EntryPoints([point]))

    assert open_backend("team:red", settings=Settings()).get("red") is not None
    assert open_backend("team:red", settings=Settings()).get("blue") is None
    with pytest.raises(ConfigurationError, match="ValueError") as problem:
        open_backend("team:canary", settings=Settings())
    assert "canary" not in str(problem.value)
    with pytest.raises(ConfigurationError, match="team:") as unknown:
        open_backend("canary-without-colon", settings=Settings())
    assert "canary" not in str(unknown.value)


@pytest.mark.parametrize("failure", [BackendUnavailable("away"), OverflowError("out of range")], ids=repr)
def test_a_change_is_told_even_if_last_uses_cannot_be_read(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Or a new secret would be lost."""
    issued = backend.create()

    def fail(_client_ids: object) -> None:
        raise failure

    monkeypatch.setattr(backend.store, "last_uses", fail)
    rotated = backend.rotate(issued.client_id, overlap_s=0)

    assert backend.hasher.match_fast(rotated.secret, rotated.key.secrets)
    assert backend.get(issued.client_id) == rotated.key
    assert list(backend.iter_keys()) == [rotated.key]


@pytest.mark.parametrize("client_id", [None, 7, b"id", ["id"], "\ud800"], ids=repr)
def test_what_is_no_text_is_not_looked_up(
    backend: Backend, caplog: pytest.LogCaptureFixture, client_id: Any
) -> None:
    """And is no outage."""
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
def test_keys_are_not_walked_over_in_a_wrong_way(backend: Backend, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidKey):
        backend.iter_keys(**arguments)
