"""An MCP server with other streams, of Starlette and sse-starlette, and with the middleware.

``/events`` and ``/text`` send their first chunk after a POST to ``/publish``; ``/events/greeting`` sends its
second chunk then.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver import Context, MCPServer
from sse_starlette import EventSourceResponse
from starlette.responses import Response, StreamingResponse

from basicauth_mw.asgi import BasicAuthMiddleware
from tests.servers.streams import chunks, published

if TYPE_CHECKING:
    from starlette.requests import Request

TIMEOUT_S = float(os.environ["BASICAUTH_TIMEOUT_S"])

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


app = BasicAuthMiddleware(server.streamable_http_app())
