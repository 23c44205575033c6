"""A short run of the fuzz test, and faults that it must detect."""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.auth import verifier
from basicauth_mw.auth.path_rules import PathRules
from basicauth_mw.errors import MalformedCredentials
from basicauth_mw.keys import authorization_header
from basicauth_mw.keys.authorization_header import Credentials, parse_basic
from tests.fuzz import fuzz

if TYPE_CHECKING:
    from collections.abc import Callable

BATCHES = 20


@pytest.fixture
def target() -> fuzz.Target:
    return fuzz.Target()


def found(target: fuzz.Target, seed: str) -> fuzz.Failure | fuzz.Tally:
    """The first failure of some batches, or the number of inputs."""
    counts = fuzz.Tally()
    with asyncio.Runner() as runner:
        for number in range(BATCHES):
            outcome = fuzz.batch(target, runner, f"{seed}/0/{number}")
            if isinstance(outcome, fuzz.Failure):
                return outcome
            counts += outcome
    return counts


@pytest.mark.proves("X19", "X21", "X29", "X42")
def test_a_short_run_finds_nothing(target: fuzz.Target) -> None:
    share = BATCHES * fuzz.BATCH // fuzz.MIDDLEWARE_SHARE
    assert found(target, "1") == fuzz.Tally(BATCHES * fuzz.BATCH, share, share)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent / "corpus").iterdir()), ids=lambda path: path.name
)
def test_the_corpus_is_parsed_right(target: fuzz.Target, path: Path) -> None:
    """The guided fuzz test starts from the corpus, and adds its findings to it."""
    assert target.parse(path.read_bytes()) == ""


def test_a_batch_is_determined_by_its_seed() -> None:
    rngs = [fuzz.Mutator(fuzz.random.Random(seed), fuzz.Target().good) for seed in ("a", "a", "b")]
    one, same, other = ([rng.field() for _ in range(50)] for rng in rngs)

    assert one == same != other


def lenient(field: bytes | str) -> Credentials:
    """Ignores characters that are not base64, as the standard library does by default."""
    data = field.encode("latin-1") if isinstance(field, str) else field
    try:
        return parse_basic(data)
    except MalformedCredentials:
        scheme, _, token = data.strip().partition(b" ")
        try:
            client_id, colon, secret = b64decode(token).decode().partition(":")
        except ValueError:
            raise MalformedCredentials from None
        if scheme.lower() != b"basic" or not (client_id and colon and secret):
            raise
        return Credentials(client_id, secret)


def crashing(field: bytes | str) -> Credentials:
    """Fails for characters outside ASCII."""
    parsed = parse_basic(field)
    (parsed.client_id + parsed.secret).encode("ascii")
    return parsed


def trimming(field: bytes | str) -> Credentials:
    """Strips whitespace from the secret."""
    parsed = parse_basic(field)
    return Credentials(parsed.client_id, parsed.secret.strip() or "x")


def folding(field: bytes | str) -> Credentials:
    """Ignores the case of the client ID."""
    parsed = parse_basic(field)
    return Credentials(parsed.client_id.lower(), parsed.secret)


@pytest.mark.proves("X21")
@pytest.mark.parametrize("parser", [lenient, crashing, trimming, folding])
@pytest.mark.parametrize("where", ["parser", "middlewares"])
def test_a_faulty_parser_is_found(
    monkeypatch: pytest.MonkeyPatch,
    target: fuzz.Target,
    where: str,
    parser: Callable[[bytes | str], Credentials],
) -> None:
    """In the parser, and in a middleware."""
    if where == "parser":
        monkeypatch.setattr(authorization_header, "parse_basic", parser)
    else:
        monkeypatch.setattr(verifier, "decode_basic", lambda field: astuple(parser(field)))
    failure = found(target, "1")

    assert isinstance(failure, fuzz.Failure)
    assert (failure.where == "parser") == (where == "parser")
    assert "repeat: python -m tests.fuzz.fuzz --seed 1 --batch 0/" in fuzz._failed(failure)


@pytest.mark.proves("X30")
@pytest.mark.parametrize("harmless", ["//", r"/\.\.", ";", "%", r"\\", "\x00"])
def test_an_open_path_is_found(monkeypatch: pytest.MonkeyPatch, target: fuzz.Target, harmless: str) -> None:
    """An unusual path that is excluded by mistake."""
    access = PathRules.access

    def careless(self: PathRules, path: str, *, root: str = "", raw: bytes = b"") -> str:
        return access(self, re.sub(harmless, "/x", path) if path.startswith("/docs/") else path, root=root)

    monkeypatch.setattr(PathRules, "access", careless)
    failure = found(target, "1")

    assert isinstance(failure, fuzz.Failure)
    assert "is open" in failure.said


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes, a printed seed, a single field, a single batch."""
    assert fuzz.main(["--inputs", "3000", "--seed", "7"]) == 0
    assert fuzz.main(["--field", b"Basic ZGVtbzpwQDU1dzByZA==".hex()]) == 0
    assert fuzz.main(["--seed", "7", "--batch", "0/1"]) == 0

    out = capsys.readouterr().out
    assert "seed 7" in out
    assert "parser 3,000  ASGI 300  WSGI 300" in out
    assert "('demo', 'p@55w0rd')" in out


def test_a_failure_has_a_status_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorization_header, "parse_basic", lenient)

    assert fuzz.main(["--field", b"Basic !ZGVtbzpwQDU1dzByZA==".hex()]) == 1
    assert fuzz.main(["--seed", "1", "--batch", "0/0"]) == 1
    assert "input: --field " in capsys.readouterr().out
