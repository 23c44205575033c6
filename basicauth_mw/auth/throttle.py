"""Count failed requests, and block clients with too many: a sliding window, in bounded memory.

The window slides by weighting the count of the period before, as if its failures were evenly spread. So
a counter takes the same few numbers whatever the limit.

The counters of one address form a group. A group has at most ``SHARE`` counters. Failures of further keys are
counted in one counter that these keys share, so that an address can evict neither its own counters nor those
of others. Once the table is half full, a new key gets a separate counter only in a group with fewer than
``SCARCE_SHARE``. A full table drops the group that has been idle longest.

Keys and groups are short digests: a counter takes the same memory whatever the client sent.

If the store can count failures, ``backends.shared_failures`` exchanges them with the other processes: it
drains what is new, and merges the totals.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from ..runtime.fork import after_fork
from ..settings.parsers import parse_rate
from .client_address import client_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    _Counter = tuple[float, int, int]  # start of the window, count of the period before, count in it

MAX_TRACKED: Final = 20_000  # counters of one limit, a few hundred bytes each
SHARE: Final = 64  # of one address
SCARCE_SHARE: Final = 4  # of one address, once half of the counters are taken

_DIGEST_BYTES: Final = 16


class Blocked(NamedTuple):
    """A key that is over a limit.

    Attributes:
        retry_after_s: Seconds, at least 1.
        is_shared: Whether the counter is the one that is shared by keys without their own counter. Then it
            says nothing about this key.
        counter: The counter that is over the limit.
        throttle: The limit.
    """

    retry_after_s: int
    is_shared: bool
    counter: bytes
    throttle: Throttle


class _Group:
    """The counters of one address, the longest idle first."""

    __slots__ = ("counters", "failed_at")

    def __init__(self) -> None:
        self.counters: dict[bytes, _Counter] = {}
        self.failed_at = 0.0


class Throttle:
    """One limit. Not thread-safe: ``FailureThrottle`` holds the lock.

    Args:
        limit: Failures allowed in ``period_s``; one more is too many.
        period_s: Seconds.
        clock: Monotonic seconds.

    Attributes:
        period_s: Seconds.
        blocked: Until when each counter over the limit is blocked, the oldest block first.
    """

    def __init__(self, limit: int, period_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self.period_s = period_s
        self._clock = clock
        self._is_shared = False
        self.clear()

    def share(self) -> None:
        """Keep new failures for ``drain``."""
        self._is_shared = True

    def clear(self) -> None:
        self.blocked: dict[bytes, float] = {}
        self._groups: dict[bytes, _Group] = {}  # the longest idle first
        self._tracked = 0  # counters in all groups
        self._unreported: set[bytes] = set()  # blocked, and not refused since
        self._new: dict[bytes, tuple[bytes, int]] = {}  # group and failures of each counter, not yet drained
        self._drained: dict[bytes, bytes] = {}  # group of each counter whose total is not known yet

    def check(self, group: bytes, key: bytes) -> Blocked | None:
        """Whether ``key`` is over the limit."""
        now = self._clock()
        while self.blocked and self.blocked[first := next(iter(self.blocked))] <= now:
            self._unblock(first)
        found = self._groups.get(group)
        is_shared = found is not None and key not in found.counters
        counter = group if is_shared else key
        left_s = self.blocked.get(counter, now) - now
        return Blocked(math.ceil(left_s), is_shared, counter, self) if left_s > 0 else None

    def take_first_refusal(self, counter: bytes) -> bool:
        """Whether this is the first call since the counter went over the limit."""
        is_first = counter in self._unreported
        self._unreported.discard(counter)
        return is_first

    def record(self, group: bytes, key: bytes) -> bool:
        """Count one failure of ``key``; returns whether its counter is over the limit now.

        The shared counter of a group has the group's digest as its key.
        """
        now = self._clock()
        # All counts of a group have faded after two periods without a failure.
        while self._groups and self._groups[next(iter(self._groups))].failed_at + 2 * self.period_s <= now:
            self._drop_group()
        found = self._groups.pop(group, None) or _Group()
        found.failed_at = now
        self._groups[group] = found
        if key not in found.counters and not self._has_room(found, now):
            key = group
        counter = found.counters.pop(key, None)
        if counter is None:
            counter = (now, 0, 0)
            self._tracked += 1
        start, before, within = counter
        periods = int((now - start) / self.period_s)
        if periods:
            start += periods * self.period_s
            before, within = (within if periods == 1 else 0), 0
        within += 1
        found.counters[key] = (start, before, within)
        if self._is_shared and (key in self._new or len(self._new) < MAX_TRACKED):
            self._new[key] = group, self._new.get(key, (group, 0))[1] + 1
        while self._tracked > MAX_TRACKED:
            self._drop_group()
        if not before and within < self._limit:  # the usual case: no failures fade, and there are few
            return False
        self._block(key, start, before, within, now)
        return key in self.blocked

    def drain(self, most: int) -> dict[bytes, int]:
        """Return and forget the failures of up to ``most`` counters since the last call."""
        self._drained = {}
        failures: dict[bytes, int] = {}
        while self._new and len(failures) < most:
            counter, (self._drained[counter], failures[counter]) = self._new.popitem()
        return failures

    def merge(self, totals: Mapping[bytes, tuple[int, int]], wall_clock: float) -> None:
        """Use the totals of all processes for drained counters, unless this process has counted more.

        Args:
            totals: Failures in the period before, and in the current one. Periods are multiples of
                ``period_s`` since the epoch.
            wall_clock: Seconds since the epoch.
        """
        now = self._clock()
        start = now - wall_clock % self.period_s
        for counter, (before, within) in totals.items():
            group = self._groups.get(self._drained.get(counter, b""))
            if group is None or counter not in group.counters:
                continue
            within += self._new.get(counter, (b"", 0))[1]
            total = (start, before, within)
            # The store knows fewer failures than this process if it has no room, or has lost its counts.
            if self._weight(total, now) >= self._weight(group.counters[counter], now):
                group.counters[counter] = total
                self._block(counter, *total, now)

    def _weight(self, counter: _Counter, now: float) -> float:
        """The failures in the sliding window."""
        start, before, within = counter
        periods = (now - start) / self.period_s
        return before * (1 - periods) + within if periods < 1 else within * max(0.0, 2 - periods)

    def _block(self, key: bytes, start: float, before: int, within: int, now: float) -> None:
        """Block a counter that is over the limit; never for a shorter time than before."""
        if (until := self._unblock_time(start, before, within)) > now:
            blocked_until = self.blocked.pop(key, None)
            if blocked_until is None:
                self._unreported.add(key)
            self.blocked[key] = max(until, blocked_until or until)

    def _unblock_time(self, start: float, before: int, within: int) -> float:
        """When the weighted count falls below the limit."""
        period, limit = self.period_s, self._limit
        if within < limit:  # the older count fades within this window
            return start + period * (1 - (limit - within) / before) if before else start
        return start + period + period * (1 - limit / within)  # this one has to fade in the next

    def _has_room(self, group: _Group, now: float) -> bool:
        """Whether a group may have one more counter, after those that have faded are dropped."""
        counters = group.counters
        while counters and counters[first := next(iter(counters))][0] + 2 * self.period_s <= now:
            del counters[first]
            self._tracked -= 1
            self._unblock(first)
        return len(counters) < (SHARE if self._tracked < MAX_TRACKED // 2 else SCARCE_SHARE)

    def _drop_group(self) -> None:
        """Drop the group that has been idle longest."""
        group = self._groups.pop(next(iter(self._groups)))
        self._tracked -= len(group.counters)
        for key in group.counters:
            self._unblock(key)

    def _unblock(self, key: bytes) -> None:
        self.blocked.pop(key, None)
        self._unreported.discard(key)


class FailureThrottle:
    """The two limits of an authenticator: by address and client ID, and by address alone.

    Args:
        by_pair: A rate such as ``20/minute``; empty for no limit.
        by_address: The same.
        clock: Monotonic seconds.
        wall_clock: Seconds since the epoch.

    Attributes:
        enabled: Whether there is any limit.
        active: Whether any client is over a limit. While it is False, requests need not be checked.
    """

    def __init__(
        self,
        by_pair: str,
        by_address: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        pair, address = parse_rate(by_pair), parse_rate(by_address)
        self._by_pair = None if pair is None else Throttle(*pair, clock=clock)
        self._by_address = None if address is None else Throttle(*address, clock=clock)
        self._limits = [limit for limit in (self._by_pair, self._by_address) if limit is not None]
        self.enabled = bool(self._limits)
        self._wall_clock = wall_clock
        self._is_shared = False
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self.active = False
        for limit in self._limits:
            limit.clear()
        self._lock = threading.Lock()
        # With a key, clients cannot construct collisions. Shared counters need the same digests everywhere;
        # a collision of two of them takes 2**64 attempts, and only makes two clients share a counter.
        key = b"" if self._is_shared else secrets.token_bytes(32)
        self._keyed = blake2b(digest_size=_DIGEST_BYTES, key=key, person=b"basicauth_mw")

    def share(self) -> dict[str, float]:
        """Count for ``SharedFailures``: return the period of each limit, in seconds."""
        self._is_shared = True
        for limit in self._limits:
            limit.share()
        self._reset()
        return {name: limit.period_s for name, limit in self._named()}

    def drain(self, limit: str, most: int) -> dict[bytes, int]:
        """Return and forget the failures of up to ``most`` counters since the last call."""
        with self._lock:
            return dict(self._named())[limit].drain(most)

    def merge(self, limit: str, totals: Mapping[bytes, tuple[int, int]]) -> None:
        """Use the totals of all processes for counters that were drained."""
        with self._lock:
            dict(self._named())[limit].merge(totals, self._wall_clock())
            self._set_active()

    def _named(self) -> list[tuple[str, Throttle]]:
        limits = [("pair", self._by_pair), ("address", self._by_address)]
        return [(name, limit) for name, limit in limits if limit is not None]

    def check(self, address: str, client_id: str | None) -> Blocked | None:
        """Whether to refuse credentials without verifying them; the ID is None if it cannot be read."""
        group, pair = self._digests(address, client_id)
        blocked = None
        with self._lock:
            if self._by_address is not None:
                blocked = self._by_address.check(group, group)
            if blocked is None and self._by_pair is not None and pair is not None:
                blocked = self._by_pair.check(group, pair)
            self._set_active()
        return blocked

    def take_first_refusal(self, blocked: Blocked) -> bool:
        """Whether this is the first refusal since the limit was passed."""
        with self._lock:
            return blocked.throttle.take_first_refusal(blocked.counter)

    def record(self, address: str, client_id: str | None) -> None:
        group, pair = self._digests(address, client_id)
        with self._lock:
            if self._by_address is not None and self._by_address.record(group, group):
                self.active = True
            if self._by_pair is not None and pair is not None and self._by_pair.record(group, pair):
                self.active = True

    def _set_active(self) -> None:
        self.active = any([limit.blocked for limit in self._limits])  # noqa: C419 - a list is faster

    def _digests(self, address: str, client_id: str | None) -> tuple[bytes, bytes | None]:
        """The digests of the address, and of the address with the client ID."""
        keyed = self._keyed.copy()
        keyed.update(client_of(address).encode("utf-8", "surrogatepass"))
        group = keyed.digest()
        if client_id is None:
            return group, None
        keyed = self._keyed.copy()
        keyed.update(group)
        keyed.update(client_id.encode("utf-8", "surrogatepass"))
        return group, keyed.digest()
