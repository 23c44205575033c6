"""The tables of a SQLite file of keys, and the way from older ones to these.

Version 1 kept whole records in the primary key's own tree. New ids are random, so each new key dirtied a
page of its own, and long records left room for few branches in a page. Version 2 appends records to a table
and keeps the ids apart, in an index a fifth as large: the same look-up, half the writing for an import. Its
changes are marked, so that a cursor is known to be of another file, even of one that was copied over this
one. When secrets were last used is in a file of its own since; see ``_sqlite_uses``.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ..errors import BackendUnavailable
from ._sqlite_file import has_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

APPLICATION_ID: Final = int.from_bytes(b"bamw")
SCHEMA_VERSION: Final = 2

# TEXT with the BINARY collation is ordered by its octets in UTF-8.
_KEYS: Final = (
    "CREATE TABLE keys (client_id TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, record TEXT NOT NULL)"
)
# AUTOINCREMENT grows for ever, whatever is pruned. A mark tells a change from one with the same number in
# another history of the file. One without a client id is of interest to nobody; the first is such a one, so
# that there is always one to begin at.
_CHANGES: Final = (
    "CREATE TABLE changes (seq INTEGER PRIMARY KEY AUTOINCREMENT, client_id TEXT, "
    "mark INTEGER NOT NULL DEFAULT (random()))"
)
_FIRST_CHANGE: Final = "INSERT INTO changes (client_id) VALUES (NULL)"

_MARKS: Final = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

_SCHEMA: Final = (
    _KEYS,
    _CHANGES,
    _FIRST_CHANGE,
    "CREATE TABLE facts (name TEXT NOT NULL PRIMARY KEY, value) WITHOUT ROWID",
    *_MARKS,
)

# From each version that was ever released to the next. Nothing was written to version 1's last_used.
_UPGRADES: Final = {
    1: (
        "ALTER TABLE keys RENAME TO keys_1",
        _KEYS,
        "INSERT INTO keys SELECT client_id, version, record FROM keys_1 ORDER BY client_id",
        "DROP TABLE keys_1",
        "ALTER TABLE changes RENAME TO changes_1",
        _CHANGES,
        "INSERT INTO changes (seq, client_id) SELECT seq, client_id FROM changes_1 ORDER BY seq",
        "DROP TABLE changes_1",
        _FIRST_CHANGE,
        "DROP TABLE last_used",
        "PRAGMA user_version = 2",
    )
}


def is_restored(connection: sqlite3.Connection) -> bool:
    """Whether a file has these tables but not their version: SQLite's ``.dump`` leaves it out."""
    if connection.execute("PRAGMA application_id").fetchone()[0]:
        return False
    tables = connection.execute("SELECT sql FROM sqlite_master WHERE name IN ('keys', 'changes')").fetchall()
    return {bytes(sql) for (sql,) in tables} == {_KEYS.encode(), _CHANGES.encode()}


def check_is_ours(connection: sqlite3.Connection) -> int:
    """Make sure that a file is one of ours, of this version or one that can be brought to it.

    Returns:
        Its version.

    Raises:
        BackendUnavailable: It is not.
    """
    ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if is_restored(connection):
        raise BackendUnavailable(
            "the SQLite file was restored from a dump, which lacks its version; the command line adds it:  "
            "basicauth-mw keys list --limit 1"
        )
    if application != APPLICATION_ID:
        raise BackendUnavailable(
            "the SQLite file holds something else, not keys of basicauth_mw"
            if application or has_tables(connection)
            else "the SQLite file holds no keys yet: basicauth-mw keys create makes it ready"
        )
    if version > SCHEMA_VERSION:
        raise BackendUnavailable(
            f"the SQLite file has schema version {version}, written by a newer release of basicauth_mw; this "
            f"one reads {SCHEMA_VERSION}: use that release"
        )
    if version != SCHEMA_VERSION and version not in _UPGRADES:
        raise BackendUnavailable(
            f"the SQLite file has schema version {version}, which no release wrote: restore it from a backup"
        )
    return int(version)


def check_is_current(connection: sqlite3.Connection) -> None:
    """Make sure that a file is one of ours and of this version.

    Raises:
        BackendUnavailable: It is not.
    """
    if (version := check_is_ours(connection)) != SCHEMA_VERSION:
        raise BackendUnavailable(
            f"the SQLite file has schema version {version}, of an older release of basicauth_mw; this one "
            f"reads {SCHEMA_VERSION}: upgrade it with the command line:  basicauth-mw keys list --limit 1"
        )


def make(connection: sqlite3.Connection) -> None:
    """Fill an empty file; one that another process has filled meanwhile is left alone."""

    def fill() -> None:
        if not has_tables(connection):
            _run(connection, _SCHEMA)

    _atomically(connection, fill)


def needs_upgrade(connection: sqlite3.Connection) -> bool:
    """Whether ``upgrade`` has anything to do.

    Raises:
        BackendUnavailable: The file is not one of ours, or of a newer version.
    """
    return is_restored(connection) or check_is_ours(connection) != SCHEMA_VERSION


def upgrade(connection: sqlite3.Connection) -> int | None:
    """Bring an older file to this version, in one transaction, or mark a file that was restored from a dump.

    Returns:
        The version it had, 0 for a restored one; None: another process was first.

    Raises:
        BackendUnavailable: It is not one of ours, or of a newer version.
    """
    done: list[int] = []

    def climb() -> None:
        if is_restored(connection):
            _run(connection, _MARKS)
            done.append(0)
        while (version := check_is_ours(connection)) != SCHEMA_VERSION:
            _run(connection, _UPGRADES[version])
            done.append(version)

    connection.execute("PRAGMA journal_mode = WAL").fetchall()  # a dump lacks that, too
    _atomically(connection, climb)
    return done[0] if done else None


def _atomically(connection: sqlite3.Connection, work: Callable[[], None]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        work()
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _run(connection: sqlite3.Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.execute(statement)
