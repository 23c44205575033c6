"""What the app gets and sends: its response unchanged, the identity in the scope, and its lifespan."""

from __future__ import annotations

import asyncio
import sys
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from basicauth_mw import (
    Backend,
    ConfigurationError,
    InsufficientScope,
    Issued,
    Principal,
    Settings,
    require_scopes,
)
from basicauth_mw.asgi import BasicAuthMiddleware
from tests.asgi.helpers import (
    OK_BODY,
    OK_START,
    App,
    call,
    connect,
    http_scope,
    websocket_scope,
)

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

    from tests.asgi.helpers import Exchange, Message, Receive, Scope, Send


REQUEST_ID = (b"x-request-id", b"req-1")


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def middleware(app: App, backend: Backend) -> BasicAuthMiddleware:
    return BasicAuthMiddleware(app, backend, settings=Settings())


# --- the app's own response


RESPONSES: dict[str, list[Message]] = {
    "one body": [OK_START, OK_BODY],
    "no body key": [OK_START, {"type": "http.response.body"}],
    "many chunks": [
        OK_START,
        *({"type": "http.response.body", "body": b"%d" % n, "more_body": True} for n in range(50)),
        {"type": "http.response.body", "body": b"", "more_body": False},
    ],
    "trailers": [
        {**OK_START, "trailers": True},
        OK_BODY,
        {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": False},
    ],
    "pathsend": [OK_START, {"type": "http.response.pathsend", "path": "/tmp/x"}],
    "zero copy": [OK_START, {"type": "http.response.zerocopysend", "file": 3, "more_body": False}],
    "early hint": [{"type": "http.response.early_hint", "links": [b"</a>"]}, OK_START, OK_BODY],
    "push": [{"type": "http.response.push", "path": "/a.css", "headers": []}, OK_START, OK_BODY],
    "debug": [{"type": "http.response.debug", "info": {"template": 1}}, OK_START, OK_BODY],
    "its own 401": [
        {**OK_START, "status": 401, "headers": [(b"www-authenticate", b"Bearer"), (b"X-Odd", b"\xff")]},
        OK_BODY,
    ],
    "no headers": [{"type": "http.response.start", "status": 204}, {"type": "http.response.body"}],
    "plain 500 with another body": [
        {**OK_START, "status": 500, "headers": [(b"content-type", b"text/plain; charset=utf-8")]},
        {"type": "http.response.body", "body": b"Internal Server Error", "more_body": True},
        {"type": "http.response.body", "body": b"!"},
    ],
    "starlette's 500, returned": [
        {
            "type": "http.response.start",
            "status": 500,
            "headers": [(b"content-length", b"21"), (b"content-type", b"text/plain; charset=utf-8")],
        },
        {"type": "http.response.body", "body": b"Internal Server Error"},
    ],
    "start alone": [OK_START],
    "nothing": [{"type": "http.response.debug", "info": {}}],
}


@pytest.mark.proves("H16", "A18")
@pytest.mark.parametrize("timeout_s", [None, 5])
@pytest.mark.parametrize("map_errors", [True, False])
@pytest.mark.parametrize("messages", RESPONSES.values(), ids=RESPONSES.keys())
def test_the_response_of_the_app_passes_unchanged(
    backend: Backend, issued: Issued, messages: list[Message], map_errors: bool, timeout_s: float | None
) -> None:
    """All events of the app reach the server unchanged, in order, without additional ones."""
    middleware = BasicAuthMiddleware(
        App(*messages), backend, settings=Settings(map_errors=map_errors, timeout_s=timeout_s)
    )

    seen = call(middleware, http_scope(issued.authorization))

    assert seen.messages == messages
    assert seen.raised is None


def test_the_request_body_reaches_the_app(backend: Backend, issued: Issued) -> None:
    """``receive`` is the server's own."""
    bodies = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            bodies.append(message["body"])
            if not message["more_body"]:
                break
        await App()(scope, receive, send)

    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    incoming = [{"type": "http.request", "body": b"%d" % n, "more_body": n < 2} for n in range(3)]

    assert call(middleware, http_scope(issued.authorization, method="POST"), *incoming).status == 200
    assert bodies == [b"0", b"1", b"2"]


@pytest.mark.proves("A16")
def test_a_refused_request_body_is_not_read(middleware: BasicAuthMiddleware) -> None:
    """A refusal does not wait for the body, however long it is."""

    async def receive() -> Message:
        pytest.fail("the body was read")

    sent = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(middleware(http_scope(method="POST"), receive, send))

    assert sent[0]["status"] == 401


def test_a_websocket_is_the_apps(backend: Backend, issued: Issued) -> None:
    """Accept, echo and close pass through; the scope has the identity."""
    users = []

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        users.append(scope["user"])
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", "subprotocol": None, "headers": [(b"x-a", b"1")]})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"]})
        await send({"type": "websocket.close", "code": 1000})

    middleware = BasicAuthMiddleware(echo, backend, settings=Settings(timeout_s=5))
    seen = connect(
        middleware,
        websocket_scope(issued.authorization),
        {"type": "websocket.receive", "text": "hi", "bytes": None},
    )

    assert [message["type"] for message in seen.messages] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert seen.messages[1]["text"] == "hi"
    assert users[0].client_id == "ci"


# --- identity


def test_the_app_sees_the_principal(middleware: BasicAuthMiddleware, app: App, issued: Issued) -> None:
    """``scope["user"]`` is the principal, as Starlette expects it; ``auth`` has the scopes."""
    call(middleware, http_scope(issued.authorization))
    (scope,) = app.scopes

    assert scope["user"] == Principal("ci", "CI", frozenset({"read"}), {"team": "a"})
    assert scope["user"].is_authenticated
    assert (scope["user"].display_name, scope["user"].identity) == ("CI", "ci")
    assert scope["auth"].scopes == {"read"}


@pytest.mark.proves("X39")
@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("open_path", [True, False])
def test_an_identity_that_came_in_is_replaced(
    app: App, backend: Backend, issued: Issued, kind: str, open_path: bool
) -> None:
    """An identity set by an outer layer or a client never survives, not even on an open path."""
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(exclude=("/open",)))
    forged = Principal("root", scopes=frozenset({"admin"}))
    make = http_scope if kind == "http" else websocket_scope
    scope = make(
        None if open_path else issued.authorization,
        path="/open" if open_path else "/",
        user=forged,
        auth=forged,
    )

    scope["basicauth_mw.principal"] = forged
    call(middleware, scope, {"type": "websocket.connect"})

    seen = app.scopes[0]
    assert seen["basicauth_mw.principal"] is seen["user"]
    assert seen["user"].client_id == ("" if open_path else "ci")
    assert seen["auth"].scopes == (frozenset() if open_path else {"read"})
    assert seen["user"].is_authenticated is not open_path


@pytest.mark.proves("A17")
@pytest.mark.parametrize("authorization", ["good", "bad", None])
def test_the_servers_scope_is_not_changed(
    app: App, backend: Backend, issued: Issued, authorization: str | None
) -> None:
    """The scope is updated in place; the values in it, above all ``state``, are the same objects."""
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(strip_authorization=True))
    value = {"good": issued.authorization, "bad": "Basic !", None: None}[authorization]
    scope = http_scope(value, extensions={"http.response.push": {}})
    before = dict(scope)
    headers = list(scope["headers"])

    call(middleware, scope)

    identity = {"user", "auth", "basicauth_mw.principal"} if app.scopes else set()
    assert scope.keys() == before.keys() | identity
    assert before["headers"] == headers
    assert all(scope[name] is before[name] for name in before if name != "headers")
    assert all(seen is scope for seen in app.scopes)


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("path", ["/", "/open"])
def test_the_user_can_be_left_to_others(
    app: App, backend: Backend, issued: Issued, kind: str, path: str
) -> None:
    """``set_user=False`` neither writes nor removes ``user`` and ``auth``; the principal has its own key."""
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(set_user=False, exclude=("/open",)))
    make = http_scope if kind == "http" else websocket_scope
    theirs = object()
    forged = Principal("root")
    authorization = None if path == "/open" else issued.authorization

    scope = make(authorization, path=path, user=theirs, **{"basicauth_mw.principal": forged})
    call(middleware, scope, {"type": "websocket.connect"})
    refused = make(user=theirs, auth=theirs, **{"basicauth_mw.principal": forged})
    call(middleware, refused, {"type": "websocket.connect"})

    (seen,) = app.scopes
    assert seen["user"] is theirs
    assert "auth" not in seen
    principal = seen["basicauth_mw.principal"]
    assert (principal.client_id, principal.is_authenticated) == (
        ("", False) if path == "/open" else ("ci", True)
    )
    assert refused["user"] is refused["auth"] is theirs
    assert "basicauth_mw.principal" not in refused


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_outer_layers_see_no_forged_identity_of_a_refused_request(
    middleware: BasicAuthMiddleware, kind: str
) -> None:
    """Identity keys of the scope are removed, because outer layers share the scope."""
    make = http_scope if kind == "http" else websocket_scope
    forged = Principal("root")
    scope = make(user=forged, auth=forged, **{"basicauth_mw.principal": forged})

    call(middleware, scope, {"type": "websocket.connect"})

    assert not scope.keys() & {"user", "auth", "basicauth_mw.principal"}


@pytest.mark.proves("A2")
@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("path", ["/", "/open"])
def test_headers_that_can_be_read_once_are_left_for_the_app(
    app: App, backend: Backend, issued: Issued, strip: bool, path: str
) -> None:
    """ASGI allows any iterable of pairs, a generator too."""
    middleware = BasicAuthMiddleware(
        app, backend, settings=Settings(strip_authorization=strip, exclude=("/open",), allow_preflight=True)
    )
    pairs = [(b"accept", b"*/*"), (b"authorization", issued.authorization.encode()), (b"x", b"1")]
    scope = http_scope(path=path)
    scope["headers"] = (pair for pair in pairs)

    assert call(middleware, scope).status == 200
    assert list(app.scopes[0]["headers"]) == [p for p in pairs if not (strip and p[0] == b"authorization")]


@pytest.mark.proves("B9")
def test_the_authorization_header_can_be_hidden_from_the_app(
    app: App, backend: Backend, issued: Issued
) -> None:
    """With any spelling of its name, and also where nothing is verified; other headers are unchanged."""
    middleware = BasicAuthMiddleware(
        app, backend, settings=Settings(strip_authorization=True, exclude=("/open",))
    )
    others = [(b"Proxy-Authorization", b"x"), (b"x-authorization", b"y"), (b"accept", b"*/*")]
    value = issued.authorization.encode()

    call(middleware, http_scope(headers=[*others, (b"AUTHORIZATION", value)]))
    call(middleware, http_scope(path="/open", headers=[(b"Authorization", value), *others]))

    assert [scope["headers"] for scope in app.scopes] == [others, others]


def test_the_authorization_header_is_the_apps_to_read_by_default(
    middleware: BasicAuthMiddleware, app: App, issued: Issued
) -> None:
    """Headers are unchanged by default."""
    scope = http_scope(issued.authorization)
    call(middleware, scope)

    assert app.scopes[0]["headers"] == scope["headers"]


def test_starlettes_requires_gives_starlettes_403(backend: Backend, issued: Issued) -> None:
    """``requires`` reads ``scope["auth"]``; its refusal is a normal response and passes through."""

    @requires("read")
    async def read(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.user.display_name)

    @requires(["read", "write"])
    async def write(request: Request) -> PlainTextResponse:
        pytest.fail("must not be reached")

    app = Starlette(routes=[Route("/read", read), Route("/write", write)])
    middleware = BasicAuthMiddleware(app, backend, settings=Settings())

    allowed = call(middleware, http_scope(issued.authorization, path="/read"))
    refused = call(middleware, http_scope(issued.authorization, path="/write"))

    assert (allowed.status, allowed.body) == (200, b"CI")
    assert (refused.status, refused.body) == (403, b"Forbidden")
    assert refused.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.proves("H11")
def test_a_missing_scope_is_a_403_without_a_challenge(backend: Backend, issued: Issued) -> None:
    """``require_scopes`` names the missing scopes; neither it nor ``InsufficientScope`` is an error."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/raised":
            raise InsufficientScope("internal words")
        require_scopes(scope["user"], "read")
        require_scopes(scope["user"], "read", "admin")

    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    for path in ("/", "/raised"):
        seen = call(middleware, http_scope(issued.authorization, path=path, headers=[REQUEST_ID]))

        assert seen.status == 403
        assert "www-authenticate" not in seen.headers
        assert seen.problem == {
            "type": "about:blank",
            "title": "Forbidden",
            "status": 403,
            "detail": seen.problem["detail"],
            "code": "insufficient_scope",
            "request_id": "req-1",
        } | ({"scopes": ["admin"]} if path == "/" else {})
        assert "internal words" not in seen.body.decode()
        assert seen.raised is None


# --- lifespan and other scopes


STRANGE_STORE = """
opened = []

class Store:
    def __init__(self, url):
        if "broken" in url:
            raise ValueError(f"cannot use {url}")
        self.url, self.events = url, []
        opened.append(self)

    def get(self, client_id):
        self.events.append("get")
        if "down" in self.url:
            raise OSError("down")
        return None

    def close(self):
        self.events.append("close")
        if "rude" in self.url:
            raise OSError("cannot close")
"""


@pytest.fixture
def strange_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An installed third-party package with a store that records the calls of its methods."""
    (tmp_path / "strange_store_for_tests.py").write_text(STRANGE_STORE)
    info = tmp_path / "strange_store-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-store\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[basicauth_mw.backends]\nstrange = strange_store_for_tests:Store\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import strange_store_for_tests  # type: ignore[import-not-found]

    yield strange_store_for_tests
    for store in strange_store_for_tests.opened:
        store.url = "strange://up"  # a later failure during garbage collection would hit other tests
    del sys.modules["strange_store_for_tests"]


class LifespanApp:
    """Responds to lifespan messages as configured, and records what it receives."""

    def __init__(self, *, startup: str = "complete", shutdown: str = "complete") -> None:
        self.outcomes = {"startup": startup, "shutdown": shutdown}
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        for phase in ("startup", "shutdown"):
            message = await receive()
            self.seen.append(message["type"])
            await send({"type": f"lifespan.{phase}.{self.outcomes[phase]}", "message": "mine"})
            if self.outcomes[phase] == "failed":
                return


LIFESPAN = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}


def live(middleware: BasicAuthMiddleware, scope: Any = LIFESPAN) -> Exchange:
    return call(middleware, scope, STARTUP, SHUTDOWN)


@pytest.mark.proves("A13")
@pytest.mark.parametrize("url", ["strange://up", "strange://down"])
@pytest.mark.parametrize(
    ("startup", "shutdown", "expected"),
    [
        ("complete", "complete", ["startup.complete", "shutdown.complete"]),
        ("failed", "complete", ["startup.failed"]),
        ("complete", "failed", ["startup.complete", "shutdown.failed"]),
    ],
)
def test_lifespan_is_the_apps(
    strange_store: Any, url: str, startup: str, shutdown: str, expected: list[str]
) -> None:
    """Its messages pass in both directions, and are the only ones, even while the store is unavailable."""
    app = LifespanApp(startup=startup, shutdown=shutdown)
    middleware = BasicAuthMiddleware(app, url, settings=Settings())
    seen = live(middleware)

    assert seen.raised is None
    assert seen.messages == [{"type": f"lifespan.{name}", "message": "mine"} for name in expected]
    assert app.seen == ["lifespan.startup", "lifespan.shutdown"][: len(expected)]


@pytest.mark.proves("A13")
def test_a_backend_from_a_url_opens_and_closes_with_the_app(strange_store: Any) -> None:
    """Called once before the app starts, closed after it has stopped; unused if only constructed."""
    middleware = BasicAuthMiddleware(LifespanApp(), "strange://up", settings=Settings())
    (store,) = strange_store.opened

    assert store.events == []
    live(middleware)
    assert store.events == ["get", "close"]


def test_a_backend_from_a_url_is_closed_with_the_middleware(strange_store: Any) -> None:
    """Also without a lifespan."""
    middleware = BasicAuthMiddleware(App(), "strange://up", settings=Settings())
    (store,) = strange_store.opened
    del middleware

    assert store.events == ["close"]


@pytest.mark.proves("A13")
def test_a_store_that_fails_to_close_does_not_suppress_the_apps_message(strange_store: Any) -> None:
    """The app's message that it has stopped is still sent."""
    middleware = BasicAuthMiddleware(LifespanApp(), "strange://rude", settings=Settings())
    seen = live(middleware)

    assert [message["type"] for message in seen.messages] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert seen.raised is None


@pytest.mark.usefixtures("strange_store")
def test_a_third_partys_error_does_not_show_its_url() -> None:
    """The error is printed when the server starts, with chained exceptions."""
    with pytest.raises(ConfigurationError) as caught:
        BasicAuthMiddleware(App(), "strange://user:canary@broken", settings=Settings())

    text = "".join(traceback.format_exception(caught.value))
    assert "ValueError" in text
    assert [
        line for line in text.splitlines() if "canary" in line and "BasicAuthMiddleware(" not in line
    ] == []


def test_a_given_object_is_never_closed(strange_store: Any) -> None:
    """Neither a store nor a ``Backend`` over one."""
    for wrap in (lambda store: store, lambda store: Backend(store, settings=Settings())):
        store = strange_store.Store("strange://up")
        middleware = BasicAuthMiddleware(LifespanApp(), wrap(store), settings=Settings())
        live(middleware)
        del middleware

        assert "close" not in store.events


@pytest.mark.proves("A13")
def test_an_app_without_lifespan_says_so_itself(backend: Backend) -> None:
    """Servers interpret the exception as "not supported"."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError("no lifespan here")

    seen = live(BasicAuthMiddleware(app, backend, settings=Settings()))

    assert seen.messages == []
    assert isinstance(seen.raised, NotImplementedError)


@pytest.mark.proves("A1", "A17")
def test_lifespan_scope_is_passed_as_it_is(backend: Backend) -> None:
    """State that is set there must reach the server's dict."""
    app = App({"type": "lifespan.startup.complete"})
    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    live(middleware, LIFESPAN)

    assert app.scopes[0] is LIFESPAN


@pytest.mark.proves("A1", "O8")
@pytest.mark.parametrize("kind", ["x", "HTTP", "http2", "", "http.request", None, b"http"])
def test_an_unknown_kind_of_scope_never_reaches_the_app(
    middleware: BasicAuthMiddleware, app: App, issued: Issued, kind: Any
) -> None:
    """A scope that cannot be verified is not passed on."""
    seen = call(middleware, http_scope(issued.authorization, type=kind))

    assert isinstance(seen.raised, RuntimeError)
    assert seen.messages == []
    assert app.scopes == []
