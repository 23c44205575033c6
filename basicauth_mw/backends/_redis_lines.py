"""Connections to Redis: one for each thread, a few for each event loop; over redis-py's own.

A loop's connections are read by tasks that nobody cancels. What is asked while the others are on their way
goes out together, in one batch: a request that gives up leaves no reply behind for the next one.
"""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, cast

from .._extras import require
from ..errors import BackendUnavailable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    Command = tuple[bytes | str | int, ...]

_errors = require("redis.exceptions", extra="redis")

CONNECTIONS_PER_LOOP: Final = 4

_BATCH: Final = 100

# Within the text, since a script's error has more before it.
_ERROR_CODE = re.compile(
    r"\b(BUSY|CLUSTERDOWN|CROSSSLOT|LOADING|MASTERDOWN|MISCONF|MOVED|NOREPLICAS|OOM|READONLY|WRONGTYPE)\b"
)


class ThreadLine:
    """One thread's connection, used in a ``with`` block.

    Args:
        connection_class: Of redis-py.
        options: For it.
        timeout_s: For connecting, and for each wait.
    """

    def __init__(self, connection_class: Any, options: dict[str, Any], timeout_s: float) -> None:
        self._in_use = threading.Lock()
        self._retired = False
        self._cut = False
        self._connection = connection_class(
            socket_connect_timeout=timeout_s,
            socket_timeout=timeout_s,
            redis_connect_func=self._greet,
            **options,
        )

    def __enter__(self) -> None:
        self._in_use.acquire()
        self._cut = False

    def __exit__(self, *_exc: object) -> None:
        if self._retired:
            self.close()
        self._in_use.release()

    def ask(self, commands: Sequence[Command], *, again: bool) -> list[Any]:
        """Send commands and read as many replies; an error reply is returned, not raised.

        Args:
            commands: What to ask.
            again: They may be asked twice, if a connection that was used before turns out to be closed.
        """
        reused = self._socket() is not None
        try:
            if reused and self._is_stale():
                self.close()
                reused = False
            try:
                return self._exchange(commands)
            except _errors.ConnectionError:
                if self._cut or not (again and reused):
                    raise
                self.close()
                return self._exchange(commands)
        except BaseException:
            self.close()
            raise

    def cut(self) -> None:
        """End what another thread waits for."""
        # The flag first: that thread looks at it as soon as it has a socket.
        self._cut = True
        in_use = self._socket()
        if in_use is not None:
            with suppress(OSError):
                # That of a TLS socket would let the other thread go on reading, in clear.
                socket.socket.shutdown(in_use, socket.SHUT_RDWR)

    def retire(self) -> None:
        """Close as soon as the line is not in use."""
        self._retired = True
        if self._in_use.acquire(blocking=False):
            with suppress(BaseException):
                self.close()
            self._in_use.release()

    def close(self) -> None:
        self._retired = False
        self._connection.disconnect()

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        connection.connect()  # unless it is
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        replies = []
        for _ in commands:
            try:
                replies.append(connection.read_response())
            except _errors.ResponseError as exc:
                replies.append(exc)
        return replies

    def _socket(self) -> socket.socket | None:
        found: socket.socket | None = getattr(self._connection, "_sock", None)  # redis-py has no public name
        return found

    def _is_stale(self) -> bool:
        try:
            return bool(self._connection.can_read())  # a reply that nobody waits for
        except Exception:
            return True

    def _greet(self, connection: Any) -> None:
        if self._cut:
            raise _errors.ConnectionError("given up")
        connection.on_connect()


class LoopLines:
    """The connections of one event loop.

    Args:
        connect: Makes a connection of redis-py, not connected yet.
        limit_s: For all of one batch, connecting included.
    """

    def __init__(self, connect: Callable[[], Any], limit_s: float) -> None:
        self._connect = connect
        self._limit_s = limit_s
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._free: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._summoned = False  # a task was made that has not begun

    async def ask(self, command: Command) -> Any:
        """Send a command with the next batch; an error reply is returned, not raised.

        Raises:
            BackendUnavailable: There is no reply.
        """
        from asyncio import get_running_loop

        loop = get_running_loop()
        answer = loop.create_future()
        self._waiting.append((command, answer))
        if not self._summoned and len(self._tasks) < CONNECTIONS_PER_LOOP:
            self._summoned = True
            # An empty context: the batch is nobody's request.
            task = Context().run(loop.create_task, self._serve())
            self._tasks.add(task)
            task.add_done_callback(self._served)
        return await answer

    async def aclose(self) -> None:
        """Give up what is asked, and close the connections."""
        from asyncio import gather

        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await gather(*tasks, return_exceptions=True)
        free, self._free = self._free, []
        for connection in free:
            with suppress(Exception):
                await connection.disconnect()

    async def _serve(self) -> None:
        from asyncio import current_task

        self._summoned = False
        try:
            while self._waiting:
                batch = [asked for asked in self._waiting[:_BATCH] if not asked[1].done()]
                del self._waiting[:_BATCH]
                if batch:
                    await self._answer(batch)
        finally:
            # Now, not a turn of the loop later: nothing may come to wait for a task that looks no more.
            self._tasks.discard(cast("asyncio.Task[None]", current_task()))

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)  # one that was cancelled before it began
        if task.cancelled():  # by aclose, or by whoever ends the loop
            self._summoned = False
            _fail(self._waiting, BackendUnavailable("the connections to Redis are being closed"))
            self._waiting.clear()

    async def _answer(self, batch: list[tuple[Command, asyncio.Future[Any]]]) -> None:
        from asyncio import timeout

        try:
            async with timeout(self._limit_s):
                replies = await self._ask([command for command, _ in batch])
        except BaseException as exc:
            _fail(batch, exc)
            if not isinstance(exc, Exception):
                raise
            return
        for (_, answer), reply in zip(batch, replies, strict=True):
            if not answer.done():
                answer.set_result(reply)

    async def _ask(self, commands: list[Command]) -> list[Any]:
        reused = bool(self._free)
        connection = self._free.pop() if reused else self._connect()
        try:
            try:
                replies = await _aexchange(connection, commands)
            except _errors.ConnectionError:
                if not reused:
                    raise
                # The server has closed it meanwhile, and the other idle ones too, as a rule.
                idle, self._free = [connection, *self._free], []
                for other in idle:
                    await _drop(other)
                connection = self._connect()
                replies = await _aexchange(connection, commands)
        except BaseException:
            await _drop(connection)  # a reply may still come
            raise
        self._free.append(connection)
        return replies


async def _aexchange(connection: Any, commands: list[Command]) -> list[Any]:
    if not connection.is_connected:
        await connection.connect()
    elif await (getattr(connection, "can_read", None) or connection.can_read_destructive)():
        raise _errors.ConnectionError("a reply that nobody waits for")
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except _errors.ResponseError as exc:
            replies.append(exc)
    return replies


async def _drop(connection: Any) -> None:
    with suppress(Exception):
        await connection.disconnect(nowait=True)


def _fail(asked: list[tuple[Command, asyncio.Future[Any]]], exc: BaseException) -> None:
    for _, answer in asked:
        if not answer.done():
            answer.set_exception(unavailable(exc))


def unavailable(exc: BaseException) -> BackendUnavailable:
    """Say what went wrong without the driver's text, which may hold anything."""
    name = type(exc).__name__
    match exc:
        case BackendUnavailable():
            return type(exc)(str(exc))
        case _errors.AuthenticationError() | _errors.AuthorizationError() | _errors.NoPermissionError():
            text = "Redis refuses the user or its password: check the backend URL and the ACL"
        case _errors.TimeoutError() | TimeoutError():
            text = "Redis did not answer in time"
        case _errors.ResponseError():
            code = _ERROR_CODE.search(str(exc))
            text = f"Redis answered with an error ({code[0] if code else name})"
        case _:
            text = f"Redis cannot be reached ({name})"
    return BackendUnavailable(text)
