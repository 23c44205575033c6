"""Connections to Redis: one for each thread and server, a few for each event loop; over redis-py's own.

A loop's connections are read by tasks that nobody cancels. What is asked while the others are on their way
goes out together, in one batch: a request that gives up leaves no reply behind for the next one.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from contextlib import closing, suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, cast

from .._extras import require
from ..errors import BackendUnavailable
from ._redis_replies import is_of_a_replica, unavailable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from ._redis_ways import Command, Router, Steps, Way

    _Asked = tuple[tuple[Command, ...], asyncio.Future[list[Any]]]

_errors = require("redis.exceptions", extra="redis")

CONNECTIONS_PER_LOOP: Final = 4

_BATCH: Final = 100


class ThreadLines:
    """One thread's connections, one for each way, used in a ``with`` block.

    Args:
        router: Says which way to take.
        connect: Makes a connection of redis-py that is not connected yet; takes more options for it.
        timeout_s: For connecting, and for each wait.
    """

    def __init__(self, router: Router, connect: Callable[..., Any], timeout_s: float) -> None:
        self._router = router
        self._ways = router.ways
        self._connect = connect
        self._timeout_s = timeout_s
        self._open: dict[Way, Any] = {}
        self._current: Any = None  # the connection that is waited on
        self._in_use = threading.Lock()
        self._retired = False
        self._cut = False

    def __enter__(self) -> None:
        self._in_use.acquire()
        self._cut = False

    def __exit__(self, *_exc: object) -> None:
        self._current = None
        if self._retired:
            self.close()
        self._in_use.release()

    def ask(self, commands: Iterable[Command], *, again: bool = True) -> list[Any]:
        """Send commands where they belong and read as many replies; an error reply is returned, not raised.

        Args:
            commands: What to ask; those that are made on the way can be asked once only.
            again: They may be asked twice, if a connection that was used before turns out to be closed.
        """
        return self._run(self._router.ask(commands, again=again), again=again)

    def ask_all(self, commands: Iterable[Command]) -> list[Any]:
        """Send commands that only read to every server that can be written."""
        return self._run(self._router.ask_all(commands), again=True)

    def cut(self) -> None:
        """End what another thread waits for."""
        # The flag first: that thread looks at it as soon as it has a socket.
        self._cut = True
        in_use = _socket(self._current)
        if in_use is not None:
            with suppress(OSError):
                # That of a TLS socket would let the other thread go on reading, in clear.
                socket.socket.shutdown(in_use, socket.SHUT_RDWR)

    def retire(self) -> None:
        """Close as soon as the lines are not in use."""
        self._retired = True
        if self._in_use.acquire(blocking=False):
            with suppress(BaseException):
                self.close()
            self._in_use.release()

    def close(self) -> None:
        self._retired = False
        while self._open:
            self._open.popitem()[1].disconnect()

    def _run(self, steps: Steps, *, again: bool) -> list[Any]:
        outcome: Any = None
        with closing(steps):
            while True:
                try:
                    way, commands = steps.send(outcome)
                except StopIteration as done:
                    self._keep(self._router.ways)
                    return cast("list[Any]", done.value)
                try:
                    outcome = self._ask(way, commands, again=again)
                except Exception as exc:
                    if self._cut:
                        raise
                    outcome = exc

    def _keep(self, ways: frozenset[Way]) -> None:
        if ways is not self._ways:
            self._ways = ways
            for way in self._open.keys() - ways:
                self._open.pop(way).disconnect()

    def _ask(self, way: Way, commands: Iterable[Command], *, again: bool) -> list[Any]:
        connection = self._open.pop(way, None)
        try:
            if connection is not None and _is_stale(connection):
                connection.disconnect()
                connection = None
            if connection is None:
                connection = self._dial(way)
                again = False
            try:
                replies = self._exchange(connection, commands)
            except _errors.ConnectionError:
                if self._cut or not again:
                    raise
                connection.disconnect()
                connection = self._dial(way)
                replies = self._exchange(connection, commands)
        except BaseException:
            if connection is not None:
                connection.disconnect()
            raise
        if any(map(is_of_a_replica, replies)):
            connection.disconnect()  # the next one finds the master
        else:
            self._open[way] = connection
        return replies

    def _dial(self, way: Way) -> Any:
        stops = way.stops()
        connection: Any = None
        outcome: Any = None
        try:
            while True:
                try:
                    stop = stops.send(outcome)
                except StopIteration:
                    return connection
                if connection is not None:
                    connection.disconnect()
                limit_s = self._timeout_s if stop.limit_s is None else stop.limit_s
                connection = self._connect(
                    socket_connect_timeout=limit_s,
                    socket_timeout=limit_s,
                    redis_connect_func=self._greet,
                    **stop.options,
                )
                outcome = self._stop_at(connection, stop.command)
        except BaseException:
            if connection is not None:
                connection.disconnect()
            raise

    def _stop_at(self, connection: Any, command: Command | None) -> Any:
        self._current = connection
        try:
            connection.connect()
            return None if command is None else self._exchange(connection, [command])[0]
        except Exception as exc:
            if self._cut:
                raise
            return exc

    def _exchange(self, connection: Any, commands: Iterable[Command]) -> list[Any]:
        self._current = connection
        if self._cut:  # before it could see what to cut
            raise _errors.ConnectionError("given up")
        replies: list[Any] = []
        unanswered = 0
        # Each that is made on the way goes out at once, so that the server works on it meanwhile.
        parts = [commands] if isinstance(commands, Sequence) else ((command,) for command in commands)
        for part in parts:
            connection.send_packed_command(connection.pack_commands(part), check_health=False)
            unanswered += len(part)
        for _ in range(unanswered):
            try:
                replies.append(connection.read_response())
            except _errors.ResponseError as exc:
                replies.append(exc)
        return replies

    def _greet(self, connection: Any) -> None:
        if self._cut:
            raise _errors.ConnectionError("given up")
        connection.on_connect()


class LoopLines:
    """The connections of one event loop, a few for each way.

    Args:
        router: Says which way to take.
        connect: Makes a connection of redis-py that is not connected yet; takes more options for it.
        limit_s: For all of one batch, connecting included.
    """

    def __init__(self, router: Router, connect: Callable[..., Any], limit_s: float) -> None:
        self._router = router
        self._ways = router.ways
        self._connect = connect
        self._limit_s = limit_s
        self._lines: dict[Way, LoopLine] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def ask(self, commands: Iterable[Command]) -> list[Any]:
        """Send commands that only read where they belong; may be cancelled at any time.

        Raises:
            BackendUnavailable: There is no reply.
        """
        outcome: Any = None
        with closing(self._router.ask(commands, again=True)) as steps:
            while True:
                try:
                    way, batch = steps.send(outcome)
                except StopIteration as done:
                    self._keep(self._router.ways)
                    return cast("list[Any]", done.value)
                try:
                    outcome = await self._to(way).ask(batch)
                except Exception as exc:
                    outcome = exc

    async def aclose(self) -> None:
        """Give up what is asked, and close the connections."""
        from asyncio import gather

        lines, self._lines = self._lines, {}
        await gather(*(line.aclose() for line in lines.values()), *self._leaving, return_exceptions=True)

    def _to(self, way: Way) -> LoopLine:
        if (line := self._lines.get(way)) is None:
            line = self._lines[way] = LoopLine(self._connect, way, self._limit_s)
        return line

    def _keep(self, ways: frozenset[Way]) -> None:
        if ways is self._ways:
            return
        from asyncio import get_running_loop

        gone = self._lines.keys() - ways
        idle = {way for way in gone if self._lines[way].is_idle()}
        if idle == gone:
            self._ways = ways
        for way in idle:
            task = Context().run(get_running_loop().create_task, self._lines.pop(way).aclose())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)


class LoopLine:
    """An event loop's connections that take one way.

    Args:
        connect: As for ``LoopLines``.
        way: Taken anew for each connection.
        limit_s: For all of one batch, connecting included.
    """

    def __init__(self, connect: Callable[..., Any], way: Way, limit_s: float) -> None:
        self._connect = connect
        self._way = way
        self._limit_s = limit_s
        self._waiting: list[_Asked] = []
        self._free: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._summoned = False  # a task was made that has not begun

    async def ask(self, commands: Iterable[Command]) -> list[Any]:
        """Send commands with the next batch, one behind the other; an error reply is returned, not raised.

        They only read: what is asked twice in one batch is sent once.

        Raises:
            BackendUnavailable: There is no reply.
        """
        from asyncio import get_running_loop

        loop = get_running_loop()
        answer = loop.create_future()
        self._waiting.append((tuple(commands), answer))
        if not self._summoned and len(self._tasks) < CONNECTIONS_PER_LOOP:
            self._summoned = True
            # An empty context: the batch is nobody's request.
            task = Context().run(loop.create_task, self._serve())
            self._tasks.add(task)
            task.add_done_callback(self._served)
        return cast("list[Any]", await answer)

    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._waiting and not self._tasks

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

    async def _answer(self, batch: list[_Asked]) -> None:
        from asyncio import timeout

        questions = dict.fromkeys(commands for commands, _ in batch)
        try:
            async with timeout(self._limit_s):
                replies = iter(await self._ask([command for commands in questions for command in commands]))
        except BaseException as exc:
            _fail(batch, exc)
            if not isinstance(exc, Exception):
                raise
            return
        answers = {commands: [next(replies) for _ in commands] for commands in questions}
        for commands, answer in batch:
            if not answer.done():
                answer.set_result(answers[commands])

    async def _ask(self, commands: list[Command]) -> list[Any]:
        connection = self._free.pop() if self._free else None
        try:
            if connection is not None:
                try:
                    if await (getattr(connection, "can_read", None) or connection.can_read_destructive)():
                        raise _errors.ConnectionError("a reply that nobody waits for")
                    replies = await _aexchange(connection, commands)
                except _errors.ConnectionError:
                    # The server has closed it meanwhile, and the other idle ones too, as a rule.
                    idle, self._free = [connection, *self._free], []
                    connection = None
                    for other in idle:
                        await _drop(other)
            if connection is None:
                connection = await self._dial()
                replies = await _aexchange(connection, commands)
        except BaseException:
            if connection is not None:
                await _drop(connection)  # a reply may still come
            raise
        if any(map(is_of_a_replica, replies)):
            await _drop(connection)  # the next one finds the master
        else:
            self._free.append(connection)
        return replies

    async def _dial(self) -> Any:
        from asyncio import timeout

        stops = self._way.stops()
        connection: Any = None
        outcome: Any = None
        try:
            while True:
                try:
                    stop = stops.send(outcome)
                except StopIteration:
                    return connection
                if connection is not None:
                    await _drop(connection)
                # The batch has a time limit for all of it.
                connection = self._connect(
                    socket_connect_timeout=self._limit_s, socket_timeout=None, **stop.options
                )
                try:
                    async with timeout(stop.limit_s):
                        await connection.connect()
                        outcome = (await _aexchange(connection, [stop.command]))[0] if stop.command else None
                except Exception as exc:
                    outcome = exc
        except BaseException:
            if connection is not None:
                await _drop(connection)
            raise


async def _aexchange(connection: Any, commands: Iterable[Command]) -> list[Any]:
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


def _socket(connection: Any) -> socket.socket | None:
    found: socket.socket | None = getattr(connection, "_sock", None)  # redis-py has no public name
    return found


def _is_stale(connection: Any) -> bool:
    try:
        return bool(connection.can_read())  # a reply that nobody waits for
    except Exception:
        return True


def _fail(asked: list[_Asked], exc: BaseException) -> None:
    for _, answer in asked:
        if not answer.done():
            answer.set_exception(unavailable(exc))
