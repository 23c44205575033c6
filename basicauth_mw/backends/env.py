"""``env:``: keys from an environment variable, or from a file that one names. Read once, never written."""

from __future__ import annotations

import json
import os
import re
from typing import Any, ClassVar, Final

from ..errors import ConfigurationError, InvalidKey, MissingExtra
from ..keys.hashing import Hasher, check_hash, has_password_hash, is_password_hash, looks_hashed
from ..keys.model import Key, Secret
from ..keys.validation import (
    SHORT_PASSWORD,
    check_depth,
    check_name,
    check_new_client_id,
    check_scopes,
    check_secret,
    is_short_password,
    parse_datetime,
)
from ..runtime.extras import require
from ..settings.sources import read_entry
from .base import StoreWarning

DEFAULT_NAME: Final = "BASICAUTH_KEYS"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MIXED = re.compile(r",[^,:\s]+:|,\Z")  # a second pair in a line, or the comma after the first
_FIELDS = frozenset({"secret", "name", "scopes", "expires_at"})


class EnvStore:
    """Holds the keys that one variable lists, as digests keyed for this process.

    The variable holds a JSON object, ``{"id": "secret", "id2": {...}}``, in which an object may have
    ``secret``, ``name``, ``scopes`` (a list) and ``expires_at`` (RFC 3339, with a zone); or ``id:secret``
    pairs, one a line, or separated by commas if there is only one line. A secret may be a hash (Argon2id,
    bcrypt), except in pairs separated by commas.

    Args:
        url: ``env:``, or ``env:NAME`` for another variable. ``NAME_FILE`` may name a file instead.
        deadline_s: Unused: a lookup never waits.
        create: Unused.

    Raises:
        ConfigurationError: There is no key, or an entry is invalid. Entries are named by number, not by
            value.
    """

    volatile: ClassVar[bool] = True

    def __init__(self, url: str = "env:", *, deadline_s: float = 1.0, create: bool = False) -> None:
        name = url.partition(":")[2] or DEFAULT_NAME
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                "env: must be followed by the name of an environment variable, or by nothing"
            )
        self._name = name
        self._short: list[str] = []  # ids whose passwords are short
        self._keys = _parse(_read(name), name, self._short)

    def get(self, client_id: str, /) -> Key | None:
        return self._keys.get(client_id)

    get_nowait = get

    def scan(self, prefix: str, after: str, limit: int) -> list[Key]:
        found = sorted(
            (key for key in self._keys.values() if key.client_id.startswith(prefix)),
            key=lambda key: key.client_id.encode(),
        )
        return [key for key in found if key.client_id.encode() > after.encode()][:limit]

    def has_password_hashes(self) -> bool:
        return any(map(has_password_hash, self._keys.values()))

    def warnings(self) -> list[StoreWarning]:
        """Passwords that are too short."""
        message = f"passwords of fewer than {SHORT_PASSWORD} characters in {self._name}: {len(self._short)}"
        remedy = "use long random secrets, such as those that basicauth-mw keys create generates"
        return [StoreWarning("short_password", message, remedy)] if self._short else []


def _read(name: str) -> str:
    try:
        found = read_entry(os.environ, name, multiline=True)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None
    return "" if found is None else str(found[0])


def _parse(text: str, name: str, short: list[str]) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    problems: list[str] = []
    hasher = Hasher(volatile=True)
    for number, (client_id, fields) in enumerate(_entries(text, name), 1):
        try:
            key = _key(client_id, fields, hasher)
            if key.client_id in keys:
                raise InvalidKey("the client ID occurs twice")
            keys[key.client_id] = key
            secret = fields["secret"] if isinstance(fields, dict) else fields
            if not looks_hashed(secret) and is_short_password(secret):
                short.append(key.client_id)
        except MissingExtra:
            raise
        except ValueError as exc:  # its text never contains a value
            problems.append(f"{name}, entry {number}: {exc}")
    if problems:
        raise ConfigurationError(problems)
    if not keys:
        raise ConfigurationError(
            f"{name} contains no key: set it to id:secret, or use a backend that stores keys, such as "
            "BASICAUTH_BACKEND=sqlite:///keys.db; to import an app without any key, as tests do, set "
            "BASICAUTH_BACKEND=memory: (a backend named in the code takes precedence)"
        )
    return keys


def _entries(text: str, name: str) -> list[tuple[Any, Any]]:
    if text[:1] == "{":
        try:
            check_depth(text)
            listed = json.loads(text, object_pairs_hook=list)
        except (ValueError, RecursionError):
            raise ConfigurationError(
                f"{name} starts like a JSON object but is not valid JSON: check its syntax"
            ) from None
        return [
            (client_id, value if isinstance(value, str) else _object(value)) for client_id, value in listed
        ]
    separator = "\n" if "\n" in text else ","
    parts = [part.strip() for part in text.split(separator)]
    return [_pair(part, hash_allowed=separator == "\n") for part in parts if part]


def _pair(text: str, *, hash_allowed: bool) -> tuple[str, Any]:
    client_id, colon, secret = text.partition(":")
    if not colon:
        return client_id, InvalidKey("is not id:secret")
    if client_id.startswith(("#", "[")):
        return client_id, InvalidKey(
            "starts with # or [, and comments and lists are not supported: delete the entry, or write a JSON "
            "object if this is the id"
        )
    if client_id != client_id.rstrip() or secret != secret.lstrip():
        return client_id, InvalidKey(
            "has a space next to the colon: remove it, or write JSON if it is intended"
        )
    if hash_allowed and not looks_hashed(secret) and _MIXED.search(secret):
        return client_id, InvalidKey(
            "mixes commas and lines: write one id:secret per line, without commas, or JSON"
        )
    if not hash_allowed and looks_hashed(secret):
        return client_id, InvalidKey(
            "contains a hash, which may contain commas: write one id:secret per line, or JSON"
        )
    return client_id, secret


def _object(pairs: object) -> Any:
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        return InvalidKey("is neither a secret nor an object")
    fields = dict(pairs)
    if len(fields) != len(pairs) or not fields.keys() <= _FIELDS or "secret" not in fields:
        optional = ", ".join(sorted(_FIELDS - {"secret"}))
        return InvalidKey(f"an object must have secret, and may have {optional}")
    return fields


def _key(client_id: str, fields: Any, hasher: Hasher) -> Key:
    if isinstance(fields, InvalidKey):
        raise fields
    if isinstance(fields, str):
        fields = {"secret": fields}
    expires_at = fields.get("expires_at")
    return Key(
        client_id=check_new_client_id(client_id),
        name=check_name(fields.get("name", "")),
        scopes=check_scopes(fields.get("scopes", ())),
        expires_at=None if expires_at is None else parse_datetime(expires_at, "expires_at"),
        secrets=(Secret(_hash(fields["secret"], hasher)),),
    )


def _hash(secret: str, hasher: Hasher) -> str:
    if isinstance(secret, str) and looks_hashed(secret):
        check_hash(secret)
        if is_password_hash(secret):
            require("argon2", extra="passwords")  # for the dummy hash
            require("bcrypt", extra="passwords")
        return secret
    return hasher.hash(check_secret(secret))
