"""Count the refusals of this process by reason: totals, and for each minute of the last hour.

Only a refusal writes here, so an allowed request costs nothing. Memory is bounded, as the reasons are a
closed set.
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


class Snapshot(NamedTuple):
    """The counts at one moment.

    Attributes:
        since: When counting began, in UTC.
        totals: Refusals by reason.
        minutes: Refusals in each of the last 60 minutes, the current one last.
    """

    since: datetime
    totals: Mapping[str, int]
    minutes: tuple[int, ...]


class RefusalStats:
    """Counts refusals; a forked child starts from zero.

    Args:
        wall_clock: Seconds since the epoch.
    """

    def __init__(self, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[str, int] = {}
        self._minutes = deque([0] * MINUTES, maxlen=MINUTES)
        now = self._wall_clock()
        self._minute = int(now) // 60
        self._since = datetime.fromtimestamp(now, UTC)

    def count(self, reason: str) -> None:
        with self._lock:
            self._totals[reason] = self._totals.get(reason, 0) + 1
            if int(self._wall_clock()) // 60 != self._minute:
                self._advance_minute()
            self._minutes[-1] += 1

    def snapshot(self) -> Snapshot:
        """The counts so far."""
        with self._lock:
            self._advance_minute()
            return Snapshot(self._since, dict(self._totals), tuple(self._minutes))

    def _advance_minute(self) -> None:
        minute = int(self._wall_clock()) // 60
        if minute == self._minute:
            return
        # At most an hour of zeros. If the clock was set back, refusals are added to the last minute.
        for _ in range(min(minute - self._minute, MINUTES)):
            self._minutes.append(0)
        self._minute = minute


# Shared by all middlewares of the process: the dashboard shows what the process refuses.
refusal_stats: Final = RefusalStats()
