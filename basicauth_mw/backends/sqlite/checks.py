"""What works but should be changed, for ``basicauth-mw check``."""

from __future__ import annotations

import stat
from shlex import quote
from typing import TYPE_CHECKING

from ...errors import BackendUnavailable
from ..base import StoreWarning
from .files import is_mounted_alone
from .wal import log_of, may_write, size_of, unwritable_logs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .last_used import LastUsedFile


def check_files(path: Path, last_used: LastUsedFile) -> Iterator[StoreWarning]:
    """Check the file of keys and the files next to it. Raises ``BackendUnavailable`` if it cannot be read."""
    try:
        yield from _check_mode(path)
    except OSError as exc:
        raise BackendUnavailable(f"the SQLite file cannot be read: {exc.strerror}") from exc
    if last_used.path.exists():
        yield from _check_mode(last_used.path)
    real = path.resolve()
    if is_mounted_alone(path):
        message = f"{path} is mounted as a single file, so keys cannot be changed here"
        yield StoreWarning("sqlite_file_mounted_alone", message, "mount its directory instead")
    if size_of(log_of(real)):
        message = f"the newest changes are in {log_of(real)}, so a copy of the file alone lacks them"
        yield StoreWarning(
            "sqlite_log_not_empty", message, f'for a backup, run  sqlite3 {quote(str(path))} ".backup COPY"'
        )
    if not may_write(path):
        message = f"this user cannot write to {path}, so keys cannot be changed"
        yield StoreWarning(
            "sqlite_file_not_writable", message, "give this user write access, if it is to change keys"
        )
    elif not may_write(real.parent):
        message = f"this user cannot write to {real.parent}, where SQLite keeps its log"
        yield StoreWarning(
            "sqlite_directory_not_writable", message, "give this user write access to the directory"
        )
    if (blocked := unwritable_logs(real)) is not None:
        yield StoreWarning("sqlite_log_not_writable", blocked[0], f"as root, run  {blocked[1]}")
    try:
        last_used.check()
    except BackendUnavailable as exc:
        message = f"last-used times cannot be read: {exc}"
        yield StoreWarning("sqlite_last_used", message, f"rm {quote(str(last_used.path))}")


def _check_mode(path: Path) -> Iterator[StoreWarning]:
    mode = stat.S_IMODE(path.stat().st_mode)
    # A group that shares the keys has a directory with the set-group-ID bit: see docs/backends.md.
    allowed = 0o660 if path.resolve().parent.stat().st_mode & stat.S_ISGID else 0o600
    if mode & 0o077 & ~allowed:
        message = f"other users may open {path} (mode {mode:04o})"
        yield StoreWarning("sqlite_file_mode", message, f"chmod {allowed:o} {quote(str(path))}")
