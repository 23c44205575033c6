"""Share counts of failed requests between processes, through a store that can count them.

Each process counts a failure immediately, in ``auth.throttle``. One thread then adds the new failures to the
counts in the store, and receives the totals of all processes. No request waits for it. The thread sends
without a delay, and failures in the meantime form its next batch. A process learns about the failures of
others when it reports its own next one, about a round trip later. While the store cannot count, each process
counts separately.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final, Protocol

from ..errors import ReadOnlyBackend
from ..runtime.background import BackgroundThread
from ..runtime.fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .base import FailureStore

    # For each counter: failures in the period before, and in this one.
    Totals = Mapping[bytes, tuple[int, int]]

logger = logging.getLogger("basicauth_mw")

MAX_BATCH: Final = 1000
_OUTAGE_PAUSE_S: Final = 1.0
_DENIED_PAUSE_S: Final = 600.0


class FailureCounts(Protocol):
    """The failures that this process has counted. Every method is thread-safe."""

    def drain(self, limit: str, most: int) -> Mapping[bytes, int]:
        """Return and forget the failures of up to ``most`` counters since the last call."""
        ...

    def merge(self, limit: str, totals: Totals) -> None:
        """Use the totals of all processes for counters that were drained."""
        ...


class SharedFailures:
    """Exchanges failures with the other processes on one thread, which the first failure starts.

    Args:
        store: Counts the failures of all processes.
        counts: Counts those of this one.
        periods: The name of each limit, and its period in seconds.
    """

    def __init__(self, store: FailureStore, counts: FailureCounts, periods: Mapping[str, float]) -> None:
        self._store = store
        self._counts = counts
        self._periods = periods
        self._thread = BackgroundThread("failures", self._serve)
        self._logged = False
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._recorded = threading.Event()

    def wake(self) -> None:
        """Exchange what was counted since the last exchange. Called on the request path: does not wait."""
        if not self._recorded.is_set():
            self._recorded.set()
        self._thread.start()

    def stop(self) -> None:
        """Tell the thread to stop."""
        self._thread.stop()
        self._recorded.set()

    def _serve(self, closing: threading.Event) -> None:
        while not closing.is_set():
            self._recorded.wait()
            self._recorded.clear()
            if not (pause_s := self._exchange()):
                continue
            closing.wait(pause_s)
            for limit in self._periods:  # what was counted during the pause is not shared
                while self._counts.drain(limit, MAX_BATCH):
                    pass

    def _exchange(self) -> float:
        """Exchange all new failures; returns how many seconds to wait if the store does not count."""
        try:
            for limit, period_s in self._periods.items():
                while new := self._counts.drain(limit, MAX_BATCH):
                    totals = self._store.add_failures(limit, period_s, new)
                    self._counts.merge(limit, dict(zip(new, totals, strict=True)))
        except ReadOnlyBackend as exc:
            if not self._logged:
                self._logged = True
                logger.info("each process counts its failed requests separately: %s", exc)
            return _DENIED_PAUSE_S
        except Exception as exc:
            logger.debug("failed requests are counted in this process only, for now (%s)", type(exc).__name__)
            return _OUTAGE_PAUSE_S
        return 0.0
