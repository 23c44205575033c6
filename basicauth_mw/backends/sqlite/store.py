"""``SqliteStore``: keys in one SQLite file.

A lookup takes a few microseconds, so an event loop reads inline (``get_nowait``). SQLite itself never waits:
a lock is reported at once (busy timeout 0), and callers that may wait retry.

The file is in WAL mode, so a writer does not delay readers. Every change is checkpointed at once: keys change
rarely, and a file that is complete without its log can be replaced as it is.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ...errors import BackendUnavailable, ConfigurationError, UnreadableRecord
from ...keys.hashing import has_password_hash
from ..base import Changes, StoreWarning
from ..codec import as_key, dump_key, extend_history, load_for_lookup, load_history, load_key
from . import schema
from .checks import check_files
from .connections import ConnectionManager, checkpoint
from .files import (
    SQLITE_ERRORS,
    as_sqlite_error,
    check_is_file,
    check_writable_mount,
    explain,
    has_tables,
    is_locked,
    path_of,
    retry_while_locked,
)
from .forks import short_connection
from .last_used import LastUsedFile
from .search import TextIndex, end_of, find
from .wal import may_write, open_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

    from ...keys.filters import KeyFilter
    from ...keys.model import Change, Key
    from ..base import LastUse
    from ..codec import StoredRecord
    from .connections import Execute

    _Row = tuple[str, int, str, int | None, str]

T = TypeVar("T")

CHANGES_KEPT: Final = 10_000

_WRITE_WAIT_S: Final = 5.0

_FIND: Final = "SELECT record FROM keys WHERE client_id = ?"
_INSERT: Final = "INSERT INTO keys (client_id, version, record, ends_at, history) VALUES (?, ?, ?, ?, ?)"

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
            _create(self._path)
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
        except UnicodeEncodeError:  # no id contains a lone surrogate
            return None
        return load_for_lookup(None if row is None else row[0] or b"", client_id)  # NULL is no record

    def put(self, record: Key, /, expect_version: int | None, changes: Sequence[Change] = ()) -> bool:
        written = self._write(partial(_put, record, expect_version, changes))
        if written:
            self._last_used.prune(record)
        return written

    def delete(self, client_id: str, /) -> bool:
        deleted = self._write(partial(_delete, client_id))
        if deleted:
            self._last_used.delete(client_id)
        return deleted

    def add(self, records: Sequence[Key], /, changes: Sequence[Sequence[Change]] = ()) -> list[bool]:
        # In the order of the ids, so that each page of the index changes once.
        indices = sorted(range(len(records)), key=lambda index: records[index].client_id)
        rows = [
            (index, records[index], _row(records[index], changes[index] if changes else ()))
            for index in indices
        ]
        added = self._write(partial(_add, rows))
        return [index in added for index in range(len(records))]

    def history(self, client_ids: Sequence[str], /) -> list[list[Change]]:
        return [
            load_history(text.decode(errors="replace"))
            for text in self._read(partial(_histories, client_ids))
        ]

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
        start, previous = prefix.encode(), after.encode()
        # A single lower bound: given two, SQLite may start at the lower one. CAST leaves the bytes as they
        # are, so the upper bound need not be valid UTF-8.
        lower, operator = (previous, ">") if previous >= start else (start, ">=")
        upper, bounds = (" AND client_id < CAST(? AS TEXT)", (_prefix_end(start),)) if start else ("", ())
        found: list[Key] = []
        while True:
            query = (
                f"SELECT client_id, record FROM keys WHERE client_id {operator} CAST(? AS TEXT){upper} "  # noqa: S608
                "ORDER BY client_id LIMIT ?"
            )
            rows = self._read(partial(_rows, query, (lower, *bounds, limit - len(found))))
            for encoded, record in rows:
                if (client_id := _decode(encoded)) is not None:  # a damaged id: see ``warnings``
                    found.append(load_key(record, client_id))
            if len(found) == limit or not rows:
                return found
            lower, operator = rows[-1][0], ">"

    def changes(self, since: str | None) -> Changes:
        cursor = _CURSOR.fullmatch(since or "")

        def query(execute: Execute) -> Changes:
            has_passwords = (
                execute("SELECT 1 FROM store_state WHERE name = 'password_hashes'").fetchone() is not None
            )
            # A cursor names the file too: the numbers of one file mean nothing in another.
            file = self._connections.file
            if cursor and cursor[1] == file:
                seq, mark = int(cursor[2]), int(cursor[3])
                rows = execute(
                    "SELECT seq, mark, client_id FROM changes WHERE seq >= ? ORDER BY seq", (seq,)
                ).fetchall()
                # Nothing was pruned or overwritten if the change at the cursor itself is still there.
                if rows and rows[0][:2] == (seq, mark):
                    seq, mark, _ = rows[-1]
                    encoded = [client_id for _, _, client_id in rows[1:] if client_id is not None]
                    ids = tuple(client_id for each in encoded if (client_id := _decode(each)) is not None)
                    # An id that cannot be decoded may be any.
                    incomplete = len(ids) < len(encoded)
                    return Changes(
                        f"{file}.{seq}.{mark}", ids, incomplete=incomplete, has_password_hashes=has_passwords
                    )
            seq, mark = execute("SELECT max(seq), mark FROM changes").fetchone()
            incomplete = since is not None
            return Changes(f"{file}.{seq}.{mark}", incomplete=incomplete, has_password_hashes=has_passwords)

        # Lookups compare the file once a second; here a replaced file is a change like any other.
        return retry_while_locked(partial(self._connections.read, query, compare=True), self._deadline_s)

    def record_uses(self, uses: Sequence[LastUse], /) -> None:
        self._last_used.record(uses, self._existing_ids)

    def last_uses(self, client_ids: Sequence[str], /) -> list[LastUse]:
        return self._last_used.last(client_ids)

    def close(self) -> None:
        self._connections.close()

    def upgrade(self) -> str | None:
        """Upgrade a file of an older release, in one transaction. Older releases refuse the file afterwards.

        The version that a file lacks after ``sqlite3 keys.db < dump.sql`` is set again.

        Returns:
            What was done, for people; None if the file is of this release.

        Raises:
            BackendUnavailable: It is of a newer release, is no file of keys, or cannot be written.
        """

        def attempt() -> str | None:
            try:
                with short_connection(self._path, open_keys) as connection:
                    connection.execute("PRAGMA synchronous = FULL")
                    if not schema.needs_migration(connection, may_write=may_write(self._path)):
                        return None
                    check_writable_mount(self._path)
                    before = schema.migrate(connection)
                    checkpoint(connection.execute)
            except SQLITE_ERRORS as exc:
                raise self._connections.error(exc) from exc
            if before == 0:
                return f"{self._path} was restored from a dump; its version has been set"
            if before is None:
                return None  # or only its texts were indexed
            return f"upgraded {self._path} from schema version {before} to {schema.SCHEMA_VERSION}"

        return retry_while_locked(attempt, _WRITE_WAIT_S)

    def warnings(self) -> list[StoreWarning]:
        """What works but should be changed.

        Raises:
            BackendUnavailable: The file cannot be read.
        """
        found = list(check_files(self._path, self._last_used))
        if count := self._undecodable_ids():
            message = f"{self._path} has keys with damaged ids ({count}), which cannot be used or listed"
            remedy = "restore the file from a backup, or create them again"
            found.append(StoreWarning("sqlite_damaged_ids", message, remedy))
        return found

    def _undecodable_ids(self) -> int:
        """The number of damaged client IDs; 0 if the file cannot be read, which is reported elsewhere."""
        # Only ids beyond ASCII can be damaged, and few are.
        query = "SELECT client_id, NULL FROM keys WHERE client_id GLOB ?"
        try:
            rows = self._read(partial(_rows, query, ("*[^\x01-\x7f]*",)))
        except BackendUnavailable:
            return 0
        return sum(_decode(encoded) is None for encoded, _ in rows)

    def _read(self, query: Callable[[Execute], T]) -> T:
        return retry_while_locked(partial(self._connections.read, query), self._deadline_s)

    def _write(self, change: Callable[[Execute], T]) -> T:
        return retry_while_locked(partial(self._connections.write, change), _WRITE_WAIT_S)

    def _existing_ids(self, client_ids: Collection[str]) -> set[str]:
        def query(execute: Execute) -> set[str]:
            return {client_id for client_id in client_ids if execute(_FIND, (client_id,)).fetchone()}

        return self._read(query)


def _prefix_end(prefix: bytes) -> bytes:
    """Exclusive upper bound of the range of a prefix. No byte of UTF-8 is 255, so the last one can grow."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _rows(query: str, values: Sequence[bytes | str | int], execute: Execute) -> list[tuple[bytes, Any]]:
    return execute(query, values).fetchall()


def _get(client_id: str, execute: Execute) -> tuple[Any] | None:
    found: tuple[Any] | None = execute(_FIND, (client_id,)).fetchone()
    return found


def _histories(client_ids: Sequence[str], execute: Execute) -> list[bytes]:
    query = "SELECT history FROM keys WHERE client_id = ?"
    return [(execute(query, (client_id,)).fetchone() or (b"",))[0] for client_id in client_ids]


def _put(record: Key, expect_version: int | None, changes: Sequence[Change], execute: Execute) -> bool:
    query = "SELECT version, seq, history FROM keys WHERE client_id = ?"
    version, seq, history = execute(query, (record.client_id,)).fetchone() or (None, None, b"")
    if version != expect_version:
        return False
    row = _row(record, changes, history.decode(errors="replace"))
    if seq is None:
        seq = execute(_INSERT, row).lastrowid or 0
    else:
        execute(
            "UPDATE keys SET version = ?, record = ?, ends_at = ?, history = ? WHERE seq = ?", (*row[1:], seq)
        )
    TextIndex(execute).put(seq, record, is_new=version is None)
    if has_password_hash(record):
        _mark_has_password(execute)
    _announce(execute, record.client_id)
    return True


def _add(rows: Iterable[tuple[int, Key, _Row]], execute: Execute) -> set[int]:
    """Insert new keys, each with its index; return the indices of those that were inserted."""
    added = set()
    texts = TextIndex(execute)
    for index, record, row in rows:
        inserted = execute(f"{_INSERT} ON CONFLICT (client_id) DO NOTHING", row)
        if inserted.rowcount:
            added.add(index)
            texts.put(inserted.lastrowid or 0, record, is_new=True)
            if has_password_hash(record):
                _mark_has_password(execute)
    if added:
        # No id is announced: only found keys are cached, so no cache can hold one of these. But the history
        # of the file goes on, so that a file without these keys is recognized as another.
        _announce(execute, None)
    return added


def _delete(client_id: str, execute: Execute) -> bool:
    found = execute("SELECT seq FROM keys WHERE client_id = ?", (client_id,)).fetchone()
    if found is None:
        return False
    execute("DELETE FROM keys WHERE seq = ?", found)
    TextIndex(execute).delete(*found)
    _announce(execute, client_id)
    return True


def _row(record: Key, changes: Sequence[Change], history: str = "") -> _Row:
    history = extend_history(history, changes)
    return record.client_id, record.version, dump_key(record), end_of(record), history


def _decode(encoded: bytes) -> str | None:
    """A client ID; None if it is damaged."""
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return None


def _mark_has_password(execute: Execute) -> None:
    execute("INSERT OR IGNORE INTO store_state VALUES ('password_hashes', 1)")


def _announce(execute: Execute, client_id: str | None) -> None:
    newest = execute("INSERT INTO changes (client_id) VALUES (?)", (client_id,)).lastrowid
    execute("DELETE FROM changes WHERE seq <= ? - ?", (newest, CHANGES_KEPT))


def _create(path: Path) -> None:
    try:
        # 0600 from the start; SQLite gives its log the mode of the file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        check_is_file(path)
    except OSError as exc:
        raise ConfigurationError(
            f"{path} cannot be created: {exc.strerror}: does its directory exist?"
        ) from None

    def fill() -> None:
        try:
            with short_connection(path, open_keys) as connection:
                application = connection.execute("PRAGMA application_id").fetchone()[0]
                if not application and not has_tables(connection):
                    check_writable_mount(path)
                    connection.execute("PRAGMA journal_mode = WAL").fetchall()
                    schema.create(connection)
                schema.check_is_ours(connection)
        except SQLITE_ERRORS as exc:
            error = as_sqlite_error(exc)
            if is_locked(error):
                raise BlockingIOError from exc
            raise ConfigurationError(f"{path} cannot be used: {explain(error)}") from None

    try:
        retry_while_locked(fill, _WRITE_WAIT_S)
    except BackendUnavailable as exc:
        raise ConfigurationError(f"{path} cannot be used: {exc}") from None
