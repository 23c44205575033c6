"""Connections to a file of keys, one for each thread, that follow the file when it is replaced.

An open connection keeps reading the old file after a rename, and keeps cached pages of a file that was
overwritten. So the path is compared with the open file once a second, and before every change. When they
differ, every connection of the process to the old file is closed before one to the new file is opened: SQLite
finds the log and its index by path, so both files would share them, and the process would lose its locks, or
die of SIGBUS when the index is truncated under a reader.

Nothing waits here. A lock is reported as ``BlockingIOError``, and the caller retries.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from ...errors import BackendUnavailable
from ...runtime.fork import after_fork, before_fork
from ...runtime.thread_local import ThreadLocalRegistry
from .files import (
    SQLITE_ERRORS,
    as_sqlite_error,
    check_writable_mount,
    disk_full,
    in_transaction,
    is_locked,
    maybe_replaced,
    signature,
)
from .forks import LONGEST_WAIT_S, forks
from .schema import check_is_current
from .wal import backend_error, checkpoint, inode_of, log_of, open_watched, share_logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from .files import SqliteErrors
    from .wal import UnchangedFile

T = TypeVar("T")

_COMPARE_EVERY_S: Final = 1.0

# Of this process: SQLite's locks belong to the process, not to a connection.
_managers: Final[weakref.WeakValueDictionary[int, ConnectionManager]] = weakref.WeakValueDictionary()


class _Connection:
    """One thread's connection; ``lock`` is held while it is used."""

    __slots__ = ("lock", "maybe_replaced", "raw", "unchanged")

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal handler may fork while its thread reads
        self.raw: sqlite3.Connection | None = None
        self.unchanged: UnchangedFile | None = None  # what is read without locks
        self.maybe_replaced = False  # whether the last error may concern this connection alone

    def close(self) -> None:
        # At its exit, the interpreter stops daemon threads wherever they are: one may hold the lock for ever.
        if not self.lock.acquire(blocking=not sys.is_finalizing()):
            return
        try:
            self.unchanged = None
            raw, self.raw = self.raw, None
            if raw is not None:
                with suppress(sqlite3.Error):
                    raw.close()
        finally:
            self.lock.release()


class ConnectionManager:
    """Reads and changes the file at a path. Safe to share between threads, and across a fork."""

    _real: Path  # of the open file; its log is next to it, not next to a link
    _signature: tuple[int, ...]  # of the open file, when it was opened or last changed from here
    _log: int | None  # inode of its log

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_shared = False
        before_fork(self._close_before_fork)
        after_fork(self._reset_in_child)  # before the hook of the registry: it reads the parent's connections
        self._connections: ThreadLocalRegistry[_Connection] = ThreadLocalRegistry(_Connection)
        self._reset()
        _managers[id(self)] = self

    @property
    def file(self) -> str:
        """Device and inode of the open file; empty if unknown at the moment."""
        return ".".join(str(number) for number in self._signature[:2])

    def read(self, query: Callable[[sqlite3.Connection], T], *, compare: bool = False) -> T:
        """Read the file that is at the path now, or was a second ago; with ``compare``, the one that is now.

        ``query`` may be called twice.

        Raises:
            BlockingIOError: The file is locked at the moment.
            BackendUnavailable: It cannot be used.
        """
        connection = self._connections.get()
        with connection.lock:
            try:
                if compare:
                    self._reopen_if_replaced()
                raw = connection.raw
                if raw is None or time.monotonic() >= self._compare_at:
                    raw = self._connected(connection)
                result = query(raw)
            except Exception as exc:
                self._check_unchanged(connection)
                if isinstance(exc, SQLITE_ERRORS):
                    raise self._error(connection, exc) from exc
                raise
            if connection.unchanged is not None:
                self._check_unchanged(connection)
            connection.maybe_replaced = False
            return result

    def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Change the file that is at the path now, in one transaction that is on disk afterwards.

        Raises as ``read`` does.
        """
        connection = self._connections.get()
        with connection.lock:
            try:
                self._reopen_if_replaced()
                check_writable_mount(self._real)
                raw = self._connected(connection)
                result = in_transaction(raw, change)
            except SQLITE_ERRORS as exc:
                raise self._error(connection, exc) from exc
            connection.maybe_replaced = False
            checkpoint(raw)
            with suppress(OSError):
                now = signature(self._real)
                if now[:2] == self._signature[:2]:
                    self._signature = now  # this change made the difference
        return result

    def close(self) -> None:
        """Close every connection; the next use opens one."""
        for connection in self._connections.values():
            connection.close()

    def _error(self, connection: _Connection, exc: SqliteErrors) -> Exception:
        """The exception to raise: a retry the first time if the connection may be wrong, and not the file.

        A file that was just renamed over another is opened with the log of the old one, as long as another
        process has that open.
        """
        exc = as_sqlite_error(exc)
        if not is_locked(exc) and not disk_full(exc):  # then there may be no room to open anything again
            self._signature = ()  # the file may be repaired or replaced in place: open it again
            self._compare_at = float("-inf")
        connection.maybe_replaced = not connection.maybe_replaced and maybe_replaced(exc)
        if connection.maybe_replaced:
            return BlockingIOError("the SQLite file may have been replaced")
        return backend_error(exc, self._real)

    def _reset(self) -> None:
        self._comparing = threading.Lock()
        self._compare_at = float("-inf")
        self._real = self._path
        self._signature = ()
        self._log = None

    def _close_before_fork(self) -> None:
        """Close every connection that is free within the limit. None is opened until the fork is over."""
        self._close_unused(LONGEST_WAIT_S)
        self._log = None  # the last connection has removed it

    def _reset_in_child(self) -> None:
        self._is_shared |= any(connection.raw is not None for connection in self._connections.values())
        self._reset()

    def _connected(self, connection: _Connection) -> sqlite3.Connection:
        """Open a connection, whose lock is held, on the current file unless it is open."""
        if time.monotonic() >= self._compare_at:
            self._reopen_if_replaced()
        if connection.raw is None:
            if forks.in_progress:
                raise BlockingIOError("the process is forking")
            if self._is_shared:
                raise BackendUnavailable(
                    "this process was forked while the SQLite file was in use, so that it cannot lock it: "
                    "fork before the first request"
                )
            connection.raw, connection.unchanged = open_watched(self._real)
            try:
                check_is_current(connection.raw)
                # A commit is on disk before it is reported.
                connection.raw.execute("PRAGMA synchronous = FULL")
                share_logs(self._real)
            except BaseException:
                try:
                    self._check_unchanged(connection)  # the error may be due to a change in progress
                finally:
                    connection.close()
                raise
        return connection.raw

    def _check_unchanged(self, connection: _Connection) -> None:
        """After an unlocked read: raise if the file has changed meanwhile."""
        if connection.unchanged is not None and not connection.unchanged.is_unchanged():
            connection.close()
            self._compare_at = float("-inf")
            raise BlockingIOError("the SQLite file was changed while it was read")

    def _reopen_if_replaced(self) -> None:
        """Compare the path with the open file. The lock of this thread's connection is held."""
        if self._comparing.locked():
            raise BlockingIOError("another thread compares the file")
        with self._comparing:  # not acquire() before try: a signal handler may raise between them
            try:
                real = Path(os.path.realpath(self._path, strict=True))
                now = signature(real)
            except OSError as exc:
                self.close_all()
                raise BackendUnavailable(f"the SQLite file cannot be opened: {exc.strerror}") from exc
            if now[2] == 0:
                self.close_all()
                raise BackendUnavailable("the SQLite file is empty")
            log = inode_of(log_of(real))
            if (real, now) != (self._real, self._signature) or (self._log is not None and log != self._log):
                self.close_all()
                for other in filter(None, [ref() for ref in _managers.valuerefs()]):
                    if other is not self and other.is_outdated(real, now, log):
                        other.close_all()
                self._real, self._signature = real, now
                log = None  # the next connection creates it, and the next comparison sees it
            self._log = log
            self._compare_at = time.monotonic() + _COMPARE_EVERY_S

    def is_outdated(self, real: Path, now: tuple[int, ...], log: int | None) -> bool:
        """Whether a connection may be open on a file, or a log, that was at this path before."""
        return self._real == real and (self._signature[:2] != now[:2] or self._log not in (None, log))

    def close_all(self) -> None:
        """Close every connection. Raises ``BlockingIOError`` if another thread uses one."""
        self._compare_at = float("-inf")
        if not self._close_unused(0):
            raise BlockingIOError("another thread still reads the old file")

    def _close_unused(self, wait_s: float) -> bool:
        """Close the connections that no other thread uses within a time; return whether these are all."""
        end = time.monotonic() + wait_s
        are_all = True
        for connection in self._connections.values():
            if connection.lock.acquire(timeout=max(0, end - time.monotonic())):
                try:
                    connection.close()
                finally:
                    connection.lock.release()
            else:
                are_all = False
        return are_all
