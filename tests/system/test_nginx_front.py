"""``examples/nginx_front.conf`` in a real nginx: TLS ends there, and the middleware is inside the app."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
import pytest
import trustme

from basicauth_mw import open_backend
from tests.gateways.gateway import KINDS, LIMIT_S, ROOT, stop
from tests.waiting import free_port, listens, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from basicauth_mw import Issued

CONFIGURATION = ROOT / "examples" / "nginx_front.conf"


@pytest.fixture
def front(tmp_path: Path) -> Iterator[tuple[httpx.Client, str, Issued]]:
    """A client that trusts nginx, the address that the app listens on, and a key."""
    nginx = KINDS["nginx"]
    port, app_port = free_port(), free_port()
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    trusts = ssl.create_default_context()
    authority.configure_trust(trusts)
    server = CONFIGURATION.read_text()
    for written, placed in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        (":8000", f":{app_port}"),
        ("/etc/ssl/api.example.pem", f"{tmp_path}/cert.pem"),
        ("/etc/ssl/api.example.key", f"{tmp_path}/key.pem"),
    ):
        assert written in server
        server = server.replace(written, placed)
    (tmp_path / "site.conf").write_text(server)
    nginx.write_main(tmp_path)
    url = f"sqlite:///{tmp_path}/keys.db"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    uvicorn = [
        *(sys.executable, "-m", "uvicorn", "examples.fastapi_app:app", f"--port={app_port}"),
        *("--proxy-headers", "--forwarded-allow-ips=127.0.0.1", "--log-level=warning"),
    ]
    with ExitStack() as stack:
        issued = stack.enter_context(open_backend(url, create=True)).create(client_id="ci")

        def start(words: list[str], where: Path, port: int, log: str, **settings: str) -> None:
            output = stack.enter_context((tmp_path / log).open("wb"))
            child = stack.enter_context(
                subprocess.Popen(words, cwd=where, env={**environ, **settings}, stdout=output, stderr=output)
            )
            stack.callback(stop, child)
            wait_until(lambda: listens(port) or child.poll() is not None)
            assert child.poll() is None, (tmp_path / log).read_text()

        start(
            uvicorn,
            ROOT,
            app_port,
            "app.log",
            BASICAUTH_BACKEND=url,
            BASICAUTH_REQUIRE_HTTPS="1",
            BASICAUTH_THROTTLE="3/minute",
        )
        start([nginx.program(), *nginx.options], tmp_path, port, "nginx.log")
        client = stack.enter_context(
            httpx.Client(
                base_url=f"https://127.0.0.1:{port}", verify=trusts, trust_env=False, timeout=LIMIT_S
            )
        )
        yield client, f"http://127.0.0.1:{app_port}", issued


def test_a_key_is_passed_on_and_https_is_known(front: tuple[httpx.Client, str, Issued]) -> None:
    client, app, issued = front
    right = (issued.client_id, issued.secret)
    text = {"text": "\u3042"}

    good = client.post("/echo", json=text, auth=right)
    assert (good.status_code, good.json()) == (200, {"client_id": "ci", **text})
    assert client.post("/echo", json=text).json()["code"] == "missing_credentials"
    assert client.post("/echo", json=text, auth=("ci", "wrong")).json()["code"] == "invalid_credentials"
    past = httpx.post(f"{app}/echo", json=text, auth=right, trust_env=False)
    assert (past.status_code, past.json()["code"]) == (403, "https_required")


def test_a_client_cannot_choose_its_address(front: tuple[httpx.Client, str, Issued]) -> None:
    client, _, _ = front
    statuses = [
        client.get("/", auth=("ci", "wrong"), headers={"X-Forwarded-For": f"192.0.2.{number}"}).status_code
        for number in range(4)
    ]
    assert statuses == [401, 401, 401, 429]


# A proxy and an app read these differently, and either may decode them.
NOT_OPEN = [
    *("/missing%3f/health", "/health%3f", "/health%3F/missing", "/missing%23/health", "/health%23"),
    *("/health%2f..%2fmissing", "/health/..%2fmissing", "/missing/..%2fhealth", "/missing/../health"),
    *("/%2fhealth", "//health", "/health%2f", "/health%2e", "/%2e/health", "/./health", "/health/."),
    *("/health;x", "/health%3bx", "/health%00", "/health%5c..%5cmissing", "/health%252f", "/%2568ealth"),
    *("/HEALTH", "/%48EALTH", "/health%20", "/health%0a", "/missing?/health", "http://health/missing"),
]


@pytest.mark.proves("X29", "X32")
def test_no_encoding_of_a_path_is_open(front: tuple[httpx.Client, str, Issued]) -> None:
    """nginx itself responds with 400."""
    client, _, issued = front

    def status_of(target: str, auth: tuple[str, str] | None = None) -> int:
        sent = client.build_request("GET", "/", extensions={"target": target.encode()})
        return client.send(sent, auth=auth).status_code

    assert status_of("/health") == status_of("/%68ealth") == 200
    assert status_of("/missing", (issued.client_id, issued.secret)) == 404
    for target in NOT_OPEN:
        assert status_of(target) in (400, 401), target
