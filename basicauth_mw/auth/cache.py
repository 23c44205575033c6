"""Cache verified credentials for a while: bounded, and without a lock on a hit.

An entry is found by a BLAKE2b digest of the whole header value under a random key of this process. So clients
cannot aim at an entry, learn from timing how close a guess came, or make two values collide; and no secret is
kept. Entries of one client share a flag, so that ``invalidate`` ends all of them.

A lookup may run while a key is changed elsewhere. So ``put`` takes the ``stamp`` from before the lookup, and
stores nothing if anything was invalidated since.
"""

from __future__ import annotations

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

    from ..keys.model import Allow

    LookupStamp = tuple[int, float]  # how many invalidations there were, monotonic seconds


class _Client:
    """What the entries of one client share."""

    __slots__ = ("allow", "entries", "valid")

    def __init__(self, allow: Allow) -> None:
        self.allow = allow
        self.entries = 0
        self.valid = True


class _Entry:
    __slots__ = ("client", "expires_at", "reported", "secret_created_at", "until", "used_at")

    def __init__(
        self, client: _Client, secret_created_at: int, until: float, expires_at: float | None
    ) -> None:
        self.client = client
        self.secret_created_at = secret_created_at
        self.until = until
        self.expires_at = expires_at
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
    """Maps verified header values to decisions, for valid credentials only.

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
        self._clients: dict[str, _Client] = {}
        self._used: list[_Entry] = []  # since the last drain_hits
        self._lock = threading.Lock()

    @property
    def enabled(self) -> bool:
        """Whether anything is cached."""
        return self._ttl_s > 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, header: bytes) -> Allow | None:
        """The decision on a header value that was verified before, or None. Called for every request."""
        if len(header) > MAX_HEADER_BYTES:
            return None
        keyed = self._keyed.copy()
        keyed.update(header)
        entry = self._entries.get(keyed.digest())
        if entry is None:
            return None
        now = self._clock()
        client = entry.client
        if entry.until <= now or not client.valid:
            return None
        if entry.expires_at is not None and entry.expires_at <= self._wall_clock():
            return None
        entry.used_at = now
        # Bounded like the entries, some of which may have been replaced since they were used.
        if not entry.reported and len(self._used) < self._size:
            entry.reported = True
            self._used.append(entry)
        return client.allow

    def drain_hits(self) -> list[CacheHit]:
        """The entries that were used since the last call, each once."""
        used, self._used = self._used, []
        hits = []
        for entry in used:
            entry.reported = False  # before its time is read: a concurrent hit is in this result or the next
            ago_s = self._clock() - entry.used_at
            hits.append(CacheHit(entry.client.allow.principal.client_id, entry.secret_created_at, ago_s))
        return hits

    def stamp(self) -> LookupStamp:
        """Stamp to pass to ``put``; take it before the lookup."""
        return self._epoch, self._clock()

    def put(
        self,
        header: bytes,
        allow: Allow,
        *,
        secret_created_at: int,
        expires_at: float | None,
        stamp: LookupStamp,
    ) -> None:
        """Cache a verified credential, unless anything was invalidated since the stamp.

        Args:
            header: The header value that was verified.
            allow: The decision.
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
                self._release(old.client)
            else:
                while len(self._entries) >= self._size:
                    self._release(self._entries.pop(self._order.popleft()).client)
                self._order.append(digest)
            client = self._client(allow)
            client.entries += 1
            until = began_at + self._ttl_s
            self._entries[digest] = _Entry(client, secret_created_at, until, expires_at)

    def invalidate(self, client_id: str) -> None:
        """End every entry of one client."""
        with self._lock:
            self._epoch += 1
            if client := self._clients.pop(client_id, None):
                client.valid = False

    def clear(self) -> None:
        with self._lock:
            self._epoch += 1
            self._entries.clear()
            self._order.clear()
            self._clients.clear()

    def _client(self, allow: Allow) -> _Client:
        client_id = allow.principal.client_id
        client = self._clients.get(client_id)
        if client is not None and client.allow.principal == allow.principal:
            return client
        if client is not None:
            client.valid = False  # the key has changed since the older entries were verified
        client = self._clients[client_id] = _Client(allow)
        return client

    def _release(self, client: _Client) -> None:
        client.entries -= 1
        client_id = client.allow.principal.client_id
        if client.entries == 0 and self._clients.get(client_id) is client:
            del self._clients[client_id]
