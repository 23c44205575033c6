"""Streams over real servers: clients see the head before the first chunk, and no time limit ends a stream."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.matrix.kinds import Server
from tests.waiting import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 0.5
AUTH = ("demo", "p@55w0rd")
COMMANDS = {
    "uvicorn": ("uvicorn", "--port={port}", "--log-level=warning"),
    "hypercorn": ("hypercorn", "--bind=127.0.0.1:{port}", "--log-level=warning"),
    "granian": ("granian", "--port={port}", "--interface=asgi", "--log-level=warning"),
}
APPS = {"starlette": "mcp_stream_app", "quart": "quart_stream_app"}


class StreamServer(Server):
    @property
    def command(self) -> tuple[str, ...]:
        server, app = self.name.split("-")
        return (*COMMANDS[server], f"tests.servers.{APPS[app]}:app")


@pytest.fixture(scope="module", params=[f"{server}-{app}" for server in COMMANDS for app in APPS])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("streams") / "log"
    settings = {"BASICAUTH_KEYS": ":".join(AUTH), "BASICAUTH_TIMEOUT_S": str(TIMEOUT_S)}
    with StreamServer(request.param, log, settings) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{server.port}"
    with httpx.Client(base_url=url, auth=AUTH, timeout=LIMIT_S, trust_env=False) as client:
        yield client


# hypercorn and granian send the head with the first chunk, also of an app alone.
@pytest.mark.parametrize("server", [f"uvicorn-{app}" for app in APPS], indirect=True)
@pytest.mark.parametrize("path", ["/events", "/text"])
def test_a_client_that_waits_for_the_headers_before_it_publishes(client: httpx.Client, path: str) -> None:
    with client.stream("GET", path) as response:
        assert response.status_code == 200
        assert client.post("/publish").status_code == 200
        assert "published" in next(response.iter_text())


def test_no_timeout_ends_a_started_stream(client: httpx.Client) -> None:
    with client.stream("GET", "/events/greeting") as response:
        received = response.iter_text()
        assert "hello" in next(received)
        time.sleep(2 * TIMEOUT_S)  # the stream is idle for longer than the limit
        assert client.post("/publish").status_code == 200
        assert "published" in next(received)


@pytest.mark.parametrize("server", [f"{server}-starlette" for server in COMMANDS], indirect=True)
@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_an_mcp_client_and_server(server: Server, mode: str) -> None:
    """A "legacy" client opens a stream with GET, which is idle until the server sends a notification."""

    async def run() -> None:
        notified = asyncio.Event()
        progress: list[float] = []

        async def on_message(message: Any) -> None:
            if getattr(message, "method", "") == "notifications/tools/list_changed":
                notified.set()

        async def on_progress(done: float, _total: float | None, _message: str | None) -> None:
            progress.append(done)

        async with httpx2.AsyncClient(auth=AUTH, timeout=LIMIT_S, trust_env=False) as http_client:
            url = f"http://127.0.0.1:{server.port}/mcp"
            transport = streamable_http_client(url, http_client=http_client)
            async with Client(transport, mode=mode, message_handler=on_message) as session:
                assert {tool.name for tool in (await session.list_tools()).tools} == {"announce", "work"}
                result: Any = await session.call_tool("work", progress_callback=on_progress)
                assert result.content[0].text == "demo"
                assert progress == [1, 2]
                if mode == "legacy":
                    await session.call_tool("announce")  # "work" has taken longer than the limit
                    await notified.wait()

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))
    assert "basicauth_mw" not in server.log.read_text()
