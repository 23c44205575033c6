"""Batches calls on an event loop: those of one iteration, and those made while a batch is under way."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Generic, TypeVar

from ..errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

K = TypeVar("K")
V = TypeVar("V")


class Batcher(Generic[K, V]):
    """Passes keys to ``send`` in batches, one batch at a time, and gives each caller its value.

    ``send`` runs in a task of this object. Cancelling a caller therefore leaves nothing half done, and does
    not affect other callers. Equal keys that wait at the same time are sent once.

    Args:
        send: Returns a value for each key, in order.
    """

    def __init__(self, send: Callable[[list[K]], Awaitable[Sequence[V]]]) -> None:
        self._send = send
        self._waiting: dict[K, list[asyncio.Future[tuple[V] | Exception]]] = {}
        self._sending: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V:
        """Return the value of a key. May be cancelled at any time.

        Raises:
            BackendUnavailable: The batch was cancelled.
            Exception: Whatever ``send`` raised.
        """
        loop = asyncio.get_running_loop()
        # Holds an exception as its result, so that nothing is logged if the caller is cancelled meanwhile.
        future: asyncio.Future[tuple[V] | Exception] = loop.create_future()
        self._waiting.setdefault(key, []).append(future)
        if self._sending is None:
            # An empty context: the task belongs to no single request.
            self._sending = loop.create_task(self._serve(), context=Context())
            self._sending.add_done_callback(self._end)
        outcome = await future
        if isinstance(outcome, Exception):
            raise outcome
        return outcome[0]

    def cancel(self) -> asyncio.Task[None] | None:
        """Cancel what is under way, and return its task; the callers get ``BackendUnavailable``."""
        task = self._sending
        if task is not None:
            task.cancel()
        return task

    async def _serve(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            outcome: Sequence[V] | Exception = _closed()
            try:
                outcome = await self._send(list(batch))
            except Exception as exc:
                outcome = exc
            finally:
                _settle(batch, outcome)
        self._sending = None  # no await since the last check: the next call starts another task

    def _end(self, task: asyncio.Task[None]) -> None:
        if self._sending is task:  # the task was cancelled, perhaps before it started
            self._sending = None
            waiting, self._waiting = self._waiting, {}
            _settle(waiting, _closed())


def _closed() -> BackendUnavailable:
    return BackendUnavailable("the store is closed")


def _settle(
    batch: dict[K, list[asyncio.Future[tuple[V] | Exception]]], outcome: Sequence[V] | Exception
) -> None:
    for index, futures in enumerate(batch.values()):
        result = outcome if isinstance(outcome, Exception) else (outcome[index],)
        for future in futures:
            if not future.done():
                future.set_result(result)
