"""Ways to run the command line, and to prepare its data."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basicauth_mw.backends.backend import open_backend
from basicauth_mw.keys.model import Key, utcnow

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "basicauth_mw"]
LIMIT_S = 20.0

KEY_FIELDS = [
    "client_id",
    "name",
    "scopes",
    "created_at",
    "expires_at",
    "revoked_at",
    "disabled",
    "last_used_at",
    "metadata",
    "secrets",
]
HASH = re.compile(r"\$(bamw1|argon2id|2[by])\$[^\s,]")


class Done:
    """The result of a command line."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        (line,) = self.out.splitlines()
        return json.loads(line)

    def failed_with(self, text: str, *, status: int = 1) -> None:
        """One clear line on stderr, nothing on stdout."""
        assert self.status == status
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        assert text in line


class Child(subprocess.Popen[bytes]):
    """A process that is killed if its test fails."""

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *rest)


def process(*arguments: str, measured: bool = False, **options: Any) -> Child:
    """Start the command line in a process, which can be signalled.

    Args:
        *arguments: The arguments.
        measured: Whether to measure coverage, which hangs if a signal handler raises while it holds its lock.
        **options: Of ``subprocess.Popen``.
    """
    environment = {**os.environ, **options.pop("env", {})}
    if not measured:
        environment.pop("COVERAGE_PROCESS_CONFIG", None)
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return Child([*COMMAND, *arguments], cwd=ROOT, env=environment, **options)


def ended(*arguments: str, stdin: bytes | None = None, **options: Any) -> Done:
    """Run the command line in a process to its end."""
    if stdin is not None:
        options["stdin"] = subprocess.PIPE
    with process(*arguments, measured=True, **options) as child:
        out, err = child.communicate(stdin, timeout=LIMIT_S)
    return Done(child.returncode, (out or b"").decode(), (err or b"").decode())


def put(url: str, *keys: Key) -> None:
    """Store keys directly, without validation."""
    with open_backend(url, create=True) as backend:
        for key in keys:
            assert backend.store.put(key, None)


def fill(url: str, count: int) -> None:
    """Store this number of keys at once: ``00000`` and so on, with long names."""
    now = utcnow()
    with open_backend(url, create=True) as backend:
        backend.add([Key(f"{number:05}", name="n" * 200, created_at=now) for number in range(count)])


def install_third_party_store(folder: Path, monkeypatch: pytest.MonkeyPatch, *methods: str) -> None:
    """Install a third-party store with the scheme ``strange:``."""
    lines = ["class Strange:", *(f"    {method}" for method in ("def __init__(self, url): pass", *methods))]
    (folder / "strange_store.py").write_text("\n".join(lines))
    distribution = folder / "strange_store-1.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-store\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text(
        "[basicauth_mw.backends]\nstrange = strange_store:Strange\n"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "strange_store", raising=False)


def run_with_prompts(terminal: tuple[int, int], *arguments: str, responses: dict[bytes, bytes]) -> Done:
    """Run on a terminal and type each response when its prompt is on stderr."""
    ours, theirs = terminal
    with process(*arguments, stdin=theirs, start_new_session=True) as child:
        assert child.stderr is not None
        prompts = b""
        for prompt, response in responses.items():
            while not prompts.endswith(prompt):
                byte = child.stderr.read(1)
                assert byte, prompts
                prompts += byte
            os.write(ours, response)
        out, err = child.communicate(timeout=LIMIT_S)
    return Done(child.returncode, out.decode(), (prompts + err).decode())
