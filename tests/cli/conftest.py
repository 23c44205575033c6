"""Fixtures of the tests of the command line."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.cli.app import run
from tests.cli.helpers import (
    HASH,
    LIMIT_S,
    ROOT,
    Done,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("BASICAUTH_"):
            monkeypatch.delenv(name)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
def url(database: Path) -> str:
    return f"sqlite:///{database}"


@pytest.fixture
def cli(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command line in this process, on the SQLite file of the test. ``hashes``: it may print hashes."""
    monkeypatch.setenv("BASICAUTH_BACKEND", url)

    def call(*arguments: str, stdin: bytes = b"", hashes: bool = False) -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = run(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert not HASH.search(captured.err)
        assert hashes or not HASH.search(captured.out)
        return Done(status, captured.out, captured.err)

    return call


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal: ours, and the one for the program."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    for end in (ours, theirs):
        os.close(end)


@pytest.fixture
def without(tmp_path: Path) -> Callable[..., Callable[..., Done]]:
    """Run the program in an environment where some packages are not installed."""

    def program(*packages: str) -> Callable[..., Done]:
        site = tmp_path / "site"
        site.mkdir()
        for entry in Path(pytest.__file__).parents[1].iterdir():
            if not entry.name.startswith(packages):
                (site / entry.name).symlink_to(entry)

        def call(*arguments: str, stdin: str = "") -> Done:
            done = subprocess.run(
                [sys.executable, "-S", "-m", "basicauth_mw", *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(site)},
                input=stdin,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            return Done(done.returncode, done.stdout, done.stderr)

        return call

    return program
