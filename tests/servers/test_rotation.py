"""A client that changes its secret under continuous load sees no failed request."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from basicauth_mw import Settings, open_backend
from tests.servers.conftest import LIMIT_S, ROOT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers.conftest import Served

CLIENTS = 4
ROTATIONS = 3
OVERLAP_S = 6
SHORT_OVERLAP_S = 4  # the clients switch to the new secret within it, also on a busy machine
TTL_S = 1.0
REQUESTS_BETWEEN = 10  # requests of each client between two rotations
LAG = 5  # requests that a client still sends with its old secret
PAUSE_S = 0.02  # between two requests of a client, so that the commands get a share of the processor

DEPLOYMENTS = {
    "uvicorn-sqlite": ("fastapi-wrapped-h11", "sqlite"),
    "waitress-redis": ("flask-waitress", "redis"),
}


@dataclass
class Client:
    """A client that sends requests continuously on a persistent connection.

    Attributes:
        port: The port of the server.
        authorization: The header that it sends; may be changed while it runs.
        requests: The time and the status of each request.
    """

    port: int
    authorization: str
    requests: list[tuple[float, int]] = field(default_factory=list)
    failure: BaseException | None = None

    def run(self, stop: threading.Event) -> None:
        try:
            with httpx.Client(trust_env=False, timeout=LIMIT_S) as connection:
                while not stop.wait(PAUSE_S):
                    sent_at = time.monotonic()
                    response = connection.get(
                        f"http://127.0.0.1:{self.port}/hello", headers={"Authorization": self.authorization}
                    )
                    self.requests.append((sent_at, response.status_code))
        except BaseException as exc:
            self.failure = exc

    def wait_for_responses(self, requests: int) -> None:
        """Wait for this number of further responses."""
        end = len(self.requests) + requests
        wait_until(lambda: len(self.requests) >= end or self.failure is not None)
        assert self.failure is None


@contextmanager
def under_load(port: int, authorization: str) -> Iterator[list[Client]]:
    """Run several clients at once, each with its own connection."""
    stop = threading.Event()
    clients = [Client(port, authorization) for _ in range(CLIENTS)]
    threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        stop.set()
        for thread in threads:
            thread.join(LIMIT_S)


def keys(url: str, *arguments: str) -> Any:
    """Run ``basicauth-mw keys`` in a new process."""
    done = subprocess.run(
        [sys.executable, "-m", "basicauth_mw", "keys", *arguments, "--backend", url, "--json"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.proves("F33")
@pytest.mark.parametrize(("name", "store"), DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_rotation_under_load(
    serve: Callable[..., Served], request: pytest.FixtureRequest, tmp_path: Path, name: str, store: str
) -> None:
    """Rotated by other processes again and again: every response is a 200, until the key is revoked."""
    url = f"sqlite:///{tmp_path}/keys.db" if store == "sqlite" else request.getfixturevalue("redis_url")
    with open_backend(url, settings=Settings(), create=True) as backend:
        issued = backend.create(client_id="ci").authorization
    served = serve(
        name,
        BASICAUTH_BACKEND=url,
        BASICAUTH_CACHE_TTL_S=str(TTL_S),
        BASICAUTH_BACKEND_DEADLINE_S="5",
        BASICAUTH_THROTTLE="",
    )
    used = [issued]
    with under_load(served.port, issued) as clients:
        for _ in range(ROTATIONS):
            used.append(keys(url, "rotate", "ci", "--overlap", f"{OVERLAP_S}s")["authorization"])
            rotated_at = time.monotonic()
            for client in clients:  # one after the other, as in a rolling update
                client.wait_for_responses(LAG)
                client.authorization = used[-1]
            assert time.monotonic() < rotated_at + OVERLAP_S, "the machine was too slow for this test"
            for client in clients:
                client.wait_for_responses(REQUESTS_BETWEEN)
        statuses = {status for client in clients for _, status in client.requests}
        assert statuses == {200}
        assert len(set(used)) == ROTATIONS + 1

        keys(url, "revoke", "ci", "--yes")
        revoked_at = time.monotonic()
        wait_until(lambda: all(client.requests[-1][1] == 401 for client in clients))
        for client in clients:
            client.wait_for_responses(REQUESTS_BETWEEN)

    for client in clients:
        late = [status for sent_at, status in client.requests if sent_at >= revoked_at + TTL_S]
        assert set(late) <= {401}
        assert {status for _, status in client.requests} == {200, 401}
        statuses_in_order = [status for _, status in client.requests]
        assert statuses_in_order == sorted(statuses_in_order), "a refused secret is not accepted again"


@pytest.mark.parametrize(("name", "store"), DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_the_old_secret_ends_with_the_overlap(
    serve: Callable[..., Served], request: pytest.FixtureRequest, tmp_path: Path, name: str, store: str
) -> None:
    """Within the time of the cache, also for a client that never pauses; the new secret keeps working."""
    url = f"sqlite:///{tmp_path}/keys.db" if store == "sqlite" else request.getfixturevalue("redis_url")
    with open_backend(url, settings=Settings(), create=True) as backend:
        old = backend.create(client_id="ci").authorization
    served = serve(
        name,
        BASICAUTH_BACKEND=url,
        BASICAUTH_CACHE_TTL_S=str(TTL_S),
        BASICAUTH_BACKEND_DEADLINE_S="5",
        BASICAUTH_THROTTLE="",
    )
    with under_load(served.port, old) as (first, *others):
        first.wait_for_responses(LAG)
        new = keys(url, "rotate", "ci", "--overlap", f"{SHORT_OVERLAP_S}s")["authorization"]
        rotated_at = time.monotonic()
        for client in others:
            client.authorization = new
        for client in others:
            client.wait_for_responses(LAG)
        wait_until(lambda: first.requests[-1][1] == 401)
        ended_at = time.monotonic()
        for client in others:
            client.wait_for_responses(LAG)

    assert ended_at < rotated_at + SHORT_OVERLAP_S + TTL_S + LIMIT_S / 10
    end = rotated_at + SHORT_OVERLAP_S + TTL_S
    assert {status for sent_at, status in first.requests if sent_at >= end} <= {401}
    assert {status for client in others for _, status in client.requests} == {200}
