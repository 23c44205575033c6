"""Remembers proved credentials for a while: bounded, with no write on a hit."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from ..keys.credentials import MAX_FIELD_OCTETS
from ..runtime.fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from ..keys.model import Allow


class _Client:
    """What the entries of one client share, so that one flag ends them all."""

    __slots__ = ("allow", "entries", "live")

    def __init__(self, allow: Allow) -> None:
        self.allow = allow
        self.entries = 0
        self.live = True


class _Entry:
    __slots__ = ("client", "expires_at", "reported", "secret_created_at", "until", "used_at")

    def __init__(
        self, client: _Client, secret_created_at: datetime, until: float, expires_at: float | None
    ) -> None:
        self.client = client
        self.secret_created_at = secret_created_at
        self.until = until
        self.expires_at = expires_at
        self.used_at = 0.0
        self.reported = False


class CacheHit(NamedTuple):
    """When an entry was used last.

    Attributes:
        client_id: Whose it is.
        secret_created_at: Which secret it is for.
        ago_s: Seconds since then.
    """

    client_id: str
    secret_created_at: datetime
    ago_s: float


class LookupStamp(NamedTuple):
    """When a look-up began.

    Attributes:
        epoch: What had been forgotten by then.
        at: Monotonic seconds.
    """

    epoch: int
    at: float


class VerdictCache:
    """Field value -> verdict, for good credentials only.

    An entry is found by a BLAKE2b digest of the whole field value under a random key of this process:
    nobody outside can aim at an entry, tell by timing how close a guess came, or make two values collide,
    and no secret is kept. The oldest entry makes room for a new one.

    Args:
        ttl_s: Seconds that an entry lives; 0 keeps none.
        size: Most entries.
        clock: Monotonic seconds; an entry's age.
        wall_clock: Seconds since the epoch; for the expiry of keys.
    """

    _reported: list[_Entry]  # those that were used since somebody stamp

    def __init__(
        self,
        ttl_s: float,
        size: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._epoch = 0  # grows whenever anything is forgotten
        self._ttl_s = ttl_s
        self._size = size
        self._clock = clock
        self._wall_clock = wall_clock
        self._reset()
        after_fork(self._reset)

    @property
    def enabled(self) -> bool:
        """Whether anything is kept at all."""
        return self._ttl_s > 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, field: bytes) -> Allow | None:
        """The verdict on a field value proved before, or None. Every request comes through here."""
        if len(field) > MAX_FIELD_OCTETS:
            return None
        keyed = self._keyed.copy()
        keyed.update(field)
        entry = self._entries.get(keyed.digest())
        if entry is None:
            return None
        now = self._clock()
        client = entry.client
        if entry.until <= now or not client.live:
            return None
        if entry.expires_at is not None and entry.expires_at <= self._wall_clock():
            return None
        entry.used_at = now
        if not entry.reported:
            self._note(entry)
        return client.allow

    def drain_hits(self) -> list[CacheHit]:
        """The entries that were used since the last call, each once."""
        reported = self._reported
        self._reported = []
        hits = []
        for entry in reported:
            entry.reported = False  # before its time is read: a hit meanwhile is in this answer or the next
            ago_s = self._clock() - entry.used_at
            hits.append(CacheHit(entry.client.allow.principal.client_id, entry.secret_created_at, ago_s))
        return hits

    def stamp(self) -> LookupStamp:
        """To be called before a look-up whose result ``put`` is to keep."""
        return LookupStamp(self._epoch, self._clock())

    def put(
        self,
        field: bytes,
        allow: Allow,
        *,
        secret_created_at: datetime,
        expires_at: datetime | None,
        stamp: LookupStamp,
    ) -> None:
        """Remember a proved credential.

        Args:
            field: The field value that was proved.
            allow: What to answer.
            secret_created_at: Which of the client's secrets it holds.
            expires_at: When the key or its secret ends, if that is sooner.
            stamp: From ``stamp``, before the look-up: its age counts from then, and if anything was forgotten
                since, nothing is kept.
        """
        if not self.enabled:
            return
        keyed = self._keyed.copy()
        keyed.update(field)
        digest = keyed.digest()
        with self._lock:
            if stamp.epoch != self._epoch:
                return
            if (old := self._entries.get(digest)) is not None:
                self._release(old.client)
            else:
                while len(self._entries) >= self._size:
                    self._release(self._entries.pop(self._order.popleft()).client)
                self._order.append(digest)
            client = self._client(allow)
            client.entries += 1
            until = stamp.at + self._ttl_s
            self._entries[digest] = _Entry(
                client, secret_created_at, until, expires_at.timestamp() if expires_at else None
            )

    def invalidate(self, client_id: str) -> None:
        """End every entry of one client at once."""
        with self._lock:
            self._epoch += 1
            if client := self._clients.pop(client_id, None):
                client.live = False

    def clear(self) -> None:
        """End every entry at once."""
        with self._lock:
            self._epoch += 1
            self._entries.clear()
            self._order.clear()
            self._clients.clear()

    def _reset(self) -> None:
        # The octet makes BLAKE2b take its key in now, and not anew with every copy of the state.
        self._keyed = blake2b(b"\0", key=secrets.token_bytes(32), digest_size=32)
        self._entries: dict[bytes, _Entry] = {}
        self._order: deque[bytes] = deque()
        self._clients: dict[str, _Client] = {}
        self._reported = []
        self._lock = threading.Lock()

    def _note(self, entry: _Entry) -> None:
        # Bounded like the entries themselves, of which some may have been replaced since they were used.
        if len(self._reported) < self._size:
            entry.reported = True
            self._reported.append(entry)

    def _client(self, allow: Allow) -> _Client:
        client_id = allow.principal.client_id
        client = self._clients.get(client_id)
        if client is not None and client.allow.principal == allow.principal:
            return client
        if client is not None:
            client.live = False  # the key has changed: what was proved before tells of an older one
        client = self._clients[client_id] = _Client(allow)
        return client

    def _release(self, client: _Client) -> None:
        client.entries -= 1
        client_id = client.allow.principal.client_id
        if client.entries == 0 and self._clients.get(client_id) is client:
            del self._clients[client_id]
