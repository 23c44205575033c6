"""docs/cli.md lists every command and option, and the shells complete them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.helpers import LIMIT_S
from tests.cli.reference import PAGE, update


def test_the_page_lists_every_command() -> None:
    """If this fails, run ``python -m tests.cli.reference``."""
    assert update(PAGE.read_text()) == PAGE.read_text()


def run(script: str, home: Path, **environ: str) -> str:
    """The output of a bash script in which ``basicauth-mw`` is on ``PATH``."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f"{script}\nexit"],
        env={"PATH": path, "HOME": str(home), **environ},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (("che",), ["check"]),
        (("keys", "re"), ["revoke"]),
        (("keys", "rotate", "ci", "--over"), ["--overlap"]),
        (("--backend", "memory:", "keys", "enab"), ["enable"]),
    ],
    ids=" ".join,
)
def test_bash_completes_a_word(words: tuple[str, ...], completed: list[str], tmp_path: Path) -> None:
    """With the script that ``--install-completion`` has installed, as a new shell loads it."""
    script = f"""
        basicauth-mw --install-completion > installed
        source .bashrc
        COMP_WORDS=(basicauth-mw {" ".join(words)}) COMP_CWORD={len(words)}
        $(complete -p basicauth-mw | sed 's/.* -F \\([^ ]*\\) .*/\\1/') basicauth-mw
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert run(f"cd {tmp_path}\n{script}", tmp_path).split() == completed
    assert (tmp_path / "installed").read_text().startswith("bash completion installed in ")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete_a_word(shell: str, tmp_path: Path) -> None:
    """What the scripts for these shells call, as neither has to be installed here."""
    completed = run(
        "basicauth-mw",
        tmp_path,
        _BASICAUTH_MW_COMPLETE=f"complete_{shell}",
        _TYPER_COMPLETE_ARGS="basicauth-mw keys rot",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert "rotate" in completed
    assert "revoke" not in completed
