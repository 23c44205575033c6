"""Follow the changes of a store, so that a revocation in one process ends cached verifications in all others.

One thread per process and backend reads the changes from the store ten times a second, for as long as a cache
may hold anything. A request only marks the feed as active. The feed also reports whether the store holds any
password hash.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..errors import BackendError, BackendUnavailable
from ..runtime.background import BackgroundThread
from ..runtime.fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Iterable

    from . import Changes

logger = logging.getLogger("basicauth_mw")

POLL_EVERY_S: Final = 0.1
NO_PASSWORDS_AGE_S: Final = 1.0  # how long the store is assumed to hold no password hash before the next read


class Subscriber(Protocol):
    """A cache of keys."""

    def invalidate(self, client_id: str, /) -> None:
        """Drop one key, which has changed."""
        ...

    def clear(self) -> None:
        """Drop every key: any may have changed."""
        ...


class ChangeFeed:
    """Publishes the changes of a store to its subscribers. A store without ``changes`` is not polled.

    Attributes:
        may_block: Whether ``refresh`` may have to wait.
        has_password_hashes: Whether the store may hold a password hash.
    """

    def __init__(self, store: Any) -> None:
        self._store = store if hasattr(store, "changes") else None
        self._read_has_passwords = getattr(store, "has_password_hashes", None)
        self.may_block = getattr(store, "volatile", False) is not True
        self._subscribers: list[weakref.ref[Subscriber]] = []
        self._keeps_s = 0.0
        self._logged = False
        self._thread = BackgroundThread("feed", self._serve)
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._is_subscribed = self._store is None
        self._cursor: str | None = None
        self._active_at = self._polled_at = float("-inf")
        self._idle = False
        # A store that does not say whether it holds password hashes may hold some, if they can be verified.
        self.has_password_hashes = self._read_has_passwords is None and find_spec("argon2") is not None
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._queries = count(1)
        self._latest_query = 0  # the number of the query that ``has_password_hashes`` is from

    def subscribe(self, subscriber: Subscriber, *, keeps_s: float) -> None:
        """Publish changes to a cache, held weakly, which keeps an entry for ``keeps_s`` seconds."""
        self._subscribers = [known for known in self._subscribers if known() is not None]
        self._subscribers.append(weakref.ref(subscriber))
        self._keeps_s = max(self._keeps_s, keeps_s)

    def invalidate(self, *client_ids: str) -> None:
        """Invalidate changed keys in the caches of this process; other processes read the store's changes."""
        self._invalidate(client_ids)

    def is_ready(self, *, for_password: bool) -> bool:
        """Whether a lookup can start.

        Changes must be followed before the lookup. Otherwise its result could be cached and go out of date
        unnoticed. The verification of a password also needs to know whether the store holds password hashes.
        """
        return self._is_subscribed and (
            not for_password
            or self.has_password_hashes
            or time.monotonic() < self._polled_at + NO_PASSWORDS_AGE_S
        )

    def refresh(self) -> None:
        """Make the feed ready for a lookup. Raises whatever the store raises.

        After a failure the thread keeps trying, and clears the caches when it succeeds.
        """
        try:
            if self._is_subscribed:
                self._fetch()
            elif self._store is not None:
                changes = self._query(self._store, None)
                with self._lock:
                    if self._cursor is None:
                        self._cursor = changes.cursor
        except Exception:
            self.has_password_hashes |= self._polled_at == float("-inf")  # unknown, so assume it
            raise
        finally:
            self._is_subscribed = True  # tried once: no other request pays for it
            self._polled_at = time.monotonic()

    def mark_active(self) -> None:
        """Poll from now on, since a cache may hold an entry. Touches memory only: requests call it."""
        if not self._keeps_s:
            return  # no cache keeps anything
        self._active_at = time.monotonic()
        if self._idle:
            self._idle = False
            self._wake.set()
        if self._store is not None:
            self._thread.start()

    def close(self) -> None:
        """Stop the thread and clear the caches, which nothing would invalidate any more.

        The next ``mark_active`` starts it again.
        """
        if self._thread.stop() is not None:
            self._wake.set()
        self._invalidate(None)

    # --- on the thread

    def _serve(self, closing: threading.Event) -> None:
        while not closing.wait(POLL_EVERY_S):
            self.poll()
            self._wait_while_idle(closing)

    def poll(self) -> None:
        """Fetch changes once, and invalidate what they concern."""
        try:
            self._fetch()
        except Exception as exc:  # the cursor is unchanged: no change is lost
            self._log_once(exc)

    def _fetch(self) -> None:
        if self._store is None:
            if self._read_has_passwords is not None:
                self.has_password_hashes = self._read_has_passwords() is not False
            return
        since = self._cursor
        changes = self._query(self._store, since)
        # What was cached before there was a cursor may have changed since.
        self._invalidate(None if changes.incomplete or since is None else set(changes.client_ids))
        self._cursor = changes.cursor

    def _query(self, store: Any, since: str | None) -> Changes:
        number = next(self._queries)
        changes: Changes = store.changes(since)
        known = changes.has_password_hashes
        with self._lock:
            # A query that started earlier may return later, with an outdated reply.
            if known is not None and number > self._latest_query:
                self._latest_query = number
                self.has_password_hashes = known
        self._polled_at = time.monotonic()
        return changes

    def _invalidate(self, client_ids: Iterable[str] | None) -> None:
        """Publish changed IDs; None if any key may have changed."""
        for known in self._subscribers:
            if (subscriber := known()) is None:
                continue
            if client_ids is None:
                subscriber.clear()
            else:
                for client_id in client_ids:
                    subscriber.invalidate(client_id)

    def _log_once(self, exc: Exception) -> None:
        # Lookups log an outage.
        if type(exc) is not BackendUnavailable and not self._logged:
            self._logged = True
            logger.error(
                "changes by other processes may take up to cache_ttl_s to take effect: %s",
                exc if isinstance(exc, BackendError) else f"the store raised {type(exc).__name__}",
            )

    def _wait_while_idle(self, closing: threading.Event) -> None:
        """Stop polling while no cache can hold an entry; the cursor loses nothing meanwhile."""
        self._wake.clear()
        self._idle = True  # before the time is read, so that a concurrent mark_active is seen
        if time.monotonic() < self._active_at + self._keeps_s + 2 * POLL_EVERY_S:
            self._idle = False
        elif not closing.is_set():
            self._wake.wait()
