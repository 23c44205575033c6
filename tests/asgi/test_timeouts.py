"""An ASGI app that starts no response in time gets a 504, and is cancelled."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Backend, InsufficientScope, Issued, Settings
from basicauth_mw.asgi import BasicAuthMiddleware
from tests.asgi.helpers import (
    LIMIT_S,
    OK_BODY,
    OK_START,
    App,
    connect,
    http_scope,
    websocket_scope,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from tests.asgi.helpers import Message, Receive, Scope, Send


SOON_S = 0.02  # a time limit that is meant to expire
LATE_S = 60.0  # a time limit that never expires


MORE = {"type": "http.response.body", "body": b"part", "more_body": True}
EMPTY = {"type": "http.response.body", "body": b"", "more_body": True}
FINAL = {"type": "http.response.body", "body": b"end"}


class Boom(Exception):
    """The exception that the apps raise."""


def sending(messages: Iterable[Message], exc: BaseException | None = None) -> App:
    """An app that sends these messages, if any, and raises."""
    app = App(raises=exc)
    app.messages = tuple(messages)
    return app


class Raising:
    """Raises without sending anything."""

    def __init__(self, exc: BaseException) -> None:
        self.exc = exc

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise self.exc


class Gone(OSError):
    """What a server raises from send after the client has disconnected (ASGI 2.4)."""


# --- timeouts


class Server:
    """Records the sent messages and lets a test wait for them."""

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
    def has_response(self) -> bool:
        return len(self.messages) == 2

    @property
    def statuses(self) -> list[int]:
        return [message["status"] for message in self.messages if "status" in message]


@pytest.fixture
def timed(backend: Backend, issued: Issued) -> Callable[..., Awaitable[None]]:
    """Call an app inside a middleware with a time limit."""

    def timed(app: Any, server: Server, timeout_s: float = SOON_S, **settings: Any) -> Awaitable[None]:
        middleware = BasicAuthMiddleware(app, backend, settings=Settings(timeout_s=timeout_s, **settings))
        scope = http_scope(issued.authorization, headers=[(b"x-request-id", b"req-1")])
        return middleware(scope, None, server.send)

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
def test_a_slow_app_gets_a_504(
    timed: Callable[..., Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
    sent: list[Message],
    map_errors: bool,
) -> None:
    """504, logged once, cancelled and awaited, not re-raised; the task can continue normally."""
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
        assert not limit.expired(), "the limit must not cancel it"
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
    (record,) = errors_in(caplog)
    assert "req-1" in record.getMessage()


@pytest.mark.parametrize("map_errors", [True, False])
def test_a_start_ends_the_time_limit(
    timed: Callable[..., Awaitable[None]], caplog: pytest.LogCaptureFixture, map_errors: bool
) -> None:
    """After its start, a response may take any time."""

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
def test_the_504_does_not_wait_for_a_handler_that_ignores_cancellation(
    timed: Callable[..., Awaitable[None]], caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    """The 504 is sent immediately; the handler is awaited, and its later messages are dropped."""

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
        await server.until(lambda: server.has_response)
        assert not running.done(), "the handler still runs, and is awaited"
        release.set()
        async with asyncio.timeout(LIMIT_S) as limit:
            await running
        assert not limit.expired(), "the limit must not cancel it"
        return server

    server = asyncio.run(main())

    assert server.statuses == [504]
    assert server.has_response
    assert len(list(errors_in(caplog))) == 1


@pytest.mark.proves("A12")
def test_a_slow_handler_in_a_thread_gets_a_504(timed: Callable[..., Awaitable[None]]) -> None:
    """It cannot be stopped; its result is dropped."""
    go_on = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.shield(asyncio.to_thread(go_on.wait, LIMIT_S))
        await send(OK_START)
        await send(OK_BODY)

    async def main() -> Server:
        server = Server()
        running = asyncio.ensure_future(timed(app, server))
        await server.until(lambda: server.has_response)
        go_on.set()
        async with asyncio.timeout(LIMIT_S):
            await running
        return server

    try:
        server = asyncio.run(main())
    finally:
        go_on.set()

    assert server.statuses == [504]
    assert server.has_response


@pytest.mark.proves("A9")
@pytest.mark.parametrize(
    "when", ["before", "after", "after, and the handler raises", "after, and it returns"]
)
def test_cancelling_from_outside_stays_a_cancellation(
    timed: Callable[..., Awaitable[None]], when: str
) -> None:
    """Before the timeout nothing is sent; after it the 504 remains; the task ends as cancelled."""

    async def main() -> Server:
        server, inside = Server(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            inside.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if when == "before":
                    raise
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if "raises" in when:
                        raise RuntimeError("in place of the cancellation") from None
                    if "returns" not in when:
                        raise

        running = asyncio.ensure_future(timed(app, server, LATE_S if when == "before" else SOON_S))
        async with asyncio.timeout(LIMIT_S):
            if when == "before":
                await inside.wait()
            else:
                await server.until(lambda: server.has_response)
            running.cancel()
            await asyncio.wait([running])
        assert running.cancelled()
        return server

    assert asyncio.run(main()).statuses == ([] if when == "before" else [504])


def test_cancelling_from_outside_ends_a_504_that_is_being_sent(
    timed: Callable[..., Awaitable[None]],
) -> None:
    """No task outlives the request, not even one that waits for a slow client."""

    class BlockedServer(Server):
        async def send(self, message: Message) -> None:
            await super().send(message)
            await asyncio.Event().wait()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    async def main() -> None:
        server = BlockedServer()
        running = asyncio.ensure_future(timed(app, server, SOON_S))
        async with asyncio.timeout(LIMIT_S):
            await server.until(lambda: server.statuses == [504])
            running.cancel()
            await asyncio.wait([running])
        assert running.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_timeout_of_the_caller_still_works(timed: Callable[..., Awaitable[None]]) -> None:
    """``asyncio.timeout`` around the whole app counts cancellations, so the middleware must too."""

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
    """A stream may take any time after it."""

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
    """Whether it is accepted early, late or never."""
    last = {"type": "websocket.close", "code": 1000}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in first:
            await send(message)
        await asyncio.sleep(3 * SOON_S)
        await send(last)

    middleware = BasicAuthMiddleware(app, backend, settings=Settings(timeout_s=SOON_S))
    seen = connect(middleware, websocket_scope(issued.authorization))

    assert seen.raised is None
    assert seen.messages == [*first, last]


@pytest.mark.parametrize("exc", [None, Boom()], ids=repr)
def test_no_timer_is_left_after(timed: Callable[..., Awaitable[None]], exc: Exception | None) -> None:
    """An app that ends in time, in any way, is not cancelled later, even if its task continues."""

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


def test_an_apps_own_cancellation_is_not_a_timeout(timed: Callable[..., Awaitable[None]]) -> None:
    """A CancelledError that the app raises itself is re-raised, with nothing sent."""
    server_seen: list[Message] = []

    async def main() -> None:
        server = Server()
        with pytest.raises(asyncio.CancelledError):
            await timed(Raising(asyncio.CancelledError()), server, LATE_S)
        server_seen.extend(server.messages)

    asyncio.run(main())
    assert server_seen == []


def test_a_timeout_meets_a_client_that_has_gone(timed: Callable[..., Awaitable[None]]) -> None:
    """The 504 cannot be sent, and that is not an error."""

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
