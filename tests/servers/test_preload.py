"""Workers forked from a master that has done a lookup: no client gets the response to another request."""

from __future__ import annotations

import random
import threading
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.keys.generated_secrets import generate
from tests.servers.conftest import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers.conftest import Served

REQUESTS = 2000
CLIENTS = 8


@pytest.mark.proves("X55")
def test_no_response_belongs_to_another_client(serve: Callable[..., Served], redis_url: str) -> None:
    """Four workers, eight clients, each request a lookup: each client is known by its own secret."""
    with open_backend(redis_url, settings=Settings()) as keys:
        secrets = {f"key-{number}": keys.create(client_id=f"key-{number}").secret for number in range(10)}
    served = serve(
        "gunicorn-4-used-before-fork",
        BASICAUTH_BACKEND=redis_url,
        BASICAUTH_CACHE_TTL_S="0",
        BASICAUTH_THROTTLE="",
        BASICAUTH_BACKEND_DEADLINE_S="10",
        SECRET=secrets["key-0"],
    )
    mismatches: list[tuple[str, int, bytes]] = []
    workers: set[bytes] = set()
    requests: list[None] = []

    def press(seed: int) -> None:
        chance = random.Random(seed)
        connection = HTTPConnection("127.0.0.1", served.port, timeout=LIMIT_S)
        for number in range(REQUESTS // CLIENTS):
            client_id, other = chance.sample(sorted(secrets), 2)
            kind = chance.choice(["right", "right", "wrong", "other's", "unknown"])
            sent = {"right": client_id, "wrong": client_id, "other's": client_id, "unknown": f"{client_id}x"}[
                kind
            ]
            secret = {"wrong": generate("sk"), "other's": secrets[other]}.get(kind, secrets[client_id])
            connection.request("GET", "/", headers={"Authorization": encode_basic(sent, secret)})
            response = connection.getresponse()
            body = response.read()
            who, _, worker = body.partition(b" ")
            requests.append(None)
            if kind == "right" and (response.status, who) == (200, client_id.encode()):
                workers.add(worker)
            elif kind == "right" or response.status != 401:
                mismatches.append((kind, response.status, body))
            if number % 25 == 24:  # another worker may take the next connection
                connection.close()
        connection.close()

    clients = [threading.Thread(target=press, args=(seed,)) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()

    assert mismatches == []
    assert len(requests) == REQUESTS
    assert len(workers) == 4
    assert "Traceback" not in served.log.read_text()
