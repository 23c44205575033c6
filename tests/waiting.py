"""Time in tests: a clock that tests control, waiting for conditions, and waiting for servers."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

LIMIT_S = 60.0  # for work that takes at most a second on an idle machine


def run_in_thread(work: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` in a thread, since Playwright leaves an event loop running in that of the tests."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, asyncio.wait_for(work, LIMIT_S)).result()


class Clock:
    """A monotonic clock and a wall clock, in seconds, that a test sets."""

    def __init__(self, now: float = 1000.0, wall_now: float = 1_800_000_000.0) -> None:
        self.now = now
        self.wall_now = wall_now

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.wall_now


def wait_until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Wait until a condition is true."""
    ends = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends, "the condition did not become true in time"
        time.sleep(0.01)


def free_port() -> int:
    """A free port on 127.0.0.1.

    It is below the ephemeral ports of Linux, so that no outgoing connection takes it, and below those of the
    Redis servers.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 12_000)  # whatever seed a test has set
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def listens(port: int) -> bool:
    """Whether a server accepts connections on a port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
