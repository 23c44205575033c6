"""What goes on at the same time in a soak: traffic, changes, faults, and a look at the processes."""

from __future__ import annotations

import threading
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.soak.report import Report


class Part(threading.Thread):
    """Something that goes on all the time, on a thread of its own.

    Args:
        name: For people.
        report: Where it is said if it fails.

    Attributes:
        stopping: To be set.
    """

    def __init__(self, name: str, report: Report) -> None:
        super().__init__(name=name)
        self._report = report
        self.stopping = threading.Event()

    def run(self) -> None:
        try:
            self.work()
        except Exception as exc:  # a run that does nothing any more must not end well
            self._report.wrong("soak", self.name, "".join(traceback.format_exception(exc)))

    def work(self) -> None:
        """Go on until ``stopping`` is set."""
        raise NotImplementedError
