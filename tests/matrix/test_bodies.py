"""Bodies of requests: a refusal does not wait for the body, and an unread body does not block it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.matrix.cases import KEY, NO_KEY
from tests.matrix.client import connect, get, head, read, send
from tests.matrix.quirks import CONTINUES_AT_ONCE, LEAVES_CHUNKS, STOPS_READING, WAITS_FOR_BODY
from tests.matrix.test_requests import check_refusal

if TYPE_CHECKING:
    from tests.matrix.client import Response
    from tests.matrix.kinds import Server

MEGABYTE = 1_000_000
BODY = b"x" * MEGABYTE
LENGTH = b"Content-Length: %d" % MEGABYTE
EXPECT = b"Expect: 100-continue"

refused = pytest.mark.parametrize(
    ("line", "code"),
    [
        pytest.param(NO_KEY, "invalid_credentials", id="wrong"),
        pytest.param(b"X-None: x", "missing_credentials", id="none"),
    ],
)


def upload(connection: socket.socket) -> threading.Thread:
    """Send a body in a thread, as clients do, because the server may have stopped reading."""

    def send_body() -> None:
        with suppress(OSError):
            connection.sendall(BODY)

    sending = threading.Thread(target=send_body)
    sending.start()
    return sending


@pytest.mark.proves("A16")
@refused
def test_refused_with_its_body_sent(server: Server, line: bytes, code: str) -> None:
    """The client sends everything and then reads."""
    with connect(server) as connection:
        with suppress(ConnectionError):  # the server may have responded and closed the connection
            connection.sendall(head(line, LENGTH, method=b"POST") + BODY)
        response = read(connection, "POST")

    assert response.outcome == code
    check_refusal(response)
    assert get(server).outcome == "app"


def sends_all_first(server: Server) -> Response | None:
    """The response to a client that sends more than the buffers of both sides can hold before it reads."""
    length = 16 * MEGABYTE
    with connect(server) as connection:
        timeout = connection.gettimeout()
        if server.name in STOPS_READING.servers:
            connection.settimeout(2)  # hypercorn sometimes neither reads nor closes the connection
        try:
            connection.sendall(head(NO_KEY, b"Content-Length: %d" % length, method=b"POST") + bytes(length))
        except OSError:
            return None
        connection.settimeout(timeout)
        return read(connection, "POST")


def test_refused_while_its_body_is_sent(server: Server) -> None:
    if server.name in STOPS_READING.servers:  # not every time, because it depends on timing
        assert any(sends_all_first(server) is None for _ in range(10))
    else:
        response = sends_all_first(server)
        assert response is not None
        assert response.outcome == "invalid_credentials"
        check_refusal(response)
    assert get(server).outcome == "app"


@pytest.mark.proves("A16")
@refused
def test_refused_before_its_body(server: Server, line: bytes, code: str) -> None:
    """The client sends the headers and waits; servers that read the body first get it after that."""
    with connect(server) as connection:
        connection.sendall(head(line, LENGTH, method=b"POST"))
        sending = None
        if server.name in WAITS_FOR_BODY.servers:
            timeout, pause_s = connection.gettimeout(), 0.5
            connection.settimeout(pause_s)
            with pytest.raises(TimeoutError):
                connection.recv(1, socket.MSG_PEEK)
            connection.settimeout(timeout)
            sending = upload(connection)
        response = read(connection, "POST")
    if sending:
        sending.join()

    assert response.outcome == code
    check_refusal(response)


@pytest.mark.proves("A16")
@refused
def test_refused_with_an_expectation(server: Server, line: bytes, code: str) -> None:
    """``Expect: 100-continue``: the 401 at once, or after a 100 that the server sends itself."""
    with connect(server) as connection:
        connection.sendall(head(line, LENGTH, EXPECT, method=b"POST"))
        begins = b""
        while len(begins) < 12:
            chunk = connection.recv(12, socket.MSG_PEEK)
            assert chunk
            begins = chunk
        continues = begins == b"HTTP/1.1 100"
        sending = upload(connection) if continues else None
        response = read(connection, "POST")  # it skips the 100
    if sending:
        sending.join()

    assert continues == (server.name in CONTINUES_AT_ONCE.servers)
    assert response.outcome == code
    check_refusal(response)


@pytest.mark.parametrize("lines", [(), (EXPECT,)], ids=["at-once", "expectation"])
def test_accepted_with_a_body(server: Server, lines: tuple[bytes, ...]) -> None:
    """With a valid key the app gets the whole body."""
    with connect(server) as connection:
        connection.sendall(head(KEY, LENGTH, *lines, method=b"POST"))
        if lines:
            assert connection.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 100"
        sending = upload(connection)
        response = read(connection, "POST")
        sending.join()

    assert (response.outcome, response.json()["read"]) == ("app", MEGABYTE)


def test_refused_in_chunks(server: Server) -> None:
    """A body of unknown length makes no difference."""
    chunked = head(NO_KEY, b"Transfer-Encoding: chunked", method=b"POST") + b"5\r\nhello\r\n0\r\n\r\n"
    response = send(server, chunked, "POST")

    assert response.outcome == "invalid_credentials"
    check_refusal(response)


@pytest.mark.proves("A16")
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_refused_body_is_not_parsed_as_a_request(server: Server, framing: str) -> None:
    """The unread body of a refused request is not parsed as the next request on its connection."""
    smuggled = head(KEY, target=b"/smuggled")
    if framing == "length":
        refusal = head(NO_KEY, b"Content-Length: %d" % len(smuggled), method=b"POST") + smuggled
    else:
        refusal = head(NO_KEY, b"Transfer-Encoding: chunked", method=b"POST")
        refusal += b"%x\r\n%b\r\n0\r\n\r\n" % (len(smuggled), smuggled)
    data = b""
    with connect(server) as connection, suppress(ConnectionError):  # many servers close it after the refusal
        connection.sendall(refusal + head(KEY, b"Connection: close"))
        while not (b"connection: close" in data.lower() and data.rstrip().endswith(b"}")):
            chunk = connection.recv(65536)
            if not chunk:
                break
            data += chunk

    assert data.startswith(b"HTTP/1.1 401 ")
    assert b"/smuggled" not in data
    more = data.split(b"HTTP/1.1 ")[2:]
    if server.name in LEAVES_CHUNKS.servers and framing == "chunks":
        assert [response[:3] for response in more] == [b"400"]
    else:
        assert [response[:3] for response in more] in ([], [b"200"])
