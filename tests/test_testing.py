"""``basicauth_mw.testing``: its helpers, and that authentication is bypassed in tests only."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from werkzeug.middleware.proxy_fix import ProxyFix

from basicauth_mw import Backend, ConfigurationError, Issued, Principal, Settings, encode_basic, testing
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.errors import InvalidKey
from basicauth_mw.integrations import fastapi as fastapi_integration
from basicauth_mw.integrations import flask as flask_integration
from basicauth_mw.testing import BasicAuth, authenticated_as
from basicauth_mw.testing.fixtures import api_key as api_key
from basicauth_mw.testing.fixtures import api_keys as api_keys
from basicauth_mw.wsgi import BasicAuthMiddleware as WsgiMiddleware
from tests.asgi.helpers import App, Exchange, call, http_scope
from tests.integrations import django_site
from tests.wsgi.helpers import call as call_wsgi

# isort: split
from django.test import AsyncClient, Client, override_settings

if TYPE_CHECKING:
    from collections.abc import Callable

# --- BasicAuth for clients


@pytest.mark.parametrize("client_id", ["ci", "\u3042 \u00e9"])
def test_httpx_sends_a_key(client_id: str) -> None:
    """In both of its clients, and encoded as UTF-8."""
    auth = BasicAuth(client_id, "p:\u00fc")
    seen: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(204)

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handle), auth=auth) as client:
            await client.get("http://test/")

    with httpx.Client(transport=httpx.MockTransport(handle), auth=auth) as client:
        client.get("http://test/")
    asyncio.run(main())

    assert seen == [encode_basic(client_id, "p:\u00fc")] * 2


def test_other_clients_call_it_with_the_request() -> None:
    """requests calls it with the prepared request, and sends what it returns."""
    request = SimpleNamespace(headers={})

    assert BasicAuth("ci", "secret")(request) is request
    assert request.headers == {"Authorization": encode_basic("ci", "secret")}


def test_an_invalid_client_id_is_an_error() -> None:
    with pytest.raises(InvalidKey):
        BasicAuth("a:b", "secret")


def test_repr_hides_the_secret() -> None:
    assert repr(BasicAuth("ci", "hush")) == "BasicAuth('ci', ...)"


# --- fixtures


def test_the_fixtures_create_a_key(api_keys: Backend, api_key: Issued) -> None:
    """In a backend for this test alone."""
    assert [key.client_id for key in api_keys.iter_keys()] == ["test"]
    app = BasicAuthMiddleware(App(), api_keys, settings=Settings())

    assert call(app, http_scope(api_key.authorization)).status == 200
    assert call(app, http_scope()).status == 401


def test_the_fixtures_ignore_the_environment(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("BASICAUTH_REALMS", "misspelt")
    monkeypatch.setenv("BASICAUTH_SECRET_PREFIX", "live")

    assert request.getfixturevalue("api_key").secret.startswith("sk_")


# --- authenticated_as


def asgi_app(keys: Backend, **overrides: Any) -> BasicAuthMiddleware:
    return BasicAuthMiddleware(App(), keys, settings=Settings(), **overrides)


def seen_principal(app: BasicAuthMiddleware) -> Principal:
    """The principal that the innermost app received."""
    inner: Any = app.app
    principal: Principal = inner.scopes[-1]["user"]
    return principal


def test_requests_without_credentials_are_accepted(
    api_keys: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    app = asgi_app(api_keys)
    given: dict[str, Any] = {"name": "Me", "scopes": ["read"], "metadata": {"team": "a"}}

    with authenticated_as(app, "me", **given) as principal:
        assert call(app, http_scope()).status == 200

    assert seen_principal(app) == principal == Principal("me", "Me", frozenset(["read"]), {"team": "a"})
    assert call(app, http_scope()).status == 401
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_credentials_are_still_verified(api_keys: Backend, api_key: Issued) -> None:
    app = asgi_app(api_keys)

    with authenticated_as(app, "me"):
        assert call(app, http_scope(encode_basic("test", "wrong"))).status == 401
        assert call(app, http_scope(b"Bearer x")).status == 401
        assert call(app, http_scope(api_key.authorization)).status == 200

    assert seen_principal(app).client_id == "test"


def test_excluded_paths_and_https_are_still_checked(api_keys: Backend) -> None:
    app = asgi_app(api_keys, exclude=["/open"], require_https=True)

    with authenticated_as(app):
        assert call(app, http_scope()).problem["code"] == "https_required"
        assert call(app, http_scope(path="/open")).status == 200
        assert not seen_principal(app).is_authenticated
        assert call(app, http_scope(scheme="https")).status == 200
        assert seen_principal(app).client_id == "test"


def test_optional_paths(api_keys: Backend) -> None:
    """A request without credentials comes from the given caller there, too."""
    app = asgi_app(api_keys, optional=["/feed"], include=["/api/*"])

    with authenticated_as(app):
        assert call(app, http_scope(path="/feed")).status == 200
        assert seen_principal(app).client_id == "test"
        assert call(app, http_scope(path="/elsewhere")).status == 200
        assert not seen_principal(app).is_authenticated
    assert call(app, http_scope(path="/feed")).status == 200
    assert not seen_principal(app).is_authenticated


def test_it_ends_with_an_exception(api_keys: Backend) -> None:
    app = asgi_app(api_keys)

    with pytest.raises(KeyError), authenticated_as(app):
        raise KeyError

    assert call(app, http_scope()).status == 401


def test_it_can_decorate_a_test(api_keys: Backend) -> None:
    app = asgi_app(api_keys)

    @authenticated_as(app)
    def send_request() -> int:
        return call(app, http_scope()).status

    assert (send_request(), send_request(), call(app, http_scope()).status) == (200, 200, 401)


def test_it_is_bound_to_one_app(api_keys: Backend) -> None:
    one, other = asgi_app(api_keys), asgi_app(api_keys)

    with authenticated_as(one, "one"):
        assert call(other, http_scope()).status == 401
        with authenticated_as(other, "other"):
            assert call(one, http_scope()).status == 200
            assert seen_principal(one).client_id == "one"


def test_nesting_is_an_error(api_keys: Backend) -> None:
    """The outer block stays in effect."""
    app = asgi_app(api_keys)

    with authenticated_as(app, "outer"):
        with pytest.raises(RuntimeError, match="already active for this app"), authenticated_as(app, "inner"):
            pytest.fail("must not be reached")
        assert call(app, http_scope()).status == 200

    assert seen_principal(app).client_id == "outer"


@pytest.mark.parametrize(
    "given", [{"client_id": "a:b"}, {"client_id": ""}, {"scopes": ["a b"]}, {"scopes": "read"}]
)
def test_invalid_principals_are_refused(api_keys: Backend, given: Any) -> None:
    app = asgi_app(api_keys)

    with pytest.raises(InvalidKey), authenticated_as(app, **given):
        pytest.fail("must not be reached")

    assert call(app, http_scope()).status == 401


# --- only inside a running test


def test_it_fails_outside_a_test(api_keys: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    app = asgi_app(api_keys)

    with monkeypatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST")
        with (
            pytest.raises(RuntimeError, match="only inside a running test of pytest or unittest"),
            authenticated_as(app),
        ):
            pytest.fail("must not be reached")


UNITTEST = """
import threading
import unittest
from basicauth_mw import Settings
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.testing import authenticated_as
from tests.asgi.helpers import App, call, http_scope

app = BasicAuthMiddleware(App(), "memory:", settings=Settings())
left_on = authenticated_as(app)

def send_request():
    exchange = call(app, http_scope())
    return exchange.raised or exchange.status

class Test(unittest.TestCase):
    def setUp(self):
        self.enterContext(authenticated_as(app))

    def test_it_is_on(self):
        self.assertEqual(send_request(), 200)

    def test_in_a_thread(self):
        seen = []
        thread = threading.Thread(target=lambda: seen.append(send_request()))
        thread.start()
        thread.join()
        self.assertEqual(seen, [200])

class TestAsync(unittest.IsolatedAsyncioTestCase):
    async def test_it_is_on(self):
        with authenticated_as(app):
            await app(http_scope(), None, self.send)
        self.assertEqual(self.status, 200)

    async def send(self, message):
        self.status = message.get("status", 200)

class TestLeftOn(unittest.TestCase):
    def test_1(self):
        left_on.__enter__()
        self.assertEqual(send_request(), 200)

    def test_2(self):
        self.assertIn("was not exited by __main__.TestLeftOn.test_1;", str(send_request()))

class TestNone(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        authenticated_as(app).__enter__()

    def test(self):
        pass

result = unittest.main(exit=False).result
assert isinstance(send_request(), RuntimeError)
left_on.__exit__(None, None, None)
assert send_request() == 401
assert result.testsRun == 5, result
(_, trace), = result.errors
assert "only inside a running test of pytest or unittest" in trace, trace
assert result.failures == [], result.failures
"""


def test_unittest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules are the same under unittest, which ``manage.py test`` uses."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")

    done = subprocess.run([sys.executable, "-c", UNITTEST], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr


REFUSAL = "authenticated_as works only inside a running test of pytest or unittest"
PROGRAM = """
import pytest  # as some libraries do
import unittest.case
from basicauth_mw import Settings, asgi, testing
app = asgi.BasicAuthMiddleware(print, "memory:", settings=Settings())
try:
    with testing.authenticated_as(app):
        print("on")
except RuntimeError as exc:
    print(exc)
"""


def test_it_fails_in_a_process_that_a_test_started() -> None:
    """Such a process inherits the environment variable of pytest."""
    assert "PYTEST_CURRENT_TEST" in os.environ

    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr) == (f"{REFUSAL}\n", "")


def test_left_on_every_request_fails(api_keys: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the next test, between two tests, and in a forked process."""
    app = asgi_app(api_keys)
    manager = authenticated_as(app)
    manager.__enter__()
    own = os.environ["PYTEST_CURRENT_TEST"]

    def send_request() -> Exchange:
        return call(app, http_scope())

    assert send_request().status == 200
    with monkeypatch.context() as patch:
        patch.setenv("PYTEST_CURRENT_TEST", "tests/other.py::test_other (call)")
        assert f"was not exited by {own.rpartition(' (')[0]}" in str(send_request().raised)
        assert send_request().messages == []
    with monkeypatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST")
        assert isinstance(send_request().raised, RuntimeError)
    with monkeypatch.context() as patch:
        patch.setattr(testing.os, "getpid", lambda: 1)
        assert isinstance(send_request().raised, RuntimeError)
    manager.__exit__(None, None, None)
    assert send_request().status == 401


@pytest.fixture
def on_from_setup(api_keys: Backend) -> Any:
    app = asgi_app(api_keys)
    with authenticated_as(app):
        yield app


def test_a_fixture_can_enable_it(on_from_setup: BasicAuthMiddleware) -> None:
    """Set-up, call and tear-down belong to one test."""
    assert call(on_from_setup, http_scope()).status == 200


def test_a_thread_can_enable_it(api_keys: Backend) -> None:
    app = asgi_app(api_keys)
    statuses: list[int] = []

    def work() -> None:
        with authenticated_as(app):
            statuses.append(call(app, http_scope()).status)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert statuses == [200]


# --- finding the middleware in an app


def fastapi_installed(keys: Backend) -> Any:
    app = FastAPI()
    fastapi_integration.install(app, keys, settings=Settings())
    app.add_middleware(GZipMiddleware)
    app.get("/")(lambda: 1)
    return app


def starlette_added(keys: Backend) -> Any:
    added = Middleware(BasicAuthMiddleware, backend=keys, settings=Settings(exclude=()))
    return Starlette(middleware=[Middleware(GZipMiddleware), added])


def starlette_with_a_handler(keys: Backend) -> Any:
    """The outermost layer has the attributes ``handler`` and ``app``."""
    app = starlette_added(keys)
    app.add_exception_handler(Exception, lambda _request, _exc: Response(status_code=500))
    return app


def wrapped(keys: Backend) -> Any:
    return GZipMiddleware(asgi_app(keys))


@pytest.mark.parametrize("make", [fastapi_installed, starlette_added, starlette_with_a_handler, wrapped])
def test_asgi_apps(api_keys: Backend, make: Callable[[Backend], Any]) -> None:
    app = make(api_keys)

    with authenticated_as(app):
        assert call(app, http_scope()).status in (200, 404)
    assert call(app, http_scope()).status == 401


def flask_extended(keys: Backend) -> Any:
    app = Flask("tested")
    flask_integration.BasicAuth(app, keys)
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    return app


def flask_client(keys: Backend) -> Any:
    return flask_extended(keys).test_client()


def flask_wrapped(keys: Backend) -> Any:
    return WsgiMiddleware(Flask("tested"), keys, settings=Settings())


@pytest.mark.parametrize("make", [flask_extended, flask_wrapped, flask_client])
def test_wsgi_apps(api_keys: Backend, make: Callable[[Backend], Any]) -> None:
    given = make(api_keys)
    app = getattr(given, "application", given)

    with authenticated_as(given):
        assert call_wsgi(app).status == 404
    assert call_wsgi(app).status == 401


SYNC_FIRST = [
    "django.middleware.common.CommonMiddleware",
    "tests.test_testing.sync_only",
    django_site.MIDDLEWARE_PATH,
]


class sync_only:
    """A synchronous middleware, which Django adapts to async."""

    async_capable = False

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        return self.get_response(request)


@pytest.mark.parametrize(
    "middleware", [[django_site.MIDDLEWARE_PATH], SYNC_FIRST], ids=["alone", "below-others"]
)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_django(api_keys: Backend, middleware: list[str], kind: str) -> None:
    """The middleware is found inside the test client."""

    def get(client: Any) -> int:
        status: int = (client.get("/me") if kind == "sync" else asyncio.run(client.get("/me"))).status_code
        return status

    with override_settings(BASICAUTH_BACKEND=api_keys, MIDDLEWARE=middleware):
        client = Client() if kind == "sync" else AsyncClient()
        with authenticated_as(client, "me"):
            assert get(client) == 200
        assert get(client) == 401


def test_an_unprotected_app_is_an_error() -> None:
    endless = SimpleNamespace()
    endless.app = endless

    for app in (FastAPI(), Flask("bare"), App(), endless):
        with pytest.raises(ConfigurationError, match="found no BasicAuthMiddleware"), authenticated_as(app):
            pytest.fail("must not be reached")
