"""TRUST.md: every guarantee has a test, and every mark on a test refers to a guarantee."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.trust.table import TESTS, Table, render, table

if TYPE_CHECKING:
    from pathlib import Path

ROWS = """
H1 = "One."
H2 = { says = "Two.", source = "RFC 1" }
H3 = { says = "Three.", not_here = "see README" }
"""


@pytest.fixture(scope="module")
def read() -> Table:
    return table()


def test_document(read: Table) -> None:
    """Regenerate it with ``python -m tests.trust.table``."""
    assert (TESTS / "TRUST.md").read_text(encoding="utf-8") == render(read)


def test_every_row_has_its_test(read: Table) -> None:
    """No row is empty, no mark names an unknown row, and no mark is lost."""
    assert read.problems == []


def folder(path: Path, **files: str) -> Path:
    """A folder of tests with three rows."""
    (path / "trust").mkdir()
    (path / "trust" / "standards.toml").write_text(ROWS)
    for name, source in files.items():
        (path / f"{name}.py").write_text("import pytest\n" + source)
    return path


@pytest.mark.parametrize(
    ("source", "places"),
    [
        pytest.param('@pytest.mark.proves("H1")\ndef test_x(): ...', ["::test_x"], id="test"),
        pytest.param('@pytest.mark.proves("H2", "H1")\nasync def test_x(): ...', ["::test_x"], id="async"),
        pytest.param(
            '@pytest.mark.proves("H1")\nclass TestA:\n  def test_x(self): ...\n  def test_y(self): ...',
            ["::TestA"],
            id="class",
        ),
        pytest.param(
            'class TestA:\n  pytestmark = [pytest.mark.proves("H1")]\n  def test_x(self): ...',
            ["::TestA"],
            id="class-pytestmark",
        ),
        pytest.param(
            'class TestA:\n  @pytest.mark.proves("H1")\n  def test_x(self): ...',
            ["::TestA::test_x"],
            id="method",
        ),
        pytest.param('pytestmark = pytest.mark.proves("H1")\ndef test_x(): ...', [""], id="module"),
        pytest.param(
            '@pytest.mark.parametrize("a", [pytest.param(1, id="one", marks=pytest.mark.proves("H1"))])\n'
            "def test_x(a): ...",
            ["::test_x[one]"],
            id="param",
        ),
        pytest.param(
            "def row(name, *values, **more):\n  return pytest.param(*values, id=name, **more)\n"
            'H1 = pytest.mark.proves("H1")\n'
            '@pytest.mark.parametrize("a", [row("one", 1, marks=H1), row("two", 2)])\ndef test_x(a): ...',
            ["::test_x[one]"],
            id="row",
        ),
        pytest.param(
            'H1 = pytest.mark.proves("H1")\n'
            '@pytest.mark.parametrize("a", [pytest.param(n, id=f"no-{n}", marks=H1) for n in (1, 2)])\n'
            "def test_x(a): ...",
            ["::test_x[no-*]"],
            id="computed",
        ),
        pytest.param(
            'T: list = [pytest.param(1, id="one", marks=[pytest.mark.proves("H1")]), 2]\nALL = [*T, 3]\n'
            '@pytest.mark.parametrize("a", ALL)\ndef test_x(a): ...\n'
            '@pytest.mark.parametrize("a", T)\ndef test_y(a): ...',
            ["::test_x[one]", "::test_y[one]"],
            id="table",
        ),
        pytest.param(
            'def rows():\n  return [pytest.param(1, marks=pytest.mark.proves("H1"))]\n'
            '@pytest.mark.parametrize("a", rows())\ndef test_x(a): ...',
            ["::test_x"],
            id="made",
        ),
        pytest.param(
            'from tests.cases import T\n@pytest.mark.parametrize("a", T)\ndef test_x(a): ...',
            ["::test_x[far]"],
            id="imported",
        ),
    ],
)
def test_places(source: str, places: list[str], tmp_path: Path) -> None:
    """A mark is found wherever pytest accepts one."""
    cases = (
        'T = [pytest.param(1, id="far", marks=pytest.mark.proves("H1"))]' if "tests.cases" in source else ""
    )

    proofs = table(folder(tmp_path, test_a=source, cases=cases)).proofs

    assert proofs["H1"] == [f"test_a.py{place}" for place in places]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        pytest.param('@pytest.mark.proves("H9")\ndef test_x(): ...', "there is no row H9", id="unknown"),
        pytest.param("def test_x(): ...", "H2 has no test: Two.", id="empty"),
        pytest.param(
            '@pytest.mark.proves("H3")\ndef test_x(): ...', "H3 is marked not_here, but", id="not-here"
        ),
        pytest.param(
            '@pytest.mark.proves("H1")\ndef helper(): ...',
            "test_a.py:2: this mark is on no test",
            id="helper",
        ),
        pytest.param('T = [pytest.param(1, marks=pytest.mark.proves("H1"))]', "is on no test", id="table"),
        pytest.param(
            'class Other:\n  @pytest.mark.proves("H1")\n  def test_x(self): ...', "is on no test", id="class"
        ),
        pytest.param("@pytest.mark.proves\ndef test_x(): ...", "is on no test", id="uncalled"),
        pytest.param("@pytest.mark.proves()\ndef test_x(): ...", "takes the ids of rows", id="nothing"),
        pytest.param(
            '@pytest.mark.proves(*["H1"])\ndef test_x(): ...', "takes the ids of rows", id="computed"
        ),
    ],
)
def test_problems(source: str, problem: str, tmp_path: Path) -> None:
    """Rows without a test and marks that are not read are reported."""
    assert any(problem in each for each in table(folder(tmp_path, test_a=source)).problems)


def test_no_problem(tmp_path: Path) -> None:
    """IDs of a part without a file are ignored."""
    source = (
        '@pytest.mark.proves("H1", "F1")\n@pytest.mark.parametrize("a", [pytest.param(1, id=case, marks=H2), '
        'pytest.param(1, id="one", marks=H2), pytest.param(1, id="a|b", marks=H2)])\ndef test_x(a): ...\n'
        'H2 = pytest.mark.proves("H2")\n'
    )

    read = table(folder(tmp_path, test_a=source))

    assert read.problems == []
    assert "| H1 | One. | [test_a.py::test_x](test_a.py) |" in render(read)
    assert "| H2 | Two. (RFC 1) | [test_a.py::test_x](test_a.py): one, a\\|b |" in render(read)
    assert "| H3 | Three. | Not here: see README |" in render(read)


def test_bad_id(tmp_path: Path) -> None:
    """An ID of another part is an error."""
    (folder(tmp_path) / "trust" / "standards.toml").write_text('F1 = "One."\n')

    assert "standards.toml: F1 is no id: one of HBPAWO, and a number" in table(tmp_path).problems
