"""The write-ahead log of a file of keys, and how a user without write access reads the file.

SQLite creates a missing log (``-wal``) and its index (``-shm``) with the mode of the file, but with the user
who opens it as their owner. If that user may only read the file, its owner may then only read the log, and
can no longer change a key. So a process without write access creates neither. The log is usually empty and
everything is in the file, which is then read as immutable; a result counts if nothing has changed meanwhile.
If the log is not empty, it is read too, under the writers' locks.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import suppress
from shlex import quote
from typing import TYPE_CHECKING, Final

from ...errors import BackendUnavailable
from .files import as_sqlite_error, connect, explain, is_locked, signature

if TYPE_CHECKING:
    from pathlib import Path

    from .files import SqliteErrors

# Two changes within one tick of the kernel's clock, 10 ms at most, have equal times.
_TICKS_S: Final = 0.025


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def index_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-shm")


def journal_of(path: Path) -> Path:
    """Path of the rollback journal of a file, which another program may have left."""
    return path.with_name(f"{path.name}-journal")


def size_of(path: Path) -> int:
    """Bytes in a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def inode_of(path: Path) -> int | None:
    """Inode of a file; None if there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def may_write(path: Path) -> bool:
    """Whether this process may write, as its effective user."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


class UnchangedFile:
    """The state of a file at this time, to find out later whether it was changed.

    Raises ``BlockingIOError`` if it was written to a moment ago: then its time would not show the next write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._signature = signature(path)
        except FileNotFoundError:
            raise BlockingIOError("the SQLite file was just removed") from None
        if abs(time.time() - self._signature[-1] / 1e9) < _TICKS_S:
            raise BlockingIOError("the SQLite file was just changed")

    def is_unchanged(self) -> bool:
        """Whether everything that was read until now is one state of the file."""
        with suppress(OSError):
            # In this order: a change is in the file before it leaves the log.
            logged = size_of(log_of(self._path)) or size_of(journal_of(self._path))
            return not logged and signature(self._path) == self._signature
        return False


def open_keys(path: Path) -> sqlite3.Connection:
    """Open a file of keys with the rights of this process."""
    return open_watched(path)[0]


def open_watched(path: Path) -> tuple[sqlite3.Connection, UnchangedFile | None]:
    """``open_keys``, and what must be unchanged after each read; None if locks guarantee that.

    Raises:
        BlockingIOError: The file can be opened in a moment.
        BackendUnavailable: This user may not read the log, or there is a rollback journal.
    """
    if may_write(path):
        return connect(path), None
    if size_of(journal_of(path)):
        # The file may contain half of a transaction, which only a connection with write access rolls back.
        raise BackendUnavailable(
            f"{journal_of(path)} was left by a write that did not finish, and this user may not roll it "
            "back; a user with write access can:  basicauth-mw keys list --limit 1"
        )
    if not size_of(log_of(path)):
        unchanged = UnchangedFile(path)
        return connect(path, options="mode=ro&immutable=1"), unchanged
    return _open_with_log(path), None


def share_logs(path: Path) -> None:
    """Give the log and the index that this process created the group of the file."""
    for each in (log_of(path), index_of(path)):
        with suppress(OSError):  # one is gone, or this user is not in that group
            group, made = path.stat().st_gid, each.lstat()
            if stat.S_ISREG(made.st_mode) and made.st_gid != group and _is_mine(made):
                os.chown(each, -1, group, follow_symlinks=False)


def unwritable_logs(path: Path) -> tuple[str, str] | None:
    """Why a user with write access to a file cannot change it: message and command; None if they can."""
    logs = (log_of(path), index_of(path))
    links = " ".join(quote(str(each)) for each in logs if each.is_symlink())
    if links:  # chown and chmod would change the files that they point to
        return f"{links}: a symbolic link where SQLite keeps its log", f"rm {links}"
    names = " ".join(quote(str(each)) for each in logs if each.exists() and not may_write(each))
    if not names or not may_write(path):
        return None
    message = f"another user created {names}, and this one may not write there, so keys cannot be changed"
    model = f"--reference={quote(str(path))}"
    return message, f"chown {model} {names} && chmod {model} {names}"


def backend_error(exc: SqliteErrors, path: Path) -> Exception:
    """The exception to raise for an error of SQLite."""
    exc = as_sqlite_error(exc)
    if is_locked(exc):
        return BlockingIOError("the SQLite file is locked")
    if (found := unwritable_logs(path)) is not None:
        return BackendUnavailable("SQLite cannot use the file: {}; root can fix it:  {}".format(*found))
    return BackendUnavailable(f"SQLite cannot use the file: {explain(exc)}")


def checkpoint(connection: sqlite3.Connection) -> None:
    """Move the log into the file. If that fails, the changes are safe in the log until the next time."""
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _open_with_log(path: Path) -> sqlite3.Connection:
    log, index = log_of(path), index_of(path)
    for each in (log, index):
        if not each.exists():
            raise BackendUnavailable(
                "the SQLite file has a leftover log, which this user may not merge; a user with "
                "write access can:  basicauth-mw keys list --limit 1"
            )
        if not os.access(each, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            raise BackendUnavailable(
                f"this user may not read {each}, where the newest changes are; root can fix it:  "
                f"chown --reference={quote(str(path))} {quote(str(each))} && "
                f"chmod g+s {quote(str(path.parent))}"
            )
    before = inode_of(log)
    connection = connect(path, options="mode=ro&readonly_shm=1")
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()  # this opens the log
    except BaseException:
        connection.close()
        raise
    finally:
        if (now := inode_of(log)) != before:  # its last user removed it meanwhile, and SQLite created one
            connection.close()
            with suppress(OSError):
                if _is_mine(log.stat()) and not size_of(log):
                    log.unlink()
    if now != before:
        raise BlockingIOError("the log of the SQLite file was just removed")
    return connection


def _is_mine(file: os.stat_result) -> bool:
    # Files on Windows have no owner and group of this kind.
    return hasattr(os, "geteuid") and file.st_uid == os.geteuid()
