"""The common request as raw bytes, with every kind of store, and requests that no real client sends."""

from __future__ import annotations

import json
import random
import socket
import string
import time
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any, Self

import pytest

from basicauth_mw import Settings, open_backend
from tests.servers.conftest import LIMIT_S, SERVERS
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.redis_server import RedisServer
    from tests.servers.conftest import Served

TOKEN = "ZGVtbzpwQDU1dzByZA=="  # demo:p@55w0rd
WRONG = "ZGVtbzpwQDU1dzByZQ=="
BODY = b'{"text": "This is an example request!"}'
BASE64 = string.ascii_letters + string.digits + "+/="
DEADLINE_S = 0.5

every_server = pytest.mark.parametrize("name", SERVERS)


class Connection:
    """One TCP connection for raw bytes. A request without a response fails with a timeout."""

    def __init__(self, served: Served) -> None:
        self._socket = socket.create_connection(("127.0.0.1", served.port), timeout=LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.close()

    def request(self, raw: bytes, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Send a complete request and read the response."""
        self._socket.sendall(raw)
        with HTTPResponse(self._socket, method=method) as response:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read()

    def status(self, raw: bytes) -> int:
        """Send a complete request and read the status only.

        A server that refuses a head closes the connection with unread data, and that can cost the body.
        """
        self._socket.sendall(raw)
        with HTTPResponse(self._socket) as response:
            response.begin()
            return response.status


def common_request(authorization: str | None) -> bytes:
    """The headers that a common client sends."""
    fields = [
        "POST /echo HTTP/1.1",
        "Host: 127.0.0.1",
        "Accept: */*",
        "Accept-Encoding: gzip, deflate",
        *([] if authorization is None else [f"Authorization: {authorization}"]),
        "Connection: keep-alive",
        "Content-Type: application/json",
        f"Content-Length: {len(BODY)}",
    ]
    return "\r\n".join(fields).encode() + b"\r\n\r\n" + BODY


def post(served: Served, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
    with Connection(served) as connection:
        return connection.request(common_request(authorization))


@pytest.fixture(params=["env", "sqlite", "redis"])
def demo_key(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The settings of a store of each kind that holds demo:p@55w0rd."""
    if request.param == "env":
        return {"BASICAUTH_KEYS": "demo:p@55w0rd"}
    url = f"sqlite:///{tmp_path}/keys.db"
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
    with open_backend(url, settings=Settings(), create=True) as backend:
        backend.create(client_id="demo", secret="p@55w0rd")
    return {"BASICAUTH_BACKEND": url}


@pytest.mark.proves("X42")
@every_server
def test_the_common_request(serve: Callable[..., Served], name: str, demo_key: dict[str, str]) -> None:
    """With every kind of store and the default throttle: one key works, similar ones do not."""
    served = serve(name, **demo_key)
    dice = random.Random(7)

    status, _, body = post(served, f"Basic {TOKEN}")
    assert (status, json.loads(body)) == (200, {"client_id": "demo", **json.loads(BODY)})
    for position, right in enumerate(TOKEN):
        changed = TOKEN[:position] + dice.choice(BASE64.replace(right, "")) + TOKEN[position + 1 :]
        status, headers, body = post(served, f"Basic {changed}")
        assert status == 401
        assert headers["www-authenticate"] == 'Basic realm="api", charset="UTF-8"'
        assert headers["content-type"] == "application/problem+json"
        assert b'"invalid_credentials"' in body
    assert post(served, f"Basic {TOKEN}")[0] == 200, "twenty failures are not too many"


@every_server
def test_a_connection_is_reused(demo_server: Callable[[str], Served], name: str) -> None:
    """A response does not affect the next one on the same connection."""
    served = demo_server(name)
    broken = f"GET /broken HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {TOKEN}\r\n\r\n".encode()
    right, wrong, none = (common_request(field) for field in (f"Basic {TOKEN}", f"Basic {WRONG}", None))

    with Connection(served) as connection:
        statuses = [connection.request(raw)[0] for raw in (right, wrong, none, right)]
    with Connection(served) as connection:
        failed = connection.request(broken)

    assert statuses == [200, 401, 401, 200]
    assert (failed[0], failed[1]["content-length"]) == (500, str(len(failed[2])))
    assert post(served, f"Basic {TOKEN}")[0] == 200


@pytest.mark.proves("F1")
@every_server
def test_redis_is_down_at_the_start(
    serve: Callable[..., Served], name: str, own_redis_server: RedisServer
) -> None:
    """The server starts, responds with 503, and serves as soon as the store is available."""
    url = own_redis_server.url()
    own_redis_server.stop()
    served = serve(name, BASICAUTH_BACKEND=url, BASICAUTH_BACKEND_DEADLINE_S=str(DEADLINE_S))

    began = time.monotonic()
    status, headers, body = post(served, f"Basic {TOKEN}")
    assert time.monotonic() - began < DEADLINE_S + 1
    assert (status, b'"backend_unavailable"' in body) == (503, True)
    assert int(headers["retry-after"]) >= 1

    own_redis_server.start()
    with open_backend(url, settings=Settings()) as backend:
        issued = backend.create(client_id="late")
    wait_until(lambda: post(served, issued.authorization)[0] == 200, 5)


def head(
    field: bytes | None = b"Basic !", *, line: bytes = b"GET /hello HTTP/1.1", more: tuple[bytes, ...] = ()
) -> bytes:
    lines = [line, b"Host: x", *more]
    if field is not None:
        lines.append(b"Authorization: " + field)
    return b"\r\n".join([*lines, b"", b""])


def odd_heads() -> Iterator[bytes]:
    """Sizes, counts, repetitions, methods and targets that are difficult to parse."""
    good = f"Basic {TOKEN}".encode()
    yield from (head(None), head(b""), head(good + b"\0"), head(good[:10] + b"\0" + good[10:]))
    yield from (head(b"Basic\t" + good[6:]), head(good + b"\rX"), head(b"Basic" + b" " * 65_536 + good[6:]))
    yield from (head(b"Basic " + b"A" * 65_536), head(bytes(range(0x80, 0x100))))
    yield head(good, more=(b"AUTHORIZATION: " + good,))
    yield head(more=tuple(b"X-%d: %d" % (number, number) for number in range(1000)))
    yield head(more=(b"Authorization: Basic eDp5",) * 1000)
    yield head(None, more=(b"Proxy-Authorization: " + good,))
    yield head(more=(b"Connection: authorization",))
    for method in (b"get", b"FOO", b"TRACE", b"OPTIONS", b"PROPFIND", b"A" * 300, b"G\xc3\x89T"):
        yield head(line=method + b" /hello HTTP/1.1")
    for target in (
        *(b"*", b"//", b"/..", b"/%00", b"/%ff%fe", b"/hello%2f..", b"/;a?b#c", b"http://evil/hello", b"?"),
        *(b"/" + b"a" * 20_000, b"/\xff\xfe", b"/%", b"hello", b"/\x7f", b"/%2e%2e/%5c", b"/he llo"),
        *(b"/../hello", b"//hello", b"/%2e%2e/hello", b"/hello;a"),
    ):
        yield head(line=b"GET " + target + b" HTTP/1.1")
    yield from (head(line=b"GET /hello HTTP/1.0"), head(line=b"GET /hello HTTP/9.9"))
    dice = random.Random(4)
    raw = bytes(byte for byte in range(256) if byte not in b"\r\n")
    for number in range(150):
        noise = bytes(dice.choices(b"ABab01+/=-_ :" if number % 2 else raw, k=dice.randrange(60)))
        yield head(b"Basic " + noise if number % 3 else noise)


@pytest.mark.proves("X19", "X23")
@every_server
def test_odd_heads_get_a_response(demo_server: Callable[[str], Served], name: str) -> None:
    """401, or the server's own 400 or 431: always a response, at once, and never a 5xx."""
    served = demo_server(name)
    logged = served.log.stat().st_size
    seen: dict[int, Any] = {}
    for raw in odd_heads():
        with Connection(served) as connection:
            status = connection.status(raw)
        seen.setdefault(status, raw[:200])

    assert seen.keys() <= {400, 401, 431}, seen
    assert post(served, f"Basic {TOKEN}")[0] == 200
    assert b"Traceback" not in served.log.read_bytes()[logged:]
