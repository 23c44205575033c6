"""Locks and connections that are held during a fork affect neither the child nor its parent."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.auth.cache import VerificationCache
from basicauth_mw.auth.throttle import FailureThrottle
from basicauth_mw.keys.model import Principal
from basicauth_mw.runtime import fork as _fork
from basicauth_mw.runtime.fork import after_fork, after_fork_in_parent, before_fork
from basicauth_mw.runtime.pool import WorkerPool
from basicauth_mw.runtime.thread_local import ThreadLocalRegistry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


def put(cache: VerificationCache) -> None:
    cache.put(b"1", Principal("a"), secret_created_at=0, expires_at=None, stamp=cache.stamp())
    assert cache.get(b"1") is not None


@pytest.mark.proves("F31")
def test_a_cache_starts_empty_and_unlocked() -> None:
    """Empty, as its table may have been half changed; the parent's is unchanged."""
    cache = VerificationCache(30, 10)
    put(cache)

    def work() -> None:
        assert cache.get(b"1") is None
        put(cache)

    with cache._lock:
        assert child_ends_well(work)
    assert cache.get(b"1") is not None


def test_a_child_counts_failures_from_zero() -> None:
    throttle = FailureThrottle("1/minute", "")
    throttle.record("192.0.2.1", "a")
    assert throttle.active

    def work() -> None:
        assert not throttle.active
        assert throttle.check("192.0.2.1", "a") is None
        throttle.record("192.0.2.1", "a")
        assert throttle.active

    with throttle._lock:
        assert child_ends_well(work)


def test_a_child_has_its_own_pool_threads() -> None:
    pool = WorkerPool("forking", workers=1, max_queue=1)
    assert pool.submit(lambda: 1).result(LIMIT_S) == 1

    def work() -> None:
        assert pool.submit(lambda: 2).result(LIMIT_S) == 2

    with pool._changed:
        assert child_ends_well(work)
    assert pool.submit(lambda: 3).result(LIMIT_S) == 3
    pool.close()


class Witness:
    """Records which of its methods a fork calls."""

    def __init__(self, seen: list[str], name: str) -> None:
        self.seen = seen
        self.name = name
        before_fork(self.before)
        after_fork_in_parent(self.in_parent)
        after_fork(self.in_child)

    def before(self) -> None:
        self.seen.append(f"before {self.name}")

    def in_parent(self) -> None:
        self.seen.append(f"parent {self.name}")

    def in_child(self) -> None:
        self.seen.append(f"child {self.name}")


def test_hooks_are_called_in_order() -> None:
    """In the order in which they were added, so that locks are always taken in one order."""
    seen: list[str] = []
    kept = [Witness(seen, "1"), Witness(seen, "gone"), Witness(seen, "2")]
    del kept[1]

    def work() -> None:
        assert seen == ["before 1", "before 2", "child 1", "child 2"]

    assert child_ends_well(work)
    assert seen == ["before 1", "before 2", "parent 1", "parent 2"]


def test_hooks_of_collected_objects_are_dropped() -> None:
    """A process that opens and drops backends forever does not grow."""
    kinds = (_fork._before, _fork._in_parent, _fork._in_child)
    bounds = [max(hooks._prune_at, 2 * (len(list(hooks)) + 1)) for hooks in kinds]
    for _ in range(2 * max(bounds)):
        Witness([], "gone")
    for hooks, bound in zip(kinds, bounds, strict=True):
        assert len(hooks._methods) <= bound


class Connection:
    """Writes a line to a file when it is closed, in whichever process."""

    def __init__(self, closed: Path) -> None:
        self.closed = closed

    def close(self) -> None:
        with self.closed.open("a") as file:
            file.write("closed\n")


@pytest.mark.proves("F31")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_closes_no_connection_of_its_parent(tmp_path: Path) -> None:
    """The threads are gone in the child, but closing their connections would close them for the parent."""
    closed = tmp_path / "closed"
    closed.touch()
    lines = ThreadLocalRegistry(lambda: Connection(closed))
    holding, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        lines.get()
        holding.set()
        go_on.wait(LIMIT_S)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(LIMIT_S)
    lines.get()

    def work() -> None:
        assert lines.values() == []
        _fork._kept_alive.clear()  # as at the end of an interpreter
        gc.collect()

    assert child_ends_well(work)
    assert closed.read_text() == ""
    assert len(lines.values()) == 2
    go_on.set()
    thread.join(LIMIT_S)
    assert closed.read_text() == "closed\n"
    assert len(lines.values()) == 1
