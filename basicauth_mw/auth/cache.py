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


class _Proof:
    __slots__ = ("client", "expires_at", "noted", "secret_created_at", "until", "used_at")

    def __init__(
        self, client: _Client, secret_created_at: datetime, until: float, expires_at: float | None
    ) -> None:
        self.client = client
        self.secret_created_at = secret_created_at
        self.until = until
        self.expires_at = expires_at
        self.used_at = 0.0
        self.noted = False


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
        wall: Seconds since the epoch; for the expiry of keys.
    """

    _noted: list[_Proof]  # those that were used since somebody asked

    def __init__(
        self,
        ttl_s: float,
        size: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._epoch = 0  # grows whenever anything is forgotten
        self._ttl_s = ttl_s
        self._size = size
        self._clock = clock
        self._wall = wall
        self._reset()
        after_fork(self._reset)

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self._ttl_s > 0

    def __len__(self) -> int:
        return len(self._proofs)

    def get(self, field: bytes) -> Allow | None:
        """The verdict on a field value proved before, or None. Every request comes through here."""
        if len(field) > MAX_FIELD_OCTETS:
            return None
        keyed = self._keyed.copy()
        keyed.update(field)
        proof = self._proofs.get(keyed.digest())
        if proof is None:
            return None
        now = self._clock()
        client = proof.client
        if proof.until <= now or not client.live:
            return None
        if proof.expires_at is not None and proof.expires_at <= self._wall():
            return None
        proof.used_at = now
        if not proof.noted:
            self._note(proof)
        return client.allow

    def drain_hits(self) -> list[CacheHit]:
        """The entries that were used since the last call, each once."""
        noted = self._noted
        self._noted = []
        hits = []
        for proof in noted:
            proof.noted = False  # before its time is read: a hit meanwhile is in this answer or the next
            ago_s = self._clock() - proof.used_at
            hits.append(CacheHit(proof.client.allow.principal.client_id, proof.secret_created_at, ago_s))
        return hits

    def ask(self) -> LookupStamp:
        """To be called before a look-up whose result ``put`` is to keep."""
        return LookupStamp(self._epoch, self._clock())

    def put(
        self,
        field: bytes,
        allow: Allow,
        *,
        secret_created_at: datetime,
        expires_at: datetime | None,
        asked: LookupStamp,
    ) -> None:
        """Remember a proved credential.

        Args:
            field: The field value that was proved.
            allow: What to answer.
            secret_created_at: Which of the client's secrets it holds.
            expires_at: When the key or its secret ends, if that is sooner.
            asked: From ``ask``, before the look-up: its age counts from then, and if anything was forgotten
                since, nothing is kept.
        """
        if not self.keeps:
            return
        keyed = self._keyed.copy()
        keyed.update(field)
        digest = keyed.digest()
        with self._lock:
            if asked.epoch != self._epoch:
                return
            if (old := self._proofs.get(digest)) is not None:
                self._release(old.client)
            else:
                while len(self._proofs) >= self._size:
                    self._release(self._proofs.pop(self._order.popleft()).client)
                self._order.append(digest)
            client = self._client(allow)
            client.entries += 1
            until = asked.at + self._ttl_s
            self._proofs[digest] = _Proof(
                client, secret_created_at, until, expires_at.timestamp() if expires_at else None
            )

    def forget(self, client_id: str) -> None:
        """End every entry of one client at once."""
        with self._lock:
            self._epoch += 1
            if client := self._clients.pop(client_id, None):
                client.live = False

    def clear(self) -> None:
        """End every entry at once."""
        with self._lock:
            self._epoch += 1
            self._proofs.clear()
            self._order.clear()
            self._clients.clear()

    def _reset(self) -> None:
        # The octet makes BLAKE2b take its key in now, and not anew with every copy of the state.
        self._keyed = blake2b(b"\0", key=secrets.token_bytes(32), digest_size=32)
        self._proofs: dict[bytes, _Proof] = {}
        self._order: deque[bytes] = deque()
        self._clients: dict[str, _Client] = {}
        self._noted = []
        self._lock = threading.Lock()

    def _note(self, proof: _Proof) -> None:
        # Bounded like the entries themselves, of which some may have been replaced since they were used.
        if len(self._noted) < self._size:
            proof.noted = True
            self._noted.append(proof)

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
