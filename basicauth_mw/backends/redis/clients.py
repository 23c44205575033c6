"""redis-py clients: for each node one that all threads share, and one for each event loop.

redis-py provides connection pools, detects closed connections and implements TLS. This module adds two
things: a router selects the node for each command, and lookups that arrive together on an event loop are sent
as one batch.

A lookup is idempotent, so it is retried once on a new connection if there was no reply. Each attempt has half
of the deadline. A change is sent only once; if its reply is lost, the caller reads back what happened.
"""

from __future__ import annotations

import asyncio
from contextlib import closing, suppress
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from ...errors import BackendUnavailable
from .connections import sentinels_of
from .errors import exceptions, translate_error

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence

    from .connections import Connector
    from .router import Command, Node, Router, Steps

# Errors that mean "no reply", and those of them that are not timeouts.
NO_REPLY: Final = (exceptions.ConnectionError, exceptions.TimeoutError)
BROKEN_CONNECTION: Final = (exceptions.ConnectionError,)


def _given_up() -> Exception:
    # A new exception each time: raising a shared one again would extend its traceback.
    error: Exception = exceptions.ConnectionError("the lookup was cancelled")
    return error


class ThreadClients:
    """The clients that all threads of the process share, one for each node.

    Args:
        router: Decides which node gets a command.
        connector: Makes the clients.
        timeout_s: For each attempt to connect, and for each reply.
        retry_on: The errors after which commands are sent once more.
    """

    def __init__(
        self, router: Router, connector: Connector, *, timeout_s: float, retry_on: Sequence[type[Exception]]
    ) -> None:
        self._router = router
        self._connector = connector
        self._make = partial(connector.client, timeout_s=timeout_s, retry_on=retry_on)
        self._clients: dict[Node, Any] = {}
        self._nodes = router.nodes

    def run(self, steps: Steps) -> list[Any]:
        """Perform the steps of a router.

        Returns:
            The replies, error replies included.

        Raises:
            BackendUnavailable: There was no reply.
        """
        outcome: Any = None
        with closing(steps):
            while True:
                try:
                    node, commands = steps.send(outcome)
                except StopIteration as done:
                    self._drop_others(self._router.nodes)
                    return cast("list[Any]", done.value)
                try:
                    outcome = self._execute(node, commands)
                except Exception as exc:
                    outcome = translate_error(exc, self._connector.server(node))

    def close(self) -> None:
        """Close all connections, including those in use; the next command opens a new one."""
        for client in self.reset().values():
            for each in (client, *sentinels_of(client.connection_pool)):
                each.connection_pool.disconnect()

    def reset(self) -> dict[Node, Any]:
        """Forget the clients without closing them, and return them."""
        clients, self._clients = self._clients, {}
        return clients

    def reconnect(self) -> None:
        """Close idle connections, so that the next command opens a new one."""
        for client in list(self._clients.values()):
            client.connection_pool.disconnect(inuse_connections=False)

    def _execute(self, node: Node, commands: Sequence[Command]) -> list[Any]:
        if (client := self._clients.get(node)) is None:
            client = self._clients.setdefault(node, self._make(node))
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return cast("list[Any]", pipeline.execute(raise_on_error=False))

    def _drop_others(self, nodes: frozenset[Node]) -> None:
        if nodes is not self._nodes:
            self._nodes = nodes
            for node in self._clients.keys() - nodes:
                if (client := self._clients.pop(node, None)) is not None:
                    # Connections in use are closed when they are garbage collected.
                    client.connection_pool.disconnect(inuse_connections=False)


class LoopClients:
    """The clients of the running event loop. They close when the loop does.

    Args:
        router: Decides which node gets a command.
        connector: Makes the clients.
        timeout_s: For each attempt to connect, and for each reply.
    """

    def __init__(self, router: Router, connector: Connector, *, timeout_s: float) -> None:
        self._router = router
        self._connector = connector
        self._nodes = router.nodes
        self._make = partial(connector.client, timeout_s=timeout_s, retry_on=NO_REPLY, on_loop=True)
        self._limit_s = 2.5 * timeout_s  # longer than two attempts, whose own errors are more specific
        self._readers: dict[Node, NodeReader] = {}
        self._finding: asyncio.Task[Any] | None = None
        # An event loop closes its asynchronous generators before it ends (asyncio.run, uvicorn, anyio).
        self._at_end = self._close_at_end()

    async def get(self, name: bytes) -> Any:
        """Return the reply to a GET, which may be an error reply. May be cancelled at any time.

        Raises:
            BackendUnavailable: There was no reply.
        """
        if (node := self._router.node_for(name)) is None:
            await self._find_nodes()
            if (node := self._router.node_for(name)) is None:
                return (await self.run([("GET", name)]))[0]
        reply: Any
        try:
            reply = await self._reader(node).get(name)
        except Exception as exc:
            reply = translate_error(exc, self._connector.server(node))
        if reply is None or type(reply) is bytes:
            return reply
        outcome = reply if isinstance(reply, BackendUnavailable) else [reply]
        return (await self.run([("GET", name)], known=(node, outcome)))[0]

    async def run(
        self, commands: Sequence[Command], *, known: tuple[Node, list[Any] | Exception] | None = None
    ) -> list[Any]:
        """Send read-only commands to the nodes of their keys. May be cancelled at any time.

        Args:
            commands: What to send.
            known: A node that has received the commands already, with its replies or the error.

        Returns:
            The replies, error replies included.

        Raises:
            BackendUnavailable: There was no reply.
        """
        outcome: Any = None
        with closing(self._router.route(commands, retry=True)) as steps:
            while True:
                try:
                    node, batch = steps.send(outcome)
                except StopIteration as done:
                    await self._drop_others(self._router.nodes)
                    return cast("list[Any]", done.value)
                if known is not None and known[0] == node and batch == commands:
                    outcome = known[1]
                else:
                    try:
                        outcome = await self._reader(node).execute(batch)
                    except Exception as exc:
                        outcome = translate_error(exc, self._connector.server(node))
                known = None  # the commands may be sent to this node again

    async def start(self) -> None:
        """Register the clients to be closed when the event loop ends."""
        await anext(self._at_end)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._at_end.aclose()
        self._nodes = frozenset()
        readers, self._readers = self._readers, {}
        for reader in readers.values():
            await reader.aclose()

    async def _close_at_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            readers, self._readers = self._readers, {}
            for reader in readers.values():
                await reader.aclose()

    async def _find_nodes(self) -> None:
        """Refresh the slot map, once for all lookups that wait for it."""
        if self._finding is None or self._finding.done():
            self._finding = _start(self.run([]))
        await asyncio.wait([self._finding])

    def _reader(self, node: Node) -> NodeReader:
        if (reader := self._readers.get(node)) is None:
            failed = partial(self._router.mark_stale, node)
            reader = self._readers[node] = NodeReader(
                self._make(node), limit_s=self._limit_s, on_failure=failed
            )
        return reader

    async def _drop_others(self, nodes: frozenset[Node]) -> None:
        if nodes is not self._nodes:
            self._nodes = nodes
            for node in self._readers.keys() - nodes:
                if (reader := self._readers.pop(node, None)) is not None:
                    await reader.aclose(give_up=True)  # waiting lookups are sent to another node


class NodeReader:
    """Reads from one node.

    Lookups are batched per event loop iteration, and while a reply is pending.

    Connections are used only by tasks of this object. Cancelling a caller therefore neither leaves a reply
    for the next caller nor affects other callers.

    Args:
        client: A redis-py client of the running event loop.
        limit_s: Seconds for each batch, including DNS and connecting.
        on_failure: Called when there was no reply.
    """

    def __init__(self, client: Any, *, limit_s: float, on_failure: Callable[[], None]) -> None:
        self._client = client
        self._limit_s = limit_s
        self._on_failure = on_failure
        self._waiting: dict[bytes, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sending: asyncio.Task[Any] | None = None

    async def get(self, name: bytes) -> Any:
        """Return the reply to a GET, or an error reply.

        Raises:
            Exception: An error of redis-py: there was no reply.
        """
        if (future := self._waiting.get(name)) is None:
            future = self._waiting[name] = asyncio.get_running_loop().create_future()
            if self._sending is None:
                self._sending = self._start(self._send())
                self._sending.add_done_callback(self._end)
        reply = await asyncio.shield(future)
        if isinstance(reply, Exception) and not isinstance(reply, exceptions.ResponseError):
            raise reply
        return reply

    async def execute(self, commands: Iterable[Command]) -> list[Any]:
        """Return the replies to several commands, including error replies.

        Raises:
            Exception: An error of redis-py: there was no reply.
        """
        task = self._start(self._pipeline(commands))
        await asyncio.wait([task])
        if task.cancelled():
            raise _given_up()
        return cast("list[Any]", task.result())

    async def aclose(self, *, give_up: bool = False) -> None:
        """Wait for pending replies, then close the connections.

        Args:
            give_up: Cancel pending lookups instead of waiting for them.
        """
        for task in self._tasks if give_up else ():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        pool = self._client.connection_pool
        for client in (self._client, *sentinels_of(pool)):
            with suppress(exceptions.RedisError, OSError):  # such as a timeout of the TLS shutdown
                await client.connection_pool.disconnect()

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = _start(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _pipeline(self, commands: Iterable[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        async with asyncio.timeout(self._limit_s):
            return cast("list[Any]", await pipeline.execute(raise_on_error=False))

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            replies: Sequence[Any] = [_given_up()] * len(batch)
            try:
                if len(batch) == 1:
                    async with asyncio.timeout(self._limit_s):
                        replies = [await self._client.execute_command("GET", *batch)]
                else:
                    replies = await self._pipeline(("GET", name) for name in batch)
            except Exception as exc:
                replies = [exc] * len(batch)
                if not isinstance(exc, exceptions.ResponseError):
                    self._on_failure()
            finally:
                _settle(batch, replies)
        self._sending = None  # no await since the last check: the next lookup starts another task

    def _end(self, task: asyncio.Task[Any]) -> None:
        if self._sending is task:  # the task was cancelled, perhaps before it started
            self._sending = None
            waiting, self._waiting = self._waiting, {}
            _settle(waiting, [_given_up()] * len(waiting))


def _settle(batch: Mapping[bytes, asyncio.Future[Any]], replies: Sequence[Any]) -> None:
    for future, reply in zip(batch.values(), replies, strict=True):
        if not future.done():
            future.set_result(reply)


def _start(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start a task whose exception need not be retrieved."""
    # An empty context: the task belongs to no single request.
    task = asyncio.get_running_loop().create_task(work, context=Context())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
