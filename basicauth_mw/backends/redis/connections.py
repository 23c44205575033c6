"""How redis-py connects: by the URL, by Sentinels, and to each address of a host name in turn.

redis-py connects to the addresses of a name one after another, with the same time limit for each or with one
for all of them, so a dead first address uses up the time of a lookup. The connection classes below divide the
time among the addresses.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...errors import ConfigurationError
from ...runtime.extras import require
from .cluster import Node
from .errors import MasterNotFoundError, exceptions

require("redis", extra="redis")

import redis.asyncio.retry  # noqa: E402
import redis.asyncio.sentinel  # noqa: E402
import redis.backoff  # noqa: E402
import redis.retry  # noqa: E402
import redis.sentinel  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .url import Address, Target


class Connector:
    """Makes the connection pools of a store; connects nothing.

    Raises:
        ConfigurationError: redis-py cannot use the options of the URL, or a file for TLS cannot be read.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        context: Any = None
        problem = ""
        try:
            first = Node() if target.socket_path else Node(target.addresses[0])
            connection = self.pool(first, timeout_s=1, on_loop=True).make_connection()
            if context := getattr(connection, "ssl_context", None):
                context.get()
        except OSError as exc:  # ssl.SSLError is one
            names = ("ca_certs", "ca_data", "ca_path", "certfile", "keyfile")
            options = " or ".join(f"ssl_{name}" for name in names if getattr(context, name))
            problem = f"{options} in the Redis URL cannot be used: {exc.strerror or exc}"
        except Exception as exc:  # its text may hold a part of the URL
            problem = f"redis-py cannot use the options of the Redis URL ({type(exc).__name__})"
        if problem:
            raise ConfigurationError(problem)

    def server(self, node: Node) -> str:
        """The name of a node in an error."""
        target = self._target
        if node.address is None and target.topology != "node":
            kind = "Sentinels" if target.topology == "sentinel" else "Cluster at"
            return f"the Redis {kind} {', '.join(f'{host}:{port}' for host, port in target.addresses)}"
        if target.socket_path:  # the path may hold a password
            return "Redis at its Unix socket"
        host, port = node.address or target.addresses[0]
        return f"Redis at {host}:{port}"

    def pool(self, node: Node, *, timeout_s: float, on_loop: bool = False) -> Any:
        """Make a connection pool of redis-py.

        Args:
            node: The server.
            timeout_s: For connecting, and for threads also for each reply.
            on_loop: For an event loop instead of for threads.
        """
        driver = _LOOPS if on_loop else _THREADS
        options = driver.options(self._target.url, timeout_s)
        if on_loop:
            options["socket_timeout"] = None  # the caller has one timer for all replies
        if node.address is not None:
            options["host"], options["port"] = node.address
        elif self._target.topology == "sentinel":
            return self._sentinel_pool(driver, options)
        return driver.module.ConnectionPool(**options)

    def _sentinel_pool(self, driver: _Driver, options: dict[str, Any]) -> Any:
        target = self._target
        # Each sentinel has a share of the time, so that there is some left for the master.
        share_s = options["socket_connect_timeout"] / (len(target.addresses) + 1)
        shared = {
            name: value
            for name, value in driver.options(target.url, share_s).items()
            if name not in {"db", "username", "password", "client_name"}  # those of the master
        }
        pools = [
            driver.module.ConnectionPool(**{**shared, **target.sentinel_login, "host": host, "port": port})
            for host, port in target.addresses
        ]
        del options["host"], options["port"]
        return driver.module.sentinel.SentinelConnectionPool(
            target.service,
            driver.sentinels(pools),
            ssl=issubclass(options.pop("connection_class"), driver.module.SSLConnection),
            redis_connect_func=driver.check_role,
            **options,
        )


async def abort(connection: Any) -> None:
    """Close a connection of an event loop immediately. Does not suspend, so it cannot be cancelled."""
    if (writer := connection._writer) is not None:  # noqa: SLF001
        writer.transport.abort()  # close() waits for the peer of a TLS connection
    await connection.disconnect(nowait=True)


# --- Sentinel

# redis-py sends SENTINEL MASTERS, which requires more rights and reports the old master until a failover has
# ended.
_WHO_IS_MASTER: Final = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")


class _Sentinels:
    """A connection pool for each sentinel, beginning with the one that responded last."""

    def __init__(self, pools: Sequence[Any]) -> None:
        self._pools = pools

    def _prefer(self, pool: Any, found: Sequence[bytes]) -> Address:
        # A new list: other threads may be iterating over the old one.
        self._pools = sorted(self._pools, key=lambda each: each is not pool)
        return found[0].decode(), int(found[1])


class _ThreadSentinels(_Sentinels):
    def discover_master(self, service: str) -> Address:
        for pool in self._pools:
            connection = pool.make_connection()
            try:
                connection.send_command(*_WHO_IS_MASTER, service)
                found = connection.read_response()
            except exceptions.RedisError:
                continue
            finally:
                connection.disconnect()
            if found is not None:
                return self._prefer(pool, found)
        raise MasterNotFoundError


class _LoopSentinels(_Sentinels):
    async def discover_master(self, service: str) -> Address:
        for pool in self._pools:
            connection = pool.make_connection()
            try:
                await connection.send_command(*_WHO_IS_MASTER, service)
                found = await connection.read_response()
            except exceptions.RedisError:
                continue
            finally:
                await abort(connection)
            if found is not None:
                return self._prefer(pool, found)
        raise MasterNotFoundError


def _check_role(connection: Any) -> None:
    """Refuse a server that is no longer the master: its keys may be outdated."""
    connection.on_connect()
    connection.send_command("ROLE", check_health=False)
    _require_master(connection.read_response())


async def _acheck_role(connection: Any) -> None:
    await connection.on_connect()
    await connection.send_command("ROLE", check_health=False)
    _require_master(await connection.read_response())


def _require_master(role: Any) -> None:
    if not isinstance(role, list) or role[:1] != [b"master"]:
        raise MasterNotFoundError("the sentinels name a server that is no master")


# --- several addresses for one host name

_last_good: Final[dict[Address, Address]] = {}


def _numeric(name: Address, found: Sequence[Any]) -> list[Address]:
    """The addresses of a name, the one that responded last first."""
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    addresses = [socket.getnameinfo(info[4], numeric) for info in found]
    last = _last_good.get(name)
    return sorted(((host, int(port)) for host, port in addresses), key=lambda address: address != last)


class _Tcp(redis.Connection):
    """Divides the time to connect among the addresses of the host name."""

    def _connect(self) -> socket.socket:
        name, limit_s = (self.host, self.port), float(self.socket_connect_timeout or 0)
        addresses = _numeric(name, socket.getaddrinfo(*name, type=socket.SOCK_STREAM))
        reason = OSError("the host name has no address")
        try:
            for address in addresses:
                self.socket_connect_timeout = limit_s / len(addresses)
                self.host, self.port = address
                try:
                    connected: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
                except OSError as exc:
                    reason = exc
                else:
                    _last_good[name] = address
                    return connected
        finally:
            (self.host, self.port), self.socket_connect_timeout = name, limit_s
        raise reason


class _Tls(redis.SSLConnection, _Tcp):
    """``_Tcp`` below redis-py's TLS."""


class _AsyncTcp(redis.asyncio.Connection):
    """``_Tcp`` for an event loop."""

    _address: Address  # set for each attempt to connect

    def _connection_arguments(self) -> dict[str, Any]:
        host, port = self._address
        return {**super()._connection_arguments(), "host": host, "port": port}

    async def _connect(self) -> None:
        name, limit_s = (self.host, self.port), float(self.socket_connect_timeout or 0)
        async with asyncio.timeout(limit_s):
            found = await asyncio.get_running_loop().getaddrinfo(*name, type=socket.SOCK_STREAM)
        addresses = _numeric(name, found)
        reason = OSError("the host name has no address")
        try:
            for self._address in addresses:
                self.socket_connect_timeout = limit_s / len(addresses)
                try:
                    await super()._connect()  # type: ignore[no-untyped-call]
                except OSError as exc:  # TimeoutError is one
                    reason = exc
                else:
                    _last_good[name] = self._address
                    return
        finally:
            self.socket_connect_timeout = limit_s
        raise reason


class _AsyncTls(redis.asyncio.SSLConnection, _AsyncTcp):
    """``_AsyncTcp`` below redis-py's TLS."""

    def _connection_arguments(self) -> dict[str, Any]:
        limit_s: Any = self.socket_connect_timeout
        return {
            **super()._connection_arguments(),
            "server_hostname": self.host,
            # Shorter than the time limit of the address, to report that it was the handshake.
            "ssl_handshake_timeout": 0.9 * limit_s,
            "ssl_shutdown_timeout": limit_s,
        }


# --- for threads and for event loops

_UNLIMITED: Final = 2**31


class _Driver(NamedTuple):
    """The parts of redis-py, and of this module, for threads or for event loops."""

    module: Any
    sentinels: Any
    check_role: Any
    connections: Mapping[Any, Any]  # by redis-py's connection class, ours

    def options(self, url: str, timeout_s: float) -> dict[str, Any]:
        """The arguments of a connection pool for the first host of a URL."""
        options: dict[str, Any] = self.module.connection.parse_url(url)
        kind = options.get("connection_class", self.module.Connection)
        if kind in self.connections:
            options["connection_class"] = self.connections[kind]
        return options | {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "retry": self.module.retry.Retry(redis.backoff.NoBackoff(), 0),
            "protocol": 2,
            "decode_responses": False,
            "max_connections": _UNLIMITED,  # by default 100: another thread gets an error, without waiting
        }


_THREADS: Final = _Driver(
    module=redis,
    sentinels=_ThreadSentinels,
    check_role=_check_role,
    connections={redis.Connection: _Tcp, redis.SSLConnection: _Tls},
)
_LOOPS: Final = _Driver(
    module=redis.asyncio,
    sentinels=_LoopSentinels,
    check_role=_acheck_role,
    connections={redis.asyncio.Connection: _AsyncTcp, redis.asyncio.SSLConnection: _AsyncTls},
)
