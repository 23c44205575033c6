"""Apps that stream: an MCP server, sse-starlette, Starlette and Quart, each with the middleware.

``/events`` and ``/text`` send their first chunk after a POST to ``/publish``; ``/events/greeting`` sends its
second chunk then.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import Context, MCPServer
from quart import Quart
from sse_starlette import EventSourceResponse
from starlette.responses import Response, StreamingResponse

from basicauth_mw.asgi import BasicAuthMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

TIMEOUT_S = float(os.environ["BASICAUTH_TIMEOUT_S"])
published = asyncio.Event()


async def chunks(*before: str, layout: str = "{}") -> AsyncIterator[str]:
    for chunk in before:
        yield layout.format(chunk)
    published.clear()
    await published.wait()
    yield layout.format("published")


# --- Starlette and MCP

server = MCPServer("streams")


@server.tool()
async def announce(ctx: Context[Any, Any]) -> str:
    """Send a notification on the standalone stream, which the client has opened with GET."""
    await ctx.session.send_tool_list_changed()
    return "announced"


@server.tool()
async def work(ctx: Context[Any, Any]) -> str:
    """Report progress, do nothing for longer than the time limit, and return the caller."""
    await ctx.report_progress(1, 2)
    await asyncio.sleep(2 * TIMEOUT_S)
    await ctx.report_progress(2, 2)
    request: Any = ctx.request_context.request
    return str(request.user.client_id)


@server.custom_route("/events", ["GET"])
async def events(_request: Request) -> Response:
    return EventSourceResponse(chunks())


@server.custom_route("/events/greeting", ["GET"])
async def greeting(_request: Request) -> Response:
    return EventSourceResponse(chunks("hello"))


@server.custom_route("/text", ["GET"])
async def text(_request: Request) -> Response:
    return StreamingResponse(chunks(), media_type="text/plain")


@server.custom_route("/publish", ["POST"])
async def publish(_request: Request) -> Response:
    published.set()
    return Response()


starlette_app = BasicAuthMiddleware(server.streamable_http_app())

# --- Quart

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


quart_app = BasicAuthMiddleware(quart)
