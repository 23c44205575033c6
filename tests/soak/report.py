"""The counts and problems of a soak test, and the page with its report."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tests.soak.growth import MOST, Sample, ends
from tests.soak.model import BOUND_S, CACHE_TTL_S, MARGIN_S

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = Path(__file__).parents[2] / "docs" / "soak.md"
BEGIN = "<!-- figures: made by make soak -->"
END = "<!-- end of figures -->"
_BLOCK = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)

TABLES = ("requests", "changes", "faults", "excuses")
MOST_SHOWN = 20
JUDGED_FROM = 600  # samples of a process: a younger one may still be warming up


_Life = tuple[str, int, Sample, Sample]  # server, number of samples, when warm, at the end


class Report:
    """Collects counts and problems from many threads.

    Args:
        seed: Seed of the run.
        quiet: Print only problems.

    Attributes:
        problems: Every problem.
    """

    def __init__(self, seed: int, *, quiet: bool = False) -> None:
        self.seed = seed
        self.problems: list[str] = []
        self._lives: list[_Life] = []
        self._quiet = quiet
        self._counts: dict[str, Counter[str]] = {table: Counter() for table in TABLES}
        self._lags: dict[bool, float] = {True: 0.0, False: 0.0}
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._began_at = datetime.now(UTC)
        self._note = ""

    # --- while it runs

    def count(self, table: str, what: str) -> None:
        with self._lock:
            self._counts[table][what] += 1

    def lag(self, seconds: float, *, well: bool) -> None:
        """Record how long after its end a key was allowed."""
        with self._lock:
            self._lags[well] = max(self._lags[well], seconds)

    def note(self, text: str) -> None:
        """Print an event, and add it to the problems that follow."""
        self._note = f"{self._elapsed():.1f} s: {text}"
        if not self._quiet:
            print(self._note, flush=True)

    def wrong(self, what: str, where: str, text: str) -> None:
        """Record a problem. The run continues, and fails at the end."""
        said = f"WRONG at {self._elapsed():.1f} s, {where}, {what}: {text} (last: {self._note})"
        with self._lock:
            self.problems.append(said)
            shown = len(self.problems) <= MOST_SHOWN
        if shown:
            print(said, flush=True)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    # --- at the end

    def judge_growth(self, seen: Mapping[tuple[str, int], list[Sample]]) -> None:
        """Record the growth of the processes, and report those that grew too much."""
        for (name, pid), samples in seen.items():
            if len(samples) < 5:
                continue
            warm, last = ends(samples)
            self._lives.append((name, len(samples), warm, last))
            for what, most in MOST.items():
                more = getattr(last, what) - getattr(warm, what)
                if len(samples) >= JUDGED_FROM and more > most:
                    self.wrong("growth", f"{name} ({pid})", f"{what} by {more:.1f}, at most {most:g}")

    def of(self, table: str) -> Counter[str]:
        return self._counts[table]

    def text(self) -> str:
        """The figures, in Markdown."""
        requests, changes, faults, excuses = (self._counts[table] for table in TABLES)
        minutes = self._elapsed() / 60
        well_ms, ill_ms = (1000 * self._lags[well] for well in (True, False))
        summary = (
            f"{self._began_at:%Y-%m-%d}, {minutes:.1f} minutes, seed {self.seed}: "
            f"**{len(self.problems)} wrong** of {requests.total():,} requests "
            f"({requests.total() / minutes / 60:,.0f} a second), {changes.total():,} changes of keys and "
            f"{faults.total():,} faults. {excuses['none']:,} responses came at times without a fault."
        )
        revokes = (
            f"Revoked or expired keys were allowed for at most {well_ms:,.0f} ms without a fault (limit: "
            f"{1000 * BOUND_S:g} ms, and {1000 * MARGIN_S:g} ms because the machine is fully loaded), and "
            f"{ill_ms:,.0f} ms during and after a fault (limit: `cache_ttl_s`, {CACHE_TTL_S:g} s)."
        )
        lines = [summary, "", revokes]
        lines += _by_response(requests)
        for title, counts in (("change", changes), ("fault", faults)):
            lines += ["", f"| {title} | times |", "|---|---|"]
            lines += [f"| {what} | {times:,} |" for what, times in sorted(counts.items())]
        return "\n".join([*lines, *_by_server(self._lives)])

    def write(self) -> None:
        """Write the figures to the page."""
        PAGE.write_text(update(PAGE.read_text(), self.text()))


def update(page: str, text: str) -> str:
    """The page with these figures."""
    return _BLOCK.sub(lambda _: f"{BEGIN}\n{text}\n{END}", page)


def _by_response(requests: Mapping[str, int]) -> list[str]:
    """A row for each kind of request, a column for each response."""
    table: dict[str, dict[str, int]] = {}
    for what, times in requests.items():
        kind, _, response = what.rpartition(": ")
        table.setdefault(kind, {})[response] = times
    responses = sorted({response for row in table.values() for response in row})
    return [
        "",
        f"| request | {' | '.join(responses)} |",
        "|---" * (1 + len(responses)) + "|",
        *(
            f"| {kind} | " + " | ".join(f"{row[each]:,}" if each in row else "" for each in responses) + " |"
            for kind, row in sorted(table.items())
        ),
    ]


def _by_server(lives: list[_Life]) -> list[str]:
    """A row for the oldest worker of each server."""
    eldest = {name: life for name, *_ in lives for life in [max(each for each in lives if each[0] == name)]}
    return [
        "",
        "| oldest worker of | memory, when warm | at the end | files | at the end | threads | at the end |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {name} | {warm.rss_mib:.1f} MiB | {last.rss_mib:.1f} MiB | {warm.files:g} | {last.files:g} "
            f"| {warm.threads:g} | {last.threads:g} |"
            for name, _, warm, last in sorted(eldest.values())
        ),
    ]
