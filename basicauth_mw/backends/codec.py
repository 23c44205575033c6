"""Key <-> JSON text: the stored form of a key in every store that writes bytes.

Version 1 is an object with short names; times are whole microseconds since the epoch, UTC. ``last_used_at``
is not part of it: it is written separately, so that it never competes with a change of the key.

How long a refusal takes must not reveal whether an ID exists, or what its key holds. So decoding has two
stages: a lookup decodes the secrets alone (``StoredRecord``), found without parsing the rest of the text.
Only the right secret decodes the rest (``StoredRecord.load_fields``). A wrong secret decodes the rest of a
decoy instead, and an unknown ID a whole decoy.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from json.encoder import encode_basestring as _quoted
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict

from ..errors import UnreadableRecord
from ..keys.model import Key, Secret
from ..keys.validation import check_depth
from .base import LastUse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

FORMAT = 1

# In bytes, twice the size of the longest valid key: this bounds the cost of a refusal.
MAX_RECORD = 65_536

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
# json.loads without detecting encodings and skipping whitespace. It raises StopIteration where text ends.
_decode: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]

_WHITESPACE = " \t\n\r"
_SECRETS = ',"secrets":['

# What decoding a damaged record may raise.
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, StopIteration)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)
_FIRST_TIME = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST_TIME = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


def dump_key(key: Key) -> str:
    """Encode a key, hashes and version included, as compact JSON."""
    scopes = ",".join(map(_quoted, sorted(key.scopes))) if key.scopes else ""
    secrets = ",".join([_dump_secret(each) for each in key.secrets])
    text = (
        f'{_prefix(key.client_id)}{key.version},"name":{_quoted(key.name)},"scopes":[{scopes}],'
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


class StoredSecret(NamedTuple):
    """One secret as it is stored. Its times are in microseconds since the epoch.

    Those of a ``StoredRecord`` are checked by its ``load_fields``.
    """

    hash: str
    created_at: int
    expires_at: int | None


class KeyFields(TypedDict, total=False):
    """The fields of a stored key, except its secrets. Times are in microseconds since the epoch."""

    name: str
    n: int
    scopes: frozenset[str]
    created: int
    expires: int | None
    revoked: int | None
    disabled: bool
    meta: Mapping[str, Any]


class StoredRecord(NamedTuple):
    """A stored key of which only the secrets are decoded, which is all that a refusal needs.

    Attributes:
        client_id: ID of the key.
        secrets: Its secrets, in order.
        text: The record.
        start: Where the list of secrets begins in ``text``.
        end: Where it ends.
    """

    client_id: str
    secrets: tuple[StoredSecret, ...]
    text: str
    start: int
    end: int

    def load_fields(self) -> KeyFields:
        """Decode and check the rest.

        Raises:
            UnreadableRecord: The record is damaged.
        """
        try:
            text = self.text
            record = _members(f"{text[: self.start]}null{text[self.end :]}", self.client_id)
            if record["secrets"] is not None:  # a second list, hidden from the first stage
                raise ValueError
            name, version, scopes = record["name"], record["n"], record["scopes"]
            disabled, metadata = record.get("disabled", False), record.get("meta", {})
            if (type(name), type(version), type(scopes), type(disabled), type(metadata)) != _TYPES:
                raise TypeError
            if not _TEXT_ONLY.issuperset(map(type, scopes)):
                raise TypeError
            times, ends = [record["created"]], [record.get("expires"), record.get("revoked")]
            for _, created, expires in self.secrets:
                times.append(created)
                ends.append(expires)
            for time in times + [end for end in ends if end is not None]:
                if type(time) is not int or not _FIRST_TIME <= time <= _LAST_TIME:
                    raise TypeError
            record["scopes"] = _shared(tuple(scopes))
        except _DAMAGE as exc:
            raise _unreadable(self.client_id, exc) from None
        fields: KeyFields = record  # type: ignore[assignment]  # checked
        return fields

    def load_key(self) -> Key:
        """The whole key. Raises as ``load_fields`` does."""
        fields = self.load_fields()
        return Key(
            self.client_id,
            fields["name"],
            fields["scopes"],
            from_microseconds(fields["created"]),
            _or_none(fields.get("expires")),
            _or_none(fields.get("revoked")),
            fields.get("disabled", False),
            None,
            fields.get("meta", {}),
            tuple(
                [
                    Secret(hashed, from_microseconds(created), _or_none(expires))
                    for hashed, created, expires in self.secrets
                ]
            ),
            fields["n"],
        )


def stored_secret(secret: Secret) -> StoredSecret:
    """The stored form of a secret, with times in microseconds."""
    expires_at = None if secret.expires_at is None else to_microseconds(secret.expires_at)
    return StoredSecret(secret.hash, to_microseconds(secret.created_at), expires_at)


def load_record(text: str | bytes, client_id: str) -> StoredRecord:
    """``load_key``, but decode the secrets only."""
    try:
        if len(text) > MAX_RECORD:
            raise ValueError
        if isinstance(text, bytes):
            text = text.decode()
        # In what dump_key writes, the first match is the list itself: inside a JSON string a backslash
        # precedes each quote.
        start = text.find(_SECRETS) + len(_SECRETS) - 1
        if start < len(_SECRETS) or not text.startswith(_prefix(client_id)) or not text.endswith("}"):
            members = _members(text.strip(_WHITESPACE), client_id)  # edited by hand, or damaged
            listed = members.pop("secrets")
            if type(listed) is not list:
                raise TypeError
            text = _ENCODER.encode({**members, "secrets": []})
            start, end = len(text) - len("[]}"), len(text) - len("}")
        else:
            listed, end = _decode(text, start)
        secrets = []
        for hashed, created, expires in listed:
            if type(hashed) is not str:
                raise TypeError
            secrets.append(StoredSecret(hashed, created, expires))
    except _DAMAGE as exc:
        raise _unreadable(client_id, exc) from None
    return StoredRecord(client_id, tuple(secrets), text, start, end)


def has_version(text: str, client_id: str, version: int) -> bool:
    """Whether ``dump_key`` made a record of a key with this ID and version."""
    return text.startswith(f"{_prefix(client_id)}{version},")


def load_for_lookup(text: str | bytes | None, client_id: str) -> StoredRecord | None:
    """``load_record`` of what a lookup has found; for an unknown ID (None) it decodes a decoy instead."""
    if text is None:
        load_record(_DECOY_RECORD, _DECOY_ID).load_fields()
        return None
    return load_record(text, client_id)


def load_key(text: str | bytes, client_id: str) -> Key:
    """Decode what ``dump_key`` made.

    Args:
        text: The stored record.
        client_id: The ID that was looked up, which the record must have.

    Raises:
        UnreadableRecord: The record is damaged, of another version, or of another client.
    """
    return load_record(text, client_id).load_key()


def load_decoy_details() -> None:
    """Do the work of ``StoredRecord.load_fields`` for a record of usual size."""
    _DECOY.load_fields()


def as_key(found: Key | StoredRecord | None) -> Key | None:
    """The whole key of what a lookup has found.

    Raises:
        UnreadableRecord: The record is damaged.
    """
    return found.load_key() if isinstance(found, StoredRecord) else found


def _members(text: str, client_id: str) -> dict[str, Any]:
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
            f"the record of {client_id!r} belongs to another client ID", client_id=client_id
        )
    members: dict[str, Any] = record
    return members


# Types are exact: a damaged record must not be read as another key.
_TYPES = (str, int, list, bool, dict)
_TEXT_ONLY = frozenset({str})


def _or_none(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else from_microseconds(microseconds)


@lru_cache(maxsize=256)
def _shared(scopes: tuple[str, ...]) -> frozenset[str]:
    """The set of these scopes, of which equal keys share one: it takes 216 bytes or more."""
    return frozenset(scopes)


def load_uses(client_id: str, rows: Iterable[tuple[Any, Any]]) -> Iterator[LastUse]:
    """Decode when the secrets of a client were last used.

    Args:
        client_id: ID of the key.
        rows: For each secret, when it was created (microseconds since the epoch) and last used (minutes since
            the epoch). Unreadable rows are skipped: a lost use is no reason to hide a key.
    """
    for secret, minute in rows:
        with suppress(TypeError, ValueError, OverflowError):
            yield LastUse(client_id, _EPOCH + int(secret) * _MICROSECOND, _EPOCH + int(minute) * _MINUTE)


def _prefix(client_id: str) -> str:
    """The beginning of a record, up to the version of the key."""
    return f'{{"v":{FORMAT},"id":{_quoted(client_id)},"n":'


def _unreadable(client_id: str, exc: Exception) -> UnreadableRecord:
    # Without the text and its values: both may contain hashes.
    return UnreadableRecord(
        f"the stored key of {client_id!r} cannot be read ({type(exc).__name__})", client_id=client_id
    )


def to_microseconds(time: datetime) -> int:
    """Microseconds since the epoch."""
    return (time - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """The time this long after the epoch, in UTC."""
    return _EPOCH + microseconds * _MICROSECOND


def to_minutes(time: datetime) -> int:
    """Minutes since the epoch."""
    return (time - _EPOCH) // _MINUTE


_DECOY_ID: Final = f"id_{'0' * 49}"
_DECOY_RECORD: Final = dump_key(
    Key(
        _DECOY_ID,
        name="a usual name",
        secrets=(Secret(f"$bamw1$0${'A' * 16}${'A' * 43}", created_at=_EPOCH),),
    )
)
_DECOY: Final = load_record(_DECOY_RECORD, _DECOY_ID)
