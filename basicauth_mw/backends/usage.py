"""What is written behind a verification: last uses, and better hashes.

Both are best effort. A request only notes what it saw, in a bounded table; one thread per process and key
backend writes it, in batches. Nothing here can fail a request, or make it wait.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..keys.hashing import salt_of
from ..runtime.background import Background
from ..runtime.fork import after_fork
from . import Store, UsageStore, Use

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..auth.cache import CacheHit
    from ..keys.hashing import Hasher
    from ..keys.model import Secret

V = TypeVar("V")

logger = logging.getLogger("basicauth_mw")

MAX_WAITING: Final = 10_000
MAX_BATCH: Final = 500

_GATHER_S: Final = 1.0  # how long a batch is waited for
_SWEEP_EVERY_S: Final = 15.0  # how often the caches are asked what they were hit with
_CLOSE_LIMIT_S: Final = 2.0
# After a failed write the next one waits, twice as long each time: a role may be allowed to read only.
_FIRST_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 300.0
_TRIES: Final = 5
_MINUTE_S: Final = 60

_living: Final[weakref.WeakSet[UsageRecorder]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for ledger in tuple(_living):
        ledger.close()


# One secret of one client.
_Which = tuple[str, datetime]


class UsageRecorder:
    """Notes which secrets were used, and replaces hashes that are no longer what would be made today.

    Args:
        store: Whatever it is; what it cannot write is not noted.
        hasher: Makes the better hashes.
    """

    def __init__(self, store: Any, hasher: Hasher) -> None:
        self._usage = store if isinstance(store, UsageStore) else None
        self._store = store if isinstance(store, Store) else None
        self._hasher = hasher
        self._watched: list[weakref.WeakMethod[Callable[[], Sequence[CacheHit]]]] = []
        self._background = Background("ledger", self._serve)
        self._reset()
        after_fork(self._reset)
        _living.add(self)

    def saw(self, client_id: str, stored: Secret, secret: str) -> None:
        """Note that a secret was proved. Called on the request path: touches memory only.

        Args:
            client_id: Whose.
            stored: What is stored of it.
            secret: Itself, to hash it anew where that is due.
        """
        which = (client_id, stored.created_at)
        if self._usage is not None:
            self._note_use(which, time.time())
        if self._store is not None and not self._hasher.is_current(stored.hash) and which not in self._tried:
            self._put(self._outdated, which, (stored.hash, secret))
            self._wake()

    def watch(self, drain_hits: Callable[[], Sequence[CacheHit]]) -> None:
        """Have a cache asked, from time to time, which of its entries were used.

        Args:
            take_hits: A bound method, held weakly.
        """
        self._watched = [known for known in self._watched if known() is not None]
        self._watched.append(weakref.WeakMethod(drain_hits))

    def stop(self) -> threading.Thread | None:
        """Let the thread write what is noted, and end. Waits for nothing.

        Returns:
            The thread, if there is one.
        """
        thread = self._background.end()
        self._noted.set()
        return thread

    def close(self) -> None:
        """``stop``, and wait for up to 2 seconds until it is done."""
        thread = self.stop()
        if thread is not None:
            thread.join(_CLOSE_LIMIT_S)

    # --- noting

    def _note_use(self, which: _Which, at: float) -> None:
        minute = int(at) // _MINUTE_S
        if self._written.get(which) != minute and self._used.get(which) != minute:
            self._put(self._used, which, minute)
            self._wake()

    def _put(self, waiting: dict[_Which, V], which: _Which, value: V) -> None:
        with self._lock:
            waiting.pop(which, None)
            waiting[which] = value
            if len(waiting) > MAX_WAITING:
                del waiting[next(iter(waiting))]  # the oldest

    def _wake(self) -> None:
        if not self._noted.is_set():
            self._noted.set()
        self._background.start()

    def _reset(self) -> None:
        self._used: dict[_Which, int] = {}
        self._outdated: dict[_Which, tuple[str, str]] = {}
        # What need not be done again: until it is full, and then everything may be.
        self._written: dict[_Which, int] = {}
        self._tried: dict[_Which, None] = {}
        self._pause_s = 0.0
        self._paused_until = float("-inf")
        self._lock = threading.Lock()
        self._noted = threading.Event()

    # --- writing, on the thread

    def _serve(self, closing: threading.Event) -> None:
        ends = False
        while not ends:
            if self._noted.wait(_SWEEP_EVERY_S):
                closing.wait(_GATHER_S)
                self._noted.clear()
            ends = closing.is_set()  # looked at first: what was noted before that is written now
            self._sweep()
            if ends or time.monotonic() >= self._paused_until:
                self._write(retry=not ends)
            else:
                with self._lock:
                    self._outdated = {}  # it holds passwords: only last uses are kept through a pause

    def _sweep(self) -> None:
        if self._usage is None:
            return
        now = time.time()
        for known in self._watched:
            if (drain_hits := known()) is not None:
                for hit in drain_hits():
                    which = (hit.client_id, hit.secret_created_at)
                    minute = int(now - hit.ago_s) // _MINUTE_S
                    if self._written.get(which) != minute:
                        self._put(self._used, which, minute)

    def _write(self, *, retry: bool) -> None:
        with self._lock:
            used, self._used = self._used, {}
            outdated, self._outdated = self._outdated, {}
        failure = self._write_uses(used, retry=retry)
        for which, (stored, secret) in outdated.items():
            _remember(self._tried, which, None)
            try:
                self._hash_anew(which[0], stored, secret)
            except Exception as exc:  # its text or its frames may hold anything
                failure = failure or type(exc).__name__
        if failure:
            self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            self._paused_until = time.monotonic() + self._pause_s
            logger.debug(
                "last-used times or better hashes cannot be stored (%s); next attempt in %.0f s",
                failure,
                self._pause_s,
            )
        elif used or outdated:
            self._pause_s = 0.0

    def _write_uses(self, used: dict[_Which, int], *, retry: bool) -> str | None:
        """Write last-used times; with ``retry``, what is left after a failure waits for the next attempt.

        Returns:
            The name of the exception that stopped it; None: all were written.
        """
        left = list(used.items())
        while left and self._usage is not None:
            batch = left[:MAX_BATCH]
            uses = [
                Use(client_id, created_at, datetime.fromtimestamp(minute * _MINUTE_S, UTC))
                for (client_id, created_at), minute in batch
            ]
            try:
                self._usage.record_uses(uses)
            except Exception as exc:
                if retry:
                    with self._lock:
                        self._used = dict((left + list(self._used.items()))[-MAX_WAITING:])
                return type(exc).__name__
            for which, minute in batch:
                _remember(self._written, which, minute)
            del left[:MAX_BATCH]
        return None

    def _hash_anew(self, client_id: str, stored: str, secret: str) -> None:
        hashed = None
        for _ in range(_TRIES):
            key = self._store.get(client_id) if self._store is not None else None
            if key is None or all(candidate.hash != stored for candidate in key.secrets):
                return
            if hashed is None:
                hashed = self._hasher.hash(secret, salt=salt_of(key.secrets))
            secrets = [
                replace(candidate, hash=hashed) if candidate.hash == stored else candidate
                for candidate in key.secrets
            ]
            changed = replace(key, secrets=tuple(secrets), version=key.version + 1)
            if self._store is not None and self._store.put(changed, key.version):
                return


def _remember(known: dict[_Which, V], which: _Which, value: V) -> None:
    if len(known) >= MAX_WAITING:
        known.clear()
    known[which] = value
