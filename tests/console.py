"""Follows a page of the documentation as a reader does: saves its files, runs its commands, compares output.

Blocks in ``console`` run in order in one folder. ``...`` matches any text, and alone on a line any lines. A
Python block that begins with ``# NAME.py`` is saved under that name, and a Dockerfile as such.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Self

from tests.waiting import free_port, listens, wait_until

LIMIT_S = 60.0
BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r".*# (?:save this as )?(\w+\.py)$", re.MULTILINE)
PREPARED = ("pip install ", "python3 -m venv ", ". .venv/bin/activate")  # the tests have done this

# Stands in for curl on machines without it.
CURL = """#!{python}
import sys, urllib.request, urllib.error, base64
arguments = sys.argv[1:]
request = urllib.request.Request(arguments[-1], method="POST" if "POST" in arguments else "GET")
for name, value in zip(arguments, arguments[1:]):
    if name == "-H":
        request.add_header(*value.split(": ", 1))
if "-u" in arguments:
    user = arguments[arguments.index("-u") + 1]
    request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
try:
    response = urllib.request.urlopen(request)
except urllib.error.HTTPError as error:
    response = error
if "-i" in arguments:
    print(f"HTTP/1.1 {{response.status}} {{response.reason}}\\n{{response.headers}}".rstrip(), end="\\n\\n")
if "-w" in arguments:
    print(response.status)
else:
    print(response.read().decode(), end="")
"""


def steps(block: str) -> list[tuple[str, str]]:
    """Every command in a console block, with the output shown."""
    found = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [(command, output) for command, _, output in (step.partition("\n") for step in found)]


def as_pattern(shown: str) -> str:
    """A pattern for output as it is shown; the width of columns may differ."""
    patterns = []
    for line in shown.splitlines():
        if line == "...":
            patterns.append(r"(?:.*\n)*?")
        else:
            parts = [re.sub(r"(\\ )+", r" +", re.escape(part)) for part in line.split("...")]
            patterns.append(".+".join(parts) + r" *\n")
    return "".join(patterns)


class Reader:
    """Follows pages in one folder, with the programs beside ``python``. Leaving it stops the servers."""

    def __init__(self, folder: Path, python: str | Path = sys.executable) -> None:
        self.folder = folder
        self.environ = {
            name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")
        }
        self.environ["PATH"] = f"{self._commands()}:{Path(python).parent}:{os.environ['PATH']}"
        self.environ["HOME"] = str(folder)
        self._ports: dict[str, int] = {}
        self._printed = ""
        self._servers: list[subprocess.Popen[bytes]] = []
        self._logs: list[Path] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        for server in self._servers:
            self._stop(server)
        self._stack.close()

    def follow(self, text: str) -> int:
        """Follow a text, and return how many commands it has."""
        count = 0
        for language, indented in BLOCK.findall(text):
            block = textwrap.dedent(indented)
            if language in ("py", "python") and (named := FILE.match(block)):
                (self.folder / named[1]).write_text(block)
            if language == "dockerfile":
                (self.folder / "Dockerfile").write_text(block)
            if language == "console":
                for command, shown in steps(block):
                    self._run(command.partition(" #")[0].rstrip(), shown)
                    count += 1
        return count

    def _run(self, command: str, shown: str) -> None:
        if command.startswith(PREPARED):
            return
        if command.startswith("export "):
            self._export(command)
        elif command.endswith(" &"):
            self._serve(command.removesuffix(" &"))
        elif command == "kill $!":
            self._stop(self._servers.pop())
        else:
            self._compare(command, shown)

    def _export(self, command: str) -> None:
        for word in shlex.split(self._localized(command))[1:]:
            name, _, value = word.partition("=")
            if "..." in value:  # the reader copies it
                wait_until(partial(self._find, value))
                value = self._find(value)[-1]
            self.environ[name] = value

    def _find(self, shown: str) -> list[str]:
        """Every text like this one that a command or a server has printed."""
        printed = "".join([*(path.read_text() for path in self._logs), self._printed])
        return re.findall(rf"\b{shown.replace('...', '[0-9A-Za-z+/=]+')}", printed)

    def _serve(self, command: str) -> None:
        named = re.search(r"--port (\d+)", command)
        port = self._ports.setdefault(named[1] if named else "8000", free_port())
        log = self._stack.enter_context((self.folder / f"server-{len(self._logs)}.log").open("wb"))
        command = self._localized(command)
        if str(port) not in command:
            command += f" --port {port}"
        server = subprocess.Popen(
            ["bash", "-c", f"exec env {command}"],
            cwd=self.folder,
            env=self.environ,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self._servers.append(server)
        self._logs.append(Path(log.name))
        wait_until(lambda: listens(port) or server.poll() is not None)
        assert server.poll() is None, Path(log.name).read_text()

    def _compare(self, command: str, shown: str) -> None:
        """Run a command. A request is repeated for a while: the server may see a change of keys later."""
        is_request = command.startswith("curl ")
        pattern = re.compile(as_pattern(shown))
        ends = time.monotonic() + (10 if is_request else 0)
        while True:
            done = subprocess.run(
                [
                    "bash",
                    "-o",
                    "pipefail",
                    "-c",
                    f"{self._localized(command)}\nexit",
                ],  # its parent is a shell
                cwd=self.folder,
                env=self.environ,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, ""), f"{command}\n{done.stdout}{done.stderr}"
            if not shown or pattern.fullmatch(done.stdout.rstrip("\n") + "\n"):
                break
            assert time.monotonic() < ends, f"{command}\n{done.stdout}"
            time.sleep(0.1)
        self._printed += done.stdout

    def _localized(self, command: str) -> str:
        command = command.replace("/var/lib/keys", str(self.folder))
        for shown, port in self._ports.items():
            command = command.replace(shown, str(port))
        return command.replace("curl ", "curl -s ", 1) if command.startswith("curl ") else command

    def _commands(self) -> Path:
        """A folder for ``PATH``, with curl if the machine has none."""
        folder = self.folder / "bin"
        folder.mkdir()
        if shutil.which("curl") is None:
            (folder / "curl").write_text(CURL.format(python=sys.executable))
            (folder / "curl").chmod(0o755)
        return folder

    @staticmethod
    def _stop(server: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(LIMIT_S)
