"""Single flight: of those who ask the same at once, one asks, and the others share its answer.

A failure is shared by those who wait for it, and remembered for nobody else. Who asks may be cancelled: then
one of those who wait asks in its place.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._fork import after_fork

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Hashable

T = TypeVar("T")

# An answer, a failure, or None: whoever asked was cancelled. Not an exception of the future, which would
# complain if nobody waited for it.
_Landing = tuple[T] | Exception | None


class Flights(Generic[T]):
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
        flight: Future[T] = Future()
        with self._lock:
            other = self._threads.setdefault(what, flight)
        if other is not flight:
            return other.result(max(0, ends_at - time.monotonic()))
        try:
            answer = question()
        except BaseException as exc:
            with self._lock:
                del self._threads[what]
            # What means "end" to this thread is a failure like any other to those who wait.
            flight.set_exception(exc if isinstance(exc, Exception) else RuntimeError(type(exc).__name__))
            raise
        with self._lock:
            del self._threads[what]
        flight.set_result(answer)
        return answer

    async def aask(self, what: Hashable, question: Callable[[], Awaitable[T]], ends_at: float) -> T:
        """``ask`` for an event loop."""
        from asyncio import get_running_loop, shield, timeout

        loop = get_running_loop()
        key = (loop, what)
        while (other := self._tasks.get(key)) is not None:
            async with timeout(max(0, ends_at - time.monotonic())):
                landed = await shield(other)
            if isinstance(landed, Exception):
                raise landed
            if landed is not None:
                return landed[0]
        flight: asyncio.Future[_Landing[T]] = loop.create_future()
        self._tasks[key] = flight
        landing: _Landing[T] = None
        try:
            landing = (await question(),)
            return landing[0]
        except Exception as exc:
            landing = exc
            raise
        finally:
            del self._tasks[key]
            if not flight.done():
                flight.set_result(landing)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._threads: dict[Any, Future[T]] = {}
        self._tasks: dict[Any, asyncio.Future[_Landing[T]]] = {}
