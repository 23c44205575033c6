"""Commands and replies as octets, for who reads without waiting: RESP2, by hiredis where that is installed.

See https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import re
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from .._extras import require
from ._redis_replies import error_reply

if TYPE_CHECKING:
    from ._redis_ways import Command

_errors = require("redis.exceptions", extra="redis")

_hiredis: Any = None
with suppress(ImportError):
    _hiredis = import_module("hiredis")

_INTEGER: Final = re.compile(rb"-?\d+")

MORE: Final = object()  # in place of a reply that is not all there


def pack(command: Command) -> bytes:
    """A command as it is sent."""
    octets = b"*%d\r\n" % len(command)
    for part in command:
        if not isinstance(part, bytes):
            part = str(part).encode()
        octets += b"$%d\r\n%b\r\n" % (len(part), part)
    return octets


def pack_get(name: bytes) -> bytes:
    """``pack`` for what is asked most."""
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name)


def make_reader() -> Any:
    """What makes replies of octets: a ``Reader``, or one of hiredis, which has the same methods."""
    if _hiredis is None:
        return Reader()
    return _hiredis.Reader(protocolError=_errors.InvalidResponse, replyError=error_reply, notEnoughData=MORE)


class Reader:
    """Makes replies of octets. An error reply is an exception that is returned, not raised."""

    def __init__(self) -> None:
        self._octets = b""
        self._at = 0  # before it, all is read
        self._parts: list[bytes] = []
        self._missing = 0  # at least, before there is another reply

    def feed(self, octets: bytes) -> None:
        """Take what has come."""
        self._parts.append(octets)
        self._missing -= len(octets)

    def gets(self) -> Any:
        """The next reply; ``MORE`` if it is not all there.

        Raises:
            InvalidResponse: This is no reply.
        """
        if self._missing > 0:
            return MORE
        if self._parts:
            self._octets = b"".join((self._octets[self._at :], *self._parts))
            self._at = 0
            self._parts.clear()
        try:
            reply, self._at = self._reply(self._at)
        except _Incomplete as exc:
            self._missing = exc.missing
            return MORE
        return reply

    def has_data(self) -> bool:
        """Whether something has come that is not in a reply."""
        return bool(self._parts) or self._at < len(self._octets)

    def _reply(self, at: int) -> tuple[Any, int]:
        end = self._octets.find(b"\r\n", at)
        if end < 0:
            raise _Incomplete(1)
        kind, line, at = self._octets[at : at + 1], self._octets[at + 1 : end], end + 2
        if kind == b"$":
            size = _number(line)
            return (None, at) if size is None else self._string(at, size)
        if kind == b"*":
            size = _number(line)
            if size is None:
                return None, at
            items = []
            for _ in range(size):
                item, at = self._reply(at)
                items.append(item)
            return items, at
        if kind == b"+":
            return line, at
        if kind == b":" and _INTEGER.fullmatch(line):
            return int(line), at
        if kind == b"-":
            return error_reply(line.decode(errors="replace")), at
        raise _errors.InvalidResponse("no reply begins like that")

    def _string(self, at: int, size: int) -> tuple[bytes, int]:
        end = at + size
        if (missing := end + 2 - len(self._octets)) > 0:
            raise _Incomplete(missing)
        if self._octets[end : end + 2] != b"\r\n":
            raise _errors.InvalidResponse("a string of another length than told")
        return self._octets[at:end], end + 2


class _Incomplete(Exception):
    def __init__(self, missing: int) -> None:
        self.missing = missing


def _number(line: bytes) -> int | None:
    """How long something is; None: it is nothing at all."""
    if line.isdigit():
        return int(line)
    if line == b"-1":
        return None
    raise _errors.InvalidResponse("no length")
