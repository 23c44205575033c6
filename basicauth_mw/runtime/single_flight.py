"""Single flight: concurrent callers with the same key share one call.

A failure is shared by the callers that wait for it and is not remembered. If the task that makes the call is
cancelled, one of the waiting tasks makes it again. A lone caller pays for one entry in a table.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .fork import after_fork

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Hashable

T = TypeVar("T")

# A result, an exception, or None if the calling task was cancelled. A future with an exception would log a
# warning if no task awaited it.
_Outcome = tuple[T] | Exception | None


class SingleFlight(Generic[T]):
    """Shares calls between threads, and separately between the tasks of each event loop."""

    def __init__(self) -> None:
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        # By key; None until a second caller joins.
        self._threads: dict[Any, Future[T] | None] = {}
        self._tasks: dict[Any, asyncio.Future[_Outcome[T]] | None] = {}

    def do(self, key: Hashable, function: Callable[[], T], ends_at: float) -> T:
        """Call ``function``, or wait for the result of an equal call.

        ``ends_at`` limits the wait, by the monotonic clock. Raises ``TimeoutError`` when it is over.
        """
        with self._lock:
            if key in self._threads:
                shared = self._threads[key]
                if shared is None:
                    shared = self._threads[key] = Future()
            else:
                shared = self._threads[key] = None
        if shared is not None:
            return shared.result(max(0, ends_at - time.monotonic()))
        try:
            result = function()
        except BaseException as exc:
            if (waiting := self._finish(key)) is not None:
                # Exceptions that stop this thread must not stop the others.
                waiting.set_exception(exc if isinstance(exc, Exception) else RuntimeError(type(exc).__name__))
            raise
        if (waiting := self._finish(key)) is not None:
            waiting.set_result(result)
        return result

    def _finish(self, key: Hashable) -> Future[T] | None:
        with self._lock:
            return self._threads.pop(key)

    async def ado(self, key: Hashable, function: Callable[[], Awaitable[T]], ends_at: float) -> T:
        """``do`` for an event loop."""
        from asyncio import get_running_loop

        loop = get_running_loop()
        key = (loop, key)
        while key in self._tasks:
            shared = await self._wait(loop, key, ends_at)
            if isinstance(shared, Exception):
                raise shared
            if shared is not None:
                return shared[0]
        self._tasks[key] = None
        outcome: _Outcome[T] = None
        try:
            outcome = (await function(),)
            return outcome[0]
        except Exception as exc:
            outcome = exc
            raise
        finally:
            waiting = self._tasks.pop(key)
            if waiting is not None and not waiting.done():
                waiting.set_result(outcome)

    async def _wait(self, loop: asyncio.AbstractEventLoop, key: Hashable, ends_at: float) -> _Outcome[T]:
        from asyncio import shield, timeout

        shared = self._tasks[key]
        if shared is None:
            shared = self._tasks[key] = loop.create_future()
        async with timeout(max(0, ends_at - time.monotonic())):
            return await shield(shared)
