"""Detects growth of the servers' processes: memory, open files, threads."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from tests.soak.parts import Part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.soak.report import Report
    from tests.soak.sites import Fleet

PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
EVERY_S = 1.0

# Maximum growth from the second fifth of a process's life to the last. In half an hour there are 18 minutes
# between their middles: a slope of 27 MiB, 53 files and 13 threads an hour.
MOST = {"rss_mib": 8.0, "files": 16.0, "threads": 4.0}


class Sample(NamedTuple):
    """The resources of a process at one time."""

    rss_mib: float
    files: float
    threads: float


def sample(pid: int) -> Sample:
    """Measure a process.

    Raises:
        OSError: It has ended, or is ending.
    """
    folder = Path(f"/proc/{pid}")
    pages = int((folder / "statm").read_text().split()[1])
    if not pages:
        raise ProcessLookupError(pid)
    threads = len(list((folder / "task").iterdir()))
    return Sample(pages * PAGE_MIB, len(list((folder / "fd").iterdir())), threads)


def ends(samples: Sequence[Sample]) -> tuple[Sample, Sample]:
    """The medians of the second fifth of a process's life, after the warm-up, and of the last."""
    fifth = len(samples) // 5
    return _usual(samples[fifth : 2 * fifth]), _usual(samples[-fifth:])


def _usual(samples: Sequence[Sample]) -> Sample:
    return Sample(*(median(values) for values in zip(*samples, strict=True)))


class Watch(Part):
    """Samples the workers of a fleet.

    Attributes:
        seen: Samples by server and process ID.
    """

    def __init__(self, fleet: Fleet, report: Report) -> None:
        super().__init__("watch", report)
        self._fleet = fleet
        self.seen: dict[tuple[str, int], list[Sample]] = {}

    def work(self) -> None:
        while not self.stopping.wait(EVERY_S):
            for site in self._fleet.sites:
                for pid in site.workers():
                    try:
                        found = sample(pid)
                    except OSError:
                        continue
                    self.seen.setdefault((site.name, pid), []).append(found)
