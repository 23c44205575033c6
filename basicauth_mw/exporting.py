"""Keys out of a backend, as JSON lines (``portable``); memory does not grow with their number."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp
from typing import TYPE_CHECKING, BinaryIO, Final

from .keys import audit
from .portable import TransferError, dump_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .backends.backend import Backend
    from .keys.model import Key

_TELL_EVERY: Final = 1000  # keys


def export_keys(backend: Backend, out: BinaryIO, progress: Callable[[int], object]) -> int:
    """Write every key, a line each, in the order of their ids. One audit record.

    What is changed meanwhile is written as it was or as it is.

    Args:
        backend: Whose keys.
        out: Where to.
        progress: Called with how many more were written.

    Returns:
        How many keys there were.

    Raises:
        TransferError: What the backend keeps means nothing outside of this process.
        BackendUnavailable: Not all could be read; a record that cannot be read is among them.
    """
    if getattr(backend.store, "volatile", False) is True:
        raise TransferError(
            "this backend keeps no hashes that mean anything elsewhere, so there is nothing to export: "
            "its keys are where it reads them from"
        )
    count = 0
    held: Key | None = None  # until it is known whether it is the last
    try:
        for key in backend.iter_keys():
            if held is not None:
                out.write(dump_line(held).encode() + b"\n")
            held = key
            count += 1
            if count % _TELL_EVERY == 0:
                progress(_TELL_EVERY)
        if held is not None:
            out.write(dump_line(held, end=count).encode() + b"\n")
            progress(count % _TELL_EVERY)
    finally:
        audit.record("key.exported", actor=backend.actor)
    return count


def export_file(backend: Backend, path: Path, progress: Callable[[int], object]) -> int:
    """``export_keys`` to a file, readable by its owner only, that appears when it is complete.

    Args:
        backend: Whose keys.
        path: An export that is there already is replaced; when something fails, it stays.
        progress: Called with how many more were written.

    Raises:
        TransferError: There is something else at ``path``.
        OSError: It cannot be written.
    """
    _check_replaceable(path)
    path = Path(os.path.realpath(path))  # not before: what names a pipe names no path
    with _replacing(path) as out:
        return export_keys(backend, out, progress)


def _check_replaceable(path: Path) -> None:
    if not path.exists():
        if path.is_symlink():  # somebody else's, perhaps
            raise TransferError(
                f"{path} is a link to {os.path.realpath(path)}, which does not exist: name that file, or "
                "remove the link"
            )
        return
    if not path.is_file():
        raise TransferError(f"{path} is not a file: name one, or none for stdout")
    with path.open("rb") as there:
        if there.read(5) not in (b"", b'{"v":'):
            raise TransferError(f"{path} is there already and is no export: name another file")


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when it is whole and on the disk; else none is left."""
    handle, name = mkstemp(prefix=f".{path.name}.", dir=path.parent)
    new = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot open a directory
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # the name, too
        finally:
            os.close(directory)
