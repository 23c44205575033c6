"""The changes of a key, as pure functions, so that a change can be repeated after a lost race."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ..errors import InvalidKey, KeyRevoked, UnreadableRecord
from .hashing import MAX_ACTIVE_SECRETS, is_password_hash, salt_of, verify_password
from .model import Key, Secret

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .hashing import Hasher

_TICK: Final = timedelta(microseconds=1)
_LAST: Final = datetime.max.replace(tzinfo=UTC)


def first_version(now: datetime) -> int:
    """The version of a new key: higher than that of any deleted key with the same client ID."""
    return int(now.timestamp() * 1_000_000)


def is_active(secret: Secret, now: datetime) -> bool:
    """Whether a secret has not expired."""
    return secret.expires_at is None or secret.expires_at > now


def state_of(key: Key, now: datetime) -> str:
    """The state of a key: ``active``, ``expired``, ``disabled`` or ``revoked``."""
    if key.revoked_at is not None:
        return "revoked"
    if key.disabled:
        return "disabled"
    ended = key.expires_at is not None and key.expires_at <= now
    if ended or (key.secrets and not any(is_active(each, now) for each in key.secrets)):
        return "expired"
    return "active"


def ends_by(key: Key, until: datetime, now: datetime) -> bool:
    """Whether an active key stops working by a time, because it or its last secret expires."""
    if state_of(key, now) != "active":
        return False
    return state_of(key, until) == "expired"


def secret_ended(key: Key, created_at: datetime, now: datetime) -> Key:
    """End one secret; one that has expired keeps its time.

    Raises:
        KeyRevoked: The key is revoked.
        InvalidKey: It has no secret that was created then.
    """
    _refuse_revoked(key)
    if all(each.created_at != created_at for each in key.secrets):
        raise InvalidKey("the key has no secret that was created at this time")
    secrets = [_cap_expiry(each, now) if each.created_at == created_at else each for each in key.secrets]
    return replace(key, secrets=tuple(secrets))


def updated(key: Key, fields: dict[str, Any]) -> Key:
    """Replace fields, which are already validated. Raises ``KeyRevoked`` for a revoked key."""
    _refuse_revoked(key)
    return replace(key, **fields)


def enabled(key: Key) -> Key:
    """Enable the key. Raises ``KeyRevoked`` for a revoked key."""
    _refuse_revoked(key)
    return replace(key, disabled=False)


def revoked(key: Key, now: datetime) -> Key:
    """Revoke the key; an earlier revocation keeps its time."""
    return key if key.revoked_at else replace(key, revoked_at=now)


class NewSecret:
    """A secret to add to a key. Password hashes are computed once, even if the change is repeated.

    Args:
        plain: The secret in plain text.
        hasher: Hashes it.
    """

    def __init__(self, plain: str, hasher: Hasher) -> None:
        self._plain = plain
        self._hasher = hasher
        self._password_hash: str | None = None
        self._differs_from: set[str] = set()

    def hash(self, salt: str | None) -> str:
        """The hash to store; ``salt`` is for a digest."""
        hashed = self._password_hash or self._hasher.hash(self._plain, salt=salt)
        if is_password_hash(hashed):
            self._password_hash = hashed
        return hashed

    def is_password(self, hashed: str) -> bool:
        return self._hasher.is_password(hashed)

    def matches_any(self, secrets: Sequence[Secret]) -> bool:
        """Whether it is one of these secrets."""
        if self._hasher.verify_digest(self._plain, secrets) is not None:
            return True
        for each in secrets:
            if is_password_hash(each.hash) and each.hash not in self._differs_from:
                if verify_password(self._plain, each.hash):
                    return True
                self._differs_from.add(each.hash)
        return False


def rotated(key: Key, secret: NewSecret, *, overlap: timedelta, now: datetime) -> Key:
    """Add a secret. Earlier secrets expire after the overlap, or sooner; expired ones are removed.

    Args:
        key: The stored key.
        secret: The new secret.
        overlap: How long earlier secrets remain valid; zero removes them.
        now: The current time.

    Raises:
        KeyRevoked: The key is revoked.
        InvalidKey: The key has this secret already, or another password, or the maximum number of secrets.
        UnreadableRecord: A secret that would remain valid is damaged.
    """
    _refuse_revoked(key)
    active = [each for each in key.secrets if is_active(each, now)]
    try:
        is_duplicate = secret.matches_any(active)
    except UnreadableRecord as exc:
        if overlap:
            raise UnreadableRecord(f"{exc}: rotate without an overlap, which removes it") from None
        # A rotation without overlap removes the damaged secret.
        is_duplicate = any(_matches_or_false(secret, each) for each in active)
    if is_duplicate:
        raise InvalidKey("the key already has this secret: choose another")
    kept = [_cap_expiry(each, now + overlap) for each in active] if overlap else []
    if len(kept) >= MAX_ACTIVE_SECRETS:
        raise InvalidKey(
            f"a key has at most {MAX_ACTIVE_SECRETS} active secrets: rotate without an overlap, or wait "
            "until an earlier one expires"
        )
    new = Secret(secret.hash(salt_of(kept)), created_at=_unique_created_at(key.secrets, now))
    if secret.is_password(new.hash) and any(secret.is_password(each.hash) for each in kept):
        raise InvalidKey(
            "a key has at most one password: rotate without an overlap, which ends the old one now, "
            "or use a generated secret"
        )
    return replace(key, secrets=(*kept, new))


def _matches_or_false(secret: NewSecret, stored: Secret) -> bool:
    try:
        return secret.matches_any([stored])
    except UnreadableRecord:
        return False


def _unique_created_at(secrets: Sequence[Secret], now: datetime) -> datetime:
    """A creation time that no other secret of the key has, since it identifies the secret within the key.

    It is later than all others, even if the clock was set back, unless one has the latest possible time.
    """
    taken = {each.created_at for each in secrets}
    latest = max(taken, default=now - _TICK)
    created_at = now if latest == _LAST else max(now, latest + _TICK)
    while created_at in taken:
        created_at += _TICK
    return created_at


def _cap_expiry(secret: Secret, end: datetime) -> Secret:
    expires_sooner = secret.expires_at is not None and secret.expires_at <= end
    return secret if expires_sooner else replace(secret, expires_at=end)


def _refuse_revoked(key: Key) -> None:
    if key.revoked_at:
        raise KeyRevoked(f"the key {key.client_id!r} was revoked, which is final")
