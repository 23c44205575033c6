"""Whether a store can be asked: every change of that is said once, and nobody waits for one that is away.

A circuit breaker. It opens when the store has failed a few times in a row and has answered nobody for a
while; from then on a thread asks, and closes it with the first answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from ..errors import BackendUnavailable
from .background import Background
from .fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("basicauth_mw")

FAILURES_TO_OPEN: Final = 3
PROBE_EVERY_S: Final = 0.25
_LINES_PER_MINUTE: Final = 20


class Breaker:
    """Told of every answer and every failure of a store.

    Args:
        probe: Asks the store, blocking, on a thread of its own; raises if it cannot be asked. None: it never
            opens.
        quiet_s: Seconds without any answer before it opens: a part of a store that is away is no outage of
            the rest.

    Attributes:
        is_open: Whether waiting for the store is known to be of no use.
    """

    def __init__(self, probe: Callable[[], object] | None, *, quiet_s: float) -> None:
        self._probe = probe
        self._quiet_s = quiet_s
        self._background = Background("probe", self._serve)
        self._said_at: deque[float] = deque(maxlen=_LINES_PER_MINUTE)
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self.is_open = False
        self._failures = 0
        self._available = True
        self._answered_at = float("-inf")
        self._opened = threading.Event()

    def check(self) -> None:
        """Make sure that it is worth while to wait.

        Raises:
            BackendUnavailable: It is not.
        """
        if self.is_open:
            raise BackendUnavailable("it did not answer a moment ago")

    def answered(self) -> None:
        """The store has answered."""
        self._answered_at = time.monotonic()
        self._failures = 0
        self.is_open = False
        if not self._available:
            self._say(available=True)

    def failed(self, reason: Exception, *, waited: bool) -> None:
        """The store could not be asked.

        Args:
            reason: Why, for the log.
            waited: Whether the next one might have to wait for nothing, too.
        """
        if self._available:
            self._say(available=False, reason=reason)
        if not waited or self._probe is None:
            return
        self._failures += 1
        quiet = time.monotonic() >= self._answered_at + self._quiet_s
        if self._failures >= FAILURES_TO_OPEN and quiet and not self.is_open:
            self.is_open = True
            self._opened.set()
            self._background.start()

    def close(self) -> None:
        """Let the thread end; the next failures start another."""
        self._background.end()
        self._opened.set()

    def _say(self, *, available: bool, reason: Exception | None = None) -> None:
        """One line for each change of state; few, for a store that changes it with every request."""
        self._available = available
        now = time.monotonic()
        if len(self._said_at) == _LINES_PER_MINUTE and now < self._said_at[0] + 60:
            return
        self._said_at.append(now)
        if available:
            logger.warning("the key backend answers again")
        else:
            logger.error("the key backend cannot be asked; requests are answered 503 meanwhile: %s", reason)

    # --- on the thread

    def _serve(self, closing: threading.Event) -> None:
        while not closing.is_set():
            self._opened.wait()
            self._opened.clear()
            while self.is_open and not closing.wait(PROBE_EVERY_S):
                if self._probe_answers():
                    self.answered()

    def _probe_answers(self) -> bool:
        if self._probe is None:
            return False
        try:
            self._probe()
        except Exception:  # it was away, and still is
            return False
        return True
