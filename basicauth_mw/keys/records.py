"""Whether a whole key, made elsewhere, may be stored."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from ..errors import InvalidKey
from .hashing import MAX_LIVE_SECRETS, MAX_SECRETS, check_hash, salt_of
from .lifecycle import is_live
from .model import Key, Secret
from .validation import check_metadata, check_moment, check_name, check_new_client_id, check_scopes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .hashing import Hasher

# Clocks are wrong, but not by so much: a century. What comes later than every other secret of its key must
# have a moment to be made at.
_AHEAD: Final = timedelta(days=36_525)


def check_key(key: Key, hasher: Hasher, *, now: datetime) -> None:
    """Make sure that a key with its hashes obeys every rule for stored ones. Its times may be past.

    Args:
        key: From an import, or from a program that makes its own.
        hasher: Knows the peppers in force.
        now: Tells which secrets are live.

    Raises:
        InvalidKey: It does not; says why, without its values.
    """
    if not isinstance(key, Key):
        raise InvalidKey("a key is a Key")
    check_new_client_id(key.client_id)
    check_name(key.name)
    check_scopes(key.scopes)
    check_metadata(key.metadata)
    if type(key.disabled) is not bool:
        raise InvalidKey("disabled is true or false")
    _check_made(key.created_at, "each time of a key", now=now)
    for moment in (key.expires_at, key.revoked_at, key.last_used_at):
        if moment is not None:
            check_moment(moment, "each time of a key")
    _check_secrets(key.secrets, hasher, now=now)


def _check_secrets(secrets: Sequence[Secret], hasher: Hasher, *, now: datetime) -> None:
    if len(secrets) > MAX_SECRETS:
        raise InvalidKey(f"a key has at most {MAX_SECRETS} secrets, with those that have ended")
    for secret in secrets:
        if not isinstance(secret, Secret) or not isinstance(secret.hash, str):
            raise InvalidKey("a secret is a Secret with a hash")
        _check_made(secret.created_at, "each time of a secret", now=now)
        for moment in (secret.expires_at, secret.last_used_at):
            if moment is not None:
                check_moment(moment, "each time of a secret")
        check_hash(secret.hash)
        if not hasher.has_pepper(secret.hash):
            raise InvalidKey("a hash was made with a pepper that is not configured here: add it to pepper")
    if len(secrets) < 2:
        return
    if len({secret.created_at for secret in secrets}) < len(secrets):
        raise InvalidKey("two secrets of a key were made in the same microsecond")
    if sum(is_live(secret, now) for secret in secrets) > MAX_LIVE_SECRETS:
        raise InvalidKey(f"a key has at most {MAX_LIVE_SECRETS} live secrets")
    if sum(hasher.is_password(secret.hash) for secret in secrets) > 1:
        raise InvalidKey("a key has at most one secret with a slow hash: each costs its own at every refusal")
    # Each more salt would make a refusal of this key cost more, and so tell that it exists.
    if len({salt_of([secret]) for secret in secrets} - {None}) > 1:
        raise InvalidKey("the hashes of a key's minted secrets share one salt")


def _check_made(created_at: datetime, what: str, *, now: datetime) -> None:
    if check_moment(created_at, what) - now > _AHEAD:
        raise InvalidKey("created_at is more than a century from now, of the key or of one of its secrets")
