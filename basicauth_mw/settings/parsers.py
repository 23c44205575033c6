"""Parse and check the values of settings.

A parser takes a native value, or the text that the environment would hold, and returns the native value. A
check takes what a parser has returned. Both raise ``ValueError`` with a message that follows the setting's
name and never shows a secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

MAX_SECONDS: Final = 366 * 86400  # every clock and timer used here can represent it
ID_PREFIX: Final = "id"  # of generated client IDs
MAX_PREFIX: Final = 32

# A path that all readers understand in the same way: no empty segment, no dot segment, no second encoding, no
# path parameter, no query or fragment that some server left in, no backslash, control character, or
# undecodable byte.
PLAIN_PATH: Final = re.compile(
    r"(?:/(?!\.{1,2}(?:/|\Z))[^/;\\?#%\x00-\x1f\x7f-\x9f\ufffd\ud800-\udfff]++)*+/?"
)

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")  # cannot be encoded as UTF-8

_PERIODS_S: Final = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_RATE: Final = re.compile(r"\s*([0-9]{1,9})\s*/\s*(second|minute|hour|day)\s*", re.IGNORECASE | re.ASCII)
_HEADER_NAME: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*", re.ASCII)
# Headers that servers, proxies, browsers or this package read or change.
_RESERVED_HEADERS: Final = frozenset(
    (
        *("authorization", "cookie", "host", "forwarded", "x-request-id", "x-real-ip", "x-auth-client-id"),
        *("x-auth-scopes", "connection", "expect", "keep-alive", "te", "trailer", "transfer-encoding"),
        *("upgrade", "origin"),
    )
)
_RESERVED_HEADER_PREFIXES: Final = ("proxy-", "content-", "x-forwarded-", "sec-", "access-control-")
_SWITCHES: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}

# --- one parser for each kind of value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    switch = _SWITCHES.get(str(value).strip().lower())
    if switch is None:
        raise ValueError("must be one of 1/0, true/false, yes/no, on/off")
    return switch


def _number(value: object) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _seconds(value: object) -> float:
    seconds = _number(value)
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"must be a number of seconds, more than 0 and at most {MAX_SECONDS}")
    return seconds


def _seconds_or_zero(value: object) -> float:
    seconds = _number(value)
    if not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(f"must be a number of seconds from 0 to {MAX_SECONDS}")
    return seconds


def _optional_seconds(value: object) -> float | None:
    return None if value is None or value == "" else _seconds(value)


def _optional_path(value: object) -> str | None:
    if value is None or value == "":
        return None
    path = _text(value)
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError("must start with / and not end with it, as in /api")
    if "*" in path or not PLAIN_PATH.fullmatch(path):
        raise ValueError("must be given decoded, without //, dot segments, *, ;, ?, #, % or backslashes")
    return path


def _count(value: object) -> int:
    try:
        count = 0 if isinstance(value, bool | float) else int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise ValueError("must be a whole number of at least 1")
    return int(count)


def _list(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        if (listed := _json_list(value)) is not None:
            return listed
        return tuple(entry for part in value.split(",") if (entry := part.strip()))
    entries = tuple(value) if isinstance(value, Iterable) else (None,)
    if not all(isinstance(entry, str) for entry in entries):
        raise ValueError("must be a list of texts, or one text with commas")
    return entries


def _json_list(text: str) -> tuple[str, ...] | None:
    """The strings of a JSON list, as pydantic-settings writes one; None if the text is anything else."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    from json import loads  # few are written like that

    try:
        listed = loads(text)
    except (ValueError, RecursionError):
        return None
    return tuple(listed) if all(isinstance(each, str) for each in listed) else None


def _schemes(value: object) -> tuple[str, ...]:
    schemes = tuple(entry.strip().lower() for entry in _list(value))
    if not schemes:
        raise ValueError("must name at least one of basic, bearer, header:<name>")
    if len(set(schemes)) < len(schemes):
        raise ValueError("must not name a scheme twice")
    for scheme in schemes:
        kind, _, header = scheme.partition(":")
        if scheme not in ("basic", "bearer") and (kind != "header" or not header):
            raise ValueError(f"unknown scheme {scheme!r}; expected basic, bearer, or header:<name>")
        if kind == "header" and (problem := _header_error(header)):
            raise ValueError(f"the header of {scheme!r} {problem}")
    return schemes


def _header_error(name: str) -> str:
    """Say why a header may not hold a key; empty if it may. The name is in lower case."""
    if "_" in name:  # WSGI, and many proxies, cannot distinguish it from a hyphen
        return "must not contain an underscore"
    if not _HEADER_NAME.fullmatch(name):
        return "must be letters, digits and hyphens, as in x-api-key"
    if name in _RESERVED_HEADERS or name.startswith(_RESERVED_HEADER_PREFIXES):
        return "has another meaning in HTTP: choose a custom header, such as x-api-key"
    return ""


def _secrets(value: object) -> tuple[str, ...]:
    if isinstance(value, frozenset | set):
        raise ValueError("must be a list: its order matters")
    entries = _list(value)
    if not all(entries):
        raise ValueError("must not contain an empty secret")
    if any(map(_SURROGATE.search, entries)):
        raise ValueError("must be encodable as UTF-8")
    return entries


def parse_rate(rate: str) -> tuple[int, float] | None:
    """Parse a rate such as ``20/minute``.

    Returns:
        The count, and the period in seconds; None for an empty text, which means no limit.

    Raises:
        ValueError: It is not a rate.
    """
    if not rate.strip():
        return None
    match = _RATE.fullmatch(rate)
    if match is None or int(match[1]) < 1:
        raise ValueError(
            "must be a count and a period, as in 20/minute (second, minute, hour, day), or empty"
        )
    return int(match[1]), _PERIODS_S[match[2].lower()]


PARSERS: Final[dict[str, Callable[[Any], Any]]] = {
    "text": _text,
    "url": _text,
    "rate": _text,
    "switch": _switch,
    "seconds": _seconds,
    "seconds_or_zero": _seconds_or_zero,
    "optional_seconds": _optional_seconds,
    "optional_path": _optional_path,
    "count": _count,
    "list": _list,
    "schemes": _schemes,
    "secrets": _secrets,
}

# --- checks of single settings


def is_prefix(prefix: str) -> bool:
    """Whether a generated value can start with ``prefix``: up to 32 of A-Z a-z 0-9, words joined by ``_``."""
    if len(prefix) > MAX_PREFIX or not prefix.isascii():
        return False
    return prefix.isalnum() or all(map(str.isalnum, prefix.split("_")))


def path_entry_error(entry: str, *, opens: bool = True) -> str:
    """Say what is wrong with an entry of a list of paths; empty if nothing is.

    Args:
        entry: An exact path, or a folder that ends in ``/*``.
        opens: Whether the list lets in requests without credentials, as ``exclude`` and ``optional`` do.
    """
    if opens and entry == "/*":
        return "would open everything: list the paths to open"
    if not entry.startswith("/"):
        return "must start with /"
    if "*" in entry.removesuffix("/*"):
        return "may contain * only as a final /*"
    if not PLAIN_PATH.fullmatch(entry):
        return "can never match: give it decoded, without //, dot segments, ;, ?, #, % or backslashes"
    return ""


def check_realm(realm: str) -> None:
    if _CONTROLS.search(realm):
        raise ValueError("must not contain control characters, line breaks included")
    if _SURROGATE.search(realm):
        raise ValueError("must be encodable as UTF-8")


def check_paths(entries: tuple[str, ...], *, opens: bool) -> None:
    problems = [
        f"{entry!r} {problem}" for entry in entries if (problem := path_entry_error(entry, opens=opens))
    ]
    if problems:
        raise ValueError("; ".join(problems))


def check_challenge(challenge: str) -> None:
    if challenge not in ("always", "navigations"):
        raise ValueError("must be always or navigations")


def check_backend(url: str) -> None:
    if not url.strip():
        raise ValueError("is empty: name a key backend, such as env: or sqlite:///keys.db")


def check_secret_prefix(prefix: str) -> None:
    if not is_prefix(prefix):
        raise ValueError("must be 1 to 32 of A-Z a-z 0-9, words joined by _")
    if prefix == ID_PREFIX:  # such a secret looks like a client ID, which is shown and logged
        raise ValueError("must not be 'id', the prefix of client IDs")
