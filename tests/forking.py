"""Runs programs in forks of a Python that has loaded the frameworks, which takes longer than most programs.

``python -W error -m tests.forking`` reads JSON lists of the program, its folder, its environment and the file
for its output, one on each line. It writes the exit status of each.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Self

ROOT = Path(__file__).parents[1]
LIMIT_S = 60


class Forker:
    """The Python that is forked. Use as a context manager."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-W", "error", "-m", "tests.forking"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.communicate()

    def run(self, program: str, folder: Path, environ: dict[str, str]) -> tuple[int, str]:
        """Run a program in a folder; return its exit status, and what it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        output = folder / "output"
        print(json.dumps([program, str(folder), environ, str(output)]), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline()), output.read_text()


def main() -> None:
    import fastapi  # noqa: F401
    import flask  # noqa: F401
    import prometheus_client  # noqa: F401

    gc.freeze()  # a child would copy every page that its collections touch, most of them when it exits
    for line in sys.stdin:
        program, folder, environ, path = json.loads(line)
        pid = os.fork()
        if pid == 0:
            output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            signal.alarm(LIMIT_S)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environ)
            sys.argv, sys.path[0] = ["-c"], ""
            module = sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(program, "<string>", "exec"), vars(module))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
