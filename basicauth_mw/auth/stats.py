"""How often this process has refused, by reason: totals, and minute by minute for the last hour.

Written when a request is refused and at no other time: one that is let through costs nothing here. Bounded,
as the reasons are a closed set.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from ..runtime.fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MINUTES: Final = 60
_MINUTE_S: Final = 60


class Snapshot(NamedTuple):
    """What was counted.

    Attributes:
        since: When counting began, in UTC.
        totals: Refusals by reason.
        minutes: Refusals of each of the last 60 minutes, the running one last.
    """

    since: datetime
    totals: Mapping[str, int]
    minutes: tuple[int, ...]


class RefusalStats:
    """Counts refusals of one process; a forked child starts anew.

    Args:
        wall_clock: Seconds since the epoch.
    """

    def __init__(self, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._minute = 0
        self._reset()
        after_fork(self._reset)

    def count(self, reason: str) -> None:
        """Count one."""
        with self._lock:
            self._totals[reason] = self._totals.get(reason, 0) + 1
            self._advance_minute()
            self._minutes[-1] += 1

    def snapshot(self) -> Snapshot:
        """All that was counted so far."""
        with self._lock:
            self._advance_minute()
            return Snapshot(self._since, dict(self._totals), tuple(self._minutes))

    def _advance_minute(self) -> None:
        wall_clock = self._wall_clock
        minute = int(wall_clock()) // _MINUTE_S
        if minute == self._minute:
            return
        # Over an hour without a refusal is as good as an hour; a clock set back adds to the last minute.
        for _ in range(min(minute - self._minute, MINUTES)):
            self._minutes.append(0)
        self._minute = minute

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[str, int] = {}
        self._minutes = deque([0] * MINUTES, maxlen=MINUTES)
        now = self._wall_clock()
        self._minute = int(now) // _MINUTE_S
        self._since = datetime.fromtimestamp(now, UTC)


# Of all gates: whoever asks wants to know of the process, however many there are in it.
refusal_stats: Final = RefusalStats()
