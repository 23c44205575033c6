"""A FastMCP server, and the clients of FastMCP and of the official SDK: tools, the GET stream, other keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import fastmcp
import httpx
import httpx2
import mcp
import pytest
from mcp.client.streamable_http import streamable_http_client

from tests.system.real.serving import Key, check_life_of_a_key, serving
from tests.waiting import LIMIT_S, run_in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.real.serving import Running

MODES = pytest.mark.parametrize("mode", ["legacy", "auto"])  # only "legacy" opens a stream with GET


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("mcp")
    app = "tests.system.real.mcp_server:mcp.http_app"
    with serving(app, directory, BASICAUTH_SCHEMES="bearer,basic") as running:
        yield running


class Notifications:
    """Waits for the notification that the list of tools has changed."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()

    async def __call__(self, message: Any) -> None:
        if getattr(getattr(message, "root", message), "method", "") == "notifications/tools/list_changed":
            self.arrived.set()


@MODES
def test_the_client_of_fastmcp(running: Running, mode: Any) -> None:
    """``auth`` takes a token."""

    async def work() -> None:
        notifications = Notifications()
        token = running.keys.create().token
        async with fastmcp.Client(
            f"{running.url}/mcp", auth=token, mode=mode, message_handler=notifications
        ) as client:
            assert {tool.name for tool in await client.list_tools()} == {"add", "announce"}
            assert (await client.call_tool("add", {"a": 40, "b": 2})).data == 42
            if mode == "legacy":
                await client.call_tool("announce")
                await notifications.arrived.wait()

    run_in_thread(work())


@MODES
def test_the_client_of_the_sdk(running: Running, mode: Any) -> None:
    async def work() -> None:
        notifications = Notifications()
        headers = {"Authorization": f"Bearer {running.keys.create().token}"}
        async with httpx2.AsyncClient(headers=headers, timeout=LIMIT_S, trust_env=False) as http_client:
            transport = streamable_http_client(f"{running.url}/mcp", http_client=http_client)
            async with mcp.Client(transport, mode=mode, message_handler=notifications) as client:
                result: Any = await client.call_tool("add", {"a": 40, "b": 2})
                assert result.structured_content == {"result": 42}
                if mode == "legacy":
                    await client.call_tool("announce")
                    await notifications.arrived.wait()

    run_in_thread(work())


@MODES
def test_the_life_of_a_key(running: Running, mode: Any) -> None:
    """Both clients report a refusal as an error without its status."""

    async def call(key: Key) -> None:
        async with fastmcp.Client(f"{running.url}/mcp", auth=key.token, mode=mode) as client:
            await client.call_tool("add", {"a": 1, "b": 1})

    check_life_of_a_key(running.keys, lambda key: run_in_thread(call(key)), mcp.MCPError)


@MODES
def test_a_session_ends_when_its_key_is_revoked(running: Running, mode: Any) -> None:
    statuses: list[int] = []

    async def on_response(response: httpx2.Response) -> None:
        statuses.append(response.status_code)

    async def work() -> None:
        issued = running.keys.create()
        async with httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {issued.token}"},
            event_hooks={"response": [on_response]},
            timeout=LIMIT_S,
            trust_env=False,
        ) as http_client:
            transport = streamable_http_client(f"{running.url}/mcp", http_client=http_client)
            async with mcp.Client(transport, mode=mode) as client:

                async def call_until_refused() -> None:
                    while True:
                        await client.call_tool("add", {"a": 1, "b": 1})

                await client.call_tool("add", {"a": 1, "b": 1})
                assert 401 not in statuses
                running.keys.revoke(issued.client_id)
                with pytest.raises(mcp.MCPError, match="Server returned an error response"):
                    await call_until_refused()
                assert statuses[-1] == 401

    run_in_thread(work())


def test_the_first_challenge_is_bearer(running: Running) -> None:
    """Clients that look for OAuth read the first one only."""
    response = httpx.post(f"{running.url}/mcp", json={}, trust_env=False)

    assert response.status_code == 401
    assert response.headers.get_list("www-authenticate") == [
        'Bearer realm="api"',
        'Basic realm="api", charset="UTF-8"',
    ]
