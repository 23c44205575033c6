"""Exceptions of an ASGI app: which response they become, and when they are only re-raised."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from basicauth_mw import Backend, BasicAuthError, InsufficientScope, Issued, Settings
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.errors import (
    BackendUnavailable,
    HttpsRequired,
    InvalidCredentials,
    KeyNotFound,
    MissingCredentials,
    Overloaded,
    Rejected,
    Throttled,
)
from tests.asgi.helpers import (
    OK_START,
    App,
    call,
    connect,
    exchange,
    http_scope,
    websocket_scope,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.asgi.helpers import Exchange, Message, Receive, Scope, Send


LATE_S = 60.0  # a limit that never expires


MORE = {"type": "http.response.body", "body": b"part", "more_body": True}
EMPTY = {"type": "http.response.body", "body": b"", "more_body": True}
FINAL = {"type": "http.response.body", "body": b"end"}
STARLETTE_START = {
    "type": "http.response.start",
    "status": 500,
    "headers": [(b"content-length", b"21"), (b"content-type", b"text/plain; charset=utf-8")],
}
STARLETTE_BODY = {"type": "http.response.body", "body": b"Internal Server Error"}


class Boom(Exception):
    """The exception that the apps raise."""


def sending(messages: Iterable[Message], exc: BaseException | None = None) -> App:
    """An app that sends these messages, if any, and raises."""
    app = App(raises=exc)
    app.messages = tuple(messages)
    return app


class OwnError(BasicAuthError):
    """An application's own error with a status."""

    code: ClassVar[str] = "own"
    status: ClassVar[int | None] = 409
    detail: ClassVar[str] = "Somebody was first."


class Plain(BasicAuthError):
    """An error without a status."""


@pytest.fixture
def send_request(backend: Backend, issued: Issued) -> Callable[..., Exchange]:
    """Call an app inside the middleware, with valid credentials."""

    def send_request(app: Any, *, method: str = "GET", **settings: Any) -> Exchange:
        middleware = BasicAuthMiddleware(app, backend, settings=Settings(**settings))
        headers = [(b"x-request-id", b"req-1")]
        return call(middleware, http_scope(issued.authorization, method=method, headers=headers))

    return send_request


# --- which response


MAPPED = {
    "any": (Boom("secret words"), 500, "internal_error"),
    "value": (ValueError(), 500, "internal_error"),
    "os": (OSError("/etc/shadow"), 500, "internal_error"),
    "connection": (ConnectionResetError(), 500, "internal_error"),
    "timeout": (TimeoutError("db.internal"), 504, "timeout"),
    "own status": (OwnError("words"), 409, "own"),
    "no status": (Plain("words"), 500, "internal_error"),
    "rejected without a status": (Rejected("words"), 500, "internal_error"),
    "key not found": (KeyNotFound("words"), 500, "internal_error"),
    "backend": (BackendUnavailable("redis.internal:6379"), 503, "backend_unavailable"),
    "overloaded": (Overloaded("words"), 503, "overloaded"),
    "group": (ExceptionGroup("words", [Boom(), Boom()]), 500, "internal_error"),
    "group of one timeout": (ExceptionGroup("words", [TimeoutError()]), 504, "timeout"),
    "group in a group": (ExceptionGroup("a", [ExceptionGroup("b", [OwnError()])]), 409, "own"),
    "group of two timeouts": (ExceptionGroup("a", [TimeoutError(), TimeoutError()]), 500, "internal_error"),
    "stop": (StopAsyncIteration(), 500, "internal_error"),
}
ROUTINE = {
    "scope": (InsufficientScope("words"), 403, "insufficient_scope"),
    "group of one scope": (ExceptionGroup("a", [InsufficientScope()]), 403, "insufficient_scope"),
    "missing": (MissingCredentials("words"), 401, "missing_credentials"),
    "invalid": (InvalidCredentials("words"), 401, "invalid_credentials"),
    "https": (HttpsRequired("words"), 403, "https_required"),
    "throttled": (Throttled("words", retry_after_s=7), 429, "throttled"),
    "throttled for no time": (Throttled("words", retry_after_s=0), 429, "throttled"),
}
STARTS: dict[str, list[Message]] = {
    "nothing sent": [],
    "start held": [OK_START],
    "early hint": [{"type": "http.response.early_hint", "links": [b"</a>"]}],
    "early hint and start": [{"type": "http.response.early_hint", "links": [b"</a>"]}, OK_START],
    "starlette's own 500": [STARLETTE_START, STARLETTE_BODY],
}


@pytest.mark.proves("P5", "P7", "A7", "A8")
@pytest.mark.parametrize("sent", STARTS.values(), ids=STARTS.keys())
@pytest.mark.parametrize(("exc", "status", "code"), MAPPED.values(), ids=MAPPED.keys())
def test_an_exception_becomes_a_response_and_is_reraised(
    send_request: Callable[..., Exchange],
    caplog: pytest.LogCaptureFixture,
    sent: list[Message],
    exc: Exception,
    status: int,
    code: str,
) -> None:
    """The client gets a problem document without internal details; the server gets the same exception."""
    seen = send_request(sending(sent, exc))
    early = [message for message in sent if message["type"] == "http.response.early_hint"]

    assert seen.raised is exc
    assert seen.messages[:-2] == early
    assert seen.status == status
    assert {name: seen.problem[name] for name in ("type", "status", "request_id")} == {
        "type": "about:blank",
        "status": status,
        "request_id": "req-1",
    }
    assert seen.problem["code"] == code
    assert seen.headers["content-type"] == "application/problem+json"
    assert "www-authenticate" not in seen.headers
    assert ("retry-after" in seen.headers) == (status == 503)
    for inner in ("words", "shadow", "internal:", "db.", type(exc).__name__, "Traceback"):
        assert inner not in seen.body.decode()
    records = caplog.records
    assert [record.levelno for record in records] == [logging.WARNING], "error monitors report the exception"
    assert "req-1" in records[0].getMessage()
    assert records[0].exc_info is None, "the server logs the traceback"


@pytest.mark.parametrize("sent", STARTS.values(), ids=STARTS.keys())
@pytest.mark.parametrize(("exc", "status", "code"), ROUTINE.values(), ids=ROUTINE.keys())
def test_a_refusal_by_the_app_becomes_a_response_and_is_not_reraised(
    send_request: Callable[..., Exchange],
    caplog: pytest.LogCaptureFixture,
    sent: list[Message],
    exc: Exception,
    status: int,
    code: str,
) -> None:
    """It is not an error of the app: not re-raised, not logged as one; a challenge with a 401 only."""
    seen = send_request(sending(sent, exc))

    assert seen.raised is None
    assert (seen.status, seen.problem["code"]) == (status, code)
    assert ("www-authenticate" in seen.headers) == (status == 401)
    if status == 429:
        assert int(seen.headers["retry-after"]) >= 1
    assert "words" not in seen.body.decode()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.proves("H12")
def test_head_errors_have_no_body(send_request: Callable[..., Exchange]) -> None:
    """The headers are the same."""
    get, head = (send_request(Raising(Boom()), method=method) for method in ("GET", "HEAD"))

    assert head.starts == get.starts
    assert head.body == b""


class Raising:
    """Raises without sending anything."""

    def __init__(self, exc: BaseException) -> None:
        self.exc = exc

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise self.exc


GOING_DOWN = [
    KeyboardInterrupt(),
    SystemExit(1),
    asyncio.CancelledError(),
    GeneratorExit(),
    BaseExceptionGroup("a", [KeyboardInterrupt()]),
    BaseExceptionGroup("a", [Boom(), SystemExit()]),
    BaseExceptionGroup("a", [asyncio.CancelledError(), InsufficientScope()]),
]


@pytest.mark.proves("A9")
@pytest.mark.parametrize("timeout_s", [None, LATE_S])
@pytest.mark.parametrize("sent", [[], [OK_START]], ids=["nothing sent", "start held"])
@pytest.mark.parametrize("exc", GOING_DOWN, ids=repr)
def test_exceptions_that_end_the_process_or_task_are_only_reraised(
    backend: Backend, issued: Issued, exc: BaseException, sent: list[Message], timeout_s: float | None
) -> None:
    """Re-raised unchanged, with nothing sent; the coroutine is driven by hand, since a loop would stop."""
    app = sending(sent, exc)
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(timeout_s=timeout_s))
    reached = []

    async def send(message: Message) -> None:
        reached.append(message)

    async def drive() -> BaseException | None:
        try:
            await middleware(http_scope(issued.authorization), None, send)
        except BaseException as raised:
            return raised
        return None

    assert asyncio.run(drive()) is exc
    assert reached == []


@pytest.mark.parametrize("scope_user", ["replaced", "removed"])
def test_a_missing_scope_is_a_403_even_if_the_app_changed_its_scope(
    backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture, scope_user: str
) -> None:
    """For example, Starlette's AuthenticationMiddleware replaces the user."""
    caplog.set_level(logging.INFO, "basicauth_mw.audit")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope_user == "replaced":
            scope["user"] = object()
        else:
            del scope["user"]
        raise InsufficientScope

    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    seen = call(middleware, http_scope(issued.authorization))

    assert seen.raised is None
    assert seen.status == 403
    assert caplog.records[-1].basicauth["client_id"] == "ci"  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", ["replace", "mutate", "empty"])
def test_the_response_is_for_the_request_as_received(backend: Backend, issued: Issued, change: str) -> None:
    """Inner layers change the method or the headers in place; the response is for the original request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["method"] = "GET"
        if change == "replace":
            scope["headers"] = []
        elif change == "mutate":
            scope["headers"].clear()
        else:
            scope.clear()
        raise Boom

    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    seen = call(
        middleware, http_scope(issued.authorization, method="HEAD", headers=[(b"x-request-id", b"req-1")])
    )

    assert seen.headers["x-request-id"] == "req-1"
    assert seen.body == b""


# --- after the response has started


BEGUN: dict[str, list[Message]] = {
    "empty part": [OK_START, EMPTY],
    "part": [OK_START, MORE],
    "parts": [OK_START, MORE, EMPTY, MORE],
    "whole": [OK_START, FINAL],
    "path": [OK_START, {"type": "http.response.pathsend", "path": "/tmp/x"}],
    "whole, trailers missing": [{**OK_START, "trailers": True}, FINAL],
    "nearly starlette's 500": [STARLETTE_START, {**STARLETTE_BODY, "more_body": True}],
    "starlette's 500 with another field": [
        {**STARLETTE_START, "headers": [*STARLETTE_START["headers"], (b"x-a", b"1")]},
        STARLETTE_BODY,
    ],
}


@pytest.mark.proves("A7")
@pytest.mark.parametrize("exc", [Boom(), TimeoutError(), InsufficientScope(), Throttled()], ids=repr)
@pytest.mark.parametrize("sent", BEGUN.values(), ids=BEGUN.keys())
def test_a_started_response_is_truncated(
    send_request: Callable[..., Exchange], sent: list[Message], exc: Exception
) -> None:
    """No second start, no added end: the exception is re-raised, so that the server breaks the connection."""
    seen = send_request(App(*sent, raises=exc))

    assert seen.messages == sent
    assert seen.raised is exc


@pytest.mark.parametrize("sent", [*STARTS.values(), *BEGUN.values()], ids=[*STARTS, *BEGUN])
def test_mapping_can_be_turned_off(send_request: Callable[..., Exchange], sent: list[Message]) -> None:
    """Everything is as without the middleware: the sent messages, and the exception."""
    app = sending(sent, Boom())
    for timeout_s in (None, LATE_S):
        seen = send_request(app, map_errors=False, timeout_s=timeout_s)

        assert seen.messages == sent
        assert seen.raised is app.raises


def test_errors_in_a_websocket_are_the_apps(backend: Backend, issued: Issued) -> None:
    """There is no response to replace."""
    boom = Boom()
    scope = http_scope(issued.authorization, type="websocket", scheme="ws", extensions={})
    middleware = BasicAuthMiddleware(Raising(boom), backend, settings=Settings(timeout_s=LATE_S))
    seen = connect(middleware, scope)

    assert seen.messages == []
    assert seen.raised is boom


@pytest.mark.parametrize("denial", [True, False])
@pytest.mark.parametrize("received", [True, False])
def test_a_websocket_handler_that_refuses_before_it_accepts(
    backend: Backend, issued: Issued, denial: bool, received: bool
) -> None:
    """A missing scope, or a close before accept, is a 403 there too; neither is an error."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if received:
            await receive()
        raise InsufficientScope

    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    seen = connect(middleware, websocket_scope(issued.authorization, denial=denial))

    assert seen.raised is None
    if denial:
        assert (seen.status, seen.problem["code"]) == (403, "insufficient_scope")
    else:
        assert [message["type"] for message in seen.messages] == ["websocket.close"]


@pytest.mark.parametrize("case", ["accepted", "not mapped", "gone"])
def test_a_websocket_handler_that_refuses_too_late(backend: Backend, issued: Issued, case: str) -> None:
    """After the handshake, or after the client has disconnected, no response can be sent."""
    accept = {"type": "websocket.accept"}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if case == "accepted":
            await send(accept)
        if case == "gone":
            assert (await receive())["type"] == "websocket.disconnect"
        raise InsufficientScope

    middleware = BasicAuthMiddleware(app, backend, settings=Settings(map_errors=case != "not mapped"))
    seen = connect(
        middleware, websocket_scope(issued.authorization), {"type": "websocket.disconnect", "code": 1006}
    )

    assert seen.messages == ([accept] if case == "accepted" else [])
    assert isinstance(seen.raised, InsufficientScope) or case == "gone"


# --- a client that has disconnected


class Gone(OSError):
    """What a server raises from send after the client has disconnected (ASGI 2.4)."""


@pytest.mark.proves("A10")
@pytest.mark.parametrize("timeout_s", [None, LATE_S])
@pytest.mark.parametrize(
    "sent",
    [
        [OK_START, MORE, FINAL],
        [OK_START],
        [{"type": "http.response.early_hint", "links": []}, OK_START, FINAL],
    ],
    ids=["body", "start alone", "hint"],
)
def test_a_gone_client_is_no_error_of_the_app(
    backend: Backend,
    issued: Issued,
    caplog: pytest.LogCaptureFixture,
    sent: list[Message],
    timeout_s: float | None,
) -> None:
    """No response is sent, nothing is logged; the app has seen the exception and re-raised it."""
    tried = []

    async def send(message: Message) -> None:
        tried.append(message)
        raise Gone

    middleware = BasicAuthMiddleware(App(*sent), backend, settings=Settings(timeout_s=timeout_s))
    seen = asyncio.run(exchange(middleware, http_scope(issued.authorization), send=send))

    assert isinstance(seen.raised, Gone)
    assert tried == sent[:1]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.proves("A10")
@pytest.mark.parametrize("sent", [[], [OK_START]])
def test_a_client_that_disconnects_during_our_response_hides_no_exception(
    backend: Backend, issued: Issued, sent: list[Message]
) -> None:
    """The app's exception is raised, not the server's."""
    boom = Boom()
    app = sending(sent, boom)

    async def send(message: Message) -> None:
        raise Gone

    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    seen = asyncio.run(exchange(middleware, http_scope(issued.authorization), send=send))

    assert seen.raised is boom
