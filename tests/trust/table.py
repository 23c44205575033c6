"""Write TRUST.md, which lists the guarantees and the tests that verify each: ``python -m tests.trust.table``.

The rows are in the TOML files next to this one: an ID and a guarantee. A test names the rows that it verifies
with ``@pytest.mark.proves("H4", "B10")``, on itself, its class, its module (``pytestmark``) or one
``pytest.param`` of its table; a helper that makes the latter takes the ID first, and ``marks=``. The marks
are read from the source, so nothing is imported or collected.
"""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]

# Each file, its title, and the heading for each letter of its IDs.
PARTS = {
    "standards": (
        "Standards",
        {
            "H": "HTTP authentication: RFC 9110, RFC 9111",
            "B": "The Basic scheme: RFC 7617, RFC 4648",
            "P": "Problem details: RFC 9457",
            "A": "ASGI 3",
            "W": "WSGI: PEP 3333",
            "O": "OWASP cheat sheets",
        },
    ),
    "failures": ("Failures of other projects", {"X": "Vulnerabilities and bugs that must not happen here"}),
    "faults": ("When a store fails", {"F": "Faults, and the behavior during each"}),
}

HEAD = """# Guarantees, and the tests that verify them

Written by `python -m tests.trust.table` from `tests/trust/*.toml` and the marks `proves` on the tests.
Do not edit.
"""


@dataclass(frozen=True, slots=True)
class Row:
    says: str
    source: str = ""
    not_here: str = ""  # why it cannot apply, and where that is documented


@dataclass(frozen=True, slots=True)
class Mark:
    rows: tuple[str, ...]
    place: str  # asgi/test_app.py::test_x[ID]


def load(folder: Path) -> dict[str, dict[str, Row]]:
    """Load the rows of each file that exists. A row is a text, or a table with the fields of Row."""
    parts = {}
    for part in PARTS:
        path = folder / f"{part}.toml"
        if path.exists():
            rows = tomllib.loads(path.read_text(encoding="utf-8"))
            parts[part] = {
                name: Row(**(row if isinstance(row, dict) else {"says": row})) for name, row in rows.items()
            }
    return parts


def _is_mark(node: ast.AST) -> bool:
    """``pytest.mark.proves``, called or not, or any other ``.proves``."""
    return isinstance(node, ast.Attribute) and node.attr == "proves"


def _case(call: ast.Call) -> str:
    """Return the ID that a call gives to a test case; computed parts become a star."""
    named = {each.arg: each.value for each in call.keywords}
    given = named.get("id")
    if given is None and "marks" in named and call.args and ast.unparse(call.func) != "pytest.param":
        given = call.args[0]
    if isinstance(given, ast.JoinedStr):
        return "".join(str(each.value) if isinstance(each, ast.Constant) else "*" for each in given.values)
    return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else ""


@dataclass
class Source:
    """One test file, with what its names refer to."""

    path: Path
    name: str
    assigned: dict[str, list[ast.AST]] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.tree.body:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self.assigned.setdefault(target.id, []).append(node.value)
            elif isinstance(node, ast.AnnAssign | ast.AugAssign) and isinstance(node.target, ast.Name):
                self.assigned.setdefault(node.target.id, []).extend([node.value] if node.value else [])
            elif isinstance(node, ast.FunctionDef) and not node.name.startswith("test"):
                self.assigned.setdefault(node.name, []).extend(node.body)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
                file = "/".join((node.module or "").split(".")[1:]) + ".py"
                self.imported |= {alias.asname or alias.name: (file, alias.name) for alias in node.names}

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    def tests(self) -> Iterator[tuple[str, list[ast.AST]]]:
        """Yield every place that can have a mark, with the expressions that set it."""
        own = self.assigned.get("pytestmark", [])
        for names, node in _tests(self.tree.body):
            if own:
                yield self.name, own
            for depth, holder in enumerate(node[:-1], 1):
                marks = [each.value for each in holder.body if _assigns_pytestmark(each)]
                yield "::".join((self.name, *names[:depth])), [*holder.decorator_list, *marks]
            yield "::".join((self.name, *names)), [*node[-1].decorator_list]


def _tests(body: list[ast.stmt]) -> Iterator[tuple[list[str], list]]:
    """Yield the tests that pytest would collect, with their classes."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield [node.name], [node]
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            for names, nodes in _tests(node.body):
                yield [node.name, *names], [node, *nodes]


def _assigns_pytestmark(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets
    )


class Reader:
    """Finds the marks of all tests, and problems with them."""

    def __init__(self, tests: Path) -> None:
        paths = sorted(path for path in tests.rglob("*.py") if path.parent.name != "trust")
        names = {path: path.relative_to(tests).as_posix() for path in paths}
        self._sources = {name: Source(path, name) for path, name in names.items()}
        self._reached: set[ast.AST] = set()
        self.marks: list[Mark] = []
        self.problems: list[str] = []
        for source in self._sources.values():
            if source.path.name.startswith("test_"):
                for place, expressions in source.tests():
                    seen: set[tuple[str, str, str]] = set()
                    for expression in expressions:
                        self._read(source, expression, place, seen)
        self.marks = list(dict.fromkeys(self.marks))
        for source in self._sources.values():
            self.problems += [
                f"{source.name}:{node.lineno}: this mark is on no test"
                for node in ast.walk(source.tree)
                if _is_mark(node) and node not in self._reached
            ]

    def _read(self, source: Source, node: ast.AST, place: str, seen: set[tuple[str, str, str]]) -> None:
        """Collect the marks in an expression, and in the tables that it refers to, in any test file."""
        if isinstance(node, ast.Call) and _is_mark(node.func):
            self._reached.add(node.func)
            rows = [each.value for each in node.args if isinstance(each, ast.Constant)]
            if not rows or len(rows) < len(node.args) or node.keywords:
                self.problems.append(f"{source.name}:{node.lineno}: a mark takes the ids of rows, as texts")
            self.marks.append(Mark(tuple(map(str, rows)), place))
        elif isinstance(node, ast.Name):
            if (source.name, node.id, place) not in seen:
                seen.add((source.name, node.id, place))
                file, name = source.imported.get(node.id, (source.name, node.id))
                if there := self._sources.get(file):
                    if there is not source and name in there.imported:
                        self._read(there, ast.Name(name), place, seen)
                    for each in there.assigned.get(name, []):
                        self._read(there, each, place, seen)
        else:
            if isinstance(node, ast.Call) and (case := _case(node)):
                place = f"{place.partition('[')[0]}[{case}]"
            for child in ast.iter_child_nodes(node):
                self._read(source, child, place, seen)


@dataclass(frozen=True, slots=True)
class Table:
    """All rows, and the tests that verify each."""

    parts: dict[str, dict[str, Row]]
    proofs: dict[str, list[str]]
    problems: list[str]


def table(tests: Path = TESTS) -> Table:
    """Read the rows and marks of a folder of tests."""
    parts = load(tests / "trust")
    reader = Reader(tests)
    problems = list(reader.problems)
    proofs: dict[str, list[str]] = {}
    for mark in reader.marks:
        for name in mark.rows:
            proofs.setdefault(name, []).append(mark.place)
    known: dict[str, Row] = {}
    for part, rows in parts.items():
        letters = "".join(PARTS[part][1])
        problems += [
            f"{part}.toml: {name} is no id: one of {letters}, and a number"
            for name in rows
            if not re.fullmatch(rf"[{letters}][1-9]\d*", name)
        ]
        known |= rows
    missing = "".join(letter for part in PARTS.keys() - parts.keys() for letter in PARTS[part][1])
    problems += [
        f"{', '.join(places)}: there is no row {name}"
        for name, places in proofs.items()
        if name not in known and name[:1] not in missing
    ]
    for name, row in known.items():
        if row.not_here and name in proofs:
            problems.append(f"{name} is marked not_here, but {', '.join(proofs[name])} verifies it")
        if not row.not_here and name not in proofs:
            problems.append(f"{name} has no test: {row.says}")
        if not row.says or "\n" in row.says + row.source + row.not_here:
            problems.append(f"{name} is not one line")
    return Table(parts, proofs, problems)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _links(places: list[str]) -> str:
    """Link each test, with the IDs of its marked cases."""
    cases: dict[str, list[str]] = {}
    for place in places:
        test, _, case = place.partition("[")
        cases.setdefault(test, []).extend([case.removesuffix("]")] if case else [])
    return "<br>".join(
        f"[{test}]({test.partition('::')[0]})" + (f": {', '.join(each)}" if each else "")
        for test, each in cases.items()
    )


def render(read: Table) -> str:
    """Render TRUST.md: each row with links to its tests, relative to the tests folder."""
    lines = [HEAD]
    for part, rows in read.parts.items():
        title, letters = PARTS[part]
        lines += [f"## {title}", ""]
        for letter, heading in letters.items():
            lines += [f"### {heading}", "", "| | Guarantee | Verified by |", "|---|---|---|"]
            for name, row in rows.items():
                if name[0] == letter:
                    says = f"{row.says} ({row.source})" if row.source else row.says
                    proof = f"Not here: {row.not_here}" if row.not_here else _links(read.proofs.get(name, []))
                    lines.append(f"| {name} | {_cell(says)} | {_cell(proof)} |")
            lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    read = table()
    (TESTS / "TRUST.md").write_text(render(read), encoding="utf-8")
    print("\n".join(read.problems))
