"""Connecting to Redis: error messages, and host names with several addresses."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import redis
import trustme

from basicauth_mw import Settings, open_backend
from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.errors import BackendUnavailable, ConfigurationError
from tests.redis_server import RedisServer, TlsFront, find_port, make_certificates
from tests.tracebacks import variables_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE_S = 0.6
SLACK_S = 0.5


def on_thread(store: RedisStore) -> Any:
    return store.get("id")


def on_loop(store: RedisStore) -> Any:
    async def main() -> Any:
        try:
            return await store.aget("id")
        finally:
            await store.aclose()

    return asyncio.run(asyncio.wait_for(main(), 20))


# --- error messages


@contextmanager
def tls_only(directory: Path) -> Iterator[int]:
    """A server that requires TLS; yields its port."""
    context, _ = make_certificates(directory)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        context.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def front(server: RedisServer, stack: ExitStack, context: ssl.SSLContext) -> int:
    return stack.enter_context(TlsFront(server.port, context)).port


def unknown_ca(server: RedisServer, stack: ExitStack, path: Path) -> str:
    return f"rediss://:canary@127.0.0.1:{front(server, stack, make_certificates(path)[0])}"


def another_name(server: RedisServer, stack: ExitStack, path: Path) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("redis.example").configure_cert(context)
    authority.cert_pem.write_to_path(str(path / "ca.pem"))
    return f"rediss://127.0.0.1:{front(server, stack, context)}?ssl_ca_certs={path / 'ca.pem'}"


def plain_server(server: RedisServer, _stack: ExitStack, _path: Path) -> str:
    return f"rediss://:canary@127.0.0.1:{server.port}"


def tls_server(_server: RedisServer, stack: ExitStack, path: Path) -> str:
    return f"redis://:canary@127.0.0.1:{stack.enter_context(tls_only(path))}"


def wrong_password(server: RedisServer, _stack: ExitStack, _path: Path) -> str:
    return f"redis://unknown:canary@127.0.0.1:{server.port}"


def nothing_there(_server: RedisServer, _stack: ExitStack, _path: Path) -> str:
    return f"redis://:canary@127.0.0.1:{find_port()}"


def silent(_server: RedisServer, stack: ExitStack, _path: Path) -> str:
    return f"redis://127.0.0.1:{stack.enter_context(socket.create_server(('127.0.0.1', 0))).getsockname()[1]}"


def no_such_name(_server: RedisServer, _stack: ExitStack, _path: Path) -> str:
    return "redis://:canary@no-such-host.invalid:6379"


CAUSES: dict[str, tuple[Callable[[RedisServer, ExitStack, Path], str], str]] = {
    "unknown CA": (unknown_ca, "CA .* unknown.*ssl_ca_certs"),
    "another name": (another_name, "certificate is for another host name"),
    "plain server": (plain_server, "TLS handshake failed: does this port speak TLS"),
    "TLS server": (tls_server, "if the port expects TLS, use a scheme that begins with rediss"),
    "wrong password": (wrong_password, "refused the user or the password"),
    "nothing there": (nothing_there, "connection was refused"),
    "silent": (silent, "did not respond in time"),
    "no such name": (no_such_name, "host name cannot be resolved"),
}


@pytest.mark.parametrize("look_up", [on_thread, on_loop])
@pytest.mark.parametrize("cause", CAUSES)
def test_an_error_names_the_cause_the_host_and_the_port(
    own_redis_server: RedisServer, tmp_path: Path, cause: str, look_up: Callable[[RedisStore], Any]
) -> None:
    make_url, says = CAUSES[cause]
    with ExitStack() as stack:
        url = make_url(own_redis_server, stack, tmp_path)
        store = stack.enter_context(closing(RedisStore(url, deadline_s=DEADLINE_S)))
        with pytest.raises(BackendUnavailable, match=says) as caught:
            look_up(store)
    where = url.partition("//")[2].rpartition("@")[2].partition("?")[0]
    assert f"Redis at {where} " in str(caught.value)
    assert "canary" not in f"{caught.value!r}"
    assert "canary" not in variables_of(caught.value, but=__file__)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("scheme", "says"), [("redis", "did not respond in time"), ("rediss", "TLS handshake")]
)
def test_a_thread_learns_the_cause_before_its_deadline(scheme: str, says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with (
            open_backend(url, settings=Settings(backend_deadline_s=3)) as backend,
            pytest.raises(BackendUnavailable, match=says),
        ):
            backend.get("ci")


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
def test_a_missing_tls_file_is_reported_when_the_store_opens(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} .*No such file"):
        RedisStore(f"rediss://127.0.0.1/?{option}={tmp_path / 'missing.pem'}")


# --- several addresses for one host name


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that accepts no connection: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ports that the name ``keys.test`` resolves to, each at its own address."""
    ports: list[int] = []
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *more: Any, **options: Any) -> Any:
        if host != "keys.test":
            return resolve(host, port, *more, **options)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))
            for port in ports
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return ports


@pytest.mark.parametrize("look_up", [on_thread, on_loop])
def test_a_dead_address_delays_only_the_first_connection(
    own_redis_server: RedisServer, addresses: list[int], look_up: Callable[[RedisStore], Any]
) -> None:
    with black_hole() as dead, closing(RedisStore("redis://keys.test:7", deadline_s=DEADLINE_S)) as store:
        addresses += [dead, own_redis_server.port]
        assert look_up(store) is None
        store.close()
        start = time.monotonic()
        assert look_up(store) is None  # first at the address that responded
        assert time.monotonic() - start < DEADLINE_S / 4


@pytest.mark.parametrize("look_up", [on_thread, on_loop])
def test_another_address_is_found_when_the_known_one_dies(
    own_redis_server: RedisServer, addresses: list[int], look_up: Callable[[RedisStore], Any]
) -> None:
    with (
        RedisServer() as other,
        closing(RedisStore("redis://keys.test:8", deadline_s=DEADLINE_S)) as store,
    ):
        addresses += [other.port, own_redis_server.port]
        assert look_up(store) is None
        other.stop()
        assert look_up(store) is None
        own_redis_server.stop()
        with pytest.raises(BackendUnavailable, match=r"keys\.test:8 cannot be reached: the connection was"):
            look_up(store)
        other.start()
        assert look_up(store) is None


@pytest.mark.parametrize("look_up", [on_thread, on_loop])
def test_all_addresses_are_dead(addresses: list[int], look_up: Callable[[RedisStore], Any]) -> None:
    with (
        black_hole() as one,
        black_hole() as two,
        closing(RedisStore("redis://keys.test:9", deadline_s=DEADLINE_S)) as store,
    ):
        addresses += [one, two]
        start = time.monotonic()
        with pytest.raises(BackendUnavailable, match="in time"):
            look_up(store)
        assert time.monotonic() - start < DEADLINE_S + SLACK_S


def test_a_slow_name_server_does_not_block_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: reply.wait(20) and [])
    with closing(RedisStore("redis://keys.test:11", deadline_s=DEADLINE_S)) as store:

        async def main() -> None:
            start = time.monotonic()
            with pytest.raises(BackendUnavailable, match="in time"):
                await store.aget("id")
            assert time.monotonic() - start < DEADLINE_S + SLACK_S
            reply.set()  # otherwise the loop waits for its thread
            await store.aclose()

        asyncio.run(main())


def test_tls_to_a_name_with_a_dead_address(
    own_redis_server: RedisServer, addresses: list[int], tmp_path: Path
) -> None:
    """The certificate is checked against the name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("keys.test").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with black_hole() as dead, TlsFront(own_redis_server.port, context) as server:
        addresses += [dead, server.port]
        url = f"rediss://keys.test:10?ssl_ca_certs={tmp_path / 'ca.pem'}"
        with closing(RedisStore(url, deadline_s=2)) as store:
            assert on_thread(store) is None
            assert on_loop(store) is None
        assert server.in_clear == 0


def test_the_server_of_these_tests_runs(own_redis_server: RedisServer) -> None:
    """The other tests of this file would also pass if the server did not run."""
    with redis.Redis(port=own_redis_server.port) as admin:
        assert admin.ping()
