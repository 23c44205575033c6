"""How long the start of a response is held back, event by event."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from contextvars import ContextVar
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from basicauth_mw import Backend, Issued, Settings
from basicauth_mw.asgi import BasicAuthMiddleware
from tests.asgi.helpers import LIMIT_S, OK_BODY, OK_START, http_scope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.asgi.helpers import Message, Receive, Scope, Send

SOON_S = 0.02  # a limit that is meant to expire
LATE_S = 60.0  # a limit that never expires

EVENTS = [(b"Content-Type", b"Text/Event-Stream; charset=utf-8")]
STARLETTE_500: list[Message] = [
    {
        "type": "http.response.start",
        "status": 500,
        "headers": [(b"content-length", b"21"), (b"content-type", b"text/plain; charset=utf-8")],
    },
    {"type": "http.response.body", "body": b"Internal Server Error"},
]
CALLER: ContextVar[str] = ContextVar("CALLER", default="")


class Boom(Exception):
    """The exception that the apps raise."""


class Gone(OSError):
    """What a server raises after the client has disconnected."""


class Server:
    """Records the sent messages, and lets an app wait for them."""

    def __init__(self, raises: BaseException | None = None, blocks: bool = False) -> None:
        self.messages: list[Message] = []
        self.contexts: list[str] = []
        self.reached = asyncio.Event()
        self.free = asyncio.Event()
        self._raises = raises
        self._blocks = blocks

    async def send(self, message: Message) -> None:
        self.contexts.append(CALLER.get())
        self.reached.set()
        if self._blocks:
            await self.free.wait()
        if self._raises is not None:
            raise self._raises
        self.messages.append(message)


@pytest.fixture
def held(backend: Backend, issued: Issued) -> Callable[..., Awaitable[None]]:
    """Call an app inside the middleware."""

    async def call(app: Any, server: Server, **settings: Any) -> None:
        middleware = BasicAuthMiddleware(
            app, backend, settings=Settings(**{"start_hold_s": SOON_S, **settings})
        )
        async with asyncio.timeout(LIMIT_S):
            await middleware(http_scope(issued.authorization), None, server.send)  # type: ignore[arg-type]
        assert asyncio.all_tasks() <= {asyncio.current_task()}, "no task outlives the request"

    return call


@pytest.mark.parametrize(
    ("start", "settings"),
    [
        pytest.param([OK_START], {}, id="released"),
        pytest.param(STARLETTE_500, {}, id="starlette's 500, released"),
        pytest.param([{**OK_START, "headers": EVENTS}], {"start_hold_s": LATE_S}, id="event stream"),
        pytest.param([OK_START], {"start_hold_s": 0}, id="no hold"),
        pytest.param(
            [OK_START], {"start_hold_s": LATE_S, "map_errors": False, "timeout_s": LATE_S}, id="not mapped"
        ),
    ],
)
@pytest.mark.parametrize("end", ["return", "raise"])
def test_a_client_that_waits_for_the_head_gets_it(
    held: Callable[..., Awaitable[None]], start: list[Message], settings: dict[str, Any], end: str
) -> None:
    """The app sends its start, waits until the client has it, and continues; the order is unchanged."""
    rest = [{"type": "http.response.body", "body": b"part", "more_body": True}, OK_BODY]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        CALLER.set("ci")
        for message in start:
            await send(message)
        await server.reached.wait()
        for message in rest:
            await send(message)
        if end == "raise":
            raise Boom

    server = Server()
    raised = None
    try:
        asyncio.run(held(app, server, **settings))
    except Boom as exc:
        raised = exc

    assert server.messages == [*start, *rest]
    assert (raised is not None) is (end == "raise")
    assert set(server.contexts) == {"ci"}, "the server's send sees the request's context variables"


@pytest.mark.parametrize("status", [200, 500])
def test_headers_may_be_any_iterable(held: Callable[..., Awaitable[None]], status: int) -> None:
    """Even one that can be read only once (ASGI, "Response Start")."""
    headers = [(b"x-first", b"1"), (b"content-type", b"text/plain"), (b"x-last", b"2")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": iter(headers)})
        await send(OK_BODY)

    server = Server()
    asyncio.run(held(app, server))

    assert server.messages[0]["headers"] == headers


@pytest.mark.parametrize("after", ["sends", "returns", "raises", "is cancelled"])
def test_the_next_send_waits_for_the_release(held: Callable[..., Awaitable[None]], after: str) -> None:
    """The release of a start is complete before any later message, even if the server blocks it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(OK_START)
        await server.reached.wait()
        asyncio.get_running_loop().call_later(SOON_S, server.free.set)
        if after == "sends":
            await asyncio.gather(send(OK_BODY), asyncio.wait_for(send(OK_BODY), LIMIT_S))
        elif after == "raises":
            raise Boom
        elif after == "is cancelled":
            raise asyncio.CancelledError

    server = Server(blocks=True)
    expected = {"raises": Boom, "is cancelled": asyncio.CancelledError}.get(after)
    if expected is None:
        asyncio.run(held(app, server))
    else:
        with pytest.raises(expected):
            asyncio.run(held(app, server))

    sent = {"sends": [OK_START, OK_BODY, OK_BODY], "is cancelled": []}.get(after, [OK_START])
    assert server.messages == sent


@pytest.mark.parametrize("after", ["sends", "returns", "raises"])
def test_the_error_of_a_release_reaches_the_app(
    held: Callable[..., Awaitable[None]], caplog: pytest.LogCaptureFixture, after: str
) -> None:
    """By its next send, or to the server if there is none; the app's own exception takes precedence."""
    caught = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(OK_START)
        await server.reached.wait()
        if after == "sends":
            try:
                await send(OK_BODY)
            except Gone as exc:
                caught.append(exc)
        elif after == "raises":
            raise Boom

    server = Server(raises=Gone())
    if after == "sends":
        asyncio.run(held(app, server))
    else:
        with pytest.raises(Boom if after == "raises" else Gone):
            asyncio.run(held(app, server))

    assert len(caught) == (after == "sends")
    assert caplog.records == []


def test_a_cancelled_request_releases_nothing(held: Callable[..., Awaitable[None]]) -> None:
    """Its start is dropped, because the server has ended the request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(OK_START)
        raise asyncio.CancelledError

    async def main() -> list[Message]:
        server = Server()
        with suppress(asyncio.CancelledError):
            await held(app, server)
        await asyncio.sleep(3 * SOON_S)
        return server.messages

    assert asyncio.run(main()) == []


def test_an_exception_within_the_limit_is_still_a_500(held: Callable[..., Awaitable[None]]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(OK_START)
        await asyncio.sleep(SOON_S)
        raise Boom

    server = Server()
    with pytest.raises(Boom):
        asyncio.run(held(app, server, start_hold_s=LATE_S))

    assert [message.get("status") for message in server.messages] == [500, None]


def test_event_loops_in_several_threads(backend: Backend, issued: Issued) -> None:
    """One middleware serves event loops in several threads, one after the other in each."""
    done = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(OK_START)
        await scope["reached"].wait()
        await send(OK_BODY)

    middleware = BasicAuthMiddleware(app, backend, settings=Settings(start_hold_s=SOON_S))

    async def main() -> None:
        for servers in ([Server() for _ in range(20)], [Server()]):
            async with asyncio.timeout(LIMIT_S):
                await asyncio.gather(
                    *(
                        middleware(http_scope(issued.authorization, reached=each.reached), None, each.send)  # type: ignore[arg-type]
                        for each in servers
                    )
                )
            done.extend(servers)

    def run() -> None:
        for _ in range(3):
            asyncio.run(main())

    threads = [Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [server.messages for server in done] == [[OK_START, OK_BODY]] * (3 * 3 * 21)


def test_a_held_start_is_dropped_where_the_apps_own_handler_responds(
    backend: Backend, issued: Issued
) -> None:
    """Starlette's handler outside the middleware sends its response alone, however long it takes."""

    async def endpoint(_request: object) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            raise Boom
            yield b""

        return StreamingResponse(chunks())

    async def handler(_request: object, _exc: Exception) -> PlainTextResponse:
        return PlainTextResponse("own", 500)

    async def serve() -> None:
        app = Starlette(routes=[Route("/", endpoint)], exception_handlers={Exception: handler})
        scope = {**http_scope(issued.authorization), "asgi": {"version": "3.0", "spec_version": "2.4"}}
        app.add_middleware(BasicAuthMiddleware, backend, settings=Settings(start_hold_s=SOON_S))
        async with asyncio.timeout(LIMIT_S):
            with suppress(Boom):
                await app(scope, asyncio.Event().wait, server.send)  # type: ignore[arg-type]
            await asyncio.sleep(4 * SOON_S)

    server = Server()
    asyncio.run(serve())

    assert [message.get("status") for message in server.messages] == [500, None]
    assert server.messages[1]["body"] == b"own"


def test_a_fork_while_a_loop_runs_does_not_stop_late_releases(backend: Backend, issued: Issued) -> None:
    """The child has its own event loop, in which the parent's timer never fires."""
    servers: list[Server] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(OK_START)
        await servers[-1].reached.wait()
        await send(OK_BODY)

    middleware = BasicAuthMiddleware(app, backend, settings=Settings(start_hold_s=SOON_S))

    async def serve() -> None:
        servers.append(Server())
        async with asyncio.timeout(LIMIT_S):
            await middleware(http_scope(issued.authorization), None, servers[-1].send)  # type: ignore[arg-type]

    async def serve_and_fork() -> int:
        await serve()
        child = os.fork()
        if child == 0:
            code = 1
            with suppress(BaseException):
                asyncio.run(serve())
                code = 0
            os._exit(code)
        return child

    child = asyncio.run(serve_and_fork())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("fails", [False, True])
def test_messages_of_several_tasks_keep_their_order(
    held: Callable[..., Awaitable[None]], fails: bool
) -> None:
    """The first message sends the start as well, and the others wait for it."""
    parts: list[Message] = [
        {"type": "http.response.body", "body": bytes([number]), "more_body": True} for number in range(3)
    ]
    sent: list[Message] = []

    class SlowStart(Server):
        async def send(self, message: Message) -> None:
            for _ in range(5 if message is OK_START else 1):
                await asyncio.sleep(0)
            if fails and message is OK_START:
                raise Gone
            sent.append(message)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(OK_START)
        async with asyncio.timeout(LIMIT_S):
            results = await asyncio.gather(*map(send, parts), return_exceptions=True)
        assert [type(result) for result in results] == [Gone if fails else type(None), *[type(None)] * 2]
        await send(OK_BODY)

    asyncio.run(held(app, SlowStart(), start_hold_s=LATE_S))

    assert sent == ([*parts[1:], OK_BODY] if fails else [OK_START, *parts, OK_BODY])
