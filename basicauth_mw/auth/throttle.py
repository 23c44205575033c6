"""Counts failures and says when there are too many: sliding, bounded, in this process's memory."""

from __future__ import annotations

import math
import secrets
import threading
import time
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Final

from ..runtime.fork import after_fork
from ..settings.values import parse_rate

if TYPE_CHECKING:
    from collections.abc import Callable

    _Counter = tuple[float, int, int]  # start of the window, count of the period before, count in it

MAX_TRACKED: Final = 20_000  # counters of one limit, a few hundred bytes each
SHARE: Final = 64  # of one address
SCARCE_SHARE: Final = 4  # of one address, once half of the counters are taken

_DIGEST_BYTES: Final = 16
_MAX_ADDRESS: Final = 100  # an IPv6 address with zone and port is shorter
_HOLD_IPV4: Final = (bytes(10) + b"\xff\xff", bytes.fromhex("0064ff9b") + bytes(8))  # RFC 4291, RFC 6052


class _Group:
    """The counters of one address, the longest idle first."""

    __slots__ = ("counters", "failed_at")

    def __init__(self) -> None:
        self.counters: dict[bytes, _Counter] = {}
        self.failed_at = 0.0


class Throttle:
    """Counts failures by key within a sliding window, in bounded memory.

    The window slides by weighting the count of the period before, as if its failures had come evenly. So a
    counter takes the same few numbers whatever the limit.

    Keys belong to groups. A group has at most ``SHARE`` counters of its own. Failures of further keys go
    into one counter that these keys share, so that no group can evict its own counters or those of
    others. While the table is half full, a new key gets a counter of its own only in a group that has fewer
    than ``SCARCE_SHARE``. A full table drops the group that has been idle longest.

    Keys and groups are short digests: a counter takes the same number of bytes whatever the client sent.

    Args:
        limit: Failures allowed in ``period_s``; one more is too many.
        period_s: Seconds.
        clock: Monotonic seconds.

    Attributes:
        active: Whether any key may be over the limit; while it is False there is no need to ask.
    """

    def __init__(self, limit: int, period_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._period_s = period_s
        self._clock = clock
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self.active = False
        self._groups: dict[bytes, _Group] = {}  # the longest idle first
        self._tracked = 0  # counters in all groups
        self._blocked: dict[bytes, float] = {}  # until when
        self._unreported: set[bytes] = set()  # of those, who has not been refused yet
        self._lock = threading.Lock()

    def blocked(self, group: bytes, key: bytes) -> Blocked | None:
        """Say whether ``key`` is over the limit."""
        with self._lock:
            now = self._clock()
            self._unblock_ended(now)
            held = self._groups.get(group)
            shared = held is not None and key not in held.counters
            counter = group if shared else key
            left_s = self._blocked.get(counter, now) - now
        return Blocked(math.ceil(left_s), shared, counter, self) if left_s > 0 else None

    def take_first_refusal(self, counter: bytes) -> bool:
        """Whether this is the first call since the counter went over the limit."""
        with self._lock:
            is_first = counter in self._unreported
            self._unreported.discard(counter)
        return is_first

    def record(self, group: bytes, key: bytes) -> None:
        """Count one failure of ``key``. A group's shared counter has the group's own digest as its key."""
        with self._lock:
            now = self._clock()
            self._drop_idle(now)
            held = self._groups.pop(group, None) or _Group()
            held.failed_at = now
            self._groups[group] = held
            if key not in held.counters and not self._has_room(held, now):
                key = group
            counter = held.counters.pop(key, None)
            if counter is None:
                counter = (now, 0, 0)
                self._tracked += 1
            start, before, within = counter
            periods = int((now - start) / self._period_s)
            if periods:
                start += periods * self._period_s
                before, within = (within if periods == 1 else 0), 0
            within += 1
            held.counters[key] = (start, before, within)
            if (until := self._unblock_time(start, before, within)) > now:
                if key not in self._blocked:
                    self._unreported.add(key)
                self._blocked.pop(key, None)
                self._blocked[key] = until
                self.active = True
            while self._tracked > MAX_TRACKED:
                self._drop_group()

    def _unblock_time(self, start: float, before: int, within: int) -> float:
        """When the weighted count falls below the limit."""
        period, limit = self._period_s, self._limit
        if within < limit:  # the older count fades within this window
            return start + period * (1 - (limit - within) / before) if before else start
        return start + period + period * (1 - limit / within)  # this one has to fade in the next

    def _has_room(self, held: _Group, now: float) -> bool:
        """Whether a group may have one more counter; drops those of it that have faded."""
        counters = held.counters
        while counters and self._has_faded(counters[first := next(iter(counters))], now):
            del counters[first]
            self._tracked -= 1
            self._unblock(first)
        return len(counters) < (SHARE if self._tracked < MAX_TRACKED // 2 else SCARCE_SHARE)

    def _has_faded(self, counter: _Counter, now: float) -> bool:
        return counter[0] + 2 * self._period_s <= now

    def _drop_idle(self, now: float) -> None:
        """Drop groups without a failure for so long that all their counts have faded."""
        groups = self._groups
        while groups and groups[next(iter(groups))].failed_at + 2 * self._period_s <= now:
            self._drop_group()

    def _drop_group(self) -> None:
        held = self._groups.pop(next(iter(self._groups)))
        self._tracked -= len(held.counters)
        for key in held.counters:
            self._unblock(key)

    def _unblock_ended(self, now: float) -> None:
        """Drop blocks that are over, from the oldest; so nobody pays for those who never come back."""
        while self._blocked and self._blocked[first := next(iter(self._blocked))] <= now:
            self._unblock(first)

    def _unblock(self, key: bytes) -> None:
        self._blocked.pop(key, None)
        self._unreported.discard(key)
        self.active = bool(self._blocked)


@dataclass(frozen=True, slots=True)
class Blocked:
    """A key that is over a limit.

    Attributes:
        retry_after_s: Seconds, at least 1.
        is_shared: Whether the counter is the one that all keys of an address share which have none of their
            own: then it says nothing about this key.
    """

    retry_after_s: int
    is_shared: bool
    _counter: bytes
    _throttle: Throttle

    def take_first_refusal(self) -> bool:
        """Whether this is the first call since the limit was passed."""
        return self._throttle.take_first_refusal(self._counter)


class FailureThrottle:
    """The two limits of a gate: by address and client id, and by address alone.

    Args:
        by_pair: A rate, or empty for no limit.
        by_address: The same.

    Attributes:
        active: Whether anybody may be over a limit: until then no request pays for the question.
    """

    def __init__(self, by_pair: str, by_address: str) -> None:
        self._by_pair = _throttle(by_pair)
        self._by_address = _throttle(by_address)
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self.active = False
        self._lock = threading.Lock()
        self._keyed = blake2b(digest_size=_DIGEST_BYTES, key=secrets.token_bytes(32))

    def __bool__(self) -> bool:
        return self._by_pair is not None or self._by_address is not None

    def check(self, address: str, client_id: str | None) -> Blocked | None:
        """Say whether a credential from ``address`` is to be refused unseen; None as the id: unreadable."""
        group = self._digest(client_of(address))
        blocked = None
        if self._by_address is not None:
            blocked = self._by_address.blocked(group, group)
        if blocked is None and self._by_pair is not None and client_id is not None:
            blocked = self._by_pair.blocked(group, self._digest(client_id, group))
        self._refresh()
        return blocked

    def record(self, address: str, client_id: str | None) -> None:
        """Count a failure."""
        group = self._digest(client_of(address))
        if self._by_address is not None:
            self._by_address.record(group, group)
        if self._by_pair is not None and client_id is not None:
            self._by_pair.record(group, self._digest(client_id, group))
        self._refresh()

    def _digest(self, text: str, group: bytes = b"") -> bytes:
        """Of fixed length, under a key of this process, so that clients cannot construct collisions."""
        keyed = self._keyed.copy()
        keyed.update(group)  # of fixed length too: no two pairs run together
        keyed.update(text.encode("utf-8", "surrogatepass"))
        return keyed.digest()

    def _refresh(self) -> None:
        with self._lock:  # who writes last has looked last
            throttles = (self._by_pair, self._by_address)
            self.active = any(throttle is not None and throttle.active for throttle in throttles)


def client_of(address: str) -> str:
    """Name the client that an address belongs to: the IPv4 address, or the /64 of an IPv6 address.

    A client with one address of a /64 usually controls all of them. A port, a zone and the IPv6 forms of an
    IPv4 address (mapped, or translated by NAT64) are left out.

    Args:
        address: As the server gives it.

    Returns:
        The same text for all addresses of one client. What is not an IP address is returned unchanged.
    """
    if len(address) > _MAX_ADDRESS:
        return address
    text = address.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 4:
        return str(ip)
    packed = ip.packed
    if packed.startswith(_HOLD_IPV4):
        return str(IPv4Address(packed[12:]))
    return packed[:8].hex()


def _throttle(rate: str) -> Throttle | None:
    parsed = parse_rate(rate)
    return None if parsed is None else Throttle(*parsed)
