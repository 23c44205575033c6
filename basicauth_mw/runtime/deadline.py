"""Await within a deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")


async def await_until(ends_at: float, awaitable: Awaitable[T]) -> T:
    """Await something until a time of the monotonic clock.

    Raises:
        TimeoutError: The time is over.
        CancelledError: The calling task was cancelled.
        RuntimeError: The awaited work was cancelled internally.
    """
    from asyncio import CancelledError, current_task, timeout

    try:
        async with timeout(max(0, ends_at - time.monotonic())):
            return await awaitable
    except CancelledError:
        task = current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("the awaited work was cancelled") from None
