"""Cache verified credentials for a while: bounded, and without a lock on a hit.

An entry is found by a BLAKE2b digest of the whole header value under a random key of this process. So clients
cannot aim at an entry, learn from timing how close a guess came, or make two values collide; and no secret is
kept. The entries of one client form a chain, so that ``invalidate`` ends all of them.

A lookup may run while a key is changed elsewhere. So ``put`` takes the ``stamp`` from before the lookup, and
stores nothing if anything was invalidated since.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from ..keys.authorization_header import MAX_HEADER_BYTES
from ..runtime.fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..keys.model import Principal

    LookupStamp = tuple[int, float]  # how many invalidations there were, monotonic seconds


class _Entry:
    __slots__ = ("expires_at", "older", "principal", "reported", "secret_created_at", "until", "used_at")

    def __init__(
        self,
        principal: Principal,
        secret_created_at: int,
        until: float,
        expires_at: float | None,
        older: _Entry | None,
    ) -> None:
        self.principal = principal
        self.secret_created_at = secret_created_at
        self.until = until
        self.expires_at = expires_at
        self.older = older  # the next entry of the same client
        self.used_at = 0.0
        self.reported = False


class CacheHit(NamedTuple):
    """The last use of an entry.

    Attributes:
        client_id: The client.
        secret_created_at: When its secret was created, in microseconds, which identifies it.
        ago_s: Seconds since the use.
    """

    client_id: str
    secret_created_at: int
    ago_s: float


class VerificationCache:
    """Maps verified header values to their principals.

    Args:
        ttl_s: Seconds that an entry is valid; 0 disables the cache.
        size: Maximum number of entries; a new one replaces the oldest.
        clock: Monotonic seconds, for the age of entries.
        wall_clock: Seconds since the epoch, for the expiry of keys.
    """

    def __init__(
        self,
        ttl_s: float,
        size: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._epoch = 0
        self._ttl_s = ttl_s
        self._size = size
        self._clock = clock
        self._wall_clock = wall_clock
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        # The byte makes BLAKE2b process its key now, and not again in each copy of the state.
        self._keyed = blake2b(b"\0", key=secrets.token_bytes(32), digest_size=32)
        self._entries: dict[bytes, _Entry] = {}
        self._order: deque[bytes] = deque()
        self._newest: dict[str, _Entry] = {}  # of each client
        self._used: list[_Entry] = []  # since the last drain_hits
        self._lock = threading.Lock()

    @property
    def enabled(self) -> bool:
        """Whether anything is cached."""
        return self._ttl_s > 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, header: bytes) -> Principal | None:
        """The principal of a header value that was verified before, or None. Called for every request."""
        if len(header) > MAX_HEADER_BYTES:
            return None
        keyed = self._keyed.copy()
        keyed.update(header)
        entry = self._entries.get(keyed.digest())
        if entry is None:
            return None
        now = self._clock()
        if entry.until <= now:
            return None
        if entry.expires_at is not None and entry.expires_at <= self._wall_clock():
            return None
        entry.used_at = now
        # Bounded like the entries, some of which may have been replaced since they were used.
        if not entry.reported and len(self._used) < self._size:
            entry.reported = True
            self._used.append(entry)
        return entry.principal

    def drain_hits(self) -> list[CacheHit]:
        """The entries that were used since the last call, each once."""
        used, self._used = self._used, []
        hits = []
        for entry in used:
            entry.reported = False  # before its time is read: a concurrent hit is in this result or the next
            ago_s = self._clock() - entry.used_at
            hits.append(CacheHit(entry.principal.client_id, entry.secret_created_at, ago_s))
        return hits

    def stamp(self) -> LookupStamp:
        """Stamp to pass to ``put``; take it before the lookup."""
        return self._epoch, self._clock()

    def put(
        self,
        header: bytes,
        principal: Principal,
        *,
        secret_created_at: int,
        expires_at: float | None,
        stamp: LookupStamp,
    ) -> None:
        """Cache a verified credential, unless anything was invalidated since the stamp.

        Args:
            header: The header value that was verified.
            principal: Whose credential it is.
            secret_created_at: Which of the client's secrets it holds.
            expires_at: When the key or the secret expires, whichever is sooner, in seconds since the epoch.
            stamp: From before the lookup. The age of the entry counts from then.
        """
        if self._ttl_s <= 0:
            return
        epoch, began_at = stamp
        keyed = self._keyed.copy()
        keyed.update(header)
        digest = keyed.digest()
        with self._lock:
            if epoch != self._epoch:
                return
            if (old := self._entries.get(digest)) is not None:
                self._unlink(old)
            else:
                while len(self._entries) >= self._size:
                    self._unlink(self._entries.pop(self._order.popleft()))
                self._order.append(digest)
            client_id = principal.client_id
            older = self._newest.get(client_id)
            if older is not None and older.principal != principal:
                self._end(older)  # the key has changed since the older entries were verified
                older = None
            entry = _Entry(principal, secret_created_at, began_at + self._ttl_s, expires_at, older)
            self._entries[digest] = self._newest[client_id] = entry

    def invalidate(self, client_id: str) -> None:
        """End every entry of one client."""
        with self._lock:
            self._epoch += 1
            self._end(self._newest.pop(client_id, None))

    def clear(self) -> None:
        with self._lock:
            self._epoch += 1
            self._entries.clear()
            self._order.clear()
            self._newest.clear()

    @staticmethod
    def _end(entry: _Entry | None) -> None:
        """End an entry and the older ones of the same client."""
        while entry is not None:
            entry.until = -math.inf
            entry.older, entry = None, entry.older

    def _unlink(self, entry: _Entry) -> None:
        """Take an entry out of its chain. A client has few entries: one for each spelling of each secret."""
        client_id = entry.principal.client_id
        each = self._newest.get(client_id)
        if each is entry:
            if entry.older is None:
                del self._newest[client_id]
            else:
                self._newest[client_id] = entry.older
        while each is not None:
            if each.older is entry:
                each.older = entry.older
            each = each.older
