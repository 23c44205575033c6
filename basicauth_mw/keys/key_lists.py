"""Parse the lists of keys that people write: htpasswd files, JSON, and ``id:secret`` pairs.

An entry of a list consists of its place, such as ``line 3``, a client ID, and a secret or an object with a
secret. For an invalid entry, the last is the reason, which repeats nothing of the entry.
"""

from __future__ import annotations

import json
import re
import secrets
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from ..errors import InvalidKey
from ..runtime.extras import require
from .hashing import (
    Hasher,
    check_hash,
    is_password_hash,
    looks_hashed,
    unsupported_scheme,
)
from .model import Key, Secret
from .validation import (
    check_name,
    check_new_client_id,
    check_scopes,
    check_secret,
    parse_datetime,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from io import BufferedReader

    Entry = tuple[str, str, Any]

FORMATS: Final = ("htpasswd", "json", "lines")

MAX_LINE_BYTES: Final = 256 * 1024  # several times the size of the largest key

_BOM: Final = b"\xef\xbb\xbf"
_MIXED: Final = re.compile(r",[^,:\s]+:|,\Z")  # a second pair in a line, or the comma after the first
_DES_CRYPT: Final = re.compile(r"[./0-9A-Za-z]{13}")  # the oldest scheme of crypt(3), as of htpasswd -d
_JSON_MARK: Final = re.compile(r"[ \t\n\r]*([{}:,])[ \t\n\r]*")
_FIELDS: Final = frozenset({"secret", "name", "scopes", "expires_at"})
_FINGERPRINT_KEY: Final = secrets.token_bytes(32)


def key_of(client_id: str, fields: str | dict[str, Any], hasher: Hasher, now: datetime) -> Key:
    """Return the key of an entry. ``Key.version`` is a fingerprint of the entry.

    Args:
        client_id: The client ID.
        fields: The secret, or an object with it.
        hasher: Hashes a secret that is in plain text.
        now: When the list was read.

    Raises:
        InvalidKey: A value is invalid.
        MissingExtra: The package that verifies the password hash is not installed.
    """
    version = fingerprint(fields)
    if isinstance(fields, str):
        fields = {"secret": fields}
    expires_at = fields.get("expires_at")
    return Key(
        client_id=check_new_client_id(client_id),
        name=check_name(fields.get("name", "")),
        scopes=check_scopes(fields.get("scopes", ())),
        created_at=now,
        expires_at=None if expires_at is None else parse_datetime(expires_at, "expires_at"),
        secrets=(Secret(_hash(fields["secret"], hasher), created_at=now),),
        version=version,
    )


def fingerprint(fields: str | dict[str, Any]) -> int:
    """A number that changes with an entry, under a random key of this process, so that it reveals nothing."""
    digest = blake2b(repr(fields).encode(), digest_size=8, key=_FINGERPRINT_KEY).digest()
    return int.from_bytes(digest)


def _hash(secret: str, hasher: Hasher) -> str:
    if isinstance(secret, str) and looks_hashed(secret):
        check_hash(secret)
        if is_password_hash(secret):
            require("argon2", extra="passwords")  # for the dummy hash
            require("bcrypt", extra="passwords")
        return secret
    return hasher.hash(check_secret(secret))


# --- entries


def entries_in_file(file: BufferedReader, form: str | None) -> Iterator[Entry]:
    """Read the entries of a file. Lines that start with ``#`` are comments.

    Args:
        file: The file, at its start.
        form: One of ``FORMATS``; None detects it.

    Raises:
        InvalidKey: The text is not JSON, or not UTF-8.
    """
    if form == "json" or (form is None and file.peek().removeprefix(_BOM).lstrip().startswith(b"{")):
        try:
            text = file.read().removeprefix(_BOM).decode()
        except UnicodeDecodeError:
            raise InvalidKey("is not UTF-8") from None
        yield from json_entries(text.strip())
        return
    for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES + 1), b""), 1):
        try:
            text = decode_line(line, first=number == 1)
            if not text or text.startswith("#"):
                continue
            if form is None:
                form = _detect_format(text)
            pair = split_htpasswd(text) if form == "htpasswd" else split_pair(text.strip())
        except InvalidKey as exc:
            yield f"line {number}", "", exc
        else:
            yield f"line {number}", *pair


def _detect_format(text: str) -> str:
    secret = text.partition(":")[2]
    if looks_hashed(secret):
        return "htpasswd"
    if _DES_CRYPT.fullmatch(secret):
        raise InvalidKey("may be a secret or an old hash: add ?format=lines or ?format=htpasswd to the URL")
    return "lines"


def entries_in_text(text: str) -> Iterator[Entry]:
    """Parse JSON, pairs in lines, or in a single line pairs separated by commas.

    Raises:
        InvalidKey: The text starts like JSON but is invalid.
    """
    if text.startswith("{"):
        yield from json_entries(text)
        return
    separator = "\n" if "\n" in text else ","
    parts = (stripped for part in text.split(separator) if (stripped := part.strip()))
    for number, part in enumerate(parts, 1):
        try:
            yield f"entry {number}", *split_pair(part, hash_allowed=separator == "\n")
        except InvalidKey as exc:
            yield f"entry {number}", "", exc


def json_entries(text: str) -> Iterator[Entry]:
    """Parse ``{"id": "secret", "id2": {...}}``, one entry at a time: a long text would block other threads.

    Raises:
        InvalidKey: The text is not a JSON object.
    """
    decode = json.JSONDecoder(object_pairs_hook=list).raw_decode
    number = 0
    try:
        mark, at = _next_mark(text, 0, "{")
        if text.startswith("}", at):
            mark, at = _next_mark(text, at, "}")
        while mark != "}":
            client_id, at = decode(text, at)
            _, at = _next_mark(text, at, ":")
            value, at = decode(text, at)
            if not isinstance(client_id, str):
                raise ValueError
            number += 1
            yield f"entry {number}", client_id, value if isinstance(value, str) else _object(value)
            mark, at = _next_mark(text, at, ",}")
        if at != len(text):
            raise ValueError
    except (ValueError, RecursionError):
        raise InvalidKey(f"is not a valid JSON object after entry {number}: check its syntax") from None


def _next_mark(text: str, at: int, expected: str) -> tuple[str, int]:
    """Return the next punctuation mark, and the position after it."""
    match = _JSON_MARK.match(text, at)
    if match is None or match[1] not in expected:
        raise ValueError
    return match[1], match.end()


def _object(pairs: object) -> dict[str, Any] | InvalidKey:
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        return InvalidKey("is neither a secret nor an object")
    fields = dict(pairs)
    if len(fields) != len(pairs) or not fields.keys() <= _FIELDS or "secret" not in fields:
        optional = ", ".join(sorted(_FIELDS - {"secret"}))
        return InvalidKey(f"an object must have secret, and may have {optional}")
    return fields


# --- lines


def decode_line(line: bytes, *, first: bool) -> str:
    """Return the text of a line without its line break; empty if it is blank."""
    if len(line) > MAX_LINE_BYTES:
        raise InvalidKey(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        text = (line.removeprefix(_BOM) if first else line).decode()
    except UnicodeDecodeError:
        raise InvalidKey("not UTF-8") from None
    if "\0" in text:
        raise InvalidKey("not text")
    text = text.removesuffix("\n").removesuffix("\r")
    return text if text.strip() else ""


def split_htpasswd(text: str) -> tuple[str, str]:
    """Split a line of ``user:hash``."""
    client_id, colon, rest = text.partition(":")
    if not colon:
        raise InvalidKey("not user:hash")
    hashed = rest.partition(":")[0].rstrip()  # nginx allows a comment after the hash
    if looks_hashed(hashed):
        return client_id, hashed
    if _DES_CRYPT.fullmatch(hashed):
        raise unsupported_scheme("crypt (DES)")
    raise InvalidKey("plain text, or an unsupported hash: create the entry again with  htpasswd -B")


def split_pair(text: str, *, hash_allowed: bool = True) -> tuple[str, str]:
    """Split ``id:secret``. A hash is not allowed between commas, since it may contain some."""
    client_id, colon, secret = text.partition(":")
    if not colon:
        raise InvalidKey("is not id:secret")
    if client_id.startswith(("#", "[")):
        raise InvalidKey(
            "starts with # or [, and comments and lists are not supported: delete the entry, or write a JSON "
            "object if this is the ID"
        )
    if client_id != client_id.rstrip() or secret != secret.lstrip():
        raise InvalidKey("has a space next to the colon: remove it, or write JSON if it is intended")
    if hash_allowed and not looks_hashed(secret) and _MIXED.search(secret):
        raise InvalidKey("mixes commas and lines: write one id:secret per line, without commas, or JSON")
    if not hash_allowed and looks_hashed(secret):
        raise InvalidKey("contains a hash, which may contain commas: write one id:secret per line, or JSON")
    return client_id, secret
