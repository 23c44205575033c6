"""``docs/keys.md``: its commands run unchanged, in order, and print the output shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.cli.helpers import LIMIT_S, ROOT

BLOCK = re.compile(r"^( *)```console\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_guide(tmp_path: Path) -> None:
    """``...`` matches any text; alone on a line, any lines."""
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    transcript = "".join(
        textwrap.dedent(block) for _, block in BLOCK.findall((ROOT / "docs" / "keys.md").read_text())
    )
    steps = [step.partition("\n") for step in re.split(r"^\$ ", transcript, flags=re.MULTILINE)[1:]]

    for command, _, expected in steps:
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            environ[name] = value
            continue
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        lines = expected.splitlines(keepends=True)
        pattern = "".join(
            "(?:.*\n)*?" if line == "...\n" else re.escape(line).replace(re.escape("..."), ".+")
            for line in lines
        )
        assert (done.returncode, done.stderr) == (0, ""), command
        assert re.fullmatch(pattern, done.stdout), command

    assert len(steps) > 10
