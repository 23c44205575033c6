"""The documentation site: it builds without a warning and offline, and has every page, name and link."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import zlib
from functools import cached_property
from html import unescape
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import pytest

from basicauth_mw import errors

ROOT = Path(__file__).parents[1]
PACKAGE = "basicauth_mw"
LIMIT_S = 300  # a build takes ten seconds on an idle machine


class Site:
    """A built site."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def pages(self) -> dict[Path, str]:
        return {path: path.read_text() for path in self.folder.rglob("*.html")}

    @cached_property
    def anchors(self) -> dict[Path, set[str]]:
        return {path: set(re.findall(r'\bid="([^"]+)"', page)) for path, page in self.pages.items()}

    @cached_property
    def objects(self) -> set[str]:
        """The Python objects in the inventory of the API reference."""
        compressed = (self.folder / "objects.inv").read_bytes().split(b"\n", 4)[4]
        lines = zlib.decompress(compressed).decode().splitlines()
        return {name for name, kind, *_ in map(str.split, lines) if kind.startswith("py:")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The site, built as ``make docs`` does, with a proxy that does not exist."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the workers share one build
    folder /= "site"
    with (folder.with_suffix(".lock")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "html" / "llms.txt").exists():
            build(folder)
    return Site(folder / "html")


def build(folder: Path) -> None:
    options = ["--quiet", "--fail-on-warning", "--keep-going", "-c", "docs", "-d", str(folder / "doctrees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ".", str(folder / "html")],
        cwd=ROOT,
        env={"PATH": "", "HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_needs_no_network(site: Site) -> None:
    """A page loads scripts, styles, fonts and images from the site alone."""
    loaded = re.compile(r'<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]*"')
    assert len(site.pages) > 25
    assert {str(path): found for path, page in site.pages.items() if (found := loaded.findall(page))} == {}
    styles = "".join(path.read_text() for path in site.folder.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?https?:", styles) == []


def test_links_and_anchors(site: Site) -> None:
    """Every link within the site leads to a file, and to an element of it."""
    dead = []
    for path, page in site.pages.items():
        for link in map(unescape, re.findall(r'\bhref="([^"]+)"', page)):
            if re.match(r"[a-z]+:|//", link):
                continue
            target, _, anchor = link.partition("#")
            there = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            if not there.is_file() or (anchor and unquote(anchor) not in site.anchors.get(there, set())):
                dead.append((path.name, link))
    assert dead == []


def test_every_public_name_is_in_the_api_reference(site: Site) -> None:
    """A module with ``__all__`` is public."""
    public = {f"{PACKAGE}.{name}" for name in import_module(PACKAGE).__all__ if name not in errors.__all__}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        if re.search(r"^__all__ = ", path.read_text(), re.MULTILINE):
            relative = path.relative_to(ROOT).with_suffix("")
            module = ".".join(relative.parts).removesuffix(".__init__")
            public |= {module, *(f"{module}.{name}" for name in import_module(module).__all__)}
    # The same object under two names is described once.
    public -= {f"{PACKAGE}.settings.Settings", f"{PACKAGE}.backends.Change"}

    assert len(public) > 80
    assert public - site.objects == set()


def test_every_page_is_listed(site: Site) -> None:
    """The index, from which the navigation and llms.txt are made, lists every page."""
    index = (ROOT / "docs" / "index.md").read_text()
    listed = re.findall(r"^- \[[^]]+\]\(([^)]+\.md)\): \S", index, re.MULTILINE)
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"} <= set(listed)

    text = (site.folder / "llms.txt").read_text()
    assert text.startswith("# basicauth_mw\n\n> ")
    sources = re.findall(r"\]\(([^)#]+)", text)
    assert len(sources) > len(listed)
    for source in sources:
        assert (site.folder / source).read_text().startswith("<!" if source == "docs/api.html" else "# "), (
            source
        )


def test_search_finds_settings(site: Site) -> None:
    assert '"backend_deadlin' in (site.folder / "searchindex.js").read_text()  # without its ending
