"""One connection of an event loop: what is asked goes out at once, and the replies come in the same order.

Nobody reads, as no task waits for what comes: a request that gives up leaves its question where it is, and
the reply to it is dropped when it comes.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from .._extras import require
from ..errors import BackendUnavailable
from ._redis_replies import is_of_a_replica, unavailable
from ._redis_wire import MORE, make_reader, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ._redis_ways import Command, Way

    # Who is to be told, what is sent, when it was asked, whether it may be sent again, and whether others may
    # share the reply. Told is the reply, or an error reply, or a BackendUnavailable: an exception in a future
    # would complain if it were not seen. A bare tuple, since there is one for every look-up.
    Asked = tuple[asyncio.Future[Any], bytes, float, bool, bool]

_errors = require("redis.exceptions", extra="redis")


class Pipe(asyncio.Protocol):
    """A connection.

    Attributes:
        unanswered: What was asked, the oldest first.
        has_answered: It has been of use before.
        on_loss: Called once, with what is unanswered and the reason, when nothing can be asked any more.
        is_open: That has not happened yet.
        gone: Done when nothing is open any more.
    """

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self.unanswered: deque[Asked] = deque()
        self.has_answered = False
        self.on_loss: Callable[[Iterable[Asked], Exception], None] = fail
        self.is_open = True
        self.gone = asyncio.get_running_loop().create_future()
        self._reader = make_reader()

    def send(self, asked: Sequence[Asked]) -> None:
        """Ask, in one go, with nothing between."""
        try:
            self.unanswered += asked
            self._transport.write(b"".join([each[1] for each in asked]))
        except BaseException as exc:
            self._lose_count(exc)
            raise

    def set_option(self, level: int, option: int, value: int | bytes) -> None:
        """Set one of the socket, if it has it."""
        with suppress(OSError):
            self._transport.get_extra_info("socket").setsockopt(level, option, value)

    def lose(self, reason: Exception) -> None:
        """Close at once."""
        if not self.is_open:
            return
        self.is_open = False
        self._transport.abort()
        unanswered, self.unanswered = self.unanswered, deque()
        self.on_loss(unanswered, reason)

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        reader, unanswered = self._reader, self.unanswered
        next_reply = reader.gets
        try:
            reader.feed(data)
            while unanswered:
                reply = next_reply()
                if reply is MORE:
                    return
                answer = unanswered[0][0]
                if not answer.done():
                    answer.set_result(reply)
                unanswered.popleft()
                self.has_answered = True
                if isinstance(reply, Exception) and is_of_a_replica(reply):
                    self.lose(reply)  # the next one finds the master
                    return
            if reader.has_data():
                raise _errors.InvalidResponse("a reply that nobody waits for")
        except BaseException as exc:
            self._lose_count(exc)
            if not isinstance(exc, Exception):
                raise

    def eof_received(self) -> None:
        self.lose(_errors.ConnectionError("closed by the server"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose(exc or _errors.ConnectionError("closed"))
        self.gone.set_result(None)

    def _lose_count(self, exc: BaseException) -> None:
        # Out of a signal handler, for one: which reply is the next one's is not known any more.
        self.lose(exc if isinstance(exc, Exception) else _errors.ConnectionError("interrupted"))


def fail(asked: Iterable[Asked], reason: BaseException) -> None:
    """Tell all who ask that there is no reply."""
    for answer, *_ in asked:
        if not answer.done():
            answer.set_result(unavailable(reason))


async def open_pipe(connect: Callable[..., Any], way: Way) -> Pipe:
    """Take a way.

    Args:
        connect: Makes a connection of redis-py that is never connected: it says how to.
        way: To the server that is wanted.
    """
    stops = way.stops()
    pipe: Pipe | None = None
    outcome: Any = None
    try:
        while True:
            try:
                stop = stops.send(outcome)
            except StopIteration:
                return cast("Pipe", pipe)  # a way has at least one stop, or raises
            if pipe is not None:
                pipe.lose(_errors.ConnectionError("it leads elsewhere"))
            try:
                async with asyncio.timeout(stop.limit_s):
                    pipe = await _dial(connect(**stop.options))
                    (outcome,) = await _ask(pipe, [stop.command]) if stop.command else (None,)
            except Exception as exc:
                outcome = exc
    except BaseException:
        if pipe is not None:
            pipe.lose(_errors.ConnectionError("given up"))
        raise


async def _dial(connection: Any) -> Pipe:
    loop = asyncio.get_running_loop()
    tls = getattr(connection, "ssl_context", None)
    if (path := getattr(connection, "path", None)) is not None:
        _, pipe = await loop.create_unix_connection(Pipe, path)
    else:
        _, pipe = await loop.create_connection(
            Pipe, connection.host, connection.port, ssl=tls.get() if tls is not None else None
        )
    try:
        _keep_alive(pipe, connection)
        await _greet(pipe, connection)
    except BaseException:
        pipe.lose(_errors.ConnectionError("given up"))
        raise
    return pipe


def _keep_alive(pipe: Pipe, connection: Any) -> None:
    """As redis-py does, whose later releases have that by default: who is gone without a word is noticed."""
    if getattr(connection, "socket_keepalive", False):
        pipe.set_option(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (getattr(connection, "socket_keepalive_options", None) or {}).items():
            pipe.set_option(socket.IPPROTO_TCP, option, value)


async def _greet(pipe: Pipe, connection: Any) -> None:
    commands: list[Command] = []
    if connection.username or connection.password:
        login = (connection.username,) if connection.username else ()
        commands.append(("AUTH", *login, connection.password or ""))
    if connection.client_name:
        commands.append(("CLIENT", "SETNAME", connection.client_name))
    if connection.db:
        commands.append(("SELECT", connection.db))
    replies = await _ask(pipe, commands)
    for command, reply in zip(commands, replies, strict=True):
        if reply == b"OK":
            continue
        if command[0] == "AUTH":
            raise _errors.AuthenticationError("refused")
        raise reply if isinstance(reply, Exception) else _errors.ConnectionError("a greeting refused")


async def _ask(pipe: Pipe, commands: Iterable[Command]) -> list[Any]:
    loop = asyncio.get_running_loop()
    asked = [(loop.create_future(), pack(command), 0.0, False, False) for command in commands]
    if asked:
        pipe.send(asked)
    return await replies_to(answer for answer, *_ in asked)


async def replies_to(answers: Iterable[asyncio.Future[Any]]) -> list[Any]:
    """Wait for several replies; an error reply is returned, not raised.

    Raises:
        BackendUnavailable: One of them will not come.
    """
    replies = []
    for answer in answers:
        reply = await answer
        if isinstance(reply, BackendUnavailable):
            raise reply
        replies.append(reply)
    return replies
