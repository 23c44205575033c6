"""Rotation: overlaps, limits, and the fields that a rotation does not change."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, Issued, Principal, encode_basic
from basicauth_mw.errors import InvalidKey
from basicauth_mw.keys.generated_secrets import SecretShape, classify, generate
from basicauth_mw.keys.hashing import MAX_ACTIVE_SECRETS
from basicauth_mw.keys.model import utcnow
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

from tests.backends.life.helpers import (
    NOTICED_WITHIN_S,
    OVERLAP_S,
    SLACK_S,
    AnyClient,
    Outcome,
    at_once,
    bad_secrets,
    cursor,
    ends_of,
    soon,
    stored,
)


@pytest.mark.proves("O2", "F33")
def test_no_request_fails_during_a_rotation(backend: Backend, here: AnyClient, elsewhere: AnyClient) -> None:
    """The old and the new secret work until the overlap ends, then only the new one; cached or not."""
    old = backend.create(client_id="ci", name="CI", scopes=["read"], metadata={"team": "a"})
    for client in (here, elsewhere):
        assert client.request(old.authorization).status == 200

    new = backend.rotate("ci", overlap_s=OVERLAP_S)
    for client in (here, elsewhere):
        for issued in (old, new, old, new):
            seen = client.request(issued.authorization)
            assert seen == Outcome(200, Principal("ci", "CI", frozenset({"read"}), {"team": "a"}))
    assert utcnow() < ends_of(new.key)[0], "the machine was too slow for this test"

    for client in (here, elsewhere):
        wait_until(
            lambda client=client: client.request(old.authorization).status == 401,
            OVERLAP_S + NOTICED_WITHIN_S + SLACK_S,
        )
        assert client.request(new.authorization).status == 200
    assert utcnow() >= ends_of(new.key)[0]


def test_without_an_overlap_the_old_secret_ends_now(
    backend: Backend, here: AnyClient, elsewhere: AnyClient
) -> None:
    old = backend.create(client_id="ci")
    for client in (here, elsewhere):
        assert client.request(old.authorization).status == 200
    new = backend.rotate("ci", overlap_s=0)

    assert [here.request(issued.authorization).status for issued in (old, new)] == [401, 200]
    assert elsewhere.request(new.authorization).status == 200
    soon(lambda: elsewhere.request(old.authorization).status == 401)
    assert ends_of(stored(backend, "ci")) == [None]


def test_a_rotation_changes_only_secrets(backend: Backend) -> None:
    expires_at = utcnow() + timedelta(days=90)
    old = backend.create(client_id="ci", name="n", scopes=["s"], expires_at=expires_at, metadata={"a": 1})
    before = utcnow()
    new = backend.rotate("ci")
    after = utcnow()

    found = stored(backend, "ci")
    assert found == new.key
    assert replace(found, secrets=()) == replace(old.key, secrets=())
    assert found.version > old.key.version
    first, second = found.secrets
    assert (first.hash, first.created_at) == (old.key.secrets[0].hash, old.key.secrets[0].created_at)
    assert before <= first.expires_at - timedelta(days=1) <= after, "the default overlap is a day"
    assert (second.expires_at, second.last_used_at) == (None, None)
    assert before <= second.created_at <= after
    assert new.authorization == encode_basic("ci", new.secret)
    assert classify(new.secret) is SecretShape.GENERATED
    assert new.secret != old.secret


def test_earlier_secrets_end_at_the_sooner_of_their_expiry_and_the_overlap(backend: Backend) -> None:
    backend.create(client_id="ci")
    backend.rotate("ci", overlap_s=100)
    hundred = ends_of(stored(backend, "ci"))[0]
    backend.rotate("ci", overlap_s=10_000)
    kept, long, _ = ends_of(stored(backend, "ci"))
    backend.rotate("ci", overlap_s=50)
    first, second, third, newest = ends_of(stored(backend, "ci"))

    assert kept == hundred < long
    assert first == second == third < hundred
    assert newest is None


def test_at_most_eight_active_secrets(backend: Backend, here: AnyClient, events: Callable[..., Any]) -> None:
    issued = [backend.create(client_id="ci")]
    issued += [backend.rotate("ci", overlap_s=3600) for _ in range(MAX_ACTIVE_SECRETS - 1)]
    assert [here.request(each.authorization).status for each in issued] == [200] * 8
    assert len({secret.created_at for secret in stored(backend, "ci").secrets}) == 8

    events()
    before = (stored(backend, "ci"), cursor(backend))
    with pytest.raises(InvalidKey, match="8 active"):
        backend.rotate("ci", overlap_s=3600)
    assert ((stored(backend, "ci"), cursor(backend)), events()) == (before, [])
    assert [here.request(each.authorization).status for each in issued] == [200] * 8

    last = backend.rotate("ci", overlap_s=0)
    assert [here.request(each.authorization).status for each in (*issued, last)] == [401] * 8 + [200]


def test_expired_secrets_do_not_count(backend: Backend) -> None:
    """The next rotation removes them."""
    backend.create(client_id="ci")
    for _ in range(MAX_ACTIVE_SECRETS - 2):
        backend.rotate("ci", overlap_s=3600)
    newest = backend.rotate("ci", overlap_s=0.05)
    assert len(newest.key.secrets) == MAX_ACTIVE_SECRETS
    wait_until(lambda: utcnow() >= max(end for end in ends_of(newest.key) if end))

    assert len(backend.rotate("ci").key.secrets) == 2


def test_a_password_is_rotated_to_a_generated_secret_and_back(backend: Backend, here: AnyClient) -> None:
    password = backend.create(client_id="ci", secret="first wörd")
    generated = backend.rotate("ci")
    assert [here.request(each.authorization).status for each in (password, generated)] == [200, 200]

    with pytest.raises(InvalidKey, match="at most one password"):
        backend.rotate("ci", secret="second wörd")
    assert [here.request(each.authorization).status for each in (password, generated)] == [200, 200]

    other = backend.rotate("ci", secret="second wörd", overlap_s=0)
    assert other.secret == "second wörd"
    assert [here.request(each.authorization).status for each in (password, generated, other)] == [
        401,
        401,
        200,
    ]


def test_a_generated_secret_is_rotated_to_a_password(backend: Backend, here: AnyClient) -> None:
    old = backend.create(client_id="ci")
    new = backend.rotate("ci", secret="pä$$ wörd")

    assert [here.request(each.authorization).status for each in (old, new)] == [200, 200]


def test_a_generated_secret_may_be_passed(backend: Backend, here: AnyClient) -> None:
    """A secret that was generated elsewhere, with another prefix."""
    given = generate("acme_live")
    backend.create(client_id="ci")
    new = backend.rotate("ci", secret=given)

    assert (new.secret, here.request(new.authorization).status) == (given, 200)
    assert not stored(backend, "ci").secrets[1].hash.startswith("$argon2id$")


@pytest.mark.parametrize("secret", [generate("sk"), "a password"], ids=["generated", "password"])
@pytest.mark.parametrize("overlap_s", [0, 60])
def test_a_rotation_to_a_secret_that_the_key_has_is_refused(
    backend: Backend, events: Callable[..., Any], secret: str, overlap_s: int
) -> None:
    before = backend.create(client_id="ci", secret=secret).key
    events()
    with pytest.raises(InvalidKey):
        backend.rotate("ci", secret=secret, overlap_s=overlap_s)

    assert (stored(backend, "ci"), events()) == (before, [])


BAD_OVERLAPS = {
    "negative": -1,
    "nan": float("nan"),
    "infinite": float("inf"),
    "beyond-the-year-9999": 1e12,
    "huge": 10**400,
    "true": True,
    "text": "60",
    "none": None,
}


@pytest.mark.parametrize("overlap_s", BAD_OVERLAPS.values(), ids=BAD_OVERLAPS)
def test_a_bad_overlap_is_refused(backend: Backend, events: Callable[..., Any], overlap_s: Any) -> None:
    before = backend.create(client_id="ci").key
    events()
    with pytest.raises(InvalidKey):
        backend.rotate("ci", overlap_s=overlap_s)

    assert (stored(backend, "ci"), events()) == (before, [])


@bad_secrets
def test_a_rotation_to_a_bad_secret_is_refused(
    backend: Backend, events: Callable[..., Any], secret: Any
) -> None:
    before = backend.create(client_id="ci").key
    events()
    with pytest.raises(InvalidKey):
        backend.rotate("ci", secret=secret)

    assert (stored(backend, "ci"), events()) == (before, [])


def test_a_rotation_may_require_a_version(backend: Backend, events: Callable[..., Any]) -> None:
    """If two people rotate the same version, only one succeeds."""
    seen = backend.create(client_id="ci").key

    rotated = backend.rotate("ci", version=seen.version).key
    with pytest.raises(InvalidKey, match="has changed"):
        backend.rotate("ci", version=seen.version)

    assert backend.get("ci") == rotated
    assert [each["event"] for each in events()] == ["key.created", "key.rotated"]


def test_of_many_concurrent_rotations_of_one_version_one_succeeds(
    backend: Backend, events: Callable[..., Any]
) -> None:
    """A rotation that finds the key changed when it writes does not start again."""
    seen = backend.create(client_id="ci").key
    issued: list[Issued] = []

    def rotate() -> None:
        with suppress(InvalidKey):
            issued.append(backend.rotate("ci", overlap_s=0, version=seen.version))

    at_once([rotate] * 8)

    assert [each.key for each in issued] == [backend.get("ci")]
    assert [each["event"] for each in events()] == ["key.created", "key.rotated"]


def test_a_rotation_reactivates_no_key(backend: Backend, here: AnyClient) -> None:
    """A disabled key stays disabled, and an expired one stays expired."""
    backend.create(client_id="off")
    backend.disable("off")
    backend.create(client_id="ended", expires_at=utcnow() + timedelta(seconds=0.3))
    wait_until(lambda: utcnow() > stored(backend, "ended").expires_at)

    for client_id in ("off", "ended"):
        assert here.request(backend.rotate(client_id).authorization).status == 401
