"""Caches of several processes against a small model: 4,000 random orders of events.

Keys are created, changed and revoked by any process; all processes verify credentials, lookups take time,
the change feed is polled now and then, clocks move, the store becomes unavailable and recovers. The model
knows every state that a key has had, and which decisions are allowed:

- A decision after a lookup must match the record that was read, at the clock time of the decision.
- A cached decision must have been valid at some moment that is not before the process last polled the feed,
  not before its own last change, and not longer ago than the cache keeps entries.
- A verified credential is cached, unless a change was reported during the lookup.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import Backend, Principal, Settings
from basicauth_mw.auth.cache import VerificationCache
from basicauth_mw.auth.verifier import PendingVerification, Verifier, VerifyPassword
from basicauth_mw.backends.change_feed import ChangeFeed
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.errors import BackendUnavailable, KeyRevoked
from basicauth_mw.keys.model import Decision, Deny, Key, utcnow

if TYPE_CHECKING:
    from collections.abc import Callable

    from basicauth_mw.backends import Changes

SEQUENCES = 4000
CHUNKS = 8
EVENTS = 60
TTL_S = 30.0
SETTINGS = Settings()
IDS = ["a", "b", "c"]


class Store(MemoryStore):
    """A store that can be unavailable, and records every state that a key has had."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.away = False

    def get(self, client_id: str, /) -> Key | None:
        return super().get(client_id)

    def changes(self, since: str | None) -> Changes:
        if self.away:
            raise BackendUnavailable("away")
        return super().changes(since)

    def _announce(self, client_id: str) -> None:
        super()._announce(client_id)
        self.world.history.append(
            Past(self.world.tick(), self.world.now_s, client_id, self._keys.get(client_id))
        )


@dataclass
class Past:
    """The record stored from ``moment`` on."""

    moment: int
    at_s: float
    client_id: str
    key: Key | None


@dataclass
class Credential:
    client_id: str
    secret: str
    field: bytes


@dataclass
class Request:
    """A request in progress."""

    process: Process
    credential: Credential
    check: PendingVerification
    epoch: int
    began_s: float
    read: tuple[Key | None] | None = None
    failed: bool = False


@dataclass
class Process:
    world: World
    cache: VerificationCache
    verifier: Verifier
    feed: ChangeFeed
    heard: int = 0
    changed: dict[str, int] = field(default_factory=dict)


class World:
    """All processes, the store, and the clock."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.moment = 0
        self.now_s = 1000.0
        self.base = utcnow()
        self.history: list[Past] = []
        self.store = Store(self)
        self.backend = Backend(self.store, settings=SETTINGS)
        self.credentials: list[Credential] = []
        self.under_way: list[Request] = []
        self.processes = [self._process() for _ in range(2)]
        for _ in range(3):
            self.change()

    def _process(self) -> Process:
        cache = VerificationCache(
            TTL_S, 100, clock=lambda: self.now_s, wall_clock=lambda: self.wall().timestamp()
        )
        feed = ChangeFeed(self.store)
        feed.subscribe(cache, keeps_s=TTL_S)
        feed.refresh()
        return Process(self, cache, Verifier(self.backend.hasher, cache, now=self.wall), feed)

    def wall(self) -> datetime:
        return self.base + timedelta(seconds=self.now_s - 1000.0)

    def tick(self) -> int:
        self.moment += 1
        return self.moment

    # --- events

    def change(self) -> None:
        client_id = self.random.choice(IDS)
        act = self.random.choice([*["create"] * 4, *["rotate"] * 2, "revoke", "disable", "enable", "delete"])
        before = self.moment
        try:
            match act:
                case "create" if self.store.get(client_id) is None:
                    ends = self.wall() + timedelta(seconds=self.random.choice([5.25, 40.25, 4000]))
                    expires_at = self.random.choice([None, ends])
                    issued = self.backend.create(client_id=client_id, expires_at=expires_at)
                    self._remember(issued.client_id, issued.secret, issued.authorization)
                case "rotate" if self.store.get(client_id) is not None:
                    issued = self.backend.rotate(client_id, overlap_s=self.random.choice([0, 10.25, 50.25]))
                    self._remember(issued.client_id, issued.secret, issued.authorization)
                case "revoke" | "disable" | "enable" | "delete" if self.store.get(client_id) is not None:
                    getattr(self.backend, act)(client_id)
        except (KeyRevoked, ValueError):  # too many secrets, or an expiry that is in the past by now
            return
        if self.moment > before and self.random.random() < 0.3:
            # The change was made in one of the processes, which invalidates its own cache.
            process = self.random.choice(self.processes)
            process.feed.invalidate(client_id)
            process.changed[client_id] = self.moment

    def _remember(self, client_id: str, secret: str, authorization: str) -> None:
        self.credentials.append(Credential(client_id, secret, authorization.encode()))

    def request(self) -> None:
        if not self.credentials:
            return
        process = self.random.choice(self.processes)
        credential = self.random.choice(self.credentials[-6:])
        principal = process.cache.get(credential.field)
        if principal is not None:
            self._check_cached(process, credential, principal)
            return
        check = process.verifier.parse(credential.field)
        assert isinstance(check, PendingVerification)
        self.under_way.append(Request(process, credential, check, *process.cache.stamp()))

    def proceed(self) -> None:
        if not self.under_way:
            return
        request = self.random.choice(self.under_way)
        if request.read is None and not request.failed:
            if self.store.away:
                request.failed = True
            else:
                request.read = (self.store.get(request.credential.client_id),)
            return
        self.under_way.remove(request)
        if request.failed:
            decision = request.check.deny(BackendUnavailable("away"))
        else:
            assert request.read is not None
            decision = request.check.decide(request.read[0])
        assert not isinstance(decision, VerifyPassword), "generated secrets need one lookup and nothing else"
        self._check_looked_up(request, decision)

    def poll(self) -> None:
        process = self.random.choice(self.processes)
        process.feed.poll()
        if not self.store.away:
            process.heard = self.moment

    def wait(self) -> None:
        self.now_s += self.random.choice([0.5, 5.0, 14.0, 29.0])

    def outage(self) -> None:
        self.store.away = not self.store.away

    # --- allowed decisions

    def _check_looked_up(self, request: Request, decision: Decision) -> None:
        if request.failed:
            assert isinstance(decision, Deny)
            assert decision.reason == "backend_unavailable"
            return
        assert request.read is not None
        key = request.read[0]
        good = key is not None and self._is_good(key, request.credential)
        assert isinstance(decision, Principal) == good
        cache = request.process.cache
        if good and cache.stamp()[0] == request.epoch and self.now_s < request.began_s + TTL_S:
            # No change was reported meanwhile: it is cached, and from here on needs no store.
            assert cache.get(request.credential.field) == decision
        if isinstance(decision, Deny):
            assert decision.error.code == "invalid_credentials"

    def _check_cached(self, process: Process, credential: Credential, principal: Principal) -> None:
        assert principal.client_id == credential.client_id
        since = max(process.heard, process.changed.get(credential.client_id, 0))
        states = [past for past in self.history if past.client_id == credential.client_id]
        possible = [
            past.key
            for past, after in zip(states, [*states[1:], None], strict=True)
            if after is None or (after.moment > since and after.at_s > self.now_s - TTL_S)
        ]
        assert any(key is not None and self._is_good(key, credential) for key in possible)

    def _is_good(self, key: Key, credential: Credential) -> bool:
        match = self.backend.hasher.verify_digest(credential.secret, key.secrets)
        ends = [] if match is None else [end for end in (key.expires_at, match.expires_at) if end is not None]
        return (
            match is not None
            and key.revoked_at is None
            and not key.disabled
            and all(end > self.wall() for end in ends)
        )


EVENT_WEIGHTS: dict[str, int] = {"change": 4, "request": 8, "proceed": 10, "poll": 4, "wait": 2, "outage": 1}


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_order_of_events_gives_a_wrong_decision(chunk: int) -> None:
    size = SEQUENCES // CHUNKS
    for seed in range(chunk * size, (chunk + 1) * size):
        world = World(seed)
        events: list[Callable[[], None]] = [getattr(world, name) for name in EVENT_WEIGHTS]
        try:
            for event in world.random.choices(events, list(EVENT_WEIGHTS.values()), k=EVENTS):
                event()
        except AssertionError as exc:
            exc.add_note(f"sequence {seed}")
            raise
