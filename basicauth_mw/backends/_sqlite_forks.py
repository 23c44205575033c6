"""No connection to a SQLite file is open while the process forks.

SQLite keeps one record of locks and shared memory for each file and process, and a child inherits it from
what its parent had open: it then takes locks for held that it does not hold, and its parent, when it closes,
removes the log under it. See section 2.6 of https://www.sqlite.org/howtocorrupt.html. So what is open is
closed before a fork, and opened anew, in the parent too, by the next question.
"""

from __future__ import annotations

import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from ..runtime.fork import after_fork, after_fork_in_parent, before_fork
from ._sqlite_file import connect

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from pathlib import Path

# What others do with a file takes milliseconds. If a disk hangs, the fork need not.
LONGEST_WAIT_S: Final = 5.0


class _Forks:
    """Of this process. ``brief`` is held by who uses a connection that lives for one call.

    It is made ahead of every user of SQLite, so ``brief`` is waited for ahead of whatever they hold.
    """

    def __init__(self) -> None:
        self._start()
        before_fork(self._begin)
        after_fork_in_parent(self._end)
        after_fork(self._start)

    @property
    def going_on(self) -> bool:
        """Whether a thread forks, so that nothing may be opened to stay open."""
        return self._thread is not None

    def _start(self) -> None:
        self.brief = threading.RLock()
        self._thread: int | None = None

    def _begin(self) -> None:
        if self.brief.acquire(timeout=LONGEST_WAIT_S):
            self._thread = threading.get_ident()

    def _end(self) -> None:
        if self._thread == threading.get_ident():
            self._thread = None
            self.brief.release()


forks: Final = _Forks()


@contextmanager
def briefly(
    path: Path, connect: Callable[[Path], sqlite3.Connection] = connect
) -> Iterator[sqlite3.Connection]:
    """Open a file that is there for the length of a ``with`` block, which a fork in another thread waits for.

    Args:
        path: Of the file.
        connect: Opens it.
    """
    with forks.brief, closing(connect(path)) as connection:
        yield connection
