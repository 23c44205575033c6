"""Last-used times and audit events."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, Key, Secret, encode_basic
from basicauth_mw.backends import LastUse
from basicauth_mw.backends import usage as usage_module
from basicauth_mw.errors import KeyExists
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import utcnow
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

from tests.backends.life.helpers import (
    PAST,
    AnyClient,
    Deployment,
    Outcome,
    changed,
    cursor,
    stored,
)


def test_one_audit_event_per_change(
    backend: Backend, here: AnyClient, events: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Each has exactly these fields, and never a secret or a hash."""
    issued = [backend.create(client_id="ci")]
    assert events() == [changed("key.created", "ci")]
    issued.append(backend.rotate("ci", overlap_s=60))
    assert events() == [changed("key.rotated", "ci")]
    hashes = {secret.hash for secret in stored(backend, "ci").secrets}
    for act, event in (
        (lambda: backend.update("ci", name="n", scopes=["s"], metadata={"a": 1}), "key.updated"),
        (lambda: backend.disable("ci"), "key.disabled"),
        (lambda: backend.enable("ci"), "key.enabled"),
        (lambda: backend.revoke("ci"), "key.revoked"),
        (lambda: backend.delete("ci"), "key.deleted"),
    ):
        act()
        assert events() == [changed(event, "ci")]
    imported = Key("moved", secrets=(Secret(backend.hash(generate("sk"))),))
    assert backend.add([imported]) == [None]
    assert events() == [changed("key.imported", "moved")]
    assert isinstance(backend.add([imported])[0], KeyExists)
    assert events() == []
    here.request(issued[0].authorization)
    (refusal,) = events()
    assert refusal == {
        "event": "auth.refused",
        "client_id": "ci",
        "reason": "unknown",
        "detail": None,
        "scheme": "basic",
        "address": "192.0.2.1",
        "request_id": refusal["request_id"],
        "actor": None,
    }

    logged = caplog.text + repr([vars(record) for record in caplog.records])
    for each in issued:
        for text in (each.secret, each.authorization, each.authorization.removeprefix("Basic ")):
            assert text not in logged
    for hashed in (*hashes, imported.secrets[0].hash):
        assert hashed not in logged


REASONS: dict[str, Callable[[Backend], object]] = {
    "disabled": lambda backend: backend.disable("ci"),
    "revoked": lambda backend: backend.revoke("ci"),
    "unknown": lambda backend: backend.delete("ci"),
    "wrong_secret": lambda backend: backend.rotate("ci", overlap_s=0),
    "expired": lambda backend: backend.store.put(
        replace(stored(backend, "ci"), expires_at=PAST, version=2**52), stored(backend, "ci").version
    ),
}


@pytest.mark.proves("P8")
@pytest.mark.parametrize("reason", REASONS)
def test_only_the_log_says_why_a_key_is_refused(
    deployment: Deployment, kind: str, events: Callable[..., Any], reason: str
) -> None:
    """Five reasons, one response."""
    backend = deployment.open()
    authenticator = deployment.serve(kind, backend, cache_ttl_s=0)
    issued = backend.create(client_id="ci")
    REASONS[reason](backend)
    events()

    assert authenticator.request(issued.authorization) == Outcome(401, None)
    (refusal,) = events()
    assert (refusal["event"], refusal["reason"], refusal["client_id"]) == ("auth.refused", reason, "ci")


def uses_of(backend: Backend, client_id: str) -> list[datetime | None]:
    return [secret.last_used_at for secret in stored(backend, client_id).secrets]


async def found_by_loop(backend: Backend, client_id: str) -> Key | None:
    try:
        return await backend.aget(client_id)
    finally:
        await backend.aclose()


@pytest.mark.proves("O2")
def test_each_secret_has_a_last_used_time(
    backend: Backend, here: AnyClient, events: Callable[..., Any]
) -> None:
    """To the minute. Recording it does not change the key's version."""
    old = backend.create(client_id="ci")
    new = backend.rotate("ci")
    backend.create(client_id="idle")
    events()
    before = (stored(backend, "ci"), cursor(backend))
    assert (before[0].last_used_at, uses_of(backend, "ci")) == (None, [None, None])

    began = utcnow()
    assert here.request(new.authorization).status == 200
    wait_until(lambda: stored(backend, "ci").last_used_at is not None)
    key = stored(backend, "ci")
    assert key.last_used_at is not None
    assert (key.last_used_at.second, key.last_used_at.microsecond) == (0, 0)
    assert began - timedelta(minutes=1) < key.last_used_at <= utcnow()
    assert uses_of(backend, "ci") == [None, key.last_used_at]
    assert here.request(old.authorization).status == 200
    wait_until(lambda: uses_of(backend, "ci")[0] is not None)

    listed = {key.client_id: key.last_used_at for key in backend.iter_keys()}
    assert listed == {"ci": stored(backend, "ci").last_used_at, "idle": None}
    assert asyncio.run(found_by_loop(backend, "ci")) == stored(backend, "ci")
    bare = replace(stored(backend, "ci"), last_used_at=None, secrets=before[0].secrets)
    assert (bare, cursor(backend)) == before
    assert stored(backend, "ci").version == before[0].version
    assert events() == []


def test_cache_hits_are_uses(backend: Backend, here: AnyClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache entry is used again three minutes after its lookup."""
    monkeypatch.setattr(usage_module, "_COLLECT_EVERY_S", 0.1)
    issued = backend.create(client_id="ci")
    assert here.request(issued.authorization).status == 200
    wait_until(lambda: stored(backend, "ci").last_used_at is not None)
    first = stored(backend, "ci").last_used_at

    monkeypatch.setattr(usage_module, "time", Ahead(180))
    assert here.request(issued.authorization).status == 200
    wait_until(lambda: stored(backend, "ci").last_used_at != first)
    assert timedelta(minutes=3) <= stored(backend, "ci").last_used_at - first <= timedelta(minutes=4)


class Ahead:
    """A clock that is ahead by some seconds."""

    def __init__(self, by_s: float) -> None:
        self._by_s = by_s

    def time(self) -> float:
        return time.time() + self._by_s

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.mark.parametrize("secret", [None, "a password"], ids=["generated", "password"])
def test_a_refusal_is_no_use(backend: Backend, here: AnyClient, secret: str | None) -> None:
    """Neither the right secret of a disabled, revoked or expired key, nor a wrong secret."""
    issued = {
        client_id: backend.create(client_id=client_id, secret=secret)
        for client_id in ("wrong", "disabled", "revoked", "used")
    }
    ended = backend.create(client_id="ended", secret=secret, expires_at=utcnow() + timedelta(seconds=0.3))
    wait_until(lambda: utcnow() > ended.key.expires_at)
    backend.disable("disabled")
    backend.revoke("revoked")
    for client_id in ("disabled", "revoked"):
        assert here.request(issued[client_id].authorization).status == 401
    assert here.request(ended.authorization).status == 401
    for wrong in (generate("sk"), "another one"):
        assert here.request(encode_basic("wrong", wrong)).status == 401
    assert here.request(issued["used"].authorization).status == 200
    backend.usage.close()

    used = {key.client_id for key in backend.iter_keys() if key.last_used_at is not None}
    assert used == {"used"}


def test_uses_survive_changes(deployment: Deployment, kind: str) -> None:
    """A restart, a rotation that removes the secret, and every other change."""
    first = deployment.open()
    authenticator = deployment.serve(kind, first)
    issued = first.create(client_id="ci")
    authenticator.request(issued.authorization)
    first.close()
    used_at = stored(first, "ci").last_used_at
    assert used_at is not None

    second = deployment.open()
    assert (stored(second, "ci").last_used_at, uses_of(second, "ci")) == (used_at, [used_at])
    assert second.update("ci", name="n").last_used_at == used_at
    second.disable("ci")
    second.enable("ci")
    second.rotate("ci", overlap_s=0)
    assert (stored(second, "ci").last_used_at, uses_of(second, "ci")) == (used_at, [None])
    second.delete("ci")
    assert second.create(client_id="ci").key.last_used_at is None
    assert stored(second, "ci").last_used_at is None


def test_uses_from_many_processes(deployment: Deployment) -> None:
    """The latest use is kept, in whatever order they arrive."""
    backend = deployment.open()
    backend.create(client_id="ci")
    made = stored(backend, "ci").secrets[0].created_at
    minutes = [datetime(2031, 1, 1, 0, minute, tzinfo=UTC) for minute in (5, 9, 2)]
    for minute in minutes:
        backend.store.record_uses([LastUse("ci", made, minute), LastUse("unknown", made, minute)])  # type: ignore[attr-defined]

    assert stored(backend, "ci").last_used_at == max(minutes)
    assert backend.get("unknown") is None
