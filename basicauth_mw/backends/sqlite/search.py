"""Finds keys by text, scope and end without reading them all.

A full-text index holds every sequence of three characters of the ID, the name and the scopes of each key. It
needs FTS5 with the trigram tokenizer (SQLite 3.34). If a process whose SQLite lacks it changes a text, it
marks the index as unused, and the next upgrade builds it again. Each key also has a column ``ends_at``, which
is indexed where it is not NULL. Both give candidates only: the caller compares the keys themselves.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from ...errors import UnreadableRecord
from ...keys.filters import EXPIRING_WITHIN
from ...keys.model import utcnow
from ..codec import load_key, to_microseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from ...keys.filters import KeyFilter
    from ...keys.model import Key

MAX_CANDIDATES: Final = 4000  # more are not sorted

_MAX_TRIGRAMS: Final = 16  # of a text that is searched for
_ENDED: Final = {"revoked": -2, "disabled": -1}  # ``ends_at`` of keys that do not work, whenever they expire

# Without positions, it is half as large; a query is for the trigrams of a text, wherever they are.
_TEXTS: Final = (
    "CREATE VIRTUAL TABLE key_texts "
    "USING fts5(text, tokenize = 'trigram case_sensitive 1', detail = none, columnsize = 0)"
)
_HAS_INDEX: Final = (
    "SELECT 1 FROM store_state WHERE name = 'text_index' "
    "AND EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'key_texts')"
)
# Tables of FTS5, which drops them with the index; but a dump may have them without it.
_OWN_TABLES: Final = ("", "_config", "_content", "_data", "_docsize", "_idx")


@cache
def supports_text() -> bool:
    """Whether this process can use the index of texts."""
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(_TEXTS)
        except sqlite3.OperationalError:
            return False
    return True


def has_text_index(connection: sqlite3.Connection) -> bool:
    """Whether the index of texts is complete. A restored dump may have its mark, but not its table."""
    return connection.execute(_HAS_INDEX).fetchone() is not None


def build_text_index(connection: sqlite3.Connection) -> None:
    """Build the index of texts, if this process can. The caller has begun a transaction."""
    if not supports_text():
        return
    connection.create_function("text_of", 2, _text_of_row, deterministic=True)
    for suffix in _OWN_TABLES:
        connection.execute(f"DROP TABLE IF EXISTS key_texts{suffix}")
    connection.execute(_TEXTS)
    connection.execute(
        "INSERT INTO key_texts (rowid, text) SELECT seq, text_of(CAST(client_id AS BLOB), "
        "CAST(record AS BLOB)) FROM keys"
    )
    connection.execute("INSERT OR REPLACE INTO store_state VALUES ('text_index', 1)")


def index_texts(connection: sqlite3.Connection, texts: Sequence[tuple[int, str]]) -> None:
    """Index the texts of keys that were written, by their numbers."""
    if _may_change_index(connection):
        if len(texts) == 1:  # most changes of a key leave its text as it is
            old = connection.execute("SELECT text FROM key_texts WHERE rowid = ?", texts[0][:1]).fetchone()
            if old is not None and old[0] == texts[0][1].encode():
                return
        connection.executemany("INSERT OR REPLACE INTO key_texts (rowid, text) VALUES (?, ?)", texts)


def remove_text(connection: sqlite3.Connection, seq: int) -> None:
    """Remove the text of a key that was deleted."""
    if _may_change_index(connection):
        connection.execute("DELETE FROM key_texts WHERE rowid = ?", (seq,))


def _may_change_index(connection: sqlite3.Connection) -> bool:
    """Whether the index is complete and this process can change it. If it cannot, it marks it as unused."""
    if has_text_index(connection):
        if supports_text():
            return True
        connection.execute("DELETE FROM store_state WHERE name = 'text_index'")
    return False


def text_of(key: Key) -> str:
    """What is searched of a key."""
    return "\n".join((key.client_id, key.name, *sorted(key.scopes))).casefold()


def end_of(key: Key) -> int | None:
    """When a key stops working, in microseconds since the epoch; None if it does not."""
    if key.revoked_at is not None:
        return _ENDED["revoked"]
    if key.disabled:
        return _ENDED["disabled"]
    ends: list[datetime] = [] if key.expires_at is None else [key.expires_at]
    secret_ends = [secret.expires_at for secret in key.secrets]
    if secret_ends and None not in secret_ends:
        ends.append(max(filter(None, secret_ends)))
    return max(0, to_microseconds(min(ends))) if ends else None


def end_of_row(client_id: bytes, record: bytes) -> int | None:
    """``end_of`` a stored key; None if it is damaged."""
    key = _load(client_id, record)
    return None if key is None else end_of(key)


def find(
    wanted: KeyFilter, after: str, limit: int, connection: sqlite3.Connection
) -> list[tuple[bytes, bytes]] | None:
    """Client ID and record of keys that may be wanted, in the order of IDs; None if too many may be."""
    execute = connection.execute
    for source, values in _sources(wanted, connection):
        query = f"{source} LIMIT {MAX_CANDIDATES + 1}"
        if execute(f"SELECT count(*) FROM ({query})", values).fetchone()[0] <= MAX_CANDIDATES:  # noqa: S608
            # The unary + keeps SQLite from reading all keys in the order of their IDs.
            return execute(
                f"SELECT client_id, record FROM keys WHERE seq IN ({query}) AND +client_id > ? "  # noqa: S608
                "ORDER BY +client_id LIMIT ?",
                (*values, after, limit),
            ).fetchall()
    if wanted.state in _ENDED:  # in the order of the index, however many there are
        return execute(
            "SELECT client_id, record FROM keys WHERE ends_at = ? AND client_id > ? "
            "ORDER BY client_id LIMIT ?",
            (_ENDED[wanted.state], after, limit),
        ).fetchall()
    return None


def _sources(wanted: KeyFilter, connection: sqlite3.Connection) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Queries for the numbers of candidates."""
    trigrams = [*_trigrams(wanted.text), *_trigrams(wanted.scope or "")]
    if trigrams and supports_text() and has_text_index(connection):
        yield "SELECT rowid FROM key_texts WHERE key_texts MATCH ?", (" AND ".join(trigrams),)
    now = to_microseconds(utcnow())
    soon = to_microseconds(utcnow() + EXPIRING_WITHIN)
    times = {"expired": (0, now), "expiring": (now, soon)}
    if wanted.state in times:
        yield "SELECT seq FROM keys WHERE ends_at BETWEEN ? AND ?", times[wanted.state]


def _trigrams(text: str) -> list[str]:
    """As few trigrams as cover a text, as strings of a query. FTS5 ends a query at a NUL."""
    text = text.casefold()
    last = len(text) - 3
    found = dict.fromkeys(text[start : start + 3] for start in (*range(0, last, 3), last) if last >= 0)
    return ['"{}"'.format(each.replace('"', '""')) for each in found if "\0" not in each][:_MAX_TRIGRAMS]


def _text_of_row(client_id: bytes, record: bytes) -> str:
    key = _load(client_id, record)
    return client_id.decode(errors="replace").casefold() if key is None else text_of(key)


def _load(client_id: bytes, record: bytes) -> Key | None:
    try:
        return load_key(record, client_id.decode())
    except (UnreadableRecord, UnicodeDecodeError):
        return None
