"""A lock that some thread held at the moment of a fork must not hang the child."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.cache import Cache
from basicauth_mw.model import Allow, Principal, utcnow
from basicauth_mw.pool import WorkerPool
from basicauth_mw.throttle import FailureLimits, Throttle

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_S = 10.0


def child_ends_well(work: Callable[[], object]) -> bool:
    """Run in a forked child; False if it raises, or is still busy at the limit."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def put(cache: Cache) -> None:
    cache.put(b"1", Allow(Principal("a")), secret_created_at=utcnow(), expires_at=None, asked=cache.ask())
    assert cache.get(b"1") is not None


def test_a_cache_starts_empty_and_free() -> None:
    """Empty, as its table may have been half changed; the parent's stays as it is."""
    cache = Cache(30, 10)
    put(cache)

    def work() -> None:
        assert cache.get(b"1") is None
        put(cache)

    with cache._lock:
        assert child_ends_well(work)
    assert cache.get(b"1") is not None


@pytest.mark.parametrize("held", ["the throttle's", "the limits'"])
def test_failures_are_counted_afresh(held: str) -> None:
    throttle = Throttle(2, 60)
    limits = FailureLimits("2/minute", "")
    lock = throttle._lock if held == "the throttle's" else limits._lock

    def work() -> None:
        throttle.record("a")
        limits.record("192.0.2.1", "a")
        assert not limits.active

    with lock:
        assert child_ends_well(work)


def test_a_pool_has_threads_of_its_own() -> None:
    pool = WorkerPool("forking", workers=1, waiting=1)
    assert pool.submit(lambda: 1).result(LIMIT_S) == 1

    def work() -> None:
        assert pool.submit(lambda: 2).result(LIMIT_S) == 2

    with pool._changed:
        assert child_ends_well(work)
    assert pool.submit(lambda: 3).result(LIMIT_S) == 3
    pool.close()
