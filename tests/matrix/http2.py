"""A client for HTTP/2 with prior knowledge (RFC 9113 3.3)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

from tests.matrix.client import Response, connect

if TYPE_CHECKING:
    import socket

    from tests.matrix.kinds import Server

STREAM = 1


def send(
    server: Server,
    *fields: tuple[str, str],
    method: str = "GET",
    target: str = "/hello",
    body: bytes = b"",
) -> Response:
    """Send one request on a new connection."""
    state = H2Connection(H2Configuration(header_encoding="latin-1", validate_outbound_headers=False))
    state.initiate_connection()
    pseudo = [(":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", target)]
    state.send_headers(STREAM, [*pseudo, *fields], end_stream=not body)
    response = Response(0, [], b"", whole=False)
    with connect(server) as connection:
        _send(connection, state)
        while True:
            while body and (size := min(state.local_flow_control_window(STREAM), 16_384, len(body))) > 0:
                chunk, body = body[:size], body[size:]
                state.send_data(STREAM, chunk, end_stream=not body)
                if not _send(connection, state):
                    body = b""
            for event in _receive(connection, state):
                if isinstance(event, ResponseReceived):
                    response.fields = [(str(name), str(value)) for name, value in event.headers]
                    response.status = int(response.value(":status") or 0)
                elif isinstance(event, DataReceived):
                    response.body += event.data
                    state.acknowledge_received_data(event.flow_controlled_length, STREAM)
                elif isinstance(event, StreamEnded):
                    response.whole = True
                    return response
                elif isinstance(event, StreamReset):
                    return response
            if state.state_machine.state is ConnectionState.CLOSED:
                return response
            _send(connection, state)


def _receive(connection: socket.socket, state: H2Connection) -> list[Event]:
    """The events so far; ``state`` is closed at the end."""
    with suppress(ConnectionError, ProtocolError):  # a body that is too short, for example
        if data := connection.recv(65536):
            return state.receive_data(data)
    state.close_connection()
    return []


def _send(connection: socket.socket, state: H2Connection) -> bool:
    try:
        connection.sendall(state.data_to_send())
    except ConnectionError:  # the earlier data can still be read
        return False
    return True
