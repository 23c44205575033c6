"""Responses of the middleware and of the app as the client gets them, on every server."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import encode_basic
from tests.matrix.cases import KEY, NO_KEY, authorization
from tests.matrix.client import Response, connect, get, head, read, send
from tests.matrix.conftest import SETTINGS
from tests.matrix.kinds import ASGI, SERVERS, WSGI, Server
from tests.matrix.paths import OWN, TIMEOUT_S
from tests.matrix.quirks import (
    BELIEVES_ADDRESS,
    BELIEVES_SCHEME,
    CHUNKS_FOR_10,
    CLEAN_END,
    CLOSES_AFTER_ERROR,
    EMPTY_CHUNK_STARTS,
    HANGS,
    KEEPS_FIELDS,
    LOSES_TRACEBACK,
    NO_WRITE,
    UNDERSCORES,
)
from tests.matrix.test_requests import check_refusal
from tests.waiting import LIMIT_S, wait_until

if TYPE_CHECKING:
    from pathlib import Path

only_asgi = pytest.mark.parametrize("server", ASGI, indirect=True)
only_wsgi = pytest.mark.parametrize("server", WSGI, indirect=True)

CANARY = "canary of the request handler"


# --- complete responses


@pytest.mark.proves("H12")
@pytest.mark.parametrize("line", [KEY, NO_KEY, b"X-None: x"], ids=["right", "wrong", "none"])
@pytest.mark.parametrize("target", ["/raise", "/raise/scope", "/own/404", "/own/unusual", "/hello"])
def test_head(server: Server, target: str, line: bytes) -> None:
    """HEAD gets the headers of GET, and no body (RFC 9110 9.3.2)."""

    def fields(response: Response) -> list[tuple[str, str]]:
        volatile = {"date", "connection", "keep-alive"}
        if target == "/hello" and line == KEY:
            volatile.add("content-length")  # the body contains the method
        return sorted(pair for pair in response.fields if pair[0] not in volatile)

    def request(method: str) -> bytes:
        once = (line, b"X-Request-ID: same", b"Connection: close")
        return head(*once, method=method.encode(), target=target.encode())

    get_response = send(server, request("GET"))
    head_response = send(server, request("HEAD"), "HEAD")
    with connect(server) as connection:
        connection.sendall(request("HEAD"))
        data = b""
        while chunk := connection.recv(65536):
            data += chunk

    assert head_response.status == get_response.status
    assert fields(head_response) == fields(get_response)
    assert data.index(b"\r\n\r\n") == len(data) - 4


@pytest.mark.proves("H14")
@pytest.mark.parametrize("path", OWN)
def test_the_apps_own_response(server: Server, path: str) -> None:
    """It is passed on byte for byte, whatever its status."""
    status, _, body = OWN[path]
    response = get(server, path.encode())

    assert (response.status, response.body, response.whole) == (status, body, True)
    assert response.value("x-own") == "kept"
    assert response.value("content-type") == "text/plain"
    assert response.value("content-length") == (None if status == 204 else str(len(body)))
    assert response.value("www-authenticate") is None
    assert response.value("cache-control") is None


@pytest.mark.proves("X58")
def test_an_optional_path(server: Server) -> None:
    """Anonymous without the header; a header is verified, also one that the server cannot represent."""

    def outcome(*fields: bytes) -> str:
        return send(server, head(*fields, target=b"/optional")).outcome

    assert outcome() == "open"
    assert outcome(KEY) == "app"
    assert outcome(NO_KEY) == outcome(authorization(b"Basic !")) == "invalid_credentials"
    assert outcome(authorization(b"")) == "missing_credentials"
    refusals = ("invalid_credentials", "missing_credentials", "server 400")
    assert outcome(authorization(b"Basic \xff")) in refusals
    assert outcome(authorization(b"Basic \x00")) in refusals


@pytest.mark.proves("W16", "X38", "X39")
def test_identity(server: Server) -> None:
    """The app gets the verified client only, even if an outer layer has set another identity."""
    forged = (b"Remote-User: forged", b"REMOTE_USER: forged", b"AUTH_TYPE: forged", b"User: forged")
    verified = get(server, b"/hello", *forged).json()
    anonymous = send(server, head(*forged, target=b"/health")).json()

    assert (verified["client_id"], anonymous["client_id"]) == ("demo", "")
    if server.is_asgi:
        assert {verified["user"], anonymous["user"]} == {"Principal"}
        assert verified["scopes"] == anonymous["scopes"] == []
    else:
        assert (verified["remote_user"], verified["auth_type"]) == ("demo", "Basic")
        assert (anonymous["remote_user"], anonymous["auth_type"]) == (None, None)
    # Headers are passed on; the app must not use them as an identity.
    assert verified["headers"]["remote-user"] == "forged"


@pytest.mark.proves("X38")
def test_names_with_underscores(server: Server) -> None:
    """They never replace Authorization, and on few servers the names with hyphens."""
    seen = get(server, b"/hello", b"X-Thing: hyphen", b"X_Thing: underscore").json()["headers"]
    alone = get(server, b"/hello", b"X_Thing: underscore").json()["headers"]

    assert seen["x-thing"] == ("underscore" if server.name in UNDERSCORES.servers else "hyphen")
    assert ("x-thing" in alone) == (server.name in UNDERSCORES.servers)


def test_headers_of_a_proxy(server: Server) -> None:
    """Address and scheme are those of the connection, unless the server trusts 127.0.0.1."""
    forwarded = (b"X-Forwarded-For: 203.0.113.9", b"X-Forwarded-Proto: https")
    seen = get(server, b"/hello", *forwarded).json()
    other = get(
        server, b"/hello", b"Forwarded: for=203.0.113.9;proto=https", b"X-Real-IP: 203.0.113.9"
    ).json()

    address = "203.0.113.9" if server.name in BELIEVES_ADDRESS.servers else "127.0.0.1"
    assert seen["address"] == address
    assert seen["scheme"] == ("https" if server.name in BELIEVES_SCHEME.servers else "http")
    assert (other["address"], other["scheme"]) == ("127.0.0.1", "http")


def test_a_connection_is_reused(server: Server) -> None:
    """A response does not affect the next one on the same connection."""
    requests = [
        head(*line, target=target) for line in ((KEY,), (NO_KEY,), ()) for target in (b"/hello", b"/raise")
    ]
    responses: list[Response] = []
    connection = connect(server)
    for data in [*requests, requests[0]]:
        connection.sendall(data)
        response = read(connection)
        responses.append(response)
        closes = response.status == 500 and server.name in CLOSES_AFTER_ERROR.servers
        if closes:
            assert connection.recv(1) == b""
        if closes or response.value("connection") == "close":
            connection.close()
            connection = connect(server)
    connection.close()

    assert [response.status for response in responses] == [200, 500, 401, 401, 401, 401, 200]
    assert all(response.whole for response in responses)


def test_streaming(server: Server, tmp_path: Path) -> None:
    """Each chunk is sent when the app yields it: the second one waits until the client has read the first."""
    seen = tmp_path / "seen"
    with connect(server) as connection:
        connection.sendall(head(KEY, b"X-Wait-For: " + str(seen).encode(), target=b"/stream"))
        data = b""
        while b"first" not in data:
            chunk = connection.recv(65536)
            assert chunk, data
            data += chunk
        assert b"second" not in data
        seen.touch()
        while b"second" not in data:
            chunk = connection.recv(65536)
            assert chunk, data
            data += chunk


@pytest.mark.proves("W8")
@only_wsgi
def test_written(server: Server) -> None:
    """``write()`` works if the server supports it."""
    logged = server.log.stat().st_size
    response = get(server, b"/write")

    if server.name in NO_WRITE.servers:
        assert (response.status, response.outcome) == (500, "internal_error")
        wait_until(lambda: b"no write()" in server.log.read_bytes()[logged:])
    else:
        assert (response.status, response.body, response.whole) == (200, b"written and given", True)


# --- request handlers that raise


def check_raised(server: Server, path: str, status: int, code: str) -> None:
    logged = server.log.stat().st_size
    response = get(server, path.encode())

    assert (response.status, response.outcome) == (status, code)
    check_refusal(response)
    assert CANARY.encode() not in response.body
    if status != 403:  # a 403 is not an error
        silent = server.name in LOSES_TRACEBACK.servers
        trace = b"the app raised" if silent else CANARY.encode()
        wait_until(lambda: trace in server.log.read_bytes()[logged:])
        assert (CANARY.encode() in server.log.read_bytes()[logged:]) != silent
    assert get(server).outcome == "app"


@pytest.mark.proves("P7", "A7", "A8", "X56")
@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/raise", 500, "internal_error"),
        ("/raise/timeout", 504, "timeout"),
        ("/raise/scope", 403, "insufficient_scope"),
        ("/raise/started", 500, "internal_error"),
    ],
)
def test_raised_before_the_body(server: Server, path: str, status: int, code: str) -> None:
    """The JSON response, and a traceback in the log."""
    check_raised(server, path, status, code)


@pytest.mark.proves("W7", "X56")
@only_wsgi
@pytest.mark.parametrize("path", ["/raise/generator", "/raise/started-generator"])
def test_raised_by_a_generator(server: Server, path: str) -> None:
    """A generator that raises before its first chunk gives the JSON response too."""
    check_raised(server, path, 500, "internal_error")


@pytest.mark.proves("X56")
@only_wsgi
def test_raised_after_an_empty_chunk(server: Server) -> None:
    """The JSON response if the headers are not sent yet, otherwise a broken one. Never a clean 200."""
    response = get(server, b"/raise/empty-chunk")

    if server.name in EMPTY_CHUNK_STARTS.servers:
        assert (response.body, response.whole) == (b"", False)
        assert response.status in (200, 0)
        return
    assert (response.status, response.json()["code"], response.whole) == (500, "internal_error", True)
    mixed = server.name in KEEPS_FIELDS.servers
    kinds = ["text/plain"] if mixed else []
    assert response.values("content-type") == [*kinds, "application/problem+json"]
    assert (response.value("x-reached") is not None) == mixed


@pytest.mark.proves("A7", "W9")
@pytest.mark.parametrize("server", [name for name in SERVERS if name not in HANGS.servers], indirect=True)
@pytest.mark.parametrize("path", ["/raise/late", "/raise/short"])
def test_raised_after_the_first_chunk(server: Server, path: str) -> None:
    """The client sees a broken response, with and without a length."""
    response = send(server, head(KEY, target=path.encode()))

    if server.name in CLEAN_END.servers and path == "/raise/late":
        assert (response.status, response.body, response.whole) == (200, b"x" * 1000, True)
    else:
        assert not response.whole
        # Some servers close the connection so early that even the data before it does not arrive.
        assert response.status in (200, 0)
        assert (b"x" * 1000).startswith(response.body)


@pytest.mark.parametrize("name", HANGS.servers)
@pytest.mark.parametrize("path", ["/raise/late", "/raise/short"])
def test_a_client_is_left_waiting(name: str, path: str, tmp_path: Path) -> None:
    """The server is not shared, because daphne stops logging exceptions after such a response."""
    with Server(name, tmp_path / "log", SETTINGS) as server, connect(server) as connection:
        connection.sendall(head(KEY, target=path.encode()))
        data = b""
        while not data.endswith(b"x" * 1000 + (b"\r\n" if path == "/raise/late" else b"")):
            data += connection.recv(65536)
        wait_until(lambda: CANARY in server.log.read_text())
        connection.settimeout(1)
        with pytest.raises(TimeoutError):
            connection.recv(65536)


@pytest.mark.parametrize("name", HANGS.servers)
def test_a_hanging_response_is_ended_by_a_timeout(name: str, tmp_path: Path) -> None:
    """It ends cleanly if it has no length: then a client believes that it is complete."""
    with Server(name, tmp_path / "log", SETTINGS, ("--http-timeout", "2")) as server:
        response = get(server, b"/raise/late")

    assert (response.status, response.body, response.whole) == (200, b"x" * 1000, True)


@pytest.mark.parametrize("server", [name for name in SERVERS if name not in HANGS.servers], indirect=True)
def test_raised_at_an_old_client(server: Server) -> None:
    """HTTP/1.0 has no chunks, so the client cannot know; some servers send chunks anyway."""
    request = head(KEY, target=b"/raise/late", version=b"1.0")
    responses = (send(server, request) for _ in range(100))
    response = next(each for each in responses if each.body)  # the data before the broken connection

    chunked = response.value("transfer-encoding") == "chunked"
    assert chunked == (server.name in CHUNKS_FOR_10.servers)
    assert response.whole == (not chunked)


@pytest.mark.proves("A12")
@only_asgi
def test_too_slow(server: Server) -> None:
    """``timeout_s`` gives a JSON 504."""
    began = time.monotonic()
    response = get(server, b"/slow")

    assert (response.status, response.outcome) == (504, "timeout")
    assert TIMEOUT_S <= time.monotonic() - began < LIMIT_S / 2
    check_refusal(response)


@pytest.mark.proves("B5", "W1", "X27")
def test_an_id_beyond_ascii(server: Server) -> None:
    """It is verified as UTF-8, and REMOTE_USER holds its bytes."""
    wrong = encode_basic("d\u00e9mo", "\u5bc6\u7801").encode()
    assert send(server, head(b"Authorization: " + wrong)).outcome == "invalid_credentials"
    right = encode_basic("d\u00e9mo", "\u5bc6\u7801\u5bc6\u7801").encode()
    seen = json.loads(send(server, head(b"Authorization: " + right, target=b"/hello")).body)
    assert seen["client_id"] == "d\u00e9mo"
    if not server.is_asgi:
        assert seen["remote_user"].encode("latin-1").decode() == "d\u00e9mo"
