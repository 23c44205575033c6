"""redis-py clients: for each node one that all threads share, and one for each event loop.

redis-py keeps the pools of connections, notices those that were closed, survives a fork, speaks TLS and asks
Sentinels. What is added here: a router decides which node gets a command; a host name with several addresses
gets a share of the time for each; and an event loop sends lookups that arrive together as one batch.

A lookup may be sent twice, since it changes nothing: once more on a new connection if there was no reply. Each
attempt has half of the deadline. A change is sent once: whoever lost the reply checks what became of it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import closing
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from ..._extras import require
from ...errors import BackendUnavailable, ConfigurationError
from .errors import MasterNotFoundError, exceptions, translate_error

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Mapping, Sequence

    from .url import Address, Target

    Command = tuple[bytes | str | int, ...]
    # A command goes through these steps: which node gets which commands, answered with replies or an exception.
    Steps = Generator[tuple["Node", Sequence[Command]], list[Any] | Exception, list[Any]]

_redis = require("redis", extra="redis")
_aredis = require("redis.asyncio", extra="redis")
_sentinel = require("redis.sentinel", extra="redis")
_asentinel = require("redis.asyncio.sentinel", extra="redis")
_backoff = require("redis.backoff", extra="redis")
_retry = require("redis.retry", extra="redis")
_aretry = require("redis.asyncio.retry", extra="redis")

# There was no reply, for whatever reason; and the reason was not that it took too long.
NO_REPLY: Final = (exceptions.ConnectionError, exceptions.TimeoutError)
BROKEN_CONNECTION: Final = (exceptions.ConnectionError,)

# A connection that a firewall has forgotten is noticed after 45 s without traffic, not after hours.
_KEEPALIVE: Final = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}


@dataclass(frozen=True, slots=True)
class Node:
    """A server that gets commands.

    Attributes:
        address: Host and port; None: as the URL says, by Sentinels if it names some.
    """

    address: Address | None = None


class Router(Protocol):
    """Knows which node gets a command. Shared by all threads and event loops."""

    @property
    def nodes(self) -> frozenset[Node]:
        """Those that may be used; another object as soon as they have changed."""
        ...

    def node_for(self, name: bytes) -> Node | None:
        """The node of a key as far as known; None: ``route`` finds out."""
        ...

    def mark_stale(self, node: Node) -> None:
        """Note that a node gave no reply."""
        ...

    def route(self, commands: Sequence[Command], *, retry: bool) -> Steps:
        """Each command to the node of its key; a reply for each, error replies included.

        Args:
            commands: Each names one key.
            retry: They may be sent twice.
        """
        ...

    def route_all(self, commands: Sequence[Command]) -> Steps:
        """The same commands to every node that can be written; the replies of one node after another's."""
        ...


class SingleServer:
    """The router where all keys are on one server."""

    def __init__(self) -> None:
        self._node = Node()
        self.nodes = frozenset({self._node})

    def node_for(self, _name: bytes) -> Node:
        return self._node

    def mark_stale(self, node: Node) -> None:
        """There is no other."""

    def route(self, commands: Sequence[Command], *, retry: bool = True) -> Steps:
        outcome = yield self._node, commands
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    route_all = route


# --- how to connect


class Connector:
    """Makes the redis-py clients of a store; connects nothing.

    Args:
        target: What the URL names.

    Raises:
        ConfigurationError: redis-py cannot use the options of the URL, or a file for TLS cannot be read.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        try:
            options = _redis.connection.parse_url(target.url)
            _redis.Connection(
                **_common(_retry.Retry(_backoff.NoBackoff(), 0, ()), 1.0), **target.sentinel_login
            )
        except Exception as exc:  # its text may hold a part of the URL
            raise ConfigurationError(
                f"redis-py cannot use the options of the Redis URL ({type(exc).__name__})"
            ) from None
        _check_tls_files(options)

    def server(self, node: Node) -> str:
        """What to call a node in an error."""
        target = self._target
        if node.address is None and target.form == "sentinel":
            return f"the Redis Sentinels {', '.join(f'{host}:{port}' for host, port in target.addresses)}"
        host, port = node.address or target.addresses[0]
        return f"Redis at {host}:{port}" if host else f"Redis at {target.socket_path}"

    def client(self, node: Node, *, timeout_s: float, retry_on: Sequence[type[Exception]]) -> Any:
        """A client for all threads, with replies as they were sent.

        Args:
            node: The server.
            timeout_s: For each attempt to connect, and for each reply.
            retry_on: The errors after which commands are sent once more.
        """
        retry = _retry.Retry(_backoff.NoBackoff(), min(1, len(retry_on)), tuple(retry_on))
        if node.address is None and self._target.form == "sentinel":
            options = self._sentinel_options(_redis, retry, timeout_s)
            made = _sentinel.Sentinel(**options, redis_connect_func=_check_role).master_for(
                self._target.service
            )
        else:
            options = self._options(_redis, node, retry, timeout_s)
            kind = _CONNECTIONS.get(options.pop("connection_class", _redis.Connection))
            made = _redis.Redis(connection_pool=_redis.ConnectionPool(**_class(kind), **options))
        made.response_callbacks.clear()
        return made

    def aclient(self, node: Node, *, timeout_s: float, retry_on: Sequence[type[Exception]]) -> Any:
        """A client for the running event loop, with replies as they were sent."""
        retry = _aretry.Retry(_backoff.NoBackoff(), min(1, len(retry_on)), tuple(retry_on))
        if node.address is None and self._target.form == "sentinel":
            options = self._sentinel_options(_aredis, retry, timeout_s)
            made = _asentinel.Sentinel(**options, redis_connect_func=_acheck_role).master_for(
                self._target.service
            )
        else:
            options = self._options(_aredis, node, retry, timeout_s)
            kind = _ACONNECTIONS.get(options.pop("connection_class", _aredis.Connection))
            made = _aredis.Redis(connection_pool=_aredis.ConnectionPool(**_class(kind), **options))
        made.response_callbacks.clear()
        return made

    def _options(self, driver: Any, node: Node, retry: Any, timeout_s: float) -> dict[str, Any]:
        options = {
            **driver.connection.parse_url(self._target.url),
            **_common(retry, timeout_s),
        }
        if node.address is not None:
            options["host"], options["port"] = node.address
        if "path" not in options:
            options |= {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
        return options

    def _sentinel_options(self, driver: Any, retry: Any, timeout_s: float) -> dict[str, Any]:
        options = self._options(driver, Node(), retry, timeout_s)
        del options["host"], options["port"]
        if options.pop("connection_class", None) is not None:
            options["ssl"] = True
        tls = {name: value for name, value in options.items() if name.startswith("ssl")}
        login = self._target.sentinel_login
        # Each sentinel has a share of the time, so that there is some left for the master.
        share_s = timeout_s / (len(self._target.addresses) + 1)
        none = type(retry)(_backoff.NoBackoff(), 0, ())
        return {
            "sentinels": self._target.addresses,
            "sentinel_kwargs": {**_common(none, share_s), **tls, **login},
            **options,
        }


def _common(retry: Any, timeout_s: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": retry,
        "retry_on_error": list(retry._supported_errors),
        "protocol": 2,
        "decode_responses": False,
    }


def _check_tls_files(options: Mapping[str, Any]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    loads: dict[str, Callable[[str], object]] = {
        "ssl_ca_certs": lambda path: context.load_verify_locations(cafile=path),
        "ssl_certfile": lambda path: context.load_cert_chain(
            path, options.get("ssl_keyfile"), options.get("ssl_password")
        ),
    }
    for name, load in loads.items():
        try:
            if path := options.get(name):
                load(path)
        except OSError as exc:  # ssl.SSLError is one
            raise ConfigurationError(
                f"{name} in the Redis URL names a file that cannot be used: {exc.strerror or exc}"
            ) from None


def _class(kind: Any) -> dict[str, Any]:
    return {} if kind is None else {"connection_class": kind}


def _sentinels(pool: Any) -> Sequence[Any]:
    """The clients by which a pool asks sentinels for the master; none, if it does not."""
    manager = getattr(pool, "sentinel_manager", None)
    return () if manager is None else cast("Sequence[Any]", manager.sentinels)


def _check_role(connection: Any) -> None:
    """Sentinels may name a server that is no master any more, and its keys may be old."""
    connection.on_connect()
    connection.send_command("ROLE", check_health=False)
    _is_master(connection.read_response())


async def _acheck_role(connection: Any) -> None:
    await connection.on_connect()
    await connection.send_command("ROLE", check_health=False)
    _is_master(await connection.read_response())


def _is_master(role: Any) -> None:
    if not isinstance(role, list) or role[:1] != [b"master"]:
        raise MasterNotFoundError("the sentinels name a server that is no master")


# --- several addresses for one host name

_last_good: Final[dict[tuple[str, int], Any]] = {}


def _in_order(connection: Any, found: Sequence[Any]) -> Sequence[Any]:
    """The addresses of a name, the one that answered last first."""
    last = _last_good.get((connection.host, connection.port))
    return sorted(found, key=lambda info: info[4] != last)


def _socket(connection: Any, info: Any) -> socket.socket:
    made = socket.socket(*info[:3])
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    except BaseException:
        made.close()
        raise
    return made


class _Tcp(_redis.Connection):  # type: ignore[misc,name-defined]
    """Divides the time to connect among the addresses of the host name, so that a dead one costs its share."""

    def _connect(self) -> socket.socket:
        found = _in_order(self, socket.getaddrinfo(self.host, self.port, 0, socket.SOCK_STREAM))
        reason: OSError = OSError("the host name has no address")
        for info in found:
            made = _socket(self, info)
            try:
                made.settimeout(self.socket_connect_timeout / len(found))
                made.connect(info[4])
                made.settimeout(self.socket_timeout)
            except OSError as exc:
                made.close()
                reason = exc
            else:
                _last_good[self.host, self.port] = info[4]
                return made
        raise reason


class _Tls(_redis.SSLConnection, _Tcp):  # type: ignore[misc,name-defined]
    """``_Tcp`` below redis-py's TLS."""


class _AsyncTcp(_aredis.Connection):  # type: ignore[misc,name-defined]
    """``_Tcp`` for an event loop."""

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        found = _in_order(self, await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM))
        arguments = {**self._connection_arguments()}
        tls = {"ssl": arguments["ssl"], "server_hostname": self.host} if "ssl" in arguments else {}
        reason: OSError = OSError("the host name has no address")
        for info in found:
            made = _socket(self, info)
            made.setblocking(False)
            try:
                async with asyncio.timeout(self.socket_connect_timeout / len(found)):
                    await loop.sock_connect(made, info[4])
            except OSError as exc:  # TimeoutError is one
                made.close()
                reason = exc
                continue
            except BaseException:
                made.close()
                raise
            _last_good[self.host, self.port] = info[4]
            async with asyncio.timeout(self.socket_connect_timeout):
                self._reader, self._writer = await asyncio.open_connection(sock=made, **tls)
            return
        raise reason


class _AsyncTls(_aredis.SSLConnection, _AsyncTcp):  # type: ignore[misc,name-defined]
    """``_AsyncTcp`` below redis-py's TLS."""


_CONNECTIONS: Final = {_redis.Connection: _Tcp, _redis.SSLConnection: _Tls}
_ACONNECTIONS: Final = {_aredis.Connection: _AsyncTcp, _aredis.SSLConnection: _AsyncTls}


# --- threads


class ThreadClients:
    """The clients that all threads of the process share.

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

    def run(self, steps: Steps) -> list[Any]:
        """Take the steps of a router.

        Returns:
            The replies, error replies included.

        Raises:
            BackendUnavailable: There is none.
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
        """Close every connection; the next command opens one."""
        self._drop_others(frozenset())

    def _execute(self, node: Node, commands: Sequence[Command]) -> list[Any]:
        if (client := self._clients.get(node)) is None:
            client = self._clients.setdefault(node, self._make(node))
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return cast("list[Any]", pipeline.execute(raise_on_error=False))

    def _drop_others(self, nodes: frozenset[Node]) -> None:
        for node in self._clients.keys() - nodes:
            if (client := self._clients.pop(node, None)) is not None:
                for each in (client, *_sentinels(client.connection_pool)):
                    each.connection_pool.disconnect()


# --- event loops


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
        self._make = partial(connector.aclient, timeout_s=timeout_s, retry_on=NO_REPLY)
        self._readers: dict[Node, NodeReader] = {}
        # An event loop closes its asynchronous generators before it ends (asyncio.run, uvicorn, anyio).
        self._at_end = self._close_at_end()

    async def get(self, name: bytes) -> Any:
        """The reply to a GET, which may be an error reply. May be cancelled at any time.

        Raises:
            BackendUnavailable: There is no reply.
        """
        if (node := self._router.node_for(name)) is None:
            return (await self.run([("GET", name)]))[0]
        reply: Any
        try:
            reply = await self._reader(node).get(name)
        except asyncio.CancelledError:
            self._router.mark_stale(node)
            raise
        except Exception as exc:
            reply = translate_error(exc, self._connector.server(node))
        if reply is None or type(reply) is bytes:
            return reply
        outcome = reply if isinstance(reply, BackendUnavailable) else [reply]
        return (await self.run([("GET", name)], known=(node, outcome)))[0]

    async def run(
        self, commands: Sequence[Command], *, known: tuple[Node, list[Any] | Exception] | None = None
    ) -> list[Any]:
        """Send commands that only read to the nodes of their keys. May be cancelled at any time.

        Args:
            commands: What to send.
            known: A node that they were sent to already, and what came of it.

        Returns:
            The replies, error replies included.

        Raises:
            BackendUnavailable: There is none.
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
                known = None  # it may be sent again

    async def start(self) -> None:
        """Have the connections closed when the loop ends."""
        await anext(self._at_end)

    async def aclose(self) -> None:
        """Close every connection."""
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

    def _reader(self, node: Node) -> NodeReader:
        if (reader := self._readers.get(node)) is None:
            reader = self._readers[node] = NodeReader(self._make(node))
        return reader

    async def _drop_others(self, nodes: frozenset[Node]) -> None:
        if nodes is not self._nodes:
            self._nodes = nodes
            for node in self._readers.keys() - nodes:
                if (reader := self._readers.pop(node, None)) is not None:
                    await reader.aclose()


class NodeReader:
    """Reads from one node. Lookups of one turn of the event loop go out together, and so do those that wait for
    a reply to others.

    Only tasks of this object touch a connection. A caller that is cancelled leaves no reply for the next one,
    and costs nobody else theirs.

    Args:
        client: Of the running event loop.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._waiting: dict[bytes, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_sending = False

    async def get(self, name: bytes) -> Any:
        """The reply to a GET, or an error reply.

        Raises:
            Exception: Of redis-py: there is no reply.
        """
        if (future := self._waiting.get(name)) is None:
            future = self._waiting[name] = asyncio.get_running_loop().create_future()
            if not self._is_sending:
                self._is_sending = True
                self._start(self._send()).add_done_callback(self._end)
        reply = await asyncio.shield(future)
        if isinstance(reply, Exception) and not isinstance(reply, exceptions.ResponseError):
            raise reply
        return reply

    async def execute(self, commands: Iterable[Command]) -> list[Any]:
        """The replies to several commands, error replies included.

        Raises:
            Exception: Of redis-py: there is no reply.
        """
        return cast("list[Any]", await asyncio.shield(self._start(self._pipeline(commands))))

    async def aclose(self) -> None:
        """Give up what is waited for, and close the connections."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        pool = self._client.connection_pool
        for client in (self._client, *_sentinels(pool)):
            await client.connection_pool.disconnect()

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        # An empty context: it is no single request's.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _pipeline(self, commands: Iterable[Command]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return cast("list[Any]", await pipeline.execute(raise_on_error=False))

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            replies: Sequence[Any] = [exceptions.ConnectionError("given up")] * len(batch)
            try:
                if len(batch) == 1:
                    replies = [await self._client.execute_command("GET", *batch)]
                else:
                    replies = await self._pipeline(("GET", name) for name in batch)
            except Exception as exc:
                replies = [exc] * len(batch)
            finally:
                _settle(batch, replies)

    def _end(self, _task: asyncio.Task[Any]) -> None:
        waiting, self._waiting = self._waiting, {}  # of a task that was cancelled
        _settle(waiting, [exceptions.ConnectionError("given up")] * len(waiting))
        self._is_sending = False


def _settle(batch: Mapping[bytes, asyncio.Future[Any]], replies: Sequence[Any]) -> None:
    for future, reply in zip(batch.values(), replies, strict=True):
        if not future.done():
            future.set_result(reply)
