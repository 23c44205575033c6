"""The results of a benchmark: tables, goals, and series for charts; and its command line."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from rounds import Spread


@dataclass
class Table:
    """A table of results.

    Attributes:
        title: The caption.
        columns: The header cells.
        rows: The cells, as text.
        note: How to read the table; printed below it.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""

    def text(self) -> str:
        """Format the table for a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        cells = [
            [
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            for line in lines
        ]
        return "\n".join([self.title, *("  ".join(line).rstrip() for line in cells), self.note]).rstrip()

    def markdown(self) -> str:
        """Format the table for RESULTS.md."""

        def line(cells: list[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rule = "|---" + "|---:" * (len(self.columns) - 1) + "|"
        lines = [f"**{self.title}**", "", line(self.columns), rule, *map(line, self.rows)]
        return "\n".join([*lines, "", self.note]).rstrip() + "\n"


@dataclass
class Goal:
    """A goal, and what was measured.

    Attributes:
        subject: The part of the package, such as ``hit``.
        what: The figure.
        measured: Its median, with quartiles.
        goal: The limit.
        holds: Whether the figure is within the limit; None if the run was too noisy to say.
        reason: If it does not hold: what the measurement says about the cause.
    """

    subject: str
    what: str
    measured: str
    goal: str
    holds: bool | None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.holds:
            self.reason = ""

    @property
    def verdict(self) -> str:
        return {True: "holds", False: "**no**", None: "void"}[self.holds]


@dataclass
class Outcome:
    """Everything that one benchmark measured.

    Attributes:
        tables: The tables.
        goals: The goals.
        series: Figures for the charts, by name.
    """

    tables: list[Table] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    series: dict[str, Any] = field(default_factory=dict)

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Outcome:
        saved = json.loads(text)
        tables = [Table(**table) for table in saved["tables"]]
        return cls(tables, [Goal(**goal) for goal in saved["goals"]], saved["series"])


def at_most(
    subject: str, what: str, figures: Spread, limit: float, *, unit: str = " x", reason: str = ""
) -> Goal:
    """A goal that holds if the median is at most ``limit``."""
    holds = figures.middle <= limit
    return Goal(subject, what, figures.text(".3g") + unit, f"<= {limit:.4g}{unit}", holds, reason)


def at_least(
    subject: str, what: str, figures: Spread, limit: float, *, unit: str = " x", reason: str = ""
) -> Goal:
    """A goal that holds if the median is at least ``limit``."""
    holds = figures.middle >= limit
    return Goal(subject, what, figures.text(".3g") + unit, f">= {limit:.4g}{unit}", holds, reason)


def main(measure: Callable[[bool], Outcome], doc: str | None) -> None:
    """Run the command line of one benchmark.

    Args:
        measure: The benchmark; its argument is whether to run only a few rounds.
        doc: Its description.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run a few rounds, only to see that it works")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the results to FILE as JSON")
    arguments = parser.parse_args()
    outcome = measure(arguments.quick)
    for table in outcome.tables:
        print(table.text(), end="\n\n")
    for goal in outcome.goals:
        verdict = goal.verdict.strip("*") + (f": {goal.reason}" if goal.reason else "")
        print(f"{goal.subject}: {goal.what}: {goal.measured}, goal {goal.goal}: {verdict}")
    if arguments.save:
        arguments.save.write_text(outcome.dump())
