"""``env:`` - keys from an environment variable, or a file that one names. Read once, never written."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ..errors import ConfigurationError, InvalidKey, MissingExtra
from ..keys.hashing import Hasher, check_hash, has_slow_hash, is_slow, looks_hashed
from ..keys.model import Key, Secret
from ..keys.validation import (
    SHORT_PASSWORD,
    check_depth,
    check_name,
    check_new_client_id,
    check_scopes,
    check_secret,
    is_short_password,
    parse_moment,
)
from ..runtime.extras import require
from ..settings.sources import read_entry

if TYPE_CHECKING:
    from datetime import datetime

DEFAULT_NAME: Final = "BASICAUTH_KEYS"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MIXED = re.compile(r",[^,:\s]+:|,\Z")  # a second pair in a line, or the comma after the first
_FIELDS = frozenset({"secret", "name", "scopes", "expires_at"})


class EnvStore:
    """Holds the keys that one variable lists, as digests keyed for this process.

    ========================================  ====================================================
    ``{"id": "secret", "id2": {...}}``        JSON; an object may hold secret, name, scopes (a list)
                                              and expires_at (RFC 3339, with a zone)
    lines of ``id:secret``                    if there is a newline between two of them
    ``id:secret,id2:secret2``                 otherwise; such a secret holds no comma
    ========================================  ====================================================

    A secret may be a hash (Argon2id, bcrypt), but for the comma form.

    Args:
        url: ``env:``, or ``env:NAME`` for another variable. ``NAME_FILE`` may name a file instead.
        deadline_s: Not needed: nothing is ever waited for.
        create: Not needed: an environment cannot be made.

    Raises:
        ConfigurationError: No key, or entries that cannot be used. Names entries by number, never by value.
    """

    volatile: ClassVar[bool] = True

    def __init__(self, url: str = "env:", *, deadline_s: float = 1.0, create: bool = False) -> None:
        name = url.partition(":")[2] or DEFAULT_NAME
        if not _NAME.fullmatch(name):
            raise ConfigurationError("env: is followed by the name of an environment variable, or nothing")
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
        return any(map(has_slow_hash, self._keys.values()))

    def warnings(self) -> list[tuple[str, str, str]]:
        """What works but should be changed: code, message and remedy."""
        if not self._short:
            return []
        return [
            (
                "short_password",
                f"passwords of fewer than {SHORT_PASSWORD} characters in {self._name}: {len(self._short)}",
                "use long random secrets, such as those that basicauth-mw keys create generates",
            )
        ]


def _read(name: str) -> str:
    try:
        found = read_entry(os.environ, name, has_lines=True)
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
                raise InvalidKey("the client id stands there twice")
            keys[key.client_id] = key
            secret = fields["secret"] if isinstance(fields, dict) else fields
            if not looks_hashed(secret) and is_short_password(secret):
                short.append(key.client_id)
        except MissingExtra:
            raise
        except ValueError as exc:  # its text never holds a value
            problems.append(f"{name}, entry {number}: {exc}")
    if problems:
        raise ConfigurationError(problems)
    if not keys:
        raise ConfigurationError(
            f"{name} holds no key: set it to id:secret, or name a store in which keys can be created, as in "
            "BASICAUTH_BACKEND=sqlite:///keys.db; to import an app without any key, as tests do, set "
            "BASICAUTH_BACKEND=memory: (a backend that the code names takes precedence over it)"
        )
    return keys


def _entries(text: str, name: str) -> list[tuple[Any, Any]]:
    if text[:1] == "{":
        try:
            check_depth(text)
            listed = json.loads(text, object_pairs_hook=list)
        except (ValueError, RecursionError):
            raise ConfigurationError(
                f"{name} begins like a JSON object but is none: check its syntax"
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
            "begins with # or [: comments and lists are not supported; delete the entry, or write a JSON "
            "object if the id is meant"
        )
    if client_id != client_id.rstrip() or secret != secret.lstrip():
        return client_id, InvalidKey("has a blank beside the colon: drop it, or write JSON if it is meant")
    if hash_allowed and not looks_hashed(secret) and _MIXED.search(secret):
        return client_id, InvalidKey(
            "mixes commas and lines: write one id:secret a line, without commas, or JSON"
        )
    if not hash_allowed and looks_hashed(secret):
        return client_id, InvalidKey(
            "holds a hash, which may hold commas: write one id:secret a line, or JSON"
        )
    return client_id, secret


def _object(pairs: object) -> Any:
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        return InvalidKey("is neither a secret nor an object")
    fields = dict(pairs)
    if len(fields) != len(pairs) or not fields.keys() <= _FIELDS or "secret" not in fields:
        return InvalidKey(f"an object holds secret, and may hold {', '.join(sorted(_FIELDS - {'secret'}))}")
    return fields


def _key(client_id: str, fields: Any, hasher: Hasher) -> Key:
    if isinstance(fields, InvalidKey):
        raise fields
    if isinstance(fields, str):
        fields = {"secret": fields}
    return Key(
        client_id=check_new_client_id(client_id),
        name=check_name(fields.get("name", "")),
        scopes=check_scopes(fields.get("scopes", ())),
        expires_at=_expiry(fields.get("expires_at")),
        secrets=(Secret(_hash(fields["secret"], hasher)),),
    )


def _hash(secret: str, hasher: Hasher) -> str:
    if isinstance(secret, str) and looks_hashed(secret):
        check_hash(secret)
        if is_slow(secret):
            require("argon2", extra="passwords")  # for the decoy, whatever the hash is
            require("bcrypt", extra="passwords")
        return secret
    return hasher.hash(check_secret(secret))


def _expiry(value: object) -> datetime | None:
    return None if value is None else parse_moment(value, "expires_at")
