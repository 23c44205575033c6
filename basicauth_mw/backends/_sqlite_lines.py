"""Connections to a SQLite file, one for each thread, that follow the file when it is replaced."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from ..errors import BackendUnavailable
from ..runtime.fork import after_fork, before_fork
from ._sqlite_file import check_may_be_changed, explain, is_doubtful, is_locked, is_no_room, signature
from ._sqlite_forks import LONGEST_WAIT_S, forks
from ._sqlite_logs import inode_of, log_of, open_watched, share_logs, unwritable_logs
from ._sqlite_schema import check_is_current
from ._threads import PerThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._sqlite_logs import Still

    Execute = Callable[..., sqlite3.Cursor]

T = TypeVar("T")

_LOOK_EVERY_S: Final = 1.0

# All of this process: SQLite's locks are the process's, not a connection's.
_everyone: Final[weakref.WeakValueDictionary[int, Lines]] = weakref.WeakValueDictionary()


class Lines:
    """Asks a file, never waiting. Safe to share between threads, and across a fork.

    Args:
        path: Of a file of keys, or of a link to one: the log lies beside the file.
    """

    _real: Path  # where the file is that was opened
    _signature: tuple[int, ...]  # what the file looked like when it was opened, or last changed from here

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_shared = False
        before_fork(self._before_fork)
        after_fork(self._in_child)  # ahead of that of the lines: it looks at what the parent had
        self._lines: PerThread[_Line] = PerThread(_Line)
        self._start()
        _everyone[id(self)] = self

    @property
    def file(self) -> str:
        """Which file is open: its device and inode; empty if that is not known at the moment."""
        return ".".join(str(number) for number in self._signature[:2])

    def ask(self, question: Callable[[Execute], T], *, look: bool = False) -> T:
        """Put a question to the file that is there now, or was a second ago.

        Args:
            question: May be put twice.
            look: Whether it must be the one that is there now.

        Raises:
            BlockingIOError: The file is locked at the moment.
            BackendUnavailable: It cannot be used.
        """
        line = self._lines.mine()
        with line.lock:
            try:
                if look:
                    self._look(line)
                answer = question(self._ready(line))
            except sqlite3.Error as exc:
                self._make_sure(line)
                raise self._failed(line, exc) from exc
            self._make_sure(line)
            line.was_doubted = False
            return answer

    def change(self, change: Callable[[Execute], T]) -> T:
        """Change the file that is there now, in one transaction that is on the disk afterwards.

        Raises:
            BlockingIOError: The file is locked at the moment.
            BackendUnavailable: It cannot be written.
        """
        line = self._lines.mine()
        with line.lock:
            try:
                self._look(line)  # now: nobody should write to a file that has been replaced
                check_may_be_changed(self._real)
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
                raise self._failed(line, exc) from exc
            line.was_doubted = False
            checkpoint(execute)
            with suppress(OSError):
                now = signature(self._real)
                if now[:2] == self._signature[:2]:
                    self._signature = now  # it was this change that changed the file
        return changed

    def close(self) -> None:
        """Close every connection; the next question opens one."""
        for line in self._lines.all():
            line.close()

    def is_behind(self, real: Path, now: tuple[int, ...], log: int | None) -> bool:
        """Whether lines of this one may be open on a file that was at a path before, or on its log."""
        return self._real == real and (self._signature[:2] != now[:2] or self._log not in (None, log))

    def let_go(self, mine: _Line) -> None:
        """Close every line; the next question looks at the file, and opens one.

        Args:
            mine: A line of the calling thread, whose lock it holds.

        Raises:
            BlockingIOError: Another is in use.
        """
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

    def failed(self, exc: sqlite3.Error) -> Exception:
        """What to raise for an error of SQLite."""
        if is_locked(exc):
            return BlockingIOError("the SQLite file is locked")
        if not is_no_room(exc):  # then there might be none to open anything anew
            # Whatever it was, start afresh: the file may be put right, or replaced, in place.
            self._signature = ()
            self._look_at = float("-inf")
        if (found := unwritable_logs(self._real)) is not None:
            return BackendUnavailable(
                "SQLite cannot use the file: {}; root can put it right:  {}".format(*found)
            )
        return BackendUnavailable(f"SQLite cannot use the file: {explain(exc)}")

    # --- inside

    def _failed(self, line: _Line, exc: sqlite3.Error) -> Exception:
        """``failed``, but once it may be the line that is wrong, and not the file.

        Who opens a file that was just renamed over another finds the log of that one, as long as somebody has
        it open, and its index may tell of fewer pages. Who then closes the new file removes both.
        """
        failure = self.failed(exc)
        line.was_doubted = not line.was_doubted and is_doubtful(exc)
        return BlockingIOError("the SQLite file may just have changed") if line.was_doubted else failure

    def _start(self) -> None:
        self._looking = threading.Lock()
        self._look_at = float("-inf")
        self._real = self._path
        self._signature = ()
        self._log: int | None = None

    def _before_fork(self) -> None:
        """Close every line; who is asking one is waited for. ``_ready`` opens none until the fork is over."""
        end = time.monotonic() + LONGEST_WAIT_S
        for line in self._lines.all():
            if line.lock.acquire(timeout=max(0, end - time.monotonic())):
                try:
                    line.close()
                finally:
                    line.lock.release()
        self._log = None  # the last line has removed it

    def _in_child(self) -> None:
        self._is_shared |= any(line.connection is not None for line in self._lines.all())
        self._start()

    def _ready(self, line: _Line) -> Execute:
        """Make sure that a line, whose lock is held, is open on the file that is there now."""
        if time.monotonic() >= self._look_at:
            self._look(line)
        if line.connection is None:
            if forks.going_on:
                raise BlockingIOError("the process forks")
            if self._is_shared:
                raise BackendUnavailable(
                    "this process was forked while the SQLite file was in use, so that it cannot lock it: "
                    "fork before the first request"
                )
            line.connection, line.still = open_watched(self._real)
            try:
                check_is_current(line.connection)
                # The commit itself reaches the disk before it is reported.
                line.connection.execute("PRAGMA synchronous = FULL")
                share_logs(self._real)
            except BaseException:
                try:
                    self._make_sure(line)  # what is wrong with it may be that it is being changed
                finally:
                    line.close()
                raise
        return line.connection.execute

    def _make_sure(self, line: _Line) -> None:
        """Behind a question: nobody may have written to a file that was read without locks."""
        if line.still is not None and not line.still.is_still():
            line.close()
            self._look_at = float("-inf")
            raise BlockingIOError("the SQLite file was changed while it was read")

    def _look(self, mine: _Line) -> None:
        """Compare the file with the one that was opened.

        SQLite goes on reading a file that was renamed over, and pages that it remembers of one that was
        written over. Every line of the process to the old file is closed before one to the new is opened.
        SQLite names the log and its index by the path, so both files share them; whoever closes the old file
        lets go of the process's locks on them, and whoever then finds the index unlocked empties it, under
        the eyes of who reads it: the process would die of SIGBUS.
        """
        if not self._looking.acquire(blocking=False):
            raise BlockingIOError("another thread looks at the file")
        try:
            try:
                real = Path(os.path.realpath(self._path, strict=True))
                now = signature(real)
            except OSError as exc:
                self.let_go(mine)
                raise BackendUnavailable(f"the SQLite file cannot be opened: {exc.strerror}") from exc
            if now[2] == 0:
                self.let_go(mine)
                raise BackendUnavailable("the SQLite file is empty")
            log = inode_of(log_of(real))
            if (real, now) != (self._real, self._signature) or (self._log is not None and log != self._log):
                self.let_go(mine)
                for others in filter(None, [ref() for ref in _everyone.valuerefs()]):
                    if others is not self and others.is_behind(real, now, log):
                        others.let_go(mine)
                self._real, self._signature = real, now
                log = None  # the next line makes it anew, and the next look sees it
            self._log = log
            self._look_at = time.monotonic() + _LOOK_EVERY_S
        finally:
            self._looking.release()


class _Line:
    """One thread's connection; ``lock`` is held while it is used. ``still``: what it reads without locks."""

    __slots__ = ("connection", "lock", "still", "was_doubted")

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal handler may fork while its thread asks
        self.connection: sqlite3.Connection | None = None
        self.still: Still | None = None
        self.was_doubted = False  # for what it answered last

    def close(self) -> None:
        with self.lock:
            self.still = None
            connection, self.connection = self.connection, None
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()


def checkpoint(execute: Execute) -> None:
    """Bring what is in the log into the file itself. If that fails, it is safe there until the next time."""
    with suppress(sqlite3.Error):
        execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
