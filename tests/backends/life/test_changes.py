"""Keys are disabled, revoked, deleted, updated, and expire."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, Principal
from basicauth_mw.errors import InvalidKey, KeyNotFound, KeyRevoked
from basicauth_mw.keys.model import utcnow
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

from tests.backends.life.helpers import (
    CHANGES,
    OVERLAP_S,
    AnyClient,
    Outcome,
    bad_fields,
    changed,
    cursor,
    soon,
    stored,
)


def test_disabled_until_enabled(
    backend: Backend, here: AnyClient, elsewhere: AnyClient, events: Callable[..., Any]
) -> None:
    """Immediately in this process, even if cached, and soon in others. Both calls are idempotent."""
    issued = backend.create(client_id="ci")
    for client in (here, elsewhere):
        assert client.request(issued.authorization).status == 200
    events()

    assert backend.disable("ci").disabled
    assert backend.disable("ci").disabled
    assert events() == [changed("key.disabled", "ci")]
    assert here.request(issued.authorization) == Outcome(401, None)
    soon(lambda: elsewhere.request(issued.authorization).status == 401)
    events()

    assert not backend.enable("ci").disabled
    assert not backend.enable("ci").disabled
    assert events() == [changed("key.enabled", "ci")]
    for client in (here, elsewhere):
        assert client.request(issued.authorization).status == 200


@pytest.mark.proves("O2")
def test_a_revocation_is_final(
    backend: Backend,
    here: AnyClient,
    elsewhere: AnyClient,
    events: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Revoking again keeps the time of the first revocation."""
    monkeypatch.setattr("basicauth_mw.backends.usage._GATHER_S", 60)  # a recorded use would change the key
    old = backend.create(client_id="ci")
    new = backend.rotate("ci")
    for client in (here, elsewhere):
        assert [client.request(each.authorization).status for each in (old, new)] == [200, 200]
    events()

    before = utcnow()
    revoked_at = backend.revoke("ci").revoked_at
    assert revoked_at is not None
    assert before <= revoked_at <= utcnow()
    key = stored(backend, "ci")
    assert backend.revoke("ci") == key
    assert key.revoked_at == revoked_at
    assert events() == [changed("key.revoked", "ci")]
    assert [here.request(each.authorization).status for each in (old, new)] == [401, 401]
    soon(lambda: [elsewhere.request(each.authorization).status for each in (old, new)] == [401, 401])
    events()

    for change in (
        lambda: backend.enable("ci"),
        lambda: backend.rotate("ci"),
        lambda: backend.rotate("ci", overlap_s=0),
        lambda: backend.update("ci", name="back"),
        lambda: backend.update("ci", expires_at=None),
    ):
        with pytest.raises(KeyRevoked, match="final"):
            change()
    assert (stored(backend, "ci"), events()) == (key, [])
    backend.disable("ci")
    assert stored(backend, "ci") == replace(key, disabled=True)
    assert here.request(new.authorization).status == 401


def test_delete_frees_the_id(
    backend: Backend, here: AnyClient, elsewhere: AnyClient, events: Callable[..., Any]
) -> None:
    """A new key with the same ID shares nothing with the old one."""
    old = backend.create(client_id="ci", name="old", scopes=["admin"])
    for client in (here, elsewhere):
        assert client.request(old.authorization).status == 200
    backend.revoke("ci")
    events()

    assert backend.delete("ci").name == "old"
    assert events() == [changed("key.deleted", "ci")]
    assert (backend.get("ci"), list(backend.iter_keys())) == (None, [])
    assert here.request(old.authorization).status == 401
    new = backend.create(client_id="ci")
    assert here.request(new.authorization) == Outcome(200, Principal("ci"))
    assert here.request(old.authorization).status == 401
    soon(lambda: elsewhere.request(old.authorization).status == 401)
    assert elsewhere.request(new.authorization) == Outcome(200, Principal("ci"))


every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@every_change
def test_a_change_of_an_unknown_key_is_refused(
    backend: Backend, events: Callable[..., Any], change: Callable[[Backend], object]
) -> None:
    with pytest.raises(KeyNotFound, match="'ci'"):
        change(backend)

    assert (list(backend.iter_keys()), events()) == ([], [])


def test_updates_reach_the_next_request(
    backend: Backend, here: AnyClient, elsewhere: AnyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Immediately in the process that makes them, even if cached, and soon in others."""
    monkeypatch.setattr("basicauth_mw.backends.usage._GATHER_S", 60)  # no use is written between two reads
    issued = backend.create(client_id="ci", name="old", scopes=["read"], metadata={"a": 1})
    for client in (here, elsewhere):
        assert client.request(issued.authorization).status == 200
    caller = Principal("ci", "old", frozenset({"read"}), {"a": 1})

    for fields in (
        {"scopes": ["read", "write"]},
        {"scopes": []},
        {"name": "néw"},
        {"metadata": {"b": [None, "ö"]}},
        {"name": "", "scopes": ["admin"], "metadata": None},
    ):
        key = backend.update("ci", **fields)
        caller = replace(
            caller,
            **{**fields, "scopes": key.scopes, "metadata": fields.get("metadata", caller.metadata) or {}},
        )
        assert (key.name, key.scopes, key.metadata) == (caller.name, caller.scopes, caller.metadata)
        assert stored(backend, "ci") == key
        assert here.request(issued.authorization) == Outcome(200, caller)
    assert caller == Principal("ci", "", frozenset({"admin"}), {})
    soon(lambda: elsewhere.request(issued.authorization) == Outcome(200, caller))


def test_an_update_leaves_omitted_fields_unchanged(backend: Backend, events: Callable[..., Any]) -> None:
    expires_at = utcnow() + timedelta(days=1)
    key = backend.create(client_id="ci", name="n", scopes=["s"], expires_at=expires_at, metadata={"a": 1}).key
    events()

    for fields in (
        {"name": "m"},
        {"scopes": frozenset({"t"})},
        {"expires_at": None},
        {"expires_at": utcnow() + timedelta(days=2)},
        {"metadata": {"b": 2}},
    ):
        before = stored(backend, "ci")
        key = replace(key, **fields)
        updated = backend.update("ci", **fields)
        assert updated == stored(backend, "ci") == key
        assert updated.version > before.version
        assert events() == [changed("key.updated", "ci")]


def test_an_update_may_require_a_version(backend: Backend, events: Callable[..., Any]) -> None:
    """A form that shows an older version does not undo what others changed."""
    seen = backend.create(client_id="ci").key

    updated = backend.update("ci", name="first", version=seen.version)
    with pytest.raises(InvalidKey, match="has changed"):
        backend.update("ci", scopes=["second"], version=seen.version)

    assert backend.get("ci") == updated
    assert [each["event"] for each in events()] == ["key.created", "key.updated"]


@pytest.mark.parametrize("name", ["disable", "enable", "revoke", "end_secret"])
def test_other_changes_may_require_a_version(name: str, backend: Backend, events: Callable[..., Any]) -> None:
    """Another user disables the key in the meantime, which an old form does not undo."""
    seen = backend.create(client_id="ci").key
    given = [seen.secrets[0].created_at] if name == "end_secret" else []
    change = getattr(backend, name)
    disabled = backend.disable("ci", version=seen.version)
    events()

    with pytest.raises(InvalidKey, match="has changed"):
        change("ci", *given, version=seen.version)
    assert (backend.get("ci"), events()) == (disabled, [])

    changed_key = change("ci", *given, version=disabled.version)
    assert changed_key == stored(backend, "ci")
    assert (changed_key.version > disabled.version) is (name != "disable")


def test_an_update_of_nothing_is_no_change(backend: Backend, events: Callable[..., Any]) -> None:
    """No new version, no audit record, and no announcement, unless an earlier one may be lost."""
    expires_at = utcnow() + timedelta(days=1)
    backend.create(client_id="ci", name="n", scopes=["s"], expires_at=expires_at, metadata={"a": 1})
    before, last = stored(backend, "ci").version, cursor(backend)
    events()

    backend.update("ci")
    backend.update("ci", name="n", scopes=["s", "s"], expires_at=expires_at, metadata={"a": 1})

    assert stored(backend, "ci").version == before
    may_be_lost = not getattr(backend.store, "single_server", True)
    assert (cursor(backend) == last) is not may_be_lost
    assert events() == []


@pytest.mark.parametrize("value", [True, 1.0], ids=["true", "1.0"])
def test_json_values_that_are_equal_only_in_python(backend: Backend, value: Any) -> None:
    """1, 1.0 and true are three values in JSON."""
    backend.create(client_id="ci", metadata={"limits": [1]})
    backend.update("ci", metadata={"limits": [value]})

    assert json.dumps(stored(backend, "ci").metadata) == json.dumps({"limits": [value]})


def test_metadata_is_a_copy(backend: Backend) -> None:
    given = {"a": [1]}
    backend.create(client_id="ci", metadata=given)
    given["a"].append(2)
    assert stored(backend, "ci").metadata == {"a": [1]}
    given = {"b": [1]}
    backend.update("ci", metadata=given)
    given["b"].append(2)
    assert stored(backend, "ci").metadata == {"b": [1]}


@bad_fields
def test_an_update_with_a_bad_field_is_refused(
    backend: Backend, events: Callable[..., Any], field: str, value: Any
) -> None:
    """Its valid fields are not changed either."""
    before = backend.create(client_id="ci", name="n", scopes=["s"], metadata={"a": 1}).key
    events()
    with pytest.raises(InvalidKey):
        backend.update("ci", **{"name": "m", "scopes": ["t"], field: value})

    assert (stored(backend, "ci"), events()) == (before, [])


@pytest.mark.proves("O2", "F23")
def test_an_expiry_ends_cached_decisions(backend: Backend, here: AnyClient, elsewhere: AnyClient) -> None:
    """To the second, even if the cache lifetime is longer."""
    issued = backend.create(client_id="ci", expires_at=utcnow() + timedelta(seconds=OVERLAP_S))
    assert issued.key.expires_at is not None
    served_at = utcnow()
    for client in (here, elsewhere):
        assert client.request(issued.authorization).status == 200
    assert served_at < issued.key.expires_at

    wait_until(lambda: utcnow() >= issued.key.expires_at)
    for client in (here, elsewhere):
        assert client.request(issued.authorization).status == 401
    backend.update("ci", expires_at=None)
    for client in (here, elsewhere):
        assert client.request(issued.authorization).status == 200


def test_an_expiry_may_be_moved_forward(backend: Backend, here: AnyClient) -> None:
    issued = backend.create(client_id="ci")
    assert here.request(issued.authorization).status == 200
    end = utcnow() + timedelta(seconds=0.3)
    backend.update("ci", expires_at=end)
    while utcnow() < end:
        status = here.request(issued.authorization).status
        assert status == 200 or utcnow() >= end

    assert here.request(issued.authorization).status == 401
