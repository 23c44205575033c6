"""Websockets: a handshake is allowed or refused like any other request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.matrix.cases import KEY, NO_KEY
from tests.matrix.client import connect, head, send
from tests.matrix.kinds import ASGI, WSGI
from tests.matrix.quirks import NO_DENIAL
from tests.matrix.test_requests import check_refusal

if TYPE_CHECKING:
    from tests.matrix.kinds import Server

TEXT_FRAME = b"\x81"  # complete, unmasked, RFC 6455 5.2

only_asgi = pytest.mark.parametrize("server", ASGI, indirect=True)


def handshake(*lines: bytes, target: bytes = b"/ws") -> bytes:
    return head(
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",  # RFC 6455 1.3
        *lines,
        target=target,
    )


@only_asgi
@pytest.mark.parametrize(
    ("line", "target", "reached"),
    [(KEY, b"/ws", b"demo"), (b"X-None: x", b"/open/ws", b"anonymous")],
    ids=["right", "open"],
)
def test_accepted(server: Server, line: bytes, target: bytes, reached: bytes) -> None:
    """The app is called with the client's identity."""
    wanted = TEXT_FRAME + bytes([len(reached)]) + reached
    with connect(server) as connection:
        connection.sendall(handshake(line, target=target))
        received = b""
        while wanted not in received:
            chunk = connection.recv(65536)
            assert chunk, received
            received += chunk

    assert received.startswith(b"HTTP/1.1 101 ")
    assert b"\r\n\r\n" + wanted in received


@pytest.mark.proves("H1", "A5", "X35")
@pytest.mark.parametrize(
    ("lines", "code"),
    [
        pytest.param((), "missing_credentials", id="none"),
        pytest.param((NO_KEY,), "invalid_credentials", id="wrong"),
        pytest.param((KEY, NO_KEY), "invalid_credentials", id="two"),
        pytest.param((NO_KEY, b"Sec-WebSocket-Protocol: x"), "invalid_credentials", id="subprotocol"),
    ],
)
def test_refused(server: Server, lines: tuple[bytes, ...], code: str) -> None:
    """The same 401 as for any request; a bare 403 if the server cannot send one."""
    logged = server.log.stat().st_size
    response = send(server, handshake(*lines))

    if server.name in NO_DENIAL.servers:
        assert (response.outcome, response.body) == ("server 403", b"")
        assert response.values("www-authenticate") == []
    else:
        assert (response.status, response.outcome) == (401, code)
        check_refusal(response)
    assert b"Traceback" not in server.log.read_bytes()[logged:]


@pytest.mark.parametrize("server", WSGI, indirect=True)
def test_no_websockets_in_wsgi(server: Server) -> None:
    """A WSGI server treats a handshake as a plain GET."""
    assert send(server, handshake(KEY)).outcome == "app"


@pytest.mark.proves("X35")
@only_asgi
def test_unusual_target(server: Server) -> None:
    """A path that is not open is not open for a websocket either."""
    for target in (b"/open/../ws", b"/open/%2e%2e/ws", b"/openws", b"/open", b"//open/ws"):
        assert send(server, handshake(target=target)).status in (401, 403)
