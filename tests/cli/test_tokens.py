"""``token encode`` and ``curl``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.keys.authorization_header import encode_basic
from tests.cli.helpers import (
    Done,
    run_with_prompts,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("data", "secret"),
    [
        (b"s3cret", "s3cret"),
        (b"s3cret\n", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        (b" s3cret \n", " s3cret "),
        ("gehe\u0301im:\n".encode(), "gehe\u0301im:"),
    ],
)
def test_one_final_newline_of_stdin_is_dropped(cli: Callable[..., Done], data: bytes, secret: str) -> None:
    done = cli("token", "encode", "robot", "--secret-stdin", stdin=data)

    assert done.out == f"{encode_basic('robot', secret)}\n"


def test_token_encode_and_curl_json(cli: Callable[..., Done]) -> None:
    authorization = encode_basic("a b", "s'3")

    token = cli("token", "encode", "a b", "--secret-stdin", "--json", stdin=b"s'3")
    curl = cli("curl", "https://h/x?y=1&z", "a b", "--secret-stdin", "--json", stdin=b"s'3")

    assert token.json == {
        "client_id": "a b",
        "authorization": authorization,
        "token": authorization.removeprefix("Basic "),
    }
    command = curl.json.pop("command")
    assert shlex.split(command) == ["curl", "-u", "a b:s'3", "https://h/x?y=1&z"]
    assert curl.json == {
        "url": "https://h/x?y=1&z",
        "client_id": "a b",
        "authorization": authorization,
        "command": command,
    }


@pytest.mark.parametrize(
    ("schemes", "header"),
    [("bearer,basic", "Authorization: Bearer {}"), ("header:X-API-Key", "x-api-key: {}")],
)
def test_commands_use_the_first_scheme(
    cli: Callable[..., Done], url: str, monkeypatch: pytest.MonkeyPatch, schemes: str, header: str
) -> None:
    monkeypatch.setenv("BASICAUTH_SCHEMES", schemes)
    token = encode_basic("ci", "secret").removeprefix("Basic ")

    curl = cli("curl", "http://h/", "ci", "--secret-stdin", stdin=b"secret")
    created = cli("keys", "create", "--client-id", "ci", "--secret-stdin", stdin=b"secret").out.splitlines()

    assert shlex.split(curl.out) == ["curl", "-H", header.format(token), "http://h/"]
    assert header.format(token) in created[-1]
    name, _, value = header.format(token).partition(": ")
    assert created[-2] == f'httpx.get("http://127.0.0.1:8000/", headers={{{name!r}: {value!r}}})'


def test_curl_does_not_depend_on_the_locale(cli: Callable[..., Done]) -> None:
    done = cli("curl", "http://h/", "jos\u00e9", "--secret-stdin", stdin=b"x")

    authorization = encode_basic("jos\u00e9", "x")
    assert shlex.split(done.out) == ["curl", "-H", f"Authorization: {authorization}", "http://h/"]


@pytest.mark.parametrize(
    "target",
    ["", "h", "-o", "ftp://h/", "http://", "http://[", "http://h/\x1b[2J", "http://h/ x", "http://u:p@h/"],
)
def test_curl_requires_a_plain_url(cli: Callable[..., Done], target: str) -> None:
    done = cli("curl", "--secret-stdin", "--", target, "robot", stdin=b"x")

    done.failed_with("URL", status=2)
    assert "\x1b" not in done.err


@pytest.mark.parametrize("options", [(), ("--secret-stdin",)], ids=str)
def test_token_encode_prompts_on_a_terminal(terminal: tuple[int, int], options: tuple[str, ...]) -> None:
    done = run_with_prompts(
        terminal, "token", "encode", "robot", *options, responses={b"Secret: ": b"s3cret\n"}
    )

    assert done.out == f"{encode_basic('robot', 's3cret')}\n"
