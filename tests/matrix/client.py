"""Sends raw bytes over a new connection, and detects which component sent the response."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from http.client import BadStatusLine, HTTPException, HTTPResponse, IncompleteRead
from typing import TYPE_CHECKING, Any

from tests.waiting import LIMIT_S

if TYPE_CHECKING:
    from tests.matrix.kinds import Server

TOKEN = b"ZGVtbzpwQDU1dzByZA=="  # demo:p@55w0rd
GOOD = b"Basic " + TOKEN
BAD = b"Basic ZGVtbzpwQDU1dzByZQ=="  # demo:p@55w0re


def head(
    *fields: bytes,
    method: bytes = b"GET",
    target: bytes = b"/hello",
    version: bytes = b"1.1",
    host: bool = True,
) -> bytes:
    """The request line and headers; each header is a whole line."""
    line = b"%b %b HTTP/%b" % (method, target, version)
    return b"\r\n".join([line, *([b"Host: localhost"] if host else []), *fields, b"", b""])


@dataclass
class Response:
    """A response.

    Attributes:
        status: 0: the server closed the connection without a response.
        fields: Lower-case names, and values.
        whole: The body ended where the headers said.
    """

    status: int
    fields: list[tuple[str, str]]
    body: bytes
    whole: bool

    def values(self, name: str) -> list[str]:
        return [value for each, value in self.fields if each == name]

    def value(self, name: str) -> str | None:
        values = self.values(name)
        assert len(values) <= 1, f"{name} is there more than once"
        return values[0] if values else None

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def outcome(self) -> str:
        """Which component responded, and how, in short.

        ``app``: the app, for a verified client. ``open``: the app, for an anonymous client.
        A ``code`` of ours, or ``problem 401`` if the response has no body. ``server 400``: the server itself.
        ``hangs up``: it closed the connection without a response.
        """
        if not self.status:
            return "hangs up"
        if (reached := self.value("x-reached")) is not None:
            return {"demo": "app", "anonymous": "open"}.get(reached, f"app for {reached!r}")
        if self.value("content-type") == "application/problem+json":
            if not self.body:
                return f"problem {self.status}"
            assert self.json()["status"] == self.status
            return str(self.json()["code"])
        return f"server {self.status}"


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S)


def read(connection: socket.socket, method: str = "GET") -> Response:
    """Read one response, or fail with a timeout."""
    with HTTPResponse(connection, method=method) as response:
        try:
            response.begin()
        except (BadStatusLine, ConnectionError) as exc:
            if isinstance(exc, BadStatusLine) and exc.line.strip("'\"\r\n"):
                raise AssertionError(f"no HTTP: {exc.line!r}") from exc
            return Response(0, [], b"", whole=False)
        fields = [(name.lower(), value) for name, value in response.getheaders()]
        status = response.status
        try:
            return Response(status, fields, response.read(), whole=True)
        except IncompleteRead as exc:
            return Response(status, fields, exc.partial, whole=False)
        except (HTTPException, ConnectionError):
            return Response(status, fields, b"", whole=False)


def send(server: Server, raw: bytes, method: str = "GET") -> Response:
    """Send one request on a new connection."""
    with connect(server) as connection:
        connection.sendall(raw)
        return read(connection, method)


def get(server: Server, target: bytes = b"/hello", *fields: bytes, method: bytes = b"GET") -> Response:
    """Send one request with the valid key."""
    whole = head(b"Authorization: " + GOOD, *fields, method=method, target=target)
    return send(server, whole, method.decode())
