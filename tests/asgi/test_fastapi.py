"""Real FastAPI and Starlette apps, inside and around the middleware: exceptions become JSON everywhere,
and responses of the app itself are unchanged."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import Response
from starlette.routing import Mount, Route

from basicauth_mw import Backend, InsufficientScope, Issued, Settings, require_scopes
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.auth.frameworks import wraps_cors
from tests.asgi.helpers import LIMIT_S, App, call, connect, exchange, http_scope, websocket_scope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.asgi.helpers import AnyApp, Exchange, Message

    Place = Callable[[FastAPI], AnyApp]

PLAIN = "Internal Server Error"


class Boom(Exception):
    """The exception that the routes raise."""


def routes(app: FastAPI) -> FastAPI:
    """One route for each outcome."""

    @app.get("/ok")
    async def ok(request: Request) -> dict[str, Any]:
        return {"id": request.user.client_id, "scopes": sorted(request.auth.scopes)}

    @app.get("/boom")
    async def boom() -> None:
        raise Boom("secret words")

    @app.get("/boom-sync")
    def boom_sync() -> None:
        raise Boom("secret words")

    @app.get("/timeout")
    async def timeout() -> None:
        raise TimeoutError

    @app.get("/scope")
    async def scope(request: Request) -> None:
        require_scopes(request.user, "admin")

    def needs_admin(request: Request) -> None:
        require_scopes(request.user, "admin")

    @app.get("/scope-dependency", dependencies=[Depends(needs_admin)])
    def scope_dependency() -> None:
        pytest.fail("must not be reached")

    @app.get("/http-exception")
    async def http_exception() -> None:
        raise HTTPException(409, {"own": "detail"}, headers={"x-own": "1"})

    @app.get("/http-500")
    async def http_500() -> None:
        raise HTTPException(500, "own words")

    @app.get("/plain-500")
    async def plain_500() -> Response:
        return PlainTextResponse(PLAIN, 500)

    @app.get("/json-500")
    async def json_500() -> Response:
        return JSONResponse({"own": True}, 500)

    @app.get("/stream")
    async def stream() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            raise Boom

        return StreamingResponse(parts())

    @app.get("/stream-at-once")
    async def stream_at_once() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            raise Boom
            yield b""

        return StreamingResponse(parts())

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> dict[str, bool]:
        async def fail() -> None:
            raise Boom

        tasks.add_task(fail)
        return {"done": True}

    @app.get("/typed")
    async def typed(number: int) -> int:
        return number

    return app


@pytest.fixture(params=["wrapped", "inside"])
def place(request: pytest.FixtureRequest, backend: Backend) -> Place:
    """Protect an app: wrapped, or by ``add_middleware``."""

    def wrap(app: FastAPI) -> AnyApp:
        return BasicAuthMiddleware(app, backend, settings=Settings())

    def inside(app: FastAPI) -> AnyApp:
        app.add_middleware(BasicAuthMiddleware, backend=backend, settings=Settings())
        return app

    return wrap if request.param == "wrapped" else inside


@pytest.fixture
def get(place: Place, issued: Issued) -> Callable[..., Exchange]:
    """Send a request with valid credentials to a protected app."""

    def get(path: str, app: FastAPI | None = None, **more: Any) -> Exchange:
        protected = place(routes(FastAPI() if app is None else app))
        headers = [(b"x-request-id", b"req-1")]
        return call(protected, http_scope(issued.authorization, path=path, headers=headers, **more))

    return get


@pytest.mark.proves("X34")
def test_an_app_is_protected_and_sees_the_principal(
    get: Callable[..., Exchange], place: Place, backend: Backend
) -> None:
    """The documentation pages and unknown paths are protected too."""
    assert json.loads(get("/ok").body) == {"id": "ci", "scopes": ["read"]}
    app = place(routes(FastAPI()))
    for path in ("/ok", "/docs", "/openapi.json", "/nowhere", "/"):
        assert call(app, http_scope(path=path)).problem["code"] == "missing_credentials"


def test_the_documentation_can_be_opened(backend: Backend, issued: Issued) -> None:
    """By ``exclude``, also below a mount point."""
    inner = routes(FastAPI())
    inner.add_middleware(
        BasicAuthMiddleware,
        backend=backend,
        settings=Settings(exclude=("/docs", "/openapi.json"), root_path="/v1"),
    )
    outer = FastAPI()
    outer.mount("/v1", inner)

    assert call(outer, http_scope(path="/v1/docs")).status == 200
    assert call(outer, http_scope(path="/v1/ok")).status == 401
    assert call(outer, http_scope(path="/v1/docs/oauth2-redirect")).status == 401
    assert call(inner, http_scope(path="/docs")).status == 200


@pytest.mark.parametrize("path", ["/boom", "/boom-sync", "/stream-at-once"])
def test_an_exception_becomes_json_and_is_reraised(
    get: Callable[..., Exchange], caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """FastAPI's plain 500 is replaced; the exception still reaches the server, for error monitors."""
    seen = get(path)

    assert seen.problem == {
        "type": "about:blank",
        "title": PLAIN,
        "status": 500,
        "detail": seen.problem["detail"],
        "code": "internal_error",
        "request_id": "req-1",
    }
    assert len(seen.messages) == 2
    assert isinstance(seen.raised, Boom)
    # The outer layer that catches the exception reports it as an error.
    records = [(record.name, record.levelname) for record in caplog.records if record.levelno >= logging.INFO]
    assert records == [("basicauth_mw", "WARNING")]


def test_a_timeout_in_a_route_is_a_504(get: Callable[..., Exchange]) -> None:
    """As with a bare app."""
    seen = get("/timeout")

    assert (seen.status, seen.problem["code"]) == (504, "timeout")
    assert isinstance(seen.raised, TimeoutError)


@pytest.mark.parametrize("path", ["/scope", "/scope-dependency"])
def test_a_missing_scope_is_a_403(get: Callable[..., Exchange], path: str) -> None:
    """From a route or a dependency; it is not logged as an error."""
    seen = get(path)

    assert (seen.status, seen.problem["code"]) == (403, "insufficient_scope")
    assert "www-authenticate" not in seen.headers
    assert seen.raised is None


@pytest.mark.parametrize("path", ["/http-exception", "/http-500", "/plain-500", "/json-500", "/typed"])
def test_responses_of_the_app_pass_unchanged(get: Callable[..., Exchange], issued: Issued, path: str) -> None:
    """HTTPException, validation errors, any 500 response: byte for byte the app's own."""
    seen = get(path)
    bare = call(routes(FastAPI()), http_scope(path=path))

    assert seen.messages == bare.messages
    assert seen.raised is None


def test_a_stream_that_fails_is_truncated(get: Callable[..., Exchange]) -> None:
    """The sent part is unchanged, no end is added, and the exception is raised."""
    seen = get("/stream")

    assert seen.status == 200
    assert seen.body == b"first"
    assert all(message.get("more_body") for message in seen.messages[1:])
    assert seen.raised is not None


def test_a_failing_background_task_does_not_change_the_response(get: Callable[..., Exchange]) -> None:
    """The response is already sent; the exception still reaches the server."""
    seen = get("/background")

    assert (seen.status, json.loads(seen.body)) == (200, {"done": True})
    assert isinstance(seen.raised, Boom)


@pytest.mark.parametrize("status", [200, 500])
def test_a_response_does_not_wait_for_its_background_task(place: Place, issued: Issued, status: int) -> None:
    """The whole response reaches the server before the task ends: the task waits for it."""
    app = FastAPI()
    order: list[str] = []

    async def main() -> None:
        arrived = asyncio.Event()

        async def work() -> None:
            await arrived.wait()
            order.append("task ended")

        @app.get("/")
        async def route() -> Response:
            return JSONResponse({"own": True}, status, background=BackgroundTask(work))

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                order.append("response arrived")
                arrived.set()

        async with asyncio.timeout(LIMIT_S):
            seen = await exchange(place(app), http_scope(issued.authorization), send=send)
        assert seen.raised is None

    asyncio.run(main())

    assert order == ["response arrived", "task ended"]


def test_a_returned_default_500_waits_for_the_app_and_goes_out(place: Place, issued: Issued) -> None:
    """It looks like Starlette's own, so it is held; it is sent after the app has returned."""
    app = FastAPI()
    ran = []

    @app.get("/")
    async def route() -> Response:
        return PlainTextResponse(PLAIN, 500, background=BackgroundTask(ran.append, 1))

    seen = call(place(app), http_scope(issued.authorization))

    assert (seen.status, seen.body, seen.raised) == (500, PLAIN.encode(), None)
    assert ran == [1]


@pytest.mark.parametrize("path", ["/boom", "/boom-sync", "/timeout"])
@pytest.mark.parametrize("caught", [500, Exception])
@pytest.mark.parametrize("body", ["mine", PLAIN])
def test_a_handler_that_the_app_registered_wins(
    get: Callable[..., Exchange], caught: int | type[Exception], path: str, body: str
) -> None:
    """A handler for 500 or Exception; even if its response equals Starlette's default."""
    app = FastAPI()

    @app.exception_handler(caught)
    async def handler(request: Request, exc: Exception) -> Response:
        return PlainTextResponse(body, 500)

    seen = get(path, app)

    assert (seen.status, seen.body) == (500, body.encode())
    assert seen.raised is not None


def test_a_handler_for_one_exception_wins(get: Callable[..., Exchange]) -> None:
    """Its response is like any other, and nothing is raised."""
    app = FastAPI()

    @app.exception_handler(Boom)
    async def handler(request: Request, exc: Boom) -> Response:
        return PlainTextResponse("mine", 418)

    @app.exception_handler(InsufficientScope)
    async def no_scope(request: Request, exc: InsufficientScope) -> Response:
        return PlainTextResponse("no scope", 403)

    seen = get("/boom", app)
    assert (seen.status, seen.body, seen.raised) == (418, b"mine", None)


def test_the_debug_page_wins(get: Callable[..., Exchange]) -> None:
    """A developer needs the traceback."""
    seen = get("/boom", FastAPI(debug=True))

    assert seen.status == 500
    assert b"secret words" in seen.body
    assert isinstance(seen.raised, Boom)


def test_mapping_turned_off_leaves_the_plain_500(backend: Backend, issued: Issued) -> None:
    """The exception is still raised."""
    app = BasicAuthMiddleware(routes(FastAPI()), backend, settings=Settings(map_errors=False))
    seen = call(app, http_scope(issued.authorization, path="/boom"))

    assert (seen.status, seen.body) == (500, PLAIN.encode())
    assert isinstance(seen.raised, Boom)


@pytest.mark.parametrize("where", ["sub-app wrapped", "sub-app by add_middleware", "parent wrapped"])
def test_a_mounted_app(backend: Backend, issued: Issued, where: str) -> None:
    """The same responses below a mount point, wherever the middleware is."""
    inner = routes(FastAPI())
    outer: AnyApp
    parent = FastAPI()
    mounted: AnyApp = inner
    if where == "sub-app wrapped":
        mounted = BasicAuthMiddleware(inner, backend, settings=Settings())
    elif where == "sub-app by add_middleware":
        inner.add_middleware(BasicAuthMiddleware, backend=backend, settings=Settings())
    parent.mount("/sub", mounted)
    outer = BasicAuthMiddleware(parent, backend, settings=Settings()) if where == "parent wrapped" else parent

    def get(path: str, authorization: str | None) -> Exchange:
        return call(outer, http_scope(authorization, path=path))

    assert get("/sub/ok", None).status == 401
    assert get("/sub/ok", issued.authorization).status == 200
    assert get("/sub/scope", issued.authorization).problem["code"] == "insufficient_scope"
    assert get("/sub/http-exception", issued.authorization).status == 409
    boom = get("/sub/boom", issued.authorization)
    assert boom.problem["code"] == "internal_error"
    assert isinstance(boom.raised, Boom)


def test_below_other_middleware(place: Place, issued: Issued) -> None:
    """BaseHTTPMiddleware runs the app in a separate task; the exception is the same."""
    app = routes(FastAPI())

    async def dispatch(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-seen"] = "1"
        return response

    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    protected = place(app)

    assert call(protected, http_scope(issued.authorization, path="/ok")).headers["x-seen"] == "1"
    boom = call(protected, http_scope(issued.authorization, path="/boom"))
    assert boom.problem["code"] == "internal_error"
    assert isinstance(boom.raised, Boom)


def test_an_app_with_users_of_its_own(backend: Backend, issued: Issued) -> None:
    """Starlette's AuthenticationMiddleware replaces our user; a missing scope is still a 403."""

    class Own(AuthenticationBackend):
        async def authenticate(self, conn: Any) -> tuple[AuthCredentials, SimpleUser]:
            return AuthCredentials(["own"]), SimpleUser("own")

    async def route(request: Request) -> Response:
        raise InsufficientScope

    app = Starlette(
        routes=[Route("/", route)], middleware=[Middleware(AuthenticationMiddleware, backend=Own())]
    )
    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    seen = call(middleware, http_scope(issued.authorization))

    assert (seen.status, seen.raised) == (403, None)


def test_a_slow_sync_route_gets_a_504(backend: Backend, issued: Issued) -> None:
    """504 while the thread still runs; its result is dropped."""
    go_on = threading.Event()
    answered_first = []
    app = FastAPI()

    @app.get("/")
    def slow() -> dict[str, bool]:
        assert go_on.wait(LIMIT_S)
        return {"late": True}

    statuses = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        else:
            answered_first.append(not go_on.is_set())
            go_on.set()

    middleware = BasicAuthMiddleware(app, backend, settings=Settings(timeout_s=0.05))
    try:
        seen = asyncio.run(exchange(middleware, http_scope(issued.authorization), send=send))
    finally:
        go_on.set()

    assert statuses == [504]
    assert answered_first == [True]
    assert seen.raised is None


@pytest.mark.proves("X35")
def test_a_websocket_route(place: Place, issued: Issued) -> None:
    """Verified like any other request; the route gets the identity."""
    app = FastAPI()

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.user.client_id)
        await socket.close()

    protected = place(app)
    good = connect(protected, websocket_scope(issued.authorization, path="/ws"))
    bad = connect(protected, websocket_scope(path="/ws"))

    assert [message.get("text") for message in good.messages] == [None, "ci", None]
    assert bad.status == 401


def test_lifespan_handlers_run_once(place: Place) -> None:
    """Startup and shutdown, with the state that they yield."""
    from contextlib import asynccontextmanager

    order = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        order.append("start")
        yield {"made": "here"}
        order.append("stop")

    scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    seen = call(
        place(FastAPI(lifespan=lifespan)), scope, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}
    )

    assert order == ["start", "stop"]
    assert scope["state"] == {"made": "here"}
    assert [message["type"] for message in seen.messages] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


def test_a_broken_configuration_lets_no_request_through(issued: Issued) -> None:
    """Starlette builds middleware late and continues: every request fails then, with or without a key."""
    app = routes(FastAPI())
    app.add_middleware(BasicAuthMiddleware, backend="nonsense://x", settings=Settings())
    for authorization in (None, issued.authorization):
        for path in ("/ok", "/docs", "/nowhere"):
            seen = call(app, http_scope(authorization, path=path))

            assert seen.raised is not None
            assert b"ci" not in seen.body


def test_middleware_in_a_router(backend: Backend, issued: Issued) -> None:
    """A part of an app can be protected alone, for example an ASGI callable in Starlette's Mount."""
    app = Starlette(
        routes=[
            Mount("/private", app=BasicAuthMiddleware(App(), backend, settings=Settings())),
            Mount("/public", app=App()),
        ]
    )

    assert call(app, http_scope(path="/public/x")).status == 200
    assert call(app, http_scope(path="/private/x")).status == 401
    assert call(app, http_scope(issued.authorization, path="/private/x")).status == 200


# --- CORS


class CORSMiddleware:
    """Has the name of Starlette's class."""

    def __init__(self, app: AnyApp, **_settings: object) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def inside_wrapped(backend: Backend, **settings: Any) -> AnyApp:
    app = FastAPI()
    app.add_middleware(CORSMiddleware)
    return BasicAuthMiddleware(app, backend, settings=Settings(**settings))


def inside_added(backend: Backend) -> AnyApp:
    app = FastAPI()
    app.add_middleware(CORSMiddleware)
    app.add_middleware(BasicAuthMiddleware, backend=backend, settings=Settings())
    return app


def inside_handled(backend: Backend) -> AnyApp:
    """With a handler for 500, which is outside the rest of the app."""
    app = FastAPI(exception_handlers={Exception: lambda _request, _exc: Response(status_code=500)})
    app.add_middleware(CORSMiddleware)
    return BasicAuthMiddleware(app, backend, settings=Settings())


def inside_bare(backend: Backend) -> AnyApp:
    return BasicAuthMiddleware(CORSMiddleware(App()), backend, settings=Settings())


def outside_added(backend: Backend) -> AnyApp:
    app = FastAPI()
    app.add_middleware(BasicAuthMiddleware, backend=backend, settings=Settings())
    app.add_middleware(CORSMiddleware)
    return app


def outside_wrapped(backend: Backend) -> AnyApp:
    return CORSMiddleware(BasicAuthMiddleware(FastAPI(), backend, settings=Settings()))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (inside_wrapped, "and preflights are refused; put CORSMiddleware outside"),
        (inside_added, "and preflights are refused; put CORSMiddleware outside"),
        (inside_handled, "and preflights are refused; put CORSMiddleware outside"),
        (inside_bare, "and preflights are refused; put CORSMiddleware outside"),
        (
            lambda backend: inside_wrapped(backend, allow_preflight=True),
            " of BasicAuthMiddleware; put CORSMiddleware outside",
        ),
        (outside_added, None),
        (outside_wrapped, None),
    ],
    ids=[
        "inside-wrapped",
        "inside-added",
        "inside-handled",
        "inside-bare",
        "inside-preflights",
        "outside-added",
        "outside-wrapped",
    ],
)
def test_cors_inside_the_middleware_is_logged_once_at_startup(
    make: Callable[[Backend], AnyApp], says: str | None, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(backend)
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Message:
        return next(events)

    async def send(_message: Message) -> None:
        pass

    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    if isinstance(getattr(app, "app", None), CORSMiddleware):  # around a bare app, which has no lifespan
        app.app.app = Starlette()  # type: ignore[attr-defined]
    asyncio.run(app(scope, receive, send))

    said = [record.message for record in caplog.records if "CORSMiddleware" in record.message]
    assert [each.endswith(says or "?") for each in said] == [True] * (says is not None)


def test_an_app_that_only_resembles_starlette_has_no_cors() -> None:
    app = App()
    app.middleware_stack = None  # type: ignore[attr-defined]
    assert not wraps_cors(app)


def test_a_cycle_of_wrappers_ends() -> None:
    app = App()
    app.app = app  # type: ignore[attr-defined]
    assert not wraps_cors(app)
