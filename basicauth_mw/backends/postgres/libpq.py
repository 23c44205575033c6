"""Speaks to Postgres through libpq, as psycopg wraps it, within a deadline.

psycopg's own connections have no deadline in threads, and wait two seconds or more for each address.

Everything that waits is a coroutine. With ``on_loop`` it waits on the running event loop; with ``in_thread``
it blocks and never suspends, so ``run`` can return its result.

Nothing depends on a session: no setting outside a transaction, and statements are prepared only on a direct
connection to a server. So pgbouncer may give each transaction another connection.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
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
    from .url import Target

psycopg = require("psycopg", extra="postgres")
pq = psycopg.pq

T = TypeVar("T")

Value = str | int | None | Sequence[str]
Row = tuple[Any, ...]  # texts
Do = Callable[..., Awaitable[Any]]  # ``execute`` on one connection, with a statement and its values
Work = Callable[[Do], Coroutine[Any, Any, T]]

_TEXT: Final = 25  # pg_type.oid of text
_GOOD: Final = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
_WAITING: Final = (pq.PollingStatus.READING, pq.PollingStatus.WRITING)


# --- waiting


class Waiting(NamedTuple):
    """Waits in a thread or on an event loop.

    Attributes:
        is_ready: Wait until a socket is readable, or also writable; return whether this happens before a time
            of the monotonic clock.
        resolve: Resolve a host and a port as ``socket.getaddrinfo`` does.
    """

    is_ready: Callable[[int, bool, float], Awaitable[bool]]
    resolve: Callable[[str, str, float], Awaitable[Sequence[Any]]]


async def _block(fd: int, writing: bool, until: float) -> bool:
    events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
    with selectors.DefaultSelector() as selector:
        selector.register(fd, events)
        return bool(selector.select(max(0, until - time.monotonic())))


async def _block_to_resolve(host: str, port: str, _until: float) -> Sequence[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def _watch(fd: int, writing: bool, until: float) -> bool:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[bool] = loop.create_future()

    def settle(in_time: bool) -> None:
        if not ready.done():
            ready.set_result(in_time)

    loop.add_reader(fd, settle, True)
    if writing:
        loop.add_writer(fd, settle, True)
    timer = loop.call_later(max(0, until - time.monotonic()), settle, False)
    try:
        return await ready
    finally:
        timer.cancel()
        loop.remove_reader(fd)
        if writing:
            loop.remove_writer(fd)


async def _resolve_on_loop(host: str, port: str, until: float) -> Sequence[Any]:
    async with asyncio.timeout(max(0, until - time.monotonic())):
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


in_thread: Final = Waiting(_block, _block_to_resolve)
on_loop: Final = Waiting(_watch, _resolve_on_loop)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that waits ``in_thread``."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("a coroutine that waits on an event loop was run in a thread")


# --- statements


async def execute(
    connection: Any,
    waiting: Waiting,
    until: float,
    statement: str,
    values: Sequence[Value] | None = None,
    *,
    name: str = "",
) -> Any:
    """Run a statement and return its result, a ``PGresult``.

    Args:
        connection: A ``PGconn`` of psycopg.
        waiting: Waits in a thread or on an event loop.
        until: When to give up, by the monotonic clock.
        statement: The statement; without values, there may be several.
        values: Its values.
        name: Run the prepared statement of this name instead; without values, prepare it.

    Raises:
        StatementFailed: The server refused it. The connection can still be used.
        ConnectionFailed: The connection broke.
        TimeoutError: There was no reply in time.
    """

    async def wait(*, writing: bool = False) -> None:
        if not await waiting.is_ready(connection.socket, writing, until):
            raise TimeoutError
        connection.consume_input()

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
            await wait(writing=True)
        result, failed = None, None
        while True:
            while connection.is_busy():
                await wait()
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
        statement_timeout_s: Seconds after which the server cancels a statement, so that it does not go on
            working for clients that have given up; pgbouncer does not allow this setting.

    Attributes:
        server: The servers, for errors.
    """

    def __init__(self, target: Target, *, statement_timeout_s: float) -> None:
        self._target = target
        own = f"-c statement_timeout={max(1, int(statement_timeout_s * 1000))}"
        self._options = f"{target.options.get('options', '')} {own}".strip()
        self._last: tuple[str, str, str] | None = None
        self.server = f"Postgres at {', '.join(_name(*each) for each in target.hosts)}"

    async def connect(self, waiting: Waiting, until: float) -> Any:
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
            try:
                found = await waiting.resolve(host, port or "5432", until)
                addresses += [(host, port, _numeric(info[4])) for info in found]
            except OSError:  # includes TimeoutError
                problems.append(f"{_server(host, port)} {explain_connecting('translate host name')}")
        addresses.sort(key=lambda each: each != self._last)
        for number, address in enumerate(addresses):
            now = time.monotonic()
            ends_at = now + (until - now) / (len(addresses) - number)
            try:
                connection = await self._open(address, waiting, ends_at)
            except ConnectionFailed as exc:
                problems.append(f"{_server(*address[:2])} {exc}")
            else:
                self._last = address
                return connection
        raise ConnectionFailed("; ".join(dict.fromkeys(problems)))

    async def _open(self, address: tuple[str, str, str], waiting: Waiting, until: float) -> Any:
        given = self._options  # another thread may change them
        connection = pq.PGconn.connect_start(self._conninfo(*address, given))
        while (polled := connection.connect_poll()) in _WAITING:
            writing = polled == pq.PollingStatus.WRITING
            if not await waiting.is_ready(connection.socket, writing, until):
                raise ConnectionFailed(TIMED_OUT)
        if polled == pq.PollingStatus.OK:
            connection.nonblocking = 1
            return connection
        message = connection.error_message.decode(errors="replace")
        without = self._target.options.get("options", "")
        if UNSUPPORTED_OPTION in message and given != without:  # pgbouncer
            self._options = without
            return await self._open(address, waiting, until)
        raise ConnectionFailed(explain_connecting(message))

    def _conninfo(self, host: str, port: str, numeric: str, options: str) -> bytes:
        given = {"host": host, "port": port, "hostaddr": numeric, "options": options}
        fixed = {"client_encoding": "UTF8", "fallback_application_name": "basicauth_mw"}
        given = {name: value for name, value in given.items() if value}
        found: str = psycopg.conninfo.make_conninfo("", **{**self._target.options, **given, **fixed})
        return found.encode()


def _numeric(address: Any) -> str:
    """An IP address; a link-local one with its zone."""
    return socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]


def _name(host: str, port: str) -> str:
    shown = "its Unix socket" if not host or host.startswith(("/", "@")) else host
    return f"{shown}:{port or '5432'}"


def _server(host: str, port: str) -> str:
    return f"Postgres at {_name(host, port)}"
