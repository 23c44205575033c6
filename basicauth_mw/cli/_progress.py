"""Progress bars on stderr, if that is a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def progress_bar(*, in_bytes: bool = False, shown: bool = True) -> Iterator["Progress"]:
    """Show progress while the block runs."""
    # Imported here, so that commands without a bar start sooner.
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

    counts: tuple[ProgressColumn, ...] = (TextColumn("{task.completed:,} keys"), TimeElapsedColumn())
    if in_bytes:
        counts = (DownloadColumn(), TimeRemainingColumn())
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
