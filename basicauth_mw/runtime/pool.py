"""A few daemon threads for blocking work, with a bounded queue.

``concurrent.futures.ThreadPoolExecutor`` does not fit: its queue is unbounded, its threads keep the
interpreter from exiting while a lookup hangs, and a job does not know its thread, so it cannot be
interrupted.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from .fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class QueueFull(Exception):
    """Every thread is busy and the queue is full."""


class Job(Future[T]):
    """One piece of work: queued, running or done."""

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__()
        self._work = work
        self._thread_id: int | None = None
        self._lock = threading.Lock()

    def run(self) -> None:
        """Do the work on the calling thread, unless the job was cancelled."""
        if not self.set_running_or_notify_cancel():
            del self._work
            return
        with self._lock:
            self._thread_id = threading.get_ident()
        try:
            result = self._work()
        except BaseException as exc:
            self._finish()
            # Exceptions that stop a thread or a generator must not do so where the result is awaited.
            stops = isinstance(exc, StopIteration) or not isinstance(exc, Exception)
            self.set_exception(RuntimeError(f"{type(exc).__name__} in a worker") if stops else exc)
        else:
            self._finish()
            self.set_result(result)

    def cancel_or_interrupt(self, interrupt: Callable[[int], None] | None) -> None:
        """Cancel the job, or call ``interrupt`` with the ID of the thread that is running it."""
        if self.cancel() or interrupt is None:
            return
        with self._lock:
            if self._thread_id is not None:
                interrupt(self._thread_id)

    def _finish(self) -> None:
        with self._lock:
            self._thread_id = None
        del self._work  # it may hold a secret, and the job may be kept by its caller


class WorkerPool:
    """Starts threads on demand, and again in a forked child."""

    def __init__(self, name: str, *, workers: int, max_queue: int) -> None:
        self._name = name
        self._workers = workers
        self._max_queue = max_queue
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._jobs: deque[Job[Any]] = deque()
        self._changed = threading.Condition()
        self._threads = self._idle = self._closing = 0

    def submit(self, work: Callable[[], T]) -> Job[T]:
        """Queue work. Raises ``QueueFull`` if there is no room."""
        job = Job(work)
        with self._changed:
            is_busy = self._idle <= len(self._jobs) and not self._start_thread()
            if is_busy and (self._threads == 0 or (self._is_full() and not self._drop_cancelled())):
                raise QueueFull(self._name)
            self._jobs.append(job)
            self._changed.notify()
        return job

    def close(self) -> None:
        """Stop the threads when the queue is empty; a later ``submit`` starts new ones."""
        with self._changed:
            self._closing += self._threads
            self._threads = 0
            self._changed.notify_all()

    def _is_full(self) -> bool:
        return len(self._jobs) - self._idle >= self._max_queue

    def _drop_cancelled(self) -> bool:
        """Remove cancelled jobs from the queue; returns whether there is room now."""
        self._jobs = deque(job for job in self._jobs if not job.cancelled())
        return not self._is_full()

    def _start_thread(self) -> bool:
        """Start a thread, unless there are enough or the system has no more; returns whether it did."""
        if self._threads >= self._workers:
            return False
        number = self._threads + 1
        thread = threading.Thread(target=self._serve, name=f"basicauth_mw {self._name} {number}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._threads = number
        return True

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._jobs and not self._closing:
                    self._changed.wait()
                self._idle -= 1
                if not self._jobs:
                    self._closing -= 1
                    return
                job = self._jobs.popleft()
            job.run()
            del job
