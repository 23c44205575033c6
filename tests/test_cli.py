"""The command line: what it prints, how it ends, and what it never shows."""

from __future__ import annotations

import ast
import io
import json
import os
import pty
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import __version__
from basicauth_mw.backend import open_backend
from basicauth_mw.cli._output import key_fields, print_json
from basicauth_mw.cli.app import run
from basicauth_mw.credentials import Credentials, encode_basic, parse_basic
from basicauth_mw.minting import mint
from basicauth_mw.model import Key, Secret, utcnow
from basicauth_mw.settings import FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
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
]
HASH = re.compile(r"\$(bamw1|argon2id|2b)\$")


class Done:
    """How one command line ended."""

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
    """Run a command line in this process, on the SQLite file of the test."""
    monkeypatch.setenv("BASICAUTH_BACKEND", url)

    def call(*arguments: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = run(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert not HASH.search(captured.out + captured.err)
        return Done(status, captured.out, captured.err)

    return call


def process(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start the real thing."""
    environment = {**os.environ, **options.pop("env", {})}
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, env=environment, **options)


def ended(*arguments: str, stdin: bytes | None = None, **options: Any) -> Done:
    """Run the real thing to its end."""
    if stdin is not None:
        options["stdin"] = subprocess.PIPE
    with process(*arguments, **options) as child:
        out, err = child.communicate(stdin, timeout=LIMIT_S)
    return Done(child.returncode, (out or b"").decode(), (err or b"").decode())


def put(url: str, *keys: Key) -> None:
    """Store keys as somebody else might have, past every check."""
    with open_backend(url, create=True) as backend:
        for key in keys:
            assert backend.store.put(key, None)


def stranger(folder: Path, monkeypatch: pytest.MonkeyPatch, *methods: str) -> None:
    """Install somebody else's store, found by the scheme ``strange:``."""
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


# --- the program


def test_console_script_and_module_are_the_same_program() -> None:
    script = Path(sys.executable).with_name("basicauth-mw")

    said = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=LIMIT_S, check=True)

    assert said.stdout == f"basicauth-mw {__version__}\n"
    assert ended("--version").out == said.stdout


def test_without_the_extra_it_names_the_install_line() -> None:
    """-S leaves out site-packages, and with it everything that an extra brings."""
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
    for command in ("keys", "token", "curl", "check", "demo"):
        assert re.search(rf"^  {command} ", done.out, re.MULTILINE)
    for option in FIELDS:
        assert option.env in done.out


@pytest.mark.parametrize("arguments", [(), ("keys",), ("token",)], ids=str)
def test_without_a_command_it_helps(cli: Callable[..., Done], arguments: tuple[str, ...]) -> None:
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
        ("keys", "rotate", "a"),
        ("token", "encode", "a", "hunter2"),
        ("token", "encode", "a"),
        ("curl", "http://h/", "a", "hunter2"),
        ("demo", "--port", "65536"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_what_cannot_be_parsed_is_status_2(cli: Callable[..., Done], arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)

    done.failed_with("--help", status=2)
    assert "hunter2" not in done.err


# --- which backend


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "before the command", "behind"])
def test_backend_is_accepted_before_and_behind_the_command(
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
@pytest.mark.parametrize("behind", [False, True])
def test_a_password_in_backend_is_refused_and_not_repeated(
    cli: Callable[..., Done], secretive: str, behind: bool
) -> None:
    option = ("--backend", secretive)

    done = cli("keys", "list", *option) if behind else cli(*option, "keys", "list")

    done.failed_with("BASICAUTH_BACKEND", status=2)
    assert "hunter" not in done.err
    assert "er2" not in done.err


def test_a_sqlite_path_may_look_like_a_password(cli: Callable[..., Done], tmp_path: Path) -> None:
    assert cli("keys", "create", "--backend", f"sqlite:///{tmp_path}/a:b@c.db").status == 0


def test_only_create_makes_a_missing_file(cli: Callable[..., Done], database: Path) -> None:
    for arguments in (
        ("keys", "list"),
        ("keys", "show", "a"),
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


# --- making keys


def test_create_json_has_exactly_the_promised_fields(cli: Callable[..., Done], url: str) -> None:
    before = utcnow()

    made = cli(
        *("keys", "create", "--json", "--name", "ci", "--scope", "write", "--scope", "read"),
        *("--expires", "90d", "--client-id", "robot", "--metadata", '{"team": {"id": 7}}'),
    ).json

    assert list(made) == [*KEY_FIELDS, "secret", "authorization"]
    created, expires = (datetime.fromisoformat(made[name]) for name in ("created_at", "expires_at"))
    assert made["created_at"].endswith("Z")
    assert before <= created <= utcnow()
    assert timedelta(seconds=-LIMIT_S) < expires - created - timedelta(days=90) < timedelta(seconds=LIMIT_S)
    assert made | {"created_at": 0, "expires_at": 0, "secret": 0, "authorization": 0} == {
        "client_id": "robot",
        "name": "ci",
        "scopes": ["read", "write"],
        "created_at": 0,
        "expires_at": 0,
        "revoked_at": None,
        "disabled": False,
        "last_used_at": None,
        "metadata": {"team": {"id": 7}},
        "secret": 0,
        "authorization": 0,
    }
    assert parse_basic(made["authorization"]) == Credentials("robot", made["secret"])
    with open_backend(url) as backend:
        stored = backend.get("robot")
        assert stored is not None
        assert backend.hasher.match_fast(made["secret"], stored.secrets)


def test_create_ends_with_a_curl_line_a_python_line_and_the_header(cli: Callable[..., Done]) -> None:
    done = cli("keys", "create", "--name", "ci")

    curl, python, header = done.out.splitlines()[-3:]
    words = shlex.split(curl)
    assert words[0] == "curl"
    pair = words[words.index("-u") + 1]
    call = ast.parse(python, mode="eval").body
    assert isinstance(call, ast.Call)
    assert ast.literal_eval(call.keywords[0].value) == tuple(pair.split(":"))
    sent = parse_basic(header.removeprefix("Authorization: "))
    assert pair == f"{sent.client_id}:{sent.secret}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45s", timedelta(seconds=45)),
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("90d", timedelta(days=90)),
        ("2w", timedelta(weeks=2)),
        ("2199-01-31T12:00:00Z", datetime(2199, 1, 31, 12, tzinfo=UTC)),
        ("2199-01-31t12:00:00.25z", datetime(2199, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)),
        ("2199-01-31T12:00:00+02:00", datetime(2199, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_expires_is_a_duration_or_a_moment(
    cli: Callable[..., Done], text: str, expected: timedelta | datetime
) -> None:
    ends = datetime.fromisoformat(cli("keys", "create", "--json", "--expires", text).json["expires_at"])

    if isinstance(expected, timedelta):
        assert abs(ends - utcnow() - expected) < timedelta(seconds=LIMIT_S)
    else:
        assert ends == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "90",
        "d",
        "-1d",
        "1.5h",
        "3y",
        "1d12h",
        "999999999w",
        "tomorrow",
        "2199-01-31",
        "2199-01-31T12:00:00",
        "2199-02-30T12:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "20990131T120000Z",
    ],
)
def test_other_expiries_are_usage_errors(cli: Callable[..., Done], database: Path, text: str) -> None:
    cli("keys", "create", f"--expires={text}").failed_with("--expires", status=2)
    assert not database.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "null", '{"a": NaN}', "[" * 100_000])
def test_metadata_is_a_json_object(cli: Callable[..., Done], text: str) -> None:
    cli("keys", "create", "--metadata", text).failed_with("--metadata", status=2)


@pytest.mark.parametrize(
    "options",
    [
        ("--expires", "2001-01-31T12:00:00Z"),
        ("--client-id", "a:b"),
        ("--name", "x" * 201),
        ("--scope", "two words"),
        ("--metadata", json.dumps({"long": "x" * 5000})),
    ],
    ids=lambda options: options[0],
)
def test_what_a_key_may_not_hold_is_refused(cli: Callable[..., Done], options: tuple[str, ...]) -> None:
    done = cli("keys", "create", *options)

    assert done.status == 1
    assert done.err.startswith("error: ")
    assert cli("keys", "list", "--json").out == ""


def test_an_id_is_taken_once(cli: Callable[..., Done]) -> None:
    assert cli("keys", "create", "--client-id", "robot").status == 0
    cli("keys", "create", "--client-id", "robot").failed_with("robot")


# --- secrets from outside


@pytest.mark.parametrize(
    ("octets", "secret"),
    [
        (b"s3cret", "s3cret"),
        (b"s3cret\n", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        (b" s3cret \n", " s3cret "),
        ("gehe\u0301im:\n".encode(), "gehe\u0301im:"),
    ],
)
def test_one_final_newline_of_stdin_is_dropped(cli: Callable[..., Done], octets: bytes, secret: str) -> None:
    done = cli("token", "encode", "robot", "--secret-stdin", stdin=octets)

    assert done.out == f"{encode_basic('robot', secret)}\n"


@pytest.mark.parametrize(
    "octets", [b"", b"\n", b"\r\n", b"s3cret\n\n", b"s3\ncret", b"s3cret\r", b"\xff", b"x" * 70_000]
)
@pytest.mark.parametrize("command", [("token", "encode", "robot"), ("keys", "create")], ids=" ".join)
def test_other_secrets_are_refused(cli: Callable[..., Done], command: tuple[str, ...], octets: bytes) -> None:
    done = cli(*command, "--secret-stdin", stdin=octets)

    done.failed_with("")
    assert "cret" not in done.err.replace("secret", "")


def test_a_given_secret_is_the_secret(cli: Callable[..., Done]) -> None:
    secret = mint("sk")

    made = cli("keys", "create", "--json", "--secret-stdin", stdin=f"{secret}\n".encode()).json

    assert made["secret"] == secret


def test_token_encode_and_curl_json(cli: Callable[..., Done]) -> None:
    authorization = encode_basic("a b", "s'3")

    token = cli("token", "encode", "a b", "--secret-stdin", "--json", stdin=b"s'3")
    curl = cli("curl", "https://h/x?y=1&z", "a b", "--secret-stdin", "--json", stdin=b"s'3")

    assert token.json == {"client_id": "a b", "authorization": authorization}
    command = curl.json.pop("command")
    assert shlex.split(command) == ["curl", "-u", "a b:s'3", "https://h/x?y=1&z"]
    assert curl.json == {
        "url": "https://h/x?y=1&z",
        "client_id": "a b",
        "authorization": authorization,
        "command": command,
    }


def test_curl_does_not_depend_on_the_locale(cli: Callable[..., Done]) -> None:
    done = cli("curl", "http://h/", "jos\u00e9", "--secret-stdin", stdin=b"x")

    authorization = encode_basic("jos\u00e9", "x")
    assert shlex.split(done.out) == ["curl", "-H", f"Authorization: {authorization}", "http://h/"]


@pytest.mark.parametrize(
    "target",
    ["", "h", "-o", "ftp://h/", "http://", "http://[", "http://h/\x1b[2J", "http://h/ x", "http://u:p@h/"],
)
def test_curl_wants_a_plain_url(cli: Callable[..., Done], target: str) -> None:
    done = cli("curl", "--secret-stdin", "--", target, "robot", stdin=b"x")

    done.failed_with("URL", status=2)
    assert "\x1b" not in done.err


def test_a_waiting_secret_is_in_no_process_list(url: str) -> None:
    with process("keys", "create", "--secret-stdin", "--backend", url, stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        secret = mint("sk").encode()
        child.stdin.write(secret)
        child.stdin.flush()
        ends = time.monotonic() + LIMIT_S
        while not (
            command_line := Path(f"/proc/{child.pid}/cmdline").read_bytes()
        ):  # the kernel is at exec still
            assert time.monotonic() < ends
        out, _ = child.communicate(timeout=LIMIT_S)

    assert child.returncode == 0
    assert b"--secret-stdin" in command_line
    assert secret not in command_line
    assert secret in out


# --- on a terminal


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal: ours, and the one to start a program on."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    for end in (ours, theirs):
        os.close(end)


def answered(terminal: tuple[int, int], *arguments: str, answers: dict[bytes, bytes]) -> Done:
    """Run on a terminal and type each answer when its question is on stderr."""
    ours, theirs = terminal
    with process(*arguments, stdin=theirs, start_new_session=True) as child:
        assert child.stderr is not None
        asked = b""
        for question, answer in answers.items():
            while not asked.endswith(question):
                octet = child.stderr.read(1)
                assert octet, asked
                asked += octet
            os.write(ours, answer)
        out, err = child.communicate(timeout=LIMIT_S)
    return Done(child.returncode, out.decode(), (asked + err).decode())


@pytest.mark.parametrize("verb", ["revoke", "delete"])
@pytest.mark.parametrize("answer", [b"y\n", b"n\n", b"\n"])
def test_revoke_and_delete_ask_on_a_terminal(
    url: str, terminal: tuple[int, int], verb: str, answer: bytes
) -> None:
    put(url, Key("robot", name="\x1b[2Jci"))

    done = answered(terminal, "keys", verb, "robot", "--backend", url, answers={b"[y/N] ": answer})

    assert "\x1b" not in done.err
    with open_backend(url) as backend:
        key = backend.get("robot")
    changed = key is None or key.revoked_at is not None
    assert changed == (answer == b"y\n")
    assert done.status == (0 if changed else 1)


def test_yes_asks_nothing(url: str, terminal: tuple[int, int]) -> None:
    put(url, Key("robot"))

    done = answered(terminal, "keys", "delete", "robot", "--yes", "--backend", url, answers={})

    assert (done.status, done.err) == (0, "")


def test_a_prompted_secret_is_hidden_and_asked_for_twice(url: str, terminal: tuple[int, int]) -> None:
    secret = mint("sk").encode()

    done = answered(
        terminal,
        *("keys", "create", "--secret-prompt", "--client-id", "robot", "--backend", url),
        answers={b"Secret: ": secret + b"\n", b"again: ": secret + b"\n"},
    )

    assert done.status == 0
    assert secret.decode() not in done.out + done.err
    os.set_blocking(terminal[0], False)
    with pytest.raises(BlockingIOError):  # nothing was echoed to the terminal either
        os.read(terminal[0], 1)
    with open_backend(url) as backend:
        key = backend.get("robot")
        assert key is not None
        assert backend.hasher.match_fast(secret.decode(), key.secrets)


@pytest.mark.parametrize("second", [b"other\n", b"\n"])
def test_two_prompts_must_agree(url: str, database: Path, terminal: tuple[int, int], second: bytes) -> None:
    done = answered(
        terminal,
        *("keys", "create", "--secret-prompt", "--backend", url),
        answers={b"Secret: ": b"one\n", b"again: ": second},
    )

    assert done.status == 1
    assert not database.exists()


@pytest.mark.parametrize("options", [(), ("--secret-stdin",)], ids=str)
def test_token_encode_asks_on_a_terminal(terminal: tuple[int, int], options: tuple[str, ...]) -> None:
    done = answered(terminal, "token", "encode", "robot", *options, answers={b"Secret: ": b"s3cret\n"})

    assert done.out == f"{encode_basic('robot', 's3cret')}\n"


def test_a_prompt_needs_a_terminal(cli: Callable[..., Done]) -> None:
    cli("keys", "create", "--secret-prompt").failed_with("--secret-stdin", status=2)


def test_an_interrupted_prompt_ends_quietly(url: str, terminal: tuple[int, int]) -> None:
    with process(
        "keys", "create", "--secret-prompt", "--backend", url, stdin=terminal[1], start_new_session=True
    ) as child:
        assert child.stderr is not None
        assert child.stderr.read(8) == b"Secret: "
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=LIMIT_S)

    assert (child.returncode, out, err.strip()) == (130, b"", b"")


# --- looking at keys, and ending them


def test_list_shows_states_by_word(cli: Callable[..., Done], url: str) -> None:
    past, later = utcnow() - timedelta(days=1), utcnow() + timedelta(days=1)
    put(
        url,
        Key("a", name="one", scopes=frozenset({"x", "b"}), expires_at=later),
        Key("b", expires_at=past),
        Key("c", disabled=True),
        Key("d", revoked_at=past, disabled=True, expires_at=past),
        Key("e", secrets=(Secret("$bamw1$", expires_at=past),)),
    )

    lines = cli("keys", "list").out.splitlines()

    assert lines[0].split() == ["ID", "STATE", "EXPIRES", "SCOPES", "NAME"]
    states = [
        next(word for word in line.split() if word in {"active", "expired", "disabled", "revoked"})
        for line in lines[1:]
    ]
    assert states == ["active", "expired", "disabled", "revoked", "expired"]
    assert lines[1].split()[:2] == ["a", "active"]
    assert lines[1].split()[-3:] == ["b", "x", "one"]


def test_a_listed_id_is_never_cut(cli: Callable[..., Done], url: str) -> None:
    put(url, Key("i" * 255, name="n" * 200, scopes=frozenset({"s" * 255})))

    line = cli("keys", "list").out.splitlines()[1]

    assert line.split() == ["i" * 255, "active", "never", "s" * 255, "n" * 200]


def test_list_pages(cli: Callable[..., Done], url: str) -> None:
    put(url, *(Key(name) for name in ("a1", "a2", "a3", "b1")))

    def ids(*options: str) -> list[str]:
        return [
            json.loads(line)["client_id"] for line in cli("keys", "list", "--json", *options).out.splitlines()
        ]

    assert ids() == ["a1", "a2", "a3", "b1"]
    assert ids("--prefix", "a") == ["a1", "a2", "a3"]
    assert ids("--prefix", "a", "--after", "a1", "--limit", "1") == ["a2"]
    assert "no keys" in cli("keys", "list", "--prefix", "z").out


def test_show_revoke_and_delete(cli: Callable[..., Done], url: str) -> None:
    put(url, Key("robot", name="ci", metadata={"n": 1}))

    shown = cli("keys", "show", "robot", "--json").json
    revoked = cli("keys", "revoke", "robot", "--json").json
    again = cli("keys", "revoke", "robot", "--json").json
    words = cli("keys", "show", "robot").out
    deleted = cli("keys", "delete", "robot", "--json").json

    assert list(shown) == KEY_FIELDS
    assert revoked == shown | {"revoked_at": revoked["revoked_at"]} == again == deleted
    assert revoked["revoked_at"].endswith("Z")
    assert re.search(r"^state +revoked$", words, re.MULTILINE)
    assert '{"n": 1}' in words
    for verb in ("show", "revoke", "delete"):
        cli("keys", verb, "robot").failed_with("'robot'")


def test_revoke_and_delete_say_what_they_did(cli: Callable[..., Done], url: str) -> None:
    put(url, Key("robot"))

    assert cli("keys", "revoke", "robot").out == "revoked robot\n"
    assert cli("keys", "delete", "robot").out == "deleted robot\n"


HOSTILE = "\x1b[31m\x9b2J\r\n\u202e[red]x[/red]\u2028:smile:\ud800\x07"


def test_hostile_text_is_shown_and_not_obeyed(cli: Callable[..., Done], url: str) -> None:
    visible = HOSTILE.replace("\ud800", "")
    put(url, Key("id\u202e", name=visible, scopes=frozenset({"\x1b[1m"}), metadata={"\x1b": "\u202e"}))

    outputs = [
        cli("keys", "list").out,
        cli("keys", "list", "--json").out,
        cli("keys", "show", "id\u202e").out,
        cli("keys", "show", "no\x1b[2Jbody").err,
        cli("keys", "revoke", "id\u202e").out,
    ]

    for output in outputs:
        assert not [character for character in output if not character.isprintable() and character != "\n"]
    for output in (outputs[0], outputs[2]):
        assert "[red]x[/red]" in output
        assert ":smile:" in output
        assert r"\x1b[31m\x9b2J\r\n\u202e" in output


def test_read_only_metadata_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    view = MappingProxyType({"team": MappingProxyType({"id": 7})})

    print_json(key_fields(Key("robot", metadata=view)))

    assert json.loads(capsys.readouterr().out)["metadata"] == {"team": {"id": 7}}


def test_an_unspellable_name_is_no_error(url: str) -> None:
    put(url, Key("robot", name="\u540d\u524d"))

    done = ended("keys", "list", "--backend", url, env={"PYTHONIOENCODING": "ascii"})

    assert done.status == 0
    assert r"\u540d\u524d" in done.out


# --- failing


def test_failures_are_one_line(cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    cli("keys", "list", "--backend", "nonsense:").failed_with("sqlite:")
    cli("keys", "list", "--backend", "env:").failed_with("BASICAUTH_KEYS")
    monkeypatch.setenv("BASICAUTH_KEYS", "robot:hunter2")
    for verb in ("create", "revoke robot", "delete robot"):
        cli("keys", *verb.split(), "--backend", "env:").failed_with("")


def test_a_backend_that_is_down_is_one_line(free_port: int) -> None:
    ended("keys", "list", "--backend", f"redis://127.0.0.1:{free_port}").failed_with("")


def test_a_bug_is_one_line_without_its_text(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever somebody else's store raises, its text may hold the URL, and that a password."""
    stranger(
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


def test_a_file_that_is_no_database_is_one_line(cli: Callable[..., Done], database: Path) -> None:
    database.write_bytes(b"hello" * 1000)

    cli("keys", "list").failed_with("")


def test_a_reader_that_has_seen_enough_is_no_error(url: str) -> None:
    put(url, *(Key(f"robot{number:04}", name="n" * 200) for number in range(500)))

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


def test_a_secret_that_could_not_be_shown_is_told(url: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = ended("keys", "create", "--client-id", "robot", "--backend", url, stdout=full)

    done.failed_with("robot was made but could not be shown")


def test_nothing_is_made_that_cannot_be_shown(url: str, database: Path) -> None:
    words = [*COMMAND, "keys", "create", "--backend", url]

    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *words],
        cwd=ROOT,
        timeout=LIMIT_S,
        check=False,
        capture_output=True,
    )

    assert done.returncode == 1
    assert not database.exists()


# --- check


def test_check_is_content(cli: Callable[..., Done], url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("keys", "create")
    monkeypatch.setenv("BASICAUTH_PEPPER", "hunter2")

    done = cli("check", "--json")

    assert done.status == 0
    assert list(done.json) == ["ok", "problems", "warnings"]
    assert done.json["ok"] is True
    assert done.json["problems"] == []
    said = cli("check").out
    assert said.splitlines()[-1] == "ok"
    assert url in said
    assert "hunter2" not in said


@pytest.mark.parametrize("as_json", [True, False])
def test_check_tells_a_missing_file(cli: Callable[..., Done], as_json: bool) -> None:
    done = cli("check", "--json") if as_json else cli("check")

    assert done.status == 1
    if as_json:
        assert done.json["ok"] is False
        (problem,) = done.json["problems"]
        assert list(problem) == ["code", "message", "remedy"]
        assert all(problem.values())
    else:
        assert "problem: " in done.out


@pytest.mark.parametrize(
    ("keys", "word"), [([], "no key"), ([Key("a", disabled=True), Key("b", revoked_at=utcnow())], "only")]
)
def test_check_wants_a_key_that_works(cli: Callable[..., Done], url: str, keys: list[Key], word: str) -> None:
    put(url, Key("x"), *keys)
    cli("keys", "delete", "x")

    done = cli("check", "--json")

    assert done.status == 1
    (problem,) = done.json["problems"]
    assert problem["code"] == "no_active_key"
    assert word in problem["message"]
    assert "keys create" in problem["remedy"]


def test_check_tells_every_bad_setting(cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_CACHE_SIZE", "hunter2")
    monkeypatch.setenv("BASICAUTH_TIMEOUT_S", "hunter2")

    done = cli("check", "--json")

    assert done.status == 1
    assert [problem["code"] for problem in done.json["problems"]] == ["configuration_error"] * 2
    assert "hunter2" not in done.out


def test_check_tells_a_backend_that_is_down(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("BASICAUTH_BACKEND", f"redis://user:hunter2@127.0.0.1:{free_port}/0")

    for options in (("--json",), ()):
        done = cli("check", *options)
        assert done.status == 1
        assert "hunter2" not in done.out + done.err
        assert "backend_unavailable" in done.out or not options


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_check_reads_an_environment_of_keys(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASICAUTH_KEYS", "robot:hunter2")

    assert cli("check", "--json", "--backend", "env:").json == {"ok": True, "problems": [], "warnings": []}


def test_check_shows_what_is_set_and_warns(
    cli: Callable[..., Done], database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("keys", "create")
    database.chmod(0o644)
    monkeypatch.setenv("BASICAUTH_EXCLUDE", "/health,/docs/*")

    done = cli("check", "--json")
    said = cli("check")

    assert done.status == said.status == 0
    assert done.json["ok"] is True
    (warning,) = done.json["warnings"]
    assert list(warning) == ["code", "message", "remedy"]
    assert f"warning: {warning['message']}" in said.out
    assert re.search(r"^exclude +/health, /docs/\*$", said.out, re.MULTILINE)


def test_check_tells_bad_settings_to_people(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASICAUTH_CACHE_SIZE", "hunter2")

    done = cli("check")

    assert done.status == 1
    assert done.out.startswith("problem: cache_size")
    assert done.err.startswith("error: ")


def test_check_works_on_a_store_that_cannot_list_its_keys(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stranger(tmp_path, monkeypatch, "def get(self, client_id): return None")

    assert cli("check", "--json", "--backend", "strange:").json["ok"] is True
    cli("keys", "list", "--backend", "strange:").failed_with("list")


@pytest.fixture
def without(tmp_path: Path) -> Callable[..., Callable[..., Done]]:
    """Gives the program in an environment where some packages are not installed."""

    def program(*packages: str) -> Callable[..., Done]:
        site = tmp_path / "site"
        site.mkdir()
        for entry in Path(pytest.__file__).parents[1].iterdir():
            if not entry.name.startswith(packages):
                (site / entry.name).symlink_to(entry)

        def call(*arguments: str) -> Done:
            done = subprocess.run(
                [sys.executable, "-S", "-m", "basicauth_mw", *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(site)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            return Done(done.returncode, done.stdout, done.stderr)

        return call

    return program


def test_check_tells_that_slow_hashes_cannot_be_checked(
    cli: Callable[..., Done], url: str, without: Callable[..., Callable[..., Done]]
) -> None:
    cli("keys", "create", "--secret-stdin", stdin=b"chosen by a person")

    done = without("argon2")("check", "--json", "--backend", url)

    (problem,) = done.json["problems"]
    assert problem["code"] == "missing_extra"
    assert "basicauth_mw[passwords]" in problem["remedy"]


def test_check_tells_a_missing_driver(without: Callable[..., Callable[..., Done]]) -> None:
    done = without("redis")("check", "--json", "--backend", "redis://127.0.0.1")

    (problem,) = done.json["problems"]
    assert problem["code"] == "missing_extra"
    assert "basicauth_mw[redis]" in problem["remedy"]


def test_demo_tells_what_to_install(without: Callable[..., Callable[..., Done]]) -> None:
    without("fastapi", "uvicorn")("demo").failed_with("pip install fastapi uvicorn")


# --- the demo, as far as it needs no server


def test_demo_says_when_its_port_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        done = ended("demo", "--port", str(port), env={"TMPDIR": str(tmp_path)})

    done.failed_with(f"port {port}")
    assert not list(tmp_path.iterdir())


def test_demo_has_a_store_of_its_own(tmp_path: Path) -> None:
    done = ended("--backend", f"sqlite:///{tmp_path}/other.db", "demo", "--port", "0")

    done.failed_with("--database", status=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url",
    [
        "redis://:canary@h/0",
        "redis://:can/ary@h/0",
        "rediss:/:canary@h/0",
        "redis://h/0?password=canary",
        "env:demo:canary",
        "canary",
    ],
)
def test_check_never_shows_a_password_however_the_url_is_written(url: str) -> None:
    done = ended("check", env={"BASICAUTH_BACKEND": url})

    assert done.status == 1
    assert "canary" not in done.out + done.err
    assert "ary@" not in done.out + done.err
