"""Write the keys of a backend as JSON lines. Memory does not grow with their number."""

from __future__ import annotations

import os
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import mkstemp
from typing import TYPE_CHECKING, BinaryIO, Final

from ...keys import audit
from .._echo import CommandError
from .._input import refuse_dangling_link
from .jsonl import dump_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ...backends.backend import Backend
    from ...keys.model import Change, Key

_BATCH: Final = 500  # keys


def export_keys(backend: Backend, out: BinaryIO, progress: Callable[[int], object]) -> int:
    """Write every key on a line, in the order of client IDs, and one audit record for all of them.

    A key that changes meanwhile is written either in its old or in its new state.
    """
    if getattr(backend.store, "volatile", False) is True:
        raise CommandError(
            "there is nothing to export: this backend stores no hashes, it reads its keys from elsewhere"
        )
    count = 0
    previous: tuple[Key, list[Change]] | None = None  # not written before it is known whether it is the last
    keys = backend.iter_keys()
    try:
        while batch := list(islice(keys, _BATCH)):
            histories = backend.histories([key.client_id for key in batch])
            for item in zip(batch, histories, strict=True):
                if previous is not None:
                    out.write(dump_line(*previous).encode() + b"\n")
                previous = item
            count += len(batch)
            progress(len(batch))
        if previous is not None:
            out.write(dump_line(*previous, end=count).encode() + b"\n")
    finally:
        audit.record("key.exported", actor=backend.actor)
    return count


def export_file(backend: Backend, path: Path, progress: Callable[[int], object]) -> int:
    """Export to a file that only its owner can read. The file is complete or does not exist."""
    _check_replaceable(path)
    path = Path(os.path.realpath(path))  # only now: the name of a pipe has no real path
    with _atomic_write(path) as out:
        return export_keys(backend, out, progress)


def _check_replaceable(path: Path) -> None:
    refuse_dangling_link(path)
    if not path.exists():
        return
    if not path.is_file():
        raise CommandError(f"{path} is not a file: name a file, or omit it to write to stdout")
    with path.open("rb") as existing:
        if existing.read(5) not in (b"", b'{"v":'):
            raise CommandError(f"{path} exists and is not an export: name another file")


@contextmanager
def _atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``path`` if the block succeeds, and is removed otherwise."""
    descriptor, name = mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot open a directory
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # so that the new name survives a power failure
        finally:
            os.close(directory)
