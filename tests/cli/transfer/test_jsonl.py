"""A line of an export: what is written is read back unchanged, and all other lines are refused."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basicauth_mw.cli.transfer.jsonl import dump_line, load_line
from basicauth_mw.errors import InvalidKey
from basicauth_mw.keys.model import Change, Key, Secret

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY = Key(
    "démo",
    name="a\u2028b",
    scopes=frozenset({"write", "read"}),
    created_at=CREATED,
    expires_at=CREATED + timedelta(days=90),
    revoked_at=CREATED + timedelta(days=1),
    disabled=True,
    last_used_at=CREATED + timedelta(minutes=1),
    metadata={"team": "ключ", "n": [1, None, {"x": 0.5}]},
    secrets=(
        Secret("$canary1", CREATED, CREATED + timedelta(days=2), CREATED + timedelta(minutes=1)),
        Secret("$canary2", CREATED + timedelta(microseconds=1)),
    ),
)
HISTORY = [
    Change("key.rotated", "ключ", CREATED + timedelta(days=1)),
    Change("key.created", None, CREATED),
]
FIELDS: dict[str, Any] = json.loads(dump_line(KEY))

MOMENTS = st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=8,
)
SECRETS = st.builds(Secret, st.text(), MOMENTS, st.none() | MOMENTS, st.none() | MOMENTS)
CHANGES = st.builds(Change, st.text(), st.none() | st.text(), MOMENTS)
KEYS = st.builds(
    Key,
    client_id=st.text(),
    name=st.text(),
    scopes=st.frozensets(st.text(), max_size=3),
    created_at=MOMENTS,
    expires_at=st.none() | MOMENTS,
    revoked_at=st.none() | MOMENTS,
    disabled=st.booleans(),
    last_used_at=st.none() | MOMENTS,
    metadata=st.dictionaries(st.text(), JSON, max_size=3),
    secrets=st.lists(SECRETS, max_size=3),
)


def test_the_form_never_changes() -> None:
    """Every later release must read a file of this one."""
    assert dump_line(KEY, end=7) == (
        '{"v":1,"client_id":"d\\u00e9mo","name":"a\\u2028b","scopes":["read","write"],'
        '"created_at":"2026-01-02T03:04:05.000000Z","expires_at":"2026-04-02T03:04:05.000000Z",'
        '"revoked_at":"2026-01-03T03:04:05.000000Z","disabled":true,'
        '"last_used_at":"2026-01-02T03:05:05.000000Z",'
        '"metadata":{"team":"\\u043a\\u043b\\u044e\\u0447","n":[1,null,{"x":0.5}]},"secrets":['
        '{"hash":"$canary1","created_at":"2026-01-02T03:04:05.000000Z",'
        '"expires_at":"2026-01-04T03:04:05.000000Z","last_used_at":"2026-01-02T03:05:05.000000Z"},'
        '{"hash":"$canary2","created_at":"2026-01-02T03:04:05.000001Z","expires_at":null,"last_used_at":null}'
        '],"end":7}'
    )
    assert dump_line(Key("a", created_at=CREATED), HISTORY) == (
        '{"v":1,"client_id":"a","name":"","scopes":[],"created_at":"2026-01-02T03:04:05.000000Z",'
        '"expires_at":null,"revoked_at":null,"disabled":false,"last_used_at":null,"metadata":{},"secrets":[],'
        '"history":[{"event":"key.rotated","actor":"\\u043a\\u043b\\u044e\\u0447",'
        '"time":"2026-01-03T03:04:05.000000Z"},'
        '{"event":"key.created","actor":null,"time":"2026-01-02T03:04:05.000000Z"}]}'
    )


@given(KEYS, st.lists(CHANGES, max_size=3), st.none() | st.integers(min_value=1))
def test_what_is_written_is_read_back(key: Key, history: list[Change], end: int | None) -> None:
    """Whatever a key contains; on one line, in ASCII."""
    line = dump_line(key, history, end=end)

    assert load_line(line) == (key, end, history)
    assert line.isascii()
    assert line.isprintable()


def test_other_zones_are_written_in_utc() -> None:
    elsewhere = KEY.created_at.astimezone(timezone(timedelta(hours=5)))

    assert dump_line(replace(KEY, created_at=elsewhere)) == dump_line(KEY)


def test_read_only_metadata_is_written() -> None:
    view = MappingProxyType({"team": MappingProxyType({"id": 7})})

    assert load_line(dump_line(replace(KEY, metadata=view)))[0].metadata == {"team": {"id": 7}}
    with pytest.raises(TypeError):
        dump_line(replace(KEY, metadata={"a": object()}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", 2),
        ("v", True),
        ("v", "1"),
        ("client_id", 1),
        ("name", None),
        ("scopes", "read"),
        ("scopes", [1]),
        ("scopes", [["read"]]),
        ("created_at", None),
        ("created_at", 1_700_000_000),
        ("created_at", "2026-01-02"),
        ("created_at", "2026-01-02T03:04:05"),
        ("created_at", "2026-01-02T03:04:05+00:00"),
        ("created_at", "2026-01-02 03:04:05Z"),
        ("created_at", "2026-02-30T03:04:05Z"),
        ("created_at", "0000-01-01T03:04:05Z"),
        ("created_at", "\uff12026-01-02T03:04:05Z"),
        ("expires_at", ""),
        ("revoked_at", False),
        ("last_used_at", 0),
        ("disabled", 0),
        ("metadata", []),
        ("metadata", None),
        ("secrets", {}),
        ("secrets", ["$canary"]),
        ("secrets", [{}]),
        ("secrets", [FIELDS["secrets"][0] | {"hash": None}]),
        ("secrets", [FIELDS["secrets"][0] | {"salt": "canary"}]),
        ("history", {}),
        ("history", None),
        ("history", ["canary"]),
        ("history", [{"event": "key.created", "actor": None}]),
        ("history", [{"event": "key.created", "actor": 1, "time": "2026-01-02T03:04:05Z"}]),
        ("history", [{"event": "key.created", "actor": None, "time": "2026-01-02T03:04:05Z", "canary": 1}]),
        ("canary", "canary"),
        ("end", "1"),
    ],
)
def test_another_value_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidKey) as refusal:
        load_line(json.dumps(FIELDS | {name: value}))

    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field_is_refused(name: str) -> None:
    with pytest.raises(InvalidKey):
        load_line(json.dumps({each: value for each, value in FIELDS.items() if each != name}))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1", '"v"', "{}", "[" * 100_000, '{"v":NaN}', '{"v":' + "9" * 5000 + "}"],
    ids=lambda text: text[:8],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidKey):
        load_line(text)


@given(st.data())
def test_damage_is_noticed_or_harmless(data: st.DataObject) -> None:
    """One changed character or one missing part gives InvalidKey or some key, and no other result."""
    line = dump_line(KEY, HISTORY)
    start = data.draw(st.integers(0, len(line)))
    end = data.draw(st.integers(start, min(len(line), start + 20)))
    with suppress(InvalidKey):
        load_line(line[:start] + data.draw(st.text(max_size=2)) + line[end:])
