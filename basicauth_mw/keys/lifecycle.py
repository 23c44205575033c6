"""What each change makes of a key: pure functions, so that a change may be tried again after a lost race."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ..errors import InvalidKey, KeyRevoked, UnreadableRecord
from .hashing import MAX_LIVE_SECRETS, is_password_hash, salt_of, verify_password
from .model import Key, Secret

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .hashing import Hasher

_TICK: Final = timedelta(microseconds=1)
_LAST: Final = datetime.max.replace(tzinfo=UTC)


def first_version(now: datetime) -> int:
    """The version of a new key: above that of any that was deleted under the same client id."""
    return int(now.timestamp() * 1_000_000)


def is_live(secret: Secret, now: datetime) -> bool:
    """Tell whether a secret has not ended."""
    return secret.expires_at is None or secret.expires_at > now


def state_of(key: Key, now: datetime) -> str:
    """One word for whether a key works: ``active``, ``expired``, ``disabled`` or ``revoked``."""
    if key.revoked_at is not None:
        return "revoked"
    if key.disabled:
        return "disabled"
    ended = key.expires_at is not None and key.expires_at <= now
    if ended or (key.secrets and not any(is_live(each, now) for each in key.secrets)):
        return "expired"
    return "active"


def updated(key: Key, fields: dict[str, Any]) -> Key:
    """With other fields, which were checked before.

    Raises:
        KeyRevoked: It was revoked.
    """
    _refuse_revoked(key)
    return replace(key, **fields)


def enabled(key: Key) -> Key:
    """Not disabled.

    Raises:
        KeyRevoked: It was revoked.
    """
    _refuse_revoked(key)
    return replace(key, disabled=False)


def revoked(key: Key, now: datetime) -> Key:
    """Revoked, at the moment at which it first was."""
    return key if key.revoked_at else replace(key, revoked_at=now)


class NewSecret:
    """A secret to be added to a key. What takes long is done once, however often the change has to be tried.

    Args:
        plain: Itself.
        hasher: Hashes it.
    """

    def __init__(self, plain: str, hasher: Hasher) -> None:
        self._plain = plain
        self._hasher = hasher
        self._slow: str | None = None
        self._differs_from: set[str] = set()

    def hash(self, salt: str | None) -> str:
        """What to store of it; ``salt`` is for a fast hash."""
        hashed = self._slow or self._hasher.hash(self._plain, salt=salt)
        if is_password_hash(hashed):
            self._slow = hashed
        return hashed

    def is_password(self, hashed: str) -> bool:
        """Whether a hash is that of a chosen secret."""
        return self._hasher.is_password(hashed)

    def is_among(self, secrets: Sequence[Secret]) -> bool:
        """Whether it is one of these."""
        if self._hasher.verify_digest(self._plain, secrets) is not None:
            return True
        for each in secrets:
            if is_password_hash(each.hash) and each.hash not in self._differs_from:
                if verify_password(self._plain, each.hash):
                    return True
                self._differs_from.add(each.hash)
        return False


def rotated(key: Key, secret: NewSecret, *, overlap: timedelta, now: datetime) -> Key:
    """With one more secret; the earlier ones end when the overlap is over, or sooner, and ended ones go.

    Args:
        key: As it is stored.
        secret: The new one.
        overlap: From now on; none of it leaves no earlier secret.
        now: The time.

    Raises:
        KeyRevoked: It was revoked.
        InvalidKey: It has this secret, another chosen one, or as many as it may have.
        UnreadableRecord: One of the secrets that would go on cannot be read.
    """
    _refuse_revoked(key)
    live = [each for each in key.secrets if is_live(each, now)]
    try:
        is_there = secret.is_among(live)
    except UnreadableRecord as exc:
        if overlap:
            raise UnreadableRecord(f"{exc}: rotate without an overlap, which ends it") from None
        is_there = any(_is_surely(secret, each) for each in live)  # this is how to be rid of it
    if is_there:
        raise InvalidKey("the key has this secret already: give another")
    kept = [_ended(each, now + overlap) for each in live] if overlap else []
    if len(kept) >= MAX_LIVE_SECRETS:
        raise InvalidKey(
            f"a key has at most {MAX_LIVE_SECRETS} live secrets: rotate without an overlap, or wait until an "
            "earlier one ends"
        )
    new = Secret(secret.hash(salt_of(kept)), created_at=_moment_beside(key.secrets, now))
    if secret.is_password(new.hash) and any(secret.is_password(each.hash) for each in kept):
        raise InvalidKey(
            "a key has one chosen secret at a time: rotate without an overlap, which ends the old one now, "
            "or let the new one be minted"
        )
    return replace(key, secrets=(*kept, new))


def _is_surely(secret: NewSecret, stored: Secret) -> bool:
    try:
        return secret.is_among([stored])
    except UnreadableRecord:
        return False


def _moment_beside(secrets: Sequence[Secret], now: datetime) -> datetime:
    """When one more secret is made: never at the moment of another, which is what tells them apart.

    Later than each, also when the clock was set back; but for one that claims the end of time.
    """
    taken = {each.created_at for each in secrets}
    latest = max(taken, default=now - _TICK)
    moment = now if latest == _LAST else max(now, latest + _TICK)
    while moment in taken:
        moment += _TICK
    return moment


def _ended(secret: Secret, end: datetime) -> Secret:
    sooner = secret.expires_at is not None and secret.expires_at <= end
    return secret if sooner else replace(secret, expires_at=end)


def _refuse_revoked(key: Key) -> None:
    if key.revoked_at:
        raise KeyRevoked(f"the key {key.client_id!r} was revoked, which is final")
