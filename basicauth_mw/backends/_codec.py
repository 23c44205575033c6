"""Key <-> JSON text: the one stored form of a key, shared by every store that writes octets.

Version 1 is an object with short names; times are whole microseconds since the epoch, UTC. ``last_used_at``
is not part of it: it is written apart, so that it never competes with a change of the key.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ..errors import UnreadableRecord
from ..model import Key, Secret
from .base import Use

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMAT = 1

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)


def dump_key(key: Key) -> str:
    """Encode a key, hashes and version included, as compact JSON."""
    record: dict[str, Any] = {
        "v": FORMAT,
        "id": key.client_id,
        "n": key.version,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created": _to_us(key.created_at),
        "secrets": [[s.hash, _to_us(s.created_at), _to_us(s.expires_at)] for s in key.secrets],
    }
    if key.expires_at is not None:
        record["expires"] = _to_us(key.expires_at)
    if key.revoked_at is not None:
        record["revoked"] = _to_us(key.revoked_at)
    if key.disabled:
        record["disabled"] = True
    if key.metadata:
        record["meta"] = dict(key.metadata)
    return _ENCODER.encode(record)


def load_found(text: str | bytes | None, client_id: str) -> Key | None:
    """``load_key`` of what a look-up has found; None is an unknown id.

    That costs what a usual record costs: how long a refusal takes must not tell whether an id is known.
    """
    if text is None:
        load_key(_USUAL, _NOBODY)
        return None
    return load_key(text, client_id)


def load_key(text: str | bytes, client_id: str) -> Key:
    """Decode what ``dump_key`` made.

    Args:
        text: The stored record.
        client_id: Whose it must be: a store's answer is bound to the question.

    Raises:
        UnreadableRecord: Damaged, of another version, or of another client.
    """
    try:
        record = json.loads(text)
        if _int(record["v"]) != FORMAT:
            raise UnreadableRecord(
                f"the key of {client_id!r} has format {record['v']}; this release reads {FORMAT}",
                client_id=client_id,
            )
        if record["id"] != client_id:
            raise UnreadableRecord(
                f"the record of {client_id!r} belongs to another client id", client_id=client_id
            )
        return Key(
            client_id=client_id,
            name=_str(record["name"]),
            scopes=frozenset(_str(scope) for scope in _list(record["scopes"])),
            created_at=_moment(record["created"]),
            expires_at=_from_us(record.get("expires")),
            revoked_at=_from_us(record.get("revoked")),
            disabled=_bool(record.get("disabled", False)),
            metadata=_dict(record.get("meta", {})),
            secrets=tuple(
                Secret(_str(hashed), _moment(created), _from_us(expires))
                for hashed, created, expires in _list(record["secrets"])
            ),
            version=_int(record["n"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as exc:
        # Neither the text nor its values: both may hold hashes.
        raise UnreadableRecord(
            f"the stored key of {client_id!r} cannot be read ({type(exc).__name__})", client_id=client_id
        ) from None


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


def _to_us(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


def _from_us(value: object) -> datetime | None:
    return None if value is None else _moment(value)


def _moment(value: object) -> datetime:
    return _EPOCH + _int(value) * _MICROSECOND


# One stored form, and no other: a record that was damaged must not come out as another key.


def _int(value: object) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _list(value: object) -> list[Any]:
    if type(value) is not list:
        raise TypeError
    return value


def _str(value: object) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _bool(value: object) -> bool:
    if type(value) is not bool:
        raise TypeError
    return value


def _dict(value: object) -> dict[str, Any]:
    if type(value) is not dict:
        raise TypeError
    return value


_NOBODY: Final = f"id_{'0' * 49}"
_USUAL: Final = dump_key(
    Key(_NOBODY, name="a usual name", secrets=(Secret(f"$bamw1$0${'A' * 16}${'A' * 43}", created_at=_EPOCH),))
)
