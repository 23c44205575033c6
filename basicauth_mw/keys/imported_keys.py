"""Validate a whole key that comes from an import, or from a program that creates its own."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from ..errors import InvalidKey
from .audit import sanitize
from .hashing import MAX_ACTIVE_SECRETS, MAX_SECRETS, check_hash, salt_of
from .lifecycle import is_active
from .model import Change, Key, Secret
from .validation import check_datetime, check_metadata, check_name, check_new_client_id, check_scopes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .hashing import Hasher

# A century: more than any clock is wrong. A later secret of the same key still needs a valid time after it.
_MAX_CLOCK_ERROR: Final = timedelta(days=36_525)

_EVENT: Final = re.compile(r"key\.[a-z_]{1,40}", re.ASCII)


def check_key(key: Key, hasher: Hasher, *, now: datetime) -> None:
    """Check that a key with its hashes may be stored. Its times may be in the past.

    Args:
        key: The key.
        hasher: Has the configured peppers.
        now: The current time; decides which secrets are active.

    Raises:
        InvalidKey: The key is invalid. The message says why, without its values.
    """
    if not isinstance(key, Key):
        raise InvalidKey("a key must be a Key")
    check_new_client_id(key.client_id)
    check_name(key.name)
    check_scopes(key.scopes)
    check_metadata(key.metadata)
    if type(key.disabled) is not bool:
        raise InvalidKey("disabled must be true or false")
    _check_created_at(key.created_at, "each time of a key", now=now)
    for time in (key.expires_at, key.revoked_at, key.last_used_at):
        if time is not None:
            check_datetime(time, "each time of a key")
    _check_secrets(key.secrets, hasher, now=now)


def check_change(change: Change) -> Change:
    """Check a change of an imported history, and return it with an actor that is safe to show.

    Raises:
        InvalidKey: It is invalid.
    """
    if not isinstance(change, Change):
        raise InvalidKey("a change must be a Change")
    if not isinstance(change.event, str) or not _EVENT.fullmatch(change.event):
        raise InvalidKey("the event of a change must be one of the audit log, such as key.created")
    if not isinstance(change.actor, str | None):
        raise InvalidKey("the actor of a change must be a string or None")
    return Change(change.event, sanitize(change.actor), check_datetime(change.time, "the time of a change"))


def _check_secrets(secrets: Sequence[Secret], hasher: Hasher, *, now: datetime) -> None:
    if len(secrets) > MAX_SECRETS:
        raise InvalidKey(f"a key has at most {MAX_SECRETS} secrets, including expired ones")
    for secret in secrets:
        if not isinstance(secret, Secret) or not isinstance(secret.hash, str):
            raise InvalidKey("a secret must be a Secret with a hash")
        _check_created_at(secret.created_at, "each time of a secret", now=now)
        for time in (secret.expires_at, secret.last_used_at):
            if time is not None:
                check_datetime(time, "each time of a secret")
        check_hash(secret.hash)
        if not hasher.has_pepper(secret.hash):
            raise InvalidKey("a hash was made with a pepper that is not configured here: add it to pepper")
    if len(secrets) < 2:
        return
    if len({secret.created_at for secret in secrets}) < len(secrets):
        raise InvalidKey("two secrets of a key have the same created_at")
    if sum(is_active(secret, now) for secret in secrets) > MAX_ACTIVE_SECRETS:
        raise InvalidKey(f"a key has at most {MAX_ACTIVE_SECRETS} active secrets")
    if sum(hasher.is_password(secret.hash) for secret in secrets) > 1:
        raise InvalidKey("a key has at most one password: each makes every refusal slower")
    # Each additional salt would make refusals of this key slower, which reveals that it exists.
    if len({salt_of([secret]) for secret in secrets} - {None}) > 1:
        raise InvalidKey("the hashes of a key's generated secrets must share one salt")


def _check_created_at(created_at: datetime, what: str, *, now: datetime) -> None:
    if check_datetime(created_at, what) - now > _MAX_CLOCK_ERROR:
        raise InvalidKey("created_at of the key or of a secret is more than a century from now")
