"""Read keys from a store within a deadline.

A store that never waits (``get_nowait``) is read on the calling thread. An asynchronous store (``aget``) is
awaited on the event loop. Every other store is read on a few worker threads.

Every failure leaves here as a ``BackendError``: ``availability.py`` converts a timeout, a full queue, or
whatever a store raised. While a store is unavailable, its circuit breaker refuses lookups immediately.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from ..keys.generated_secrets import ID_PREFIX, generate
from ..keys.model import Key, Principal
from ..runtime.deadline import await_until
from ..runtime.pool import WorkerPool
from ..runtime.single_flight import SingleFlight
from .availability import CircuitBreaker
from .codec import StoredRecord
from .passwords import PasswordPool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from .change_feed import ChangeFeed

T = TypeVar("T")

LOOKUP_WORKERS: Final = 8
MAX_LOOKUP_QUEUE: Final = 256

_WOULD_BLOCK: Final = object()
_FOUND: Final = (Key, StoredRecord)  # isinstance would build a union again for each lookup
_NOT_TIMED: Final = nullcontext()


class DecisionHook(Protocol):
    """Observes the decisions on requests, for metrics and tracing. Called on the request path."""

    def wrap_cache_get(self, get: Callable[[bytes], Principal | None]) -> Callable[[bytes], Principal | None]:
        """Return a replacement for ``VerificationCache.get`` that observes its hits."""
        ...

    def allowed(self, client_id: str) -> None:
        """Observe a request that was allowed without the cache."""
        ...

    def refused(self, reason: str) -> None:
        """Observe a refused request."""
        ...


class MetricsHook(DecisionHook, Protocol):
    """A hook that also times lookups."""

    def time_lookup(self) -> AbstractContextManager[object]:
        """Time a lookup that may have to wait."""
        ...


class StoreReader:
    """Looks up keys, for threads and event loops.

    Args:
        store: Any object with ``get`` or ``aget``; see ``backends.base``.
        deadline_s: Seconds that all store calls of one request may take.
        slow_hash_workers: Maximum number of passwords verified at the same time.
        feed: The change feed of the store; None if nothing is cached or verified.
        caches: Whether a verification may be cached, so that changes must be followed before a lookup.

    Attributes:
        hooks: Observe decisions.
        metrics: Times lookups; None when metrics are off.
        passwords: Verifies passwords.
        breaker: Decides whether the store is available.
        single_flight: Shares one verification between equal concurrent requests.
    """

    hooks: tuple[DecisionHook, ...] = ()
    metrics: MetricsHook | None = None

    def __init__(
        self,
        store: Any,
        *,
        deadline_s: float,
        slow_hash_workers: int,
        feed: ChangeFeed | None = None,
        caches: bool = True,
    ) -> None:
        # The methods of the built-in stores whose names have ``record`` decode only what verification needs.
        self._get: Callable[[str], object] | None = _method(store, "get_record", "get")
        self._get_nowait: Callable[[str], object] | None = _method(store, "get_record_nowait", "get_nowait")
        self._aget: Callable[[str], Awaitable[object]] | None = _method(store, "aget_record", "aget")
        self._interrupt: Callable[[int], None] | None = getattr(store, "interrupt", None)
        self._deadline_s = deadline_s
        self._keeps_deadline = getattr(store, "deadline_s", math.inf) <= deadline_s
        self._feed = feed
        self._caches = caches
        self.single_flight: SingleFlight[Any] = SingleFlight()
        self._refreshes: SingleFlight[None] = SingleFlight()
        self._lookups = WorkerPool("lookup", workers=LOOKUP_WORKERS, max_queue=MAX_LOOKUP_QUEUE)
        self.passwords = PasswordPool(slow_hash_workers)
        # Where one part of a store can fail alone, failures say nothing about the other parts.
        probe = self._probe if getattr(store, "single_server", True) else None
        self.breaker = CircuitBreaker(
            probe, deadline_s=deadline_s, name=getattr(store, "display_name", "the store")
        )

    def close(self) -> None:
        """Stop the threads. A later call starts them again."""
        self.breaker.close()
        self._lookups.close()
        self.passwords.close()

    def deadline(self) -> float:
        """The deadline of a request that starts now, by the monotonic clock."""
        return time.monotonic() + self._deadline_s

    # --- lookups

    def has_password_hashes(self) -> bool:
        """Whether the store may hold a password hash, as known since the last lookup for a password."""
        return self._feed is None or self._feed.has_password_hashes

    def lookup_inline(self, client_id: str, *, for_password: bool) -> Key | StoredRecord | None:
        """``lookup`` in a store that cannot wait.

        Raises ``BlockingIOError`` if it has to after all, or if a password hash must be verified next.
        """
        if (
            self._get_nowait is None
            or not self._is_ready(for_password)
            or (for_password and self.has_password_hashes())
        ):
            raise BlockingIOError
        try:
            found = self._get_nowait(client_id)
        except BlockingIOError:
            raise
        except Exception as exc:
            raise self.breaker.record_failure(exc) from None
        return self._check_found(found, client_id)

    def lookup(
        self, client_id: str, ends_at: float, *, for_password: bool = False
    ) -> Key | StoredRecord | None:
        """Look up one key, blocking until ``ends_at`` by the monotonic clock.

        With ``for_password``, ``has_password_hashes`` is up to date afterwards.

        Raises:
            BackendUnavailable: The store did not respond, or returned something else.
        """
        try:
            if not self._is_ready(for_password):
                self._refresh(ends_at)
            found = self._read_nowait(client_id)
            if found is _WOULD_BLOCK:
                with self._timed():
                    found = self._call(partial(self._read_blocking, client_id, ends_at), ends_at)
        except Exception as exc:
            raise self.breaker.record_failure(exc) from None
        return self._check_found(found, client_id)

    async def alookup(
        self, client_id: str, ends_at: float, *, for_password: bool = False
    ) -> Key | StoredRecord | None:
        """``lookup`` for an event loop. Suspends only if the store has to wait."""
        try:
            is_ready = self._is_ready(for_password)
            if not is_ready:
                await self._arefresh(ends_at)
            found = self._read_nowait(client_id)
            if found is _WOULD_BLOCK and self._aget is not None:
                self.breaker.check()
                coroutine = self._aget(client_id)
                # A store that keeps a deadline saves the timer, unless the refresh took some of the time.
                in_time = is_ready and self._keeps_deadline
                with self._timed():
                    found = await (coroutine if in_time else await_until(ends_at, coroutine))
            elif found is _WOULD_BLOCK:
                with self._timed():
                    found = await self._acall(partial(self._read_blocking, client_id, ends_at), ends_at)
        except Exception as exc:
            raise self.breaker.record_failure(exc) from None
        return self._check_found(found, client_id)

    def call(self, function: Callable[[], T], ends_at: float) -> T:
        """Call any other method of the store, on a worker thread. Raises as ``lookup`` does."""
        try:
            return self._call(function, ends_at)
        except Exception as exc:
            raise self.breaker.record_failure(exc) from None

    async def acall(self, function: Callable[[], T], ends_at: float) -> T:
        """``call`` for an event loop."""
        try:
            return await self._acall(function, ends_at)
        except Exception as exc:
            raise self.breaker.record_failure(exc) from None

    def _timed(self) -> AbstractContextManager[object]:
        # While the breaker is open, lookups do not wait.
        return _NOT_TIMED if self.metrics is None or self.breaker.is_open else self.metrics.time_lookup()

    def _is_ready(self, for_password: bool) -> bool:
        feed = self._feed
        if feed is None or not (self._caches or for_password) or feed.is_ready(for_password=for_password):
            return True
        if feed.may_block:
            return False
        with suppress(Exception):
            feed.refresh()
        return True

    # A failed refresh is ignored: the lookup that follows reports the outage.

    def _refresh(self, ends_at: float) -> None:
        if self._feed is not None:
            with suppress(Exception):
                self._refreshes.do(self, partial(self._call, self._feed.refresh, ends_at), ends_at)

    async def _arefresh(self, ends_at: float) -> None:
        if self._feed is not None:
            with suppress(Exception):
                await self._refreshes.ado(self, partial(self._acall, self._feed.refresh, ends_at), ends_at)

    def _read_nowait(self, client_id: str) -> object:
        if self._get_nowait is None:
            return _WOULD_BLOCK
        try:
            return self._get_nowait(client_id)
        except BlockingIOError:
            return _WOULD_BLOCK

    def _read_blocking(self, client_id: str, ends_at: float) -> object:
        if self._get is not None:
            return self._get(client_id)
        if self._aget is None:
            raise TypeError("a backend has get or aget")
        from asyncio import run

        # An asynchronous store in a synchronous server: each lookup runs in a new event loop, since the
        # store's connections may be bound to their loop.
        return run(await_until(ends_at, self._aget(client_id)))

    def _call(self, function: Callable[[], T], ends_at: float) -> T:
        self.breaker.check()
        return self._call_unchecked(function, ends_at)

    def _call_unchecked(self, function: Callable[[], T], ends_at: float) -> T:
        job = self._lookups.submit(function)
        try:
            return job.result(max(0, ends_at - time.monotonic()))
        except TimeoutError:
            job.cancel_or_interrupt(self._interrupt)
            raise

    async def _acall(self, function: Callable[[], T], ends_at: float) -> T:
        from asyncio import wrap_future  # a WSGI process never needs asyncio

        self.breaker.check()
        job = self._lookups.submit(function)
        try:
            return await await_until(ends_at, wrap_future(job))
        finally:
            if not job.done():
                job.cancel_or_interrupt(self._interrupt)

    def _probe(self) -> None:
        """Look up an unknown ID."""
        ends_at = self.deadline()
        self._call_unchecked(partial(self._read_blocking, generate(ID_PREFIX), ends_at), ends_at)

    def _check_found(self, found: object, client_id: str) -> Key | StoredRecord | None:
        if found is not None and not (isinstance(found, _FOUND) and found.client_id == client_id):
            error = TypeError("the store returned something other than the key")
            raise self.breaker.record_failure(error)
        self.breaker.record_success()
        return found


def _method(store: Any, *names: str) -> Callable[[str], Any] | None:
    """The first of these methods that the store has."""
    methods = (getattr(store, name, None) for name in names)
    return next((method for method in methods if method is not None), None)
