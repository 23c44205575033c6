"""Servers that load a file copied from the documentation serve the protected app, or refuse to serve."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.test_docs import BLOCK, EXAMPLES, ROOT
from tests.waiting import free_port

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_S = 30.0


def first_block(name: str, text: str) -> str:
    """Return the first Python block of a document that contains a text."""
    blocks = [code for language, code in BLOCK.findall((ROOT / name).read_text()) if language == "python"]
    return next(code for code in blocks if text in code)


def example(name: str) -> str:
    return next(path for path in EXAMPLES if path.stem == name).read_text()


ADDED = "app.add_middleware(BasicAuthMiddleware)"
SOURCES = {
    "readme": first_block("README.md", "install(app)"),
    "readme-added": first_block("README.md", ADDED),
    "readme-flask": first_block("README.md", "app.wsgi_app ="),
    "wrapped": first_block("docs/cors.md", "app = BasicAuthMiddleware(app"),
    "example": example("fastapi_app"),
    "example-flask": example("flask_app"),
    "example-mounted": example("mounted_flask_app"),
    "example-bottle": example("bottle_app"),
    "example-quart": example("quart_app"),
}
# Arguments of ``python -m`` that load a file app.py.
FASTAPI_RUN = ("fastapi_cli", "run", "app.py", "--host=127.0.0.1", "--port={port}")
FASTAPI_DEV = ("fastapi_cli", "dev", "app.py", "--port={port}", "--no-reload")
FLASK_RUN = ("flask", "run", "--port={port}")
UVICORN = ("uvicorn", "app:app", "--port={port}")
HYPERCORN = ("hypercorn", "app:app", "--bind=127.0.0.1:{port}")
WAITRESS = ("waitress", "--listen=127.0.0.1:{port}", "app:app")
GUNICORN = ("gunicorn", "--bind=127.0.0.1:{port}", "app:app")
ITSELF = ("app",)
CASES = [
    ("readme", FASTAPI_RUN, "serves"),
    ("readme", FASTAPI_DEV, "serves"),
    ("readme", UVICORN, "serves"),
    ("readme", HYPERCORN, "serves"),
    ("readme", ITSELF, "refuses"),  # a module that starts no server
    ("readme-added", FASTAPI_RUN, "serves"),
    ("readme-flask", FLASK_RUN, "serves"),
    ("readme-flask", GUNICORN, "serves"),
    ("wrapped", FASTAPI_RUN, "refuses"),
    ("wrapped", FASTAPI_DEV, "refuses"),
    ("wrapped", UVICORN, "serves"),
    ("example", FASTAPI_RUN, "serves"),
    ("example-flask", FLASK_RUN, "serves"),
    ("example-mounted", FASTAPI_RUN, "serves"),
    ("example-mounted", FLASK_RUN, "serves"),  # it finds the inner Flask app, which is protected as well
    ("example-bottle", WAITRESS, "serves"),
    ("example-quart", HYPERCORN, "serves"),
]


@pytest.mark.parametrize(
    ("source", "words", "does"),
    CASES,
    ids=[f"{source}-{words[0]}-{words[1:2]}" for source, words, _ in CASES],
)
def test_no_loader_serves_the_bare_app(
    tmp_path: Path, source: str, words: tuple[str, ...], does: str
) -> None:
    (tmp_path / "app.py").write_text(SOURCES[source])
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    environ |= {"BASICAUTH_KEYS": "demo:p@55w0rd", "PYTHONPATH": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *(word.format(port=port) for word in words)],
            cwd=tmp_path,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            status = status_of(f"http://127.0.0.1:{port}/hello", server)
        finally:
            server.terminate()
            server.wait(LIMIT_S)
    log_text = (tmp_path / "log").read_text()
    assert status == (401 if does == "serves" else None), log_text
    if does == "refuses" and words != ITSELF:
        assert re.search("app", log_text), log_text


def status_of(url: str, server: subprocess.Popen[bytes]) -> int | None:
    """Return the status without a key; None if the process ended without serving."""
    ends = time.monotonic() + LIMIT_S
    while server.poll() is None:
        assert time.monotonic() < ends, "the process neither serves nor ends"
        try:
            return int(urllib.request.urlopen(url, timeout=LIMIT_S).status)
        except urllib.error.HTTPError as response:
            return response.code
        except OSError:
            time.sleep(0.05)
    return None


def test_no_document_keeps_an_unprotected_name() -> None:
    """No block keeps an unprotected app under a second name."""
    wrapped = [
        (path.name, names)
        for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *EXAMPLES)
        for names in re.findall(r"^(\w+) = \w*BasicAuth\w*\((\w+)[,)]", path.read_text(), re.MULTILINE)
    ]
    assert len(wrapped) > 5
    assert [(name, outer, inner) for name, (outer, inner) in wrapped if outer != inner] == []
