"""Prefect's server and client. Runs with the Python of an environment that has Prefect.

::

    PREFECT_HOME=DIRECTORY python -m tests.system.real.prefect_client DIRECTORY
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.events.clients import get_events_client, get_events_subscriber
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_CUSTOM_HEADERS,
    temporary_settings,
)
from websockets.exceptions import InvalidStatus

from basicauth_mw import encode_basic
from tests.system.real.serving import Key, check_life_of_a_key, raised_by, serving
from tests.waiting import LIMIT_S, wait_until

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from prefect.client.orchestration import SyncPrefectClient

    from tests.system.real.serving import Running


@task
def double(number: int) -> int:
    """A task."""
    return 2 * number


@flow
def doubling(number: int) -> int:
    """A flow that logs, and runs a task."""
    get_run_logger().info("doubling %s", number)
    return double(number)


def log_in(running: Running, key: Key, **headers: str) -> AbstractContextManager[object]:
    """Use a key in a block, as the environment variables do in a process."""
    return temporary_settings(
        {
            PREFECT_API_URL: f"{running.url}/api",
            PREFECT_API_AUTH_STRING: f"{key.client_id}:{key.secret}",
            PREFECT_CLIENT_CUSTOM_HEADERS: headers,
        }
    )


def recorded(client: SyncPrefectClient) -> tuple[int, int]:
    """How many flow runs and task runs the server knows."""
    return len(client.read_flow_runs()), len(client._client.post("/task_runs/filter", json={}).json())


async def _exchange_an_event() -> None:
    async with get_events_subscriber() as subscriber, get_events_client() as client:
        await client.emit(Event(event="canary", resource={"prefect.resource.id": "canary"}))
        async for event in subscriber:
            if event.event == "canary":
                return


def exchange_an_event() -> None:
    """Send an event, and receive it as a subscriber, each over a websocket."""
    asyncio.run(asyncio.wait_for(_exchange_an_event(), LIMIT_S))


def main(directory: Path) -> None:
    """Serve Prefect, run flows, and use keys."""
    with serving(
        "prefect.server.api.server:create_app", directory, BASICAUTH_EXCLUDE="/api/health,/api/ready"
    ) as running:
        assert httpx.get(f"{running.url}/api/health", timeout=60).text == "true"
        assert httpx.get(f"{running.url}/", timeout=60).status_code == 401  # the pages for people

        issued = running.keys.create()
        key = Key(issued.client_id, issued.secret)
        with log_in(running, key):
            assert doubling(21) == 42
            with get_client(sync_client=True) as client:
                # Task runs reach the server as events, over a websocket.
                wait_until(lambda: recorded(client) == (1, 1))

            # Subscribers do not send the key.
            refusal = raised_by(exchange_an_event, InvalidStatus)
            assert refusal.response.status_code == 401
        with log_in(running, key, Authorization=encode_basic(key.client_id, key.secret)):
            exchange_an_event()

        def use(key: Key) -> None:
            with log_in(running, key), get_client(sync_client=True) as client:
                client.read_flows()

        check_life_of_a_key(running.keys, use, PrefectHTTPStatusError)

        # A client that is open while its key is rotated, and then revoked.
        with log_in(running, key), get_client(sync_client=True) as client:
            running.keys.rotate(key.client_id)
            client.read_flows()
            running.keys.revoke(key.client_id)

            def read_until_refused() -> None:
                while True:
                    client.read_flows()

            assert raised_by(read_until_refused, PrefectHTTPStatusError).response.status_code == 401


if __name__ == "__main__":
    main(Path(sys.argv[1]))
