"""SQLite files: URLs, opening, single-file mounts, and what SQLite's errors mean."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

from ...errors import BackendUnavailable, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    SqliteErrors = sqlite3.Error | UnicodeDecodeError

T = TypeVar("T")

# SQLite quotes a damaged schema in its message, and the driver raises the second if that is not UTF-8.
SQLITE_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)

_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.02

_OCTAL: Final = re.compile(rb"\\([0-3][0-7][0-7])")

_REMEDIES: Final = {
    sqlite3.SQLITE_FULL: "make room on the disk",
    sqlite3.SQLITE_IOERR: "check whether the disk is full or failing",
    sqlite3.SQLITE_READONLY: "give this user write access to it and to its directory",
    sqlite3.SQLITE_CANTOPEN: "give this user write access to it and to its directory, where the log is",
    sqlite3.SQLITE_CORRUPT: "if it was just replaced, wait a second; else restore it from a backup",
}

# SQLite reports a used-up quota, for example, by these and not by SQLITE_FULL.
_CANNOT_WRITE: Final = (
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
)


def path_of(url: str) -> Path:
    """The absolute path in a ``sqlite:`` URL, so that it names the same file after a ``chdir``."""
    form = "a SQLite backend is sqlite:///relative.db or sqlite:////absolute.db"
    scheme, _, rest = url.partition(":")
    if scheme.lower() != "sqlite" or not rest.startswith("///"):
        raise ConfigurationError(f"{form}, with three or four slashes and no host")
    path = rest[3:]
    if not path.strip("/") or "\0" in path:
        raise ConfigurationError(f"{form}: the path is missing")
    if "?" in path:
        raise ConfigurationError(f"{form}: options after a ? are not supported")
    if path == ":memory:":  # SQLite's own spelling, which would be a file name here
        raise ConfigurationError(f"{form}; for keys in memory, use memory:")
    return Path(path).absolute()


def check_is_file(path: Path) -> None:
    """Raise ``ConfigurationError`` unless there is a file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ConfigurationError(
            f"there is no file {path}: check the path; a new one is created by  basicauth-mw keys create, or "
            "by open_backend(url, create=True)"
        ) from None
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be read: {exc.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{path} is not a file: use another path, and basicauth-mw keys create")


def connect(path: Path, *, wait_s: float = 0, options: str = "mode=rw") -> sqlite3.Connection:
    """Open an existing file; a missing one is an error, never a new empty one.

    Text is returned as bytes: the driver's error for undecodable text shows the text.

    ``wait_s`` is how long SQLite waits for a lock; ``options`` are those of a SQLite URI.
    """
    uri = f"file://{quote(os.fsencode(path))}?{options}"
    connection = sqlite3.connect(uri, uri=True, timeout=wait_s, isolation_level=None, check_same_thread=False)
    connection.text_factory = bytes
    return connection


def is_mounted_alone(path: Path) -> bool:
    """Whether the file itself is a mount point, as with ``docker run -v ./keys.db:/app/keys.db``.

    SQLite keeps its log and its locks next to the file, in a directory that the other side of such a mount
    does not see. Two writers then overwrite each other's pages.
    """
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:  # not Linux, which alone has such mounts
        return False
    real = os.fsencode(os.path.realpath(path))
    # The fifth field is the mount point, with spaces and backslashes in octal (proc_pid_mountinfo(5)).
    points = (fields[4] for line in mounts if len(fields := line.split(b" ")) > 4)
    return any(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), point) == real for point in points)


def check_writable_mount(path: Path) -> None:
    """Raise ``BackendUnavailable`` if other processes may not see the same log."""
    if is_mounted_alone(path):
        raise BackendUnavailable(
            f"{path} is mounted as a single file, so other processes do not see its log, and a "
            "change could damage the file: mount its directory instead"
        )


def signature(path: Path) -> tuple[int, int, int, int]:
    """Device, inode, size, and time of the last write in nanoseconds: different after a change."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def in_transaction(connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], T]) -> T:
    """Call ``change`` in a transaction, which is rolled back if it raises."""
    try:
        connection.execute("BEGIN IMMEDIATE")  # inside the try: a signal handler may raise
        result = change(connection)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    return result


def has_tables(connection: sqlite3.Connection) -> bool:
    """Whether the file has any table."""
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None


def as_sqlite_error(exc: SqliteErrors) -> sqlite3.Error:
    """The error of SQLite that the driver raised, or could not raise."""
    if not isinstance(exc, UnicodeDecodeError):
        return exc
    malformed = sqlite3.DatabaseError("malformed database schema")
    malformed.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return malformed


def is_locked(exc: sqlite3.Error) -> bool:
    """Whether a retry can help."""
    return _primary_code(exc) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def disk_full(exc: sqlite3.Error) -> bool:
    """Whether the disk accepts no more. What is stored can be read as before."""
    code = getattr(exc, "sqlite_errorcode", 0)
    return _primary_code(exc) == sqlite3.SQLITE_FULL or code in _CANNOT_WRITE


def maybe_replaced(exc: sqlite3.Error) -> bool:
    """Whether the error may concern a single connection, after the file was replaced or its mode changed."""
    return _primary_code(exc) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY)


def explain(exc: sqlite3.Error) -> str:
    """SQLite's message, with a remedy if there is one."""
    if not hasattr(exc, "sqlite_errorcode"):  # an error of the driver, whose text may contain what is stored
        return f"the driver failed ({type(exc).__name__})"
    remedy = _REMEDIES.get(_primary_code(exc))
    return f"{exc}: {remedy}" if remedy else str(exc)


def retry_while_locked(attempt: Callable[[], T], limit_s: float) -> T:
    """Call ``attempt`` until it raises no ``BlockingIOError``, for up to ``limit_s`` seconds."""
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


def _primary_code(exc: sqlite3.Error) -> int:
    # The low byte is the primary result code. Errors of the driver have none.
    return int(getattr(exc, "sqlite_errorcode", 0)) & 0xFF
