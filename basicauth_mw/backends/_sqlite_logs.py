"""The log beside a SQLite file of keys, and how to read one without it.

Whoever opens a file that has a write-ahead log makes that log (``-wal``) and its index (``-shm``) if they are
missing, with the mode of the file, but as his own: if he may only read the file, its owner may then only read
the log, and change no key any more. So who may not write to the file makes neither. As a rule the log is
empty, and all is in the file. Then it is read as a file that never changes, and an answer counts if nothing
has changed meanwhile. Else the log is read, too, under the locks of those who write.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ..errors import BackendUnavailable
from ._sqlite_file import connect, signature

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

# Of two changes within one tick of the kernel's clock, 10 ms at most, the times are equal.
_TICKS_S: Final = 0.025


def log_of(path: Path) -> Path:
    """Where the log of a file is."""
    return path.with_name(f"{path.name}-wal")


def index_of(path: Path) -> Path:
    """Where the index of that log is."""
    return path.with_name(f"{path.name}-shm")


def inode_of(path: Path) -> int | None:
    """Which file is at a path; None: none."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def may_write(path: Path) -> bool:
    """Whether this process may, as the user that it is now."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


class Still:
    """A file that nobody may have written to since now. Its log is empty.

    Args:
        path: Of the file.

    Raises:
        BlockingIOError: It was written to a moment ago, so that no later time of change would tell.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._seen = signature(path)
        except FileNotFoundError:
            raise BlockingIOError("the SQLite file was just removed") from None
        if abs(time.time() - self._seen[-1] / 1e9) < _TICKS_S:
            raise BlockingIOError("the SQLite file was just changed")

    def is_still(self) -> bool:
        """Whether nobody has; what was read since then is one state of the file."""
        with suppress(OSError):
            # In this order: what is in the log is in the file before it is in the log no more.
            return not _size(log_of(self._path)) and signature(self._path) == self._seen
        return False


def open_keys(path: Path) -> sqlite3.Connection:
    """Open a file of keys that is there, as this process may."""
    return open_watched(path)[0]


def open_watched(path: Path) -> tuple[sqlite3.Connection, Still | None]:
    """``open_keys``, and what has to be still behind each question to it; None: locks see to that.

    Raises:
        BlockingIOError: It can be opened in a moment.
        BackendUnavailable: This user may not read the log.
    """
    if may_write(path):
        return connect(path), None
    if not _size(log_of(path)):
        still = Still(path)
        return connect(path, options="mode=ro&immutable=1"), still
    return _open_with_log(path), None


def share_logs(path: Path) -> None:
    """Give what this process has made beside a file the group of the file, whose mode it has."""
    for each in (log_of(path), index_of(path)):
        with suppress(OSError):  # one of them is gone, or this user is not of that group
            group, made = path.stat().st_gid, each.lstat()
            if stat.S_ISREG(made.st_mode) and made.st_gid != group and _is_mine(made):
                os.chown(each, -1, group, follow_symlinks=False)


def unwritable_logs(path: Path) -> tuple[str, str] | None:
    """What keeps a user who may write to a file from doing so: message, and what to do; None: nothing."""
    links = [str(each) for each in (log_of(path), index_of(path)) if each.is_symlink()]
    if links:  # chown and chmod would change what they name, which may be anybody's file
        return f"{' and '.join(links)}: a link where SQLite keeps its log", f"rm {' '.join(links)}"
    found = [str(each) for each in (log_of(path), index_of(path)) if each.exists() and not may_write(each)]
    if not found or not may_write(path):
        return None
    names = " ".join(found)
    message = f"another user made {names}, and this one may not write there, so no key can be changed"
    return message, f"chown --reference={path} {names} && chmod --reference={path} {names}"


def _open_with_log(path: Path) -> sqlite3.Connection:
    log, index = log_of(path), index_of(path)
    for each in (log, index):
        if not each.exists():
            raise BackendUnavailable(
                "the SQLite file has a log that was left behind, and this user may not bring it in; one who "
                "may write to the file can:  basicauth-mw keys list --limit 1"
            )
        if not os.access(each, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            raise BackendUnavailable(
                f"this user may not read {each}, where the newest changes are; root can put it right:  "
                f"chown --reference={path} {each} && chmod g+s {path.parent}"
            )
    before = inode_of(log)
    connection = connect(path, options="mode=ro&readonly_shm=1")
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()  # the log is opened by that
    except BaseException:
        connection.close()
        raise
    finally:
        if (now := inode_of(log)) != before:  # its last user has removed it meanwhile, and SQLite made one
            connection.close()
            with suppress(OSError):
                if _is_mine(log.stat()) and not _size(log):
                    log.unlink()
    if now != before:
        raise BlockingIOError("the log of the SQLite file was just removed")
    return connection


def _is_mine(file: os.stat_result) -> bool:
    # On Windows a file has no owner of this kind, and no group that it could lack.
    return hasattr(os, "geteuid") and file.st_uid == os.geteuid()


def log_size(path: Path) -> int:
    """Bytes in the log of a file; 0 if there is none."""
    return _size(log_of(path))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
