"""Decide that the key backend is unavailable: whatever a store raises becomes a ``BackendError``, a 503.

A circuit breaker keeps requests from waiting for a store that is known to be unavailable. It opens when the
store has failed a few times in a row and has not responded within the deadline. Then a thread probes the
store, and the first success closes the breaker. Each change of state is logged once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from ..errors import BackendError, BackendUnavailable, UnreadableRecord
from ..runtime.background import BackgroundThread
from ..runtime.fork import after_fork
from ..runtime.pool import QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("basicauth_mw")

FAILURES_TO_OPEN: Final = 3
PROBE_EVERY_S: Final = 0.25
_MAX_LOGS_PER_MINUTE: Final = 20


class CircuitBreaker:
    """Records successes and failures of a store.

    Args:
        probe: Calls the store, blocking, and raises if it is unavailable; None: the breaker never opens.
        deadline_s: Seconds that a call may take. The breaker stays closed while another call has succeeded
            within this time.
        name: The store, in errors.

    Attributes:
        is_open: Whether the store is known to be unavailable.
    """

    def __init__(
        self, probe: Callable[[], object] | None, *, deadline_s: float, name: str = "the store"
    ) -> None:
        self._probe = probe
        self._name = name
        self._deadline_s = deadline_s
        self._thread = BackgroundThread("probe", self._serve)
        self._logged_at: deque[float] = deque(maxlen=_MAX_LOGS_PER_MINUTE)
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self.is_open = False
        self._failures = 0
        self._available = True
        self._success_at = float("-inf")
        self._opened = threading.Event()

    def check(self) -> None:
        """Raise ``BackendUnavailable`` if the breaker is open."""
        if self.is_open:
            raise BackendUnavailable(f"{self._name} did not respond a moment ago")

    def record_success(self) -> None:
        self._success_at = time.monotonic()
        self._failures = 0
        self.is_open = False
        if not self._available:
            self._log_transition(available=True)

    def record_failure(self, exc: Exception) -> BackendError:
        """The store failed; returns the exception to raise instead of ``exc``."""
        if isinstance(exc, UnreadableRecord):
            return exc  # the store is available, only this record is damaged
        # Any other exception may be caused by the ID, which the client chooses: it must not open the breaker.
        is_outage = isinstance(exc, TimeoutError | BackendUnavailable)
        if isinstance(exc, BackendError):
            error = exc
        elif isinstance(exc, TimeoutError):
            error = BackendUnavailable(f"{self._name} did not respond within {self._deadline_s:g} s")
        elif isinstance(exc, QueueFull):
            error = BackendUnavailable("too many lookups are waiting")
        else:
            # The text of a third party's exception may contain a password, so it is not passed on.
            error = BackendUnavailable(f"the store raised {type(exc).__name__}")
        if self._available:
            self._log_transition(available=False, reason=error)
        if is_outage and self._probe is not None:
            self._count_failure()
        return error

    def _count_failure(self) -> None:
        self._failures += 1
        is_silent = time.monotonic() >= self._success_at + self._deadline_s
        if self._failures >= FAILURES_TO_OPEN and is_silent and not self.is_open:
            self.is_open = True
            self._opened.set()
        if self.is_open:
            self._thread.start()

    def close(self) -> None:
        """Stop the thread, and close the breaker, which nothing else would; later failures open it again."""
        self._thread.stop()
        self.is_open = False
        self._failures = 0
        # Another event for the next thread, so that this one cannot take its wake-up.
        opened, self._opened = self._opened, threading.Event()
        opened.set()

    def _log_transition(self, *, available: bool, reason: Exception | None = None) -> None:
        """Log a change of state, at most 20 times a minute."""
        self._available = available
        now = time.monotonic()
        if len(self._logged_at) == _MAX_LOGS_PER_MINUTE and now < self._logged_at[0] + 60:
            return
        self._logged_at.append(now)
        if available:
            logger.warning("the key backend is available again")
        else:
            level = logging.WARNING if getattr(reason, "is_logged", False) else logging.ERROR
            message = "the key backend is unavailable; requests get a 503 until it is back: %s"
            logger.log(level, message, reason)

    def _serve(self, closing: threading.Event) -> None:
        opened = self._opened
        while not closing.is_set():
            opened.wait()
            opened.clear()
            while self.is_open and not closing.wait(PROBE_EVERY_S):
                if self._is_available():
                    self.record_success()

    def _is_available(self) -> bool:
        if self._probe is None:
            return False
        try:
            self._probe()
        except Exception:  # still unavailable
            return False
        return True
