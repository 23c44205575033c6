"""``docs/migrating.md``: its apps, before and after, serve the same clients, and its commands work.

Blocks that start with a file name (``# app.py``) are files. Each app runs in a process of its own, under a
real server. ``tests/test_docs.py`` runs only the blocks in ``python``: those in ``py`` use other packages, or
are not complete by themselves.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.waiting import LIMIT_S, free_port, listens, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "migrating.md").read_text()
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

FASTAPI = ("-m", "uvicorn", "app:app", "--log-level=warning", "--port={port}")
FLASK = ("-m", "waitress", "--listen=127.0.0.1:{port}", "app:app")

# Written by Apache's htpasswd 2.4, with -B, -m and -s.
HTPASSWD = """\
alice:$2y$05$TVL6zvinrjTVLkKZFka89.mhvQpBvkMIrT1yeeAv8f1sZtJRJ9kZi
bob:$apr1$QaqqQvR2$4tZLmZhHK0g.sX9D6HTF5/
carol:{SHA}zgsrdx99RowBQZGNrqcE4OWtRds=
"""


def section(*headings: str) -> str:
    """The text under a chapter's heading, or under a heading in it."""
    text = PAGE
    for level, heading in enumerate(headings, 2):
        start = f"\n{'#' * level} {heading}\n"
        assert text.count(start) == 1, heading
        text = re.split(rf"^#{{2,{level}}} ", text.partition(start)[2], flags=re.MULTILINE)[0]
    return text


def blocks(text: str, *languages: str) -> list[str]:
    """The code of the blocks in these languages."""
    return [textwrap.dedent(code) for _, language, code in BLOCK.findall(text) if language in languages]


def write_files(folder: Path, text: str) -> None:
    """Write each block that starts with a file name to that file."""
    found = {code.partition("\n")[0].removeprefix("# "): code for code in blocks(text, "py", "python")}
    assert found
    for name, code in found.items():
        assert name.endswith(".py")
        (folder / name).write_text(code)


class Site:
    """A folder with the files of an app, and an environment for its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BASICAUTH_", "DJANGO_"))
        }
        self.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environ["BASICAUTH_BACKEND"] = "sqlite:///keys.db"
        self.environ["PYTHONPATH"] = str(ROOT)

    def run(self, command: str, status: int = 0) -> str:
        """Run a command; return what it printed."""
        done = subprocess.run(
            ["bash", "-e", "-c", command],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def serving(self, server: tuple[str, ...]) -> Iterator[httpx.Client]:
        """Serve the app; return a client for it."""
        port = free_port()
        arguments = [argument.format(port=port) for argument in server]
        with (self.folder / "server.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=self.folder, env=self.environ, stdout=log, stderr=log
            )
        try:
            wait_until(lambda: listens(port) or process.poll() is not None)
            assert process.poll() is None, (self.folder / "server.log").read_text()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                yield client
        finally:
            process.terminate()
            process.wait(LIMIT_S)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def assert_refuses_strangers(client: httpx.Client, method: str, path: str) -> None:
    """A request without credentials, and ones with wrong credentials, get a 401 with a Basic challenge."""
    wrong = [None, ("ci", "wrong"), ("stranger", "correct horse"), ("ci", ""), ("", "")]
    for auth in wrong:
        refused = client.request(method, path, auth=auth)
        assert (refused.status_code, auth) == (401, auth)
        assert refused.headers["WWW-Authenticate"].startswith("Basic")


# --- htpasswd


def test_htpasswd(site: Site) -> None:
    """A bcrypt user keeps the password; those with other hashes get a secret."""
    (site.folder / "users.htpasswd").write_text(HTPASSWD)
    chapter = section("nginx and Apache: htpasswd")
    first, second = (code.replace("/etc/nginx/", "") for code in blocks(chapter, "sh"))

    printed = site.run(first, status=1)
    assert "line 2: " in printed
    assert "Apache MD5 (apr1)" in printed
    assert "line 3: " in printed
    assert "unsalted SHA-1" in printed

    printed = site.run(second, status=1)
    assert "'alice' is taken" in printed, "it is reported and unchanged"
    *new, last = (site.folder / "new-secrets.txt").read_text().splitlines()
    assert last == "imported 2 keys"
    secrets = dict(line.split(":") for line in new)
    assert secrets.keys() == {"bob", "carol"}

    write_files(site.folder, section("FastAPI's HTTPBasic", "After"))
    with site.serving(FASTAPI) as client:
        for name, secret in {**secrets, "alice": "correct horse"}.items():
            response = client.get("/me", auth=(name, secret))
            assert (response.status_code, response.json()) == (200, {"hello": name})
        for name, old in {"bob": "battery staple", "carol": "p@55w0rd"}.items():
            assert client.get("/me", auth=(name, old)).status_code == 401


# --- FastAPI and Flask: the clients do not change


def run_steps(site: Site, chapter: str) -> None:
    """Write the CSV file of a chapter, and run its commands."""
    steps = section(chapter, "Steps")
    (csv,) = blocks(steps, "csv")
    (commands,) = blocks(steps, "sh")
    (site.folder / "users.csv").write_text(csv)
    (site.folder / "users.csv").chmod(0o600)
    assert site.run(commands) == "imported 2 keys\n"
    assert not (site.folder / "users.csv").exists()


@pytest.mark.parametrize("state", ["Before", "After"])
def test_fastapi(site: Site, state: str) -> None:
    chapter = "FastAPI's HTTPBasic"
    write_files(site.folder, section(chapter, state))
    if state == "After":
        run_steps(site, chapter)

    with site.serving(FASTAPI) as client:
        for name, password in {"ci": "correct horse", "backup": "battery staple"}.items():
            response = client.get("/me", auth=(name, password))
            assert (response.status_code, response.json()) == (200, {"hello": name})
        assert client.get("/status").json() == {"status": "up"}
        assert_refuses_strangers(client, "GET", "/me")
        assert client.get("/openapi.json").status_code == (401 if state == "After" else 200)
        expected = 401 if state == "Before" else 200
        site.run("printf 'zoé,motdépasse\n' | basicauth-mw keys import -")
        assert client.get("/me", auth=("zoé", "motdépasse")).status_code == expected


@pytest.mark.parametrize("state", ["Before", "After"])
def test_flask(site: Site, state: str) -> None:
    chapter = "Flask-HTTPAuth"
    write_files(site.folder, section(chapter, state))
    if state == "After":
        run_steps(site, chapter)

    with site.serving(FLASK) as client:
        ci, editor = ("ci", "correct horse"), ("editor", "battery staple")
        for auth in (ci, editor):
            assert client.get("/api/me", auth=auth).json() == {"hello": auth[0]}
            assert client.get("/api/feed", auth=auth).json() == {"for": auth[0]}
        assert client.post("/api/reports", auth=editor).json() == {"by": "editor"}
        assert client.post("/api/reports", auth=ci).status_code == 403
        assert client.get("/").json() == {"open": True}
        assert client.get("/api/feed").json() == {"for": "everyone"}
        assert_refuses_strangers(client, "GET", "/api/me")
        assert_refuses_strangers(client, "POST", "/api/reports")
        wrong = client.get("/api/feed", auth=("ci", "wrong"))
        if state == "Before":
            assert wrong.json() == {"for": "everyone"}
        else:
            assert wrong.status_code == 401


def test_hashes_of_werkzeug_are_refused(site: Site) -> None:
    """A hash is not imported as a password, which would let in anyone who has read the old table."""
    from werkzeug.security import generate_password_hash

    methods = {"ci": "scrypt", "editor": "pbkdf2:sha256:1000"}
    rows = [f"{name},{generate_password_hash('x', method)}" for name, method in methods.items()]
    (site.folder / "users.csv").write_text("\n".join(["username,password", *rows]))

    printed = site.run("basicauth-mw keys import users.csv", status=1)

    assert "line 2: hashes of this kind are not accepted" in printed
    assert "line 3: hashes of this kind are not accepted" in printed
    assert "imported 0 keys" in printed
