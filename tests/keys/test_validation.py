"""The fields of a key, at every limit."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw.errors import InvalidKey
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.validation import (
    check_client_id,
    check_depth,
    check_expires_at,
    check_metadata,
    check_name,
    check_scopes,
    check_secret,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (check_client_id, "a"),
        (check_client_id, "a" * 255),
        (check_client_id, "ü" * 127),
        (check_client_id, "with space / and % {}"),
        (check_secret, "x"),
        (check_secret, "x" * 1024),
        (check_secret, "with:colon and ünicode"),
        pytest.param(check_secret, generate("sk"), id="generated"),
        pytest.param(check_secret, generate("acme_live"), id="generated with another prefix"),
        (check_name, ""),
        (check_name, "n" * 200),
        (check_name, "ü" * 200),
        (check_name, "<script>"),
    ],
)
def test_valid_strings(check: Callable[[str], str], value: str) -> None:
    """They are returned unchanged: not trimmed, not normalized."""
    assert check(value) == value


@pytest.mark.parametrize(
    ("check", "value", "said"),
    [
        (check_client_id, "", "1 to 255"),
        (check_client_id, "a" * 256, "256"),
        (check_client_id, "ü" * 128, "256"),
        (check_client_id, "a:b", "colon"),
        (check_client_id, "a\nb", "control"),
        (check_client_id, "a\x7f", "control"),
        (check_client_id, "\ud800", "UTF-8"),
        (check_client_id, b"a", "must be a string"),
        (check_secret, "", "1 to 1024"),
        (check_secret, "canary" * 171, "1026"),
        (check_secret, "canary\x00", "control"),
        (check_secret, "sk_" + "0" * 49, "mistyped"),
        (check_secret, None, "must be a string"),
        (check_name, "n" * 201, "201"),
        (check_name, "a\x1b[2J", "control"),
        (check_name, 5, "must be a string"),
    ],
)
def test_invalid_strings(check: Callable[[Any], str], value: Any, said: str) -> None:
    with pytest.raises(InvalidKey, match=said) as refusal:
        check(value)

    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize(
    "scopes", [(), ["read"], {"a", "b"}, ["!", "~", "a:b/c"], [f"s{n}" for n in range(100)]]
)
def test_valid_scopes(scopes: Any) -> None:
    """The tokens of RFC 6749 section 3.3."""
    assert check_scopes(scopes) == frozenset(scopes)


@pytest.mark.parametrize(
    "scopes",
    [
        "read",
        None,
        5,
        [""],
        ["a b"],
        ['a"'],
        ["a\\"],
        ["ü"],
        ["a\n"],
        [5],
        ["s" * 256],
        [f"s{n}" for n in range(101)],
    ],
    ids=lambda scopes: repr(scopes)[:20],
)
def test_invalid_scopes(scopes: Any) -> None:
    with pytest.raises(InvalidKey):
        check_scopes(scopes)


def test_valid_expiry() -> None:
    """A time in the future, converted to UTC."""
    later = NOW + timedelta(microseconds=1)
    assert check_expires_at(None, now=NOW) is None
    assert check_expires_at(later, now=NOW) == later
    moved = check_expires_at(later.astimezone(timezone(timedelta(hours=5))), now=NOW)
    assert moved == later
    assert moved is not None
    assert moved.tzinfo is UTC


@pytest.mark.parametrize(
    "expires_at",
    [
        NOW,
        NOW - timedelta(days=1),
        datetime(2031, 1, 1),  # noqa: DTZ001 - that is what is refused
        "2031-01-01T00:00:00Z",
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=23))),
    ],
    ids=["now", "past", "naive", "text", "out of range"],
)
def test_invalid_expiry(expires_at: Any) -> None:
    with pytest.raises(InvalidKey):
        check_expires_at(expires_at, now=NOW)


def test_metadata_is_copied() -> None:
    given = {"a": [1, {"b": None}], "ü": "x"}
    kept = check_metadata(given)

    assert kept == given
    given["a"].append(2)  # type: ignore[attr-defined]
    assert kept == {"a": [1, {"b": None}], "ü": "x"}
    assert check_metadata(None) == {}
    assert check_metadata({"a": "x" * 4086}) == {"a": "x" * 4086}


@pytest.mark.parametrize(
    "metadata",
    [
        ["a"],
        "a",
        {1: 2},
        {"a": b"x"},
        {"a": float("nan")},
        {"a": "\ud800"},
        {"a": "x" * 4096},
        {"a": {1, 2}},
    ],
    ids=lambda metadata: repr(metadata)[:20],
)
def test_invalid_metadata(metadata: Any) -> None:
    with pytest.raises(InvalidKey):
        check_metadata(metadata)


def nested(depth: int, kind: Any = list) -> dict[str, Any]:
    """Metadata nested to this depth."""
    inner: Any = kind([])
    for number in range(depth - 2):
        inner = {"a": inner} if number % 2 else kind([inner])
    return {"x": 1, "a": inner, "y": [2]}


@pytest.mark.parametrize("kind", [list, tuple])
def test_metadata_is_nested_at_most_32_deep(kind: Any) -> None:
    """Otherwise a record could be stored that cannot be read."""
    assert check_metadata(nested(32, kind)) == nested(32)
    for depth in (33, 975, 100_000):
        with pytest.raises(InvalidKey, match="at most 32 levels"):
            check_metadata(nested(depth, kind))


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("[" * 65, 65),
        ("[" * 64 + "]" * 64, 64),
        ('{"a":' * 65 + "1" + "}" * 65, 65),
        ("[" + "[]," * 1000 + "[]]", 2),
        ('["' + "[" * 1000 + '"]', 1),
        ('["\\"' + "[" * 1000 + '"]', 1),
        ('["\\\\",' + "[" * 1000, 1001),
        ('["' + "[" * 1000, 1),
        ('["\\', 1),
        ("]" * 100 + "[" * 100, 0),
    ],
)
def test_check_depth(text: str, depth: int) -> None:
    """The limit of the interpreter differs between versions of Python."""
    check_depth(text, max(depth, 1))
    for most in (64, depth - 1):
        if depth > most >= 1:
            with pytest.raises(RecursionError, match=f"more than {most} deep"):
                check_depth(text, most)


def test_check_depth_takes_linear_time() -> None:
    """Even for brackets in an unterminated string."""
    began = time.perf_counter()
    for text in ('"\\"' * 200_000, "[]" * 200_000):
        check_depth(text)
    assert time.perf_counter() - began < 2


def test_cyclic_metadata() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(InvalidKey):
        check_metadata(endless)
