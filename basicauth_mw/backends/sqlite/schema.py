"""The tables of a file of keys, and the upgrade of older files; docs/backends.md lists the versions.

Generated IDs are random: if the index of the IDs held the records, each new key would change another page.
Records are appended to a table instead, and the index of the IDs is a fifth as large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ...errors import BackendUnavailable
from .files import has_tables, in_transaction
from .search import build_text_index, end_of_row, has_text_index, supports_text

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

APPLICATION_ID: Final = int.from_bytes(b"bamw")
SCHEMA_VERSION: Final = 3

# TEXT with the BINARY collation is ordered by its UTF-8 bytes.
_KEYS: Final = (
    "CREATE TABLE keys (seq INTEGER PRIMARY KEY, client_id TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, "
    "record TEXT NOT NULL, ends_at INTEGER, history TEXT NOT NULL DEFAULT '')"
)
_KEYS_2: Final = (  # of version 2
    "CREATE TABLE keys (client_id TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, record TEXT NOT NULL)"
)
_ENDS: Final = "CREATE INDEX key_ends ON keys (ends_at, client_id) WHERE ends_at IS NOT NULL"
# AUTOINCREMENT never reuses a number, even of a pruned row. A mark distinguishes a change from one with the
# same number in another history of the file. A change without a client ID concerns no cache; the first row is
# one, so that there is always a change to start from.
_CHANGES: Final = (
    "CREATE TABLE changes (seq INTEGER PRIMARY KEY AUTOINCREMENT, client_id TEXT, "
    "mark INTEGER NOT NULL DEFAULT (random()))"
)
_STATE: Final = "CREATE TABLE store_state (name TEXT NOT NULL PRIMARY KEY, value) WITHOUT ROWID"
_FIRST_CHANGE: Final = "INSERT INTO changes (client_id) VALUES (NULL)"


def _marks(version: int) -> tuple[str, str]:
    return f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {version}"


_SCHEMA: Final = (
    _KEYS,
    _ENDS,
    _CHANGES,
    _FIRST_CHANGE,
    _STATE,
    *_marks(SCHEMA_VERSION),
)

_UPGRADE: Final = (
    "ALTER TABLE keys RENAME TO older_keys",
    _KEYS,
    (
        "INSERT INTO keys (client_id, version, record, ends_at) SELECT client_id, version, record, "
        "end_of(CAST(client_id AS BLOB), CAST(record AS BLOB)) FROM older_keys ORDER BY client_id"
    ),
    "DROP TABLE older_keys",
    _ENDS,
    _STATE,
    "INSERT INTO store_state SELECT 'password_hashes', 1 FROM facts WHERE name = 'slow'",
    "DROP TABLE facts",
    *_marks(SCHEMA_VERSION),
)
# From each earlier version to the current one. Version 1 never wrote to its last_used.
_UPGRADES: Final = {
    1: (
        "ALTER TABLE changes RENAME TO changes_1",
        _CHANGES,
        "INSERT INTO changes (seq, client_id) SELECT seq, client_id FROM changes_1 ORDER BY seq",
        "DROP TABLE changes_1",
        _FIRST_CHANGE,
        "DROP TABLE last_used",
        *_UPGRADE,
    ),
    2: _UPGRADE,
}


def restored_version(connection: sqlite3.Connection) -> int | None:
    """The version of a file that was restored from SQLite's ``.dump``, which omits it; None if it was not."""
    if connection.execute("PRAGMA application_id").fetchone()[0]:
        return None
    tables = connection.execute("SELECT sql FROM sqlite_master WHERE name IN ('keys', 'changes')").fetchall()
    found = {bytes(sql) for (sql,) in tables}
    versions = {_KEYS_2: 2, _KEYS: SCHEMA_VERSION}
    return next((versions[keys] for keys in versions if found == {keys.encode(), _CHANGES.encode()}), None)


def check_is_ours(connection: sqlite3.Connection) -> int:
    """Return the version of a file of keys; raise ``BackendUnavailable`` if this release cannot use it."""
    ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if restored_version(connection) is not None:
        raise BackendUnavailable(
            "the SQLite file was restored from a dump, which lacks its version; the command line adds it:  "
            "basicauth-mw check --upgrade"
        )
    if application != APPLICATION_ID:
        raise BackendUnavailable(
            "the SQLite file contains something else, not keys of basicauth_mw"
            if application or has_tables(connection)
            else "the SQLite file contains no keys yet: basicauth-mw keys create prepares it"
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
    """Raise ``BackendUnavailable`` unless a file is a file of keys of this version."""
    if (version := check_is_ours(connection)) != SCHEMA_VERSION:
        raise BackendUnavailable(
            f"the SQLite file has schema version {version}, of an older release of basicauth_mw; this one "
            f"reads {SCHEMA_VERSION}: upgrade it:  basicauth-mw check --upgrade"
        )


def create(connection: sqlite3.Connection) -> None:
    """Create the tables, unless another process has created them meanwhile."""

    def fill(_connection: sqlite3.Connection) -> None:
        if not has_tables(connection):
            _run(connection, _SCHEMA)
            build_text_index(connection)

    in_transaction(connection, fill)


def migrate(connection: sqlite3.Connection) -> int | None:
    """In one transaction: upgrade an older file, mark one that was restored from a dump, index texts.

    Returns the version it had, 0 for a restored one; None if there was nothing to do. Raises
    ``BackendUnavailable`` as ``check_is_ours`` does.
    """

    def run(_connection: sqlite3.Connection) -> int | None:
        if (restored := restored_version(connection)) is not None:
            _run(connection, _marks(restored))
        if (version := check_is_ours(connection)) != SCHEMA_VERSION:
            _run(connection, _UPGRADES[version])
        if not has_text_index(connection):
            build_text_index(connection)
        if restored is not None:
            return 0
        return None if version == SCHEMA_VERSION else version

    connection.create_function("end_of", 2, end_of_row, deterministic=True)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()  # a dump omits this as well
    return in_transaction(connection, run)


def needs_migration(connection: sqlite3.Connection, *, may_write: bool) -> bool:
    """Whether ``migrate`` has anything to do; an index, which is not necessary, only with write access.

    Raises as ``migrate`` does.
    """
    return (
        restored_version(connection) is not None
        or check_is_ours(connection) != SCHEMA_VERSION
        or (may_write and supports_text() and not has_text_index(connection))
    )


def _run(connection: sqlite3.Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.execute(statement)
