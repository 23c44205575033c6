"""Key <-> JSON text: the one stored form of a key, shared by every store that writes octets.

Version 1 is an object with short names; times are whole microseconds since the epoch, UTC. ``last_used_at``
is not part of it: it is written apart, so that it never competes with a change of the key.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from json.encoder import encode_basestring as _quoted
from typing import TYPE_CHECKING, Any, Final

from ..errors import UnreadableRecord
from ..keys.model import Key, Secret, begun_key, begun_secret, complete_key, complete_secret
from ..keys.validation import check_depth
from .base import Use

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMAT = 1

SHORT = 512  # a record of up to so many characters is decoded whole as quickly as a long one in part

# In bytes, twice the size of the longest key that the rules allow: this bounds the cost of a refusal.
MAX_RECORD = 65_536

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_decode = json.JSONDecoder().raw_decode  # json.loads less its looking for encodings and blanks

_BLANKS = " \t\n\r"
_SECRETS = ',"secrets":['

# What decoding may come to where a record is damaged.
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)


def dump_key(key: Key) -> str:
    """Encode a key, hashes and version included, as compact JSON."""
    scopes = ",".join(map(_quoted, sorted(key.scopes))) if key.scopes else ""
    secrets = ",".join([_dump_secret(each) for each in key.secrets])
    text = (
        f'{_head(key.client_id)}{key.version},"name":{_quoted(key.name)},"scopes":[{scopes}],'
        f'"created":{to_microseconds(key.created_at)}{_SECRETS}{secrets}]'
    )
    if key.expires_at is not None:
        text += f',"expires":{to_microseconds(key.expires_at)}'
    if key.revoked_at is not None:
        text += f',"revoked":{to_microseconds(key.revoked_at)}'
    if key.disabled:
        text += ',"disabled":true'
    if key.metadata:
        text += f',"meta":{_ENCODER.encode(dict(key.metadata))}'
    return text + "}"


def _dump_secret(secret: Secret) -> str:
    expires = "null" if secret.expires_at is None else to_microseconds(secret.expires_at)
    return f"[{_quoted(secret.hash)},{to_microseconds(secret.created_at)},{expires}]"


def load_found(text: str | bytes | None, client_id: str) -> Key | None:
    """``load_key`` of what a look-up has found, as far as a refusal needs it; None is an unknown id.

    How long a refusal takes must not tell whether an id is known, or what its key holds. So an unknown one
    costs as much as a usual one, which is short and decoded at once. Of a long one only the id and the hashes
    are: the rest not before a field of it is read, which is not done for who has no secret of it, and raises
    ``UnreadableRecord`` if it is damaged.
    """
    if text is None:
        load_key(_USUAL, _NOBODY)
        return None
    return load_key(text, client_id) if len(text) <= SHORT else _begun(text, client_id)


def load_key(text: str | bytes, client_id: str) -> Key:
    """Decode what ``dump_key`` made.

    Args:
        text: The stored record.
        client_id: Whose it must be: a store's answer is bound to the question.

    Raises:
        UnreadableRecord: Damaged, of another version, or of another client.
    """
    try:
        record = _record(_text(text), client_id)
        secrets = tuple(
            [
                Secret(_str(hashed), _moment(created), _moment_or_none(expires))
                for hashed, created, expires in _list(record["secrets"])
            ]
        )
        name, scopes, created_at, expires_at, revoked_at, disabled, metadata, version = _rest(record)
        # fmt: off
        return Key(
            client_id, name, scopes, created_at, expires_at, revoked_at, disabled, None, metadata, secrets,
            version,
        )
        # fmt: on
    except _DAMAGE as exc:
        raise _unreadable(client_id, exc) from None


def _begun(text: str | bytes, client_id: str) -> Key:
    """Decode the id and the secrets, which are found without a look at what is between and behind them."""
    try:
        text = _text(text)
        # In the form of dump_key this is nowhere before the secrets: what it finds does not begin within a
        # text, where a quote has a backslash before it, and no member before the secrets is an object.
        start = text.find(_SECRETS) + len(_SECRETS) - 1
        if start < len(_SECRETS) or not text.startswith(_head(client_id)) or not text.endswith("}"):
            return load_key(text, client_id)  # in another form, or damaged
        listed, _ = _decode(text, start)
        secrets = tuple(
            [
                begun_secret(_str(hashed), partial(_complete_secret, client_id, created, expires))
                for hashed, created, expires in listed
            ]
        )
        return begun_key(client_id, secrets, partial(_complete_key, text, listed))
    except _DAMAGE as exc:
        raise _unreadable(client_id, exc) from None


def _complete_key(text: str, listed: list[Any], key: Key) -> None:
    """Decode what ``_begun`` left of a key, its secrets included: damage to one of them is damage to it."""
    try:
        record = _record(text, key.client_id)
        if record["secrets"] != listed:
            raise ValueError
        for secret, (_, created, expires) in zip(key.secrets, listed, strict=True):
            complete_secret(secret, _moment(created), _moment_or_none(expires))
        complete_key(key, *_rest(record))
    except _DAMAGE as exc:
        raise _unreadable(key.client_id, exc) from None


def _complete_secret(client_id: str, created: object, expires: object, secret: Secret) -> None:
    """Decode what ``_begun`` left of a secret."""
    try:
        complete_secret(secret, _moment(created), _moment_or_none(expires))
    except _DAMAGE as exc:
        raise _unreadable(client_id, exc) from None


def _record(text: str, client_id: str) -> dict[str, Any]:
    """The members of a record, if it is of this version and of this client."""
    text = text.strip(_BLANKS)
    check_depth(text)
    record, end = _decode(text, 0)
    if end != len(text):
        raise ValueError
    version = record["v"]
    if type(version) is not int:
        raise TypeError
    if version != FORMAT:
        raise UnreadableRecord(
            f"the key of {client_id!r} has format {version}; this release reads {FORMAT}",
            client_id=client_id,
        )
    if record["id"] != client_id:
        raise UnreadableRecord(
            f"the record of {client_id!r} belongs to another client id", client_id=client_id
        )
    members: dict[str, Any] = record
    return members


# One stored form, and no other: a record that was damaged must not come out as another key.


def _list(value: object) -> list[Any]:
    if type(value) is not list:
        raise TypeError
    return value


def _str(value: object) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _rest(record: dict[str, Any]) -> tuple[Any, ...]:
    """The fields of a key but for its id and its secrets, in the order of ``complete_key``."""
    name, version, scopes = record["name"], record["n"], record["scopes"]
    disabled, metadata = record.get("disabled", False), record.get("meta", {})
    if (type(name), type(version), type(scopes), type(disabled), type(metadata)) != _TYPES:
        raise TypeError
    if not _TEXT_ONLY.issuperset(map(type, scopes)):
        raise TypeError
    created, expires = _moment(record["created"]), _moment_or_none(record.get("expires"))
    revoked = _moment_or_none(record.get("revoked"))
    return name, frozenset(scopes), created, expires, revoked, disabled, metadata, version


_TYPES = (str, int, list, bool, dict)
_TEXT_ONLY = frozenset({str})


def _moment(microseconds: object) -> datetime:
    if type(microseconds) is not int:
        raise TypeError
    return _EPOCH + microseconds * _MICROSECOND


def _moment_or_none(microseconds: object) -> datetime | None:
    return None if microseconds is None else _moment(microseconds)


def load_uses(client_id: str, rows: Iterable[tuple[Any, Any]]) -> Iterator[Use]:
    """Decode when the secrets of a client were used last.

    Args:
        client_id: Whose they are.
        rows: For each secret, when it was made, in microseconds, and used, in minutes, since the epoch. One
            that cannot be read is left out: a use that is lost is no reason to hide a key.
    """
    for secret, minute in rows:
        with suppress(TypeError, ValueError, OverflowError):
            yield Use(client_id, _EPOCH + int(secret) * _MICROSECOND, _EPOCH + int(minute) * _MINUTE)


def _head(client_id: str) -> str:
    """How a record begins, up to its version."""
    return f'{{"v":{FORMAT},"id":{_quoted(client_id)},"n":'


def _text(text: str | bytes) -> str:
    if len(text) > MAX_RECORD:
        raise ValueError
    return text if isinstance(text, str) else text.decode()


def _unreadable(client_id: str, exc: Exception) -> UnreadableRecord:
    # Neither the text nor its values: both may hold hashes.
    return UnreadableRecord(
        f"the stored key of {client_id!r} cannot be read ({type(exc).__name__})", client_id=client_id
    )


def to_microseconds(moment: datetime) -> int:
    """Since the epoch."""
    return (moment - _EPOCH) // _MICROSECOND


def to_minutes(moment: datetime) -> int:
    """Since the epoch."""
    return (moment - _EPOCH) // _MINUTE


_NOBODY: Final = f"id_{'0' * 49}"
_USUAL: Final = dump_key(
    Key(_NOBODY, name="a usual name", secrets=(Secret(f"$bamw1$0${'A' * 16}${'A' * 43}", created_at=_EPOCH),))
)
