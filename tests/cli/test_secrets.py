"""``keys create`` and ``rotate``: which part of a new secret is shown, and which never is."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.backends.backend import open_backend
from basicauth_mw.keys.authorization_header import Credentials, parse_basic
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.lifecycle import is_active
from basicauth_mw.keys.model import utcnow
from tests.cli.helpers import (
    COMMAND,
    KEY_FIELDS,
    LIMIT_S,
    ROOT,
    Done,
    ended,
    process,
    run_with_prompts,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from basicauth_mw.keys.model import Secret


def test_create_json_has_exactly_the_promised_fields(cli: Callable[..., Done], url: str) -> None:
    before = utcnow()

    made = cli(
        *("keys", "create", "--json", "--name", "ci", "--scope", "write", "--scope", "read"),
        *("--expires", "90d", "--client-id", "robot", "--metadata", '{"team": {"id": 7}}'),
    ).json

    assert list(made) == [*KEY_FIELDS, "secret", "authorization", "token"]
    created, expires = (datetime.fromisoformat(made[name]) for name in ("created_at", "expires_at"))
    assert made["created_at"].endswith("Z")
    assert before <= created <= utcnow()
    assert timedelta(seconds=-LIMIT_S) < expires - created - timedelta(days=90) < timedelta(seconds=LIMIT_S)
    assert made["authorization"] == f"Basic {made['token']}"
    hidden = dict.fromkeys(("created_at", "expires_at", "secret", "authorization", "token"), 0)
    assert made | hidden == {
        "client_id": "robot",
        "name": "ci",
        "scopes": ["read", "write"],
        "created_at": 0,
        "expires_at": 0,
        "revoked_at": None,
        "disabled": False,
        "last_used_at": None,
        "metadata": {"team": {"id": 7}},
        "secrets": [{"created_at": made["created_at"], "expires_at": None, "last_used_at": None}],
        "secret": 0,
        "authorization": 0,
        "token": 0,
    }
    assert parse_basic(made["authorization"]) == Credentials("robot", made["secret"])
    with open_backend(url) as backend:
        stored = backend.get("robot")
        assert stored is not None
        assert backend.hasher.verify_digest(made["secret"], stored.secrets)


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
def test_expires_is_a_duration_or_a_time(
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


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("99999999d", "too far away"),
        ("2199-01-31", "add a time and a zone: 2199-01-31T12:00:00Z"),
        ("2199-02-30T12:00:00Z", "does not exist"),
        ("tomorrow", "90d"),
    ],
)
def test_the_error_names_the_problem_of_an_expiry(cli: Callable[..., Done], text: str, hint: str) -> None:
    cli("keys", "create", "--expires", text).failed_with(hint, status=2)


def test_a_key_may_never_expire(cli: Callable[..., Done]) -> None:
    assert cli("keys", "create", "--expires", "never", "--json").json["expires_at"] is None


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
def test_invalid_fields_of_a_key_are_refused(cli: Callable[..., Done], options: tuple[str, ...]) -> None:
    done = cli("keys", "create", *options)

    assert done.status == 1
    assert done.err.startswith("error: ")
    assert cli("keys", "list", "--json").out == ""


def test_an_existing_id_is_refused(cli: Callable[..., Done]) -> None:
    assert cli("keys", "create", "--client-id", "robot").status == 0
    cli("keys", "create", "--client-id", "robot").failed_with("robot")


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"\r\n", b"s3cret\n\n", b"s3\ncret", b"s3cret\r", b"\xff", b"x" * 70_000]
)
@pytest.mark.parametrize("command", [("token", "encode", "robot"), ("keys", "create")], ids=" ".join)
def test_other_secrets_are_refused(cli: Callable[..., Done], command: tuple[str, ...], data: bytes) -> None:
    done = cli(*command, "--secret-stdin", stdin=data)

    done.failed_with("")
    assert "cret" not in done.err.replace("secret", "")


@pytest.mark.parametrize("command", [("create", "--client-id", "robot"), ("rotate", "robot")], ids=" ".join)
def test_a_short_password_is_a_warning(cli: Callable[..., Done], command: tuple[str, ...]) -> None:
    if command[0] == "rotate":
        assert cli("keys", "create", "--client-id", "robot").err == ""

    done = cli("keys", *command, "--secret-stdin", stdin=b"s3cret\n")

    assert done.status == 0
    assert done.err.startswith("warning: a password of fewer than 12 characters")
    assert "s3cret" not in done.err


def test_a_byte_order_mark_is_not_part_of_a_secret(cli: Callable[..., Done]) -> None:
    made = cli("keys", "create", "--json", "--secret-stdin", stdin=b"\xef\xbb\xbfcorrect horse battery\r\n")

    assert made.json["secret"] == "correct horse battery"
    assert made.err == ""


def test_a_secret_from_stdin_is_used(cli: Callable[..., Done]) -> None:
    secret = generate("sk")

    made = cli("keys", "create", "--json", "--secret-stdin", stdin=f"{secret}\n".encode()).json

    assert made["secret"] == secret


@pytest.mark.proves("X44")
def test_a_waiting_secret_is_in_no_process_list(url: str) -> None:
    with process("keys", "create", "--secret-stdin", "--backend", url, stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        secret = generate("sk").encode()
        child.stdin.write(secret)
        child.stdin.flush()
        ends = time.monotonic() + LIMIT_S
        while not (
            command_line := Path(f"/proc/{child.pid}/cmdline").read_bytes()
        ):  # the kernel has not finished exec yet
            assert time.monotonic() < ends
        out, _ = child.communicate(timeout=LIMIT_S)

    assert child.returncode == 0
    assert b"--secret-stdin" in command_line
    assert secret not in command_line
    assert secret in out


def test_a_prompted_secret_is_hidden_and_entered_twice(url: str, terminal: tuple[int, int]) -> None:
    secret = generate("sk").encode()

    done = run_with_prompts(
        terminal,
        *("keys", "create", "--secret-prompt", "--client-id", "robot", "--backend", url),
        responses={b"Secret: ": secret + b"\n", b"Repeat the secret: ": secret + b"\n"},
    )

    assert done.status == 0
    assert secret.decode() not in done.out + done.err
    os.set_blocking(terminal[0], False)
    with pytest.raises(BlockingIOError):  # the terminal echoed nothing either
        os.read(terminal[0], 1)
    with open_backend(url) as backend:
        key = backend.get("robot")
        assert key is not None
        assert backend.hasher.verify_digest(secret.decode(), key.secrets)


@pytest.mark.parametrize("second", [b"other\n", b"\n"])
def test_two_prompts_must_agree(url: str, database: Path, terminal: tuple[int, int], second: bytes) -> None:
    done = run_with_prompts(
        terminal,
        *("keys", "create", "--secret-prompt", "--backend", url),
        responses={b"Secret: ": b"one\n", b"Repeat the secret: ": second},
    )

    assert done.status == 1
    assert not database.exists()


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


def test_a_secret_that_could_not_be_shown_is_reported(url: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = ended("keys", "create", "--client-id", "robot", "--backend", url, stdout=full)

    done.failed_with("robot was created, but its secret could not be shown")


def test_no_key_is_created_if_its_secret_cannot_be_shown(url: str, database: Path) -> None:
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


# --- a new secret for the same key


def active_secrets(url: str, client_id: str) -> list[Secret]:
    """The active secrets of a key."""
    with open_backend(url) as backend:
        key = backend.get(client_id)
    assert key is not None
    return [secret for secret in key.secrets if is_active(secret, utcnow())]


def works(url: str, client_id: str, secret: str) -> bool:
    with open_backend(url) as backend:
        return backend.hasher.verify_digest(secret, active_secrets(url, client_id)) is not None


def test_rotate_json_has_exactly_the_promised_fields(cli: Callable[..., Done], url: str) -> None:
    old = cli("keys", "create", "--client-id", "robot", "--json").json

    new = cli("keys", "rotate", "robot", "--json").json

    assert list(new) == [*KEY_FIELDS, "secret", "authorization", "token"]
    changed = ("secret", "secrets", "authorization", "token")
    assert new == old | {name: new[name] for name in changed}
    # A script sees when the old secret expires.
    ends = [each["expires_at"] for each in new["secrets"]]
    assert ends[1] is None
    assert datetime.fromisoformat(ends[0]) > utcnow()
    shown = cli("keys", "show", "robot", "--json").json
    assert shown["secrets"] == new["secrets"]
    assert parse_basic(new["authorization"]) == Credentials("robot", new["secret"])
    assert new["secret"] != old["secret"]
    assert works(url, "robot", old["secret"])
    assert works(url, "robot", new["secret"])


@pytest.mark.parametrize(
    ("options", "overlap_s"),
    [
        ((), 86_400),
        (("--overlap", "24h"), 86_400),
        (("--overlap", "90s"), 90),
        (("--overlap", "2w"), 14 * 86_400),
        (("--overlap", "0"), 0),
        (("--overlap", "0s"), 0),
    ],
    ids=str,
)
def test_the_old_secret_works_for_the_overlap(
    cli: Callable[..., Done], url: str, options: tuple[str, ...], overlap_s: int
) -> None:
    old = cli("keys", "create", "--client-id", "robot", "--json").json["secret"]

    said = cli("keys", "rotate", "robot", *options).out

    assert works(url, "robot", old) == (overlap_s > 0)
    if overlap_s:
        (until,) = re.findall(r"^The old secret works until (\S+)\.$", said, re.MULTILINE)
        left = datetime.fromisoformat(until) - utcnow()
        assert abs(left - timedelta(seconds=overlap_s)) < timedelta(seconds=LIMIT_S)
        assert active_secrets(url, "robot")[0].expires_at == datetime.fromisoformat(until)
    else:
        assert "The old secret no longer works." in said


def test_an_old_secret_never_outlives_its_key(cli: Callable[..., Done]) -> None:
    ends = "2199-01-31T12:00:00Z"
    cli("keys", "create", "--client-id", "robot", "--expires", ends)

    assert f"works until {ends}." in cli("keys", "rotate", "robot", "--overlap", "99999w").out


def test_rotate_prints_code_samples(cli: Callable[..., Done], url: str) -> None:
    cli("keys", "create", "--client-id", "robot")

    curl, python, header = cli("keys", "rotate", "robot").out.splitlines()[-3:]

    sent = parse_basic(header.removeprefix("Authorization: "))
    assert shlex.split(curl)[:3] == ["curl", "-u", f"robot:{sent.secret}"]
    assert python.endswith(f"auth=('robot', '{sent.secret}'))")
    assert works(url, "robot", sent.secret)


@pytest.mark.parametrize("text", ["", "24", "-1h", "1.5h", "1d12h", "forever", "2199-01-31T12:00:00Z"])
def test_other_overlaps_are_usage_errors(cli: Callable[..., Done], text: str) -> None:
    cli("keys", "rotate", "robot", f"--overlap={text}").failed_with("--overlap", status=2)


def test_an_overlap_beyond_the_year_9999_is_refused(cli: Callable[..., Done]) -> None:
    cli("keys", "create", "--client-id", "robot")

    cli("keys", "rotate", "robot", "--overlap", "999999999w").failed_with("range")


def test_a_password_replaces_another_without_overlap(cli: Callable[..., Done]) -> None:
    """A key has one password at a time, so two passwords cannot overlap."""
    cli("keys", "create", "--client-id", "robot", "--secret-stdin", stdin=b"one by a person")

    rotate = ("keys", "rotate", "robot", "--secret-stdin")
    cli(*rotate, stdin=b"two by a person").failed_with("overlap")
    done = cli(*rotate, "--overlap", "0", "--json", stdin=b"two by a person\n")

    assert done.json["secret"] == "two by a person"


def test_rotating_an_unknown_key_is_refused(cli: Callable[..., Done]) -> None:
    cli("keys", "create")

    cli("keys", "rotate", "unknown").failed_with("'unknown'")


def test_a_prompted_secret_is_not_shown_by_rotate(
    url: str, cli: Callable[..., Done], terminal: tuple[int, int]
) -> None:
    cli("keys", "create", "--client-id", "robot")
    secret = generate("sk")
    typed = f"{secret}\n".encode()

    done = run_with_prompts(
        terminal,
        *("keys", "rotate", "robot", "--secret-prompt", "--backend", url),
        responses={b"Secret: ": typed, b"Repeat the secret: ": typed},
    )

    assert done.status == 0
    assert secret not in done.out + done.err
    assert "Authorization" not in done.out
    assert "The old secret works until" in done.out
    assert works(url, "robot", secret)


def test_a_prompted_secret_is_not_in_the_json(url: str, terminal: tuple[int, int]) -> None:
    secret = generate("sk")
    typed = f"{secret}\n".encode()

    done = run_with_prompts(
        terminal,
        *("keys", "create", "--secret-prompt", "--json", "--backend", url),
        responses={b"Secret: ": typed, b"Repeat the secret: ": typed},
    )

    assert done.json["secret"] is None
    assert done.json["authorization"] is None
    assert secret not in done.out + done.err


def test_a_rotated_secret_that_could_not_be_shown_is_reported(url: str, cli: Callable[..., Done]) -> None:
    cli("keys", "create", "--client-id", "robot")

    with Path("/dev/full").open("wb") as full:
        done = ended("keys", "rotate", "robot", "--backend", url, stdout=full)

    done.failed_with("rotate the key again")


def test_rotation_replaces_a_secret_with_a_lost_pepper(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASICAUTH_PEPPER", "hunter2")
    cli("keys", "create", "--client-id", "ci")
    monkeypatch.setenv("BASICAUTH_PEPPER", "another")

    cli("keys", "rotate", "ci").failed_with("rotate without an overlap")
    assert cli("check").status == 1

    assert cli("keys", "rotate", "ci", "--overlap", "0").status == 0
    assert cli("check").status == 0


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        ("--client-id a:b", b""),
        ("--expires 0", b""),
        ("--expires 2001-01-31T12:00:00Z", b""),
        (f"--name {'n' * 201}", b""),
        ('--scope "', b""),
        (f'--metadata {{"a":"{"x" * 4096}"}}', b""),
        ("--secret-stdin", b"x" * 1025),
        ("--secret-stdin", b"\x07"),
    ],
)
def test_a_refused_command_creates_no_file(
    cli: Callable[..., Done], database: Path, words: str, stdin: bytes
) -> None:
    cli("keys", "create", *words.split(), stdin=stdin).failed_with("")

    assert not database.exists()


def test_a_password_that_cannot_be_hashed_creates_no_file(
    database: Path, url: str, without: Callable[..., Callable[..., Done]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASICAUTH_BACKEND", url)
    program = without("argon2")

    program("keys", "create", "--secret-stdin", stdin="password").failed_with("basicauth_mw[passwords]")

    assert not database.exists()
    assert program("keys", "create", "--secret-stdin", stdin=generate("sk")).status == 0


@pytest.mark.parametrize("words", [("create",), ("import", "-")])
def test_no_file_is_created_at_the_target_of_a_link(
    cli: Callable[..., Done], database: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    target = tmp_path / "elsewhere.db"
    database.symlink_to(target)

    done = cli("keys", *words, stdin=f"a,{generate('sk')}\n".encode())

    done.failed_with(f"{database} is a link to {target}, which does not exist: name that file")
    assert not target.exists()
    assert cli("keys", "create", "--backend", f"sqlite:///{target}").status == 0
    assert cli("keys", "create").status == 0


@pytest.mark.parametrize("depth", [33, 975, 10_000])
def test_the_error_says_that_metadata_is_nested_too_deep(cli: Callable[..., Done], depth: int) -> None:
    """Whether the rule finds it, or the JSON parser."""
    text = '{"a":' * depth + "{}" + "}" * depth

    done = cli("keys", "create", "--metadata", text)

    assert done.status in (1, 2)
    assert "nested too deep" in done.err
