"""The export format: one key per line, as JSON in ASCII, with everything that is stored of it.

The last line of an export also has the number of lines (``end``), so that a truncated file is detected even
if it was cut between two lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from ...errors import InvalidKey
from ...keys.model import Change, Key, Secret
from ...keys.validation import DuplicateName, strict_json_loads

FORMAT: Final = 1

_KEY_TYPES: Final = {
    "client_id": str,
    "name": str,
    "scopes": list,
    "created_at": datetime,
    "expires_at": datetime,
    "revoked_at": datetime,
    "disabled": bool,
    "last_used_at": datetime,
    "metadata": dict,
    "secrets": list,
}
_SECRET_TYPES: Final = {"hash": str, "created_at": datetime, "expires_at": datetime, "last_used_at": datetime}
_CHANGE_TYPES: Final = {"event": str, "actor": str, "time": datetime}
_NULLABLE: Final = frozenset({"expires_at", "revoked_at", "last_used_at", "actor"})
_TYPE_NAMES: Final = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    list: "a list",
    dict: "an object",
    datetime: "a time such as 2030-01-31T12:00:00.000000Z",
}

# RFC 3339 in UTC, with up to six digits of a second's fraction.
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?Z", re.ASCII)


def dump_line(key: Key, history: Sequence[Change] = (), *, end: int | None = None) -> str:
    """Encode a key, including its hashes and its history, as one line without a line break."""
    fields = {"v": FORMAT, **_fields_of(key, _KEY_TYPES)}
    if history:
        fields["history"] = [_fields_of(change, _CHANGE_TYPES) for change in history]
    if end is not None:
        fields["end"] = end
    return json.dumps(fields, separators=(",", ":"), default=_encode)


def load_line(text: str) -> tuple[Key, int | None, list[Change]]:
    """Decode a line made by ``dump_line``: a key, ``end`` and the history; they are not validated yet."""
    try:
        fields = strict_json_loads(text)
    except DuplicateName:
        raise InvalidKey("an object has two members with the same name") from None
    except RecursionError:
        raise InvalidKey("nested too deep") from None
    except ValueError:
        raise InvalidKey("not JSON: damaged or cut off") from None
    if type(fields) is not dict or type(fields.get("v")) is not int:
        raise InvalidKey("not a key of an export")
    if fields.pop("v") != FORMAT:
        raise InvalidKey(f"unsupported version of the export format; this release reads version {FORMAT}")
    end = _load_value("end", fields.pop("end"), int) if "end" in fields else None
    history = _load_value("history", fields.pop("history", []), list)
    values = _load_fields(fields, _KEY_TYPES)
    if not all(type(scope) is str for scope in values["scopes"]):
        raise InvalidKey("scopes is not a list of strings")
    values["secrets"] = [Secret(**_load_fields(secret, _SECRET_TYPES)) for secret in values["secrets"]]
    return Key(**values), end, [Change(**_load_fields(change, _CHANGE_TYPES)) for change in history]


def _fields_of(value: Key | Secret | Change, names: Mapping[str, type]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


def _encode(value: object) -> object:
    match value:
        case datetime():
            return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
        case Secret():
            return _fields_of(value, _SECRET_TYPES)
        case frozenset():
            return sorted(value)
        case Mapping():  # a third-party store may return read-only metadata
            return dict(value)
    raise TypeError(f"metadata contains a value that JSON cannot represent: {type(value).__name__}")


def _load_fields(fields: Any, types: Mapping[str, type]) -> dict[str, Any]:
    if type(fields) is not dict:
        raise InvalidKey("secrets or history is not a list of objects")
    if missing := sorted(types.keys() - fields.keys()):
        raise InvalidKey(f"not a key of an export: {', '.join(missing)} is missing")
    if fields.keys() - types.keys():
        raise InvalidKey("unknown field: the export was made by a later release")
    return {name: _load_value(name, fields[name], kind) for name, kind in types.items()}


def _load_value(name: str, value: Any, kind: type) -> Any:
    if value is None and name in _NULLABLE:
        return None
    if kind is datetime and type(value) is str and _TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass  # 30 February
    elif type(value) is kind:
        return value
    raise InvalidKey(f"{name} is not {_TYPE_NAMES[kind]}")
