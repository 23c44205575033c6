"""``sqlite:`` - keys in one SQLite file, the embedded default.

Look-ups take a few microseconds, so an event loop asks inline (``get_nowait``). Nothing waits inside SQLite:
a lock is answered at once (busy timeout 0), and who may wait tries again.

The file is in WAL mode, so a writer does not hold up readers. Every write is checkpointed at once: keys
change rarely, and a file that is complete without its log may be copied, and replaced, as it is.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

from .._fork import after_fork
from ..errors import BackendUnavailable, ConfigurationError
from ..hashing import is_slow
from ._codec import dump_key, load_key
from ._threads import PerThread
from .base import Changes

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..model import Key

    Execute = Callable[..., sqlite3.Cursor]

T = TypeVar("T")

APPLICATION_ID: Final = int.from_bytes(b"bamw")
SCHEMA_VERSION: Final = 1
CHANGES_KEPT: Final = 10_000

_LOOK_EVERY_S: Final = 1.0
_WRITE_WAIT_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.02

# TEXT with the BINARY collation is ordered by its octets in UTF-8. AUTOINCREMENT grows for ever, whatever
# is pruned. last_used is apart from keys, so that seeing a key is no change of it: secret is when that secret
# was created, in microseconds, and minute when it was last seen, both since the epoch.
_SCHEMA: Final = f"""
CREATE TABLE keys (client_id TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, record TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE changes (seq INTEGER PRIMARY KEY AUTOINCREMENT, client_id TEXT NOT NULL);
CREATE TABLE facts (name TEXT NOT NULL PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE last_used (client_id TEXT, secret INTEGER, minute INTEGER, PRIMARY KEY (client_id, secret))
    WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION}
"""

_GET: Final = "SELECT record FROM keys WHERE client_id = ?"


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
        self._path = _path_of(url)
        self._deadline_s = deadline_s
        if create:
            _create(self._path)
        _check_is_file(self._path)
        self._lines: PerThread[_Line] = PerThread(_Line)
        self._start()
        after_fork(self._start)

    def get(self, client_id: str, /) -> Key | None:
        return _patiently(partial(self.get_nowait, client_id), self._deadline_s)

    def get_nowait(self, client_id: str, /) -> Key | None:
        """``get`` that never waits.

        Raises:
            BlockingIOError: The file is locked at the moment.
        """
        line = self._lines.mine()
        with line.lock:
            try:
                row = self._ready(line)(_GET, (client_id,)).fetchone()
            except sqlite3.Error as exc:
                raise self._failed(exc) from exc
            except UnicodeEncodeError:  # a lone surrogate is in no id
                return None
        return None if row is None else load_key(row[0], client_id)

    def put(self, record: Key, /, expect_version: int | None) -> bool:
        return self._write(partial(_put, record, expect_version))

    def delete(self, client_id: str, /) -> bool:
        return self._write(partial(_delete, client_id))

    def scan(self, prefix: str, after: str, limit: int) -> list[Key]:
        start, behind = prefix.encode(), after.encode()
        # CAST leaves the octets as they are, so the end of the range need not be valid UTF-8. No octet of
        # UTF-8 is 255, so the last one can always be raised by one.
        query = "SELECT client_id, record FROM keys WHERE client_id > CAST(? AS TEXT)"
        values: list[bytes | int] = [behind]
        if start:
            query += " AND client_id >= CAST(? AS TEXT) AND client_id < CAST(? AS TEXT)"
            values += [start, start[:-1] + bytes([start[-1] + 1])]
        query += " ORDER BY client_id LIMIT ?"
        rows = self._read(lambda execute: execute(query, (*values, limit)).fetchall())
        return [load_key(record, client_id) for client_id, record in rows]

    def changes(self, since: str | None) -> Changes:
        # A cursor names the file too: the numbers of one file mean nothing in another.
        file, _, number = (since or "").rpartition(".")
        start = int(number) if number.isdecimal() and len(number) < 19 else None

        def ask(execute: Execute) -> Changes:
            this_file = f"{self._signature[0]}.{self._signature[1]}"
            if file == this_file and start is not None:
                rows = execute(
                    "SELECT seq, client_id FROM changes WHERE seq >= ? ORDER BY seq", (start,)
                ).fetchall()
                # Nothing was pruned if the change at the cursor itself is still there, or the very first.
                if rows and rows[0][0] == (start or 1):
                    return Changes(
                        f"{this_file}.{rows[-1][0]}", tuple(changed for seq, changed in rows if seq > start)
                    )
                if not rows and start == 0:
                    return Changes(f"{this_file}.0")
            ((newest,),) = execute("SELECT coalesce(max(seq), 0) FROM changes").fetchall()
            return Changes(f"{this_file}.{newest}", gap=since is not None)

        return self._read(ask)

    def holds_slow(self) -> bool:
        """Whether a slow hash was ever stored."""
        return self._read(
            lambda execute: execute("SELECT 1 FROM facts WHERE name = 'slow'").fetchone() is not None
        )

    def close(self) -> None:
        for line in self._lines.all():
            with line.lock:
                line.close()

    def warnings(self) -> list[tuple[str, str, str]]:
        """What works but should be seen to: code, message and remedy."""
        found = []
        try:
            mode = stat.S_IMODE(self._path.stat().st_mode)
        except OSError as exc:
            raise BackendUnavailable(f"the SQLite file cannot be looked at: {exc.strerror}") from exc
        if mode & 0o077:
            found.append(
                (
                    "sqlite_file_mode",
                    f"other users may open {self._path} (mode {mode:04o})",
                    f"chmod 600 {self._path}",
                )
            )
        if not os.access(self._path.parent, os.W_OK):
            found.append(
                (
                    "sqlite_directory_not_writable",
                    f"this user cannot write to {self._path.parent}, where SQLite keeps its log",
                    "give this user write access to the directory",
                )
            )
        return found

    # --- inside

    def _start(self) -> None:
        self._looking = threading.Lock()
        self._look_at = float("-inf")
        self._signature: tuple[int, ...] = ()
        self._log: int | None = None

    def _read(self, question: Callable[[Execute], T]) -> T:
        def attempt() -> T:
            line = self._lines.mine()
            with line.lock:
                try:
                    return question(self._ready(line))
                except sqlite3.Error as exc:
                    raise self._failed(exc) from exc

        return _patiently(attempt, self._deadline_s)

    def _write(self, change: Callable[[Execute], bool]) -> bool:
        def attempt() -> bool:
            line = self._lines.mine()
            with line.lock:
                try:
                    self._look(line)  # now: nobody should write to a file that has been replaced
                    execute = self._ready(line)
                    execute("BEGIN IMMEDIATE")
                    try:
                        changed = change(execute)
                        execute("COMMIT")
                    except BaseException:
                        with suppress(sqlite3.Error):
                            execute("ROLLBACK")
                        raise
                except sqlite3.Error as exc:
                    raise self._failed(exc) from exc
                with suppress(sqlite3.Error):  # the change is safe in the log; the next write tries again
                    execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                with suppress(OSError):
                    signature = _signature(self._path)
                    if signature[:2] == self._signature[:2]:
                        self._signature = signature  # it was this write that changed the file
            return changed

        return _patiently(attempt, _WRITE_WAIT_S)

    def _ready(self, line: _Line) -> Execute:
        """Make sure that a line, whose lock is held, is open on the file that is there now."""
        if time.monotonic() >= self._look_at:
            self._look(line)
        if line.connection is None:
            line.connection = _connect(self._path)
            try:
                _check_schema(line.connection)
                # The commit itself reaches the disk before it is reported.
                line.connection.execute("PRAGMA synchronous = FULL")
            except BaseException:
                line.close()
                raise
        return line.connection.execute

    def _look(self, mine: _Line) -> None:
        """Compare the file with the one that was opened.

        SQLite goes on reading a file that was renamed over, and pages that it remembers of one that was
        written over. Every line of the process is closed before one is opened anew: SQLite names the log by
        its path, and the last line of the old file removes it.
        """
        if not self._looking.acquire(blocking=False):
            raise BlockingIOError("another thread looks at the file")
        try:
            try:
                signature = _signature(self._path)
            except OSError as exc:
                self._close_lines(mine)
                raise BackendUnavailable(f"the SQLite file cannot be opened: {exc.strerror}") from exc
            if signature[2] == 0:
                self._close_lines(mine)
                raise BackendUnavailable("the SQLite file is empty")
            log = _log_of(self._path)
            if signature != self._signature or (self._log is not None and log != self._log):
                self._close_lines(mine)
                self._signature = signature
                log = None  # the next line makes it anew, and the next look sees it
            self._log = log
            self._look_at = time.monotonic() + _LOOK_EVERY_S
        finally:
            self._looking.release()

    def _close_lines(self, mine: _Line) -> None:
        self._look_at = float("-inf")
        mine.close()
        for line in self._lines.all():
            if line is not mine:
                if not line.lock.acquire(blocking=False):
                    raise BlockingIOError("another thread still reads the old file")
                try:
                    line.close()
                finally:
                    line.lock.release()

    def _failed(self, exc: sqlite3.Error) -> Exception:
        if _is_locked(exc):
            return BlockingIOError("the SQLite file is locked")
        # Whatever it was, start afresh: the file may be put right, or replaced, in place.
        self._signature = ()
        self._look_at = float("-inf")
        return BackendUnavailable(f"SQLite cannot use the file: {exc}")


class _Line:
    """One thread's connection; ``lock`` is held while it is used."""

    __slots__ = ("connection", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: sqlite3.Connection | None = None

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


def _put(record: Key, expect_version: int | None, execute: Execute) -> bool:
    stored = execute("SELECT version FROM keys WHERE client_id = ?", (record.client_id,)).fetchone()
    if (stored[0] if stored else None) != expect_version:
        return False
    execute(
        "INSERT INTO keys VALUES (?, ?, ?) "
        "ON CONFLICT (client_id) DO UPDATE SET version = excluded.version, record = excluded.record",
        (record.client_id, record.version, dump_key(record)),
    )
    if any(is_slow(secret.hash) for secret in record.secrets):
        execute("INSERT OR IGNORE INTO facts VALUES ('slow', 1)")
    _announce(execute, record.client_id)
    return True


def _delete(client_id: str, execute: Execute) -> bool:
    if not execute("DELETE FROM keys WHERE client_id = ?", (client_id,)).rowcount:
        return False
    execute("DELETE FROM last_used WHERE client_id = ?", (client_id,))
    _announce(execute, client_id)
    return True


def _announce(execute: Execute, client_id: str) -> None:
    newest = execute("INSERT INTO changes (client_id) VALUES (?)", (client_id,)).lastrowid
    execute("DELETE FROM changes WHERE seq <= ? - ?", (newest, CHANGES_KEPT))


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: a missing file is an error, never a new empty one.
    uri = f"file://{quote(os.fsencode(path))}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)


def _check_schema(connection: sqlite3.Connection) -> None:
    ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if application != APPLICATION_ID:
        raise BackendUnavailable(
            "the SQLite file holds something else, not keys of basicauth_mw"
            if application or _has_tables(connection)
            else "the SQLite file holds no keys yet: basicauth-mw keys create makes it ready"
        )
    if version != SCHEMA_VERSION:
        raise BackendUnavailable(
            f"the SQLite file has schema version {version}; this release of basicauth_mw reads "
            f"{SCHEMA_VERSION}: use the release that wrote it, or a newer one"
        )


def _make_schema(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not _has_tables(connection):  # another process may have been first
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None


def _signature(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _log_of(path: Path) -> int | None:
    try:
        return path.with_name(f"{path.name}-wal").stat().st_ino
    except OSError:
        return None


def _is_locked(exc: sqlite3.Error) -> bool:
    # The low octet is the primary result code; the rest says more about it.
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _patiently(attempt: Callable[[], T], limit_s: float) -> T:
    """Try again for as long as the file is locked.

    Raises:
        BackendUnavailable: It still is, after ``limit_s`` seconds.
    """
    end = time.monotonic() + limit_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return attempt()
        except BlockingIOError as exc:
            if time.monotonic() + pause_s > end:
                raise BackendUnavailable(f"the SQLite file was locked for {limit_s:g} s") from exc
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _path_of(url: str) -> Path:
    form = "a SQLite backend is sqlite:///relative.db or sqlite:////absolute.db"
    scheme, _, rest = url.partition(":")
    if scheme.lower() != "sqlite" or not rest.startswith("///"):
        raise ConfigurationError(f"{form}, with three or four slashes and no host")
    path = rest[3:]
    if not path.strip("/") or "\0" in path:
        raise ConfigurationError(f"{form}: the path is missing")
    if "?" in path:
        raise ConfigurationError(f"{form}: there are no options behind a ? to set")
    return Path(path).absolute()  # absolute: it must mean the same file after a chdir


def _check_is_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ConfigurationError(
            f"there is no file {path}: check the path; a new one is made by  basicauth-mw keys create, or "
            "open_backend(url, create=True)"
        ) from None
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be looked at: {exc.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{path} is not a file: name one, and basicauth-mw keys create makes it")


def _create(path: Path) -> None:
    try:
        # 0600 from the first moment; SQLite gives its log the mode of the file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        _check_is_file(path)
    except OSError as exc:
        raise ConfigurationError(
            f"{path} cannot be made: {exc.strerror}: does its directory exist?"
        ) from None

    def fill() -> None:
        with closing(_connect(path)) as connection:
            try:
                application = connection.execute("PRAGMA application_id").fetchone()[0]
                if not application and not _has_tables(connection):
                    connection.execute("PRAGMA journal_mode = WAL").fetchall()
                    _make_schema(connection)
                _check_schema(connection)
            except sqlite3.Error as exc:
                if _is_locked(exc):
                    raise BlockingIOError from exc
                raise ConfigurationError(f"{path} cannot be used: {exc}") from None

    try:
        _patiently(fill, _WRITE_WAIT_S)
    except BackendUnavailable as exc:
        raise ConfigurationError(f"{path} cannot be used: {exc}") from None
