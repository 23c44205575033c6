"""The stored form of a key: what is written is read back, and damage never authenticates."""

from __future__ import annotations

import copy
import json
import pickle
from contextlib import suppress
from dataclasses import FrozenInstanceError, asdict, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from functools import reduce
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY, patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from basicauth_mw.backends import codec as _codec
from basicauth_mw.backends.codec import FORMAT, dump_key, load_found, load_key
from basicauth_mw.errors import BackendUnavailable, UnreadableRecord
from basicauth_mw.keys.hashing import Hasher
from basicauth_mw.keys.model import Key, Secret, whole_key

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


def test_the_stored_form_never_changes() -> None:
    """Version 1, written down: what an earlier release stored is read, and nothing else is stored."""
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


def test_what_is_absent_is_not_stored() -> None:
    """A plain key is a short record."""
    key = Key("a", created_at=CREATED)

    assert (
        dump_key(key)
        == '{"v":1,"id":"a","n":0,"name":"","scopes":[],"created":1767323045678901,"secrets":[]}'
    )
    assert load_key(dump_key(key), "a") == key


def test_last_use_is_not_part_of_the_record() -> None:
    """It is written apart, so that it never competes with a change of the key."""
    used = Key("a", created_at=CREATED, last_used_at=CREATED, secrets=(Secret("h", CREATED, None, CREATED),))
    unused = Key("a", created_at=CREATED, secrets=(Secret("h", CREATED),))

    assert dump_key(used) == dump_key(unused)
    assert load_key(dump_key(used), "a") == unused


def test_times_are_read_as_utc() -> None:
    """A moment of another zone is the same moment in UTC; the year 1 and the year 9999 are kept."""
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
    """Byte for byte what the standard library makes of the same members, in the order of version 1."""
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
def test_what_is_written_is_read_back(key: Key) -> None:
    """Every key comes back equal, its version too, as text and as octets."""
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
    row("empty-octets", b""),
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
def test_damage_is_an_outage(stored: str | bytes) -> None:
    """A record that is not what was written is unreadable: 503, no key, and no content in the message."""
    with pytest.raises(UnreadableRecord) as refusal:
        load_key(stored, "démo")
    assert isinstance(refusal.value, BackendUnavailable)
    assert "canary" not in str(refusal.value)


def test_the_undamaged_record_is_read() -> None:
    """The rows above fail for what they change and for nothing else."""
    assert load_key(damaged(), "démo") == KEY


def test_members_of_a_later_release_are_ignored() -> None:
    """Version 1 may gain members: what is not known here is no damage."""
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
    """Whatever is stored, there is the key asked for, or UnreadableRecord, and nothing else."""
    for stored in (text, damaged(**changes)):
        try:
            key = load_key(stored, "démo")
        except UnreadableRecord:
            continue
        assert type(key) is Key
        assert key.client_id == "démo"
        assert all(type(secret.hash) is str for secret in key.secrets)
        assert load_key(dump_key(key), "démo") == key


# --- what a look-up decodes, and when


def found(stored: str | bytes, client_id: str = "démo") -> Key:
    """A key in two steps, however short its record is."""
    with patch.object(_codec, "SHORT", -1):
        key = load_found(stored, client_id)
    assert key is not None
    return key


@given(KEYS)
@example(KEY)
def test_what_was_found_is_what_was_written(key: Key) -> None:
    """Decoded in two steps it is the key that is decoded in one, whatever is in its texts."""
    for form in (dump_key(key), dump_key(key).encode()):
        read = found(form, key.client_id)
        assert read == key
        assert read == load_key(form, key.client_id) == load_found(form, key.client_id)
        assert read.version == key.version


@pytest.mark.parametrize(
    "text", ['"secrets":[', ',"secrets":[', '","secrets":[[', ",", "\\", '\\","secrets":[', "]}"]
)
def test_no_text_is_taken_for_the_secrets(text: str) -> None:
    key = Key(text, name=text, scopes=frozenset({text, "a"}), created_at=CREATED, secrets=KEY.secrets)

    read = found(dump_key(key), text)

    assert read.secrets == KEY.secrets
    assert read == key


@pytest.mark.parametrize(
    "use",
    [
        row("equal", lambda key: key == KEY),
        row("repr", lambda key: repr(key) == repr(load_key(dump_key(KEY), "démo"))),
        row("hash", lambda key: hash(key) == hash(KEY)),
        row("replace", lambda key: replace(key, name="other") == replace(KEY, name="other")),
        row("copy", lambda key: copy.copy(key) == KEY),
        row("deepcopy", lambda key: copy.deepcopy(key) == KEY),
        row("pickle", lambda key: pickle.loads(pickle.dumps(key)) == KEY),
        row("asdict", lambda key: asdict(key) == asdict(KEY)),
        row("fields", lambda key: all(getattr(key, f.name) == getattr(KEY, f.name) for f in fields(KEY))),
        row("type", lambda key: type(key) is Key),
        row("last-use", lambda key: key.last_used_at is None),
    ],
)
def test_a_key_that_was_found_is_a_key(use: Callable[[Key], bool]) -> None:
    """Whatever is done first with one of which only a part is decoded."""
    assert use(found(dump_key(KEY)))


def test_a_key_that_was_found_is_frozen_and_has_no_other_attributes() -> None:
    key = found(dump_key(KEY))

    with pytest.raises(FrozenInstanceError):
        key.name = "other"  # type: ignore[misc]
    for each in (key, KEY):
        with pytest.raises(AttributeError, match="nonsense"):
            each.nonsense  # type: ignore[attr-defined]  # noqa: B018
    assert key == KEY


@pytest.mark.parametrize("stored", DAMAGED)
@pytest.mark.parametrize("canonical", [True, False])
def test_damage_to_what_was_found_is_an_outage(stored: str | bytes, canonical: bool) -> None:
    """When it is found, or when the part at fault is read: there is never a whole key."""
    if canonical and isinstance(stored, str):
        with suppress(ValueError, RecursionError):
            stored = json.dumps(json.loads(stored), ensure_ascii=False, separators=(",", ":"))
    with pytest.raises(UnreadableRecord) as refusal:
        whole_key(found(stored))
    assert "canary" not in str(refusal.value)


def test_two_lists_of_secrets_are_damage() -> None:
    """Or the one could let in whom the other does not know."""
    twice = dump_key(KEY)[:-1] + ',"secrets":[]}'

    with pytest.raises(UnreadableRecord):
        whole_key(found(twice))


def test_a_record_may_stand_between_blanks() -> None:
    """As who edits one by hand leaves it."""
    for stored in (f" {dump_key(KEY)}\n", json.dumps(json.loads(dump_key(KEY)), indent=1)):
        assert found(stored) == KEY == load_key(stored, "démo")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is decoded of JSON, piece by piece."""
    pieces: list[object] = []
    decode = _codec._decode

    def counted(text: str, start: int) -> tuple[Any, int]:
        value, end = decode(text, start)
        pieces.append(value)
        return value, end

    monkeypatch.setattr(_codec, "_decode", counted)
    return pieces


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


def test_a_refusal_decodes_the_hashes_of_a_long_record(decoded: list[object]) -> None:
    """However long it is."""
    read = load_found(dump_key(BIGGEST), "démo")

    assert read is not None
    for _ in range(2):
        assert Hasher().verify_digest("wrong", [each for each in read.secrets if len(each.hash) > 60]) is None
    assert decoded == [[[each.hash, ANY, ANY] for each in BIGGEST.secrets]]


@pytest.mark.parametrize("key", [Key("démo"), KEY], ids=["smallest", "usual"])
def test_an_unknown_id_costs_what_a_short_record_costs(key: Key, decoded: list[object]) -> None:
    """Or its refusal would be quicker than that of a known one. Each is decoded once, and whole."""
    assert load_found(None, "démo") is None
    assert load_found(dump_key(key), "démo") == key

    unknown, known = decoded
    assert isinstance(unknown, dict)
    assert isinstance(known, dict)
    assert unknown.keys() <= known.keys()
    assert unknown["id"] != "démo"


def test_the_rest_is_decoded_once(decoded: list[object]) -> None:
    key = found(dump_key(KEY))
    assert len(decoded) == 1
    for _ in range(3):
        assert (key.name, key.version, key.revoked_at) == (KEY.name, KEY.version, KEY.revoked_at)
    assert len(decoded) == 2


def test_a_record_longer_than_any_key_is_refused_undecoded() -> None:
    """A key with 1,200 secrets must not cost more to refuse than others."""
    secrets = tuple(
        Secret(
            "$bamw1$0$" + "A" * 60,
            created_at=datetime(2030, 1, 1, tzinfo=UTC) + timedelta(microseconds=number),
        )
        for number in range(1200)
    )
    text = dump_key(Key("ci", secrets=secrets))

    for load in (load_key, load_found):
        with pytest.raises(UnreadableRecord):
            load(text, "ci")
