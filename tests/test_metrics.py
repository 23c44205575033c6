"""Prometheus metrics: the counts, in one process and in several, and that a cache hit stays fast."""

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
from basicauth_mw.errors import BackendUnavailable, InsufficientScope, MissingExtra
from basicauth_mw.integrations.fastapi import install
from basicauth_mw.integrations.flask import BasicAuth
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.metrics import REASONS, instrument
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIMiddleware
from tests.asgi.helpers import App, call, http_scope
from tests.runtime.test_fork import child_ends_well
from tests.servers.conftest import serve as serve
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.servers.conftest import Served

SETTINGS = Settings(throttle="")


class BlockingStore:
    """A store that blocks, and can be made unavailable."""

    def __init__(self) -> None:
        self.secret = generate("sk")
        self.key = Key("ci", secrets=(Secret(hash_secret(self.secret)),))
        self.unavailable = False

    def get(self, client_id: str) -> Key | None:
        if self.unavailable:
            raise BackendUnavailable("unavailable")
        return self.key if client_id == "ci" else None


class Measured:
    """An instrumented ASGI middleware with its own registry."""

    def __init__(self, app: Any = None, **settings: Any) -> None:
        self.store = BlockingStore()
        self.authorization = encode_basic("ci", self.store.secret)
        self.middleware = BasicAuthMiddleware(app or App(), self.store, settings=SETTINGS.replace(**settings))
        self.registry = CollectorRegistry()
        instrument(self.middleware, registry=self.registry)
        self.before = self.values()

    def request(self, authorization: str | None, path: str = "/") -> int:
        return call(self.middleware, http_scope(authorization, path=path)).status

    def values(self) -> Counter[str]:
        return values_of(generate_latest(self.registry).decode())

    def added(self) -> dict[str, float]:
        """The growth of each value since the start."""
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
STALE = "basicauth_keys_stale"


def denied(reason: str) -> str:
    return f'basicauth_decisions_total{{decision="deny",reason="{reason}"}}'


def test_decisions_cache_hits_and_blocking_lookups_are_counted() -> None:
    measured = Measured(exclude=("/health",), optional=("/feed",))
    right, wrong = measured.authorization, encode_basic("ci", "wrong")

    statuses = [measured.request(each) for each in (right, right, right, wrong, None)]

    assert statuses == [200, 200, 200, 401, 401]
    for path in ("/health", "/feed"):
        assert measured.request(None, path) == 200  # no credentials are verified, so nothing is counted
    added = {name: number for name, number in measured.added().items() if "seconds" not in name}
    assert added == {ALLOWED: 3, HITS: 2, denied("wrong_secret"): 1, denied("missing"): 1}
    assert measured.added()[WAITS] == 2


def test_only_an_instrumented_middleware_is_counted() -> None:
    measured = Measured()
    other = BasicAuthMiddleware(App(), measured.store, settings=SETTINGS)

    assert call(other, http_scope(None)).status == 401
    assert measured.request(None) == 401
    assert measured.added() == {denied("missing"): 1}


def test_a_broken_key_file_sets_the_gauge(tmp_path: Path) -> None:
    """While its last good keys are still used."""
    path = tmp_path / "keys"
    path.write_text("ci:a password\n")
    registry = CollectorRegistry()
    backend = open_backend(f"file:{path}", settings=SETTINGS)
    middleware = BasicAuthMiddleware(App(), backend, settings=SETTINGS)
    instrument(middleware, registry=registry)

    def stale() -> float:
        return values_of(generate_latest(registry).decode())[STALE]

    assert (call(middleware, http_scope(encode_basic("ci", "a password"))).status, stale()) == (200, 0)
    path.write_text("ci\n")
    wait_until(lambda: stale() == 1)
    path.write_text("ci:a password\n")
    wait_until(lambda: stale() == 0)
    backend.close()


def test_a_missing_scope_counts_as_allowed_and_refused() -> None:
    async def app(*_request: object) -> None:
        raise InsufficientScope(scopes=["reports:read"])

    measured = Measured(app=app)

    assert measured.request(measured.authorization) == 403
    added = measured.added()
    assert (added[ALLOWED], added[denied("insufficient_scope")]) == (1, 1)


def test_without_a_cache_every_request_is_a_lookup() -> None:
    measured = Measured(cache_ttl_s=0)
    for _ in range(3):
        measured.request(measured.authorization)

    assert measured.added()[ALLOWED] == measured.added()[WAITS] == 3
    assert HITS not in measured.added()


def test_an_open_circuit_sets_the_gauge_and_stops_lookups() -> None:
    measured = Measured(backend_deadline_s=0.05)
    measured.store.unavailable = True
    statuses = []
    breaker = measured.middleware.authenticator.reader.breaker
    breaker._deadline_s = 0
    while not breaker.is_open:
        statuses.append(measured.request(measured.authorization))
    waited = measured.added()[WAITS]
    statuses.append(measured.request(measured.authorization))

    assert set(statuses) == {503}
    assert measured.added()[OPEN] == 1
    assert measured.added()[WAITS] == waited
    assert measured.added()[denied("backend_unavailable")] == len(statuses)

    measured.store.unavailable = False
    wait_until(lambda: OPEN not in measured.added())


def test_lookups_in_a_nonblocking_store_are_not_timed() -> None:
    keys = open_backend("memory:", settings=SETTINGS)
    middleware = WSGIMiddleware(lambda _environ, start: start("200 OK", []) and [], keys, settings=SETTINGS)
    registry = CollectorRegistry()
    instrument(middleware, registry=registry)
    issued = keys.create()
    environ = {"HTTP_AUTHORIZATION": issued.authorization, "REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    middleware(environ, lambda _status, _headers: print)

    values = values_of(generate_latest(registry).decode())
    assert (values[ALLOWED], values[WAITS]) == (1, 0)


@pytest.mark.proves("X53")
def test_every_series_exists_from_the_start() -> None:
    """The labels are a closed set: one for each reason of a refusal."""
    values = Measured().values()

    assert {name for name in values if name.startswith("basicauth_decisions")} == {
        ALLOWED,
        *map(denied, REASONS),
    }
    assert set(REASONS) == _AUDITED | {"https_required", "insufficient_scope"}
    assert {HITS, OPEN, WAITS} < set(values)


@pytest.mark.proves("X53")
def test_requests_cannot_create_series() -> None:
    """No ID, method, path or header of a request becomes a label."""
    measured = Measured(throttle="5/minute")
    for number in range(300):
        seen = call(
            measured.middleware,
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


def test_without_instrument_the_cache_is_called_directly() -> None:
    authenticator = BasicAuthMiddleware(App(), "memory:", settings=SETTINGS).authenticator

    assert authenticator._cached == authenticator._cache.get
    assert authenticator.reader.metrics is None


def test_a_hit_takes_no_lock() -> None:
    """It calls nothing of prometheus-client: a scrape in another thread does not delay requests."""
    measured = Measured()
    measured.request(measured.authorization)
    hook: Any = measured.middleware.authenticator.reader.metrics

    with hook._lock, measured.registry._lock, hook._hits._value._lock, hook._allowed._value._lock:
        assert measured.request(measured.authorization) == 200
    assert measured.added()[HITS] == 1


def test_hits_in_several_threads_are_all_counted_while_metrics_are_collected() -> None:
    measured = Measured()
    hook: Any = measured.middleware.authenticator.reader.metrics
    get = hook.wrap_cache_get(lambda field: field)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda: [get(b"x") for _ in range(20_000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            hook.flush()
    finally:
        sys.setswitchinterval(interval)

    assert measured.added() == {HITS: 80_000, ALLOWED: 80_000}


def test_a_forked_child_starts_at_zero() -> None:
    measured = Measured()
    for _ in range(2):
        measured.request(measured.authorization)

    def child() -> None:
        values = measured.values()
        assert (values[ALLOWED], values[HITS], values[WAITS]) == (0, 0, 0)
        measured.request(measured.authorization)
        measured.request(measured.authorization)
        values = measured.values()
        assert (values[ALLOWED], values[HITS], values[WAITS]) == (2, 1, 1)

    assert child_ends_well(child)
    assert measured.added()[ALLOWED] == 2


# --- what can be instrumented


def test_the_middleware_is_found_inside_apps() -> None:
    middleware = BasicAuthMiddleware(App(), "memory:", settings=SETTINGS)
    api = FastAPI()
    install(api, "memory:", settings=SETTINGS)
    flask = Flask(__name__)
    BasicAuth(flask, "memory:")
    inner = flask.wsgi_app
    flask.wsgi_app = lambda *request: inner(*request)  # type: ignore[method-assign]
    wrapped = Flask(__name__)
    wrapped.wsgi_app = WSGIMiddleware(wrapped.wsgi_app, "memory:", settings=SETTINGS)  # type: ignore[method-assign]

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


def test_middleware_of_a_starlette_app_is_found_once_it_has_started() -> None:
    """An app whose middleware was built early would accept no more middleware."""
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
def test_unprotected_apps_are_refused(protected: tuple[object, ...]) -> None:
    registry = CollectorRegistry()

    with pytest.raises(ConfigurationError, match=r"instrument\(\)"):
        instrument(*protected, registry=registry)
    assert values_of(generate_latest(registry).decode()) == {}


def test_instrumenting_twice_is_refused() -> None:
    measured = Measured()
    other = BasicAuthMiddleware(App(), "memory:", settings=SETTINGS)

    with pytest.raises(ConfigurationError, match="already instrumented"):
        instrument(measured.middleware, registry=CollectorRegistry())
    with pytest.raises(ConfigurationError, match="this registry already has these metrics"):
        instrument(other, registry=measured.registry)
    assert other.authenticator.reader.metrics is None


def test_without_prometheus_client_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtra, match=r"basicauth_mw\[metrics\]"):
        instrument(BasicAuthMiddleware(App(), "memory:", settings=SETTINGS))


# --- several processes


def test_a_scrape_of_any_worker_has_the_metrics_of_all(serve: Callable[..., Served], tmp_path: Path) -> None:
    """Two workers are forked from a process that has loaded the app; a scrape reaches one of them."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    served = serve("measured-2-workers", BASICAUTH_KEYS="ci:secret", PROMETHEUS_MULTIPROC_DIR=str(folder))
    by_worker: Counter[str] = Counter()
    while len(by_worker) < 2 or min(by_worker.values()) < 3:
        response = served.request("GET", "/", auth=("ci", "secret"))
        assert response.status_code == 200
        by_worker[response.text] += 1
    for _ in range(5):
        assert served.request("GET", "/").status_code == 401

    def values() -> Counter[str]:
        response = served.request("GET", "/metrics")  # a 500 while another worker creates its files
        return values_of(response.text) if response.status_code == 200 else Counter()

    wait_until(lambda: values()[ALLOWED] == by_worker.total() and values()[denied("missing")] == 5)
    assert values()[HITS] == by_worker.total() - 2  # each worker has looked the key up once
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
middleware, other = (BasicAuthMiddleware(app, keys, settings=Settings()) for _ in range(2))
right = keys.create(client_id="ci").authorization
instrument(middleware)
try:
    instrument(other)
except ConfigurationError as exc:
    assert "multi-process mode" in str(exc)
else:
    raise SystemExit("it was instrumented twice")

def send_request(authorization):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    if authorization:
        environ["HTTP_AUTHORIZATION"] = authorization
    middleware(environ, lambda status, headers: None)

def scraped(name):
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    try:
        lines = generate_latest(registry).decode().splitlines()
    except struct.error:
        return None  # prometheus-client does not expect a file that is being created
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0)

def wait_for(name, number):
    give_up_at = time.monotonic() + 20
    while scraped(name) != number:
        assert time.monotonic() < give_up_at, (name, scraped(name))
        time.sleep(0.02)

ALLOWED, MISSING = ('basicauth_decisions_total{decision="%s",reason="%s"}' % each
                    for each in (("allow", "ok"), ("deny", "missing")))
send_request(None)
wait_for(MISSING, 1)
send_request(right); send_request(right)
middleware.authenticator.reader.metrics.flush()
assert (scraped(ALLOWED), scraped("basicauth_cache_hits_total")) == (2, 1)
child = os.fork()
if child == 0:
    send_request(right)
    wait_for(ALLOWED, 3)  # its own, and what its parent has counted
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert len({name for name in os.listdir(sys.argv[1]) if name.startswith("counter_")}) == 2
thread = middleware.authenticator.reader.metrics._flusher.stop()
thread.join(20)
assert not thread.is_alive()
"""


def test_each_process_writes_its_values_into_files(tmp_path: Path) -> None:
    """A forked child writes separate files."""
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


def test_ready_looks_a_key_up() -> None:
    store = BlockingStore()
    backend = Backend(store, settings=SETTINGS.replace(backend_deadline_s=0.2))
    assert backend.ready()
    assert asyncio.run(backend.aready())

    store.unavailable = True
    assert not backend.ready()
    assert not asyncio.run(backend.aready())

    store.unavailable = False
    wait_until(backend.ready)


def test_ready_keeps_to_the_deadline_and_never_raises() -> None:
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
