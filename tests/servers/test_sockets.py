"""Websockets of Flask apps, files and access logs: what a WSGI server does outside of our responses."""

from __future__ import annotations

import re
import socket
from base64 import b64encode
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.matrix.kinds import ROOT, Server
from tests.waiting import LIMIT_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_APP = "tests.servers.socket_apps:app"
_GUNICORN = (
    *("gunicorn", "--bind=127.0.0.1:{port}"),
    *("--access-logfile=-", "--access-logformat=user=%({{REMOTE_USER}}e)s %(s)s"),
)
_MODULE = ("tests.servers.socket_apps", "{port}")
COMMANDS = {
    "gunicorn-gthread": (*_GUNICORN, "--worker-class=gthread", "--threads=4", _APP),
    "gunicorn-gevent": (*_GUNICORN, "--worker-class=gevent", _APP),
    "gevent": _MODULE,
    "gevent-websocket": _MODULE,
    "eventlet": _MODULE,
    "werkzeug": _MODULE,
}
KEY = b"Authorization: Basic " + b64encode(b"demo:p@55w0rd")
MASK = b"\0\0\0\0"
HELLO = b"\x81\x85" + MASK + b"hello"  # RFC 6455 5.2: whole, text, masked
CLOSE = b"\x88\x82" + MASK + b"\x03\xe8"  # 1000: a normal closure
CLOSED = b"\x88"  # the start of a close frame
END = b"\r\n\r\n"
# The target, what must arrive before we send frames, the frames, the last data that the app sends, and the
# server that does not support it.
FLASK_500 = b"error in the application.</p>\n"  # the end of it
CASES = (
    (b"/echo", END, HELLO, CLOSED + b"\x02\x03\xe8", "gevent-websocket"),
    (b"/boom", END, HELLO, FLASK_500, "gevent-websocket"),
    (b"/socket.io/?EIO=4&transport=websocket", b"maxPayload", CLOSE, CLOSED, "gevent"),
)
VARYING = re.compile(rb'Date: [^\r]*|"sid":"[^"]*"')


class SocketServer(Server):
    @property
    def command(self) -> tuple[str, ...]:
        return COMMANDS.get(self.name, _MODULE)


@pytest.fixture(scope="module", params=COMMANDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    name = request.param
    settings = {"BASICAUTH_KEYS": "demo:p@55w0rd", "SOCKET_KIND": name}
    with SocketServer(name, tmp_path_factory.mktemp("sockets") / "log", settings) as running:
        yield running


def exchange(
    server: Server, target: bytes, first: bytes, sent: bytes, last: bytes, *, bare: bool = False
) -> bytes:
    """Request a websocket, send frames, close after the app's last data, and return what arrived."""
    lines = [
        b"GET " + target + b" HTTP/1.1",
        b"Host: 127.0.0.1",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",  # RFC 6455 1.3
        KEY,
        *([b"X-Bare: 1"] if bare else []),
    ]
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) as connection:
        connection.sendall(b"\r\n".join(lines) + END)
        for awaited, frames in ((first, sent), (last, b"")):
            while awaited not in received:
                chunk = connection.recv(65536)
                if awaited == CLOSED and not chunk:
                    return VARYING.sub(b"...", received)  # see below
                assert chunk, received
                received += chunk
            connection.sendall(frames)
        connection.shutdown(socket.SHUT_WR)
        while chunk := connection.recv(65536):
            received += chunk
    if last == FLASK_500:
        # gunicorn and the reader of flask-sock race for the end of the connection, also with the app alone:
        # the server may append its own page.
        received = received.partition(last)[0]
    if last == CLOSED:
        # Under gunicorn's threads Socket.IO may hang up before its closing frame, also when the app is alone.
        received = received.removesuffix(CLOSED + b"\x02\x03\xe8")
    return VARYING.sub(b"...", received)


def test_a_websocket_is_left_to_the_app_and_the_server(server: Server) -> None:
    """The bytes are those of the app, and the middleware logs nothing, however the websocket ends."""
    for *case, missing in CASES:
        if server.name != missing:
            expected = exchange(server, *case, bare=True)
            assert expected.startswith(b"HTTP/1.1 101 ")
            assert exchange(server, *case) == expected

    log = server.log.read_bytes()
    assert b"basicauth_mw" not in log
    assert b"the app" not in log


def test_a_refusal_instead_of_a_handshake_is_sent(server: Server) -> None:
    if server.name != "gevent-websocket":  # it shakes hands before it calls the app
        received = exchange(server, b"/refuse", END, b"", b"insufficient_scope")
        assert received.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("server", ["gunicorn-gthread"], indirect=True)
def test_an_access_log_names_the_user(server: Server) -> None:
    """It is an outer layer, and reads the environ after the app."""
    for secret, line in (("p@55w0rd", b"user=demo 200\n"), ("wrong", b"user=- 401\n")):
        httpx.get(f"http://127.0.0.1:{server.port}/file", auth=("demo", secret))
        wait_until(lambda line=line: line in server.log.read_bytes())


@pytest.mark.parametrize("server", ["uwsgi"], indirect=True)
def test_uwsgi_sends_a_file_by_sendfile(server: Server) -> None:
    """Its ``wsgi.file_wrapper`` is a function, and it expects the same object that the app returned."""
    for more in ({"X-Bare": "1"}, {}):
        logged = server.log.stat().st_size
        response = httpx.get(f"http://127.0.0.1:{server.port}/file", auth=("demo", "p@55w0rd"), headers=more)

        assert response.content == (ROOT / "tests/servers/socket_apps.py").read_bytes()
        wait_until(lambda logged=logged: b"(HTTP/1.1 200)" in server.log.read_bytes()[logged:])
        assert b" via sendfile() " in server.log.read_bytes()[logged:]
