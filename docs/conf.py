"""The documentation site, which ``make docs`` builds with Sphinx.

The source directory is the root of the repository: a relative link between two files then works on the site
and on a repository host. ``docs/index.md`` lists the pages; the navigation and ``llms.txt`` are made from it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer

import basicauth_mw

DOCS = Path(__file__).parent
INDEX = (DOCS / "index.md").read_text()
LISTED = re.compile(r"^- \[(.+?)\]\((?!https?:)([^)#]+\.md)\)", re.MULTILINE)

project = "basicauth_mw"
author = "The basicauth_mw authors"
project_copyright = author
version = release = basicauth_mw.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "benchmarks/RESULTS.md", "examples/README.md", "tests/TRUST.md"]
exclude_patterns = [".*", "site"]

myst_heading_anchors = 4
smartquotes = False  # they would change --option
napoleon_use_ivar = True  # an attribute that is also a field would otherwise be described twice
suppress_warnings = ["ref.python"]  # two classes are called BasicAuthMiddleware
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 90
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_theme/site.css"]
html_css_files = ["site.css"]
templates_path = ["_theme"]
html_use_index = False  # the API reference has them in order
html_domain_indices = False
html_additional_pages = {"index": "redirect.html"}
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}


def _add_navigation(_app: Any, page: str, source: list[str]) -> None:
    """Append a hidden table of contents for each section of the index."""
    if page != root_doc:
        return
    for section in re.split(r"^## ", INDEX, flags=re.MULTILINE)[1:]:
        caption = section.partition("\n")[0]
        pages = "\n".join(f"{title} <{page}>" for title, page in LISTED.findall(section))
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n"


def _readable(page: str) -> str:
    """Where the text of a page is on the site: its Markdown, or its HTML if it is made from docstrings."""
    path = (DOCS / page).resolve()
    relative = path.relative_to(DOCS.parent)
    if "{eval-rst}" in path.read_text():
        return str(relative.with_suffix(".html"))
    return f"_sources/{relative}.txt"


def _write_llms_txt(app: Any, exception: Exception | None) -> None:
    """Write the index for language models: its links lead to the Markdown of the pages."""
    if exception is None and app.builder.name == "html":
        text = re.sub(r"\]\(([^)#]+\.md)", lambda link: f"]({_readable(link[1])}", INDEX)
        (Path(app.outdir) / "llms.txt").write_text(text)


def setup(app: Any) -> None:
    """Connect the functions above."""
    app.add_lexer("csv", TextLexer)
    app.connect("source-read", _add_navigation)
    app.connect("build-finished", _write_llms_txt)
