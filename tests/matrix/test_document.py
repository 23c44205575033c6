"""docs/servers.md describes what these tests check, for the tested versions of the servers."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.matrix.kinds import ROOT, SERVERS
from tests.matrix.quirks import ROWS, table

DOCUMENT = (ROOT / "docs" / "servers.md").read_text()
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
PINS = dict(requirement.split("==") for requirement in GROUPS["servers"])
HERE = Path(__file__).parent


def between(begin: str, end: str) -> str:
    return DOCUMENT.partition(begin)[2].partition(end)[0]


def test_table() -> None:
    """Generated from quirks.py."""
    lines = between("<!-- servers:", "<!-- end of servers -->").strip().splitlines()

    assert lines[3:] == table()


def test_versions() -> None:
    """The document names the versions that are tested: those that are pinned and installed."""
    named = dict(re.findall(r"([a-z0-9-]+) (\d[\d.]*\d)", between("\nVersions: ", "\n\n")))

    assert named == PINS
    assert {name: version(name) for name in PINS} == PINS


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_its_test(row: str) -> None:
    """A case or a test names it, and its servers are among those that are tested."""
    sources = [path.read_text() for path in HERE.glob("*.py") if path.stem != "quirks"]
    after_imports = "".join(source.partition("\n\n\n")[2] for source in sources)

    assert re.search(rf"\b{row}\b", after_imports)
    assert ROWS[row].servers
    assert ROWS[row].servers < SERVERS.keys(), "not a quirk if all servers do it"
