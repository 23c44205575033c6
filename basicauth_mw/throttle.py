"""Counts failures and says when there are too many: sliding, bounded, in this process's memory."""

from __future__ import annotations

import math
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ._fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

MAX_TRACKED: Final = 10_000

_PERIODS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_RATE = re.compile(r"\s*([0-9]{1,9})\s*/\s*(second|minute|hour|day)\s*", re.IGNORECASE | re.ASCII)


def parse_rate(rate: str) -> tuple[int, float] | None:
    """Read a rate such as ``20/minute``.

    Returns:
        How many in how many seconds; None for an empty text, which is no limit.

    Raises:
        ValueError: Says what is expected.
    """
    if not rate.strip():
        return None
    form = _RATE.fullmatch(rate)
    if form is None or int(form[1]) < 1:
        raise ValueError(
            "must be a count and a period, as in 20/minute (second, minute, hour, day), or empty"
        )
    return int(form[1]), _PERIODS_S[form[2].lower()]


class Throttle:
    """Failures by key within a sliding window.

    The window slides by weighting the count of the period before (as many in it as if they had come
    evenly), so that a key costs the same few numbers whatever the limit.

    Args:
        limit: Failures allowed in ``period_s``; one more is too many.
        period_s: Seconds.
        clock: Monotonic seconds.

    Attributes:
        active: Whether anybody may be over the limit; while it is False there is no need to ask.
    """

    def __init__(self, limit: int, period_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._period_s = period_s
        self._clock = clock
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self.active = False
        self._counts: dict[Hashable, tuple[float, int, int]] = {}  # window's start, count before, count in it
        self._blocked: dict[Hashable, float] = {}  # until when
        self._news: set[Hashable] = set()  # of those, who has not been refused yet
        self._lock = threading.Lock()

    def retry_after_s(self, key: Hashable) -> int:
        """Seconds until ``key`` is looked at again, at least 1; 0 if it is not over the limit."""
        with self._lock:
            now = self._clock()
            self._unblock_ended(now)
            left_s = self._blocked.get(key, now) - now
        return math.ceil(left_s) if left_s > 0 else 0

    def is_news(self, key: Hashable) -> bool:
        """Whether this is the first time that it is asked since ``key`` went over the limit."""
        with self._lock:
            news = key in self._news
            self._news.discard(key)
        return news

    def record(self, key: Hashable) -> None:
        """Count one failure of ``key``."""
        with self._lock:
            now = self._clock()
            start, before, within = self._counts.pop(key, (now, 0, 0))
            periods = int((now - start) / self._period_s)
            if periods:
                start += periods * self._period_s
                before, within = (within if periods == 1 else 0), 0
            within += 1
            self._make_room(now)
            self._counts[key] = (start, before, within)  # behind all others: the first are the longest idle
            if (until := self._free_at(start, before, within)) > now:
                if key not in self._blocked:
                    self._news.add(key)
                self._blocked.pop(key, None)
                self._blocked[key] = until
                self.active = True

    def _free_at(self, start: float, before: int, within: int) -> float:
        """When the weighted count falls below the limit."""
        period, limit = self._period_s, self._limit
        if within < limit:  # the older count fades within this window
            return start + period * (1 - (limit - within) / before) if before else start
        return start + period + period * (1 - limit / within)  # this one has to fade in the next

    def _make_room(self, now: float) -> None:
        if len(self._counts) >= MAX_TRACKED:
            self._counts.pop(next(iter(self._counts)))
        if len(self._blocked) >= MAX_TRACKED:
            self._unblock(next(iter(self._blocked)))

    def _unblock_ended(self, now: float) -> None:
        """Drop blocks that are over, from the oldest; so nobody pays for those who never come back."""
        while self._blocked and self._blocked[first := next(iter(self._blocked))] <= now:
            self._unblock(first)

    def _unblock(self, key: Hashable) -> None:
        self._blocked.pop(key, None)
        self._news.discard(key)
        self.active = bool(self._blocked)


@dataclass(frozen=True, slots=True)
class Blocked:
    """Somebody is over a limit.

    Attributes:
        retry_after_s: Seconds, at least 1.
        news: Whether this is the first refusal since the limit was passed.
    """

    retry_after_s: int
    news: bool


class FailureLimits:
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

    def __bool__(self) -> bool:
        return self._by_pair is not None or self._by_address is not None

    def check(self, address: str, client_id: str | None) -> Blocked | None:
        """Say whether a credential from ``address`` is to be refused unseen; None as the id: unreadable."""
        blocked = self._ask(self._by_address, address)
        if blocked is None and client_id is not None:
            blocked = self._ask(self._by_pair, (address, client_id))
        self._refresh()
        return blocked

    def record(self, address: str, client_id: str | None) -> None:
        """Count a failure."""
        if self._by_address is not None:
            self._by_address.record(address)
        if self._by_pair is not None and client_id is not None:
            self._by_pair.record((address, client_id))
        self._refresh()

    @staticmethod
    def _ask(throttle: Throttle | None, key: Hashable) -> Blocked | None:
        if throttle is None or not (left_s := throttle.retry_after_s(key)):
            return None
        return Blocked(left_s, throttle.is_news(key))

    def _refresh(self) -> None:
        with self._lock:  # who writes last has looked last
            throttles = (self._by_pair, self._by_address)
            self.active = any(throttle is not None and throttle.active for throttle in throttles)


def _throttle(rate: str) -> Throttle | None:
    parsed = parse_rate(rate)
    return None if parsed is None else Throttle(*parsed)
