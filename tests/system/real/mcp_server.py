"""An MCP server made with FastMCP."""

from __future__ import annotations

from fastmcp import Context, FastMCP

mcp = FastMCP("tools")


@mcp.tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@mcp.tool
async def announce(ctx: Context) -> str:
    """Send a notification on the stream that the client has opened with GET."""
    await ctx.session.send_tool_list_changed()
    return "announced"
