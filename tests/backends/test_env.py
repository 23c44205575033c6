"""Keys from the environment: three formats with the same rules; no error shows a value."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.backends.env import EnvStore
from basicauth_mw.errors import ConfigurationError
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher, hash_password

if TYPE_CHECKING:
    from pathlib import Path

HASHER = Hasher(volatile=True)
HASHED = hash_password("canary")
BCRYPT = "$2b$04$abcdefghijklmnopqrstuuRHJ9X5RHRIYwk8TfT/BWPZdMp4TWzX6"
BAD_CHECKSUM = "sk_" + "0" * 49


def opens(store: EnvStore, client_id: str, secret: str) -> bool:
    key = store.get(client_id)
    return key is not None and HASHER.verify_digest(secret, key.secrets) is not None


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        pytest.param("demo:p@55w0rd", {"demo": "p@55w0rd"}, id="one"),
        pytest.param("a:1,b:2", {"a": "1", "b": "2"}, id="commas"),
        pytest.param(" a:1 , b:2 ,", {"a": "1", "b": "2"}, id="spaces around commas"),
        pytest.param("a:1:2", {"a": "1:2"}, id="colons in the secret"),
        pytest.param("a:x,y\nb:2\n", {"a": "x,y", "b": "2"}, id="lines"),
        pytest.param("a:1\r\n\r\nb:2\r\n", {"a": "1", "b": "2"}, id="lines with CRLF"),
        pytest.param("größe:пароль", {"größe": "пароль"}, id="unicode"),
        pytest.param("a:1,b:2\n", {"a": "1", "b": "2"}, id="commas and a last newline"),
        pytest.param("a:1,b:2\r\n", {"a": "1", "b": "2"}, id="commas and a last CRLF"),
        pytest.param("\na:1,b:2", {"a": "1", "b": "2"}, id="a leading newline"),
        pytest.param("\ufeffa:1,b:2", {"a": "1", "b": "2"}, id="BOM and commas"),
        pytest.param("\ufeffa:1\r\nb:2\r\n\r\n", {"a": "1", "b": "2"}, id="BOM, CRLF and blank last lines"),
        pytest.param("a:1\n \nb:2\n\n", {"a": "1", "b": "2"}, id="blank lines"),
        pytest.param("a:x,y\nb:2", {"a": "x,y", "b": "2"}, id="a comma in a line"),
        pytest.param('\ufeff{"a": "1"}\r\n', {"a": "1"}, id="BOM and JSON"),
        pytest.param('{"a": "1", "b c": " 2 "}', {"a": "1", "b c": " 2 "}, id="json"),
        pytest.param('\n{"a": {"secret": "1"}}\n', {"a": "1"}, id="json object"),
    ],
)
def test_the_forms(monkeypatch: pytest.MonkeyPatch, text: str, pairs: dict[str, str]) -> None:
    """Each pair is one key, which accepts its own secret only."""
    monkeypatch.setenv("BASICAUTH_KEYS", text)
    store = EnvStore()

    assert [key.client_id for key in store.scan("", "", 10)] == sorted(pairs)
    for client_id in pairs:
        for other, secret in pairs.items():
            assert opens(store, client_id, secret) == (client_id == other)
    assert not store.has_password_hashes()
    assert store.get("unknown") is None


@pytest.mark.parametrize(
    ("value", "file"),
    [("a:1", ""), ("", "a:1\n"), (" \n", "\ufeffa:1\r\n"), (None, "a:1"), ("a:1", None)],
    ids=["empty file name", "empty value", "blank value", "only a file", "only a value"],
)
def test_an_empty_variable_is_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str | None, file: str | None
) -> None:
    """``${VAR:-}`` in a compose file sets it to the empty string."""
    if file:
        (tmp_path / "keys").write_text(file, encoding="utf-8")
        file = str(tmp_path / "keys")
    for name, text in (("BASICAUTH_KEYS", value), ("BASICAUTH_KEYS_FILE", file)):
        monkeypatch.delenv(name, raising=False)
        if text is not None:
            monkeypatch.setenv(name, text)
    assert opens(EnvStore(), "a", "1")


def test_fields_of_a_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"secret": "s", "name": "CI", "scopes": ["w", "r"], "expires_at": "2030-01-31T14:00:00+02:00"}
    monkeypatch.setenv("BASICAUTH_KEYS", json.dumps({"ci": fields}))
    key = EnvStore().get("ci")

    assert key is not None
    assert (key.name, key.scopes) == ("CI", {"r", "w"})
    assert key.expires_at == datetime(2030, 1, 31, 12, tzinfo=UTC)
    assert key.expires_at.tzinfo is UTC


@pytest.mark.parametrize(
    "stored", [HASHED, BCRYPT, Hasher().digest_secret(generate("sk"))], ids=["argon2", "bcrypt", "fast"]
)
@pytest.mark.parametrize("form", ['{{"a": {}}}', "a:{}\nb:2"], ids=["json", "lines"])
def test_a_secret_may_be_a_hash(monkeypatch: pytest.MonkeyPatch, stored: str, form: str) -> None:
    """It is stored unchanged, and is not a valid secret itself."""
    monkeypatch.setenv("BASICAUTH_KEYS", form.format(json.dumps(stored) if form.startswith("{") else stored))
    store = EnvStore()
    key = store.get("a")

    assert key is not None
    assert [secret.hash for secret in key.secrets] == [stored]
    assert store.has_password_hashes() == (not stored.startswith("$bamw1$"))


def test_another_variable_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("a:1\n")
    monkeypatch.setenv("TEAM_FILE", str(path))
    monkeypatch.delenv("BASICAUTH_KEYS", raising=False)

    assert opens(EnvStore("env:TEAM"), "a", "1")
    monkeypatch.setenv("TEAM", "b:2")
    with pytest.raises(ConfigurationError, match="both set"):
        EnvStore("env:TEAM")
    monkeypatch.delenv("TEAM")
    path.unlink()
    with pytest.raises(ConfigurationError, match=r"cannot be read.*TEAM_FILE is read once: file:/path"):
        EnvStore("env:TEAM")
    path.write_text("a\n")
    with pytest.raises(ConfigurationError, match=r"entry 1: .*TEAM_FILE is read once: file:/path"):
        EnvStore("env:TEAM")
    with pytest.raises(ConfigurationError, match="name of an environment variable"):
        EnvStore("env:a b")


def test_without_settings_the_error_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BASICAUTH_KEYS", raising=False)
    both = r"no keys are configured: set BASICAUTH_BACKEND .* sqlite:///keys\.db, or set BASICAUTH_KEYS to"
    with pytest.raises(ConfigurationError, match=both):
        EnvStore()
    with pytest.raises(ConfigurationError, match="TEAM contains no key: set it"):
        EnvStore("env:TEAM")


@pytest.mark.proves("X14", "X47", "F22")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            "",
            "BASICAUTH_KEYS contains no key: set it to id:secret, or use a backend that stores keys",
            id="empty",
        ),
        pytest.param(" \n ", "no key", id="blank"),
        pytest.param(",,", "no key", id="commas only"),
        pytest.param("{}", "no key", id="empty object"),
        pytest.param("canary", "entry 1: is not id:secret", id="no colon"),
        pytest.param("a:1,canary", "entry 2: is not id:secret", id="second without colon"),
        pytest.param("#canary:a long secret", "entry 1: starts with # or [", id="comment"),
        pytest.param('["a:canary"]', "entry 1: starts with # or [", id="JSON list"),
        pytest.param("canary:", "1 to 1024 bytes", id="empty secret"),
        pytest.param(":canary", "1 to 255 bytes", id="empty id"),
        pytest.param("canary:1,canary:2", "entry 2: the client ID occurs twice", id="twice"),
        pytest.param("a: canary", "space next to the colon", id="space after the colon"),
        pytest.param("a :canary", "space next to the colon", id="space before the colon"),
        pytest.param("a:canary,b:two\nc:three", "entry 1: mixes commas and lines", id="commas and lines"),
        pytest.param(
            "a:canary,\nb:two,", "entry 1: mixes commas and lines", id="commas at the ends of lines"
        ),
        pytest.param('"a:canary"', "quotes", id="quoted"),
        pytest.param("'a:canary'", "quotes", id="single quoted"),
        pytest.param(f"a:{HASHED}", "JSON", id="hash in the comma form"),
        pytest.param("a:{SHA}canary\nb:2", "SHA-1", id="weak hash"),
        pytest.param("a:$argon2id$canary\nb:2", "not a supported hash", id="damaged hash"),
        pytest.param(f"a:{BAD_CHECKSUM}", "mistyped", id="mistyped"),
        pytest.param("{canary", "syntax", id="no json"),
        pytest.param('{"a": "1", "a": "canary"}', "twice", id="twice in json"),
        pytest.param('{"a": 17}', "neither a secret nor an object", id="number"),
        pytest.param('{"a": ["canary"]}', "neither a secret nor an object", id="list"),
        pytest.param('{"a": {"name": "canary"}}', "must have secret", id="object without secret"),
        pytest.param('{"a": {"secret": "canary", "scope": "x"}}', "must have secret", id="unknown field"),
        pytest.param('{"a": {"secret": 5}}', "must be a string", id="secret is a number"),
        pytest.param('{"a": {"secret": "canary", "scopes": "read"}}', "list", id="scopes as text"),
        pytest.param('{"a": {"secret": "canary", "name": 5}}', "must be a string", id="name is a number"),
        pytest.param(
            '{"a": {"secret": "canary", "expires_at": 5}}', "must be a time", id="expiry is a number"
        ),
        pytest.param(
            '{"a": {"secret": "canary", "expires_at": "2030-01-01T00:00:00"}}', "timezone", id="naive"
        ),
        pytest.param('{"a": {"secret": "canary\\u0000"}}', "control", id="control character"),
        pytest.param('{"a": {"secret": "canary\\ud800"}}', "UTF-8", id="lone surrogate"),
    ],
)
def test_bad_values(monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    """The error gives the number of the entry and shows nothing of it."""
    monkeypatch.setenv("BASICAUTH_KEYS", text)
    with pytest.raises(ConfigurationError) as problem:
        EnvStore()

    assert said in str(problem.value)
    assert "canary" not in str(problem.value)


@pytest.mark.proves("F22")
def test_all_problems_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASICAUTH_KEYS", "a,b:2,c:")
    with pytest.raises(ConfigurationError) as problem:
        EnvStore()

    assert [said.split(":")[0] for said in problem.value.problems] == [
        "BASICAUTH_KEYS, entry 1",
        "BASICAUTH_KEYS, entry 3",
    ]
