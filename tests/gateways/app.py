"""The app behind a gateway: its response contains the request that reached it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Send the request as JSON; ``/boom`` gives the app's own 500; a websocket gets its headers."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": json.dumps(headers)})
        await send({"type": "websocket.close"})
        return
    body = hashlib.sha256()
    size = 0
    more = True
    while more:
        message = await receive()
        body.update(message.get("body", b""))
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    seen = {
        "headers": headers,
        "method": scope["method"],
        "target": scope["raw_path"].decode("latin-1"),
        "query": scope["query_string"].decode("latin-1"),
        "size": size,
        "sha256": body.hexdigest(),
    }
    status = 500 if scope["path"] == "/boom" else 200
    marks = [(b"content-type", b"application/json"), (b"x-app", b"reached")]
    await send({"type": "http.response.start", "status": status, "headers": marks})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})
