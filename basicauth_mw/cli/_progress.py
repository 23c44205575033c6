"""Progress bars on stderr, if that is a terminal."""

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

_BYTES = (DownloadColumn(), TimeRemainingColumn())
_KEYS = (TextColumn("{task.completed:,} keys"), TimeElapsedColumn())


@contextmanager
def progress_bar(*, in_bytes: bool = False, shown: bool = True) -> Iterator[Progress]:
    """Show progress while the block runs."""
    counts: tuple[ProgressColumn, ...] = _BYTES if in_bytes else _KEYS
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *counts,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    if shown and sys.stderr.isatty():
        with progress:
            yield progress
    else:
        yield progress
