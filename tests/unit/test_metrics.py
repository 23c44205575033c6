"""Metrics: what is counted, in one process and in several, and that a request pays nothing for it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from flask import Flask
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from basicauth_mw import (
    Backend,
    ConfigurationError,
    Key,
    Secret,
    Settings,
    encode_basic,
    hash_secret,
    open_backend,
)
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.auth.authenticator import _AUDITED
from basicauth_mw.auth.discovery import find_authenticator
from basicauth_mw.errors import BackendUnavailable, MissingExtra
from basicauth_mw.integrations.fastapi import install
from basicauth_mw.integrations.flask import BasicAuth
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.metrics import REASONS, Tally, instrument
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIGate
from tests.servers.conftest import serve as serve
from tests.shells.asgi_helpers import App, call, http_scope
from tests.unit.test_fork import child_ends_well
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.servers.conftest import Served

SETTINGS = Settings(throttle="")


class Waiting:
    """A store that has to wait, and can be away."""

    def __init__(self) -> None:
        self.secret = generate("sk")
        self.key = Key("ci", secrets=(Secret(hash_secret(self.secret)),))
        self.away = False

    def get(self, client_id: str) -> Key | None:
        if self.away:
            raise BackendUnavailable("away")
        return self.key if client_id == "ci" else None


class Measured:
    """An ASGI gate in a registry of its own; values are told as what was added since."""

    def __init__(self, **settings: Any) -> None:
        self.store = Waiting()
        self.authorization = encode_basic("ci", self.store.secret)
        self.authenticator = BasicAuthMiddleware(App(), self.store, settings=SETTINGS.replace(**settings))
        self.registry = CollectorRegistry()
        instrument(self.authenticator, registry=self.registry)
        self.before = self.values()

    def ask(self, authorization: str | None, path: str = "/") -> int:
        return call(self.authenticator, http_scope(authorization, path=path)).status

    def values(self) -> Counter[str]:
        return values_of(generate_latest(self.registry).decode())

    def added(self) -> dict[str, float]:
        now = self.values()
        return {
            name: number - self.before[name] for name, number in now.items() if number - self.before[name]
        }


def values_of(text: str) -> Counter[str]:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return Counter({name: float(value) for name, _, value in lines if "_created" not in name})


ALLOWED = 'basicauth_decisions_total{decision="allow",reason="ok"}'
HITS = "basicauth_cache_hits_total"
WAITS = "basicauth_backend_seconds_count"
OPEN = "basicauth_circuit_open"


def denied(reason: str) -> str:
    return f'basicauth_decisions_total{{decision="deny",reason="{reason}"}}'


def test_decisions_hits_and_waits_are_counted() -> None:
    measured = Measured(exclude=("/health",))
    right, wrong = measured.authorization, encode_basic("ci", "wrong")

    asked = [measured.ask(each) for each in (right, right, right, wrong, None)]

    assert asked == [200, 200, 200, 401, 401]
    assert measured.ask(None, "/health") == 200  # nothing is verified there, so nothing is counted
    added = {name: number for name, number in measured.added().items() if "seconds" not in name}
    assert added == {ALLOWED: 3, HITS: 2, denied("wrong_secret"): 1, denied("missing"): 1}
    assert measured.added()[WAITS] == 2


def test_without_a_cache_everything_is_looked_up() -> None:
    measured = Measured(cache_ttl_s=0)
    for _ in range(3):
        measured.ask(measured.authorization)

    assert measured.added()[ALLOWED] == measured.added()[WAITS] == 3
    assert HITS not in measured.added()


def test_an_open_circuit_is_seen_and_nobody_waits_meanwhile() -> None:
    measured = Measured(backend_deadline_s=0.05)
    measured.store.away = True
    statuses = []
    breaker = measured.authenticator.authenticator.reader.breaker
    breaker._quiet_s = 0
    while not breaker.is_open:
        statuses.append(measured.ask(measured.authorization))
    waited = measured.added()[WAITS]
    statuses.append(measured.ask(measured.authorization))

    assert set(statuses) == {503}
    assert measured.added()[OPEN] == 1
    assert measured.added()[WAITS] == waited
    assert measured.added()[denied("backend_unavailable")] == len(statuses)

    measured.store.away = False
    wait_until(lambda: OPEN not in measured.added())


def test_a_store_that_does_not_wait_is_not_timed() -> None:
    keys = open_backend("memory:", settings=SETTINGS)
    authenticator = WSGIGate(lambda _environ, start: start("200 OK", []) and [], keys, settings=SETTINGS)
    registry = CollectorRegistry()
    instrument(authenticator, registry=registry)
    issued = keys.create()
    environ = {"HTTP_AUTHORIZATION": issued.authorization, "REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    authenticator(environ, lambda _status, _headers: print)

    values = values_of(generate_latest(registry).decode())
    assert (values[ALLOWED], values[WAITS]) == (1, 0)


@pytest.mark.proves("X53")
def test_every_series_is_there_from_the_start() -> None:
    """A closed set: every reason that a refusal can have, and no other label."""
    values = Measured().values()

    assert {name for name in values if name.startswith("basicauth_decisions")} == {
        ALLOWED,
        *map(denied, REASONS),
    }
    assert set(REASONS) == _AUDITED | {"https_required", "insufficient_scope"}
    assert {HITS, OPEN, WAITS} < set(values)


@pytest.mark.proves("X53")
def test_nobody_can_make_a_series() -> None:
    """Whatever ids, methods, paths and fields are sent: the numbers change, and their names do not."""
    measured = Measured(throttle="5/minute")
    for number in range(300):
        seen = call(
            measured.authenticator,
            http_scope(
                encode_basic(f"id-{number % 97}", generate("sk")) if number % 3 else f"{number} x",
                method=f"M{number}",
                path=f"/path/{number}",
                headers=[(f"x-{number}".encode(), b"x"), (b"x-request-id", f"r-{number}".encode())],
            ),
        )
        assert seen.status in (401, 429)

    assert measured.values().keys() == measured.before.keys()
    assert sum(measured.added().values()) >= 300


def test_without_instrument_a_hit_is_what_it_was() -> None:
    authenticator = BasicAuthMiddleware(App(), "memory:", settings=SETTINGS).authenticator

    assert authenticator._cached == authenticator._cache.get
    assert authenticator.reader.metrics is None


def test_a_hit_takes_no_lock() -> None:
    """And asks nothing of prometheus-client: while somebody reads, requests go on."""
    measured = Measured()
    measured.ask(measured.authorization)
    hits = measured.authenticator.authenticator.reader.metrics._hits  # type: ignore[union-attr]

    with hits._lock, measured.registry._lock:
        assert measured.ask(measured.authorization) == 200
    assert measured.added()[HITS] == 1


def test_a_tally_loses_nothing_between_threads() -> None:
    tally = Tally()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda: [tally.add() for _ in range(20_000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            tally.total()
    finally:
        sys.setswitchinterval(interval)

    assert tally.total() == tally.total() == 80_000
    tally._forget()  # as in a forked child
    assert tally.total() == 0
    tally.add()
    assert tally.total() == tally.total() == 1


def test_a_forked_child_counts_its_own() -> None:
    measured = Measured()
    for _ in range(2):
        measured.ask(measured.authorization)

    def child() -> None:
        values = measured.values()
        assert (values[ALLOWED], values[HITS], values[WAITS]) == (0, 0, 0)
        measured.ask(measured.authorization)
        assert measured.values()[ALLOWED] == 1

    assert child_ends_well(child)
    assert measured.added()[ALLOWED] == 2


# --- what can be measured


def test_apps_are_measured_by_their_gate() -> None:
    middleware = BasicAuthMiddleware(App(), "memory:", settings=SETTINGS)
    api = FastAPI()
    install(api, "memory:", settings=SETTINGS)
    flask = Flask(__name__)
    BasicAuth(flask, "memory:")
    inner = flask.wsgi_app
    flask.wsgi_app = lambda *request: inner(*request)  # type: ignore[method-assign]
    wrapped = Flask(__name__)
    wrapped.wsgi_app = WSGIGate(wrapped.wsgi_app, "memory:", settings=SETTINGS)  # type: ignore[method-assign]

    assert (
        find_authenticator(middleware)
        is find_authenticator(middleware.authenticator)
        is middleware.authenticator
    )
    assert find_authenticator(flask) is flask.extensions["basicauth_mw"].authenticator
    assert find_authenticator(wrapped) is wrapped.wsgi_app.authenticator  # type: ignore[attr-defined]
    assert find_authenticator(CORSMiddleware(middleware)) is middleware.authenticator
    wrapped.wsgi_app = ProxyFix(inside := wrapped.wsgi_app)  # type: ignore[method-assign]
    assert find_authenticator(wrapped) is inside.authenticator  # type: ignore[attr-defined]
    registry = CollectorRegistry()
    instrument(middleware, api, flask, registry=registry)
    assert find_authenticator(api).reader.metrics is not None


def test_what_starlette_has_not_built_is_left_alone() -> None:
    """Built early, it would take no more middleware: so its gate is to be seen once the app has started."""
    app = Starlette()
    app.add_middleware(BasicAuthMiddleware, backend="memory:", settings=SETTINGS)

    assert find_authenticator(app) is None
    app.add_middleware(CORSMiddleware)
    assert call(app, http_scope()).status == 401
    assert find_authenticator(app) is not None


@pytest.mark.parametrize(
    "protected",
    [(), (FastAPI(),), (Flask(__name__),), (object(),), (None,)],
    ids=["none", "fastapi", "flask", "object", "None"],
)
def test_what_has_no_gate_cannot_be_measured(protected: tuple[object, ...]) -> None:
    registry = CollectorRegistry()

    with pytest.raises(ConfigurationError, match=r"instrument\(\)"):
        instrument(*protected, registry=registry)
    assert values_of(generate_latest(registry).decode()) == {}


def test_nothing_is_measured_twice() -> None:
    measured = Measured()
    other = BasicAuthMiddleware(App(), "memory:", settings=SETTINGS)

    with pytest.raises(ConfigurationError, match="measured already"):
        instrument(measured.authenticator, registry=CollectorRegistry())
    with pytest.raises(ConfigurationError, match="this registry has such metrics already"):
        instrument(other, registry=measured.registry)
    assert other.authenticator.reader.metrics is None


def test_without_prometheus_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtra, match=r"basicauth_mw\[metrics\]"):
        instrument(BasicAuthMiddleware(App(), "memory:", settings=SETTINGS))


# --- several processes


def test_any_worker_has_the_metrics_of_all(serve: Callable[..., Served], tmp_path: Path) -> None:
    """Two worker processes, forked from one that has loaded the app; a scrape reaches one of them."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    served = serve("measured-2-workers", BASICAUTH_KEYS="ci:secret", PROMETHEUS_MULTIPROC_DIR=str(folder))
    by_worker: Counter[str] = Counter()
    while len(by_worker) < 2 or min(by_worker.values()) < 3:
        answer = served.request("GET", "/", auth=("ci", "secret"))
        assert answer.status_code == 200
        by_worker[answer.text] += 1
    for _ in range(5):
        assert served.request("GET", "/").status_code == 401

    def values() -> Counter[str]:
        answer = served.request("GET", "/metrics")  # a 500 while another worker makes its files
        return values_of(answer.text) if answer.status_code == 200 else Counter()

    wait_until(lambda: values()[ALLOWED] == by_worker.total() and values()[denied("missing")] == 5)
    assert values()[HITS] == by_worker.total() - 2  # each has looked it up once
    assert values()[OPEN] == 0
    assert values()[denied("unknown")] == 0
    assert "basicauth_backend_seconds_bucket" in served.request("GET", "/metrics").text


SCRIPT = """
import os, struct, sys, time
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from basicauth_mw import ConfigurationError, Settings, open_backend
from basicauth_mw.metrics import instrument
from basicauth_mw.wsgi import BasicAuthMiddleware

def app(environ, start_response):
    start_response("200 OK", [])
    return []

keys = open_backend("memory:", settings=Settings())
gate, other = (BasicAuthMiddleware(app, keys, settings=Settings()) for _ in range(2))
right = keys.create(client_id="ci").authorization
instrument(gate)
try:
    instrument(other)
except ConfigurationError as exc:
    assert "multi-process mode" in str(exc)
else:
    raise SystemExit("it was measured twice")

def ask(authorization):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    if authorization:
        environ["HTTP_AUTHORIZATION"] = authorization
    gate(environ, lambda status, headers: None)

def scraped(name):
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    try:
        lines = generate_latest(registry).decode().splitlines()
    except struct.error:
        return None  # a file that is just being made, which prometheus-client does not expect
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0)

def wait_for(name, number):
    give_up_at = time.monotonic() + 20
    while scraped(name) != number:
        assert time.monotonic() < give_up_at, (name, scraped(name))
        time.sleep(0.02)

ALLOWED, MISSING = ('basicauth_decisions_total{decision="%s",reason="%s"}' % each
                    for each in (("allow", "ok"), ("deny", "missing")))
ask(None)  # which alone starts the thread
wait_for(MISSING, 1)
ask(right); ask(right)
gate.authenticator.reader.metrics.flush()
assert (scraped(ALLOWED), scraped("basicauth_cache_hits_total")) == (2, 1)
child = os.fork()
if child == 0:
    ask(right)
    wait_for(ALLOWED, 3)  # its own, beside what its parent has counted
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert len({name for name in os.listdir(sys.argv[1]) if name.startswith("counter_")}) == 2
gate.authenticator.reader.metrics._start()
gate.authenticator.reader.metrics._make()
thread = gate.authenticator.reader.metrics._background.end()
thread.join(20)
assert not thread.is_alive()
"""


def test_each_process_brings_its_numbers_into_files(tmp_path: Path) -> None:
    """A forked child in files of its own; the thread is there from the first refusal on."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={**environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr


# --- ready


def test_ready_asks_the_store() -> None:
    store = Waiting()
    backend = Backend(store, settings=SETTINGS.replace(backend_deadline_s=0.2))
    assert backend.ready()
    assert asyncio.run(backend.aready())

    store.away = True
    assert not backend.ready()
    assert not asyncio.run(backend.aready())

    store.away = False
    wait_until(backend.ready)


def test_ready_keeps_the_deadline_and_never_raises() -> None:
    release = threading.Event()

    class Hanging:
        def get(self, _client_id: str) -> None:
            release.wait(10)

    class Broken:
        def get(self, client_id: str) -> str:
            return client_id

    for store in (Hanging(), Broken()):
        backend = Backend(store, settings=SETTINGS.replace(backend_deadline_s=0.05))
        assert not backend.ready()
        assert not asyncio.run(backend.aready())
    release.set()
