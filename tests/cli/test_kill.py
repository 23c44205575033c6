"""Commands that are killed: the change was made completely, or not at all."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Self

import pytest

from basicauth_mw import Settings, open_backend
from basicauth_mw.keys.hashing import Hasher
from tests.cli.helpers import LIMIT_S, ROOT

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 12  # for each store and each way to rotate


class Commander:
    """Runs commands in separate processes. Use as a context manager."""

    def __init__(self, url: str, output: Path) -> None:
        self._output = output
        # Coverage would hang in a process that is killed.
        inherited = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.commander"],
            cwd=ROOT,
            env={**inherited, "BASICAUTH_BACKEND": url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=LIMIT_S)

    def run(self, *arguments: str, killed_after_s: float | None = None) -> tuple[int, str]:
        """Return the exit status, and the output so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([*arguments, str(self._output), killed_after_s]) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        return status, self._output.read_text()


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'keys.db'}"
    return str(request.getfixturevalue("redis_url"))


def check_file(url: str) -> None:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def parsed(said: str) -> Any:
    """What a command printed with ``--json``; None if it is incomplete."""
    try:
        return json.loads(said)
    except ValueError:
        return None


@pytest.mark.proves("F33")
@pytest.mark.parametrize("overlap", ["0s", "1h"])
def test_a_rotation_that_is_killed(url: str, tmp_path: Path, overlap: str) -> None:
    """Until the new secret is stored the old one works; a printed one works; the next rotation succeeds."""
    with (
        open_backend(url, settings=Settings(backend_deadline_s=5), create=True) as keys,
        Commander(url, tmp_path / "said") as commander,
    ):
        keys.create(client_id="ci", scopes=["read"])
        words = ("keys", "rotate", "ci", "--overlap", overlap, "--json")
        commander.run("keys", "list")
        begin = time.monotonic()
        status, said = commander.run(*words)
        delay_s = (time.monotonic() - begin) / 2
        assert status == 0
        secret = parsed(said)["secret"]
        chance = random.Random(20260101)
        outcomes = []
        for _ in range(KILLS):
            before = keys.get("ci")
            status, said = commander.run(*words, killed_after_s=chance.uniform(0.7, 1.3) * delay_s)
            assert status in (0, -signal.SIGKILL), said
            check_file(url)
            after = keys.get("ci")
            assert before is not None
            assert after is not None
            outcomes.append(after.version - before.version)
            shown = parsed(said)
            if outcomes[-1] == 0:
                assert after == before
                assert shown is None, "a printed secret must be stored"
                assert Hasher().verify_digest(secret, after.secrets) is not None
                delay_s *= 1.4  # so that it is killed at about the time of the change
                continue
            delay_s *= 0.6
            assert (Hasher().verify_digest(secret, after.secrets) is not None) == (overlap == "1h")
            if shown is not None:
                assert Hasher().verify_digest(shown["secret"], after.secrets) is not None
            # The new secret may not have been printed: rotate again, as an operator would.
            secret = keys.rotate("ci", overlap_s=0).secret
        assert set(outcomes) == {0, 1}
