"""The configurations of docs/gateways.md in a real nginx and a real Caddy, unchanged."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from basicauth_mw import Backend, encode_basic, open_backend
from tests.waiting import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "gateways.md").read_text()
LIMIT_S = 20.0
# To CGI-like apps all of these are the same two headers.
SPOOFED = {
    name.replace(" ", first, 1).replace(" ", second, 1).replace(" ", "-"): value
    for name, value in {"X Auth Client Id": "root", "X Auth Scopes": "admin"}.items()
    for first in "-_"
    for second in "-_"
}

NGINX = """
daemon off;
pid nginx.pid;
error_log stderr info;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{server}
}}
"""


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return str(found)


@dataclass
class Gateway:
    """A proxy, the verification service that it calls, and the app behind it.

    Attributes:
        kind: ``nginx`` or ``caddy``.
        url: The address that it listens on.
        keys: The backend of the service.
        service: The service's process.
    """

    kind: str
    url: str
    keys: Backend
    service: subprocess.Popen[bytes]

    def get(self, path: str = "/", authorization: str | None = None, **fields: str) -> httpx.Response:
        return self.request("GET", path, authorization, **fields)

    def request(
        self, method: str, path: str, authorization: str | None, body: bytes | None = None, **fields: str
    ) -> httpx.Response:
        if authorization is not None:
            fields["Authorization"] = authorization
        with httpx.Client(base_url=self.url, trust_env=False, timeout=LIMIT_S) as client:
            return client.request(method, path, headers=fields, content=body)


@pytest.fixture(params=["nginx", "caddy"])
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    """Everything on free ports; every process is stopped by its own id."""
    kind: str = request.param
    program = shutil.which(kind) or shutil.which(kind, path="/usr/sbin:/sbin")
    assert program, f"{kind} is missing: apt-get install -y {kind}"
    url = f"sqlite:///{tmp_path}/keys.db"
    port, app_port, service_port = free_port(), free_port(), free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    environ = {
        **inherited,
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    uvicorn = [sys.executable, "-m", "uvicorn", "--log-level=warning"]

    def placed(configuration: str) -> str:
        return configuration.replace(":8000", f":{app_port}").replace(":9000", f":{service_port}")

    if kind == "nginx":
        server = placed(block("nginx")).replace("listen 80;", f"listen 127.0.0.1:{port};")
        (tmp_path / "nginx.conf").write_text(NGINX.format(server=server))
        command = [program, "-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr"]
    else:
        site = placed(block("caddyfile")).replace(":80 {", f"http://:{port} {{\n\tbind 127.0.0.1", 1)
        (tmp_path / "Caddyfile").write_text(f"{{\n\tadmin off\n\tauto_https off\n}}\n{site}")
        command = [program, "run", "--config", str(tmp_path / "Caddyfile"), "--adapter", "caddyfile"]

    with ExitStack() as stack:
        keys = stack.enter_context(open_backend(url, create=True))

        def start(words: list[str], listens: int, log: str, **settings: str) -> subprocess.Popen[bytes]:
            output = stack.enter_context((tmp_path / log).open("wb"))
            child = stack.enter_context(
                subprocess.Popen(words, cwd=ROOT, env={**environ, **settings}, stdout=output, stderr=output)
            )
            stack.callback(child.wait, LIMIT_S)
            stack.callback(child.terminate)
            wait_for(listens, child, tmp_path / log)
            return child

        start([*uvicorn, f"--port={app_port}", "tests.system.apps:app"], app_port, "app.log")
        service = start(
            [*uvicorn, f"--port={service_port}", "basicauth_mw.forward_auth:app"],
            service_port,
            "service.log",
            BASICAUTH_BACKEND=url,
            BASICAUTH_THROTTLE="3/minute",
        )
        start(command, port, "proxy.log")
        yield Gateway(kind, f"http://127.0.0.1:{port}", keys, service)


def wait_for(port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + LIMIT_S
    while True:
        assert child.poll() is None, log.read_text()
        assert time.monotonic() < ends, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return


def test_a_valid_key_is_accepted_and_named(gateway: Gateway) -> None:
    issued = gateway.keys.create(client_id="\u3042 %", scopes=["write", "read"])

    seen = gateway.request("POST", "/some/path?q=1", issued.authorization, b"a body").json()

    assert seen["fields"]["x-auth-client-id"] == "%E3%81%82%20%25"
    assert seen["fields"]["x-auth-scopes"] == "read write"
    assert "authorization" not in seen["fields"]
    assert (seen["method"], seen["body"]) == ("POST", "a body")


def test_a_request_without_a_key_is_refused(gateway: Gateway) -> None:
    for authorization in (None, encode_basic("unknown", "wrong"), "Bearer x"):
        refused = gateway.get(authorization=authorization)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == 'Basic realm="api", charset="UTF-8"'
        if gateway.kind == "caddy":
            assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.proves("X38", "X39")
def test_identity_headers_of_a_client_are_removed(gateway: Gateway) -> None:
    """With any spelling; also with a key without scopes, and on open paths."""
    issued = gateway.keys.create(client_id="bare")

    inside = gateway.get("/", issued.authorization, **SPOOFED).json()["fields"]
    opened = gateway.get("/health", **SPOOFED).json()["fields"]

    def claimed(fields: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in fields.items() if "auth" in name.lower() and value}

    assert claimed(inside) == {"x-auth-client-id": "bare"}
    assert claimed(opened) == {}
    assert "authorization" not in gateway.get("/health", issued.authorization).json()["fields"]


ODD = ["/health", "/admin/%2e%2e/health", "/admin/../health", "//health", "/%68ealth", "/HEALTH", "/health/"]


def test_only_one_path_is_open(gateway: Gateway) -> None:
    """Proxies resolve a path before they compare it: the app must get the path that was compared."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reached = {}
    with closing(HTTPConnection(host, int(port), timeout=LIMIT_S)) as connection:
        for path in ODD:
            connection.request("GET", path)  # unchanged, with dots
            response = connection.getresponse()
            content = response.read()
            reached[path] = None if response.status == 401 else json.loads(content)["path"]

    assert reached["/health"] == "/health"
    assert set(reached.values()) <= {"/health", None}


def test_a_client_can_only_lose_its_name(gateway: Gateway) -> None:
    """A proxy treats headers that ``Connection`` names as its own."""
    issued = gateway.keys.create(client_id="bare", scopes=["read"])
    fields = {"Connection": "keep-alive, X-Auth-Client-Id, X-Auth-Scopes", **SPOOFED}

    inside = gateway.get("/", issued.authorization, **fields).json()["fields"]

    assert inside.get("x-auth-client-id", "bare") == "bare"
    assert inside.get("x-auth-scopes", "read") == "read"
    assert not [name for name in inside if "_" in name]


def test_a_response_of_the_app_is_unchanged(gateway: Gateway) -> None:
    issued = gateway.keys.create()

    failed = gateway.get("/boom", issued.authorization)

    assert failed.status_code == 500
    assert failed.json()["method"] == "GET"


def test_failures_are_throttled_by_the_clients_address(gateway: Gateway) -> None:
    """The proxy provides it: a forged header does not change it."""
    issued = gateway.keys.create(client_id="ci")
    statuses = [
        gateway.get("/", encode_basic("ci", "wrong"), **{"X-Forwarded-For": f"192.0.2.{number}"}).status_code
        for number in range(5)
    ]
    blocked = gateway.get("/", issued.authorization)

    assert statuses == [401, 401, 401, 429, 429]
    assert blocked.status_code == 429
    assert int(blocked.headers["retry-after"]) >= 1


def test_without_the_service_every_request_is_refused(gateway: Gateway) -> None:
    issued = gateway.keys.create()
    assert gateway.get("/", issued.authorization).status_code == 200
    gateway.service.terminate()
    gateway.service.wait(LIMIT_S)

    assert gateway.get("/", issued.authorization).status_code in (502, 503)
    assert gateway.get("/health").status_code == 200


@pytest.mark.parametrize("gateway", ["caddy"], indirect=True)  # nginx needs more lines for any websocket
def test_a_websocket(gateway: Gateway) -> None:
    """The proxy sends the headers of the handshake."""
    issued = gateway.keys.create(client_id="ci")
    url = gateway.url.replace("http", "ws")
    fields = {"Authorization": issued.authorization}

    # Not asynchronous: the browser of other tests keeps an event loop in this thread.
    with connect(url, additional_headers=fields, proxy=None) as socket:
        assert socket.recv(LIMIT_S) == "ci"
    with pytest.raises(InvalidStatus) as refused:
        connect(url, proxy=None)
    assert refused.value.response.status_code == 401
