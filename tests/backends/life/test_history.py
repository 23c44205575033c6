"""The store keeps the last changes of each key: what was done, by whom and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, Change, Key
from basicauth_mw.backends.base import HISTORY_KEPT
from basicauth_mw.errors import InvalidKey, KeyNotFound
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import utcnow
from tests.backends.life.helpers import imported

if TYPE_CHECKING:
    from tests.backends.life.helpers import Deployment

MINUTE = timedelta(minutes=1)


def events(backend: Backend, client_id: str = "ci") -> list[tuple[str, str | None]]:
    return [(change.event, change.actor) for change in backend.history(client_id)]


def test_every_change_with_its_actor_and_time(backend: Backend, deployment: Deployment) -> None:
    """From the newest to the oldest, as another process reads it."""
    before = utcnow()
    secret = backend.create(client_id="ci", actor="alice").key.secrets[0]
    backend.rotate("ci", actor="bob")
    backend.end_secret("ci", secret.created_at, actor="bob")
    backend.actor = "carol"
    backend.update("ci", scopes=["read"])
    backend.disable("ci")
    backend.enable("ci")
    backend.revoke("ci", actor="日本")

    elsewhere = deployment.open()
    assert events(elsewhere) == [
        ("key.revoked", "日本"),
        ("key.enabled", "carol"),
        ("key.disabled", "carol"),
        ("key.updated", "carol"),
        ("key.updated", "bob"),
        ("key.rotated", "bob"),
        ("key.created", "alice"),
    ]
    times = [change.time for change in elsewhere.history("ci")]
    assert times == sorted(times, reverse=True)
    assert before <= times[-1]
    assert times[0] <= utcnow()
    assert {time.tzinfo for time in times} == {UTC}


def test_what_changes_nothing_is_not_in_it(backend: Backend) -> None:
    backend.create(client_id="ci")
    backend.enable("ci")
    backend.update("ci")
    backend.disable("ci")
    backend.disable("ci")
    assert [event for event, _ in events(backend)] == ["key.disabled", "key.created"]


def test_the_oldest_changes_are_dropped(backend: Backend) -> None:
    backend.create(client_id="ci")
    for number in range(HISTORY_KEPT + 5):
        backend.update("ci", name=str(number), actor=str(number))
    assert [actor for _, actor in events(backend)] == [
        str(number) for number in reversed(range(5, HISTORY_KEPT + 5))
    ]


def test_it_is_deleted_with_the_key(backend: Backend) -> None:
    backend.create(client_id="ci")
    backend.create(client_id="other")
    backend.delete("ci")
    with pytest.raises(KeyNotFound):
        backend.history("ci")
    backend.create(client_id="ci", actor="new")
    assert events(backend) == [("key.created", "new")]
    assert len(backend.history("other")) == 1


def test_a_change_that_was_not_made(backend: Backend) -> None:
    """A lost compare-and-swap adds nothing."""
    key = backend.create(client_id="ci").key
    change = Change("key.updated", None, utcnow())
    assert not backend.store.put(key, key.version + 1, [change])
    assert not backend.store.put(key, None, [change])
    assert not backend.store.delete("unknown")
    assert len(backend.history("ci")) == 1


def test_writes_without_a_change_keep_it(backend: Backend) -> None:
    """Such as an upgraded hash."""
    key = backend.create(client_id="ci").key
    assert backend.store.put(key, key.version)
    assert events(backend) == [("key.created", None)]


def test_keys_without_a_history(backend: Backend) -> None:
    """Such as those of an earlier release."""
    assert backend.store.put(Key("ci", version=1), None)
    assert backend.history("ci") == []
    backend.disable("ci", actor="alice")
    assert events(backend) == [("key.disabled", "alice")]


@pytest.mark.parametrize("client_id", ["}", "{", "{a}b", "}a{", "a}", "日本"])
def test_ids_with_braces(backend: Backend, client_id: str) -> None:
    """They are special in the names of a cluster."""
    backend.create(client_id=client_id)
    backend.disable(client_id)
    assert [event for event, _ in events(backend, client_id)] == ["key.disabled", "key.created"]
    backend.delete(client_id)
    assert backend.histories([client_id]) == [[]]
    assert backend.add([Key(client_id)]) == [None]
    assert [event for event, _ in events(backend, client_id)] == ["key.imported"]


def test_an_import_brings_the_history(backend: Backend) -> None:
    now = utcnow()
    history = [Change("key.revoked", "b", now - MINUTE), Change("key.created", None, now - 2 * MINUTE)]
    keys = [imported("plain", "$bamw1$x"), imported("moved", "$bamw1$x"), imported("plain", "$bamw1$y")]
    keys = [Key(key.client_id, created_at=key.created_at) for key in keys]

    outcomes = backend.add(keys, histories=[[], history, history], actor="alice")

    assert [type(outcome).__name__ for outcome in outcomes] == ["NoneType", "NoneType", "KeyExists"]
    assert backend.history("moved") == history
    assert events(backend, "plain") == [("key.imported", "alice")]


def test_a_long_history_is_imported_up_to_the_limit(backend: Backend) -> None:
    history = [Change("key.updated", str(number), utcnow()) for number in range(HISTORY_KEPT + 5)]
    backend.add([Key("ci")], histories=[history])
    assert backend.history("ci") == history[:HISTORY_KEPT]


@pytest.mark.parametrize(
    "bad",
    [
        "key.created",
        Change("key.created", None, datetime(2026, 1, 1)),  # noqa: DTZ001
        Change("created", None, utcnow()),
        Change("key.created\n", None, utcnow()),
        Change(b"key.created", None, utcnow()),  # type: ignore[arg-type]
        Change("key.created", 1, utcnow()),  # type: ignore[arg-type]
    ],
)
def test_invalid_changes_are_not_imported(backend: Backend, bad: Any) -> None:
    (outcome,) = backend.add([Key("ci")], histories=[[bad]])
    assert isinstance(outcome, InvalidKey)
    assert backend.get("ci") is None


def test_no_secret_gets_in(backend: Backend) -> None:
    """Actors are truncated and escaped as in the audit log."""
    secret = generate("sk")
    backend.create(client_id="ci", actor=secret)
    backend.update("ci", name="x", actor=f"a\x1b[2J{'b' * 300}")
    backend.add([Key("moved")], histories=[[Change("key.created", secret, utcnow())]])
    assert [len(actor or "") for _, actor in events(backend)] == [255, len("sk_...")]
    assert events(backend, "moved") == [("key.created", "sk_...")]
    assert "\x1b" not in repr(backend.history("ci"))


@pytest.mark.parametrize("client_id", ["unknown", "a:b", ""])
def test_an_unknown_id(backend: Backend, client_id: str) -> None:
    with pytest.raises(KeyNotFound):
        backend.history(client_id)
