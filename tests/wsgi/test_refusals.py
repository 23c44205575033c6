"""Which requests are refused, and the responses to them."""

from __future__ import annotations

import logging
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basicauth_mw import Backend, Issued, Settings, encode_basic
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import hash_password
from basicauth_mw.keys.model import Key, Secret, utcnow
from basicauth_mw.wsgi import BasicAuthMiddleware
from tests.waiting import wait_until
from tests.wsgi.helpers import (
    LIMIT_S,
    Untouchable,
    call,
    call_validated,
)
from tests.wsgi.recording_app import (
    PRINCIPAL,
    App,
    FakeStore,
)

CHALLENGE = 'Basic realm="api", charset="UTF-8"'


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def middleware(app: App, backend: Backend) -> BasicAuthMiddleware:
    return BasicAuthMiddleware(validator(app), backend, settings=Settings())


# --- refusals


@pytest.mark.proves("W2", "W3", "W13", "W15")
@pytest.mark.parametrize("field", [None, "", " ", "\t \t"], ids=["absent", "empty", "blank", "blanks"])
def test_no_credentials(middleware: BasicAuthMiddleware, app: App, field: str | None) -> None:
    """Some servers pass an empty header for one that they could not parse."""
    response = call_validated(middleware, field)

    assert response.status_line == "401 Unauthorized"
    assert response.named["WWW-Authenticate"] == CHALLENGE
    assert response.code == "missing_credentials"
    assert app.seen == []


@pytest.mark.proves("H11", "P8", "W1", "O4", "X19", "X23", "X26")
def test_every_refusal_looks_the_same(middleware: BasicAuthMiddleware, backend: Backend, app: App) -> None:
    """Malformed, unknown, wrong, expired, disabled and revoked give the same response."""
    expired, disabled, revoked = (backend.create(client_id=name) for name in ("old", "off", "gone"))
    store = backend.store
    stored = store.get("old")
    past = utcnow() - timedelta(seconds=1)
    assert store.put(replace(stored, expires_at=past, version=stored.version + 1), stored.version)
    backend.disable("off")
    backend.revoke("gone")
    fields = {
        "malformed": "Basic !",
        "scheme": "Bearer abc",
        "unknown": encode_basic("unknown", generate("sk")),
        "wrong": encode_basic("old", generate("sk")),
        "human": encode_basic("old", "password"),
        "expired": expired.authorization,
        "disabled": disabled.authorization,
        "revoked": revoked.authorization,
        "two": f"{expired.authorization}, {expired.authorization}",
        "high": "Basic \xff\xfe",
        "beyond-latin-1": "Basic \u20ac\u6771",
        "surrogate": "Basic \ud800",
        "control": "Basic \x00\r\n",
        "long": "Basic " + "A" * 100_000,
        "latin-1": "Basic " + b64encode("j\u00fcrgen:x".encode("latin-1")).decode(),
    }

    responses = {name: call(middleware, field) for name, field in fields.items()}

    (one,) = {
        (response.status_line, tuple(response.headers), response.body) for response in responses.values()
    }
    assert one[0] == "401 Unauthorized"
    assert responses["unknown"].code == "invalid_credentials"
    assert app.seen == []


@pytest.mark.proves("H15", "X36", "X37")
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "get", "FOO", "TRACE", "CONNECT", ""])
def test_every_method_is_checked(backend: Backend, app: App, method: str) -> None:
    response = call(BasicAuthMiddleware(app, backend, settings=Settings()), REQUEST_METHOD=method)

    assert response.code == "missing_credentials"
    assert app.seen == []


@pytest.mark.proves("H12")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_head_has_the_headers_of_get_and_no_body(middleware: BasicAuthMiddleware, method: str) -> None:
    response = call_validated(middleware, REQUEST_METHOD=method)

    assert response.headers == call_validated(middleware).headers
    assert (response.body == b"") == (method == "HEAD")


@pytest.mark.proves("W10")
@pytest.mark.parametrize("field", [None, "Basic !", encode_basic("unknown", "x")])
def test_a_refusal_does_not_touch_the_request_body(
    middleware: BasicAuthMiddleware, backend: Backend, app: App, field: str | None
) -> None:
    middleware = BasicAuthMiddleware(app, backend, settings=Settings())

    response = call(middleware, field, **{"wsgi.input": Untouchable(), "CONTENT_LENGTH": "100000000"})

    assert response.status == 401


@pytest.mark.proves("H2")
def test_proxy_authorization_is_not_read(middleware: BasicAuthMiddleware, issued: Issued) -> None:
    assert call(middleware, HTTP_PROXY_AUTHORIZATION=issued.authorization).status == 401


def test_a_harmless_request_id_is_repeated(middleware: BasicAuthMiddleware) -> None:
    assert call(middleware, HTTP_X_REQUEST_ID="a.B-9_").problem["request_id"] == "a.B-9_"
    for odd in ("", "a b", "x" * 129, "caf\u00e9", "\u20ac", 'a"b'):
        response = call(middleware, HTTP_X_REQUEST_ID=odd)
        assert response.problem["request_id"] not in ("", odd)


@pytest.mark.proves("H6")
def test_a_realm_goes_out_as_utf8(backend: Backend, app: App) -> None:
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(), realm='M\u00fcnchen "\u6771" \\')

    sent = call_validated(middleware).named["WWW-Authenticate"]

    assert sent.encode("latin-1").decode() == 'Basic realm="M\u00fcnchen \\"\u6771\\" \\\\", charset="UTF-8"'


def test_a_fetch_opens_no_password_dialog(backend: Backend, app: App) -> None:
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(), challenge="navigations")

    fetched = call(middleware, HTTP_SEC_FETCH_MODE="cors").named["WWW-Authenticate"]

    assert fetched == "x" + CHALLENGE
    assert call(middleware, HTTP_SEC_FETCH_MODE="navigate").named["WWW-Authenticate"] == CHALLENGE
    assert call(middleware).named["WWW-Authenticate"] == CHALLENGE


@pytest.mark.proves("O5", "X54")
def test_too_many_failures_are_throttled(backend: Backend, issued: Issued, app: App) -> None:
    """That client ID from that address, valid or not; another address is not affected."""
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(), throttle="3/hour")
    assert call(middleware, issued.authorization).status == 200
    wrong = encode_basic("ci", generate("sk"))

    statuses = [call(middleware, wrong).status for _ in range(5)]

    assert statuses == [401, 401, 401, 429, 429]
    blocked = call(middleware, issued.authorization)
    assert blocked.code == "throttled"
    assert int(blocked.named["Retry-After"]) >= 1
    assert call(middleware, issued.authorization, REMOTE_ADDR="192.0.2.2").status == 200


def test_without_an_address_no_client_is_throttled(
    backend: Backend, issued: Issued, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(), throttle="1/hour")
    wrong = encode_basic("ci", generate("sk"))

    statuses = {call(middleware, wrong, REMOTE_ADDR=address).status for address in ("", None) * 5}

    assert statuses == {401}
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


# --- rules: open paths, preflights, https


@pytest.mark.proves("X29", "X30", "X31", "X33")
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health", 200),
        ("/docs/a", 200),
        ("/caf\xc3\xa9", 200),
        ("/health/", 401),
        ("/Health", 401),
        ("/docs", 401),
        ("/docs/../x", 401),
        ("//health", 401),
        ("/health\x00", 401),
        ("/health\u20ac", 401),
        ("/caf\xe9", 401),
        ("/\ud800", 401),
        ("health", 401),
        ("http://evil/health", 401),
        ("", 401),
    ],
)
def test_open_paths(backend: Backend, app: App, path: str, status: int) -> None:
    """PATH_INFO is bytes as latin-1; an ambiguous path is protected and never an error."""
    middleware = BasicAuthMiddleware(
        app, backend, settings=Settings(), exclude=("/health", "/docs/*", "/caf\u00e9")
    )

    assert call(middleware, path=path).status == status


@pytest.mark.proves("X30")
def test_open_paths_are_below_the_mount_point(backend: Backend, app: App) -> None:
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(), exclude=("/health",))

    assert call(middleware, path="/health", SCRIPT_NAME="/app").status == 200
    assert call(middleware, path="/app/health", SCRIPT_NAME="/app").status == 401
    assert call(middleware, path="/x", SCRIPT_NAME="/health").status == 401
    assert call(middleware, path="", SCRIPT_NAME="/health").status == 401


@pytest.mark.proves("X29")
@pytest.mark.parametrize("name", ["RAW_URI", "REQUEST_URI"])
def test_the_raw_path_is_checked_too(backend: Backend, app: App, name: str) -> None:
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(), exclude=("/docs/*",))

    assert call(middleware, path="/docs/a", **{name: "/docs/a?x=%2f"}).status == 200
    assert call(middleware, path="/docs/a/b", **{name: "/docs/a%2Fb"}).status == 401
    assert call(middleware, path="/docs/a", **{name: "/docs/\u20ac\ud800"}).status in (200, 401)


@pytest.mark.parametrize(
    "missing",
    ["PATH_INFO", "SCRIPT_NAME", "REMOTE_ADDR", "REQUEST_METHOD", "wsgi.url_scheme", "SERVER_SOFTWARE"],
)
def test_a_missing_variable_is_no_error(backend: Backend, issued: Issued, app: App, missing: str) -> None:
    middleware = BasicAuthMiddleware(
        app, backend, settings=Settings(), exclude=("/health",), allow_preflight=True, require_https=False
    )

    assert call(middleware, **{missing: None}).status == 401
    assert call(middleware, issued.authorization, **{missing: None}).status == 200


@pytest.mark.proves("X36")
def test_a_preflight_reaches_the_app_if_allowed(backend: Backend, app: App) -> None:
    preflight = {
        "REQUEST_METHOD": "OPTIONS",
        "HTTP_ORIGIN": "https://a.example",
        "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "GET",
    }
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(), allow_preflight=True)

    assert call(middleware, **preflight).status == 200
    assert app.seen[0][PRINCIPAL] is None
    assert "REMOTE_USER" not in app.seen[0]
    for changed in ("HTTP_ORIGIN", "HTTP_ACCESS_CONTROL_REQUEST_METHOD", "REQUEST_METHOD"):
        assert call(middleware, **{**preflight, changed: None}).status == 401
    assert call(middleware, **{**preflight, "REQUEST_METHOD": "GET"}).status == 401
    assert call(BasicAuthMiddleware(app, backend, settings=Settings()), **preflight).status == 401


@pytest.mark.proves("B7")
def test_plain_http_can_be_refused(backend: Backend, issued: Issued, app: App) -> None:
    """Before the credentials are read, and never by a redirect."""
    middleware = BasicAuthMiddleware(
        app, backend, settings=Settings(), require_https=True, exclude=("/open",)
    )

    for field in (None, "Basic !", issued.authorization):
        response = call_validated(middleware, field)
        assert response.status_line == "403 Forbidden"
        assert response.code == "https_required"
    assert app.seen == []
    assert call_validated(middleware, issued.authorization, **{"wsgi.url_scheme": "https"}).status == 200
    assert call_validated(middleware, path="/open").status == 200


@pytest.mark.proves("X19", "X20", "X42")
@given(
    field=st.none() | st.text(max_size=60),
    path=st.text(max_size=30),
    method=st.text(max_size=8),
    request_id=st.text(max_size=20),
    raw=st.text(max_size=30),
)
def test_random_input_is_refused_without_an_error(
    field: str | None, path: str, method: str, request_id: str, raw: str
) -> None:
    """Whatever a server makes of bytes from a client, including code points over 255."""
    app = App()
    middleware = BasicAuthMiddleware(
        app,
        FakeStore(lambda _client_id: None),
        settings=Settings(throttle=""),
        exclude=("/health", "/docs/*"),
        allow_preflight=True,
    )
    given = {"REQUEST_METHOD": method, "HTTP_X_REQUEST_ID": request_id, "RAW_URI": raw}

    response = call(middleware, field, path=path, **given)

    assert response.raised is None
    assert response.status == (200 if app.seen else 401)


# --- backends that fail


def basic_key(client_id: str, secret: str) -> Key:
    return Key(client_id=client_id, created_at=utcnow(), secrets=(Secret(hash_password(secret)),))


def raising(exc: BaseException) -> Any:
    def get(_client_id: str) -> Any:
        raise exc

    return get


@pytest.mark.proves("H13", "W3")
@pytest.mark.parametrize(
    "get",
    [
        pytest.param(raising(BackendUnavailable("down")), id="unavailable"),
        pytest.param(raising(OSError("refused")), id="os-error"),
        pytest.param(raising(TimeoutError("slow")), id="timeout"),
        pytest.param(raising(KeyError("x")), id="key-error"),
        pytest.param(raising(StopIteration(Key(client_id="ci"))), id="stop-iteration"),
        pytest.param(raising(RuntimeError("hunter2")), id="anything"),
        pytest.param(raising(ExceptionGroup("several", [OSError()])), id="group"),
        pytest.param(lambda _: True, id="true"),
        pytest.param(lambda _: False, id="false"),
        pytest.param(lambda _: {}, id="dict"),
        pytest.param(lambda _: MappingProxyType({"client_id": "ci"}), id="mapping"),
        pytest.param(lambda _: "ci", id="text"),
        pytest.param(lambda _: Key(client_id="somebody-else"), id="another-key"),
    ],
)
def test_a_broken_backend_is_a_503(app: App, get: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Never 401, never 500, never accepted; logged once, without the store's own message."""
    middleware = BasicAuthMiddleware(app, FakeStore(get), settings=Settings())

    responses = [call_validated(middleware, encode_basic("ci", "hunter2")) for _ in range(3)]

    assert {response.status_line for response in responses} == {"503 Service Unavailable"}
    assert {response.code for response in responses} == {"backend_unavailable"}
    assert int(responses[0].named["Retry-After"]) >= 1
    assert app.seen == []
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("field", [None, "Basic !"])
def test_requests_without_a_lookup_are_still_401_during_an_outage(app: App, field: str | None) -> None:
    middleware = BasicAuthMiddleware(app, FakeStore(raising(OSError())), settings=Settings())

    assert call(middleware, field).status == 401


@pytest.mark.proves("F2", "W14")
def test_a_hanging_backend_is_a_503_within_the_deadline(app: App) -> None:
    """Its threads are free again when it returns, and then it is called again."""
    hangs = threading.Event()

    def get(_client_id: str) -> Key | None:
        assert hangs.wait(LIMIT_S)
        return None

    middleware = BasicAuthMiddleware(
        app, FakeStore(get), settings=Settings(throttle=""), backend_deadline_s=0.2
    )
    field = encode_basic("unknown", generate("sk"))

    def timed(_number: int) -> tuple[int, float]:
        began = time.monotonic()
        return call(middleware, field).status, time.monotonic() - began

    with ThreadPoolExecutor(30) as pool:
        responses = list(pool.map(timed, range(30)))
    hangs.set()

    assert {status for status, _ in responses} == {503}
    assert max(duration_s for _, duration_s in responses) < 1.5
    wait_until(lambda: call(middleware, field).status == 401)


def test_a_store_that_can_be_interrupted_is(app: App) -> None:
    """``interrupt`` frees the threads of a store that would hang indefinitely."""
    hung: dict[int, threading.Event] = {}
    hangs = True

    class Interruptible:
        def get(self, _client_id: str) -> Key | None:
            if hangs:
                event = hung[threading.get_ident()] = threading.Event()
                if event.wait(LIMIT_S):
                    raise OSError("interrupted")
            return None

        def interrupt(self, thread_id: int) -> None:
            hung[thread_id].set()

    middleware = BasicAuthMiddleware(
        app, Interruptible(), settings=Settings(throttle=""), backend_deadline_s=0.05
    )
    field = encode_basic("unknown", generate("sk"))
    with ThreadPoolExecutor(12) as pool:
        statuses = set(pool.map(lambda _: call(middleware, field).status, range(24)))

    assert statuses == {503}
    hangs = False
    wait_until(lambda: call(middleware, field).status == 401)


def test_an_asynchronous_backend(app: App) -> None:
    """An object with only ``aget`` serves a synchronous app as well."""
    stored = {"ci": basic_key("ci", "password")}

    class Asynchronous:
        async def aget(self, client_id: str) -> Key | None:
            import asyncio

            await asyncio.sleep(0)
            return stored.get(client_id)

    middleware = BasicAuthMiddleware(validator(app), Asynchronous(), settings=Settings())

    assert call_validated(middleware, encode_basic("ci", "password")).status == 200
    assert call_validated(middleware, encode_basic("ci", "passwore")).status == 401
    assert call_validated(middleware, encode_basic("di", "password")).status == 401


def test_an_asynchronous_backend_that_hangs_frees_its_threads(app: App) -> None:
    """A coroutine can be cancelled: more hanging lookups than threads cause no lasting damage."""
    hangs = True

    class Asynchronous:
        async def aget(self, _client_id: str) -> Key | None:
            import asyncio

            if hangs:
                await asyncio.sleep(3600)
            return None

    middleware = BasicAuthMiddleware(
        app, Asynchronous(), settings=Settings(throttle=""), backend_deadline_s=0.1
    )
    field = encode_basic("unknown", generate("sk"))
    with ThreadPoolExecutor(12) as pool:
        statuses = set(pool.map(lambda _: call(middleware, field).status, range(24)))

    assert statuses == {503}
    hangs = False
    deadline = time.monotonic() + 3.0
    while (status := call(middleware, field).status) != 401:
        assert time.monotonic() < deadline, f"still {status}: the threads hang"


def test_a_cancelled_asynchronous_lookup_is_a_503(app: App) -> None:
    """A driver may raise CancelledError; in a thread no caller was cancelled."""

    class Asynchronous:
        async def aget(self, _client_id: str) -> Key | None:
            import asyncio

            raise asyncio.CancelledError

    middleware = BasicAuthMiddleware(app, Asynchronous(), settings=Settings())

    response = call(middleware, encode_basic("unknown", generate("sk")))

    assert response.raised is None
    assert response.status == 503


def test_a_full_pool_of_password_hashes_is_a_503_at_once(app: App) -> None:
    """One worker, eight waiting; all others get a 503 at once."""
    # A client each: concurrent requests of one client share one verification.
    stored = {f"ci-{number}": basic_key(f"ci-{number}", "password") for number in range(40)}
    middleware = BasicAuthMiddleware(
        app, FakeStore(stored.get), settings=Settings(throttle="", cache_ttl_s=0), slow_hash_workers=1
    )
    assert call(middleware, encode_basic("ci-0", "password")).status == 200
    together = threading.Barrier(40)

    def timed(number: int) -> tuple[Any, float]:
        right = encode_basic(f"ci-{number}", "password")
        together.wait(LIMIT_S)
        began = time.monotonic()
        return call(middleware, right), time.monotonic() - began

    with ThreadPoolExecutor(40) as pool:
        responses = list(pool.map(timed, range(40)))

    good_s = [duration_s for response, duration_s in responses if response.status == 200]
    refused = [(response, duration_s) for response, duration_s in responses if response.status != 200]
    assert len(good_s) >= 9, "those that were queued are served"
    assert {response.code for response, _ in refused} == {"overloaded"}
    assert {response.status_line for response, _ in refused} == {"503 Service Unavailable"}
    assert min(duration_s for _, duration_s in refused) < max(good_s)


def test_a_cached_credential_works_during_an_outage(app: App) -> None:
    """No other credential does."""
    down = False
    stored = {name: basic_key(name, "password") for name in ("ci", "di")}

    def get(client_id: str) -> Key | None:
        if down:
            raise OSError
        return stored.get(client_id)

    middleware = BasicAuthMiddleware(app, FakeStore(get), settings=Settings())
    assert call(middleware, encode_basic("ci", "password")).status == 200
    down = True

    assert call(middleware, encode_basic("ci", "password")).status == 200
    assert call(middleware, encode_basic("di", "password")).status == 503
    assert call(middleware, encode_basic("ci", "passwore")).status == 503
    down = False
    assert call(middleware, encode_basic("di", "password")).status == 200
