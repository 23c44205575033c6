"""When a store counts as unavailable, and the circuit breaker: no request waits for an unavailable store."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import Backend, Settings, encode_basic
from basicauth_mw.backends.availability import FAILURES_TO_OPEN, CircuitBreaker
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.errors import BackendError, BackendUnavailable, Overloaded, UnreadableRecord
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.runtime.pool import QueueFull
from basicauth_mw.wsgi import BasicAuthMiddleware
from tests.runtime.test_fork import child_ends_well
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from basicauth_mw import Key

GONE = BackendUnavailable("gone")


class Probe:
    """The probe of a store that is unavailable until the test changes it."""

    def __init__(self) -> None:
        self.calls = 0
        self.away = True

    def __call__(self) -> None:
        self.calls += 1
        if self.away:
            raise GONE


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def breaker(probe: Probe) -> Iterator[CircuitBreaker]:
    breaker = CircuitBreaker(probe, deadline_s=0)
    yield breaker
    breaker.close()


def fail(breaker: CircuitBreaker, times: int = FAILURES_TO_OPEN, exc: Exception = GONE) -> None:
    for _ in range(times):
        breaker.record_failure(exc)


def test_it_opens_after_failures_in_a_row(breaker: CircuitBreaker) -> None:
    fail(breaker, FAILURES_TO_OPEN - 1)
    breaker.record_success()
    fail(breaker, FAILURES_TO_OPEN - 1)
    breaker.check()
    fail(breaker, 1)
    with pytest.raises(BackendUnavailable):
        breaker.check()


def test_a_failure_without_a_wait_does_not_open_it(breaker: CircuitBreaker) -> None:
    """A client whose IDs make a store raise must not shut out the others."""
    fail(breaker, 100, KeyError("an id"))
    breaker.check()


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        pytest.param(
            TimeoutError(), BackendUnavailable, "the store did not respond within 2.5 s", id="timeout"
        ),
        pytest.param(QueueFull(), BackendUnavailable, "too many lookups are waiting", id="queue"),
        pytest.param(KeyError("hunter2"), BackendUnavailable, "the store raised KeyError", id="other"),
        pytest.param(GONE, BackendUnavailable, "gone", id="unavailable"),
        pytest.param(Overloaded("busy"), Overloaded, "busy", id="overloaded"),
        pytest.param(UnreadableRecord("damaged"), UnreadableRecord, "damaged", id="record"),
    ],
)
def test_every_failure_becomes_a_503(
    probe: Probe, raised: Exception, error: type[BackendError], message: str
) -> None:
    """Without the text of a foreign exception, which may contain a password."""
    breaker = CircuitBreaker(probe, deadline_s=2.5)

    raised_instead = breaker.record_failure(raised)

    assert type(raised_instead) is error
    assert raised_instead.status == 503
    assert str(raised_instead) == message


def test_a_breaker_that_is_closed_during_an_outage_can_be_used_again(
    breaker: CircuitBreaker, probe: Probe
) -> None:
    """Its thread has stopped, so nothing but the next lookup can notice the recovery."""
    fail(breaker)
    breaker.close()
    breaker.check()
    fail(breaker)
    with pytest.raises(BackendUnavailable):
        breaker.check()


def test_it_stays_closed_while_other_lookups_succeed(probe: Probe) -> None:
    """When part of a store fails, the rest is still used."""
    breaker = CircuitBreaker(probe, deadline_s=60)
    breaker.record_success()
    fail(breaker, 100)
    breaker.check()


def test_it_never_opens_without_a_probe() -> None:
    breaker = CircuitBreaker(None, deadline_s=0)
    fail(breaker, 100)
    breaker.check()


@pytest.mark.proves("F1")
def test_it_closes_when_the_probe_succeeds(breaker: CircuitBreaker, probe: Probe) -> None:
    """For every outage, not only the first."""
    for _ in range(2):
        probe.away, probe.calls = True, 0
        fail(breaker)
        wait_until(lambda: probe.calls >= 2)
        assert breaker.is_open
        probe.away = False
        wait_until(lambda: not breaker.is_open)
        breaker.check()


def test_a_closed_breaker_does_not_probe(breaker: CircuitBreaker, probe: Probe) -> None:
    probe.away = False
    fail(breaker)
    wait_until(lambda: not breaker.is_open)
    calls = probe.calls
    fail(breaker, 1)
    breaker.record_success()
    time.sleep(0.6)  # in which it would have been probed twice
    assert probe.calls == calls


def test_close_stops_its_thread(probe: Probe) -> None:
    breaker = CircuitBreaker(probe, deadline_s=0)
    before = set(threading.enumerate())
    fail(breaker)
    started = set(threading.enumerate()) - before  # libraries may start threads in between
    (new,) = (thread for thread in started if thread.name == "basicauth_mw probe")
    breaker.close()
    new.join(10)
    assert not new.is_alive()


def test_a_forked_child_starts_with_a_closed_breaker(breaker: CircuitBreaker) -> None:
    fail(breaker)

    def work() -> None:
        breaker.check()
        fail(breaker)
        assert breaker.is_open

    assert child_ends_well(work)
    assert breaker.is_open


@pytest.mark.proves("F1")
def test_each_transition_is_logged_once(
    breaker: CircuitBreaker, probe: Probe, caplog: pytest.LogCaptureFixture
) -> None:
    """The recovery too, even if no request noticed it."""
    with caplog.at_level(logging.WARNING, "basicauth_mw"):
        fail(breaker, 50)
        probe.away = False
        wait_until(lambda: not breaker.is_open)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "gone" in caplog.text


class Stuck(MemoryStore):
    """A store that does not reply, so that lookups wait."""

    get_nowait = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.go_on.set()

    def get(self, client_id: str, /) -> Key | None:
        assert self.go_on.wait(60)
        return super().get(client_id)


@pytest.mark.proves("F2")
def test_an_outage_does_not_cost_every_request_the_deadline() -> None:
    """Recovery needs no request; malformed and missing credentials are refused as usual meanwhile."""
    store, deadline_s = Stuck(), 0.3
    settings = Settings(backend_deadline_s=deadline_s, throttle="")
    backend = Backend(store, settings=settings)
    issued = backend.create()
    authenticator = BasicAuthMiddleware(lambda *_: [], backend, settings=settings, map_errors=False)

    def status(authorization: str) -> int:
        seen: list[str] = []
        environ = {"HTTP_AUTHORIZATION": authorization, "REQUEST_METHOD": "GET"}
        authenticator(environ, lambda line, _headers, _exc_info=None: seen.append(line))
        return int(seen[0][:3]) if seen else 200

    store.go_on.clear()
    unknown = encode_basic("unknown", generate("sk"))
    begin = time.monotonic()
    assert [status(issued.authorization) for _ in range(50)] == [503] * 50
    assert time.monotonic() - begin < (FAILURES_TO_OPEN + 2) * deadline_s
    assert status(unknown) == 503
    assert status("Basic !") == 401

    store.go_on.set()
    wait_until(lambda: status(unknown) == 401, 5)
    assert status(issued.authorization) == 200
    backend.close()
