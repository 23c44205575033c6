"""Behavior shared by all writable stores."""

from __future__ import annotations

import secrets
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from basicauth_mw.backends import BulkStore, LastUse, Store, UsageStore, open_store
from basicauth_mw.keys.model import Key, Secret
from tests.waiting import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

FAST = "$bamw1$0$" + "A" * 16 + "$" + "B" * 43
SLOW = "$2b$12$" + "A" * 53

# Ordered by their bytes, which differs from the order by UTF-16 and by locale.
IDS = [
    " leading",
    "%41",
    "*",
    "A",
    "Z",
    "[a-z]",
    "a",
    "a b",
    "a%b",
    "a*",
    "ab",
    "ab?",
    "a{b}c",
    "index",
    "{",
    "{}",
    "}",
    "~",
    "é",
    "日本",
    "\ud7ff",
    "\ue000",
    "\uffff",
    "\U0001f511",
    "\U0001f511x",
    "\U0010ffff",
    "\U0010ffff\U0010ffff",
]

TIMES = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
KEYS = st.builds(
    Key,
    client_id=st.text(
        st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=":"), min_size=1, max_size=30
    ),
    name=TEXTS,
    scopes=st.frozensets(st.from_regex(r"[a-z:._-]{1,8}", fullmatch=True), max_size=4),
    created_at=TIMES,
    expires_at=st.none() | TIMES,
    revoked_at=st.none() | TIMES,
    disabled=st.booleans(),
    metadata=st.dictionaries(
        TEXTS, st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS, max_size=3
    ),
    secrets=st.lists(
        st.builds(Secret, st.sampled_from([FAST, SLOW]), TIMES, st.none() | TIMES), max_size=3
    ).map(tuple),
    version=st.integers(0, 2**53),
)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = open_store(url, deadline_s=5.0, create=True)
    assert isinstance(opened, Store)
    yield opened
    opened.close()


def key(client_id: str, version: int = 1, **fields: Any) -> Key:
    return Key(
        client_id, version=version, secrets=(Secret(FAST, datetime(2024, 1, 1, tzinfo=UTC)),), **fields
    )


def fill(store: Store, *ids: str) -> None:
    for client_id in ids:
        assert store.put(key(client_id), None)


def ids(keys: Any) -> list[str]:
    return [found.client_id for found in keys]


def test_unknown_ids_are_none(store: Store) -> None:
    """Including an ID with a lone surrogate, which cannot be encoded as UTF-8."""
    assert store.get("unknown") is None
    assert store.get("\ud800") is None


@pytest.mark.parametrize("client_id", IDS)
def test_get_returns_what_put_stored(store: Store, client_id: str) -> None:
    put = key(client_id, 7, name="näme", scopes=frozenset({"read", "write"}), metadata={"a": [1, None]})
    assert store.put(put, None)

    got = store.get(client_id)

    assert got == put
    assert got is not None
    assert got.version == 7
    assert got.secrets[0].hash == FAST


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(put=KEYS)
def test_any_key_round_trips(store: Store, put: Key) -> None:
    store.delete(put.client_id)
    assert store.put(put, None)

    got = store.get(put.client_id)

    assert got == put
    assert got is not None
    assert (got.version, got.secrets) == (put.version, put.secrets)


def test_put_compares_the_version(store: Store) -> None:
    assert not store.put(key("id"), 1)  # it does not exist
    assert store.put(key("id", 1), None)
    assert not store.put(key("id", 2, name="lost"), None)  # it exists
    assert not store.put(key("id", 2, name="lost"), 2)  # it has another version
    assert store.put(key("id", 2, name="kept"), 1)
    got = store.get("id")
    assert got is not None
    assert (got.name, got.version) == ("kept", 2)


def test_a_version_may_be_a_time_in_microseconds(store: Store) -> None:
    """Two versions that a 53-bit double can still distinguish."""
    version = 2**53 - 2
    assert store.put(key("id", version), None)
    assert not store.put(key("id", 1), version + 1)
    assert store.put(key("id", version + 1), version)


def test_delete_returns_whether_there_was_a_key(store: Store) -> None:
    fill(store, "id", "other")
    assert store.delete("id")
    assert not store.delete("id")
    assert store.get("id") is None
    assert ids(store.scan("", "", 10)) == ["other"]
    assert store.put(key("id"), None)


def test_scan_is_ordered_by_bytes(store: Store) -> None:
    fill(store, *reversed(IDS))
    assert ids(store.scan("", "", 1000)) == IDS


@pytest.mark.parametrize("size", [1, 2, 7])
def test_scan_in_pages(store: Store, size: int) -> None:
    fill(store, *IDS)
    found: list[str] = []
    while page := store.scan("", found[-1] if found else "", size):
        assert len(page) <= size
        found += ids(page)
    assert found == IDS


@pytest.mark.parametrize(
    "prefix", ["a", "a%", "a*", "*", "%", "[", "{", "\U0001f511", "\U0010ffff", "\ud7ff", "\uffff", "unknown"]
)
def test_scan_by_prefix(store: Store, prefix: str) -> None:
    """No character is a wildcard."""
    fill(store, *IDS)
    expected = [client_id for client_id in IDS if client_id.startswith(prefix)]
    assert ids(store.scan(prefix, "", 1000)) == expected
    for after in ("A", "a b", "zz", "\U0010ffff"):
        rest = [client_id for client_id in expected if client_id.encode() > after.encode()]
        assert ids(store.scan(prefix, after, 1000)) == rest
        assert ids(store.scan(prefix, after, 1)) == rest[:1]


def test_changes_since_a_cursor(store: Store) -> None:
    fill(store, "before")
    cursor = store.changes(None).cursor
    assert store.changes(cursor).client_ids == ()

    fill(store, "a", "b")
    store.put(key("a", 2), 1)
    store.put(key("a", 9), 1)  # refused, so nothing changed
    store.delete("b")
    store.delete("b")
    seen = store.changes(cursor)

    assert seen.client_ids == ("a", "b", "a", "b")
    assert not seen.incomplete
    assert store.changes(seen.cursor) == replace(seen, client_ids=())


def test_changes_of_an_empty_store(store: Store) -> None:
    start = store.changes(None)
    assert not start.incomplete
    assert store.changes(start.cursor) == start
    fill(store, "a")
    assert store.changes(start.cursor).client_ids == ("a",)
    assert not store.changes(start.cursor).incomplete


@pytest.mark.parametrize(
    "cursor", ["", "junk", "-1", "99999999", "9" * 40, "1.2.3", "99999999999999-0", "1-1", "²"]
)
def test_a_foreign_cursor_is_a_gap(store: Store, cursor: str) -> None:
    fill(store, "a")
    seen = store.changes(cursor)
    assert seen.incomplete
    assert seen.cursor == store.changes(None).cursor
    assert not store.changes(seen.cursor).incomplete


def holds_passwords(store: Any) -> bool:
    return bool(store.changes(None).has_password_hashes)


def test_has_password_hashes(store: Any) -> None:
    fill(store, "fast")
    assert not holds_passwords(store)
    assert store.put(replace(key("slow"), secrets=(Secret(SLOW),)), None)
    assert holds_passwords(store)


@pytest.mark.proves("F20")
def test_threads_lose_no_change(store: Store) -> None:
    """8 threads increment a counter in the same key, and no increment is lost."""
    fill(store, "counter")
    per_thread = 5
    failures: list[BaseException] = []

    def count() -> None:
        try:
            for _ in range(per_thread):
                while True:
                    old = store.get("counter")
                    assert old is not None
                    new = replace(old, metadata={"n": old.metadata.get("n", 0) + 1}, version=old.version + 1)
                    if store.put(new, old.version):
                        break
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    end = store.get("counter")
    assert end is not None
    assert end.metadata["n"] == 8 * per_thread
    assert end.version == 1 + 8 * per_thread


def test_one_of_many_concurrent_creations_succeeds(store: Store) -> None:
    barrier = threading.Barrier(8)
    made: list[bool] = []

    def create(name: str) -> None:
        barrier.wait(10)
        made.append(store.put(key("same", name=name), None))

    threads = [threading.Thread(target=create, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(made) == [False] * 7 + [True]


def test_two_stores_with_one_url_share_keys(url: str, store: Store) -> None:
    if url == "memory:":
        return  # each memory store is separate
    other = open_store(url, deadline_s=5.0)
    assert isinstance(other, Store)
    cursor = other.changes(None).cursor
    fill(store, "a")
    assert ids(other.scan("", "", 9)) == ["a"]
    assert other.get("a") == store.get("a")
    assert other.changes(cursor).client_ids == ("a",)
    assert store.put(key("a", 2), 1)
    assert not other.put(key("a", 2), 1)
    other.close()


def test_a_closed_store_opens_again(store: Store) -> None:
    fill(store, "a")
    store.close()
    store.close()
    assert store.get("a") == key("a", created_at=store.get("a").created_at)  # type: ignore[union-attr]


def test_more_keys_than_a_page(store: Store) -> None:
    names = sorted(secrets.token_hex(4) for _ in range(120))
    fill(store, *names)
    assert ids(store.scan("", names[9], 100)) == names[10:110]


def test_aget_on_an_event_loop(store: Any) -> None:
    fill(store, "a")
    if aget := getattr(store, "aget", None):

        async def look_up() -> list[Key | None]:
            try:
                return [await aget("a"), await aget("unknown"), await aget("\ud800")]
            finally:
                await store.aclose()

        assert run_in_thread(look_up()) == [store.get("a"), None, None]
    else:
        assert [store.get_nowait(name) for name in ("a", "unknown")] == [store.get("a"), None]


def test_times_are_stored_to_the_microsecond(store: Store) -> None:
    moment = datetime(2031, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
    fill(store, "other")
    assert store.put(key("id", created_at=moment, expires_at=moment + timedelta(microseconds=1)), None)
    got = store.get("id")
    assert got is not None
    assert got.expires_at is not None
    assert got.expires_at - got.created_at == timedelta(microseconds=1)


# --- many new keys at once


def test_add_writes_new_keys(store: Store) -> None:
    """In order. A taken ID is reported and its key is unchanged, even if the same call created it."""
    assert isinstance(store, BulkStore)
    fill(store, "taken")
    before = store.get("taken")
    cursor = store.changes(None).cursor
    records = [
        key("b"),
        key("taken", 9, name="thief"),
        key("a"),
        key("b", 9, name="thief"),
        *map(key, IDS[-3:]),
    ]

    assert store.add(records) == [True, False, True, False, True, True, True]
    assert store.get("taken") == before
    for record in (records[0], records[2], *records[4:]):
        assert store.get(record.client_id) == record
    later = store.changes(cursor)  # new keys may be omitted, since no cache can hold them
    assert set(later.client_ids) <= {"b", "a", *IDS[-3:]}
    assert not later.incomplete
    assert store.add(records) == [False] * 7
    assert store.add([]) == []
    assert store.changes(later.cursor) == replace(later, client_ids=())


def test_add_of_more_than_a_batch(store: Store) -> None:
    assert isinstance(store, BulkStore)
    names = [f"{number:05}" for number in range(3000)]
    fill(store, names[1500])

    added = store.add([key(name) for name in reversed(names)])

    assert added == [name != names[1500] for name in reversed(names)]
    assert ids(store.scan("", "", 5000)) == names


def test_added_keys_are_like_any_other(store: Any) -> None:
    """They can be changed and deleted, and their password hashes are known."""
    assert store.add([replace(key("slow", 3), secrets=(Secret(SLOW),)), key("fast", 5)]) == [True, True]
    assert holds_passwords(store)
    assert store.put(key("fast", 6, name="new"), 5)
    assert store.get("fast").name == "new"
    assert store.delete("slow")
    assert ids(store.scan("", "", 9)) == ["fast"]


# --- last uses


def at(minute: int) -> datetime:
    return datetime(2031, 1, 1, 12, minute, tzinfo=UTC)


FIRST = datetime(2024, 1, 1, tzinfo=UTC)
SECOND = FIRST + timedelta(microseconds=1)


def in_order(uses: Any) -> list[LastUse]:
    return sorted(uses, key=lambda use: (use.client_id.encode(), use.secret_created_at))


@pytest.fixture
def usage(store: Store) -> UsageStore:
    """A store with the keys ``ci``, which has two secrets, and ``other``."""
    assert isinstance(store, UsageStore)
    fill(store, "other")
    assert store.put(replace(key("ci"), secrets=(Secret(FAST, FIRST), Secret(FAST, SECOND))), None)
    return store


def test_a_use_is_recorded_for_each_secret(usage: UsageStore) -> None:
    assert list(usage.last_uses(["ci", "other", "unknown"])) == []
    usage.record_uses(
        [LastUse("ci", FIRST, at(1)), LastUse("ci", SECOND, at(2)), LastUse("other", FIRST, at(3))]
    )

    assert in_order(usage.last_uses(["ci"])) == [LastUse("ci", FIRST, at(1)), LastUse("ci", SECOND, at(2))]
    assert in_order(usage.last_uses(["other", "unknown", "ci"])) == [
        LastUse("ci", FIRST, at(1)),
        LastUse("ci", SECOND, at(2)),
        LastUse("other", FIRST, at(3)),
    ]
    assert list(usage.last_uses([])) == []
    usage.record_uses([])


def test_the_latest_use_is_kept(usage: UsageStore) -> None:
    """In whatever order uses arrive, in one batch or several."""
    usage.record_uses([LastUse("ci", FIRST, at(minute)) for minute in (2, 5, 3)])
    assert list(usage.last_uses(["ci"])) == [LastUse("ci", FIRST, at(5))]
    usage.record_uses([LastUse("ci", FIRST, at(4))])
    assert list(usage.last_uses(["ci"])) == [LastUse("ci", FIRST, at(5))]
    usage.record_uses([LastUse("ci", FIRST, at(6))])
    assert list(usage.last_uses(["ci"])) == [LastUse("ci", FIRST, at(6))]


def test_a_use_of_an_unknown_key_is_ignored(usage: Any) -> None:
    """The rest of the batch is recorded."""
    usage.delete("other")
    usage.record_uses(
        [LastUse("other", FIRST, at(1)), LastUse("unknown", FIRST, at(1)), LastUse("ci", FIRST, at(1))]
    )

    assert list(usage.last_uses(["other", "unknown", "ci"])) == [LastUse("ci", FIRST, at(1))]
    fill(usage, "unknown", "other")
    assert list(usage.last_uses(["other", "unknown"])) == []


def test_uses_are_deleted_with_the_key(usage: Any) -> None:
    usage.record_uses([LastUse("ci", FIRST, at(1))])
    usage.delete("ci")
    assert list(usage.last_uses(["ci"])) == []
    fill(usage, "ci")
    assert list(usage.last_uses(["ci"])) == []


def test_a_use_is_not_a_change(usage: Any) -> None:
    """Neither the record, its version nor the change feed changes, and no put removes the use."""
    before, cursor = usage.get("ci"), usage.changes(None).cursor
    usage.record_uses([LastUse("ci", FIRST, at(1)), LastUse("ci", SECOND, at(2))])
    after = usage.get("ci")
    assert (after.version, after.secrets, after.name) == (before.version, before.secrets, before.name)
    assert usage.changes(cursor).client_ids == ()

    assert usage.put(replace(before, version=2, secrets=before.secrets[1:]), before.version)
    assert usage.changes(cursor).client_ids == ("ci",)
    assert LastUse("ci", SECOND, at(2)) in list(usage.last_uses(["ci"]))


def test_the_latest_use_outlives_its_secret(usage: Any) -> None:
    usage.record_uses([LastUse("ci", FIRST, at(9)), LastUse("ci", SECOND, at(2))])
    assert usage.put(replace(usage.get("ci"), version=2, secrets=(Secret(FAST, SECOND),)), 1)
    assert usage.put(replace(usage.get("ci"), version=3, secrets=(Secret(FAST, at(10)),)), 2)

    assert max(use.at for use in usage.last_uses(["ci"])) == at(9)


@pytest.mark.parametrize("client_id", IDS)
def test_uses_of_unusual_ids(store: Any, client_id: str) -> None:
    fill(store, client_id, "other")
    store.record_uses([LastUse(client_id, FIRST, at(1))])
    assert list(store.last_uses([client_id])) == [LastUse(client_id, FIRST, at(1))]
    assert list(store.last_uses(["other"])) == []


def test_uses_of_many_keys(store: Any) -> None:
    """More than fit in one statement or one round trip."""
    names = [f"{number:05}" for number in range(3000)]
    assert all(store.add([key(name) for name in names]))
    uses = [LastUse(name, FIRST, at(number % 60)) for number, name in enumerate(names)]
    store.record_uses(uses)
    assert in_order(store.last_uses(names)) == uses


def test_threads_record_uses(usage: Any) -> None:
    """While other threads change the key: no use and no change is lost."""

    def record(first: int) -> None:
        for minute in range(first, 60, 4):
            usage.record_uses([LastUse("ci", FIRST, at(minute)), LastUse("other", FIRST, at(minute))])

    def change() -> None:
        for version in range(1, 21):
            assert usage.put(replace(usage.get("other"), version=version + 1, name=str(version)), version)

    threads = [threading.Thread(target=record, args=(first,)) for first in range(4)]
    threads.append(threading.Thread(target=change))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert usage.get("other").name == "20"
    assert in_order(usage.last_uses(["ci", "other"])) == [
        LastUse("ci", FIRST, at(59)),
        LastUse("other", FIRST, at(59)),
    ]


def test_uses_are_durable(url: str, usage: Any) -> None:
    if url == "memory:":
        return  # a memory store is not durable
    usage.record_uses([LastUse("ci", SECOND, at(1))])
    usage.close()
    again: Any = open_store(url, deadline_s=5.0)
    assert list(again.last_uses(["ci"])) == [LastUse("ci", SECOND, at(1))]
    again.close()
