"""What is common to every SQLite file here: where it is, how it is opened, and what its errors mean."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

from ..errors import BackendUnavailable, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.02

_OCTAL: Final = re.compile(rb"\\([0-3][0-7][0-7])")

_REMEDIES: Final = {
    sqlite3.SQLITE_FULL: "make room on the disk",
    sqlite3.SQLITE_IOERR: "see whether the disk is full or failing",
    sqlite3.SQLITE_READONLY: "give this user write access to it and to its directory",
    sqlite3.SQLITE_CANTOPEN: "give this user write access to it and to its directory, where the log is",
    sqlite3.SQLITE_CORRUPT: "if it was just replaced, wait a second; else restore it from a backup",
}

# A quota that is used up, for one, which SQLite does not call full.
_CANNOT_WRITE: Final = (
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
)


def path_of(url: str) -> Path:
    """The path that a ``sqlite:`` URL names, absolute: it must mean the same file after a chdir.

    Raises:
        ConfigurationError: It is not such a URL.
    """
    form = "a SQLite backend is sqlite:///relative.db or sqlite:////absolute.db"
    scheme, _, rest = url.partition(":")
    if scheme.lower() != "sqlite" or not rest.startswith("///"):
        raise ConfigurationError(f"{form}, with three or four slashes and no host")
    path = rest[3:]
    if not path.strip("/") or "\0" in path:
        raise ConfigurationError(f"{form}: the path is missing")
    if "?" in path:
        raise ConfigurationError(f"{form}: there are no options behind a ? to set")
    if path == ":memory:":  # SQLite's own spelling, which would be the name of a file here
        raise ConfigurationError(f"{form}; for keys in memory, use memory:")
    return Path(path).absolute()


def check_is_file(path: Path) -> None:
    """Make sure that there is a file.

    Raises:
        ConfigurationError: There is none, or something else.
    """
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


def connect(path: Path, *, wait_s: float = 0, options: str = "mode=rw") -> sqlite3.Connection:
    """Open a file that is there; a missing one is an error, never a new empty one.

    Text is given as octets: the driver cannot say which row it was that it could not decode, but shows it.

    Args:
        path: Of the file.
        wait_s: Seconds that SQLite waits for a lock.
        options: As SQLite takes them in a URI.
    """
    uri = f"file://{quote(os.fsencode(path))}?{options}"
    connection = sqlite3.connect(uri, uri=True, timeout=wait_s, isolation_level=None, check_same_thread=False)
    connection.text_factory = bytes
    return connection


def is_mounted_alone(path: Path) -> bool:
    """Whether a file is a mount point of its own, as with ``docker run -v ./keys.db:/app/keys.db``.

    SQLite keeps its log and its locks beside the file, in a directory that is not visible from the
    other side of such a mount. Two writers then overwrite each other's pages.
    """
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:  # not Linux, where there are no mounts of one file
        return False
    real = os.fsencode(os.path.realpath(path))
    # The fifth field is the mount point, with white space and backslashes in octal (proc_pid_mountinfo(5)).
    points = (fields[4] for line in mounts if len(fields := line.split(b" ")) > 4)
    return any(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), point) == real for point in points)


def check_may_be_changed(path: Path) -> None:
    """Make sure that every process that writes to a file sees the same log.

    Raises:
        BackendUnavailable: The file is a mount point of its own.
    """
    if is_mounted_alone(path):
        raise BackendUnavailable(
            f"{path} is mounted as a single file, so other processes do not see the log beside it, and a "
            "change could damage the file: mount its directory instead"
        )


def signature(path: Path) -> tuple[int, int, int, int]:
    """What changes with a file: device, inode, size, and when it was written to last, in nanoseconds."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def has_tables(connection: sqlite3.Connection) -> bool:
    """Whether there is anything in the file."""
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None


def is_locked(exc: sqlite3.Error) -> bool:
    """Whether trying again will do."""
    return _primary_code(exc) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_no_room(exc: sqlite3.Error) -> bool:
    """Whether the disk took no more. What is there can be read as before."""
    code = getattr(exc, "sqlite_errorcode", 0)
    return _primary_code(exc) == sqlite3.SQLITE_FULL or code in _CANNOT_WRITE


def is_doubtful(exc: sqlite3.Error) -> bool:
    """Whether it may be true of a connection alone, since the file was replaced, or given other rights."""
    return _primary_code(exc) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY)


def explain(exc: sqlite3.Error) -> str:
    """What SQLite says, and what to do about it where that is known."""
    if not hasattr(exc, "sqlite_errorcode"):  # the driver says so, whose text may hold what is stored
        return f"the driver failed ({type(exc).__name__})"
    remedy = _REMEDIES.get(_primary_code(exc))
    return f"{exc}: {remedy}" if remedy else str(exc)


def patiently(attempt: Callable[[], T], limit_s: float) -> T:
    """Try again for as long as the file is locked.

    Args:
        attempt: Raises ``BlockingIOError`` while it is.
        limit_s: Seconds.

    Raises:
        BackendUnavailable: It still is.
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


def _primary_code(exc: sqlite3.Error) -> int:
    # The low octet is the primary result code; the rest says more about it. Errors of the driver have none.
    return int(getattr(exc, "sqlite_errorcode", 0)) & 0xFF
