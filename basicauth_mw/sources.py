"""What keys are imported from: a file's lines, each of bounded length, and which kind of file it is."""

from __future__ import annotations

import os
from collections import deque
from contextlib import nullcontext
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO, Final

from .errors import InvalidKey
from .keys.hashing import looks_hashed
from .portable import TransferError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

KINDS: Final = ("export", "csv", "htpasswd")

MAX_LINE_OCTETS: Final = 256 * 1024  # several times the largest key

# What is kept, at most, of comments and blank lines before the first line that tells the kind; a line takes
# some octets more than it has.
_KEPT_OCTETS: Final = 1024 * 1024
_LINE_OCTETS: Final = 64

_BOM: Final = b"\xef\xbb\xbf"


class Source:
    """What is to be imported: numbered lines of a format, none of them longer than ``MAX_LINE_OCTETS``.

    Args:
        stream: Read from where it stands; an export twice, for which a pipe is spooled to a file without a
            name.
        kind: One of ``KINDS``; None: it is told from the first line that is neither blank nor a comment.

    Raises:
        TransferError: It is none of them.
    """

    def __init__(self, stream: BinaryIO, *, kind: str | None = None) -> None:
        self._stream = stream
        self._start = stream.tell() if stream.seekable() else None
        self._kept: deque[bytes] = deque()
        self.kind = kind or self._recognised()

    @property
    def octets(self) -> int | None:
        """How many octets there are in all; None: a pipe does not tell."""
        if self._start is None:
            return None
        here = self._stream.tell()
        end = self._stream.seek(0, os.SEEK_END)
        self._stream.seek(here)
        return end - self._start

    def lines(self, copy_to: BinaryIO | None = None) -> Iterator[tuple[int, bytes]]:
        """Number each line from 1, its end included. One that is too long comes cut, and longer than allowed.

        Args:
            copy_to: Gets everything that is read.
        """
        number = 0
        while line := self._kept.popleft() if self._kept else self._read_line():
            number += 1
            if copy_to is not None:
                copy_to.write(line)
            yield number, line

    def again(self, copy: BinaryIO | None) -> Source:
        """The same once more, from the start."""
        if copy is not None:
            copy.seek(0)
            return Source(copy, kind=self.kind)
        self._stream.seek(self._start or 0)
        return Source(self._stream, kind=self.kind)

    def copy(self) -> AbstractContextManager[BinaryIO | None]:
        """A file to copy to, where the stream cannot be read twice."""
        return nullcontext() if self._start is not None else TemporaryFile()

    def _read_line(self) -> bytes:
        line = self._stream.readline(MAX_LINE_OCTETS + 1)
        rest = line
        while len(rest) > MAX_LINE_OCTETS and not rest.endswith(b"\n"):
            rest = self._stream.readline(MAX_LINE_OCTETS + 1)
        return line

    def _recognised(self) -> str:
        octets = 0
        while line := self._read_line():
            try:
                text = text_of(line, first=not self._kept)
            except InvalidKey as exc:
                # One line in another encoding is no reason to refuse the rest: it is named when it is read.
                kind = _kind_of_other_text(line)
                if kind is None:
                    raise TransferError(
                        f"this is no text in UTF-8: line {len(self._kept) + 1} is {exc}"
                    ) from None
                self._kept.append(line)
                return kind
            self._kept.append(line)
            if text and not text.startswith("#"):
                return _kind_of(text)
            octets += len(line) + _LINE_OCTETS
            if octets > _KEPT_OCTETS:
                raise TransferError(
                    f"there are only comments and blank lines in the first {len(self._kept)} lines, so what "
                    f"this is cannot be told: name it with --format {'|'.join(KINDS)}"
                )
        raise TransferError("there is nothing in it to import")


def text_of(line: bytes, *, first: bool) -> str:
    """A line without its end; empty if it is blank.

    Raises:
        InvalidKey: It is too long, or no text.
    """
    if len(line) > MAX_LINE_OCTETS:
        raise InvalidKey(f"longer than {MAX_LINE_OCTETS} octets")
    try:
        text = (line.removeprefix(_BOM) if first else line).decode()
    except UnicodeDecodeError:
        raise InvalidKey("not UTF-8") from None
    if "\0" in text:
        raise InvalidKey("not text")
    text = text.removesuffix("\n").removesuffix("\r")
    return text if text.strip() else ""


def _kind_of_other_text(line: bytes) -> str | None:
    """The format of a line in an encoding such as Latin-1; None: it is not text, or has no known format."""
    text = line.decode("latin-1").rstrip("\r\n")
    if not text.isprintable():
        return None
    try:
        return _kind_of(text)
    except TransferError:
        return None


def _kind_of(text: str) -> str:
    """Tell the format from a line that is neither blank nor a comment.

    Raises:
        TransferError: It is none that is known.
    """
    if text.startswith("{"):
        return "export"
    before, colon, behind = text.partition(":")
    if not text.startswith(("[", "<")):
        if colon and ("," not in before or looks_hashed(behind)):
            return "htpasswd"  # no client id holds a colon
        if "," in text:
            return "csv"
    raise TransferError(
        "keys cannot be imported from this: give an export, a CSV of id,secret, or an htpasswd file"
    )
