"""``SqliteStore``: keys in one SQLite file.

A lookup takes a few microseconds, so an event loop reads inline (``get_nowait``). SQLite itself never waits:
a lock is reported at once (busy timeout 0), and callers that may wait retry.

The file is in WAL mode, so a writer does not delay readers. Every change is checkpointed at once: keys change
rarely, and a file that is complete without its log can be replaced as it is.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ...errors import BackendUnavailable, UnreadableRecord
from ...keys.hashing import has_password_hash
from ..base import Changes, StoreWarning
from ..codec import as_key, dump_key, load_for_lookup, load_key
from ..history import extend_history, load_history
from .checks import check_files
from .connections import ConnectionManager
from .files import check_is_file, path_of, retry_while_locked
from .last_used import LastUsedFile
from .search import end_of, find, index_texts, remove_text, text_of
from .setup import WRITE_WAIT_S, create_file, upgrade_file

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Sequence

    from ...keys.filters import KeyFilter
    from ...keys.model import Change, Key
    from ..base import LastUse
    from ..codec import StoredRecord

    _Row = tuple[str, int, str, int | None, str]

T = TypeVar("T")

CHANGES_KEPT: Final = 10_000

_FIND: Final = "SELECT record FROM keys WHERE client_id = ?"
_HISTORY: Final = "SELECT history FROM keys WHERE client_id = ?"
# CAST leaves the bytes as they are, so a bound need not be valid UTF-8.
_SCAN: Final = (
    "SELECT client_id, record FROM keys WHERE client_id >= CAST(? AS TEXT) AND client_id < CAST(? AS TEXT) "
    "ORDER BY client_id LIMIT ?"
)
_CHANGES: Final = (
    "SELECT seq, mark, client_id FROM changes "
    "WHERE seq >= min(?, (SELECT max(seq) FROM changes)) ORDER BY seq"
)
_HAS_PASSWORDS: Final = "SELECT 1 FROM store_state WHERE name = 'password_hashes'"
_INSERT: Final = "INSERT INTO keys (client_id, version, record, ends_at, history) VALUES (?, ?, ?, ?, ?)"

_END: Final = 2**62  # greater than the number of any change

# Device and inode of the file, number and mark of a change.
_CURSOR: Final = re.compile(r"(\d+\.\d+)\.(\d{1,18})\.(-?\d{1,19})", re.ASCII)


class SqliteStore:
    """Stores keys in a SQLite file. Safe to share between threads, and across a fork.

    Args:
        url: ``sqlite:///relative.db`` or ``sqlite:////absolute.db``. Everything after the third slash is the
            path, without any decoding.
        deadline_s: Seconds that ``get`` waits for a lock.
        create: Create a missing file, readable by its owner only, and fill an empty one.

    Raises:
        ConfigurationError: The URL is invalid, there is no file, or (``create``) it is not a file of keys.
    """

    def __init__(self, url: str, *, deadline_s: float = 1.0, create: bool = False) -> None:
        self._path = path_of(url)
        self._deadline_s = deadline_s
        if create:
            create_file(self._path)
        check_is_file(self._path)
        self._connections = ConnectionManager(self._path)
        self._last_used = LastUsedFile(self._path)

    def get(self, client_id: str, /) -> Key | None:
        return as_key(self.get_record(client_id))

    def get_nowait(self, client_id: str, /) -> Key | None:
        """``get`` without waiting. Raises ``BlockingIOError`` if the file is locked at the moment."""
        return as_key(self.get_record_nowait(client_id))

    def get_record(self, client_id: str, /) -> StoredRecord | None:
        """``get`` without decoding more than the secrets."""
        return retry_while_locked(partial(self.get_record_nowait, client_id), self._deadline_s)

    def get_record_nowait(self, client_id: str, /) -> StoredRecord | None:
        """``get_nowait`` without decoding more than the secrets."""
        try:
            row = self._connections.read(partial(_get, client_id))
        except UnicodeEncodeError:  # no ID contains a lone surrogate
            return None
        return load_for_lookup(None if row is None else row[0] or b"", client_id)  # NULL is no record

    def put(self, record: Key, /, expect_version: int | None, changes: Sequence[Change] = ()) -> bool:
        written = self._write(partial(_put, record, expect_version, changes))
        if written and expect_version is None:
            self._last_used.delete([record.client_id])  # those of an earlier key with this ID
        elif written:
            self._last_used.prune(record)
        return written

    def delete(self, client_id: str, /) -> bool:
        deleted = self._write(partial(_delete, client_id))
        if deleted:
            self._last_used.delete([client_id])
        return deleted

    def add(self, records: Sequence[Key], /, changes: Sequence[Sequence[Change]] = ()) -> list[bool]:
        histories = changes or [()] * len(records)
        rows = [(record, _row(record, each)) for record, each in zip(records, histories, strict=True)]
        # In the order of the IDs, so that each page of the index changes once.
        rows.sort(key=lambda row: row[0].client_id)
        new = self._write(partial(_add, rows))
        self._last_used.delete(new)  # as in put
        # Only the first of equal IDs was written.
        return [new.pop(record.client_id, None) is not None for record in records]

    def history(self, client_ids: Sequence[str], /) -> list[list[Change]]:
        found = [self._rows(_HISTORY, client_id) for client_id in client_ids]
        return [load_history(rows[0][0].decode(errors="replace") if rows else "") for rows in found]

    def search(self, wanted: KeyFilter, after: str, limit: int, /) -> list[Key] | None:
        """Keys that may be wanted; None if the caller has to scan."""
        rows = self._read(partial(find, wanted, after, limit))
        try:
            return (
                None if rows is None else [load_key(record, client_id.decode()) for client_id, record in rows]
            )
        except (UnreadableRecord, UnicodeDecodeError):
            return None  # a scan reports it

    def scan(self, prefix: str, after: str, limit: int) -> list[Key]:
        first = max(prefix.encode(), after.encode() + b"\0")
        end = prefix.encode() + b"\xff"  # no byte of UTF-8 is 255
        found: list[Key] = []
        while True:
            rows = self._rows(_SCAN, first, end, limit - len(found))
            for encoded, record in rows:
                if (client_id := _decode(encoded)) is not None:  # a damaged ID: see ``warnings``
                    found.append(load_key(record, client_id))
            if len(found) == limit or not rows:
                return found
            first = rows[-1][0] + b"\0"

    def changes(self, since: str | None) -> Changes:
        # Lookups compare the file once a second; here a replaced file is a change like any other.
        query = partial(self._connections.read, partial(self._changes, since), compare=True)
        return retry_while_locked(query, self._deadline_s)

    def _changes(self, since: str | None, connection: sqlite3.Connection) -> Changes:
        # A cursor names the file too: the numbers of one file mean nothing in another.
        file = self._connections.file
        cursor = _CURSOR.fullmatch(since or "")
        at = (int(cursor[2]), int(cursor[3])) if cursor and cursor[1] == file else (_END, 0)
        rows = connection.execute(_CHANGES, at[:1]).fetchall()
        ids = [_decode(client_id) for _, _, client_id in rows[1:] if client_id is not None]
        # Nothing was pruned or overwritten if the change at the cursor itself is still there. A damaged
        # ID may belong to any key.
        is_complete = rows[0][:2] == at and None not in ids
        return Changes(
            "{}.{}.{}".format(file, *rows[-1][:2]),
            tuple(filter(None, ids)) if is_complete else (),
            incomplete=since is not None and not is_complete,
            has_password_hashes=connection.execute(_HAS_PASSWORDS).fetchone() is not None,
        )

    def record_uses(self, uses: Sequence[LastUse], /) -> None:
        self._last_used.record(uses, self._existing_ids)

    def last_uses(self, client_ids: Sequence[str], /) -> list[LastUse]:
        return self._last_used.last(client_ids)

    def close(self) -> None:
        self._connections.close()

    def upgrade(self) -> str | None:
        return upgrade_file(self._path)

    def warnings(self) -> list[StoreWarning]:
        """What works but should be changed.

        Raises:
            BackendUnavailable: The file cannot be read.
        """
        found = list(check_files(self._path, self._last_used))
        if count := self._undecodable_ids():
            message = (
                f"{self._path} has keys with damaged client IDs ({count}), which cannot be used or listed"
            )
            remedy = "restore the file from a backup, or create them again"
            found.append(StoreWarning("sqlite_damaged_ids", message, remedy))
        return found

    def _undecodable_ids(self) -> int:
        """The number of damaged client IDs; 0 if the file cannot be read, which is reported elsewhere."""
        # Only IDs beyond ASCII can be damaged, and few are.
        query = "SELECT client_id FROM keys WHERE client_id GLOB ?"
        try:
            return sum(_decode(encoded) is None for (encoded,) in self._rows(query, "*[^\x01-\x7f]*"))
        except BackendUnavailable:
            return 0

    def _rows(self, query: str, *values: bytes | str | int) -> list[tuple[Any, ...]]:
        return self._read(lambda connection: connection.execute(query, values).fetchall())

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        return retry_while_locked(partial(self._connections.read, query), self._deadline_s)

    def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        return retry_while_locked(partial(self._connections.write, change), WRITE_WAIT_S)

    def _existing_ids(self, client_ids: Collection[str]) -> set[str]:
        return {client_id for client_id in client_ids if self._rows(_FIND, client_id)}


def _get(client_id: str, connection: sqlite3.Connection) -> tuple[Any] | None:
    found: tuple[Any] | None = connection.execute(_FIND, (client_id,)).fetchone()
    return found


def _put(
    record: Key, expect_version: int | None, changes: Sequence[Change], connection: sqlite3.Connection
) -> bool:
    query = "SELECT version, seq, history FROM keys WHERE client_id = ?"
    found = connection.execute(query, (record.client_id,)).fetchone()
    version, seq, history = found or (None, None, b"")
    if version != expect_version:
        return False
    row = _row(record, changes, history.decode(errors="replace"))
    if seq is None:
        seq = connection.execute(_INSERT, row).lastrowid or 0
    else:
        statement = "UPDATE keys SET version = ?, record = ?, ends_at = ?, history = ? WHERE seq = ?"
        connection.execute(statement, (*row[1:], seq))
    _index(connection, [(seq, record)])
    _announce(connection, record.client_id)
    return True


def _add(rows: Sequence[tuple[Key, _Row]], connection: sqlite3.Connection) -> dict[str, int]:
    """Insert new keys, and index them; return the IDs of those that were inserted, with their numbers."""
    last = connection.execute("SELECT coalesce(max(seq), 0) FROM keys").fetchone()
    insert = f"{_INSERT} ON CONFLICT (client_id) DO NOTHING"
    connection.executemany(insert, [row for _, row in rows])
    inserted = connection.execute("SELECT client_id, seq FROM keys WHERE seq > ?", last)
    new = {client_id.decode(): seq for client_id, seq in inserted}
    if new:
        records = {record.client_id: record for record, _ in reversed(rows)}  # the first of equal IDs
        _index(connection, [(seq, records[client_id]) for client_id, seq in new.items()])
        # No ID is announced: only found keys are cached, so no cache can hold one of these. But the history
        # of the file goes on, so that a file without these keys is recognized as another.
        _announce(connection, None)
    return new


def _delete(client_id: str, connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT seq FROM keys WHERE client_id = ?", (client_id,)).fetchone()
    if found is None:
        return False
    connection.execute("DELETE FROM keys WHERE seq = ?", found)
    remove_text(connection, *found)
    _announce(connection, client_id)
    return True


def _index(connection: sqlite3.Connection, keys: Sequence[tuple[int, Key]]) -> None:
    """Index the texts of keys that were written, and record whether one has a password hash."""
    index_texts(connection, [(seq, text_of(key)) for seq, key in keys])
    if any(has_password_hash(key) for _, key in keys):
        connection.execute("INSERT OR IGNORE INTO store_state VALUES ('password_hashes', 1)")


def _announce(connection: sqlite3.Connection, client_id: str | None) -> None:
    newest = connection.execute("INSERT INTO changes (client_id) VALUES (?)", (client_id,)).lastrowid
    connection.execute("DELETE FROM changes WHERE seq <= ? - ?", (newest, CHANGES_KEPT))


def _row(record: Key, changes: Sequence[Change], history: str = "") -> _Row:
    history = extend_history(history, changes)
    return record.client_id, record.version, dump_key(record), end_of(record), history


def _decode(encoded: bytes) -> str | None:
    """A client ID; None if it is damaged."""
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return None
