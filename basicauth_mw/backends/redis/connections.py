"""How redis-py connects: by the URL, by Sentinels, and to each address of a host name in turn."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from ...errors import ConfigurationError
from ...runtime.extras import require
from .errors import MasterNotFoundError, exceptions
from .router import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .url import Target

_redis = require("redis", extra="redis")
_aredis = require("redis.asyncio", extra="redis")
_sentinel = require("redis.sentinel", extra="redis")
_asentinel = require("redis.asyncio.sentinel", extra="redis")
_backoff = require("redis.backoff", extra="redis")
_retry = require("redis.retry", extra="redis")
_aretry = require("redis.asyncio.retry", extra="redis")

# A connection that a firewall has forgotten is noticed after 45 s without traffic, not after hours.
_KEEPALIVE: Final = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}


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
            any_server = Node() if target.socket_path else Node(target.addresses[0])
            self.client(any_server, timeout_s=1, retry_on=()).connection_pool.make_connection()
            _redis.Connection(**target.sentinel_login)
        except Exception as exc:  # its text may hold a part of the URL
            raise ConfigurationError(
                f"redis-py cannot use the options of the Redis URL ({type(exc).__name__})"
            ) from None
        _check_tls_files(options)

    def server(self, node: Node) -> str:
        """What to call a node in an error."""
        target = self._target
        if node.address is None and target.form != "node":
            kind = "Sentinels" if target.form == "sentinel" else "Cluster at"
            return f"the Redis {kind} {', '.join(f'{host}:{port}' for host, port in target.addresses)}"
        host, port = node.address or target.addresses[0]
        return (
            f"Redis at {host}:{port}" if host else "Redis at its Unix socket"
        )  # whose path may hold a password

    def client(
        self, node: Node, *, timeout_s: float, retry_on: Sequence[type[Exception]], on_loop: bool = False
    ) -> Any:
        """A client with replies as they were sent.

        Args:
            node: The server.
            timeout_s: For each attempt to connect, and for each reply.
            retry_on: The errors after which commands are sent once more.
            on_loop: For the running event loop, not for threads.
        """
        driver = _LOOPS if on_loop else _THREADS
        options = {
            **driver.module.connection.parse_url(self._target.url),
            **driver.waits(timeout_s, retry_on),
        }
        if node.address is not None:
            options["host"], options["port"] = node.address
        if "path" not in options:
            options |= {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
        kind = options.pop("connection_class", driver.module.Connection)
        if node.address is None and self._target.form == "sentinel":
            del options["host"], options["port"]
            tls = {"ssl": kind is not driver.module.Connection}
            sentinels = driver.sentinels(
                self._target.addresses,
                sentinel_kwargs=self._sentinel_options(driver, {**options, **tls}, timeout_s),
                redis_connect_func=driver.check_role,
                **options,
                **tls,
            )
            made = sentinels.master_for(self._target.service)
        else:
            kind = driver.connections.get(kind, kind)
            pool = driver.module.ConnectionPool(connection_class=kind, **options)
            made = driver.module.Redis(connection_pool=pool)
        made.response_callbacks.clear()
        return made

    def _sentinel_options(
        self, driver: _Driver, options: Mapping[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        # Each sentinel has a share of the time, so that there is some left for the master.
        waits = driver.waits(timeout_s / (len(self._target.addresses) + 1), ())
        tls = {name: value for name, value in options.items() if name.startswith("ssl")}
        return {**waits, **tls, **self._target.sentinel_login}


class _Driver(NamedTuple):
    """What of redis-py is for threads, or for event loops.

    Attributes:
        module: ``redis`` or ``redis.asyncio``.
        retry: Its class of that name.
        sentinels: Finds the master.
        check_role: Sees to it that a new connection is to a master.
        connections: By redis-py's class of connection, ours.
    """

    module: Any
    retry: Any
    sentinels: Any
    check_role: Any
    connections: Mapping[Any, Any]

    def waits(self, timeout_s: float, retry_on: Sequence[type[Exception]]) -> dict[str, Any]:
        """The options that say how long to wait, and how often."""
        return {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "retry": self.retry(_backoff.NoBackoff(), min(1, len(retry_on)), tuple(retry_on)),
            "retry_on_error": list(retry_on),
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


def sentinels_of(pool: Any) -> Sequence[Any]:
    """The clients by which a pool asks sentinels for the master; none, if it does not."""
    manager = getattr(pool, "sentinel_manager", None)
    return () if manager is None else cast("Sequence[Any]", manager.sentinels)


# redis-py sends SENTINEL MASTERS, which requires more rights and reports the old master until a failover has
# ended.
_WHO_IS_MASTER: Final = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")


class _Sentinels(_sentinel.Sentinel):  # type: ignore[misc,name-defined]
    """Asks the sentinels in turn, beginning with the one that answered last."""

    sentinels: list[Any]

    def discover_master(self, service_name: str) -> tuple[str, int]:
        for sentinel in list(self.sentinels):
            with suppress(exceptions.RedisError):
                if (found := sentinel.execute_command(*_WHO_IS_MASTER, service_name)) is not None:
                    # A new list: other threads may be iterating over the old one.
                    self.sentinels = sorted(self.sentinels, key=lambda each: each is not sentinel)
                    return found[0].decode(), int(found[1])
        raise MasterNotFoundError


class _AsyncSentinels(_asentinel.Sentinel):  # type: ignore[misc,name-defined]
    """``_Sentinels`` for an event loop."""

    sentinels: list[Any]

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        for sentinel in list(self.sentinels):
            with suppress(exceptions.RedisError):
                if (found := await sentinel.execute_command(*_WHO_IS_MASTER, service_name)) is not None:
                    # A new list: other threads may be iterating over the old one.
                    self.sentinels = sorted(self.sentinels, key=lambda each: each is not sentinel)
                    return found[0].decode(), int(found[1])
        raise MasterNotFoundError


def _check_role(connection: Any) -> None:
    """Refuse a server that is no longer the master: its keys may be outdated."""
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
    """Divides the time to connect among the addresses of the host name: a dead one costs its share."""

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
        async with asyncio.timeout(self.socket_connect_timeout):
            resolved = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        found = _in_order(self, resolved)
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
            try:
                async with asyncio.timeout(self.socket_connect_timeout):
                    self._reader, self._writer = await asyncio.open_connection(sock=made, **tls)
            except TimeoutError:  # as the ``ssl`` module calls it
                raise TimeoutError("the TLS handshake timed out") from None
            return
        raise reason


class _AsyncTls(_aredis.SSLConnection, _AsyncTcp):  # type: ignore[misc,name-defined]
    """``_AsyncTcp`` below redis-py's TLS."""


_THREADS: Final = _Driver(
    module=_redis,
    retry=_retry.Retry,
    sentinels=_Sentinels,
    check_role=_check_role,
    connections={_redis.Connection: _Tcp, _redis.SSLConnection: _Tls},
)
_LOOPS: Final = _Driver(
    module=_aredis,
    retry=_aretry.Retry,
    sentinels=_AsyncSentinels,
    check_role=_acheck_role,
    connections={_aredis.Connection: _AsyncTcp, _aredis.SSLConnection: _AsyncTls},
)
