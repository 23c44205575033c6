"""Calls an ASGI app directly, without a server or a client library."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    Message = dict[str, Any]
    Scope = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    AnyApp = Callable[[Any, Any, Any], Awaitable[None]]

OK_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"x-app", b"1"), (b"x-app", b"2")],
}
OK_BODY = {"type": "http.response.body", "body": b"hello"}

LIMIT_S = 10  # a timeout for events that must happen; reached only in a failure


@dataclass
class Exchange:
    """The messages sent to the server, and the exception that was raised."""

    messages: list[Message] = field(default_factory=list)
    raised: BaseException | None = None

    @property
    def starts(self) -> list[Message]:
        return [message for message in self.messages if message["type"].endswith("http.response.start")]

    @property
    def status(self) -> int:
        (start,) = self.starts
        return int(start["status"])

    @property
    def headers(self) -> dict[str, str]:
        (start,) = self.starts
        named = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        assert len(named) == len(start["headers"]), "no field twice"
        return named

    @property
    def body(self) -> bytes:
        return b"".join(
            message.get("body", b"")
            for message in self.messages
            if message["type"].endswith("http.response.body")
        )

    @property
    def problem(self) -> dict[str, Any]:
        members: dict[str, Any] = json.loads(self.body)
        return members


class App:
    """Sends the given messages, and keeps the scope of each call."""

    def __init__(self, *messages: Message, raises: BaseException | None = None) -> None:
        self.messages = messages or (OK_START, OK_BODY)
        self.raises = raises
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        for message in self.messages:
            await send(message)
        if self.raises is not None:
            raise self.raises


def http_scope(
    authorization: bytes | str | None = None,
    *,
    method: str = "GET",
    path: str = "/",
    headers: Iterable[tuple[bytes, bytes]] = (),
    **more: Any,
) -> Scope:
    """A scope as a server makes it."""
    fields = list(headers)
    if authorization is not None:
        value = authorization.encode() if isinstance(authorization, str) else authorization
        fields.append((b"authorization", value))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": b"",
        "root_path": "",
        "headers": fields,
        "client": ("192.0.2.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
        **more,
    }


def websocket_scope(authorization: bytes | str | None = None, *, denial: bool = True, **more: Any) -> Scope:
    """A websocket scope; it has no method."""
    scope = http_scope(authorization, **{"type": "websocket", "scheme": "ws", "subprotocols": [], **more})
    del scope["method"]
    scope["extensions"] = {"websocket.http.response": {}} if denial else {}
    return scope


async def exchange(app: AnyApp, scope: Scope, *incoming: Message, send: Send | None = None) -> Exchange:
    """Call an app in the running loop; after ``incoming``, receive waits for the response, as in a server."""
    seen = Exchange()
    waiting = list(incoming or [{"type": "http.request", "body": b"", "more_body": False}])
    is_complete = asyncio.Event()

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await is_complete.wait()
        return {"type": "http.disconnect"}

    async def collect(message: Message) -> None:
        seen.messages.append(dict(message))
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            is_complete.set()

    try:
        async with asyncio.timeout(LIMIT_S):
            await app(scope, receive, send or collect)
    except Exception as exc:
        seen.raised = exc
    return seen


def call(app: AnyApp, scope: Scope, *incoming: Message) -> Exchange:
    """``exchange`` in a new event loop."""
    return asyncio.run(exchange(app, scope, *incoming))


def connect(app: AnyApp, scope: Scope, *incoming: Message) -> Exchange:
    """``call`` for a websocket."""
    return call(app, scope, {"type": "websocket.connect"}, *incoming)
