"""Progress bars on stderr, if that is a terminal."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def progress_bar(*, in_bytes: bool = False, shown: bool = True) -> "Progress":
    """Return a bar, which is shown in a ``with`` block."""
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
    is_hidden = not (shown and sys.stderr.isatty())
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *counts,
        console=Console(stderr=True, quiet=is_hidden),  # rich before 14.1 prints a line for a disabled bar
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=is_hidden,
    )
