"""The worker pool: bounded threads and queue, and usable again after a fork or a close."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.runtime.pool import QueueFull, WorkerPool
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT_S = 10


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """The event that hanging work waits for; it is always set at the end."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def pool(released: threading.Event) -> Iterator[WorkerPool]:
    pool = WorkerPool("test", workers=2, max_queue=3)
    yield pool
    released.set()
    pool.close()
    until(lambda: threads_of() == [])


def threads_of(name: str = "test") -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"basicauth_mw {name} ")]


def until(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def occupy(pool: WorkerPool, released: threading.Event, count: int) -> None:
    """Keep ``count`` workers busy, and wait until they are."""
    busy = [threading.Event() for _ in range(count)]
    for event in busy:

        def work(event: threading.Event = event) -> None:
            event.set()
            released.wait(LIMIT_S)

        pool.submit(work)
    for event in busy:
        assert event.wait(LIMIT_S)


def test_work_is_done_on_another_thread(pool: WorkerPool) -> None:
    """Its result or its exception is passed on; one that would stop a thread or a generator becomes a
    RuntimeError.
    """
    assert pool.submit(threading.get_ident).result(LIMIT_S) != threading.get_ident()
    for exc in (ValueError(), KeyboardInterrupt(), SystemExit(), StopIteration()):

        def fail(exc: BaseException = exc) -> None:
            raise exc

        raised = pool.submit(fail).exception(LIMIT_S)
        assert raised is exc or (type(raised) is RuntimeError and type(exc).__name__ in str(raised))
    assert pool.submit(lambda: 1).result(LIMIT_S) == 1, "the thread still runs"


def test_threads_start_on_demand(pool: WorkerPool, released: threading.Event) -> None:
    """One for one job at a time, more only while all are busy, never more than the limit; all are daemons."""
    assert threads_of() == []
    for _ in range(20):
        pool.submit(int).result(LIMIT_S)
        until(lambda: pool._idle == len(threads_of()))
    assert len(threads_of()) == 1
    occupy(pool, released, 2)
    pool.submit(int)

    assert len(threads_of()) == 2
    assert all(thread.daemon for thread in threads_of())


@pytest.mark.proves("F28", "F30")
def test_the_queue_is_bounded(pool: WorkerPool, released: threading.Event) -> None:
    """Work that does not fit is refused at once; queued work is done in order."""
    occupy(pool, released, 2)
    order: list[int] = []
    jobs = [pool.submit(lambda number=number: order.append(number)) for number in range(3)]
    for _ in range(3):
        with pytest.raises(QueueFull):
            pool.submit(int)
    released.set()
    for job in jobs:
        job.result(LIMIT_S)

    assert sorted(order) == [0, 1, 2]
    until(lambda: pool._idle == 2)
    assert pool.submit(lambda: 1).result(LIMIT_S) == 1, "there is room again"


def test_queued_work_that_is_cancelled_is_never_done(pool: WorkerPool, released: threading.Event) -> None:
    """No thread is interrupted for it."""
    occupy(pool, released, 2)
    done: list[int] = []
    interrupted: list[int] = []
    job = pool.submit(lambda: done.append(1))
    job.cancel_or_interrupt(interrupted.append)
    after = pool.submit(lambda: 2)
    released.set()

    assert after.result(LIMIT_S) == 2
    assert job.cancelled()
    assert (done, interrupted) == ([], [])


def test_only_the_thread_that_does_the_work_is_interrupted(
    pool: WorkerPool, released: threading.Event
) -> None:
    """Only while it does this work, never later, when it may do other work."""
    interrupted: list[int] = []
    idents: list[int] = []
    began = threading.Event()

    def work() -> None:
        idents.append(threading.get_ident())
        began.set()
        released.wait(LIMIT_S)

    job = pool.submit(work)
    assert began.wait(LIMIT_S)
    job.cancel_or_interrupt(interrupted.append)
    assert interrupted == idents
    released.set()
    job.result(LIMIT_S)
    job.cancel_or_interrupt(interrupted.append)

    assert interrupted == idents
    job.cancel_or_interrupt(None)


@pytest.mark.parametrize("ending", ["result", "exception", "cancelled"])
def test_a_finished_job_does_not_keep_its_work(
    pool: WorkerPool, released: threading.Event, ending: str
) -> None:
    """The work holds a secret, and a caller may keep the job."""

    class Work:
        def __call__(self) -> None:
            if ending == "exception":
                raise ValueError

    work = Work()
    gone = weakref.ref(work)
    if ending == "cancelled":
        occupy(pool, released, 2)
    job = pool.submit(work)
    if ending == "cancelled":
        job.cancel_or_interrupt(None)
        released.set()
    else:
        exc = job.exception(LIMIT_S)
        assert (exc is not None) == (ending == "exception")
        if exc is not None:
            exc.__traceback__ = None  # its frames are the caller's to drop
        del exc
    del work

    def collected() -> bool:
        gc.collect()
        return gone() is None

    until(collected, 2)
    assert job.done()


def test_threads_stop_when_the_pool_is_closed(released: threading.Event) -> None:
    """Idle ones at once, busy ones when the queue is empty; a later job starts new ones."""
    pool = WorkerPool("closing", workers=2, max_queue=3)
    occupy(pool, released, 2)
    queued = pool.submit(lambda: 1)
    pool.close()
    pool.close()
    released.set()
    assert queued.result(LIMIT_S) == 1
    until(lambda: threads_of("closing") == [])

    for _ in range(3):
        assert pool.submit(lambda: 2).result(LIMIT_S) == 2
        pool.close()
        until(lambda: threads_of("closing") == [])


def test_a_job_right_after_a_close_is_done() -> None:
    """In whatever order the threads notice it."""
    pool = WorkerPool("racing", workers=2, max_queue=50)
    for number in range(300):
        jobs = [pool.submit(lambda number=number: number) for _ in range(3)]
        pool.close()
        jobs += [pool.submit(lambda number=number: number) for _ in range(3)]
        assert [job.result(LIMIT_S) for job in jobs] == [number] * 6
    pool.close()
    until(lambda: threads_of("racing") == [])


def test_many_threads_submit(released: threading.Event) -> None:
    """Every job is done once."""
    pool = WorkerPool("many", workers=4, max_queue=10_000)
    done: list[int] = []
    start = threading.Barrier(8)

    def submit(worker: int) -> None:
        start.wait()
        jobs = [pool.submit(lambda n=n: done.append(n)) for n in range(worker * 200, worker * 200 + 200)]
        for job in jobs:
            job.result(LIMIT_S)

    threads = [threading.Thread(target=submit, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    count = len(threads_of("many"))
    pool.close()

    assert sorted(done) == list(range(1600))
    assert count <= 4


def in_child(work: Callable[[], bool]) -> bool:
    """Whether ``work`` is true in a forked child, within a limit."""
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.proves("F31")
def test_a_forked_child_starts_its_own_threads(pool: WorkerPool, released: threading.Event) -> None:
    """Whether the parent's threads are busy, idle or taking a job."""
    assert pool.submit(lambda: 1).result(LIMIT_S) == 1
    assert in_child(lambda: pool.submit(lambda: 2).result(LIMIT_S) == 2)
    occupy(pool, released, 2)
    pool.submit(int)
    assert in_child(lambda: pool.submit(lambda: 3).result(LIMIT_S) == 3)
    released.set()
    until(lambda: pool._idle == 2)
    assert pool.submit(lambda: 4).result(LIMIT_S) == 4


@pytest.mark.proves("F31")
@pytest.mark.parametrize("call", ["submit", "close"])
def test_a_lock_that_was_held_at_the_fork_does_not_block_the_child(pool: WorkerPool, call: str) -> None:
    """A child closes its pools at exit, even if another thread of the parent was taking a job."""
    pool.submit(int).result(LIMIT_S)
    held, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with pool._changed:
            held.set()
            enough.wait(LIMIT_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(LIMIT_S)

    def work() -> bool:
        signal.alarm(2)
        if call == "close":
            pool.close()
        return pool.submit(lambda: 1).result(LIMIT_S) == 1

    try:
        assert in_child(work)
    finally:
        enough.set()
        holder.join(LIMIT_S)


def test_a_thread_that_cannot_be_started_is_not_counted(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work is refused while the system has no more threads, and accepted when it has."""

    def no_more(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more)
        for _ in range(5):
            with pytest.raises(QueueFull):
                pool.submit(int)

    assert pool.submit(lambda: 1).result(LIMIT_S) == 1


def test_the_queue_is_bounded_where_no_second_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = WorkerPool("few", workers=2, max_queue=3)
    released = threading.Event()
    first = pool.submit(lambda: released.wait(LIMIT_S))
    wait_until(first.running)

    def no_more(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more)
        jobs = [pool.submit(int) for _ in range(3)]
        with pytest.raises(QueueFull):
            pool.submit(int)
    released.set()
    assert [job.result(LIMIT_S) for job in jobs] == [0, 0, 0]
    pool.close()
