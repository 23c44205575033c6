"""The failure counter: a sliding limit, whole seconds, and bounded memory."""

from __future__ import annotations

import math
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from basicauth_mw.auth import throttle as module
from basicauth_mw.auth.throttle import MAX_TRACKED, SHARE, Blocked, FailureThrottle
from basicauth_mw.settings.parsers import parse_rate
from tests.waiting import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = ("203.0.113.7", "demo")
OTHER = ("198.51.100.9", "demo")


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Throttle:
    """The throttle under test, with an address and an ID as the key."""

    def __init__(self, limit: int, period_s: float, **clock: Any) -> None:
        self._throttle = module.Throttle(limit, period_s, **clock)

    @property
    def active(self) -> bool:
        return bool(self._throttle.blocked)

    def record(self, key: tuple[str, str]) -> None:
        self._throttle.record(*digests(key))

    def retry_after_s(self, key: tuple[str, str]) -> int:
        blocked = self._throttle.check(*digests(key))
        return blocked.retry_after_s if blocked else 0

    def take_first_refusal(self, key: tuple[str, str]) -> bool:
        return self._throttle.take_first_refusal(digests(key)[1])


def digests(key: tuple[str, str]) -> tuple[bytes, bytes]:
    return key[0].encode(), "\0".join(key).encode()


def fail(throttle: Throttle, key: tuple[str, str], times: int) -> None:
    for _ in range(times):
        throttle.record(key)


# --- rates


@pytest.mark.parametrize(
    ("rate", "parsed"),
    [
        ("20/minute", (20, 60.0)),
        ("1/second", (1, 1.0)),
        ("5/hour", (5, 3600.0)),
        ("100/day", (100, 86400.0)),
        ("999999999/day", (999_999_999, 86400.0)),
        ("20/MINUTE", (20, 60.0)),
        (" 20 / minute ", (20, 60.0)),
        ("007/second", (7, 1.0)),
        ("", None),
        (" ", None),
    ],
)
def test_rates(rate: str, parsed: tuple[int, float] | None) -> None:
    """A count and a period; an empty string disables the limit."""
    assert parse_rate(rate) == parsed


@pytest.mark.parametrize(
    "rate",
    [
        "20",
        "/minute",
        "20/",
        "0/minute",
        "-1/minute",
        "1.5/minute",
        "20/week",
        "20/minutes",
        "20 per minute",
        "20/minute/day",
        "20/60",
        "1e3/day",
        "9999999999/day",
        "20/minute\0",
        "\u0662\u0660/minute",
        "20/m\u0131nute",  # two letters that equal ASCII ones when case is ignored
        "20/\u017fecond",
    ],
    ids=ascii,
)
def test_other_rates_are_refused(rate: str) -> None:
    """Any other value is an error that says what is expected, and not what was given."""
    with pytest.raises(ValueError, match="as in 20/minute") as refusal:
        parse_rate(rate)
    assert rate not in str(refusal.value).replace("20/minute", "")


@given(st.one_of(st.text(), st.from_regex(r"\s*\d{1,12}\s*/\s*[a-z]{3,6}\s*", fullmatch=True)))
def test_any_rate_is_parsed_or_refused(rate: str) -> None:
    """Any string is no limit, a usable limit, or a ValueError."""
    try:
        parsed = parse_rate(rate)
    except ValueError:
        return
    assert parsed is None or (parsed[0] >= 1 and parsed[1] >= 1)


# --- the limit


@pytest.mark.parametrize("limit", [1, 2, 20])
def test_the_limit_is_the_number_of_allowed_failures(limit: int, clock: Clock) -> None:
    """So many failures are allowed, and then no more until the period is over."""
    throttle = Throttle(limit, 60.0, clock=clock)

    fail(throttle, KEY, limit - 1)
    assert throttle.retry_after_s(KEY) == 0
    throttle.record(KEY)
    assert throttle.retry_after_s(KEY) == 60
    clock.now += 59.5
    assert throttle.retry_after_s(KEY) == 1
    clock.now += 0.5
    assert throttle.retry_after_s(KEY) == 0


def test_keys_do_not_affect_each_other(clock: Clock) -> None:
    """Failures from one address do not affect another, even if both claim the same ID."""
    throttle = Throttle(2, 60.0, clock=clock)
    fail(throttle, KEY, 5)
    throttle.record(OTHER)

    assert throttle.retry_after_s(KEY) > 0
    assert throttle.retry_after_s(OTHER) == 0
    assert throttle.retry_after_s((KEY[0], "another")) == 0


def test_the_window_slides(clock: Clock) -> None:
    """Failures of the previous period still count, and decrease evenly."""
    throttle = Throttle(20, 60.0, clock=clock)
    fail(throttle, KEY, 20)

    clock.now += 60
    assert throttle.retry_after_s(KEY) == 0
    throttle.record(KEY)  # 20 of the previous period, all of them still counted
    assert throttle.retry_after_s(KEY) == 3
    clock.now += 3
    assert throttle.retry_after_s(KEY) == 0
    clock.now += 26  # 29 seconds into the second period: 20 * 31 / 60 are left, and 1
    fail(throttle, KEY, 8)
    assert throttle.retry_after_s(KEY) == 0
    throttle.record(KEY)
    assert throttle.retry_after_s(KEY) == 1  # then half of the 20 are left, and 10


def test_an_idle_key_starts_again(clock: Clock) -> None:
    """After two periods without a failure, no failure counts any more."""
    throttle = Throttle(20, 60.0, clock=clock)
    fail(throttle, KEY, 20)

    clock.now += 120
    fail(throttle, KEY, 19)
    assert throttle.retry_after_s(KEY) == 0
    throttle.record(KEY)
    assert throttle.retry_after_s(KEY) > 0


def test_failures_in_progress_at_the_limit_extend_the_block(clock: Clock) -> None:
    """Requests that began before the limit was reached may fail after it: they count too."""
    throttle = Throttle(10, 60.0, clock=clock)
    fail(throttle, KEY, 10)
    assert throttle.retry_after_s(KEY) == 60
    fail(throttle, KEY, 10)

    assert throttle.retry_after_s(KEY) == 90  # half of the 20 must fade in the following period


@given(st.lists(st.floats(0, 90), min_size=1, max_size=150), st.integers(1, 5))
@example([0.0] * 50, 3)
@example([0.0, 59.9, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0], 3)
def test_no_period_ever_holds_twice_the_limit(pauses_s: list[float], limit: int) -> None:
    """A client that retries as soon as possible fails at most twice the limit in any period."""
    clock = Clock()
    throttle = Throttle(limit, 60.0, clock=clock)
    began_s = clock.now
    looked_at: list[float] = []
    for pause_s in pauses_s:
        clock.now += pause_s
        if throttle.retry_after_s(KEY) == 0:
            throttle.record(KEY)
            looked_at.append(clock.now)

    for first in looked_at:
        assert sum(first <= moment < first + 60.0 for moment in looked_at) <= 2 * limit
    assert len(looked_at) <= limit * (math.ceil((clock.now - began_s) / 60.0) + 1)


@given(st.lists(st.tuples(st.floats(0, 200), st.integers(1, 8)), min_size=1, max_size=30), st.integers(1, 5))
def test_waiting_for_retry_after_is_enough(steps: list[tuple[float, int]], limit: int) -> None:
    """A whole number of seconds, from 1 to two periods; then the key is no longer blocked."""
    clock = Clock()
    throttle = Throttle(limit, 60.0, clock=clock)
    for pause_s, failures in steps:
        clock.now += pause_s
        fail(throttle, KEY, failures)
        wait_s = throttle.retry_after_s(KEY)
        if wait_s:
            assert type(wait_s) is int
            assert 1 <= wait_s <= 120
            assert throttle.active
            clock.now += wait_s
            assert throttle.retry_after_s(KEY) == 0


# --- the ``active`` attribute


def test_the_throttle_is_inactive_while_no_key_is_over_the_limit(clock: Clock) -> None:
    """``active`` becomes true with the first key over its limit, and false when the last block ends,
    whichever key is checked first."""
    throttle = Throttle(2, 60.0, clock=clock)
    assert not throttle.active
    throttle.record(KEY)
    assert not throttle.active
    throttle.record(KEY)
    assert throttle.active
    fail(throttle, OTHER, 2)

    clock.now += 60
    assert throttle.retry_after_s(KEY) == 0
    assert not throttle.active
    assert throttle.retry_after_s(OTHER) == 0


def test_check_counts_nothing(clock: Clock) -> None:
    """Checking a key does not count, whether it never failed or is over its limit."""
    throttle = Throttle(2, 60.0, clock=clock)
    throttle.record(KEY)

    for _ in range(100):
        assert throttle.retry_after_s(KEY) == 0
        assert throttle.retry_after_s(OTHER) == 0
    assert not throttle.active


def test_a_failure_counted_while_a_block_ends_is_not_lost() -> None:
    """A thread that sees a block end does not undo a block that another thread sets at that moment."""
    now_s = 0.0
    between: list[Callable[[], None]] = []

    def clock() -> float:
        if between:
            between.pop()()
        return now_s

    throttle = FailureThrottle("1/minute", "", clock=clock)
    throttle.record(*KEY)
    now_s = 60.0
    other_thread = threading.Thread(target=throttle.record, args=KEY)

    def record_meanwhile() -> None:
        other_thread.start()
        other_thread.join(0.2)  # with a timeout: it may have to wait for a lock that is held here

    between.append(record_meanwhile)
    throttle.check(*KEY)
    other_thread.join(5)

    assert not other_thread.is_alive()
    assert throttle.active
    assert throttle.check(*KEY) is not None


def test_threads_lose_no_failure() -> None:
    """Failures recorded concurrently by many threads are all counted."""

    def fail_often(throttle: FailureThrottle) -> None:
        for _ in range(500):
            throttle.record(*KEY)

    exact = FailureThrottle("4000/day", "", clock=Clock())
    short = FailureThrottle("4001/day", "", clock=Clock())
    for throttle in (exact, short):
        threads = [threading.Thread(target=fail_often, args=(throttle,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)

    assert exact.check(*KEY) is not None
    assert short.check(*KEY) is None


# --- memory


@pytest.mark.proves("O5", "F29")
@pytest.mark.parametrize(
    ("limit", "keys"), [pytest.param(5, 50_000, id="tracked"), pytest.param(1, 5_000, id="over")]
)
def test_random_keys_take_bounded_memory(limit: int, keys: int, clock: Clock) -> None:
    """Failures from new addresses fill a table of fixed size, and then evict older ones."""
    throttle = Throttle(limit, 60.0, clock=clock)
    fill(throttle, range(MAX_TRACKED))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        fill(throttle, range(MAX_TRACKED, MAX_TRACKED + keys))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # tracemalloc does not see the keys of the first filling freed, so up to a table's worth may seem new.
    assert after - before < 400 * MAX_TRACKED


def fill(throttle: Throttle, numbers: range) -> None:
    for number in numbers:
        throttle.record((f"address-{number}", "demo"))


def test_a_key_that_keeps_failing_is_not_evicted(clock: Clock) -> None:
    """The keys that have been idle longest are evicted."""
    throttle = Throttle(10, 3600.0, clock=clock)
    for round_ in range(10):
        throttle.record(KEY)
        fill(throttle, range(round_ * 10_000, (round_ + 1) * 10_000))

    assert throttle.retry_after_s(KEY) > 0


def test_a_full_table_of_blocks_evicts_the_oldest(clock: Clock) -> None:
    """The address that has been idle longest is evicted."""
    throttle = Throttle(1, 60.0, clock=clock)
    fill(throttle, range(MAX_TRACKED))
    throttle.record(KEY)
    assert throttle.retry_after_s(KEY) == 60
    assert throttle.retry_after_s(("address-0", "demo")) == 0
    assert throttle.retry_after_s(("address-1", "demo")) == 60

    clock.now += 61
    throttle.record(OTHER)
    assert throttle.retry_after_s(OTHER) == 60
    assert throttle.retry_after_s(("address-2", "demo")) == 0


def test_one_address_cannot_evict_its_own_counter(clock: Clock) -> None:
    """Guesses for one ID are counted, however many failures with other IDs come in between."""
    throttle = Throttle(20, 60.0, clock=clock)
    fail(throttle, KEY, 19)
    for number in range(MAX_TRACKED + 1):
        throttle.record((KEY[0], f"cheap-{number}"))
    throttle.record(KEY)

    assert throttle.retry_after_s(KEY) == 60


def test_guesses_after_the_share_was_taken_count_as_well(clock: Clock) -> None:
    """An ID without a counter shares one with the other such IDs of its address."""
    throttle = Throttle(20, 60.0, clock=clock)
    for number in range(SHARE):
        throttle.record((KEY[0], f"cheap-{number}"))
    fail(throttle, KEY, 20)

    assert throttle.retry_after_s(KEY) == 60
    assert throttle.retry_after_s((KEY[0], "unknown")) == 60
    assert throttle.retry_after_s((KEY[0], "cheap-0")) == 0, "it has its own counter"
    assert throttle.retry_after_s(OTHER) == 0
    clock.now += 120
    throttle.record(KEY)
    fail(throttle, KEY, 19)
    assert throttle.retry_after_s(KEY) == 60, "it has its own counter once the others have faded"
    assert throttle.retry_after_s((KEY[0], "unknown")) == 0


def test_few_addresses_cannot_evict_a_counter(clock: Clock) -> None:
    """A thousand addresses with a thousand IDs each do not fill the table."""
    throttle = Throttle(20, 3600.0, clock=clock)
    fail(throttle, KEY, 19)
    for number in range(1000):
        for id_number in range(SHARE + 2):
            throttle.record((f"address-{number}", f"id-{id_number}"))
    throttle.record(KEY)

    assert throttle.retry_after_s(KEY) > 0


def test_counters_that_have_faded_are_dropped(clock: Clock) -> None:
    """A failure that no longer counts takes no memory once another one is counted."""
    throttle = Throttle(1, 60.0, clock=clock)
    fill(throttle, range(100))
    clock.now += 120
    throttle.record(KEY)

    assert (
        throttle._throttle._tracked == len(throttle._throttle._groups) == len(throttle._throttle.blocked) == 1
    )


def test_the_clock_is_monotonic_by_default() -> None:
    """Without an injected clock it uses real seconds."""
    throttle: Any = Throttle(1, 3600.0)
    throttle.record(KEY)

    assert 3590 <= throttle.retry_after_s(KEY) <= 3600


# --- which refusals are logged


def test_each_block_has_one_first_refusal(clock: Clock) -> None:
    """The first refusal of each block is distinguished from later ones; there is none below the limit."""
    throttle = Throttle(2, 60.0, clock=clock)
    throttle.record(KEY)
    assert not throttle.take_first_refusal(KEY)
    fail(throttle, KEY, 3)
    assert [throttle.take_first_refusal(KEY) for _ in range(3)] == [True, False, False]
    assert not throttle.take_first_refusal(OTHER)

    clock.now += 600
    assert throttle.retry_after_s(KEY) == 0
    fail(throttle, KEY, 2)
    assert [throttle.take_first_refusal(KEY) for _ in range(3)] == [True, False, False]


def test_a_block_that_has_ended_has_no_first_refusal(clock: Clock) -> None:
    """A block that ended before any refusal is dropped."""
    throttle = Throttle(1, 60.0, clock=clock)
    throttle.record(KEY)

    clock.now += 60
    assert throttle.retry_after_s(KEY) == 0
    assert not throttle.take_first_refusal(KEY)


# --- both limits of a middleware

ADDRESS, CLIENT_ID = KEY


@pytest.mark.parametrize(
    ("by_pair", "by_address", "on"),
    [("", "", False), ("20/minute", "", True), ("", "20/minute", True), ("20/minute", "20/minute", True)],
)
def test_limits_may_be_off(by_pair: str, by_address: str, on: bool) -> None:
    """An empty rate disables a limit; without limits nothing is counted."""
    limits = FailureThrottle(by_pair, by_address)

    assert limits.enabled is on
    for _ in range(19):
        limits.record(ADDRESS, CLIENT_ID)
    assert limits.check(ADDRESS, CLIENT_ID) is None
    assert not limits.active
    limits.record(ADDRESS, CLIENT_ID)
    assert limits.active is on
    assert (limits.check(ADDRESS, CLIENT_ID) is not None) is on


@pytest.mark.proves("O5")
def test_the_limit_by_pair_affects_no_other_pair() -> None:
    """Failures block that ID from that address, and no other pair."""
    limits = FailureThrottle("2/hour", "")
    for _ in range(2):
        limits.record(ADDRESS, CLIENT_ID)

    assert limits.active
    blocked = limits.check(ADDRESS, CLIENT_ID)
    assert blocked is not None
    assert limits.take_first_refusal(blocked)
    assert 3590 <= blocked.retry_after_s <= 3600
    again = limits.check(ADDRESS, CLIENT_ID)
    assert again is not None
    assert not limits.take_first_refusal(again)
    assert limits.check(OTHER[0], CLIENT_ID) is None
    assert limits.check(ADDRESS, "another") is None
    assert limits.check(ADDRESS, None) is None


def test_the_limit_by_address_counts_every_id() -> None:
    """Failures with different IDs, and headers without an ID, add up; another address is not affected."""
    limits = FailureThrottle("2/hour", "3/hour")
    limits.record(ADDRESS, "a")
    limits.record(ADDRESS, "b")
    assert limits.check(ADDRESS, "c") is None
    limits.record(ADDRESS, None)

    for client_id in ("a", "c", None):
        assert isinstance(limits.check(ADDRESS, client_id), Blocked)
    assert limits.check(OTHER[0], "a") is None


def test_unreadable_credentials_count_for_the_address_alone() -> None:
    """Without a readable ID there is no pair."""
    limits = FailureThrottle("1/hour", "")
    for _ in range(5):
        limits.record(ADDRESS, None)

    assert not limits.active
    assert limits.check(ADDRESS, None) is None


def test_pairs_are_distinct() -> None:
    """An address and an ID are separate values: no two pairs give the same key."""
    limits = FailureThrottle("1/hour", "")
    limits.record("10.0.0.1", "1x")

    assert limits.check("10.0.0.1", "1x") is not None
    assert limits.check("10.0.0.11", "x") is None


def test_the_throttle_is_inactive_when_the_block_has_ended() -> None:
    """``active`` becomes false once an ended block is noticed."""
    limits = FailureThrottle("1/second", "1/second")
    limits.record(ADDRESS, CLIENT_ID)
    assert limits.active

    ends = time.monotonic() + 10
    while limits.check(ADDRESS, CLIENT_ID) is not None:
        assert time.monotonic() < ends
        time.sleep(0.05)
    assert not limits.active


# --- the address of a client


@pytest.mark.parametrize(
    ("address", "other"),
    [
        ("192.0.2.1", "192.0.2.2"),
        ("2001:db8:1:2::1", "2001:db8:1:3::1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2"),
        ("::1", "::ffff:192.0.2.1"),
        ("unix:", "unix:/run/app.sock"),
        ("host-a", "host-b"),
        ("192.0.2.1, 192.0.2.2", "192.0.2.1, 192.0.2.3"),
        ("\udc80", "\udc81"),
        ("[", "]"),
        ("x" * 60_000, "x" * 60_001),
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_addresses_of_two_clients(address: str, other: str) -> None:
    """All other values are different clients, whether they are addresses or not."""
    limits = FailureThrottle("1/hour", "1/hour")
    limits.record(address, "a")
    assert limits.check(address, "a") is not None
    assert limits.check(other, "a") is None


def test_long_ids_and_addresses_take_a_fixed_number_of_bytes() -> None:
    """Counters store digests, not what the client sent."""
    limits = FailureThrottle("1/hour", "1/hour")
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(500):
            limits.record(f"{number}".zfill(60_000), f"{number}".zfill(6000))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert after - before < 500 * 2000


@pytest.mark.parametrize("known", ["nothing", "this batch", "an earlier time"])
def test_totals_that_are_too_low_do_not_replace_the_own_count(clock: Clock, known: str) -> None:
    """The store may have no room for a counter, lose its counts, or get them from a clock that is wrong."""
    throttle = FailureThrottle("20/minute", "", clock=clock, wall_clock=clock.wall)
    throttle.share()
    for _ in range(20):
        throttle.record(*KEY)
        clock.now += 0.1
        for counter, count in throttle.drain("pair", 9).items():
            total = {"nothing": (0, 0), "this batch": (0, count), "an earlier time": (1, count)}[known]
            throttle.merge("pair", {counter: total})

    assert throttle.check(*KEY) is not None
