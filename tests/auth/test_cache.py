"""The cache of verified credentials: bounded in size and time, exact, and without secrets."""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from basicauth_mw.auth.cache import VerificationCache
from basicauth_mw.keys.authorization_header import MAX_HEADER_BYTES, encode_basic
from basicauth_mw.keys.model import Principal
from tests.waiting import Clock

MADE = 1_735_689_600_000_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> VerificationCache:
    return VerificationCache(30, 3, clock=clock, wall_clock=clock.wall)


def principal_of(client_id: str = "a", *scopes: str) -> Principal:
    return Principal(client_id, scopes=frozenset(scopes))


def put(
    cache: VerificationCache, value: bytes, principal: Principal, expires_at: datetime | None = None
) -> None:
    ends = None if expires_at is None else expires_at.timestamp()
    cache.put(value, principal, secret_created_at=MADE, expires_at=ends, stamp=cache.stamp())


@pytest.mark.proves("X2", "X16")
def test_only_the_exact_value_is_found(cache: VerificationCache) -> None:
    """No prefix, other case or concatenation of it."""
    put(cache, b"Basic abcd", principal_of())

    assert cache.get(b"Basic abcd") == principal_of()
    for other in (b"", b"Basic abc", b"Basic abcde", b"basic abcd", b"Basic abcd ", b"Basic abcd\x00"):
        assert cache.get(other) is None


_PARTS = st.text("ab:.", min_size=1, max_size=4)


@pytest.mark.proves("X2", "X15", "X16")
@given(
    st.lists(
        st.tuples(_PARTS.filter(lambda text: ":" not in text), _PARTS), min_size=2, max_size=8, unique=True
    )
)
@example([("a", "bc"), ("ab", "c"), ("abc", "c"), ("a", "b:c"), ("a.b", ":c")])
def test_no_two_credentials_share_an_entry(pairs: list[tuple[str, str]]) -> None:
    """Even if an ID and a secret give the same bytes when they are concatenated."""
    cache = VerificationCache(30, 100)
    fields = [encode_basic(client_id, secret).encode() for client_id, secret in pairs]
    for number, (value, (client_id, _)) in enumerate(zip(fields, pairs, strict=True)):
        assert [cache.get(other) is None for other in fields[number:]] == [True] * (len(fields) - number)
        put(cache, value, principal_of(client_id))

    assert [cache.get(value) for value in fields] == [principal_of(client_id) for client_id, _ in pairs]
    assert {len(entry) for entry in cache._entries} == {32}, "256 bits"


@pytest.mark.proves("X5", "X15")
def test_two_caches_share_nothing(cache: VerificationCache) -> None:
    """Each has its own key, so the digests of one cache reveal nothing about another."""
    other = VerificationCache(30, 3)
    put(cache, b"x", principal_of())
    put(other, b"x", principal_of())

    assert cache._entries.keys().isdisjoint(other._entries.keys())


@pytest.mark.proves("F24")
def test_an_entry_ends_with_its_time(cache: VerificationCache, clock: Clock) -> None:
    """At the exact second; a hit does not extend it, a new verification does."""
    put(cache, b"x", principal_of())
    clock.now += 29.9
    assert cache.get(b"x")
    clock.now += 0.1
    assert cache.get(b"x") is None
    put(cache, b"x", principal_of())
    assert cache.get(b"x")


@pytest.mark.proves("F23")
def test_an_entry_ends_with_its_key(cache: VerificationCache, clock: Clock) -> None:
    """By the wall clock, regardless of the monotonic one."""
    put(cache, b"x", principal_of(), datetime.fromtimestamp(clock.wall_now + 5, UTC))
    clock.wall_now += 4.9
    assert cache.get(b"x")
    clock.wall_now += 0.1
    assert cache.get(b"x") is None


@pytest.mark.proves("F23")
def test_a_clock_set_back_revives_no_entry_beyond_the_cache_time(
    cache: VerificationCache, clock: Clock
) -> None:
    """The age of an entry is monotonic."""
    put(cache, b"x", principal_of(), datetime.fromtimestamp(clock.wall_now + 5, UTC))
    clock.wall_now -= 10_000
    clock.now += 30
    assert cache.get(b"x") is None


@pytest.mark.proves("F23")
def test_it_uses_the_system_clocks_by_default() -> None:
    """The age uses the monotonic clock, which cannot be set; the expiry uses the wall clock."""
    cache = VerificationCache(30, 3)
    before = time.monotonic()
    assert before <= cache.stamp()[1] <= time.monotonic()
    now = datetime.now(UTC)
    put(cache, b"x", principal_of("ended"), now - timedelta(seconds=1))
    put(cache, b"y", principal_of("good"), now + timedelta(hours=1))
    assert [cache.get(each) is None for each in (b"x", b"y")] == [True, False]


def test_a_ttl_of_zero_disables_the_cache(clock: Clock) -> None:
    """``cache_ttl_s=0``."""
    cache = VerificationCache(0, 3, clock=clock)
    put(cache, b"x", principal_of())

    assert cache.get(b"x") is None
    assert len(cache) == 0


def test_a_client_is_known_until_its_last_entry_is_gone(cache: VerificationCache) -> None:
    """If one of its entries is evicted, the others can still be invalidated."""
    put(cache, b"1", principal_of())
    put(cache, b"2", principal_of())
    put(cache, b"3", principal_of("b"))
    put(cache, b"4", principal_of("b"))
    assert cache.get(b"1") is None
    assert cache.get(b"2") is not None
    cache.invalidate("a")

    assert cache.get(b"2") is None


def test_the_longest_header_is_kept(cache: VerificationCache) -> None:
    """A header that is one byte longer is refused before the lookup, so it is never cached."""
    longest = b"x" * MAX_HEADER_BYTES
    put(cache, longest, principal_of())
    put(cache, longest + b"x", principal_of())

    assert cache.get(longest) == principal_of()
    assert cache.get(longest + b"x") is None


@pytest.mark.parametrize(
    "forgotten",
    [
        pytest.param(["a"], id="one"),
        pytest.param([None], id="all"),
        pytest.param(["a", None], id="one, then all"),
        pytest.param([None, "a"], id="all, then one"),
        pytest.param(["b", "b"], id="another, twice"),
    ],
)
@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_put_with_an_old_stamp_stores_nothing(
    cache: VerificationCache, before: int, forgotten: list[str | None]
) -> None:
    """A result is not cached if it was looked up before an invalidation."""
    for _ in range(before):
        cache.invalidate("c")
    stamp = cache.stamp()
    for client_id in forgotten:
        if client_id is None:
            cache.clear()
        else:
            cache.invalidate(client_id)
    cache.put(b"x", principal_of(), secret_created_at=MADE, expires_at=None, stamp=stamp)

    assert cache.get(b"x") is None
    assert len(cache) == 0


def test_the_oldest_entry_is_evicted(cache: VerificationCache) -> None:
    """There are never more entries than the size; verifying a credential again adds none."""
    for value in (b"1", b"2", b"2", b"3", b"2"):
        put(cache, value, principal_of())
    assert [bool(cache.get(value)) for value in (b"1", b"2", b"3")] == [True] * 3
    put(cache, b"4", principal_of("b"))

    assert len(cache) == 3
    assert [bool(cache.get(value)) for value in (b"1", b"2", b"3", b"4")] == [False, True, True, True]


@pytest.mark.proves("F29")
def test_nothing_grows_with_many_clients(cache: VerificationCache) -> None:
    """Neither the entries nor their bookkeeping, invalidated clients included."""
    for number in range(1000):
        client_id = f"client-{number}"
        put(cache, b"%d" % number, principal_of(client_id))
        if number % 3 == 0:
            cache.invalidate(client_id)

    assert len(cache) == len(cache._order) == 3
    assert len(cache._newest) <= 3


def test_a_value_that_is_too_long_is_not_looked_up(cache: VerificationCache) -> None:
    """Hashing it would cost what the limit saves."""
    assert cache.get(b"x" * (MAX_HEADER_BYTES + 1)) is None


def test_a_changed_client_is_invalidated_with_all_its_secrets(cache: VerificationCache) -> None:
    """No other client is affected."""
    put(cache, b"1", principal_of("a"))
    put(cache, b"2", principal_of("a"))
    put(cache, b"3", principal_of("b"))
    cache.invalidate("a")

    assert [bool(cache.get(value)) for value in (b"1", b"2", b"3")] == [False, False, True]
    put(cache, b"1", principal_of("a"))
    assert cache.get(b"1")
    assert cache.get(b"2") is None, "an invalidated entry does not return with the client"


def test_a_verification_of_a_changed_key_ends_the_older_entries(cache: VerificationCache) -> None:
    """Two entries of one client never have different scopes."""
    put(cache, b"1", principal_of("a", "read"))
    put(cache, b"2", principal_of("a", "read", "write"))

    assert cache.get(b"1") is None
    assert cache.get(b"2") == principal_of("a", "read", "write")
    put(cache, b"1", principal_of("a", "read", "write"))
    assert cache.get(b"1") == cache.get(b"2")


def test_everything_can_be_invalidated(cache: VerificationCache) -> None:
    put(cache, b"1", principal_of("a"))
    put(cache, b"2", principal_of("b"))
    cache.clear()

    assert len(cache) == 0
    assert cache.get(b"1") is None
    assert cache.get(b"2") is None


@pytest.mark.proves("F24")
@pytest.mark.parametrize("event", ["forget it", "forget another", "clear"])
def test_a_result_from_before_a_change_is_not_cached(cache: VerificationCache, event: str) -> None:
    """The lookup may have read the old record."""
    stamp = cache.stamp()
    if event == "clear":
        cache.clear()
    else:
        cache.invalidate("a" if event == "forget it" else "b")
    cache.put(b"1", principal_of("a"), secret_created_at=MADE, expires_at=None, stamp=stamp)

    assert cache.get(b"1") is None


def test_no_secret_is_kept(cache: VerificationCache) -> None:
    """No object that is reachable from the cache contains the header's value."""
    canary = b"Basic canary-canary-canary"
    put(cache, canary, principal_of())
    seen: set[int] = set()
    waiting: list[object] = [cache]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        if isinstance(thing, bytes | str):
            assert b"canary" not in (thing if isinstance(thing, bytes) else thing.encode("utf-8", "replace"))
        if type(thing).__module__.startswith(("basicauth_mw", "builtins", "collections")) and not callable(
            thing
        ):
            waiting += gc.get_referents(thing)


def test_threads_do_not_disturb_each_other() -> None:
    """A lookup gives the decision for exactly that value, while other threads write and invalidate."""
    cache = VerificationCache(30, 50)
    wrong: list[object] = []
    start = threading.Barrier(4)

    def work(worker: int) -> None:
        start.wait()
        try:
            for turn in range(1500):
                number = (turn * 7 + worker * 13) % 80
                principal = principal_of(f"client-{number}")
                put(cache, b"%d" % number, principal)
                found = cache.get(b"%d" % number)
                if found is not None and found != principal:
                    wrong.append((number, found))
                if turn % 50 == 0:
                    cache.invalidate(f"client-{number}")
        except BaseException as exc:
            wrong.append(exc)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert wrong == []
    assert len(cache) <= 50
    assert len(cache) == len(cache._order)


@dataclass
class Model:
    """A simple reference model of what a cache may return."""

    clock: Clock
    entries: dict[bytes, tuple[Principal, float, float | None]] = field(default_factory=dict)

    def get(self, value: bytes) -> Principal | None:
        found = self.entries.get(value)
        if found is None or found[1] <= self.clock.now:
            return None
        return None if found[2] is not None and found[2] <= self.clock.wall_now else found[0]


class CacheMachine(RuleBasedStateMachine):
    """Random orders of verifications, changes and time; the model has every decision that the cache returns.

    The cache may forget more than the model because its size is bounded, but never less.
    """

    values = Bundle("values")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.cache = VerificationCache(30, 4, clock=self.clock, wall_clock=self.clock.wall)
        self.model = Model(self.clock)
        self.stamp = [self.cache.stamp()]
        self.changes = 0
        self.taken: list[tuple[int, int]] = []

    @rule(target=values, number=st.integers(0, 8))
    def value(self, number: int) -> bytes:
        return b"%d" % number

    @rule(value=values, scope=st.sampled_from(["r", "w"]), ends_in=st.none() | st.integers(-5, 40))
    def verify(self, value: bytes, scope: str, ends_in: int | None) -> None:
        principal = principal_of(f"client-{int(value) % 3}", scope)
        ends = None if ends_in is None else self.clock.wall_now + ends_in
        put(self.cache, value, principal, None if ends is None else datetime.fromtimestamp(ends, UTC))
        for other, entry in list(self.model.entries.items()):
            if entry[0].client_id == principal.client_id and entry[0] != principal:
                del self.model.entries[other]
        self.model.entries[value] = (principal, self.clock.now + 30, ends)
        assert self.cache.get(value) == self.model.get(value), "the newest is always kept"

    @rule(number=st.integers(0, 3))
    def change(self, number: int) -> None:
        self.cache.invalidate(f"client-{number}")
        self.model.entries = {
            value: entry
            for value, entry in self.model.entries.items()
            if entry[0].client_id != f"client-{number}"
        }

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.model.entries.clear()

    @rule(seconds=st.integers(0, 40))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds
        self.clock.wall_now += seconds

    @invariant()
    def never_returns_more_than_the_model(self) -> None:
        for number in range(9):
            found = self.cache.get(b"%d" % number)
            assert found is None or found == self.model.get(b"%d" % number)
        assert len(self.cache) <= 4
        assert len(self.cache._order) == len(self.cache)
        assert len(self.cache._newest) <= 4


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestCacheMachine = CacheMachine.TestCase


def test_each_hit_is_reported_once_with_its_age(cache: VerificationCache, clock: Clock) -> None:
    put(cache, b"1", principal_of("a"))
    put(cache, b"2", principal_of("b"))
    assert cache.drain_hits() == []  # the first verification is not a hit

    cache.get(b"1")
    clock.now += 5
    cache.get(b"1")
    clock.now += 2

    assert cache.drain_hits() == [("a", MADE, 2)]
    assert cache.drain_hits() == []
    cache.get(b"1")
    assert [hit.client_id for hit in cache.drain_hits()] == ["a"]


def test_a_refusal_is_no_hit(cache: VerificationCache, clock: Clock) -> None:
    put(cache, b"1", principal_of("a"))
    cache.get(b"other")
    cache.invalidate("a")
    cache.get(b"1")
    clock.now += 31
    cache.get(b"1")
    assert cache.drain_hits() == []


def test_hits_are_bounded_by_the_size(cache: VerificationCache) -> None:
    for number in range(50):
        put(cache, b"%d" % number, principal_of(str(number)))
        cache.get(b"%d" % number)
    assert len(cache.drain_hits()) == 3
    put(cache, b"late", principal_of("late"))
    cache.get(b"late")
    assert [hit.client_id for hit in cache.drain_hits()] == ["late"]
