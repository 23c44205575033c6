"""Reads keys from a store for the verifier, within a deadline, and checks slow hashes in a bounded pool.

A store that can answer at once is read on the calling thread. All others are read on a few worker threads, or
on the event loop if they are asynchronous. While a store is unavailable, a circuit breaker refuses lookups.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext, suppress
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, assert_never

from ..auth.verifier import HoldsSlow, Lookup, VerifyPassword
from ..errors import BackendError, BackendUnavailable, MissingExtra, Overloaded, UnreadableRecord
from ..keys.generated_secrets import ID_PREFIX, generate
from ..keys.hashing import dummy_password_hash, verify_password
from ..keys.model import Allow, Decision, Key
from ..runtime.breaker import Breaker
from ..runtime.pool import QueueFull, WorkerPool
from ..runtime.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from ..auth.verifier import Effect
    from ..runtime.pool import Job
    from .change_feed import ChangeFeed

T = TypeVar("T")

LOOKUP_WORKERS: Final = 8
LOOKUPS_WAITING: Final = 256
SLOW_WAITING_PER_WORKER: Final = 8
SLOW_CHECK_LIMIT_S: Final = 5.0  # its place in the queue included: a flood is refused, not kept waiting
_SLOW_FACT_AGE_S: Final = 1.0


class MetricsHook(Protocol):
    """Counts what happens to requests. Called on the request path."""

    def wrap_cache_get(self, get: Callable[[bytes], Allow | None]) -> Callable[[bytes], Allow | None]:
        """A replacement for ``VerdictCache.get`` that counts its hits."""
        ...

    def time_lookup(self) -> AbstractContextManager[object]:
        """Wraps a lookup that may have to wait."""
        ...

    def allowed(self) -> None:
        """A request was allowed, and not from the cache."""
        ...

    def refused(self, reason: str) -> None:
        """A request was refused."""
        ...


class StoreReader:
    """Asks a store, within a deadline, and hashes in a bounded pool.

    Args:
        store: Anything with ``get`` or ``aget``; see ``backends.base``.
        deadline_s: Seconds for all that one request asks of the store, everything included.
        slow_hash_workers: Slow hashes at a time.
        feed: Where changes are heard of, if what is found here may be remembered.

    Attributes:
        metrics: The metrics hook; None: metrics are off.

    Whatever a store raises means that it cannot be asked; what it answers must be the key asked for.
    """

    metrics: MetricsHook | None = None

    def __init__(
        self, store: Any, *, deadline_s: float, slow_hash_workers: int, feed: ChangeFeed | None = None
    ) -> None:
        self._get: Callable[[str], object] | None = getattr(store, "get", None)
        self._get_nowait: Callable[[str], object] | None = getattr(store, "get_nowait", None)
        self._aget: Callable[[str], Awaitable[object]] | None = getattr(store, "aget", None)
        self._holds_slow: Callable[[], object] | None = getattr(store, "holds_slow", None)
        self._interrupt: Callable[[int], None] | None = getattr(store, "interrupt", None)
        self._deadline_s = deadline_s
        self._keeps_deadline = getattr(store, "deadline_s", math.inf) <= deadline_s
        self._feed = feed
        self.flights: SingleFlight[Decision] = SingleFlight()
        self._openings: SingleFlight[None] = SingleFlight()
        self._lookups = WorkerPool("look-up", workers=LOOKUP_WORKERS, waiting=LOOKUPS_WAITING)
        self._hashes = WorkerPool(
            "slow hash",
            workers=slow_hash_workers,
            waiting=SLOW_WAITING_PER_WORKER * slow_hash_workers,
        )
        # Where a part of a store may be away alone, no other part can tell of it.
        probe = self._probe if getattr(store, "in_one_place", True) else None
        self.breaker = Breaker(probe, quiet_s=deadline_s)
        self._slow = False
        self._slow_asked_at = float("-inf")

    def close(self) -> None:
        """Let the threads end."""
        self.breaker.close()
        self._lookups.close()
        self._hashes.close()

    def count_allow(self, decision: Decision) -> Decision:
        """The same decision, counted by the metrics hook if it is an ``Allow``."""
        if self.metrics is not None and type(decision) is Allow:
            self.metrics.allowed()
        return decision

    def deadline(self) -> float:
        """When a request that begins now must have its answer, by the monotonic clock."""
        return time.monotonic() + self._deadline_s

    def may_run_inline(self, *, is_generated: bool) -> bool:
        """Whether a check needs nothing but a lookup in a store that does not wait."""
        if self._get_nowait is None or not self._feed_is_open():
            return False
        return is_generated or (self._slow_is_known() and not self._slow)

    def perform_inline(self, effect: Effect) -> object:
        """``perform`` for a check that may run inline.

        Raises:
            BlockingIOError: It needs more, after all.
        """
        if isinstance(effect, HoldsSlow):
            return self._slow
        if not isinstance(effect, Lookup):
            raise BlockingIOError  # the first slow hash came since it was asked whether there are any
        try:
            answer = self._at_once(effect.client_id)
        except Exception as exc:
            raise self.failed(exc) from None
        if answer is _NOT_AT_ONCE:
            raise BlockingIOError
        return self._answered(answer, effect.client_id)

    def perform(self, effect: Effect, ends_at: float) -> object:
        """Do what a step asks for, blocking.

        Raises:
            BackendError: It could not be done by ``ends_at``.
        """
        match effect:
            case Lookup(client_id):
                return self.lookup(client_id, ends_at)
            case HoldsSlow():
                return self.holds_slow(ends_at)
            case VerifyPassword():
                return self._wait_for_hash(self._hash(effect))
            case _:
                assert_never(effect)

    async def aperform(self, effect: Effect, ends_at: float) -> object:
        """``perform`` for an event loop, which is never blocked."""
        match effect:
            case Lookup(client_id):
                return await self.alookup(client_id, ends_at)
            case HoldsSlow():
                return await self.aholds_slow(ends_at)
            case VerifyPassword():
                return await self._await_hash(self._hash(effect))
            case _:
                assert_never(effect)

    def lookup(self, client_id: str, ends_at: float) -> Key | None:
        """Ask for one key.

        Args:
            client_id: Whose.
            ends_at: By when, by the monotonic clock.

        Raises:
            BackendUnavailable: It cannot be asked, or answered with something else.
        """
        try:
            if not self._feed_is_open():
                self._open_feed(ends_at)
            answer = self._at_once(client_id)
            if answer is _NOT_AT_ONCE:
                with self._waiting():
                    answer = self._ask(partial(self._blocking_get, client_id, ends_at), ends_at)
        except Exception as exc:
            raise self.failed(exc) from None
        return self._answered(answer, client_id)

    async def alookup(self, client_id: str, ends_at: float) -> Key | None:
        """``lookup`` for an event loop. Suspends only if the store has to wait."""
        try:
            has_all_the_time = self._feed_is_open()
            if not has_all_the_time:
                await self._aopen_feed(ends_at)
            answer = self._at_once(client_id)
            if answer is _NOT_AT_ONCE:
                if self._aget is not None:
                    self.breaker.check()
                    question = self._aget(client_id)
                    in_time = has_all_the_time and self._keeps_deadline
                    with self._waiting():
                        answer = await (question if in_time else _within(ends_at, question))
                else:
                    with self._waiting():
                        answer = await self._aask(partial(self._blocking_get, client_id, ends_at), ends_at)
        except Exception as exc:
            raise self.failed(exc) from None
        return self._answered(answer, client_id)

    def holds_slow(self, ends_at: float) -> bool:
        """Whether the store holds any slow hash, as far as known; asked again at most once a second."""
        if self._slow_is_known():
            return self._slow
        return self._learn_slow(self.ask(self._blocking_holds_slow, ends_at))

    async def aholds_slow(self, ends_at: float) -> bool:
        """``holds_slow`` for an event loop."""
        if self._slow_is_known():
            return self._slow
        return self._learn_slow(await self.aask(self._blocking_holds_slow, ends_at))

    def ask(self, question: Callable[[], T], ends_at: float) -> T:
        """Ask the store for anything else.

        Raises:
            BackendUnavailable: It cannot be asked.
        """
        try:
            return self._ask(question, ends_at)
        except Exception as exc:
            raise self.failed(exc) from None

    async def aask(self, question: Callable[[], T], ends_at: float) -> T:
        """``ask`` for an event loop."""
        try:
            return await self._aask(question, ends_at)
        except Exception as exc:
            raise self.failed(exc) from None

    # --- asking, at once, in a thread, or from a thread

    def _waiting(self) -> AbstractContextManager[object]:
        # With an open circuit nobody waits.
        if self.metrics is None or self.breaker.is_open:
            return _UNWATCHED
        return self.metrics.time_lookup()

    def _at_once(self, client_id: str) -> object:
        if self._get_nowait is None:
            return _NOT_AT_ONCE
        try:
            return self._get_nowait(client_id)
        except BlockingIOError:
            return _NOT_AT_ONCE

    def _feed_is_open(self) -> bool:
        """Before the first look-up: what it finds may be remembered, so its changes must be heard of.

        Where that fails, the look-up itself tells whether the store can be asked.
        """
        feed = self._feed
        if feed is None or feed.is_open:
            return True
        if feed.may_wait:
            return False
        with suppress(Exception):
            feed.open()
        return True

    def _open_feed(self, ends_at: float) -> None:
        feed = self._feed
        if feed is not None:
            with suppress(Exception):
                self._openings.ask(feed, partial(self._ask, feed.open, ends_at), ends_at)

    async def _aopen_feed(self, ends_at: float) -> None:
        feed = self._feed
        if feed is not None:
            with suppress(Exception):
                await self._openings.aask(feed, partial(self._aask, feed.open, ends_at), ends_at)

    def _blocking_get(self, client_id: str, ends_at: float) -> object:
        if self._get is not None:
            return self._get(client_id)
        if self._aget is None:
            raise TypeError("a backend has get or aget")
        from asyncio import run as run_loop

        # An asynchronous object in a synchronous server: a loop of its own for each look-up, since the
        # object's connections may belong to no other.
        return run_loop(_within(ends_at, self._aget(client_id)))

    def _ask(self, question: Callable[[], T], ends_at: float) -> T:
        self.breaker.check()
        return self._in_thread(question, ends_at)

    def _in_thread(self, question: Callable[[], T], ends_at: float) -> T:
        job = self._lookups.submit(question)
        try:
            return job.result(max(0, ends_at - time.monotonic()))
        except TimeoutError:
            job.abandon(self._interrupt)
            raise

    async def _aask(self, question: Callable[[], T], ends_at: float) -> T:
        from asyncio import wrap_future  # a WSGI process never needs asyncio

        self.breaker.check()
        job = self._lookups.submit(question)
        try:
            return await _within(ends_at, wrap_future(job))
        finally:
            if not job.done():
                job.abandon(self._interrupt)

    def _probe(self) -> None:
        """Ask for a key that nobody has."""
        ends_at = self.deadline()
        self._in_thread(partial(self._blocking_get, generate(ID_PREFIX), ends_at), ends_at)

    # --- what an answer or a failure means

    def _answered(self, answer: object, client_id: str) -> Key | None:
        if answer is not None and not (isinstance(answer, Key) and answer.client_id == client_id):
            raise self.failed(TypeError("the answer is not the key asked for"))
        self.breaker.answered()
        return answer

    def failed(self, exc: Exception) -> BackendError:
        """What somebody's exception means for the request."""
        if isinstance(exc, UnreadableRecord):
            return exc
        # Whatever else a store raises may be due to the id that was asked for, which anybody may choose.
        waited = isinstance(exc, TimeoutError | BackendUnavailable)
        if isinstance(exc, TimeoutError):
            exc = BackendUnavailable(f"no answer within {self._deadline_s:g} s")
        elif isinstance(exc, QueueFull):
            exc = BackendUnavailable("too many look-ups wait for an answer")
        elif not isinstance(exc, BackendError):
            # Somebody else's exception: its text may hold anything, a password included. So it is raised
            # without it as its cause, too.
            exc = BackendUnavailable(f"the store raised {type(exc).__name__}")
        self.breaker.failed(exc, waited=waited)
        return exc

    # --- slow hashes

    def _slow_is_known(self) -> bool:
        return self._slow or time.monotonic() < self._slow_asked_at + _SLOW_FACT_AGE_S

    def _blocking_holds_slow(self) -> bool:
        if self._holds_slow is None:  # a store that does not say may hold some, if they can be checked at all
            return find_spec("argon2") is not None
        return self._holds_slow() is not False

    def _learn_slow(self, holds_slow: bool) -> bool:
        self._slow = holds_slow
        self._slow_asked_at = time.monotonic()
        return holds_slow

    def _wait_for_hash(self, job: Job[int | None]) -> int | None:
        try:
            return job.result(SLOW_CHECK_LIMIT_S)
        except TimeoutError:
            job.cancel()
            raise Overloaded("a slow hash had to wait too long") from None

    async def _await_hash(self, job: Job[int | None]) -> int | None:
        from asyncio import wrap_future

        try:
            # Who gives up takes the job out of the queue, if it is still there.
            return await _within(time.monotonic() + SLOW_CHECK_LIMIT_S, wrap_future(job))
        except TimeoutError:
            raise Overloaded("a slow hash had to wait too long") from None

    def _hash(self, check: VerifyPassword) -> Job[int | None]:
        try:
            return self._hashes.submit(partial(_check_slow, check.secret, check.hashes))
        except QueueFull:
            raise Overloaded("every worker for slow hashes is busy") from None


_NOT_AT_ONCE: Final = object()
_UNWATCHED: Final = nullcontext()


def _check_slow(secret: str, hashes: tuple[str, ...]) -> int | None:
    try:
        decoy = (
            dummy_password_hash()
        )  # first, so that who comes first pays for its making, whatever was found
        if not hashes:
            verify_password(secret, decoy)
            return None
        return next((index for index, stored in enumerate(hashes) if verify_password(secret, stored)), None)
    except MissingExtra as exc:
        raise UnreadableRecord(f"a stored hash cannot be checked: {exc}") from None
    except BackendError:
        raise
    except Exception as exc:  # no memory for it, for one; the frames of a library's error hold the secret
        raise Overloaded(f"a slow hash failed ({type(exc).__name__})") from None


async def _within(ends_at: float, awaitable: Awaitable[T]) -> T:
    """Await until a moment of the monotonic clock.

    Raises:
        TimeoutError: It took longer.
        CancelledError: The request was cancelled; if something inside was, it is a failure like any other.
    """
    from asyncio import CancelledError, current_task, timeout

    try:
        async with timeout(max(0, ends_at - time.monotonic())):
            return await awaitable
    except CancelledError:
        task = current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("the store's own work was cancelled") from None
