"""Optional paths: anonymous without credentials; with them as strict as any other path."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, InsufficientScope, Issued, Principal, Settings, encode_basic, require_scopes
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIBasicAuth
from tests.asgi.helpers import App, call, connect, http_scope, websocket_scope
from tests.auth.helpers import AUTHORIZATION, WRONG, Client, Switch, assert_unavailable
from tests.wsgi import helpers as wsgi_helpers

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.proves("X58")

SETTINGS = Settings(optional=("/feed", "/feed/*"), throttle="3/minute")


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def client(app: App, backend: Backend, issued: Issued) -> Client:
    return Client(BasicAuthMiddleware(app, backend, settings=SETTINGS))


def test_without_credentials_the_caller_is_anonymous(client: Client, app: App) -> None:
    """The same identity as on an open path; an identity from outside is removed."""
    for path in ("/feed", "/feed/x"):
        forged = {"user": "root", "auth": "root", "basicauth_mw.principal": "root"}
        assert client.request(None, path=path, **forged).status == 200
        scope = app.scopes[-1]
        assert scope["user"] == scope["auth"] == scope["basicauth_mw.principal"] == Principal.anonymous()
    assert client.request(None, path="/feed/").status == 401
    assert client.request(None, path="/").status == 401


def test_without_credentials_under_wsgi(backend: Backend) -> None:
    seen: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [])
        return [b""]

    protected = WSGIBasicAuth(app, backend, settings=SETTINGS)
    forged = {"REMOTE_USER": "root", "AUTH_TYPE": "Basic", "basicauth_mw.principal": "root"}
    assert wsgi_helpers.call(protected, path="/feed", **forged).status == 200
    assert wsgi_helpers.call(protected, path="/other", **forged).status == 401
    (environ,) = seen
    assert environ["basicauth_mw.principal"] is None
    assert not {"REMOTE_USER", "AUTH_TYPE"} & set(environ)


def test_credentials_are_verified(client: Client, app: App, issued: Issued) -> None:
    for _ in range(2):  # the second time from the cache
        assert client.request(issued.authorization, path="/feed").status == 200
        assert app.scopes[-1]["user"].client_id == "ci"


@pytest.mark.parametrize(
    "sent",
    [WRONG, encode_basic("unknown", "x"), "Basic", "Basic !", "Bearer x", "", " ", "\t", b"\xff"],
    ids=lambda sent: "wrong" if sent == WRONG else repr(sent),  # a random secret, and workers compare IDs
)
def test_other_credentials_are_refused(backend: Backend, issued: Issued, app: App, sent: Any) -> None:
    """A header without a value too: some servers pass on an empty one for what they could not read."""
    client = Client(BasicAuthMiddleware(app, backend, settings=SETTINGS))

    on_optional, elsewhere = (client.request(sent, path=path) for path in ("/feed", "/other"))

    assert on_optional.status == elsewhere.status == 401
    assert on_optional.headers["www-authenticate"] == elsewhere.headers["www-authenticate"]
    assert on_optional.problem["code"] == elsewhere.problem["code"]
    assert app.scopes == []


def test_repeated_credentials_are_refused(client: Client, issued: Issued) -> None:
    fields = [(b"authorization", issued.authorization.encode())] * 2
    assert client.request(None, path="/feed", headers=fields).status == 401


def test_failures_are_throttled(client: Client, issued: Issued) -> None:
    """Together with those on other paths; a request without credentials is never throttled."""
    for path in ("/feed", "/other", "/feed"):
        assert client.request(WRONG, path=path).status == 401
    assert client.request(issued.authorization, path="/feed").status == 429
    for _ in range(5):
        assert client.request(None, path="/feed").status == 200


def test_a_store_that_is_down(app: App) -> None:
    """Anonymous requests do not need it."""
    store = Switch()
    store.on = False
    client = Client(BasicAuthMiddleware(app, store, settings=SETTINGS))

    assert client.request(None, path="/feed").status == 200
    assert store.calls == 0
    assert_unavailable(client.request(AUTHORIZATION, path="/feed"))
    store.on = True
    assert client.request(AUTHORIZATION, path="/feed").status == 200


def test_https_is_required_there_too(backend: Backend, issued: Issued, app: App) -> None:
    """With or without credentials: a client learns it before it sends any."""
    settings = SETTINGS.replace(require_https=True, exclude=("/health",))
    client = Client(BasicAuthMiddleware(app, backend, settings=settings))

    for sent in (None, issued.authorization):
        assert client.request(sent, path="/feed").problem["code"] == "https_required"
        assert client.request(sent, path="/feed", scheme="https").status == 200
    assert client.request(None, path="/health").status == 200


def test_a_websocket(client: Client, issued: Issued, app: App) -> None:
    app.messages = ({"type": "websocket.accept"},)
    assert connect(client.middleware, websocket_scope(WRONG, path="/feed")).status == 401
    for sent, who in ((None, ""), (issued.authorization, "ci")):
        connect(client.middleware, websocket_scope(sent, path="/feed"))
        assert app.scopes[-1]["user"].client_id == who


@pytest.mark.parametrize("path", ["/feed", "/api/x", "/health", "/elsewhere"])
def test_all_three_rules(backend: Backend, issued: Issued, app: App, path: str) -> None:
    """``include`` opens the rest, and a listed path follows its own rule."""
    settings = SETTINGS.replace(include=("/api/*",), exclude=("/health",))
    client = Client(BasicAuthMiddleware(app, backend, settings=settings))

    statuses = [client.request(sent, path=path).status for sent in (None, WRONG, issued.authorization)]

    expected = {"/feed": [200, 401, 200], "/api/x": [401, 401, 200]}
    assert statuses == expected.get(path, [200, 200, 200])
    who = "" if path in ("/health", "/elsewhere") else "ci"
    assert app.scopes[-1]["user"].client_id == who


def test_an_unknown_mount_point_protects(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "basicauth_mw"):
        for _ in range(2):
            assert client.request(None, path="/v1/feed", root_path="/v1").status == 401
    (record,) = caplog.records
    assert "BASICAUTH_ROOT_PATH" in record.getMessage()


def test_the_rules_are_logged_at_startup(
    app: App, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "basicauth_mw")
    BasicAuthMiddleware(app, backend, settings=SETTINGS.replace(include=("/api/*",)))

    assert [record.getMessage() for record in caplog.records] == [
        "open without credentials: every path except '/api/*'",
        "credentials are optional: '/feed', '/feed/*'",
    ]


def test_an_include_that_leaves_paths_below_it_open_is_a_warning_at_startup(
    app: App, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """Many expect ``include=["/api"]`` to protect ``/api/x`` as well. An entry for the folder does that."""
    caplog.set_level(logging.WARNING, "basicauth_mw")
    BasicAuthMiddleware(app, backend, settings=SETTINGS.replace(include=("/api", "/me", "/me/*")))

    assert [record.getMessage() for record in caplog.records] == [
        "include has '/api', which leaves the paths below it open; add '/api/*' to protect them"
    ]


# --- a missing scope


async def scoped_asgi(scope: Any, _receive: Any, _send: Any) -> None:
    require_scopes(scope["user"], "write")


def scoped_wsgi(environ: Any, _start_response: Any) -> list[bytes]:
    require_scopes(environ["basicauth_mw.principal"], "write")
    return []


def status_asgi(backend: Backend, settings: Settings, sent: str | None, path: str) -> tuple[int, Any, str]:
    seen = call(BasicAuthMiddleware(scoped_asgi, backend, settings=settings), http_scope(sent, path=path))
    assert seen.raised is None
    return seen.status, seen.problem["code"], seen.headers.get("www-authenticate", "")


def status_wsgi(backend: Backend, settings: Settings, sent: str | None, path: str) -> tuple[int, Any, str]:
    seen = wsgi_helpers.call(WSGIBasicAuth(scoped_wsgi, backend, settings=settings), sent, path=path)
    return seen.status, seen.code, seen.named.get("WWW-Authenticate", "")


@pytest.mark.parametrize("status_of", [status_asgi, status_wsgi])
def test_an_anonymous_caller_without_a_scope_gets_a_challenge(
    status_of: Callable[..., tuple[int, Any, str]],
    backend: Backend,
    issued: Issued,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It can send a key. With a key that lacks the scope, or where a key is not read, it is a 403."""
    caplog.set_level(logging.DEBUG, "basicauth_mw.audit")
    status, code, challenge = status_of(backend, SETTINGS, None, "/feed")
    assert (status, code) == (401, "missing_credentials")
    assert challenge.startswith("Basic realm=")
    (record,) = caplog.records
    assert record.basicauth["reason"] == "missing"  # type: ignore[attr-defined]
    assert record.levelno == logging.DEBUG

    assert status_of(backend, SETTINGS, issued.authorization, "/feed") == (403, "insufficient_scope", "")
    excluded = SETTINGS.replace(optional=(), exclude=("/feed",))
    assert status_of(backend, excluded, None, "/feed") == (403, "insufficient_scope", "")


def test_a_raised_insufficient_scope_too(backend: Backend) -> None:
    app = App(raises=ExceptionGroup("a task", [InsufficientScope()]))
    app.messages = ()
    seen = Client(BasicAuthMiddleware(app, backend, settings=SETTINGS)).request(None, path="/feed")
    assert (seen.status, seen.raised) == (401, None)


def test_a_password_is_verified_too(backend: Backend, app: App) -> None:
    backend.create(client_id="person", secret="a password")
    client = Client(BasicAuthMiddleware(app, backend, settings=SETTINGS))
    assert client.request(encode_basic("person", "a password"), path="/feed").status == 200
    assert client.request(encode_basic("person", generate("sk")), path="/feed").status == 401
