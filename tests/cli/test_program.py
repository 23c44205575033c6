"""The program as a whole: its help, its exit statuses, the backend that it selects, its errors."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import __main__, __version__
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import Key
from basicauth_mw.settings import FIELDS
from tests.cli.helpers import (
    COMMAND,
    LIMIT_S,
    ROOT,
    Done,
    ended,
    fill,
    install_third_party_store,
    process,
    put,
)
from tests.waiting import free_port

if TYPE_CHECKING:
    from collections.abc import Callable


def test_console_script_and_module_are_the_same_program() -> None:
    script = Path(sys.executable).with_name("basicauth-mw")

    said = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=LIMIT_S, check=True)

    assert said.stdout == f"basicauth-mw {__version__}\n"
    assert ended("--version").out == said.stdout


def test_without_the_extra_it_names_the_install_line() -> None:
    """-S omits site-packages, and with it all packages of an extra."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "basicauth_mw", "keys", "list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    Done(done.returncode, done.stdout, done.stderr).failed_with("pip install 'basicauth_mw[cli]'")


def test_help_lists_the_commands_and_every_setting(cli: Callable[..., Done]) -> None:
    done = cli("--help")

    assert done.status == 0
    for command in ("keys", "token", "curl", "check", "demo", "dashboard"):
        assert re.search(rf"^  {command} ", done.out, re.MULTILINE)
    for option in FIELDS:
        assert option.env in done.out


@pytest.mark.parametrize(
    "command",
    ["keys list", "keys create", "keys rotate", "keys update", "keys import", "check", "demo", "dashboard"],
)
def test_help_names_what_an_option_takes(cli: Callable[..., Done], command: str) -> None:
    """A word for users, not a Python type."""
    done = cli(*command.split(), "--help")

    assert done.status == 0
    options = re.findall(r"^  --.*", done.out, re.MULTILINE)
    assert options
    assert [line for line in options if re.search(r"<[a-z]|TEXT|INTEGER", line)] == []


def test_remove_suggests_delete(cli: Callable[..., Done]) -> None:
    cli("keys", "remove", "ci").failed_with("Did you mean 'delete'?", status=2)


# Every Python that finds it runs it: it simulates Ctrl-C while a module is looked up, or at the end.
CTRL_C = """
import atexit, os, signal, sys

class Finder:
    @staticmethod
    def find_spec(name, *_):
        if name == os.environ["CTRL_C_AT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder)
if os.environ["CTRL_C_AT"] == "exit":
    atexit.register(os.kill, os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize(
    "command", [COMMAND, [Path(sys.executable).with_name("basicauth-mw")]], ids=["-m", "script"]
)
@pytest.mark.parametrize(
    "at", ["basicauth_mw.errors", "basicauth_mw.cli", "typer", "rich", "basicauth_mw.cli.keys", "exit"]
)
def test_ctrl_c_never_prints_a_traceback(tmp_path: Path, command: list[str], at: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(CTRL_C)

    done = subprocess.run(
        [*command, "--version"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "CTRL_C_AT": at},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert (done.returncode, done.stderr) == (130, "")
    assert bool(done.stdout) == (at == "exit")


def test_an_ignored_sigint_stays_ignored(tmp_path: Path) -> None:
    """As under nohup, and in the background of a script."""
    (tmp_path / "sitecustomize.py").write_text(CTRL_C)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CTRL_C_AT": "typer"}

    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *COMMAND, "--version"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout


def test_ctrl_c_outside_of_a_command_prints_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basicauth_mw.cli.app.run", lambda: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)

    with pytest.raises(SystemExit) as ended:
        __main__.main()

    signal.signal(signal.SIGINT, before)
    assert ended.value.code == 130


def test_ctrl_c_ends_at_once_without_cleanup(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)

    __main__._end(signal.SIGINT, None)

    assert statuses == [130]


@pytest.mark.parametrize("arguments", [(), ("keys",), ("token",)], ids=str)
def test_without_a_command_it_prints_help(cli: Callable[..., Done], arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)

    assert done.status == 2
    assert "Usage: basicauth-mw" in done.out + done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "create", "--bogus"),
        ("keys", "create", "--secret", "hunter2"),
        ("keys", "create", "--secret=hunter2"),
        ("keys", "create", "hunter2"),
        ("keys", "create", "--secret-stdin", "--secret-prompt"),
        ("keys", "list", "--limit", "0"),
        ("keys", "list", "--limit", "many"),
        ("keys", "show"),
        ("keys", "create", "--expires", "soon"),
        ("keys", "rotate"),
        ("keys", "rotate", "a", "hunter2"),
        ("keys", "rotate", "a", "--secret-stdin", "--secret-prompt"),
        ("keys", "update", "a"),
        ("keys", "update", "a", "--scope", "b", "--no-scopes"),
        ("keys", "update", "a", "--expires", "soon"),
        ("keys", "update", "a", "--metadata", "[]"),
        ("keys", "update", "a", "--metadata", '{"a":1,"a":2}'),
        ("keys", "create", "--metadata", '{"a":{"b":1,"b":1}}'),
        ("keys", "import"),
        ("keys", "import", "a", "b"),
        ("keys", "import", "a", "--format", "yaml"),
        ("keys", "export", "a", "b"),
        ("token", "encode", "a", "hunter2"),
        ("token", "encode", "a"),
        ("curl", "http://h/", "a", "hunter2"),
        ("demo", "--port", "65536"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_a_usage_error_is_status_2(cli: Callable[..., Done], arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)

    done.failed_with("--help", status=2)
    assert "hunter2" not in done.err


@pytest.mark.parametrize("extra", ["ci", "nightly-build", "build.2"])
def test_an_id_without_its_option_gets_a_hint(cli: Callable[..., Done], extra: str) -> None:
    done = cli("keys", "create", extra)

    done.failed_with(f"use --client-id {extra} (see", status=2)
    assert "secret" not in done.err


@pytest.mark.parametrize("extra", ["hunter2", "a:b", "Tr0ub4dor&3", "x" * 30, f"sk_{'a' * 49}"])
def test_a_possible_secret_is_not_repeated(cli: Callable[..., Done], extra: str) -> None:
    done = cli("keys", "create", extra)

    done.failed_with("secrets are never taken from the command line", status=2)
    assert extra not in done.err


@pytest.mark.parametrize(
    "words",
    [
        *("{}", "keys {}", "keys show {}", "keys update {} --name x", "keys rotate {}", "keys disable {}"),
        *("keys revoke {}", "keys delete {}", "keys create {}", "keys show --{}", "keys list --limit {}"),
        *("keys create --expires {}", "keys import {}", "--log-config {} check", "keys list --backend {}"),
        "keys show my_{}",
    ],
)
def test_a_generated_secret_is_never_repeated(cli: Callable[..., Done], url: str, words: str) -> None:
    """It was typed in the wrong place."""
    put(url, Key("robot"))
    secret = generate("sk")

    done = cli(*words.format(secret).split())

    assert done.status in (1, 2)
    assert done.err.startswith("error: ")
    assert secret[3:] not in done.out + done.err


def test_a_long_generated_id_is_repeated(cli: Callable[..., Done], url: str) -> None:
    put(url, Key("robot"))
    client_id = generate("id")

    cli("keys", "show", client_id).failed_with(repr(client_id))


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "before the command", "after"])
def test_backend_is_accepted_before_and_after_the_command(
    cli: Callable[..., Done], tmp_path: Path, place: int
) -> None:
    put(f"sqlite:///{tmp_path}/other.db", Key("other"))
    words = ["keys", "list"]
    words[place:place] = ["--backend", f"sqlite:///{tmp_path}/other.db"]

    assert cli(*words, "--json").json["client_id"] == "other"


def test_the_backend_nearest_to_the_command_counts(cli: Callable[..., Done], url: str) -> None:
    put(url, Key("here"))

    done = cli("--backend", "memory:", "keys", "--backend", "env:", "list", "--backend", url, "--json")

    assert done.json["client_id"] == "here"


@pytest.mark.proves("X44")
@pytest.mark.parametrize(
    "secretive",
    [
        "redis://:hunter2@localhost/0",
        "redis://user:hunter2@localhost",
        "rediss://user:hunt@er2@localhost",
        "redis://:hun/ter2#?@localhost",
        "unix://:hunter2@/run/redis.sock",
        "redis+sentinel://u:hunter2@a:1,b:2/main",
        "redis://localhost/0?password=hunter2",
        "redis+sentinel://a:1/main?db=0&sentinel_password=hunter2",
        "redis://[::1:hunter2@x",
    ],
)
@pytest.mark.parametrize("after_command", [False, True])
def test_a_password_in_backend_is_refused_and_not_repeated(
    cli: Callable[..., Done], secretive: str, after_command: bool
) -> None:
    option = ("--backend", secretive)

    done = cli("keys", "list", *option) if after_command else cli(*option, "keys", "list")

    done.failed_with("BASICAUTH_BACKEND", status=2)
    assert "hunter" not in done.err
    assert "er2" not in done.err


def test_a_sqlite_path_may_look_like_a_password(cli: Callable[..., Done], tmp_path: Path) -> None:
    assert cli("keys", "create", "--backend", f"sqlite:///{tmp_path}/a:b@c.db").status == 0


def test_only_create_creates_a_missing_file(cli: Callable[..., Done], database: Path) -> None:
    for arguments in (
        ("keys", "list"),
        ("keys", "show", "a"),
        ("keys", "update", "a", "--name", "b"),
        ("keys", "rotate", "a"),
        ("keys", "disable", "a"),
        ("keys", "enable", "a"),
        ("keys", "export"),
        ("keys", "revoke", "a"),
        ("keys", "delete", "a"),
    ):
        done = cli(*arguments)
        assert done.status == 1
        assert done.err.startswith("error: ")
    assert cli("check").status == 1
    assert not database.exists()

    assert cli("keys", "create").status == 0
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


def test_failures_are_one_line(cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    cli("keys", "list", "--backend", "nonsense:").failed_with("sqlite:")
    cli("keys", "list", "--backend", "env:").failed_with("BASICAUTH_KEYS")
    monkeypatch.setenv("BASICAUTH_KEYS", "robot:hunter2")
    for verb in ("create", "update robot --name x", "rotate robot", "disable robot", "delete robot"):
        cli("keys", *verb.split(), "--backend", "env:").failed_with("")


def test_a_backend_that_is_down_is_one_line() -> None:
    ended("keys", "list", "--backend", f"redis://127.0.0.1:{free_port()}").failed_with("")


def test_a_bug_is_one_line_without_its_text(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The message of a third-party store's exception may contain the URL, and so a password."""
    install_third_party_store(
        tmp_path,
        monkeypatch,
        "def get(self, client_id): return None",
        "def scan(self, *arguments): raise KeyError('hunter2')",
    )

    done = cli("keys", "list", "--backend", "strange:")
    done.failed_with("KeyError")
    assert "hunter2" not in done.err
    done = cli("check", "--json", "--backend", "strange:")
    assert [problem["code"] for problem in done.json["problems"]] == ["unexpected_error"]
    assert "hunter2" not in done.out + done.err


def test_every_problem_of_the_settings_has_a_line(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASICAUTH_CACHE_SIZE", "hunter2")
    monkeypatch.setenv("BASICAUTH_REALLM", "hunter2")

    done = cli("keys", "list")

    assert done.status == 1
    assert len(done.err.splitlines()) == 2
    assert all(line.startswith("error: ") for line in done.err.splitlines())
    assert "hunter2" not in done.err


def test_a_file_that_is_not_a_database_is_one_line(cli: Callable[..., Done], database: Path) -> None:
    database.write_bytes(b"hello" * 1000)

    cli("keys", "list").failed_with("")


def test_a_closed_pipe_is_not_an_error(url: str) -> None:
    fill(url, 500)

    for options in ((), ("--json",)):
        with process("keys", "list", "--backend", url, *options) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            assert child.stdout.readline()
            child.stdout.close()
            assert child.stderr.read() == b""


def test_a_full_disk_is_one_line(url: str) -> None:
    put(url, Key("robot"))

    with Path("/dev/full").open("wb") as full:
        done = ended("keys", "list", "--backend", url, stdout=full)

    done.failed_with("no space left")


@pytest.mark.parametrize(
    "words",
    [
        *("keys create --secret-stdin", "keys create --secret-prompt", "keys rotate robot --secret-stdin"),
        *("token encode robot", "token encode robot --secret-stdin", "curl http://h/ robot --secret-stdin"),
        "keys import -",
    ],
)
def test_a_closed_stdin_is_one_line(url: str, words: str) -> None:
    put(url, Key("robot"))

    closed(*words.split(), url=url).failed_with("standard input is closed")


@pytest.mark.parametrize("verb", ["revoke", "delete"])
def test_there_is_no_prompt_on_a_closed_stdin(url: str, verb: str) -> None:
    put(url, Key("robot"))

    done = closed("keys", verb, "robot", url=url)

    assert (done.status, done.out, done.err) == (0, f"{verb}d robot\n", "")


def closed(*words: str, url: str) -> Done:
    """Run without a standard input."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, *words],
        cwd=ROOT,
        env={**os.environ, "BASICAUTH_BACKEND": url},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)
