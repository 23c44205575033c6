"""The base class of the threads of a soak test: traffic, changes, faults, and the watch on the processes."""

from __future__ import annotations

import threading
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.soak.report import Report


class Part(threading.Thread):
    """A thread that works until it is stopped.

    Args:
        name: Name for messages.
        report: Gets the error if the thread fails.

    Attributes:
        stopping: Set it to stop the thread.
    """

    def __init__(self, name: str, report: Report) -> None:
        super().__init__(name=name)
        self._report = report
        self.stopping = threading.Event()

    def run(self) -> None:
        try:
            self.work()
        except Exception as exc:  # a run whose threads have failed must not pass
            self._report.wrong("soak", self.name, "".join(traceback.format_exception(exc)))

    def work(self) -> None:
        """Work until ``stopping`` is set."""
        raise NotImplementedError
