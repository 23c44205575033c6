"""Connections of threads to Redis, one for each thread and server: over redis-py's own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, cast

from .._extras import require
from ._redis_replies import is_of_a_replica

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._redis_ways import Command, Router, Steps, Way

_errors = require("redis.exceptions", extra="redis")


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


def _socket(connection: Any) -> socket.socket | None:
    found: socket.socket | None = getattr(connection, "_sock", None)  # redis-py has no public name
    return found


def _is_stale(connection: Any) -> bool:
    try:
        return bool(connection.can_read())  # a reply that nobody waits for
    except Exception:
        return True
