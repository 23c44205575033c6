"""Send a response of the middleware to an ASGI server."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from ..auth.problems import Response

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]


async def send_response(scope: Scope, send: Send, response: Response, *, prefix: str = "") -> None:
    """Send a whole response; ``prefix`` is ``websocket.`` for the response to a handshake."""
    kind = f"{prefix}http.response.start"
    await send({"type": kind, "status": response.status, "headers": response.raw_headers})
    body = b"" if scope.get("method") == "HEAD" else response.body
    await send({"type": f"{prefix}http.response.body", "body": body})


async def try_send_response(scope: Scope, send: Send, response: Response) -> None:
    """Send a response, unless the client has gone."""
    with suppress(OSError):
        await send_response(scope, send, response)


async def refuse(scope: Scope, receive: Receive, send: Send, response: Response) -> None:
    """Respond to a request that does not reach the app."""
    if scope["type"] == "http":
        await send_response(scope, send, response)
        return
    message = await receive()  # a server expects no response before it has passed on the handshake
    if message["type"] == "websocket.connect":
        await deny_handshake(scope, send, response)


async def deny_handshake(scope: Scope, send: Send, response: Response) -> None:
    """Respond to a websocket handshake, or close it if the server does not support denial responses."""
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await send_response(scope, send, response, prefix="websocket.")
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
