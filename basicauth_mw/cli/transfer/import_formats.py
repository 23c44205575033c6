"""Parses one line of each import format.

A parser returns a key; or a ``PasswordRow``, whose password is hashed later, because that takes long; or None
for a line without a key. For any other line it raises ``InvalidKey``, with a message that repeats nothing of
the line. The backend validates the keys, so a parser checks only what it needs to understand a line.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

from ...errors import InvalidKey
from ...keys.generated_secrets import SecretShape, classify, is_secret
from ...keys.hashing import Hasher, looks_hashed, salts
from ...keys.key_lists import split_htpasswd
from ...keys.model import Change, Key, Secret, utcnow
from ...keys.validation import check_new_client_id, check_secret, parse_datetime
from .jsonl import load_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# What other programs call the columns of a CSV file.
_ID_COLUMNS: Final = frozenset(
    {
        *("id", "client_id", "clientid", "client id", "key", "key_id"),
        *("user", "username", "user_name", "login", "name"),
    }
)
_SECRET_COLUMNS: Final = frozenset(
    {*("secret", "client_secret", "password", "pass", "passwd"), *("api_key", "apikey", "key", "token")}
)
_OTHER_COLUMNS: Final = {
    **dict.fromkeys(("name", "label", "description"), "name"),
    **dict.fromkeys(("scopes", "scope"), "scopes"),
    **dict.fromkeys(("expires_at", "expires"), "expires_at"),
}

_SALTS_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class PasswordRow:
    """A key without its password hash."""

    client_id: str
    password: str
    fields: dict[str, Any]


def make_key(client_id: str, hashed: str, **fields: Any) -> Key:
    now = utcnow()
    return Key(client_id, created_at=now, secrets=(Secret(hashed, created_at=now),), **fields)


class LineCounter:
    """Parses the lines of exports, and compares their number with the one in the last line of each.

    Attributes:
        is_truncated: The line that was read last is not the last one of its export.
        history: The history in the line that was read last.
    """

    def __init__(self) -> None:
        self.is_truncated = False
        self.history: list[Change] = []
        self._lines = 0
        self._end: int | None = None

    def parse(self, text: str) -> Key:
        """Count and parse a line."""
        if self._end is not None:  # another export follows
            self._lines = 0
        self._lines += 1
        self._end = None
        self.is_truncated = False
        key, self._end, self.history = load_line(text)
        self.is_truncated = self._end is None
        return key

    def check(self) -> None:
        """Make sure that no line is missing before a last one."""
        if self._end not in (None, self._lines):
            raise InvalidKey(f"the last line of {self._end}, but there are {self._lines}: some are missing")


class CsvParser:
    """Parses rows of ``id,secret``, or of the columns that the first row names.

    Attributes:
        saw_plaintext: Whether a secret was not hashed.
    """

    def __init__(self, hasher: Hasher) -> None:
        self.saw_plaintext = False
        self._hasher = hasher
        self._salts = _endless_salts()
        self._is_first = True  # no row has been accepted yet, so the next one may be the header
        self._has_header = False
        self._columns = {"id": 0, "secret": 1}

    def parse(self, text: str) -> Key | PasswordRow | None:
        row = split_row(text)
        if self._is_first and (header := _parse_header(row, text)) is not None:
            self._columns = header
            self._has_header = True
            self._is_first = False
            return None
        entry = self._parse_row(row, text)
        self._is_first = False
        return entry

    def _parse_row(self, row: Sequence[str], text: str) -> Key | PasswordRow:
        if len(row) != len(self._columns):
            self.saw_plaintext |= any(map(is_secret, row))
            hint = "; put quotes around the hash" if any(map(looks_hashed, row)) else ""
            names = ",".join(sorted(self._columns, key=self._columns.__getitem__))
            raise InvalidKey(f"expected the columns {names}{hint}")
        if text.startswith("#"):
            raise InvalidKey("starts with #, but CSV has no comments: remove the line, or quote the ID")
        client_id, secret = row[self._columns["id"]], row[self._columns["secret"]]
        has_spaces = _has_outer_spaces(client_id, text) or _has_outer_spaces(secret, text)
        is_hash = looks_hashed(secret)
        # Prose contains commas too, but with a space after them.
        if secret and not is_hash and (self._has_header or not has_spaces):
            self.saw_plaintext = True
        if has_spaces:
            raise InvalidKey("a space before or after a value: remove it, or put quotes around the value")
        fields = self._parse_fields(row) if len(row) > 2 else {}
        if is_hash:
            return make_key(client_id, secret, **fields)
        shape = classify(secret)
        if shape is SecretShape.GENERATED:
            return make_key(client_id, self._hasher.digest_secret(secret, salt=next(self._salts)), **fields)
        # Before the password is hashed, which takes long.
        check_new_client_id(client_id)
        check_secret(secret)
        return PasswordRow(client_id, secret, fields)

    def _parse_fields(self, row: Sequence[str]) -> dict[str, Any]:
        """The values of the columns other than ID and secret, without empty ones."""
        fields: dict[str, Any] = {}
        for column, index in self._columns.items():
            value = row[index].strip()
            if column in ("id", "secret") or not value:
                continue
            match column:
                case "expires_at":
                    fields[column] = parse_datetime(value, column)
                case "scopes":
                    fields[column] = value.split()
                case _:
                    fields[column] = value
        return fields


def parse_htpasswd(text: str) -> Key | None:
    """Parse a line of ``user:hash``."""
    return None if text.startswith("#") else make_key(*split_htpasswd(text))


def split_row(text: str) -> list[str]:
    # Without quotes, every comma ends a value, and this is several times as fast as the csv module.
    if '"' not in text and "\r" not in text and len(text) <= csv.field_size_limit():
        return text.split(",")
    try:
        (row,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as exc:
        if "field limit" in str(exc):
            raise InvalidKey("a value is far longer than an ID or a secret may be") from None
        raise InvalidKey("not CSV: a quote or a line break in the wrong place") from None
    return row


def _parse_header(row: Sequence[str], text: str) -> dict[str, int] | None:
    """The index of each column, if the row names them, else None."""
    names = [value.strip().lower() for value in row]
    secrets = [index for index, name in enumerate(names) if name in _SECRET_COLUMNS]
    ids = [index for index, name in enumerate(names) if name in _ID_COLUMNS]
    pairs = [(one, other) for one in ids for other in secrets if one != other]
    if pairs:
        # "name" is the ID only if no other column is.
        client_id, secret = min(pairs, key=lambda pair: names[pair[0]] == "name")
        columns = {"id": client_id, "secret": secret}
        for index, name in enumerate(names):
            if index not in (client_id, secret):
                column = _OTHER_COLUMNS.get(name)
                if column is None or column in columns:
                    raise InvalidKey("a header may name id, secret, name, scopes and expires_at, each once")
                columns[column] = index
        return columns
    if len(row) != 2 or not (names[0] in _ID_COLUMNS or names[1] in _SECRET_COLUMNS):
        return None
    is_key = looks_hashed(names[1]) or classify(row[1]) is not SecretShape.OTHER
    if not is_key and text != ",".join(map(_quoted, row)):
        raise InvalidKey("looks like a header; if it is a key, put quotes around both values")
    return None


def _has_outer_spaces(value: str, text: str) -> bool:
    """Whether a value has spaces around it that no quotes show to be intended."""
    return value != value.strip() and _quoted(value) not in text


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _endless_salts() -> Iterator[str]:
    for count in repeat(_SALTS_AT_ONCE):
        yield from salts(count)
