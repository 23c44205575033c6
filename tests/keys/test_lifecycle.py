"""The changes of a key as pure functions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from basicauth_mw.errors import InvalidKey, KeyRevoked, UnreadableRecord
from basicauth_mw.keys import lifecycle
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import MAX_ACTIVE_SECRETS, Hasher, digest, hash_password, salt_of
from basicauth_mw.keys.lifecycle import NewSecret
from basicauth_mw.keys.model import Key, Secret

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
HASHER = Hasher([b"pepper"])


def key(*secrets: Secret) -> Key:
    return Key("id", created_at=NOW - HOUR, secrets=secrets)


def secret(plain: str, *, ends: datetime | None = None, made: datetime = NOW - HOUR) -> Secret:
    return Secret(HASHER.hash(plain), created_at=made, expires_at=ends)


def rotated(old: Key, plain: str | None = None, overlap: timedelta = HOUR, now: datetime = NOW) -> Key:
    return lifecycle.rotated(old, NewSecret(plain or generate("sk"), HASHER), overlap=overlap, now=now)


@pytest.mark.parametrize(
    ("ends", "kept"),
    [
        pytest.param(None, NOW + HOUR, id="for-ever"),
        pytest.param(NOW + HOUR / 2, NOW + HOUR / 2, id="sooner-than-the-overlap"),
        pytest.param(NOW + 2 * HOUR, NOW + HOUR, id="later-than-the-overlap"),
        pytest.param(NOW + HOUR, NOW + HOUR, id="with-the-overlap"),
    ],
)
def test_an_overlap_does_not_extend_an_expiry(ends: datetime | None, kept: datetime) -> None:
    old = secret(generate("sk"), ends=ends)
    first, second = rotated(key(old)).secrets
    assert first == replace(old, expires_at=kept)
    assert second.expires_at is None
    assert second.created_at == NOW


@pytest.mark.parametrize("ends", [NOW, NOW - HOUR], ids=["now", "before"])
def test_rotation_removes_expired_secrets(ends: datetime) -> None:
    assert len(rotated(key(secret(generate("sk"), ends=ends))).secrets) == 1


def test_rotation_without_overlap_removes_earlier_secrets() -> None:
    (only,) = rotated(key(secret(generate("sk"))), overlap=timedelta(0)).secrets
    assert only.created_at == NOW


def test_secrets_have_distinct_creation_times() -> None:
    """Even if the clock was set back."""
    old = key(secret(generate("sk"), made=NOW))
    assert len({each.created_at for each in rotated(rotated(old)).secrets}) == 3
    assert rotated(key(secret(generate("sk"), made=NOW + HOUR))).secrets[1].created_at > NOW + HOUR


def test_a_secret_created_at_the_end_of_time_can_be_rotated() -> None:
    """There is no later time, so the new secret gets another unused one."""
    last = datetime.max.replace(tzinfo=UTC)
    old = key(secret(generate("sk"), made=last), secret(generate("sk"), made=NOW))
    new = rotated(rotated(old))
    assert len({each.created_at for each in new.secrets}) == 4
    assert [each.created_at for each in new.secrets[2:]] == [NOW + timedelta(microseconds=n) for n in (1, 2)]


def test_generated_secrets_share_a_salt() -> None:
    """So a refusal computes one digest, however many secrets the key has."""
    new = rotated(rotated(key(secret(generate("sk")))))
    assert len({salt_of([each]) for each in new.secrets}) == 1


def test_the_new_secret_uses_the_first_pepper() -> None:
    old = Secret(Hasher([b"old"]).hash(generate("sk")), created_at=NOW - HOUR)
    both = Hasher([b"new", b"old"])
    plain = generate("sk")
    new = lifecycle.rotated(key(old), NewSecret(plain, both), overlap=HOUR, now=NOW)
    assert not both.needs_rehash(new.secrets[1].hash)
    assert both.verify_digest(plain, new.secrets) == new.secrets[1]
    assert salt_of(new.secrets[:1]) == salt_of(new.secrets[1:])


def test_at_most_eight_active_secrets() -> None:
    full = key()
    for _ in range(MAX_ACTIVE_SECRETS):
        full = rotated(full)
    with pytest.raises(InvalidKey, match="at most 8 active secrets"):
        rotated(full)
    assert len(rotated(full, overlap=timedelta(0)).secrets) == 1
    assert len(rotated(full, now=NOW + 2 * HOUR).secrets) == 2  # all but the newest have ended


@pytest.mark.parametrize("hasher", [HASHER, Hasher(volatile=True)], ids=["stored", "volatile"])
def test_at_most_one_password(hasher: Hasher) -> None:
    old = key(Secret(hasher.hash("password once"), created_at=NOW - HOUR))
    with pytest.raises(InvalidKey, match="at most one password"):
        lifecycle.rotated(old, NewSecret("password twice", hasher), overlap=HOUR, now=NOW)
    instead = lifecycle.rotated(old, NewSecret("password twice", hasher), overlap=timedelta(0), now=NOW)
    assert len(instead.secrets) == 1
    both = lifecycle.rotated(old, NewSecret(generate("sk"), hasher), overlap=HOUR, now=NOW)
    assert len(both.secrets) == 2


@pytest.mark.parametrize("hasher", [HASHER, Hasher(volatile=True)], ids=["stored", "volatile"])
@pytest.mark.parametrize("plain", ["password", generate("sk")], ids=["password", "generated"])
@pytest.mark.parametrize("overlap", [timedelta(0), HOUR], ids=["none", "hour"])
def test_rotation_refuses_the_same_secret(hasher: Hasher, plain: str, overlap: timedelta) -> None:
    old = key(Secret(hasher.hash(plain), created_at=NOW - HOUR))
    with pytest.raises(InvalidKey, match="already") as raised:
        lifecycle.rotated(old, NewSecret(plain, hasher), overlap=overlap, now=NOW)
    assert plain not in str(raised.value)


UNREADABLE = {
    "a lost pepper": Hasher([b"lost"]).hash(generate("sk")),
    "another scheme": "$bamw2$0$",
    "cut off": HASHER.hash(generate("sk"))[:-1],
    "damaged password hash": "$argon2id$v=19$",
}


@pytest.mark.parametrize("hashed", UNREADABLE.values(), ids=UNREADABLE)
def test_rotation_without_overlap_removes_a_damaged_secret(hashed: str) -> None:
    """Without an overlap all earlier secrets end, so their hashes need not be readable."""
    plain = generate("sk")
    old = key(Secret(hashed, created_at=NOW - 2 * HOUR), secret(plain))
    with pytest.raises(UnreadableRecord, match="rotate without an overlap"):
        rotated(old)
    with pytest.raises(InvalidKey, match="already"):
        rotated(old, plain, overlap=timedelta(0))
    (only,) = rotated(old, overlap=timedelta(0)).secrets
    assert only.created_at == NOW


def test_revocation_is_final() -> None:
    gone = lifecycle.revoked(key(secret(generate("sk"))), NOW)
    assert gone.revoked_at == NOW
    assert lifecycle.revoked(gone, NOW + HOUR) is gone
    for change in (
        lifecycle.enabled,
        lambda old: lifecycle.updated(old, {"name": "new"}),
        lambda old: lifecycle.updated(old, {}),
        rotated,
    ):
        with pytest.raises(KeyRevoked, match="final"):
            change(gone)


def test_a_retried_change_does_not_hash_a_password_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would lose every race against faster changes."""
    calls: list[str] = []
    for module, name in ((digest, "hash_password"), (lifecycle, "verify_password")):
        real = getattr(module, name)
        counted = lambda *args, real=real, name=name: (calls.append(name), real(*args))[1]  # noqa: E731
        monkeypatch.setattr(module, name, counted)
    old = key(Secret(hash_password("password"), created_at=NOW - HOUR))
    new = NewSecret("another", HASHER)
    calls.clear()
    for _ in range(3):
        lifecycle.rotated(old, new, overlap=timedelta(0), now=NOW)
    assert calls == ["verify_password", "hash_password"]
