"""End to end over sockets: real servers, real stores, and a request as users send it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import websockets

from basicauth_mw import Settings, encode_basic, open_backend
from tests.servers.conftest import LIMIT_S, SERVERS
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

    from tests.redis_server import RedisServer
    from tests.servers.conftest import Served

TOKEN = "ZGVtbzpwQDU1dzByZA=="
TEXT = "This is an example request!"
DEADLINE_S = 0.5
TTL_S = 1.0

every_server = pytest.mark.parametrize("name", SERVERS)


def post(served: Served, authorization: str) -> httpx.Response:
    """``curl -X POST --compressed`` with a JSON body."""
    return served.request(
        "POST",
        "/echo",
        headers={
            "Accept": "*/*",
            "Accept-Encoding": "gzip, deflate",
            "Authorization": authorization,
            "Connection": "keep-alive",
            "Content-Type": "application/json",
        },
        content=json.dumps({"text": TEXT}),
    )


def assert_problem(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == response.headers["x-request-id"]
    assert ("www-authenticate" in response.headers) == (status == 401)
    if status == 503:
        assert int(response.headers["retry-after"]) >= 1


@pytest.fixture
def key_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A backend URL of the kind that the test requests."""
    kind = request.param
    return f"sqlite:///{tmp_path}/keys.db" if kind == "sqlite" else request.getfixturevalue("redis_url")


@every_server
def test_a_handler_that_raises(demo_server: Callable[[str], Served], name: str) -> None:
    """A JSON 500 without details for the client, and a traceback in the server's log."""
    served = demo_server(name)
    logged = served.log.stat().st_size
    response = served.request("GET", "/broken", auth=("demo", "p@55w0rd"))

    assert_problem(response, 500, "internal_error")
    assert "canary" not in response.text
    wait_until(lambda: b"canary of the handler" in served.log.read_bytes()[logged:])
    assert served.request("GET", "/hello", auth=("demo", "p@55w0rd")).status_code == 200


@pytest.mark.parametrize("name", [name for name in SERVERS if name.startswith("fastapi")])
def test_a_handler_that_is_too_slow(demo_server: Callable[[str], Served], name: str) -> None:
    """A JSON 504 after ``timeout_s``."""
    served = demo_server(name)

    assert_problem(served.request("GET", "/slow", auth=("demo", "p@55w0rd")), 504, "timeout")


@pytest.mark.proves("X35")
@pytest.mark.parametrize("name", [name for name in SERVERS if name.startswith("fastapi")])
def test_websockets(demo_server: Callable[[str], Served], name: str) -> None:
    """A valid key is accepted; anything else gets the same 401 in place of the handshake."""
    served = demo_server(name)

    async def connect(authorization: str | None) -> str:
        headers = {"Authorization": authorization} if authorization else {}
        url = f"ws://127.0.0.1:{served.port}/ws"
        async with websockets.connect(url, additional_headers=headers, proxy=None) as socket:
            return str(await socket.recv())

    assert asyncio.run(connect(f"Basic {TOKEN}")) == "demo"
    for wrong in (None, "Basic eDp5"):
        with pytest.raises(websockets.InvalidStatus) as refusal:
            asyncio.run(connect(wrong))
        assert refusal.value.response.status_code == 401
        assert "Basic realm=" in refusal.value.response.headers["WWW-Authenticate"]
        assert json.loads(refusal.value.response.body)["status"] == 401


@pytest.mark.proves("F24")
@every_server
@pytest.mark.parametrize("key_url", ["sqlite", "redis"], indirect=True)
def test_revoked_by_another_process(serve: Callable[..., Served], name: str, key_url: str) -> None:
    """Revoked on the command line, a key is refused within ``cache_ttl_s``."""
    with open_backend(key_url, settings=Settings(), create=True) as keys:
        issued = keys.create(name="ci")
    served = serve(name, BASICAUTH_BACKEND=key_url, BASICAUTH_CACHE_TTL_S=str(TTL_S))
    assert post(served, issued.authorization).json() == {"client_id": issued.client_id, "text": TEXT}

    command = [sys.executable, "-m", "basicauth_mw", "keys", "revoke", issued.client_id, "--yes"]
    subprocess.run([*command, "--backend", key_url], check=True, capture_output=True, timeout=LIMIT_S)
    revoked_at = time.monotonic()
    wait_until(lambda: post(served, issued.authorization).status_code == 401)

    assert time.monotonic() - revoked_at < TTL_S + 1
    assert_problem(post(served, issued.authorization), 401, "invalid_credentials")


@pytest.mark.proves("F1", "F2")
@every_server
@pytest.mark.parametrize("outage", ["stopped", "frozen"])
def test_redis_stops_and_starts(
    serve: Callable[..., Served], name: str, own_redis_server: RedisServer, outage: str
) -> None:
    """503 within the deadline for uncached keys, never 401; then 200 without a restart."""
    url = own_redis_server.url()
    with open_backend(url, settings=Settings()) as keys:
        cached = keys.create(client_id="cached")
        other = keys.create(client_id="other")
    served = serve(
        name,
        BASICAUTH_BACKEND=url,
        BASICAUTH_CACHE_TTL_S="3",
        BASICAUTH_BACKEND_DEADLINE_S=str(DEADLINE_S),
        BASICAUTH_THROTTLE="",
    )
    assert post(served, cached.authorization).status_code == 200
    proved_at = time.monotonic()
    own_redis_server.freeze() if outage == "frozen" else own_redis_server.stop()

    for _ in range(3):
        began = time.monotonic()
        assert_problem(post(served, other.authorization), 503, "backend_unavailable")
        assert time.monotonic() - began < DEADLINE_S + 1
    assert_problem(post(served, encode_basic("other", "wrong")), 503, "backend_unavailable")
    assert_problem(post(served, "Basic !"), 401, "invalid_credentials")
    assert_problem(served.request("GET", "/hello"), 401, "missing_credentials")
    if time.monotonic() - proved_at < 2:
        assert post(served, cached.authorization).status_code == 200
    wait_until(lambda: post(served, cached.authorization).status_code == 503)

    if outage == "frozen":
        own_redis_server.thaw()
    else:
        own_redis_server.start()
        with open_backend(url, settings=Settings()) as keys:  # it stores nothing on disk
            other = keys.create(client_id="other")
    wait_until(lambda: post(served, other.authorization).status_code == 200, 5)
    said = [line for line in served.log.read_text().splitlines() if "key backend" in line]
    assert len(said) <= 2, "one line for each change of state"


@pytest.mark.proves("F32")
@every_server
def test_a_stopped_server_exits_quietly(serve: Callable[..., Served], name: str, redis_url: str) -> None:
    """SIGTERM after it has served: no traceback, whatever connections and threads there are."""
    with open_backend(redis_url, settings=Settings()) as keys:
        issued = keys.create()
    served = serve(name, BASICAUTH_BACKEND=redis_url)
    assert post(served, issued.authorization).status_code == 200
    served.process.send_signal(signal.SIGINT if "waitress" in name else signal.SIGTERM)
    served.process.wait(LIMIT_S)

    assert "Traceback" not in served.log.read_text()
    assert "Error" not in served.log.read_text()
