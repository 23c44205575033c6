"""``sqlite:`` - keys in one SQLite file, the embedded default.

Look-ups take a few microseconds, so an event loop asks inline (``get_nowait``). Nothing waits inside SQLite:
a lock is answered at once (busy timeout 0), and who may wait tries again.

The file is in WAL mode, so a writer does not hold up readers. Every write is checkpointed at once: keys
change rarely, and a file that is complete without its log may be copied, and replaced, as it is.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..errors import BackendUnavailable, ConfigurationError
from ..keys.hashing import has_slow_hash
from . import _sqlite_schema as schema
from ._sqlite_file import (
    check_is_file,
    check_may_be_changed,
    explain,
    has_tables,
    is_locked,
    is_mounted_alone,
    path_of,
    patiently,
)
from ._sqlite_forks import briefly
from ._sqlite_lines import Lines, checkpoint
from ._sqlite_logs import log_of, log_size, may_write, open_keys, unwritable_logs
from ._sqlite_uses import UseLog
from .base import Changes
from .codec import dump_key, load_found, load_key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

    from ..keys.model import Key
    from ._sqlite_lines import Execute
    from .base import Use

T = TypeVar("T")

CHANGES_KEPT: Final = 10_000

_WRITE_WAIT_S: Final = 5.0

_FIND: Final = "SELECT record FROM keys WHERE client_id = ?"
_INSERT: Final = "INSERT INTO keys VALUES (?, ?, ?)"

# Device and inode of the file, number and mark of a change.
_CURSOR: Final = re.compile(r"(\d+\.\d+)\.(\d{1,18})\.(-?\d{1,19})", re.ASCII)


class SqliteStore:
    """Keeps keys in a SQLite file. Safe to share between threads, and across a fork.

    Args:
        url: ``sqlite:///relative.db`` or ``sqlite:////absolute.db``. What follows the third slash is the
            path, letter by letter.
        deadline_s: Seconds that ``get`` waits for a lock.
        create: Make the file if it is missing, readable by its owner only, or empty.

    Raises:
        ConfigurationError: Not such a URL, no file there, or (``create``) one that is not ours.
    """

    def __init__(self, url: str, *, deadline_s: float = 1.0, create: bool = False) -> None:
        self._path = path_of(url)
        self._deadline_s = deadline_s
        if create:
            _create(self._path)
        check_is_file(self._path)
        self._lines = Lines(self._path)
        self._uses = UseLog(self._path)

    def get(self, client_id: str, /) -> Key | None:
        return patiently(partial(self.get_nowait, client_id), self._deadline_s)

    def get_nowait(self, client_id: str, /) -> Key | None:
        """``get`` that never waits.

        Raises:
            BlockingIOError: The file is locked at the moment.
        """
        try:
            row = self._lines.ask(partial(_get, client_id))
        except UnicodeEncodeError:  # a lone surrogate is in no id
            return None
        return load_found(None if row is None else row[0] or b"", client_id)  # NULL is no key, and no answer

    def put(self, record: Key, /, expect_version: int | None) -> bool:
        written = self._change(partial(_put, record, expect_version))
        if written:
            self._uses.prune(record)
        return written

    def delete(self, client_id: str, /) -> bool:
        deleted = self._change(partial(_delete, client_id))
        if deleted:
            self._uses.forget(client_id)
        return deleted

    def add(self, records: Sequence[Key], /) -> list[bool]:
        # In the order of the ids: a page of the index is then changed once, however many fall into it.
        places = sorted(range(len(records)), key=lambda place: records[place].client_id)
        rows = [(place, _row(records[place]), has_slow_hash(records[place])) for place in places]
        added = self._change(partial(_add, rows))
        return [place in added for place in range(len(records))]

    def scan(self, prefix: str, after: str, limit: int) -> list[Key]:
        start, behind = prefix.encode(), after.encode()
        # One lower bound: of two, SQLite may begin at the lower. CAST leaves the octets as they are, so the
        # end of the range need not be valid UTF-8. No octet of UTF-8 is 255, so the last one can always be
        # raised by one.
        first, above = (behind, ">") if behind >= start else (start, ">=")
        below, end = (" AND client_id < CAST(? AS TEXT)", (_next(start),)) if start else ("", ())
        found: list[Key] = []
        while True:
            query = (
                f"SELECT client_id, record FROM keys WHERE client_id {above} CAST(? AS TEXT){below} "  # noqa: S608
                "ORDER BY client_id LIMIT ?"
            )
            rows = self._ask(partial(_rows, query, (first, *end, limit - len(found))))
            for octets, record in rows:
                if (client_id := _text(octets)) is not None:  # else nobody can name it: see ``warnings``
                    found.append(load_key(record, client_id))
            if len(found) == limit or not rows:
                return found
            first, above = rows[-1][0], ">"

    def changes(self, since: str | None) -> Changes:
        cursor = _CURSOR.fullmatch(since or "")

        def ask(execute: Execute) -> Changes:
            # A cursor names the file too: the numbers of one file mean nothing in another.
            file = self._lines.file
            if cursor and cursor[1] == file:
                seq, mark = int(cursor[2]), int(cursor[3])
                rows = execute(
                    "SELECT seq, mark, client_id FROM changes WHERE seq >= ? ORDER BY seq", (seq,)
                ).fetchall()
                # Nothing was pruned or written over if the change at the cursor itself is still there.
                if rows and rows[0][:2] == (seq, mark):
                    seq, mark, _ = rows[-1]
                    octets = [client_id for _, _, client_id in rows[1:] if client_id is not None]
                    changed = tuple(client_id for each in octets if (client_id := _text(each)) is not None)
                    # One that cannot be read may be anybody's.
                    return Changes(f"{file}.{seq}.{mark}", changed, gap=len(changed) < len(octets))
            seq, mark = execute("SELECT max(seq), mark FROM changes").fetchone()
            return Changes(f"{file}.{seq}.{mark}", gap=since is not None)

        # Requests look once a second whether the file was replaced; here it is a change like any other.
        return patiently(partial(self._lines.ask, ask, look=True), self._deadline_s)

    def record_uses(self, uses: Sequence[Use], /) -> None:
        self._uses.record(uses, self._stored)

    def last_uses(self, client_ids: Sequence[str], /) -> list[Use]:
        return self._uses.last(client_ids)

    def holds_slow(self) -> bool:
        """Whether a slow hash was ever stored."""
        return self._ask(
            lambda execute: execute("SELECT 1 FROM facts WHERE name = 'slow'").fetchone() is not None
        )

    def close(self) -> None:
        self._lines.close()

    def upgrade(self) -> str | None:
        """Bring a file of an older release to the tables of this one. Nobody but an administrator should.

        It is one transaction: whatever happens meanwhile leaves the old file or the new one. Older releases
        refuse the file from then on.

        A file restored with ``sqlite3 keys.db < dump.sql`` lacks its version, which is set again.

        Returns:
            What was done, for people; None: nothing, the file is of this release.

        Raises:
            BackendUnavailable: It is of a newer release, not one of ours, or cannot be written.
        """

        def attempt() -> str | None:
            try:
                with briefly(self._path, open_keys) as connection:
                    connection.execute("PRAGMA synchronous = FULL")
                    if not schema.needs_upgrade(connection):
                        return None
                    check_may_be_changed(self._path)
                    before = schema.upgrade(connection)
                    checkpoint(connection.execute)
            except sqlite3.Error as exc:
                raise self._lines.failed(exc) from exc
            if before == 0:
                return f"{self._path} was restored from a dump and has its version again"
            if before is None:
                return None
            return f"upgraded {self._path} from schema version {before} to {schema.SCHEMA_VERSION}"

        return patiently(attempt, _WRITE_WAIT_S)

    def warnings(self) -> list[tuple[str, str, str]]:
        """What works but should be seen to: code, message and remedy.

        Raises:
            BackendUnavailable: The file cannot be looked at.
        """
        found = []
        for path in (self._path, self._uses.path):
            try:
                mode = stat.S_IMODE(path.stat().st_mode)
            except OSError as exc:
                if path == self._uses.path:
                    continue
                raise BackendUnavailable(f"the SQLite file cannot be looked at: {exc.strerror}") from exc
            # A group that shares the keys has a directory with the set-group-ID bit: see docs/backends.md.
            allowed = 0o660 if path.resolve().parent.stat().st_mode & stat.S_ISGID else 0o600
            if mode & 0o077 & ~allowed:
                found.append(
                    (
                        "sqlite_file_mode",
                        f"other users may open {path} (mode {mode:04o})",
                        f"chmod {allowed:o} {path}",
                    )
                )
        directory = self._path.resolve().parent
        if is_mounted_alone(self._path):
            found.append(
                (
                    "sqlite_file_mounted_alone",
                    f"{self._path} is mounted as a single file, so keys cannot be changed here",
                    "mount its directory instead",
                )
            )
        if log_size(self._path.resolve()):
            log = log_of(self._path.resolve())
            found.append(
                (
                    "sqlite_log_not_empty",
                    f"the newest changes are in {log}, so a copy of the file alone lacks them",
                    f'for a backup, run  sqlite3 {self._path} ".backup COPY"',
                )
            )
        if not may_write(self._path):
            found.append(
                (
                    "sqlite_file_not_writable",
                    f"this user cannot write to {self._path}, so keys cannot be changed",
                    "give this user write access to the file, if it is to change keys",
                )
            )
        elif not may_write(directory):
            found.append(
                (
                    "sqlite_directory_not_writable",
                    f"this user cannot write to {directory}, where SQLite keeps its log",
                    "give this user write access to the directory",
                )
            )
        if (blocked := unwritable_logs(self._path.resolve())) is not None:
            message, command = blocked
            found.append(("sqlite_log_not_writable", message, f"as root, run  {command}"))
        try:
            self._uses.check()
        except BackendUnavailable as exc:
            found.append(
                (
                    "sqlite_last_used",
                    f"it is not known when keys were last used: {exc}",
                    f"rm {self._uses.path}",
                )
            )
        if nameless := self._nameless():
            found.append(
                (
                    "sqlite_damaged_ids",
                    f"{self._path} holds keys with damaged ids ({nameless}), which nobody can use or list",
                    "restore the file from a backup, or make them anew",
                )
            )
        return found

    def _nameless(self) -> int:
        """How many keys have a client id that is no text; none, if the file cannot be read: that is told."""
        # Few ids are looked at here: what is damaged has octets beyond ASCII.
        query = "SELECT client_id, NULL FROM keys WHERE client_id GLOB ?"
        try:
            rows = self._ask(partial(_rows, query, ("*[^\x01-\x7f]*",)))
        except BackendUnavailable:
            return 0
        return sum(_text(octets) is None for octets, _ in rows)

    # --- inside

    def _ask(self, question: Callable[[Execute], T]) -> T:
        return patiently(partial(self._lines.ask, question), self._deadline_s)

    def _change(self, change: Callable[[Execute], T]) -> T:
        return patiently(partial(self._lines.change, change), _WRITE_WAIT_S)

    def _stored(self, client_ids: Collection[str]) -> set[str]:
        def ask(execute: Execute) -> set[str]:
            question = "SELECT 1 FROM keys WHERE client_id = ?"
            return {client_id for client_id in client_ids if execute(question, (client_id,)).fetchone()}

        return self._ask(ask)


def _next(start: bytes) -> bytes:
    """The least octets that are behind everything that begins like this."""
    return start[:-1] + bytes([start[-1] + 1])


def _rows(query: str, values: Sequence[bytes | str | int], execute: Execute) -> list[tuple[bytes, Any]]:
    return execute(query, values).fetchall()


def _get(client_id: str, execute: Execute) -> tuple[Any] | None:
    found: tuple[Any] | None = execute(_FIND, (client_id,)).fetchone()
    return found


def _put(record: Key, expect_version: int | None, execute: Execute) -> bool:
    stored = execute("SELECT version FROM keys WHERE client_id = ?", (record.client_id,)).fetchone()
    if (stored[0] if stored else None) != expect_version:
        return False
    execute(
        f"{_INSERT} ON CONFLICT (client_id) "
        "DO UPDATE SET version = excluded.version, record = excluded.record",
        _row(record),
    )
    if has_slow_hash(record):
        _note_slow(execute)
    _announce(execute, record.client_id)
    return True


def _add(rows: Iterable[tuple[int, tuple[str, int, str], bool]], execute: Execute) -> set[int]:
    """Insert new keys, each with its place and whether it is slow; the places of those that were new."""
    added = set()
    for place, row, slow in rows:
        if execute(f"{_INSERT} ON CONFLICT (client_id) DO NOTHING", row).rowcount:
            added.add(place)
            if slow:
                _note_slow(execute)
    if added:
        # No id is named: only what was found is ever cached, so nobody can know anything of a key that was
        # not there. But the history of the file goes on, so that one without these keys is not taken for it.
        _announce(execute, None)
    return added


def _delete(client_id: str, execute: Execute) -> bool:
    if not execute("DELETE FROM keys WHERE client_id = ?", (client_id,)).rowcount:
        return False
    _announce(execute, client_id)
    return True


def _row(record: Key) -> tuple[str, int, str]:
    return record.client_id, record.version, dump_key(record)


def _text(octets: bytes) -> str | None:
    """What a client id is; None: damaged."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return None


def _note_slow(execute: Execute) -> None:
    execute("INSERT OR IGNORE INTO facts VALUES ('slow', 1)")


def _announce(execute: Execute, client_id: str | None) -> None:
    newest = execute("INSERT INTO changes (client_id) VALUES (?)", (client_id,)).lastrowid
    execute("DELETE FROM changes WHERE seq <= ? - ?", (newest, CHANGES_KEPT))


def _create(path: Path) -> None:
    try:
        # 0600 from the first moment; SQLite gives its log the mode of the file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        check_is_file(path)
    except OSError as exc:
        raise ConfigurationError(
            f"{path} cannot be made: {exc.strerror}: does its directory exist?"
        ) from None

    def fill() -> None:
        try:
            with briefly(path, open_keys) as connection:
                application = connection.execute("PRAGMA application_id").fetchone()[0]
                if not application and not has_tables(connection):
                    check_may_be_changed(path)
                    connection.execute("PRAGMA journal_mode = WAL").fetchall()
                    schema.make(connection)
                schema.check_is_ours(connection)
        except sqlite3.Error as exc:
            if is_locked(exc):
                raise BlockingIOError from exc
            raise ConfigurationError(f"{path} cannot be used: {explain(exc)}") from None

    try:
        patiently(fill, _WRITE_WAIT_S)
    except BackendUnavailable as exc:
        raise ConfigurationError(f"{path} cannot be used: {exc}") from None
