"""No connection to a SQLite file is open while the process forks.

SQLite keeps one record of locks and shared memory for each file and process. A child inherits the record of
what its parent had open: it believes that it holds locks that it does not hold, and the parent's last
connection removes the log that the child still uses (https://www.sqlite.org/howtocorrupt.html, section 2.6).
So every connection is closed before a fork, and the next use opens it again, in the parent too.
"""

from __future__ import annotations

import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from ...runtime.fork import after_fork, after_fork_in_parent, before_fork
from .files import connect

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Other threads use a file for milliseconds. If a disk hangs, the fork does not wait for it.
LONGEST_WAIT_S: Final = 5.0


class _Forks:
    """The forks of this process. ``short_lock`` is held while a connection of a single call is open.

    Its hooks are added before those of every user of SQLite, so ``short_lock`` is taken before their locks.
    """

    def __init__(self) -> None:
        self._reset()
        before_fork(self._begin)
        after_fork_in_parent(self._end)
        after_fork(self._reset)

    @property
    def in_progress(self) -> bool:
        """Whether a thread is forking, so that no connection may be opened to stay open."""
        return self._thread is not None

    def _reset(self) -> None:
        self.short_lock = threading.RLock()
        self._thread: int | None = None

    def _begin(self) -> None:
        if self.short_lock.acquire(timeout=LONGEST_WAIT_S):
            self._thread = threading.get_ident()

    def _end(self) -> None:
        if self._thread == threading.get_ident():
            self._thread = None
            self.short_lock.release()


forks: Final = _Forks()


@contextmanager
def short_connection(
    path: Path, connect: Callable[[Path], sqlite3.Connection] = connect
) -> Iterator[sqlite3.Connection]:
    """Open a file for the length of a ``with`` block. A fork in another thread waits for its end."""
    with forks.short_lock, closing(connect(path)) as connection:
        yield connection
