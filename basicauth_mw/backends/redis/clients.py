"""The connections of a store: a pool for each node that all threads share, and one connection for each node
and event loop.

The router of the store selects the node for each command, and takes the replies or the error of that node.
Lookups that arrive together on an event loop are sent as one batch. A lookup is idempotent, so it is retried
once on a new connection if there was no reply. Each attempt has half of the deadline. A change is sent only
once; if its reply is lost, the caller reads back what happened.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, cast

from ...errors import BackendUnavailable
from ...runtime.batches import Batcher
from .errors import exceptions, translate_error

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from .cluster import Command, Node, Route, Router
    from .connections import Connector

_NO_REPLY: Final = (exceptions.ConnectionError, exceptions.TimeoutError)

_CLOSED: Final = "the store is closed"


class ThreadClients:
    """The connection pools that all threads of the process share, one for each node.

    ``timeout_s`` is for each attempt to connect and for each reply. With ``retry``, commands are sent again,
    once, if there was no reply.
    """

    def __init__(self, router: Router, connector: Connector, *, timeout_s: float, retry: bool) -> None:
        self._router = router
        self._connector = connector
        self._timeout_s = timeout_s
        self._attempts = 2 if retry else 1
        self._pools: dict[Node, Any] = {}

    def run(self, route: Route) -> list[Any]:
        """Send the commands of a route, and return the replies, error replies included.

        Raises:
            BackendUnavailable: There was no reply.
        """
        outcome: Any = None
        with closing(route):
            while True:
                try:
                    node, commands = route.send(outcome)
                except StopIteration as done:
                    self._drop_others()
                    return cast("list[Any]", done.value)
                outcome = self._execute(node, commands)

    def close(self) -> None:
        """Close all connections, including those in use; the next command opens a new one."""
        for pool in list(self.reset().values()):  # other threads may still use the dictionary
            pool.disconnect()

    def reset(self) -> dict[Node, Any]:
        """Forget the pools without closing their connections, and return them."""
        pools, self._pools = self._pools, {}
        return pools

    def reconnect(self) -> None:
        """Close idle connections, so that the next command opens a new one."""
        for pool in list(self._pools.values()):
            pool.disconnect(inuse_connections=False)

    def _execute(self, node: Node, commands: Sequence[Command]) -> list[Any] | BackendUnavailable:
        pools = self._pools
        if (pool := pools.get(node)) is None:
            pool = pools.setdefault(node, self._connector.pool(node, timeout_s=self._timeout_s))
        attempts = self._attempts
        while True:
            attempts -= 1
            try:
                return _exchange(pool, commands)
            except BaseException as exc:
                if not isinstance(exc, exceptions.RedisError):
                    # From a signal handler, or from redis-py when its socket is closed. The pool may hold a
                    # half open connection, which redis-py would not open again.
                    pools.pop(node, None)
                    if not isinstance(exc, Exception):
                        raise
                if pools is not self._pools:
                    return BackendUnavailable(_CLOSED)
                if not attempts or not isinstance(exc, _NO_REPLY):
                    return translate_error(exc, self._connector.server(node))

    def _drop_others(self) -> None:
        """Close the connections to nodes that are no longer in use."""
        for node in set(self._pools).difference(self._router.nodes):
            if (pool := self._pools.pop(node, None)) is not None:
                # Connections in use are closed when they are garbage collected.
                pool.disconnect(inuse_connections=False)


def _exchange(pool: Any, commands: Sequence[Command]) -> list[Any]:
    connection = pool.get_connection()
    replied = False
    try:
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        replies = [_reply(connection) for _ in commands]
        replied = True
        return replies
    finally:
        if not replied:  # out of step with the replies, even if a signal handler has raised
            connection.disconnect()
        pool.release(connection)


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except exceptions.ResponseError as exc:
        return exc


class LoopClients:
    """The connections of the running event loop, one for each node. They close when the loop does."""

    def __init__(self, router: Router, connector: Connector, *, timeout_s: float) -> None:
        self._router = router
        self._connector = connector
        self._timeout_s = timeout_s
        self._readers: dict[Node, NodeReader] = {}
        self._is_closed = False
        # An event loop closes its asynchronous generators before it ends (asyncio.run, uvicorn, anyio).
        self._at_end = self._close_at_end()

    async def get(self, name: bytes) -> Any:
        """Return the reply to a GET, which may be an error reply. May be cancelled at any time.

        Raises:
            BackendUnavailable: There was no reply.
        """
        command = ("GET", name)
        if (node := self._router.node_for(name)) is not None:
            outcome = await self._reader(node).execute(command)
            if isinstance(outcome, list) and not isinstance(outcome[0], exceptions.AskError):
                return outcome[0]
        return (await self.run(command))[0]  # the second attempt, or where the cluster redirects to

    async def run(self, *commands: Command) -> list[Any]:
        """``ThreadClients.run`` for read-only commands. May be cancelled at any time."""
        outcome: Any = None
        with closing(self._router.route(commands)) as route:
            while True:
                try:
                    node, batch = route.send(outcome)
                except StopIteration as done:
                    if gone := self._readers.keys() - self._router.nodes:
                        # Lookups that wait for these nodes are sent to others.
                        await _close([self._readers.pop(node) for node in gone])
                    return cast("list[Any]", done.value)
                outcome = await self._reader(node).execute(*batch)

    async def start(self) -> None:
        """Register the connections to be closed when the event loop ends."""
        await anext(self._at_end)

    async def aclose(self) -> None:
        """Close all connections; lookups that wait for a reply fail."""
        await self._at_end.aclose()

    async def _close_at_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._is_closed = True
            await _close(list(self._readers.values()))

    def _reader(self, node: Node) -> NodeReader:
        if self._is_closed:
            raise BackendUnavailable(_CLOSED)
        if (reader := self._readers.get(node)) is None:
            reader = NodeReader(node, self._router, self._connector, timeout_s=self._timeout_s)
            self._readers[node] = reader
        return reader


async def _close(readers: Sequence[NodeReader]) -> None:
    """Close connections at once, even if the caller is cancelled, then wait for the tasks that used them."""
    for reader in readers:  # this does not suspend
        if (writer := reader.connection._writer) is not None:  # noqa: SLF001
            writer.transport.abort()  # close() waits for the peer of a TLS connection
        await reader.connection.disconnect(nowait=True)
    if tasks := [task for reader in readers if (task := reader.batcher.cancel()) is not None]:
        await asyncio.wait(tasks)
    await asyncio.sleep(0)  # the loop closes the sockets in its next iteration


class NodeReader:
    """Reads from one node over one connection, which only the task of its batches uses.

    ``timeout_s`` is for each batch, including DNS and connecting.
    """

    def __init__(self, node: Node, router: Router, connector: Connector, *, timeout_s: float) -> None:
        # Shorter than an attempt, since an error in connecting says more than that there was no reply.
        self._pool = connector.pool(node, timeout_s=0.8 * timeout_s, on_loop=True)
        self.connection = self._pool.make_connection()  # refers to its pool weakly
        self.batcher: Batcher[tuple[Command, ...], list[Any]] = Batcher(self._send)
        self._timeout_s = timeout_s
        self._server = connector.server(node)
        self._mark_stale = partial(router.mark_stale, node)

    async def execute(self, *commands: Command) -> list[Any] | Exception:
        """Return the replies to read-only commands, error replies included, or an error: there were none."""
        try:
            return await self.batcher.get(commands)
        except Exception as exc:
            return translate_error(exc, self._server)

    async def _send(self, batch: list[tuple[Command, ...]]) -> list[list[Any]]:
        connection = self.connection
        commands = list(chain.from_iterable(batch))
        try:
            async with asyncio.timeout(self._timeout_s):
                if connection.is_connected and await connection.can_read():
                    # Closed by the server, or it sent what was not requested.
                    await connection.disconnect(nowait=True)
                if not connection.is_connected:
                    await connection.connect()
                packed = connection.pack_commands(commands)
                await connection.send_packed_command(packed, check_health=False)
                replies = iter([await self._reply() for _ in commands])
        except BaseException:
            self._mark_stale()
            # Out of step with the replies, or not logged in yet.
            await connection.disconnect(nowait=True)
            raise
        return [list(islice(replies, len(commands))) for commands in batch]

    async def _reply(self) -> Any:
        try:
            return await self.connection.read_response()
        except exceptions.ResponseError as exc:
            return exc
