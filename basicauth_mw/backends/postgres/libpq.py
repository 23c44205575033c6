"""Speaks to Postgres through libpq, as psycopg wraps it, without waiting.

A *flow* is a generator that yields what it waits for. ``run`` drives it in a thread and ``arun`` on an event
loop, so both share one implementation, and every wait ends at a deadline. psycopg's own connections have no
deadline in threads, and wait two seconds or more for each address.

Nothing depends on a session: no setting outside a transaction, and statements are prepared only on a direct
connection to a server. So pgbouncer may give each transaction another connection.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from ...runtime.extras import require
from .errors import (
    TIMED_OUT,
    UNSUPPORTED_OPTION,
    ConnectionFailed,
    StatementFailed,
    explain_connecting,
)

if TYPE_CHECKING:
    import asyncio

    from .url import Target

psycopg = require("psycopg", extra="postgres")
pq = psycopg.pq

T = TypeVar("T")

Value = str | int | None | Sequence[str]
Row = tuple[Any, ...]  # texts

_TEXT: Final = 25  # pg_type.oid of text
_GOOD: Final = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


class Wait(NamedTuple):
    """Wait until a socket is readable, or also writable; the flow receives whether it is in time."""

    fd: int
    writing: bool
    until: float  # by the monotonic clock


class Resolve(NamedTuple):
    """Resolve a host name; the flow receives its addresses, or an ``OSError``."""

    host: str
    port: str
    until: float


Flow = Generator[Wait | Resolve, Any, T]
Do = Callable[..., Flow[Any]]  # ``execute`` on one connection, with a statement and its values
Work = Callable[[Do], Flow[T]]


# --- drivers


def run(flow: Flow[T]) -> T:
    """Drive a flow in this thread."""
    with closing(flow):
        outcome: object = None
        while True:
            try:
                request = flow.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            outcome = _wait(request) if isinstance(request, Wait) else _resolve(request)


def _wait(request: Wait) -> bool:
    events = selectors.EVENT_READ | (selectors.EVENT_WRITE if request.writing else 0)
    with selectors.DefaultSelector() as selector:
        selector.register(request.fd, events)
        return bool(selector.select(max(0, request.until - time.monotonic())))


def _resolve(request: Resolve) -> list[str] | OSError:
    try:
        return _numeric(socket.getaddrinfo(request.host, request.port, type=socket.SOCK_STREAM))
    except OSError as exc:
        return exc


async def arun(flow: Flow[T]) -> T:
    """Drive a flow on the running event loop. May be cancelled at any time."""
    from asyncio import get_running_loop

    loop = get_running_loop()
    with closing(flow):
        outcome: object = None
        while True:
            try:
                request = flow.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            if isinstance(request, Wait):
                outcome = await _await(loop, request)
            else:
                outcome = await _aresolve(loop, request)


async def _await(loop: asyncio.AbstractEventLoop, request: Wait) -> bool:
    ready: asyncio.Future[bool] = loop.create_future()

    def settle(in_time: bool) -> None:
        if not ready.done():
            ready.set_result(in_time)

    loop.add_reader(request.fd, settle, True)
    if request.writing:
        loop.add_writer(request.fd, settle, True)
    timer = loop.call_later(max(0, request.until - time.monotonic()), settle, False)
    try:
        return await ready
    finally:
        timer.cancel()
        loop.remove_reader(request.fd)
        if request.writing:
            loop.remove_writer(request.fd)


async def _aresolve(loop: asyncio.AbstractEventLoop, request: Resolve) -> list[str] | OSError:
    from asyncio import timeout

    try:
        async with timeout(max(0, request.until - time.monotonic())):
            found = await loop.getaddrinfo(request.host, request.port, type=socket.SOCK_STREAM)
    except OSError as exc:  # includes TimeoutError
        return exc
    return _numeric(found)


def _numeric(found: Sequence[Any]) -> list[str]:
    return [socket.getnameinfo(info[4], socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0] for info in found]


# --- statements


def execute(
    connection: Any, until: float, statement: str, values: Sequence[Value] | None = None, *, name: str = ""
) -> Flow[Any]:
    """Run a statement and return its result, a ``PGresult``.

    Args:
        connection: A ``PGconn`` of psycopg.
        until: When to give up, by the monotonic clock.
        statement: The statement; without values, there may be several.
        values: Its values.
        name: Run a statement that was prepared instead; without values, prepare it.

    Raises:
        StatementFailed: The server refused it. The connection can still be used.
        ConnectionFailed: The connection broke.
        TimeoutError: There was no reply in time.
    """
    try:
        if values is None and name:
            connection.send_prepare(name.encode(), statement.encode())
        elif values is None:
            connection.send_query(statement.encode())
        else:
            formats = [int(isinstance(value, list)) for value in values]
            encoded = list(map(_encode, values))
            if name:
                connection.send_query_prepared(name.encode(), encoded, param_formats=formats)
            else:
                connection.send_query_params(statement.encode(), encoded, param_formats=formats)
        while connection.flush():
            yield from _ready(connection, until, writing=True)
            connection.consume_input()
        result, failed = None, None
        while True:
            while connection.is_busy():
                yield from _ready(connection, until)
                connection.consume_input()
            if (next_result := connection.get_result()) is None:
                break
            result = next_result
            if result.status not in _GOOD:
                failed = failed or result
    except psycopg.Error as exc:
        reason = explain_connecting(str(exc))
    else:
        if failed is None:
            return result
        if connection.status != pq.ConnStatus.BAD:
            raise StatementFailed((failed.error_field(pq.DiagnosticField.SQLSTATE) or b"XX000").decode())
        reason = explain_connecting(failed.error_message.decode(errors="replace"))
    raise ConnectionFailed(f"{_server(connection.host.decode(), connection.port.decode())} {reason}")


def rows_of(result: Any) -> list[Row]:
    """The rows of a result, as text; NULL is empty."""
    columns = range(result.nfields)
    return [
        tuple([(result.get_value(row, column) or b"").decode() for column in columns])
        for row in range(result.ntuples)
    ]


def _ready(connection: Any, until: float, *, writing: bool = False) -> Flow[None]:
    if not (yield Wait(connection.socket, writing, until)):
        raise TimeoutError


def _encode(value: Value) -> bytes | None:
    """The text of a value; a list of texts in the binary format of arrays, which needs no quotes."""
    if value is None:
        return None
    if isinstance(value, int):
        return b"%d" % value
    if isinstance(value, str):
        return value.encode()
    encoded = [each.encode() for each in value]
    head = struct.pack("!iiIii", 1, 0, _TEXT, len(encoded), 1)
    return head + b"".join([struct.pack("!i", len(each)) + each for each in encoded])


# --- connecting


class Connector:
    """Opens connections to the primary.

    Args:
        target: The servers.
        statement_timeout_s: After which the server ends a statement by itself, so that statements of clients
            that have given up do not fill it; pgbouncer does not allow this setting.

    Attributes:
        server: The servers, for errors.
    """

    def __init__(self, target: Target, *, statement_timeout_s: float) -> None:
        self._target = target
        own = f"-c statement_timeout={max(1, int(statement_timeout_s * 1000))}"
        self._options = f"{target.options.get('options', '')} {own}".strip()
        self._last: tuple[str, str, str] | None = None
        self.server = f"Postgres at {', '.join(_name(*each) for each in target.hosts)}"

    def connect(self, until: float) -> Flow[Any]:
        """Return a new connection. All addresses share the time; the last good one comes first.

        Raises:
            ConnectionFailed: None of them can be used.
        """
        addresses: list[tuple[str, str, str]] = []
        problems: list[str] = []
        for host, port in self._target.hosts:
            if not host or host.startswith(("/", "@")):  # a Unix socket
                addresses.append((host, port, ""))
                continue
            found = yield Resolve(host, port or "5432", until)
            if isinstance(found, OSError):
                text = "translate host name" if isinstance(found, socket.gaierror) else ""
                problems.append(f"{_server(host, port)} {explain_connecting(text)}")
            else:
                addresses += [(host, port, address) for address in found]
        addresses.sort(key=lambda each: each != self._last)
        for number, address in enumerate(addresses):
            now = time.monotonic()
            ends_at = now + (until - now) / (len(addresses) - number)
            try:
                connection = yield from self._open(address, ends_at)
            except ConnectionFailed as exc:
                problems.append(f"{_server(*address[:2])} {exc}")
            else:
                self._last = address
                return connection
        raise ConnectionFailed("; ".join(dict.fromkeys(problems)))

    def _open(self, address: tuple[str, str, str], until: float) -> Flow[Any]:
        connection, message = yield from self._try(address, until)
        if UNSUPPORTED_OPTION in message:  # pgbouncer
            self._options = self._target.options.get("options", "")
            connection, message = yield from self._try(address, until)
        if message:
            raise ConnectionFailed(message if message == TIMED_OUT else explain_connecting(message))
        return connection

    def _try(self, address: tuple[str, str, str], until: float) -> Flow[tuple[Any, str]]:
        """A connection and the error message of libpq, empty if it can be used."""
        host, port, numeric = address
        given = {"host": host, "port": port, "hostaddr": numeric, "options": self._options}
        fixed = {"client_encoding": "UTF8", "fallback_application_name": "basicauth_mw"}
        options = {**self._target.options, **{name: value for name, value in given.items() if value}, **fixed}
        connection = pq.PGconn.connect_start(psycopg.conninfo.make_conninfo("", **options).encode())
        del options  # the password
        while connection.status != pq.ConnStatus.BAD:
            match connection.connect_poll():
                case pq.PollingStatus.OK:
                    connection.nonblocking = 1
                    return connection, ""
                case pq.PollingStatus.FAILED:
                    break
                case polled:
                    writing = polled == pq.PollingStatus.WRITING
                    if not (yield Wait(connection.socket, writing, until)):
                        return None, TIMED_OUT
        return None, connection.error_message.decode(errors="replace") or "failed"


def _name(host: str, port: str) -> str:
    shown = "its Unix socket" if not host or host.startswith(("/", "@")) else host
    return f"{shown}:{port or '5432'}"


def _server(host: str, port: str) -> str:
    return f"Postgres at {_name(host, port)}"
