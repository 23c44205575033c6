"""The input of an import: numbered lines of limited length, and the format that they are in."""

from __future__ import annotations

import os
from contextlib import nullcontext
from itertools import chain
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO, Final

from ...errors import InvalidKey
from ...keys.hashing import looks_hashed
from ...keys.key_lists import MAX_LINE_BYTES, decode_line
from .._echo import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

FORMATS: Final = ("export", "csv", "htpasswd")

# The most that is kept of the comments and blank lines before the first line that shows the format. A line
# takes some more bytes in memory than it has.
_MAX_KEPT_BYTES: Final = 1024 * 1024
_LINE_OVERHEAD_BYTES: Final = 64


class InputFile:
    """Numbered lines of a format, which is detected unless it is given."""

    def __init__(self, stream: BinaryIO, *, format: str | None = None) -> None:  # noqa: A002 - as in --format
        self._stream = stream
        self._start = stream.tell() if stream.seekable() else None
        self._kept: list[bytes] = []  # lines that were read to detect the format
        self._is_cut = False  # the last line was read in part
        self.format = format or self._detect_format()

    @property
    def size(self) -> int | None:
        """Total bytes; None for a pipe."""
        if self._start is None:
            return None
        position = self._stream.tell()
        end = self._stream.seek(0, os.SEEK_END)
        self._stream.seek(position)
        return end - self._start

    def lines(self, copy_to: BinaryIO | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield each line with its number, from 1; one that is too long is cut to ``MAX_LINE_BYTES + 1``."""
        lines = chain(self._kept, iter(self._read_line, b""))
        for number, line in enumerate(lines, 1):
            if copy_to is not None:
                copy_to.write(line)
            yield number, line

    def spool(self) -> AbstractContextManager[BinaryIO | None]:
        """Open a temporary file to copy the lines to; None if the stream itself can be read again."""
        return nullcontext() if self._start is not None else TemporaryFile()

    def rewound(self, copy: BinaryIO | None) -> InputFile:
        """Return a reader at the first line."""
        if copy is not None:
            copy.seek(0)
            return InputFile(copy, format=self.format)
        self._stream.seek(self._start or 0)
        return InputFile(self._stream, format=self.format)

    def _read_line(self) -> bytes:
        while self._is_cut:  # skip the rest of a long line only now: it may have no end
            self._read_part()
        return self._read_part()

    def _read_part(self) -> bytes:
        part = self._stream.readline(MAX_LINE_BYTES + 1)
        self._is_cut = len(part) > MAX_LINE_BYTES and not part.endswith(b"\n")
        return part

    def _detect_format(self) -> str:
        size = 0
        while line := self._read_line():
            first = not self._kept
            self._kept.append(line)
            try:
                text = decode_line(line, first=first)
            except InvalidKey as exc:
                # One line in another encoding does not stop the rest: the import reports it.
                text = line.decode("latin-1").rstrip("\r\n")
                if text.isprintable() and (found := _format_of(text)):
                    return found
                raise CommandError(f"not a text file in UTF-8: line {len(self._kept)} is {exc}") from None
            if text and not text.startswith("#"):
                if found := _format_of(text):
                    return found
                raise CommandError(
                    "unknown format; expected an export, a CSV of id,secret, or an htpasswd file"
                )
            size += len(line) + _LINE_OVERHEAD_BYTES
            if size > _MAX_KEPT_BYTES:
                raise CommandError(
                    f"only comments and blank lines in the first {len(self._kept)} lines, so the format "
                    f"cannot be detected: add --format {'|'.join(FORMATS)}"
                )
        raise CommandError("the input contains no keys")


def _format_of(text: str) -> str | None:
    """The format of a line that is neither blank nor a comment."""
    if text.startswith("{"):
        return "export"
    if text.startswith(("[", "<")):  # JSON of another program, HTML
        return None
    before, colon, after = text.partition(":")
    if colon and ("," not in before or looks_hashed(after)):
        return "htpasswd"  # a client ID has no colon
    return "csv" if "," in text else None
