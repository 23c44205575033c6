"""A progress bar on stderr, where that is a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """Nothing is shown."""

    def begin(self, work: str, total: int | None) -> None:
        """Start from nothing done.

        Args:
            work: What is being done; one word.
            total: When it is complete; None: that is not known.
        """

    def advance(self, amount: int) -> None:
        """So much more is done."""


class _Shown(Bar):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def begin(self, work: str, total: int | None) -> None:
        self._progress.reset(self._task, total=total, description=work)

    def advance(self, amount: int) -> None:
        self._progress.advance(self._task, amount)


@contextmanager
def progress_bar(*, octets: bool, wanted: bool) -> Iterator[Bar]:
    """A bar that is gone when the block ends; none where stderr is no terminal.

    Args:
        octets: Whether octets are counted, or keys.
        wanted: False: something else is to be seen there.
    """
    if not (wanted and sys.stderr.isatty()):
        yield Bar()
        return
    counts: tuple[ProgressColumn, ...] = (TextColumn("{task.completed:,} keys"), TimeElapsedColumn())
    if octets:
        counts = (DownloadColumn(), TimeRemainingColumn())
    progress = Progress(
        *(TextColumn("{task.description}"), BarColumn(), *counts),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with progress:
        yield _Shown(progress)
