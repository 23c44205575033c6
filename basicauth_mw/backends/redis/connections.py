"""How redis-py connects: by the URL, by Sentinels, and to each address of a host name in turn.

redis-py connects to the addresses of a name one after another, with the same time limit for each or with one
for all of them, so a dead first address uses up the time of a lookup. The connection classes below divide the
time among the addresses.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

from ...errors import ConfigurationError
from ...runtime.extras import require
from .cluster import Node
from .errors import MasterNotFoundError, exceptions

require("redis", extra="redis")

import redis.asyncio.sentinel  # noqa: E402
import redis.sentinel  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        driver: Any = redis.asyncio if on_loop else redis
        options = self._options(driver, timeout_s)
        if on_loop:
            options["socket_timeout"] = None  # the caller has one timer for all replies
        if node.address is not None:
            options["host"], options["port"] = node.address
        elif self._target.topology == "sentinel":
            return self._sentinel_pool(driver, options)
        return driver.ConnectionPool(**options)

    def _options(self, driver: Any, timeout_s: float) -> dict[str, Any]:
        """The arguments of a pool for the first host of the URL."""
        options: dict[str, Any] = driver.connection.parse_url(self._target.url)
        kind = options.get("connection_class", driver.Connection)
        return options | {
            "connection_class": _CONNECTIONS.get(kind, kind),
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "protocol": 2,
            "max_connections": 2**31,  # by default 100: another thread gets an error, without waiting
        }

    def _sentinel_pool(self, driver: Any, options: dict[str, Any]) -> Any:
        target = self._target
        # Each sentinel has a share of the time, so that there is some left for the master.
        shared = self._options(redis, options["socket_connect_timeout"] / (len(target.addresses) + 1))
        for name in ("db", "username", "password", "client_name"):  # those of the master
            shared.pop(name, None)
        pools = [
            redis.ConnectionPool(**{**shared, **target.sentinel_login, "host": host, "port": port})
            for host, port in target.addresses
        ]
        del options["host"], options["port"]
        on_loop = driver is redis.asyncio
        return driver.sentinel.SentinelConnectionPool(
            target.service,
            _LoopSentinels(pools) if on_loop else _Sentinels(pools),
            ssl=issubclass(options.pop("connection_class"), driver.SSLConnection),
            redis_connect_func=_acheck_role if on_loop else _check_role,
            **options,
        )


# --- Sentinel

# redis-py sends SENTINEL MASTERS, which requires more rights and reports the old master until a failover has
# ended.
_WHO_IS_MASTER: Final = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")


class _Sentinels:
    """A connection pool for each sentinel, beginning with the one that responded last."""

    def __init__(self, pools: Sequence[Any]) -> None:
        self._pools = pools

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
                # A new list: other threads may be iterating over the old one.
                self._pools = sorted(self._pools, key=lambda each: each is not pool)
                return found[0].decode(), int(found[1])
        raise MasterNotFoundError


class _LoopSentinels(_Sentinels):
    async def discover_master(self, service: str) -> Address:  # type: ignore[override]
        return await asyncio.to_thread(super().discover_master, service)


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
            for self.host, self.port in addresses:
                self.socket_connect_timeout = limit_s / len(addresses)
                try:
                    connected: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
                except OSError as exc:
                    reason = exc
                else:
                    _last_good[name] = (self.host, self.port)
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


# By redis-py's class for the scheme of the URL. A Unix socket needs none of ours.
_CONNECTIONS: Final[dict[Any, Any]] = {
    redis.Connection: _Tcp,
    redis.SSLConnection: _Tls,
    redis.asyncio.Connection: _AsyncTcp,
    redis.asyncio.SSLConnection: _AsyncTls,
}
