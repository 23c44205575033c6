"""A key as one line of an export: everything of it, hashes included, as JSON in ASCII.

The last line of an export also says how many lines it has (``end``), so that a file that was cut off between
two lines is told from a whole one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeVar

from .errors import BasicAuthError, InvalidKey
from .keys.model import Key, Secret
from .keys.validation import check_depth

FORMAT: Final = 1

T = TypeVar("T")

_KEY_FIELDS: Final = frozenset(
    {
        *("v", "client_id", "name", "scopes", "created_at", "expires_at", "revoked_at", "disabled"),
        *("last_used_at", "metadata", "secrets"),
    }
)
_SECRET_FIELDS: Final = frozenset({"hash", "created_at", "expires_at", "last_used_at"})

# RFC 3339 in UTC, up to the microsecond.
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?Z", re.ASCII)

_KINDS: Final = {str: "text", bool: "true or false", int: "a whole number", list: "a list", dict: "an object"}


class TransferError(BasicAuthError):
    """An export or an import was refused as a whole: nothing was written."""

    code = "transfer_error"


def dump_line(key: Key, *, end: int | None = None) -> str:
    """Encode a key. The result holds no line break; it does hold the key's hashes.

    Args:
        key: What to write.
        end: On the last line, how many lines the export has.
    """
    fields: dict[str, Any] = {
        "v": FORMAT,
        "client_id": key.client_id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": _written(key.created_at),
        "expires_at": _written(key.expires_at),
        "revoked_at": _written(key.revoked_at),
        "disabled": key.disabled,
        "last_used_at": _written(key.last_used_at),
        "metadata": key.metadata,
        "secrets": [
            {
                "hash": secret.hash,
                "created_at": _written(secret.created_at),
                "expires_at": _written(secret.expires_at),
                "last_used_at": _written(secret.last_used_at),
            }
            for secret in key.secrets
        ],
    }
    if end is not None:
        fields["end"] = end
    return json.dumps(fields, separators=(",", ":"), default=_as_dict)


def load_line(text: str) -> tuple[Key, int | None]:
    """Decode what ``dump_line`` made.

    Returns:
        The key, whose values are of the right kind but not looked at (see ``Backend.check``), and ``end``.

    Raises:
        InvalidKey: It is something else. Says what, and never a value.
    """
    try:
        fields = read_json(text)
    except RepeatedName:
        raise InvalidKey("a name is there twice in one object") from None
    except RecursionError:
        raise InvalidKey("nested too deep") from None
    except ValueError:
        raise InvalidKey("not JSON: damaged, or cut off") from None
    if type(fields) is not dict or type(fields.get("v")) is not int:
        raise InvalidKey("not a key of an export")
    if fields["v"] != FORMAT:
        raise InvalidKey(f"format {fields['v']} of an export; this release reads {FORMAT}")
    end = _optional(fields, "end", int)
    _check_names(fields.keys() - {"end"}, _KEY_FIELDS)
    scopes = _typed(fields, "scopes", list)
    if not all(type(scope) is str for scope in scopes):
        raise InvalidKey("scopes is not a list of texts")
    key = Key(
        client_id=_typed(fields, "client_id", str),
        name=_typed(fields, "name", str),
        scopes=frozenset(scopes),
        created_at=_moment(fields, "created_at"),
        expires_at=_moment_or_none(fields, "expires_at"),
        revoked_at=_moment_or_none(fields, "revoked_at"),
        disabled=_typed(fields, "disabled", bool),
        last_used_at=_moment_or_none(fields, "last_used_at"),
        metadata=_typed(fields, "metadata", dict),
        secrets=tuple(_secret(each) for each in _typed(fields, "secrets", list)),
    )
    return key, end


def _secret(fields: object) -> Secret:
    if type(fields) is not dict:
        raise InvalidKey("secrets is not a list of objects")
    _check_names(fields.keys(), _SECRET_FIELDS)
    return Secret(
        _typed(fields, "hash", str),
        created_at=_moment(fields, "created_at"),
        expires_at=_moment_or_none(fields, "expires_at"),
        last_used_at=_moment_or_none(fields, "last_used_at"),
    )


def _check_names(found: Any, wanted: frozenset[str]) -> None:
    if missing := sorted(wanted - found):
        raise InvalidKey(f"not a key of an export: {', '.join(missing)} is missing")
    if found - wanted:
        raise InvalidKey("a field that this release does not know")


def _typed(fields: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = fields[name]
    if type(value) is not kind:
        raise InvalidKey(f"{name} is not {_KINDS[kind]}")
    return value


def _optional(fields: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    return _typed(fields, name, kind) if name in fields else None


def _moment(fields: Mapping[str, Any], name: str) -> datetime:
    text = _typed(fields, name, str)
    try:
        if _MOMENT.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:
        pass  # 30 February
    raise InvalidKey(f"{name} is not a moment as in 2030-01-31T12:00:00.000000Z")


def _moment_or_none(fields: Mapping[str, Any], name: str) -> datetime | None:
    return None if fields[name] is None else _moment(fields, name)


def _written(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _as_dict(value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):  # somebody's store may keep metadata in read-only views
        return dict(value)
    raise TypeError(f"metadata holds what JSON cannot: {type(value).__name__}")


class RepeatedName(ValueError):
    """An object of JSON has two members of one name: which of the two was meant cannot be told."""


def read_json(text: str) -> Any:
    """Decode JSON that means one thing only.

    Raises:
        RepeatedName: An object has two members of one name, which RFC 8259 section 4 leaves to every reader.
        ValueError: It is not JSON.
        RecursionError: It is nested too deep.
    """
    check_depth(text)
    return _DECODER.decode(text)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise RepeatedName
    return members


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError  # NaN and Infinity, which RFC 8259 does not know


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_members)
