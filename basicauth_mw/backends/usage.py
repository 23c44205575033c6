"""Writes after a verification: last-used times, and hashes with current parameters.

Both are best effort. A request records its use in a bounded table in memory; one thread per process and
backend writes the table in batches. Nothing here fails a request or makes it wait.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..errors import KeyNotFound
from ..keys.hashing import salt_of
from ..runtime.background import BackgroundThread
from ..runtime.fork import after_fork
from . import LastUse, Store, UsageStore
from .codec import from_microseconds
from .writes import change_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..keys.hashing import Hasher
    from ..keys.model import Key
    from .codec import StoredSecret

    # Client ID, and when the secret was created: in microseconds, as the hash of a datetime takes long.
    SecretRef = tuple[str, int]
    HitSource = Callable[[], Iterable[tuple[str, int, float]]]  # client ID, secret, seconds ago

V = TypeVar("V")

logger = logging.getLogger("basicauth_mw")

MAX_PENDING: Final = 10_000
MAX_BATCH: Final = 500

_GATHER_S: Final = 1.0  # how long uses are gathered into a batch
_COLLECT_EVERY_S: Final = 15.0  # how often cache hits are collected
_CLOSE_LIMIT_S: Final = 2.0
# Writes pause after a failure, twice as long each time: the role may be read-only.
_FIRST_PAUSE_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 300.0
_MINUTE_S: Final = 60

_instances: Final[weakref.WeakSet[UsageRecorder]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for recorder in tuple(_instances):
        recorder.close()


class UsageRecorder:
    """Records when secrets were used, and replaces hashes whose parameters are out of date.

    What the store cannot write is not recorded.
    """

    def __init__(self, store: Any, hasher: Hasher) -> None:
        self._usage = store if isinstance(store, UsageStore) else None
        self._store = store if isinstance(store, Store) else None
        self._hasher = hasher
        self._hit_sources: list[weakref.WeakMethod[HitSource]] = []
        self._thread = BackgroundThread("usage", self._serve)
        self._reset()
        after_fork(self._reset)
        _instances.add(self)

    def record_use(self, client_id: str, matched: StoredSecret, secret: str) -> None:
        """Record that a secret was verified. Called on the request path: touches memory only."""
        ref = (client_id, matched.created_at)
        if self._usage is not None:
            minute = int(time.time()) // _MINUTE_S
            if self._written.get(ref) != minute and self._used.get(ref) != minute:
                with self._lock:
                    _put(self._used, ref, minute)
                self._wake()
        if (
            self._store is not None
            and ref not in self._rehash_attempted
            and self._hasher.needs_rehash(matched.hash)
        ):
            with self._lock:
                _put(self._rehash_queue, ref, (matched.hash, secret))
            self._wake()

    def add_hit_source(self, drain_hits: HitSource) -> None:
        """Collect the hits of a cache from time to time by a bound method, held weakly."""
        self._hit_sources = [known for known in self._hit_sources if known() is not None]
        self._hit_sources.append(weakref.WeakMethod(drain_hits))

    def stop(self) -> threading.Thread | None:
        """Make the thread write what is recorded and stop; return it if it is running."""
        thread = self._thread.stop()
        self._recorded.set()
        return thread

    def close(self) -> None:
        """``stop``, and wait up to 2 seconds for the thread."""
        thread = self.stop()
        if thread is not None:
            thread.join(_CLOSE_LIMIT_S)

    def _wake(self) -> None:
        if not self._recorded.is_set():
            self._recorded.set()
        self._thread.start()

    def _reset(self) -> None:
        self._used: dict[SecretRef, int] = {}
        self._rehash_queue: dict[SecretRef, tuple[str, str]] = {}
        # Recent work, failed attempts included, that is not repeated; cleared when full.
        self._written: dict[SecretRef, int] = {}
        self._rehash_attempted: dict[SecretRef, None] = {}
        self._pause_s = 0.0
        self._paused_until = float("-inf")
        self._lock = threading.Lock()
        self._recorded = threading.Event()

    # --- on the thread

    def _serve(self, closing: threading.Event) -> None:
        ends = False
        while not ends:
            if self._recorded.wait(_COLLECT_EVERY_S):
                closing.wait(_GATHER_S)
                self._recorded.clear()
            ends = closing.is_set()  # read first: what was recorded before it is written now
            self._collect_hits()
            if ends or time.monotonic() >= self._paused_until:
                self._write(retry=not ends)
            else:
                with self._lock:
                    self._rehash_queue = {}  # it contains passwords, which do not outlive a pause

    def _collect_hits(self) -> None:
        if self._usage is None:
            return
        now = time.time()
        for source in self._hit_sources:
            if (drain_hits := source()) is not None:
                for client_id, created_at, ago_s in drain_hits():
                    minute = int(now - ago_s) // _MINUTE_S
                    if self._written.get((client_id, created_at)) != minute:
                        with self._lock:
                            _put(self._used, (client_id, created_at), minute)

    def _write(self, *, retry: bool) -> None:
        with self._lock:
            used, self._used = self._used, {}
            outdated, self._rehash_queue = self._rehash_queue, {}
        failure = self._write_uses(used, retry=retry)
        for ref, (old_hash, secret) in outdated.items():
            _bounded_add(self._rehash_attempted, ref, None)
            try:
                self._rehash(ref[0], old_hash, secret)
            except Exception as exc:  # its text and its frames may contain a secret
                failure = failure or type(exc).__name__
        if failure:
            self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            self._paused_until = time.monotonic() + self._pause_s
            logger.debug(
                "last-used times or new hashes cannot be stored (%s); next attempt in %.0f s",
                failure,
                self._pause_s,
            )
        elif used or outdated:
            self._pause_s = 0.0

    def _write_uses(self, used: dict[SecretRef, int], *, retry: bool) -> str | None:
        """Write last-used times, and return the name of the exception that stopped it.

        With ``retry``, those that could not be written are kept.
        """
        left = list(used.items())
        while left and self._usage is not None:
            batch = left[:MAX_BATCH]
            uses = [
                LastUse(
                    client_id, from_microseconds(created_at), datetime.fromtimestamp(minute * _MINUTE_S, UTC)
                )
                for (client_id, created_at), minute in batch
            ]
            try:
                self._usage.record_uses(uses)
            except Exception as exc:
                if retry:
                    with self._lock:
                        self._used = dict((left + list(self._used.items()))[-MAX_PENDING:])
                return type(exc).__name__
            for ref, minute in batch:
                _bounded_add(self._written, ref, minute)
            del left[:MAX_BATCH]
        return None

    def _rehash(self, client_id: str, old_hash: str, secret: str) -> None:
        hashed = ""

        def with_new_hash(key: Key) -> Key:
            nonlocal hashed
            if all(each.hash != old_hash for each in key.secrets):
                return key
            hashed = hashed or self._hasher.hash(secret, salt=salt_of(key.secrets))
            secrets = [replace(each, hash=hashed) if each.hash == old_hash else each for each in key.secrets]
            return replace(key, secrets=tuple(secrets))

        if self._store is not None:
            with suppress(KeyNotFound):
                change_key(self._store, client_id, with_new_hash)


def _put(table: dict[SecretRef, V], ref: SecretRef, value: V) -> None:
    table.pop(ref, None)
    table[ref] = value
    if len(table) > MAX_PENDING:
        del table[next(iter(table))]  # the oldest


def _bounded_add(known: dict[SecretRef, V], ref: SecretRef, value: V) -> None:
    if len(known) >= MAX_PENDING:
        known.clear()
    known[ref] = value


def uses_of(keys: Iterable[Key]) -> list[LastUse]:
    """The last uses that keys carry."""
    return [
        LastUse(key.client_id, secret.created_at, secret.last_used_at)
        for key in keys
        for secret in key.secrets
        if secret.last_used_at is not None
    ]


def attach_last_used(store: object, keys: Sequence[Key]) -> Sequence[Key]:
    """The keys with their last-used times, or unchanged if those cannot be read."""
    if not keys or not isinstance(store, UsageStore):
        return keys
    uses: dict[str, dict[datetime, datetime]] = {}
    try:
        for use in store.last_uses([key.client_id for key in keys]):
            uses.setdefault(use.client_id, {})[use.secret_created_at] = use.at
    except Exception as exc:  # a change that was made must not look as if it had failed
        logger.debug("last-used times cannot be read (%s)", type(exc).__name__)
    return [_with_last_used(key, uses[key.client_id]) if key.client_id in uses else key for key in keys]


def _with_last_used(key: Key, used_at: dict[datetime, datetime]) -> Key:
    return replace(
        key,
        last_used_at=max(used_at.values()),
        secrets=tuple(replace(each, last_used_at=used_at.get(each.created_at)) for each in key.secrets),
    )
