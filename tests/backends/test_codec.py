"""The stored form of a key: it round-trips, and a damaged record never authenticates."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import reduce
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from basicauth_mw.backends import codec as _codec
from basicauth_mw.backends.codec import (
    FORMAT,
    as_key,
    dump_key,
    load_decoy_details,
    load_for_lookup,
    load_key,
    load_record,
)
from basicauth_mw.errors import BackendUnavailable, UnreadableRecord
from basicauth_mw.keys.hashing import Hasher
from basicauth_mw.keys.model import Key, Secret

if TYPE_CHECKING:
    from collections.abc import Callable


def row(name: str, *values: object) -> Any:
    return pytest.param(*values, id=name)


CREATED = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
KEY = Key(
    client_id="démo",
    name="CI",
    scopes=frozenset({"write", "read"}),
    created_at=CREATED,
    expires_at=CREATED + timedelta(days=90),
    revoked_at=CREATED + timedelta(days=1),
    disabled=True,
    metadata={"team": "ключ", "n": [1, None, {"x": 0.5}]},
    secrets=(
        Secret("$bamw1$0$canary", CREATED, CREATED + timedelta(days=2)),
        Secret("$argon2id$canary", CREATED + timedelta(microseconds=1)),
    ),
    version=7,
)


def test_the_stored_form_of_version_1() -> None:
    """Records of earlier releases are read, and new records have the same form."""
    stored = (
        '{"v":1,"id":"démo","n":7,"name":"CI","scopes":["read","write"],"created":1767323045678901,'
        '"secrets":[["$bamw1$0$canary",1767323045678901,1767495845678901],["$argon2id$canary",1767323045678902,null]],'
        '"expires":1775099045678901,"revoked":1767409445678901,"disabled":true,'
        '"meta":{"team":"ключ","n":[1,null,{"x":0.5}]}}'
    )
    assert FORMAT == 1
    assert dump_key(KEY) == stored
    assert load_key(stored, "démo") == KEY
    assert load_key(stored.encode(), "démo") == KEY
    assert load_key(stored, "démo").version == 7


def test_empty_fields_are_not_stored() -> None:
    """A key without optional fields is a short record."""
    key = Key("a", created_at=CREATED)

    assert (
        dump_key(key)
        == '{"v":1,"id":"a","n":0,"name":"","scopes":[],"created":1767323045678901,"secrets":[]}'
    )
    assert load_key(dump_key(key), "a") == key


def test_the_record_does_not_include_last_used_at() -> None:
    """It is stored separately, so that it never conflicts with a change of the key."""
    used = Key("a", created_at=CREATED, last_used_at=CREATED, secrets=(Secret("h", CREATED, None, CREATED),))
    unused = Key("a", created_at=CREATED, secrets=(Secret("h", CREATED),))

    assert dump_key(used) == dump_key(unused)
    assert load_key(dump_key(used), "a") == unused


def test_times_are_converted_to_utc() -> None:
    """A time in another zone becomes the same time in UTC; the years 1 and 9999 are valid."""
    zone = timezone(timedelta(hours=-11))
    key = Key(
        "a",
        created_at=datetime(2026, 1, 1, tzinfo=zone),
        expires_at=datetime.max.replace(tzinfo=UTC),
        secrets=(Secret("h", datetime.min.replace(tzinfo=UTC)),),
    )
    read = load_key(dump_key(key), "a")

    assert read == key
    assert read.created_at.tzinfo is UTC
    assert read.created_at.isoformat() == "2026-01-01T11:00:00+00:00"


_MOMENTS = st.datetimes(timezones=st.just(UTC))
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), _TEXTS
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXTS, inner, max_size=3)),
    max_leaves=6,
)
KEYS = st.builds(
    Key,
    client_id=_TEXTS,
    name=_TEXTS,
    scopes=st.frozensets(_TEXTS, max_size=4),
    created_at=_MOMENTS,
    expires_at=st.none() | _MOMENTS,
    revoked_at=st.none() | _MOMENTS,
    disabled=st.booleans(),
    metadata=st.dictionaries(_TEXTS, _JSON, max_size=3),
    secrets=st.lists(st.builds(Secret, _TEXTS, _MOMENTS, st.none() | _MOMENTS), max_size=3).map(tuple),
    version=st.integers(0),
)


@given(KEYS)
@example(KEY)
def test_the_stored_form_is_compact_json(key: Key) -> None:
    """Byte for byte what ``json`` writes for the same members, in the order of version 1."""
    stored = dump_key(key)

    assert json.dumps(json.loads(stored), ensure_ascii=False, separators=(",", ":")) == stored
    always = ["v", "id", "n", "name", "scopes", "created", "secrets"]
    sometimes = {
        "expires": key.expires_at,
        "revoked": key.revoked_at,
        "disabled": key.disabled,
        "meta": key.metadata,
    }
    assert list(json.loads(stored)) == always + [name for name, value in sometimes.items() if value]


@given(KEYS)
@example(KEY)
def test_every_key_round_trips(key: Key) -> None:
    """Every key is read back equal, including its version, as str and as bytes."""
    stored = dump_key(key)

    for form in (stored, stored.encode()):
        read = load_key(form, key.client_id)
        assert read == key
        assert read.version == key.version
    assert "\n" not in stored


def damaged(**changes: Any) -> str:
    """KEY's record with some members replaced; ``...`` leaves one out."""
    record = {**json.loads(dump_key(KEY)), **changes}
    return json.dumps({name: value for name, value in record.items() if value is not ...})


HASH = "$bamw1$0$canary"

DAMAGED = [
    row("empty", ""),
    row("empty-bytes", b""),
    row("no-json", "canary"),
    row("cut", dump_key(KEY)[:-1]),
    row("longer", dump_key(KEY) + "}"),
    row("no-utf-8", dump_key(KEY).encode("latin-1", "replace")[:20] + b"\xff"),
    row("nul", "\0"),
    row("list", "[]"),
    row("text", '"canary"'),
    row("number", "1"),
    row("null", "null"),
    row("empty-object", "{}"),
    row("nested-too-deep", "[" * 100_000),
    row("metadata-nested-too-deep", damaged(meta={"a": reduce(lambda inner, _: [inner], range(70), [])})),
    row("number-too-long", '{"v":' + "1" * 5000 + "}"),
    row("version-2", damaged(v=2)),
    row("version-0", damaged(v=0)),
    row("version-text", damaged(v="1")),
    row("version-true", damaged(v=True)),
    row("version-null", damaged(v=None)),
    row("version-missing", damaged(v=...)),
    row("id-other", damaged(id="other")),
    row("id-prefix", damaged(id="dém")),
    row("id-nfd", damaged(id="de\u0301mo")),
    row("id-null", damaged(id=None)),
    row("id-missing", damaged(id=...)),
    row("n-missing", damaged(n=...)),
    row("n-null", damaged(n=None)),
    row("n-text", damaged(n="7")),
    row("n-fraction", damaged(n=7.5)),
    row("name-null", damaged(name=None)),
    row("name-number", damaged(name=1)),
    row("name-missing", damaged(name=...)),
    row("scopes-null", damaged(scopes=None)),
    row("scopes-text", damaged(scopes="admin")),
    row("scopes-object", damaged(scopes={"admin": False})),
    row("scopes-numbers", damaged(scopes=[1])),
    row("scopes-missing", damaged(scopes=...)),
    row("created-null", damaged(created=None)),
    row("created-text", damaged(created="2026-01-01")),
    row("created-true", damaged(created=True)),
    row("created-out-of-range", damaged(created=10**30)),
    row("created-infinite", damaged(created=float("inf"))),
    row("created-missing", damaged(created=...)),
    row("expires-text", damaged(expires="never")),
    row("expires-false", damaged(expires=False)),
    row("expires-infinite", damaged(expires=float("inf"))),
    row("expires-nan", damaged(expires=float("nan"))),
    row("expires-out-of-range", damaged(expires=-(10**30))),
    row("revoked-text", damaged(revoked="")),
    row("revoked-list", damaged(revoked=[])),
    row("disabled-null", damaged(disabled=None)),
    row("disabled-number", damaged(disabled=0)),
    row("disabled-text", damaged(disabled="false")),
    row("meta-null", damaged(meta=None)),
    row("meta-list", damaged(meta=[])),
    row("secrets-null", damaged(secrets=None)),
    row("secrets-object", damaged(secrets={})),
    row("secrets-text", damaged(secrets="")),
    row("secrets-missing", damaged(secrets=...)),
    row("secret-text", damaged(secrets=[HASH])),
    row("secret-short", damaged(secrets=[[HASH, 0]])),
    row("secret-long", damaged(secrets=[[HASH, 0, None, None]])),
    row("secret-hash-null", damaged(secrets=[[None, 0, None]])),
    row("secret-hash-number", damaged(secrets=[[1, 0, None]])),
    row("secret-created-null", damaged(secrets=[[HASH, None, None]])),
    row("secret-expires-text", damaged(secrets=[[HASH, 0, "canary"]])),
]


@pytest.mark.proves("F12", "F18")
@pytest.mark.parametrize("stored", DAMAGED)
def test_a_damaged_record_is_unreadable(stored: str | bytes) -> None:
    """It gives a 503, and the message shows nothing of the record."""
    with pytest.raises(UnreadableRecord) as refusal:
        load_key(stored, "démo")
    assert isinstance(refusal.value, BackendUnavailable)
    assert "canary" not in str(refusal.value)


def test_the_record_without_damage_is_read() -> None:
    """The cases above fail only because of their changes."""
    assert load_key(damaged(), "démo") == KEY


def test_unknown_members_are_ignored() -> None:
    """A later release may add members to version 1."""
    assert load_key(damaged(colour="red"), "démo") == KEY


@pytest.mark.proves("F12")
@given(
    st.one_of(st.text(), st.binary(), _JSON.map(json.dumps)),
    st.dictionaries(
        st.sampled_from(
            ["v", "id", "n", "name", "scopes", "created", "secrets", "expires", "revoked", "disabled", "meta"]
        ),
        _JSON,
        max_size=2,
    ),
)
def test_any_record_is_a_key_or_unreadable(text: str | bytes, changes: dict[str, Any]) -> None:
    """Any stored text gives the key with the right ID or raises UnreadableRecord."""
    for stored in (text, damaged(**changes)):
        try:
            key = load_key(stored, "démo")
        except UnreadableRecord:
            continue
        assert type(key) is Key
        assert key.client_id == "démo"
        assert all(type(secret.hash) is str for secret in key.secrets)
        assert load_key(dump_key(key), "démo") == key


# --- the two stages


@given(KEYS)
@example(KEY)
def test_a_stored_record_loads_the_same_key(key: Key) -> None:
    for form in (dump_key(key), dump_key(key).encode()):
        record = load_record(form, key.client_id)
        assert record == load_for_lookup(form, key.client_id)
        assert record.client_id == key.client_id
        assert [each.hash for each in record.secrets] == [each.hash for each in key.secrets]
        assert record.load_key() == as_key(record) == key
        assert record.load_key().version == key.version


@pytest.mark.parametrize(
    "text", ['"secrets":[', ',"secrets":[', '","secrets":[[', ",", "\\", '\\","secrets":[', "]}"]
)
def test_text_like_the_secrets_member_is_not_mistaken_for_it(text: str) -> None:
    key = Key(text, name=text, scopes=frozenset({text, "a"}), created_at=CREATED, secrets=KEY.secrets)

    record = load_record(dump_key(key), text)

    assert [each.hash for each in record.secrets] == [each.hash for each in KEY.secrets]
    assert record.load_key() == key


@pytest.mark.parametrize("stored", DAMAGED)
def test_a_damaged_record_in_compact_json_is_unreadable(stored: str | bytes) -> None:
    """One of the stages finds the damage, so there is never a key."""
    if isinstance(stored, str):
        with suppress(ValueError, RecursionError):
            stored = json.dumps(json.loads(stored), ensure_ascii=False, separators=(",", ":"))
    with pytest.raises(UnreadableRecord) as refusal:
        load_key(stored, "démo")
    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize(
    "damage",
    [
        row("a second list of secrets", lambda text: text[:-1] + ',"secrets":[]}'),
        row("a digit after the secrets", lambda text: text.replace("]],", "]]5,")),
        row("an exponent after the secrets", lambda text: text.replace("]],", "]]e5,")),
        row("no comma after the secrets", lambda text: text.replace("]],", "]]")),
        row("another list after the secrets", lambda text: text.replace("]],", "]][],")),
    ],
)
def test_damage_next_to_the_secrets_is_found(damage: Callable[[str], str]) -> None:
    """The secrets are replaced by null in the rest of the record, which must be valid by itself."""
    stored = damage(dump_key(KEY))

    assert stored != dump_key(KEY)
    with pytest.raises(UnreadableRecord):
        load_key(stored, "démo")


def test_whitespace_between_members_is_accepted() -> None:
    """An editor may add it."""
    for stored in (f" {dump_key(KEY)}\n", json.dumps(json.loads(dump_key(KEY)), indent=1)):
        assert load_key(stored, "démo") == KEY


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every value that is decoded from JSON."""
    values: list[object] = []
    decode = _codec._decode

    def counted(text: str, start: int) -> tuple[Any, int]:
        value, end = decode(text, start)
        values.append(value)
        return value, end

    monkeypatch.setattr(_codec, "_decode", counted)
    return values


BIGGEST = Key(
    "démo",
    name="x" * 200,
    scopes=frozenset(f"scope:{number}" for number in range(100)),
    created_at=CREATED,
    expires_at=CREATED,
    revoked_at=CREATED,
    disabled=True,
    metadata={f"name {number}": ["value", number] for number in range(150)},
    secrets=KEY.secrets,
)


@pytest.mark.parametrize("key", [Key("démo"), KEY, BIGGEST], ids=["smallest", "usual", "biggest"])
def test_a_refusal_decodes_the_secrets_alone(key: Key, decoded: list[object]) -> None:
    record = load_for_lookup(dump_key(key), "démo")

    assert record is not None
    for _ in range(2):
        assert (
            Hasher().verify_digest("wrong", [each for each in record.secrets if len(each.hash) > 60]) is None
        )
    assert decoded == [[[each.hash, ANY, ANY] for each in key.secrets]]


def test_an_unknown_id_costs_as_much_as_a_known_one(decoded: list[object]) -> None:
    """It decodes both parts of a decoy; a wrong secret decodes the details of the decoy."""
    key = Key("démo", secrets=(Secret(Hasher().digest_secret("secret"), CREATED),))
    assert load_for_lookup(None, "démo") is None
    unknown = decoded.copy()
    decoded.clear()
    assert load_for_lookup(dump_key(key), "démo") is not None
    load_decoy_details()

    assert [type(each) for each in unknown] == [type(each) for each in decoded] == [list, dict]
    assert unknown[0] != decoded[0]
    assert unknown[1] == decoded[1]


def test_an_accepted_secret_decodes_each_part_once(decoded: list[object]) -> None:
    record = load_record(dump_key(KEY), "démo")
    assert len(decoded) == 1

    assert record.load_key() == KEY
    assert len(decoded) == 2
    assert isinstance(decoded[1], dict)
    assert decoded[1]["secrets"] is None


def test_a_record_longer_than_any_key_is_not_decoded() -> None:
    """A key with 1,200 secrets must not be slower to refuse than others."""
    secrets = tuple(
        Secret(
            "$bamw1$0$" + "A" * 60,
            created_at=datetime(2030, 1, 1, tzinfo=UTC) + timedelta(microseconds=number),
        )
        for number in range(1200)
    )
    text = dump_key(Key("ci", secrets=secrets))

    for load in (load_key, load_record):
        with pytest.raises(UnreadableRecord):
            load(text, "ci")
