"""Validate the fields of a key. Each check returns the value in its stored form or raises ``InvalidKey``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

from ..errors import InvalidKey
from .authorization_header import CONTROL_CHARS
from .generated_secrets import SecretShape, classify, is_secret

MAX_ID_BYTES: Final = 255
MAX_SECRET_BYTES: Final = 1024
MAX_NAME: Final = 200
MAX_METADATA_BYTES: Final = 4096
MAX_METADATA_DEPTH: Final = 32
MAX_JSON_DEPTH: Final = 64  # of a stored record or an exported line, which contain metadata and little more
MAX_SCOPES: Final = 100
MAX_SCOPE_BYTES: Final = 255

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"0|([0-9]{1,9})([smhdw])")

# scope-token of RFC 6749 section 3.3: visible ASCII but for the double quote and the backslash.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


def check_client_id(client_id: str) -> str:
    """1 to 255 bytes of UTF-8, no colon (RFC 7617 section 2), no control characters."""
    encoded = _encode(client_id, "a client ID")
    if not 0 < len(encoded) <= MAX_ID_BYTES:
        raise InvalidKey(f"a client ID has 1 to {MAX_ID_BYTES} bytes; this one has {len(encoded)}")
    if ":" in client_id:
        raise InvalidKey("a client ID must not contain a colon: HTTP Basic ends it there")
    if len(encoded.translate(None, CONTROL_CHARS)) != len(encoded):
        raise InvalidKey("a client ID must not contain control characters")
    return client_id


def check_new_client_id(client_id: str) -> str:
    """``check_client_id`` for a stored key: a generated secret is not a valid ID, since IDs are shown."""
    check_client_id(client_id)
    if is_secret(client_id):
        raise InvalidKey("the client ID is a generated secret: are ID and secret swapped?")
    return client_id


SHORT_PASSWORD: Final = 12


def is_short_password(secret: str) -> bool:
    """Whether a secret is a password that is too short to resist guessing."""
    return len(secret) < SHORT_PASSWORD and classify(secret) is SecretShape.OTHER


def check_secret(secret: str) -> str:
    """1 to 1024 bytes of UTF-8, no control characters; the checksum of a generated secret must be right."""
    encoded = _encode(secret, "a secret")
    if not 0 < len(encoded) <= MAX_SECRET_BYTES:
        raise InvalidKey(f"a secret has 1 to {MAX_SECRET_BYTES} bytes; this one has {len(encoded)}")
    if len(encoded.translate(None, CONTROL_CHARS)) != len(encoded):
        raise InvalidKey("a secret must not contain control characters")
    if classify(secret) is SecretShape.BAD_CHECKSUM:
        raise InvalidKey("the secret looks generated but its checksum is wrong: it was probably mistyped")
    return secret


def check_name(name: str) -> str:
    """Up to 200 characters, no control characters."""
    if name == "":
        return name
    encoded = _encode(name, "a name")
    if len(name) > MAX_NAME:
        raise InvalidKey(f"a name has up to {MAX_NAME} characters; this one has {len(name)}")
    if len(encoded.translate(None, CONTROL_CHARS)) != len(encoded):
        raise InvalidKey("a name must not contain control characters")
    return name


def check_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """Scope tokens of RFC 6749 section 3.3, at most 100 of up to 255 bytes."""
    if type(scopes) is frozenset and not scopes:
        return scopes
    if isinstance(scopes, str) or not isinstance(scopes, Iterable):
        raise InvalidKey("scopes must be a list of strings, not one string")
    tokens = tuple(scopes)
    if len(tokens) > MAX_SCOPES:
        raise InvalidKey(f"a key has at most {MAX_SCOPES} scopes")
    for token in tokens:
        if not isinstance(token, str) or not _SCOPE.fullmatch(token) or len(token) > MAX_SCOPE_BYTES:
            raise InvalidKey(
                f'a scope is 1 to {MAX_SCOPE_BYTES} visible ASCII characters without spaces, " and \\'
            )
    return frozenset(tokens)


def check_expires_at(expires_at: datetime | None, *, now: datetime) -> datetime | None:
    """A timezone-aware time in the future, converted to UTC, or None for never."""
    if expires_at is None:
        return None
    expires_at = check_datetime(expires_at, "an expiry")
    if expires_at <= now:
        raise InvalidKey("the expiry is in the past")
    return expires_at


def check_datetime(time: datetime, what: str) -> datetime:
    """A timezone-aware time, converted to UTC."""
    if isinstance(time, datetime) and time.tzinfo is UTC:
        return time
    if not isinstance(time, datetime) or time.utcoffset() is None:
        raise InvalidKey(f"{what} must be a datetime with a timezone")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise InvalidKey(f"{what} is out of range") from None


def check_overlap(overlap_s: float | timedelta, *, now: datetime) -> timedelta:
    """A finite number of seconds, or a timedelta, 0 or more, that ends before the year 9999."""
    if isinstance(overlap_s, timedelta):
        overlap_s = overlap_s.total_seconds()
    if isinstance(overlap_s, bool) or not isinstance(overlap_s, int | float) or not 0 <= overlap_s < math.inf:
        raise InvalidKey("an overlap must be a number of seconds, or a timedelta, 0 or more")
    try:
        overlap = timedelta(seconds=overlap_s)
        now + overlap + timedelta(days=1)  # one day of margin, since it is added to a later time
    except OverflowError:
        raise InvalidKey("the overlap is out of range") from None
    return overlap


def parse_datetime(text: object, what: str) -> datetime:
    """Parse a time such as ``2030-01-31T12:00:00Z`` (RFC 3339); ``what`` names it in errors."""
    try:
        time = datetime.fromisoformat(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise InvalidKey(f"{what} must be a time such as 2030-01-31T12:00:00Z") from None
    if time.utcoffset() is None:
        raise InvalidKey(f"{what} needs a timezone, as in 2030-01-31T12:00:00Z")
    return check_datetime(time, what)


def parse_duration(text: str) -> int | None:
    """Parse a duration such as ``90d``, ``12h``, ``30m``, ``45s``, ``2w`` or ``0``.

    Returns:
        Whole seconds; None if the text is not a duration.
    """
    duration = _DURATION.fullmatch(text)
    if duration is None:
        return None
    return int(duration[1]) * _UNITS_S[duration[2]] if duration[1] else 0


def check_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """A JSON object of up to 4 KiB in UTF-8, nested at most 32 deep; a copy of it."""
    if metadata is None or (type(metadata) is dict and not metadata):
        return {}
    if not isinstance(metadata, Mapping) or not all(isinstance(name, str) for name in metadata):
        raise InvalidKey("metadata must be a JSON object: a mapping with strings as names")
    try:
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)
        encoded = len(text.encode())
        check_depth(text, MAX_METADATA_DEPTH)
    except RecursionError:
        raise InvalidKey(_TOO_DEEP) from None
    except (TypeError, ValueError):  # UnicodeEncodeError is a ValueError
        raise InvalidKey(
            "metadata must contain only JSON values: strings, numbers, booleans, null, lists, objects"
        ) from None
    if encoded > MAX_METADATA_BYTES:
        raise InvalidKey(f"metadata has up to {MAX_METADATA_BYTES} bytes of JSON; this has {encoded}")
    copied: dict[str, Any] = json.loads(text)
    return copied


def parse_metadata(text: str) -> dict[str, Any]:
    """Parse a JSON object that a user typed; ``check_metadata`` checks the rest."""
    problem = 'expected a JSON object such as {"team": "search"}'
    try:
        value = strict_json_loads(text)
    except DuplicateName:
        problem = "an object has two members with the same name"
    except RecursionError:
        problem = "nested too deep"
    except ValueError:
        pass
    else:
        if isinstance(value, dict):
            return value
    raise InvalidKey(problem)


_TOO_DEEP: Final = f"metadata is nested too deep: at most {MAX_METADATA_DEPTH} levels of lists and objects"


def check_depth(text: str, most: int = MAX_JSON_DEPTH) -> None:
    """Check how deep JSON is nested, before it is decoded.

    The interpreter's own limit is not reliable: it depends on the Python version and on the stack in use.

    Args:
        text: JSON; anything else is left to the decoder.
        most: Maximum number of levels of lists and objects.

    Raises:
        RecursionError: It is nested deeper.
    """
    if text.count("[") + text.count("{") <= most:
        return
    depth = 0
    for mark in _MARKS.findall(text):
        depth += _DEEPER[mark]
        if depth > most:
            raise RecursionError(f"JSON is nested more than {most} deep")


class DuplicateName(ValueError):
    """A JSON object has two members with the same name."""


def strict_json_loads(text: str, most: int = MAX_JSON_DEPTH) -> Any:
    """Decode JSON, and refuse what other parsers might read differently.

    Raises:
        ValueError: It is not JSON (RFC 8259); ``DuplicateName``: a name occurs twice in one object.
        RecursionError: As for ``check_depth``.
    """
    check_depth(text, most)
    return _DECODER.decode(text)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise DuplicateName
    return members


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_members)

# Matches brackets, and whole strings (as ""), so that brackets inside a string are not counted.
_MARKS: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|([\[\]{}])', re.DOTALL)
_DEEPER: Final = {"[": 1, "{": 1, "]": -1, "}": -1, "": 0}


def check_text(text: str, what: str) -> str:
    """A string that can be encoded as UTF-8."""
    _encode(text, what)
    return text


def _encode(text: str, what: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidKey(f"{what} must be a string")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidKey(f"{what} must be encodable as UTF-8: no lone surrogates") from None
