"""Single flight: of those who ask the same at once, one asks, and the others share its answer.

A failure is shared by those who wait for it, and remembered for nobody else. Who asks may be cancelled: then
one of those who wait asks in its place. Who asks alone, as most do, pays for an entry in a table.
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

# An answer, a failure, or None: whoever asked was cancelled. Not an exception of the future, which would
# complain if nobody waited for it.
_Landing = tuple[T] | Exception | None


class SingleFlight(Generic[T]):
    """Shares answers between threads, and apart from them between the tasks of each event loop."""

    def __init__(self) -> None:
        self._reset()
        after_fork(self._reset)

    def ask(self, what: Hashable, question: Callable[[], T], ends_at: float) -> T:
        """Ask, or wait for whoever asks the same already.

        Args:
            what: Equal for questions that may share an answer.
            question: Asks.
            ends_at: Until when to wait for another, by the monotonic clock.

        Raises:
            TimeoutError: The other took too long.
        """
        with self._lock:
            if what in self._threads:
                waited_for = self._threads[what]
                if waited_for is None:
                    waited_for = self._threads[what] = Future()
            else:
                waited_for = self._threads[what] = None
        if waited_for is not None:
            return waited_for.result(max(0, ends_at - time.monotonic()))
        try:
            answer = question()
        except BaseException as exc:
            if (others := self._land(what)) is not None:
                # What means "end" to this thread is a failure like any other to those who wait.
                others.set_exception(exc if isinstance(exc, Exception) else RuntimeError(type(exc).__name__))
            raise
        if (others := self._land(what)) is not None:
            others.set_result(answer)
        return answer

    async def aask(self, what: Hashable, question: Callable[[], Awaitable[T]], ends_at: float) -> T:
        """``ask`` for an event loop."""
        from asyncio import get_running_loop

        loop = get_running_loop()
        key = (loop, what)
        while key in self._tasks:
            landed = await self._wait(key, ends_at)
            if isinstance(landed, Exception):
                raise landed
            if landed is not None:
                return landed[0]
        self._tasks[key] = None
        landing: _Landing[T] = None
        try:
            landing = (await question(),)
            return landing[0]
        except Exception as exc:
            landing = exc
            raise
        finally:
            others = self._tasks.pop(key)
            if others is not None and not others.done():
                others.set_result(landing)

    async def _wait(self, key: tuple[asyncio.AbstractEventLoop, Hashable], ends_at: float) -> _Landing[T]:
        from asyncio import shield, timeout

        waited_for = self._tasks[key]
        if waited_for is None:
            waited_for = self._tasks[key] = key[0].create_future()
        async with timeout(max(0, ends_at - time.monotonic())):
            return await shield(waited_for)

    def _land(self, what: Hashable) -> Future[T] | None:
        """The flight is over; those who wait for it, if any do."""
        with self._lock:
            return self._threads.pop(what)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        # By question; None while nobody but the one who asks wants to know.
        self._threads: dict[Any, Future[T] | None] = {}
        self._tasks: dict[Any, asyncio.Future[_Landing[T]] | None] = {}
