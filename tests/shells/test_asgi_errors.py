"""What becomes of an app's exceptions and time-outs on ASGI: one answer at most, and never a clean end of a
broken one."""

from __future__ import annotations

import asyncio
import logging
import threading
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
from tests.shells.asgi_helpers import (
    LIMIT_S,
    OK_BODY,
    OK_START,
    App,
    call,
    connect,
    exchange,
    http_scope,
    websocket_scope,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from tests.shells.asgi_helpers import Exchange, Message, Receive, Scope, Send

SOON_S = 0.02  # a time limit that is meant to pass
LATE_S = 60.0  # one that is not

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
    """What an app raises."""


def sending(messages: Iterable[Message], exc: BaseException | None = None) -> App:
    """An app that sends these messages, or none, and raises."""
    app = App(raises=exc)
    app.messages = tuple(messages)
    return app


class OwnError(BasicAuthError):
    """An application's own error with a status."""

    code: ClassVar[str] = "own"
    status: ClassVar[int | None] = 409
    detail: ClassVar[str] = "Somebody was first."


class Plain(BasicAuthError):
    """One without a status."""


@pytest.fixture
def ask(backend: Backend, issued: Issued) -> Callable[..., Exchange]:
    """Call an app behind a gate, with the right credentials."""

    def ask(app: Any, *, method: str = "GET", **settings: Any) -> Exchange:
        authenticator = BasicAuthMiddleware(app, backend, settings=Settings(**settings))
        headers = [(b"x-request-id", b"req-1")]
        return call(authenticator, http_scope(issued.authorization, method=method, headers=headers))

    return ask


# --- which answer

MAPPED = {
    "any": (Boom("secret words"), 500, "internal_error"),
    "value": (ValueError(), 500, "internal_error"),
    "os": (OSError("/etc/shadow"), 500, "internal_error"),
    "connection": (ConnectionResetError(), 500, "internal_error"),
    "time-out": (TimeoutError("db.internal"), 504, "timeout"),
    "own status": (OwnError("words"), 409, "own"),
    "no status": (Plain("words"), 500, "internal_error"),
    "rejected without a status": (Rejected("words"), 500, "internal_error"),
    "key not found": (KeyNotFound("words"), 500, "internal_error"),
    "backend": (BackendUnavailable("redis.internal:6379"), 503, "backend_unavailable"),
    "overloaded": (Overloaded("words"), 503, "overloaded"),
    "group": (ExceptionGroup("words", [Boom(), Boom()]), 500, "internal_error"),
    "group of one time-out": (ExceptionGroup("words", [TimeoutError()]), 504, "timeout"),
    "group in a group": (ExceptionGroup("a", [ExceptionGroup("b", [OwnError()])]), 409, "own"),
    "group of two time-outs": (ExceptionGroup("a", [TimeoutError(), TimeoutError()]), 500, "internal_error"),
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
def test_an_exception_becomes_an_answer_and_is_raised_on(
    ask: Callable[..., Exchange],
    caplog: pytest.LogCaptureFixture,
    sent: list[Message],
    exc: Exception,
    status: int,
    code: str,
) -> None:
    """The client gets a problem without a word of the inside; the server gets the very exception."""
    seen = ask(sending(sent, exc))
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
    told = caplog.records
    assert [record.levelno for record in told] == [logging.WARNING], "error monitors report the exception"
    assert "req-1" in told[0].getMessage()
    assert told[0].exc_info is None, "the server logs the traceback"


@pytest.mark.parametrize("sent", STARTS.values(), ids=STARTS.keys())
@pytest.mark.parametrize(("exc", "status", "code"), ROUTINE.values(), ids=ROUTINE.keys())
def test_a_refusal_by_the_app_is_only_an_answer(
    ask: Callable[..., Exchange],
    caplog: pytest.LogCaptureFixture,
    sent: list[Message],
    exc: Exception,
    status: int,
    code: str,
) -> None:
    """Nobody's error: not raised on, not logged as one; a challenge with a 401 and with nothing else."""
    seen = ask(sending(sent, exc))

    assert seen.raised is None
    assert (seen.status, seen.problem["code"]) == (status, code)
    assert ("www-authenticate" in seen.headers) == (status == 401)
    if status == 429:
        assert int(seen.headers["retry-after"]) >= 1
    assert "words" not in seen.body.decode()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.proves("H12")
def test_head_errors_have_no_body(ask: Callable[..., Exchange]) -> None:
    """And the same headers."""
    get, head = (ask(Raising(Boom()), method=method) for method in ("GET", "HEAD"))

    assert head.starts == get.starts
    assert head.body == b""


class Raising:
    """Raises and sends nothing."""

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
def test_what_ends_the_process_or_the_task_is_never_answered(
    backend: Backend, issued: Issued, exc: BaseException, sent: list[Message], timeout_s: float | None
) -> None:
    """Raised on untouched, with nothing sent; driven by hand, as a loop would end."""
    app = sending(sent, exc)
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(timeout_s=timeout_s))
    reached = []

    async def send(message: Message) -> None:
        reached.append(message)

    async def drive() -> BaseException | None:
        try:
            await authenticator(http_scope(issued.authorization), None, send)
        except BaseException as raised:
            return raised
        return None

    assert asyncio.run(drive()) is exc
    assert reached == []


@pytest.mark.parametrize("scope_user", ["replaced", "removed"])
def test_a_missing_scope_is_answered_whatever_the_app_did_to_its_scope(
    backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture, scope_user: str
) -> None:
    """Starlette's own AuthenticationMiddleware, for one, puts another user there."""
    caplog.set_level(logging.INFO, "basicauth_mw.audit")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope_user == "replaced":
            scope["user"] = object()
        else:
            del scope["user"]
        raise InsufficientScope

    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())
    seen = call(authenticator, http_scope(issued.authorization))

    assert seen.raised is None
    assert seen.status == 403
    assert caplog.records[-1].basicauth["client_id"] == "ci"  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", ["replace", "mutate", "empty"])
def test_the_answer_is_to_the_request_that_came_in(backend: Backend, issued: Issued, change: str) -> None:
    """Layers inside rewrite the method or the fields in place; the answer is still to what was asked."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["method"] = "GET"
        if change == "replace":
            scope["headers"] = []
        elif change == "mutate":
            scope["headers"].clear()
        else:
            scope.clear()
        raise Boom

    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())
    seen = call(
        authenticator, http_scope(issued.authorization, method="HEAD", headers=[(b"x-request-id", b"req-1")])
    )

    assert seen.headers["x-request-id"] == "req-1"
    assert seen.body == b""


# --- after the answer began

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
def test_an_answer_that_began_is_broken_off(
    ask: Callable[..., Exchange], sent: list[Message], exc: Exception
) -> None:
    """No second start, no end added: raised on, so that the server breaks the connection."""
    seen = ask(App(*sent, raises=exc))

    assert seen.messages == sent
    assert seen.raised is exc


@pytest.mark.parametrize("sent", [*STARTS.values(), *BEGUN.values()], ids=[*STARTS, *BEGUN])
def test_mapping_can_be_turned_off(ask: Callable[..., Exchange], sent: list[Message]) -> None:
    """Then everything is as without the middleware: what was sent, and the exception."""
    app = sending(sent, Boom())
    for timeout_s in (None, LATE_S):
        seen = ask(app, map_errors=False, timeout_s=timeout_s)

        assert seen.messages == sent
        assert seen.raised is app.raises


def test_errors_in_a_websocket_are_the_apps(backend: Backend, issued: Issued) -> None:
    """There is no answer to replace."""
    boom = Boom()
    scope = http_scope(issued.authorization, type="websocket", scheme="ws", extensions={})
    authenticator = BasicAuthMiddleware(Raising(boom), backend, settings=Settings(timeout_s=LATE_S))
    seen = connect(authenticator, scope)

    assert seen.messages == []
    assert seen.raised is boom


@pytest.mark.parametrize("denial", [True, False])
@pytest.mark.parametrize("received", [True, False])
def test_a_websocket_handler_that_refuses_before_it_accepts(
    backend: Backend, issued: Issued, denial: bool, received: bool
) -> None:
    """A missing scope is a 403 there too, or a close before accept; nobody's error."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if received:
            await receive()
        raise InsufficientScope

    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())
    seen = connect(authenticator, websocket_scope(issued.authorization, denial=denial))

    assert seen.raised is None
    if denial:
        assert (seen.status, seen.problem["code"]) == (403, "insufficient_scope")
    else:
        assert [message["type"] for message in seen.messages] == ["websocket.close"]


@pytest.mark.parametrize("case", ["accepted", "not mapped", "gone"])
def test_a_websocket_handler_that_refuses_too_late(backend: Backend, issued: Issued, case: str) -> None:
    """After the handshake is answered, or its client has gone, there is nothing to be said."""
    accept = {"type": "websocket.accept"}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if case == "accepted":
            await send(accept)
        if case == "gone":
            assert (await receive())["type"] == "websocket.disconnect"
        raise InsufficientScope

    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(map_errors=case != "not mapped"))
    seen = connect(
        authenticator, websocket_scope(issued.authorization), {"type": "websocket.disconnect", "code": 1006}
    )

    assert seen.messages == ([accept] if case == "accepted" else [])
    assert isinstance(seen.raised, InsufficientScope) or case == "gone"


# --- a client that has gone


class Gone(OSError):
    """What a server raises from send when the client has gone (ASGI 2.4)."""


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
    """No answer is tried, nothing is logged; the app has seen the exception and raised it on."""
    tried = []

    async def send(message: Message) -> None:
        tried.append(message)
        raise Gone

    authenticator = BasicAuthMiddleware(App(*sent), backend, settings=Settings(timeout_s=timeout_s))
    seen = asyncio.run(exchange(authenticator, http_scope(issued.authorization), send=send))

    assert isinstance(seen.raised, Gone)
    assert tried == sent[:1]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.proves("A10")
@pytest.mark.parametrize("sent", [[], [OK_START]])
def test_a_client_that_goes_during_our_answer_hides_no_exception(
    backend: Backend, issued: Issued, sent: list[Message]
) -> None:
    """The app's exception comes out, not the server's."""
    boom = Boom()
    app = sending(sent, boom)

    async def send(message: Message) -> None:
        raise Gone

    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())
    seen = asyncio.run(exchange(authenticator, http_scope(issued.authorization), send=send))

    assert seen.raised is boom


# --- time-outs


class Server:
    """Keeps what is sent and lets a test wait for it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._changed = asyncio.Event()

    async def send(self, message: Message) -> None:
        self.messages.append(message)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    @property
    def answered(self) -> bool:
        return len(self.messages) == 2

    @property
    def statuses(self) -> list[int]:
        return [message["status"] for message in self.messages if "status" in message]


@pytest.fixture
def timed(backend: Backend, issued: Issued) -> Callable[..., Awaitable[None]]:
    """Call an app behind a gate with a time limit."""

    def timed(app: Any, server: Server, timeout_s: float = SOON_S, **settings: Any) -> Awaitable[None]:
        authenticator = BasicAuthMiddleware(app, backend, settings=Settings(timeout_s=timeout_s, **settings))
        scope = http_scope(issued.authorization, headers=[(b"x-request-id", b"req-1")])
        return authenticator(scope, None, server.send)

    return timed


def errors_in(caplog: pytest.LogCaptureFixture) -> Iterator[logging.LogRecord]:
    return (record for record in caplog.records if record.levelno >= logging.ERROR)


@pytest.mark.proves("A12")
@pytest.mark.parametrize("map_errors", [True, False])
@pytest.mark.parametrize(
    "sent",
    [[], [{"type": "http.response.early_hint", "links": []}]],
    ids=["nothing sent", "hint sent"],
)
def test_an_app_that_is_too_slow_is_answered_for(
    timed: Callable[..., Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
    sent: list[Message],
    map_errors: bool,
) -> None:
    """504, logged once, cancelled and awaited, not raised on; the task goes on as if nothing had been."""
    ended = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in sent:
            await send(message)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def main() -> Server:
        server = Server()
        async with asyncio.timeout(LIMIT_S) as limit:
            await timed(app, server, map_errors=map_errors)
        assert not limit.expired(), "that is not what may cancel it"
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert asyncio.all_tasks() == {task}
        await asyncio.sleep(0)
        return server

    server = asyncio.run(main())

    assert ended == [True]
    assert server.statuses == [504]
    assert server.messages[-1]["body"].count(b'"timeout"') == 1
    assert [message["type"] for message in server.messages[-2:]] == [
        "http.response.start",
        "http.response.body",
    ]
    (told,) = errors_in(caplog)
    assert "req-1" in told.getMessage()


@pytest.mark.parametrize("map_errors", [True, False])
def test_a_start_ends_the_time_limit(
    timed: Callable[..., Awaitable[None]], caplog: pytest.LogCaptureFixture, map_errors: bool
) -> None:
    """A response that has sent its start may then take as long as it likes."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(OK_START)
        await asyncio.sleep(3 * SOON_S)
        await send(OK_BODY)

    server = Server()
    asyncio.run(timed(app, server, map_errors=map_errors))

    assert server.messages == [OK_START, OK_BODY]
    assert list(errors_in(caplog)) == []


@pytest.mark.proves("A12")
@pytest.mark.parametrize("ending", ["sends", "raises", "raises scope"])
def test_the_answer_does_not_wait_for_a_handler_that_will_not_stop(
    timed: Callable[..., Awaitable[None]], caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    """504 at once; the handler is awaited, and whatever it still does is dropped."""

    async def main() -> Server:
        server, release = Server(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await release.wait()
            match ending:
                case "sends":
                    await send(OK_START)
                    await send(OK_BODY)
                case "raises":
                    raise Boom
                case "raises scope":
                    raise InsufficientScope

        running = asyncio.ensure_future(timed(app, server))
        await server.until(lambda: server.answered)
        assert not running.done(), "the handler is still at it, and awaited"
        release.set()
        async with asyncio.timeout(LIMIT_S) as limit:
            await running
        assert not limit.expired(), "that is not what may cancel it"
        return server

    server = asyncio.run(main())

    assert server.statuses == [504]
    assert server.answered
    assert len(list(errors_in(caplog))) == 1


@pytest.mark.proves("A12")
def test_a_handler_in_a_thread_is_answered_for(timed: Callable[..., Awaitable[None]]) -> None:
    """It cannot be stopped; its result is dropped."""
    go_on = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.shield(asyncio.to_thread(go_on.wait, LIMIT_S))
        await send(OK_START)
        await send(OK_BODY)

    async def main() -> Server:
        server = Server()
        running = asyncio.ensure_future(timed(app, server))
        await server.until(lambda: server.answered)
        go_on.set()
        async with asyncio.timeout(LIMIT_S):
            await running
        return server

    try:
        server = asyncio.run(main())
    finally:
        go_on.set()

    assert server.statuses == [504]
    assert server.answered


@pytest.mark.proves("A9")
@pytest.mark.parametrize("when", ["before", "after"])
def test_cancelling_from_outside_stays_a_cancellation(
    timed: Callable[..., Awaitable[None]], when: str
) -> None:
    """Before the time-out nothing is answered; after it the 504 stands; the task ends as cancelled."""

    async def main() -> Server:
        server, inside = Server(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            inside.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if when == "before":
                    raise
                await asyncio.Event().wait()

        running = asyncio.ensure_future(timed(app, server, SOON_S if when == "after" else LATE_S))
        async with asyncio.timeout(LIMIT_S):
            if when == "after":
                await server.until(lambda: server.answered)
            else:
                await inside.wait()
            running.cancel()
            await asyncio.wait([running])
        assert running.cancelled()
        return server

    assert asyncio.run(main()).statuses == ([504] if when == "after" else [])


def test_a_limit_of_the_callers_own_still_works(timed: Callable[..., Awaitable[None]]) -> None:
    """``asyncio.timeout`` round the whole app counts cancellations, and so must we."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def main() -> list[int]:
        server = Server()
        async with asyncio.timeout(LIMIT_S) as outer:
            await timed(app, server)
            await asyncio.sleep(0)
        assert not outer.expired()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON_S):
                await timed(app, server, LATE_S)
        return server.statuses

    assert asyncio.run(main()) == [504]


@pytest.mark.proves("A12")
@pytest.mark.parametrize("first", [EMPTY, MORE, {"type": "http.response.pathsend", "path": "/x"}])
def test_the_first_body_event_stops_the_clock(
    timed: Callable[..., Awaitable[None]], caplog: pytest.LogCaptureFixture, first: Message
) -> None:
    """A stream may then take as long as it likes."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(OK_START)
        await send(first)
        await asyncio.sleep(3 * SOON_S)
        await send(FINAL)

    async def main() -> list[Message]:
        server = Server()
        await timed(app, server)
        return server.messages

    assert asyncio.run(main()) == [OK_START, first, FINAL]
    assert list(errors_in(caplog)) == []


@pytest.mark.proves("A12")
@pytest.mark.parametrize("first", [[], [{"type": "websocket.accept"}]], ids=["waits", "accepts"])
def test_a_websocket_has_no_time_limit(backend: Backend, issued: Issued, first: list[Message]) -> None:
    """Whether it is accepted soon, late or never."""
    last = {"type": "websocket.close", "code": 1000}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in first:
            await send(message)
        await asyncio.sleep(3 * SOON_S)
        await send(last)

    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(timeout_s=SOON_S))
    seen = connect(authenticator, websocket_scope(issued.authorization))

    assert seen.raised is None
    assert seen.messages == [*first, last]


@pytest.mark.parametrize("exc", [None, Boom()], ids=repr)
def test_no_timer_is_left_behind(timed: Callable[..., Awaitable[None]], exc: Exception | None) -> None:
    """An app that ends in time, in any way, is not cancelled later; its task may go on for long."""

    async def main() -> None:
        server = Server()
        app = sending([OK_START, OK_BODY] if exc is None else [], exc)
        if exc is not None:
            with pytest.raises(Boom):
                await timed(app, server)
        else:
            await timed(app, server)
        await asyncio.sleep(3 * SOON_S)
        assert server.statuses == [500 if exc else 200]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(main())


def test_an_apps_own_cancellation_is_not_a_time_out(timed: Callable[..., Awaitable[None]]) -> None:
    """A CancelledError that the app raises by itself is raised on, with nothing sent."""
    server_seen: list[Message] = []

    async def main() -> None:
        server = Server()
        with pytest.raises(asyncio.CancelledError):
            await timed(Raising(asyncio.CancelledError()), server, LATE_S)
        server_seen.extend(server.messages)

    asyncio.run(main())
    assert server_seen == []


def test_a_time_out_meets_a_client_that_has_gone(timed: Callable[..., Awaitable[None]]) -> None:
    """The 504 cannot be sent, and that is nobody's error."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    class Broken(Server):
        async def send(self, message: Message) -> None:
            raise Gone

    async def main() -> None:
        async with asyncio.timeout(LIMIT_S):
            await timed(app, Broken())

    asyncio.run(main())


def test_context_variables_of_the_app_stay_in_its_task(timed: Callable[..., Awaitable[None]]) -> None:
    """With a time limit the app still runs in the task that the server made."""
    tasks = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        tasks.append(asyncio.current_task())
        await App()(scope, receive, send)

    async def main() -> None:
        await timed(app, Server(), LATE_S)
        tasks.append(asyncio.current_task())

    asyncio.run(main())
    assert tasks[0] is tasks[1]
