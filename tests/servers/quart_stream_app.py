"""A Quart app with the same streams as ``mcp_stream_app``, with the middleware."""

from __future__ import annotations

from typing import Any

from quart import Quart

from basicauth_mw.asgi import BasicAuthMiddleware
from tests.servers.streams import chunks, published

quart = Quart(__name__)
SSE = {"Content-Type": "text/event-stream"}
DATA = "data: {}\r\n\r\n"


@quart.get("/events")
async def quart_events() -> Any:
    return chunks(layout=DATA), SSE


@quart.get("/events/greeting")
async def quart_greeting() -> Any:
    return chunks("hello", layout=DATA), SSE


@quart.get("/text")
async def quart_text() -> Any:
    return chunks(), {"Content-Type": "text/plain"}


@quart.post("/publish")
async def quart_publish() -> str:
    published.set()
    return ""


app = BasicAuthMiddleware(quart)
