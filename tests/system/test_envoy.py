"""``basicauth_mw.forward_auth`` behind a real Envoy's ``ext_authz``, with and without ``path_prefix``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from basicauth_mw import encode_basic, open_backend
from tests.system.test_gateways import LIMIT_S, ROOT, SPOOFED, wait_for
from tests.waiting import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from basicauth_mw import Issued

EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"


def cluster(name: str, port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }


def listener(port: int, path_prefix: str, service_port: int) -> dict[str, Any]:
    service: dict[str, Any] = {
        "server_uri": {"uri": f"http://127.0.0.1:{service_port}", "cluster": "service", "timeout": "5s"},
        "authorization_response": {
            "allowed_upstream_headers": {
                "patterns": [{"exact": "x-auth-client-id"}, {"exact": "x-auth-scopes"}]
            }
        },
    }
    if path_prefix:
        service["path_prefix"] = path_prefix
    manager = {
        "@type": f"{EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "common_http_protocol_options": {"headers_with_underscores_action": "DROP_HEADER"},
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "app",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}],
                    "request_headers_to_remove": ["authorization"],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.ext_authz",
                "typed_config": {
                    "@type": f"{EXTENSIONS}.http.ext_authz.v3.ExtAuthz",
                    "http_service": service,
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{EXTENSIONS}.http.router.v3.Router"},
            },
        ],
    }
    return {
        "name": f"listener{port}",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Issued]]:
    """URLs of one Envoy with ``path_prefix: /check`` and without it, and a key.

    A key ``bare:secret`` has no scopes.
    """
    place = tmp_path_factory.mktemp("envoy")
    url = f"sqlite:///{place}/keys.db"
    with_prefix, without, app_port, service_port = (free_port() for _ in range(4))
    configuration = {
        "static_resources": {
            "listeners": [
                listener(with_prefix, "/check", service_port),
                listener(without, "", service_port),
            ],
            "clusters": [cluster("app", app_port), cluster("service", service_port)],
        }
    }
    (place / "envoy.json").write_text(json.dumps(configuration))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    uvicorn = [sys.executable, "-m", "uvicorn", "--log-level=warning"]
    program = str(Path(sysconfig.get_path("scripts")) / "envoy")
    quiet = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    with ExitStack() as stack:
        keys = stack.enter_context(open_backend(url, create=True))
        for words, port, settings in [
            ([*uvicorn, f"--port={app_port}", "tests.system.apps:app"], app_port, {}),
            (
                [*uvicorn, f"--port={service_port}", "basicauth_mw.forward_auth:app"],
                service_port,
                {"BASICAUTH_BACKEND": url, "BASICAUTH_THROTTLE": ""},
            ),
            ([program, "-c", str(place / "envoy.json"), *quiet], without, {}),
        ]:
            log = place / f"{port}.log"
            output = stack.enter_context(log.open("wb"))
            child = stack.enter_context(
                subprocess.Popen(words, cwd=ROOT, env={**environ, **settings}, stdout=output, stderr=output)
            )
            stack.callback(child.wait, LIMIT_S)
            stack.callback(child.terminate)
            wait_for(port, child, log)
        issued = keys.create(client_id="ci", scopes=["read"])
        keys.create(client_id="bare", secret="secret")
        yield f"http://127.0.0.1:{with_prefix}", f"http://127.0.0.1:{without}", issued


def get(url: str, authorization: str | None = None, **fields: str) -> httpx.Response:
    if authorization is not None:
        fields["Authorization"] = authorization
    return httpx.get(url, headers=fields, trust_env=False, timeout=LIMIT_S)


@pytest.mark.parametrize("path", ["/", "/some/path?q=1", "/health", "/ready", "/check"])
def test_a_valid_key_reaches_the_app(envoy: tuple[str, str, Issued], path: str) -> None:
    url, _, issued = envoy
    seen = get(url + path, issued.authorization, **SPOOFED)

    assert seen.status_code == 200
    assert seen.json()["path"] == path.partition("?")[0]
    fields = seen.json()["fields"]
    assert (fields["x-auth-client-id"], fields["x-auth-scopes"]) == ("ci", "read")
    assert "authorization" not in fields
    assert not [name for name in fields if "_" in name]


def test_a_key_without_scopes_is_given_none(envoy: tuple[str, str, Issued]) -> None:
    seen = get(envoy[0] + "/", encode_basic("bare", "secret"), **SPOOFED).json()["fields"]

    assert seen["x-auth-client-id"] == "bare"
    assert not seen.get("x-auth-scopes")


@pytest.mark.parametrize("path", ["/", "/some/path", "/health", "/ready", "//health", "/x/../health"])
@pytest.mark.parametrize("authorization", [None, encode_basic("unknown", "wrong")])
def test_any_other_request_gets_a_401(
    envoy: tuple[str, str, Issued], path: str, authorization: str | None
) -> None:
    refused = get(envoy[0] + path, authorization)

    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == 'Basic realm="api", charset="UTF-8"'


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 401),
        ("/health", 204),
        ("/ready", 204),
        ("/health?q=1", 204),
        ("/health/", 404),
        ("/some/path", 404),
    ],
)
def test_without_a_path_prefix_no_probe_opens_the_app(
    envoy: tuple[str, str, Issued], path: str, status: int
) -> None:
    """Envoy then sends the app's own path, and the service's probes have the same names."""
    refused = get(envoy[1] + path)

    assert refused.status_code == status
    assert "fields" not in refused.text
