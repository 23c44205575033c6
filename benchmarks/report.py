"""What a benchmark has found: tables, goals and series. Printed; or kept, for the whole run to gather."""

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
    """A table.

    Attributes:
        title: What it shows.
        columns: Their heads.
        rows: As text, a cell for each column.
        note: What has to be known to read it.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""

    def text(self) -> str:
        """For a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        cells = [
            [cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs)]
            for pairs in (zip(line, widths, strict=True) for line in lines)
        ]
        return "\n".join([self.title, *("  ".join(line).rstrip() for line in cells), self.note]).rstrip()

    def markdown(self) -> str:
        def line(cells: list[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rule = "|---" + "|---:" * (len(self.columns) - 1) + "|"
        lines = [f"**{self.title}**", "", line(self.columns), rule, *map(line, self.rows)]
        return "\n".join([*lines, "", self.note]).rstrip() + "\n"


@dataclass
class Goal:
    """One goal and what was measured.

    Attributes:
        number: ``G1`` and so on.
        what: Of what.
        measured: The figure, with its quartiles.
        goal: What it is to be.
        holds: Whether it is; None: the run cannot tell.
        says: Where it is not, what the measurement says of the cause.
    """

    number: str
    what: str
    measured: str
    goal: str
    holds: bool | None
    says: str = ""

    @property
    def verdict(self) -> str:
        return {True: "yes", False: "**no**", None: "void"}[self.holds]


@dataclass
class Outcome:
    """All that one benchmark has found.

    Attributes:
        tables: To be printed.
        goals: To be marked.
        series: Figures for the charts, by a name.
    """

    tables: list[Table] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    series: dict[str, Any] = field(default_factory=dict)

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Outcome:
        kept = json.loads(text)
        tables = [Table(**table) for table in kept["tables"]]
        return cls(tables, [Goal(**goal) for goal in kept["goals"]], kept["series"])


def at_most(number: str, what: str, figures: Spread, limit: float, *, unit: str = "", says: str = "") -> Goal:
    """A goal that holds if the median is at most ``limit``."""
    holds = figures.middle <= limit
    return Goal(
        number, what, figures.text(".3g") + unit, f"<= {limit:.3g}{unit}", holds, "" if holds else says
    )


def at_least(
    number: str, what: str, figures: Spread, limit: float, *, unit: str = "", says: str = ""
) -> Goal:
    """A goal that holds if the median is at least ``limit``."""
    holds = figures.middle >= limit
    return Goal(
        number, what, figures.text(".3g") + unit, f">= {limit:.3g}{unit}", holds, "" if holds else says
    )


def main(measure: Callable[[bool], Outcome], doc: str | None) -> None:
    """The command line of one benchmark.

    Args:
        measure: Told whether to be quick.
        doc: What it is about.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="few rounds: shows that it runs, and little else"
    )
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write what was found to FILE as JSON, too")
    arguments = parser.parse_args()
    outcome = measure(arguments.quick)
    for table in outcome.tables:
        print(table.text(), end="\n\n")
    for goal in outcome.goals:
        print(f"{goal.number} {goal.what}: {goal.measured}, goal {goal.goal}: {goal.verdict.strip('*')}")
    if arguments.keep:
        arguments.keep.write_text(outcome.dump())
