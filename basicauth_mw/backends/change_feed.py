"""Follows a store's changes, so that what one process revokes ends in every other process, too.

One thread per process and key backend asks the store what has changed since the last time, ten times a second
while there may be anything in a cache. A request pays nothing for it.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..errors import BackendError, BackendUnavailable
from ..runtime.background import Background
from ..runtime.fork import after_fork
from . import Store

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger("basicauth_mw")

POLL_EVERY_S: Final = 0.1


class Subscriber(Protocol):
    """What remembers keys: a cache."""

    def invalidate(self, client_id: str, /) -> None:
        """One key has changed."""
        ...

    def clear(self) -> None:
        """Any key may have changed."""
        ...


class ChangeFeed:
    """Tells followers what has changed in a store.

    Args:
        store: Whatever it is; only one with ``changes`` is followed.

    Attributes:
        is_open: Whether it is known from where on the store is followed, or there is nothing to follow.
            What is looked up before that may go out of date, and nobody would be told.
        may_wait: Whether ``open`` may have to wait.
    """

    def __init__(self, store: Any) -> None:
        self._store = store if isinstance(store, Store) else None
        self.may_wait = getattr(store, "volatile", False) is not True
        self._followers: list[weakref.ref[Subscriber]] = []
        self._keeps_s = 0.0
        self._complained = False
        self._background = Background("feed", self._serve)
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self.is_open = self._store is None
        self._cursor: str | None = None
        self._proved_at = float("-inf")
        self._idle = False
        self._wake = threading.Event()
        self._lock = threading.Lock()

    def follow(self, follower: Subscriber, *, keeps_s: float) -> None:
        """Have somebody told of changes.

        Args:
            follower: Held weakly.
            keeps_s: Seconds that it remembers anything.
        """
        self._followers = [known for known in self._followers if known() is not None]
        self._followers.append(weakref.ref(follower))
        self._keeps_s = max(self._keeps_s, keeps_s)

    def tell(self, *client_ids: str) -> None:
        """Tell the followers of changes that were made through this process."""
        self._tell(client_ids)

    def open(self) -> None:
        """Find out from where on to follow the store; to be called before the first look-up.

        Raises:
            BackendUnavailable: The store cannot be asked. The thread goes on trying, and when it can be, all
                that was proved by then is forgotten.
        """
        try:
            if self._store is not None:
                cursor = self._store.changes(None).cursor
                with self._lock:
                    if self._cursor is None:
                        self._cursor = cursor
        finally:
            self.is_open = True  # asked once: no request pays for it again

    def poll(self) -> None:
        """Ask once what has changed, and tell the followers."""
        if self._store is None:
            return
        since = self._cursor
        try:
            changes = self._store.changes(since)
            # What was proved before there was a cursor may have changed since.
            self._tell(None if changes.gap or since is None else set(changes.client_ids))
            self._cursor = changes.cursor
        except Exception as exc:  # the cursor is kept: nothing is lost meanwhile
            self._complain(exc)

    def proved(self) -> None:
        """Something may be remembered from now on. Called on the request path: touches memory only."""
        self._proved_at = time.monotonic()
        if self._idle:
            self._idle = False
            self._wake.set()
        if self._store is not None:
            self._background.start()

    def close(self) -> None:
        """Let the thread end, and nothing be remembered that nobody follows any more.

        The next thing that is proved starts it anew.
        """
        if self._background.end() is not None:
            self._wake.set()
        self._tell(None)

    # --- on the thread

    def _serve(self, closing: threading.Event) -> None:
        while not closing.wait(POLL_EVERY_S):
            self.poll()
            self._rest(closing)

    def _tell(self, client_ids: Iterable[str] | None) -> None:
        """Whose keys have changed; None: anybody's may have."""
        for known in self._followers:
            if (follower := known()) is None:
                continue
            if client_ids is None:
                follower.clear()
            else:
                for client_id in client_ids:
                    follower.invalidate(client_id)

    def _complain(self, exc: Exception) -> None:
        # An outage is told by whoever asks for a key.
        if type(exc) is not BackendUnavailable and not self._complained:
            self._complained = True
            logger.error(
                "changes that other processes make are not seen before cache_ttl_s is over: %s",
                exc if isinstance(exc, BackendError) else f"the store raised {type(exc).__name__}",
            )

    def _rest(self, closing: threading.Event) -> None:
        """Ask nothing while nothing can be remembered; the cursor loses nothing meanwhile."""
        self._wake.clear()
        self._idle = True  # before the look at the time: who proves something meanwhile sees it
        if time.monotonic() < self._proved_at + self._keeps_s + 2 * POLL_EVERY_S:
            self._idle = False
        elif not closing.is_set():
            self._wake.wait()
