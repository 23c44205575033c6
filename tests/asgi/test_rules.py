"""Excluded paths, CORS preflights, and plain http."""

from __future__ import annotations

import pytest

from basicauth_mw import (
    Backend,
    Issued,
    Principal,
    Settings,
    encode_basic,
)
from basicauth_mw.asgi import BasicAuthMiddleware
from tests.asgi.helpers import (
    App,
    call,
    http_scope,
    websocket_scope,
)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def middleware(app: App, backend: Backend) -> BasicAuthMiddleware:
    return BasicAuthMiddleware(app, backend, settings=Settings())


# --- open paths and preflight


@pytest.mark.proves("A15", "O8", "X28", "X29", "X30", "X31", "X33")
@pytest.mark.parametrize(
    ("path", "root_path", "raw_path", "is_open"),
    [
        ("/health", "", b"/health", True),
        ("/health", "", b"/health?x=%2f", True),
        ("/health", "", None, True),
        ("/docs/a/b", "", b"/docs/a/b", True),
        ("/docs", "", b"/docs", False),
        ("/docs/", "", b"/docs/", False),
        ("/health/", "", b"/health/", False),
        ("/HEALTH", "", b"/HEALTH", False),
        ("/healthx", "", b"/healthx", False),
        ("/api/health", "/api", b"/api/health", True),
        ("/health", "/api", b"/health", True),
        ("/apihealth", "/api", b"/apihealth", False),
        ("/docs/../admin", "", b"/docs/../admin", False),
        ("/docs//x", "", b"/docs//x", False),
        ("//health", "", b"//health", False),
        ("/docs/./x", "", b"/docs/./x", False),
        ("/docs/x;y", "", b"/docs/x;y", False),
        ("/docs/x\\y", "", b"/docs/x\\y", False),
        ("/docs/x\x00", "", b"/docs/x%00", False),
        ("/docs/x\n", "", b"/docs/x%0a", False),
        ("/docs/\ufffd", "", b"/docs/%ff", False),
        ("/docs/" + chr(0xDCFF), "", b"/docs/%ff", False),
        ("/docs/a/b", "", b"/docs/a%2fb", False),
        ("/docs/a", "", b"/%64ocs/a%2E", False),
        ("/health", "", b"/health%23", False),
        ("http://evil/health", "", b"http://evil/health", False),
        ("health", "", b"health", False),
        ("", "", b"", False),
        ("*", "", b"*", False),
    ],
)
def test_only_what_is_excluded_is_open(
    app: App,
    backend: Backend,
    path: str,
    root_path: str,
    raw_path: bytes | None,
    is_open: bool,
) -> None:
    """An exact path, or one below a folder; a path with two possible readings is protected."""
    settings = Settings(exclude=("/health", "/docs/*"), root_path=root_path or None)
    middleware = BasicAuthMiddleware(app, backend, settings=settings)
    scope = http_scope(path="/", headers=[(b"host", b"x/health?")])
    scope.update(path=path, root_path=root_path, raw_path=raw_path)

    assert call(middleware, scope).status == (200 if is_open else 401)
    assert len(app.scopes) == is_open
    if is_open:
        assert app.scopes[0]["user"] == Principal.anonymous()


@pytest.mark.proves("X41")
def test_credentials_on_an_open_path_are_not_verified(app: App, backend: Backend, issued: Issued) -> None:
    """Invalid ones are not refused, and valid ones give no identity."""
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(exclude=("/open",)))
    for value in ("Basic !", encode_basic("ci", "wrong"), issued.authorization):
        assert call(middleware, http_scope(value, path="/open")).status == 200

    assert [scope["user"] for scope in app.scopes] == [Principal.anonymous()] * 3


PREFLIGHT = [(b"Origin", b"https://a.example"), (b"Access-Control-Request-Method", b"PUT")]


@pytest.mark.proves("X36")
@pytest.mark.parametrize(
    ("method", "headers", "allow", "passes"),
    [
        ("OPTIONS", PREFLIGHT, True, True),
        ("OPTIONS", PREFLIGHT, False, False),
        ("OPTIONS", PREFLIGHT[:1], True, False),
        ("OPTIONS", PREFLIGHT[1:], True, False),
        ("OPTIONS", [], True, False),
        ("options", PREFLIGHT, True, False),
        ("GET", PREFLIGHT, True, False),
        ("OPTIONS", [PREFLIGHT[0], *PREFLIGHT], True, False),
    ],
)
def test_only_a_real_preflight_may_pass(
    app: App,
    backend: Backend,
    method: str,
    headers: list[tuple[bytes, bytes]],
    allow: bool,
    passes: bool,
) -> None:
    """OPTIONS with both headers of the Fetch standard, and only where it is allowed."""
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(allow_preflight=allow))

    assert call(middleware, http_scope(method=method, headers=headers)).status == (200 if passes else 401)
    assert [scope["user"].is_authenticated for scope in app.scopes] == [False] * passes


# --- https


@pytest.mark.proves("B7")
@pytest.mark.parametrize(
    ("kind", "scheme", "allowed"),
    [
        ("http", "https", True),
        ("http", "http", False),
        ("http", None, False),
        ("websocket", "wss", True),
        ("websocket", "ws", False),
        ("websocket", None, False),
    ],
)
def test_plain_http_can_be_refused(
    app: App, backend: Backend, issued: Issued, kind: str, scheme: str | None, allowed: bool
) -> None:
    """Before the credentials are read, valid or not, websockets too; without a challenge or a redirect."""
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(require_https=True))
    for value in (issued.authorization, "Basic x", None):
        make = http_scope if kind == "http" else websocket_scope
        scope = make(value, headers=[(b"x-forwarded-proto", b"https")])
        if scheme is None:
            del scope["scheme"]
        else:
            scope["scheme"] = scheme
        seen = call(middleware, scope, {"type": "websocket.connect"})

        if allowed:
            assert seen.status == (200 if value == issued.authorization else 401)
        else:
            assert seen.status == 403
            assert seen.problem["code"] == "https_required"
            assert "www-authenticate" not in seen.headers
            assert "location" not in seen.headers
    assert len(app.scopes) == allowed
