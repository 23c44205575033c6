"""Processes share their counts of failures, and count alone while the store cannot."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.auth.throttle import FailureThrottle
from basicauth_mw.backends import shared_failures
from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.backends.shared_failures import SharedFailures
from basicauth_mw.errors import BackendUnavailable, ReadOnlyBackend
from tests.waiting import LIMIT_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


CLIENT = ("192.0.2.1", "ci")


class Process:
    """The throttle of one process, and its exchange with the others."""

    def __init__(
        self, store: shared_failures.FailureStore, by_pair: str = "20/minute", by_address: str = ""
    ) -> None:
        self.throttle = FailureThrottle(by_pair, by_address)
        self.shared = SharedFailures(store, self.throttle, self.throttle.share())

    def fail(self, times: int = 1, client: tuple[str, str] = CLIENT) -> None:
        for _ in range(times):
            self.throttle.record(*client)
            self.shared.wake()

    def is_blocked(self, client: tuple[str, str] = CLIENT) -> bool:
        return self.throttle.check(*client) is not None


class Store:
    """Counts failures in memory, or raises."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls = 0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.counts: dict[tuple[str, bytes], int] = {}

    def add_failures(
        self, limit: str, _period_s: float, failures: Mapping[bytes, int], /
    ) -> list[tuple[int, int]]:
        self.calls += 1
        assert self.may_answer.wait(LIMIT_S)
        if self.error is not None:
            raise self.error
        for counter, count in failures.items():
            self.counts[limit, counter] = self.counts.get((limit, counter), 0) + count
        return [(0, self.counts[limit, counter]) for counter in failures]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def processes(store: Store) -> Iterator[list[Process]]:
    made = [Process(store), Process(store)]
    yield made
    for process in made:
        process.shared.stop()


@pytest.fixture(autouse=True)
def _start_of_a_minute() -> None:
    """Wait until the current minute is not about to end."""
    wait_until(lambda: time.time() % 60 < 55)


def test_a_process_learns_the_failures_of_others_with_its_next_one(
    processes: list[Process], store: Store
) -> None:
    first, second = processes
    first.fail(20)
    wait_until(lambda: sum(store.counts.values()) == 20)
    assert first.is_blocked()
    assert not second.is_blocked()

    second.fail()

    wait_until(second.is_blocked)
    assert not second.is_blocked(("192.0.2.2", "ci"))
    assert not second.is_blocked(("192.0.2.1", "other"))


def test_both_limits_are_shared(store: Store) -> None:
    made = [Process(store, "", "3/minute"), Process(store, "9/minute", "3/minute")]
    made[0].fail(2)
    wait_until(lambda: sum(store.counts.values()) == 2)
    made[1].fail()

    wait_until(made[1].is_blocked)
    assert made[1].is_blocked(("192.0.2.1", "other"))
    for process in made:
        process.shared.stop()


def test_requests_do_not_wait_and_failures_are_sent_in_batches(
    processes: list[Process], store: Store
) -> None:
    first, _ = processes
    store.may_answer.clear()
    first.fail()
    wait_until(lambda: store.calls == 1)
    first.fail(10)

    assert store.calls == 1
    store.may_answer.set()
    wait_until(lambda: sum(store.counts.values()) == 11)
    assert store.calls == 2


def test_during_an_outage_each_process_counts_alone(
    processes: list[Process], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_failures, "_OUTAGE_PAUSE_S", 0.05)
    first, second = processes
    store.error = BackendUnavailable("down")
    first.fail(20)
    second.fail(19)
    assert first.is_blocked()
    assert not second.is_blocked()

    calls = store.calls
    wait_until(lambda: store.calls > calls or second.fail() or store.calls > calls + 2)
    store.error = None
    wait_until(lambda: second.fail() or store.counts)
    assert second.is_blocked()


def test_a_process_without_permission_does_not_try_again(
    processes: list[Process], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "basicauth_mw")
    first, _ = processes
    store.error = ReadOnlyBackend("not allowed")
    first.fail()
    wait_until(lambda: caplog.records)
    first.fail(19)

    assert first.is_blocked()
    assert store.calls == 1
    assert [record.getMessage() for record in caplog.records] == [
        "each process counts its failed requests separately: not allowed"
    ]


def test_stopping_ends_the_thread(store: Store) -> None:
    before = set(threading.enumerate())
    process = Process(store)
    process.fail()
    wait_until(lambda: store.counts)
    (thread,) = set(threading.enumerate()) - before
    process.shared.stop()
    thread.join(LIMIT_S)

    assert not thread.is_alive()
    process.fail()
    wait_until(lambda: sum(store.counts.values()) == 2)
    process.shared.stop()


def test_over_redis(redis_url: str) -> None:
    with closing(RedisStore(redis_url, deadline_s=5)) as store:
        made = [Process(store) for _ in range(4)]
        allowed = 0
        while not all(process.is_blocked() for process in made):
            for process in made:
                if not process.is_blocked():
                    allowed += 1
                    process.fail()
                    wait_until(lambda: not process.throttle._by_pair._new)  # type: ignore[union-attr]  # noqa: B023
            assert allowed < 200
        for process in made:
            process.shared.stop()

    assert 20 <= allowed <= 30
