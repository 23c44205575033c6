"""One table of requests for every gateway, each with its file in ``examples/gateways/``, unchanged.

``tests/system/test_nginx.py`` runs the same class with nginx.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from itertools import product
from secrets import token_hex
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from basicauth_mw import encode_basic
from tests.gateways.gateway import CHALLENGES, KINDS, ME, Gateway, run
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

    from basicauth_mw import Issued

PUBLIC = "/status"
CREDENTIALS = ("authorization", "x-api-key")

# To CGI-like apps these are the same two headers: they read all characters but letters and digits as "_".
# HAProxy allows 100 headers.
NAMES = {"X{}Auth{}Client{}Id": "root", "X{}Auth{}Scopes": "admin"}
SPOOFED = [
    (name, value)
    for words, value in NAMES.items()
    for name in (
        *(words.replace("{}", "-"), words.replace("{}", "-")),  # repeated
        *(words.replace("{}", "-").lower(), words.replace("{}", "_").upper()),
        *(words.format(*separators) for separators in product("-_.", repeat=words.count("{}"))),
        *(words.replace("{}", separator) for separator in "!#$%&'*+^`|~"),
    )
]

# Everything that the service responds to, its probes first, and other spellings of them.
SERVICE_PATHS = [
    *("/health", "/ready", "/health?q=1", "/ready?q=1", "/", "/check", "/check/", "/check/health"),
    *("/health/", "/ready/", "//health", "//ready", "/./ready", "/x/../health", "/x/%2e%2e/ready"),
    *("/%68ealth", "/HEALTH", "/check/../health", "/check/%2e%2e/ready", "/check%2f..%2fhealth"),
    *(
        "/../health",
        "/../../ready",
        "/..%2fhealth",
        "/%2e%2e/ready",
        "/..;/health",
        "/health;x",
        "/health%00",
    ),
]
# Other spellings of the public path, and paths that end or begin with it.
ODD_PATHS = [
    *("/status/", "/STATUS", "//status", "/%2fstatus", "/status%2f", "/status/x", "/statusx", "/x/status"),
    *("/admin/../status", "/admin/%2e%2e/status", "/admin/..%2fstatus", "/status/../admin"),
    *("/status/%2e%2e/admin", "/status%2f..%2fadmin", "/status;x", "/status%3bx", "/status%3f", "/status%23"),
    *("/status%00", "/status%20", "/status%5c..%5cadmin", "/status%252f", "/%2573tatus", "/%73tatus"),
    *("/admin?/status", "/admin?x=/../status", "/status?x=/admin", "/status/.", "/./status"),
    *("http://127.0.0.1/status/x", "http://127.0.0.1/admin/../status", "http://status/admin"),
]


def headers_of(response: httpx.Response) -> dict[str, list[str]]:
    """The headers that reached the app, in lower case."""
    seen: dict[str, list[str]] = {}
    for name, value in response.json()["headers"]:
        seen.setdefault(name.lower(), []).append(value)
    return seen


def claims_identity(name: str) -> bool:
    return re.sub("[^a-z0-9]", "-", name.lower()).startswith("x-auth")


def wrong() -> str:
    """Credentials of an unknown ID, each time another, so that they are not throttled."""
    return encode_basic(token_hex(8), "wrong")


def reached(response: httpx.Response) -> bool:
    return "x-app" in response.headers


@pytest.fixture
def issued(gateway: Gateway) -> Issued:
    """A key with two scopes."""
    return gateway.keys.create(scopes=["write", "read"])


class TestGateway:
    @pytest.mark.parametrize("scheme", ["basic", "bearer", "header:x-api-key"])
    def test_a_valid_key_reaches_the_app_with_its_identity(self, gateway: Gateway, scheme: str) -> None:
        """The app gets the ID and the scopes, and no credentials."""
        issued = gateway.keys.create(client_id=f"\u3042 % {scheme[:6]}", scopes=["write", "read"])
        sent = {
            "basic": ("Authorization", issued.authorization),
            "bearer": ("Authorization", f"Bearer {issued.token}"),
            "header:x-api-key": ("x-ApI-kEy", issued.token),
        }[scheme]

        seen = gateway.send("/some/path?q=1&r=%2F", [sent])

        assert seen.status_code == 200, seen.text
        assert (seen.json()["target"], seen.json()["query"]) == ("/some/path", "q=1&r=%2F")
        headers = headers_of(seen)
        assert headers["x-auth-client-id"] == [f"%E3%81%82%20%25%20{scheme[:6]}"]
        assert headers["x-auth-scopes"] == ["read write"]
        assert not [name for name in CREDENTIALS if name in headers]

    @pytest.mark.parametrize(
        ("headers", "code"),
        [
            pytest.param([], "missing_credentials", id="none"),
            pytest.param([("Authorization", "{wrong}")], "invalid_credentials", id="wrong"),
            pytest.param([("Authorization", "Basic bm8")], "invalid_credentials", id="malformed"),
            pytest.param([("Authorization", "Digest x")], "invalid_credentials", id="other scheme"),
            pytest.param([("Authorization", "Bearer x")], "invalid_credentials", id="bearer"),
            pytest.param([("X-API-Key", "x")], "invalid_credentials", id="header"),
            pytest.param([("X_API_Key", "{token}")], "missing_credentials", id="underscores"),
            pytest.param([("X-Auth-Client-Id", "root")], "missing_credentials", id="only an identity"),
            pytest.param(
                [("Authorization", "{good}"), ("Authorization", "{wrong}")], "", id="good and wrong"
            ),
            pytest.param(
                [("Authorization", "{wrong}"), ("Authorization", "{good}")], "", id="wrong and good"
            ),
            pytest.param([("Authorization", "{good}")] * 2, "", id="repeated"),
            pytest.param([("X-API-Key", "{token}"), ("X-API-Key", "x")], "", id="repeated header"),
            pytest.param([("X-API-Key", "{token}"), ("Authorization", "{wrong}")], "", id="two schemes"),
        ],
    )
    def test_any_other_request_gets_a_401(
        self, gateway: Gateway, issued: Issued, headers: list[tuple[str, str]], code: str
    ) -> None:
        """With the challenges of the service, and its body if the gateway can pass it on."""
        values = {"good": issued.authorization, "token": issued.token, "wrong": wrong()}
        refused = gateway.send("/", [(name, value.format(**values)) for name, value in headers])

        assert not reached(refused)
        if not code and refused.status_code == 400:
            return  # the gateway itself refuses a header that is repeated
        assert refused.status_code == 401
        challenges = refused.headers.get_list("WWW-Authenticate")
        if gateway.kind.passes_body:
            assert challenges == CHALLENGES
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json()["code"] == (code or "invalid_credentials")
            assert refused.json()["request_id"] == refused.headers["x-request-id"]
        else:  # nginx before 1.23 passes on one challenge
            assert challenges
            assert challenges == CHALLENGES[: len(challenges)]

    @pytest.mark.proves("X36", "X37")
    @pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "DELETE", "TRACE", "PROPFIND", "get"])
    def test_every_method_needs_a_key(self, gateway: Gateway, method: str) -> None:
        preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
        refused = gateway.send("/", method=method, **preflight)

        assert not reached(refused)
        assert refused.status_code in (400, 401, 405, 501)  # a gateway may not accept every method

    @pytest.mark.parametrize("target", SERVICE_PATHS)
    def test_no_path_of_the_service_opens_the_app(
        self, gateway: Gateway, issued: Issued, target: str
    ) -> None:
        """The service's probes need no key, but the app's own paths with the same names do."""
        for headers in ([], [("Authorization", wrong())]):
            refused = gateway.send(target, headers)
            assert not reached(refused)
            assert refused.status_code in (400, 401)

        allowed = gateway.send(target, Authorization=issued.authorization)
        if reached(allowed):
            assert headers_of(allowed)["x-auth-client-id"] == [issued.client_id]
        else:
            assert allowed.status_code == 400

    @pytest.mark.proves("X29", "X30", "X31", "X32")
    @pytest.mark.parametrize("target", [PUBLIC, *ODD_PATHS])
    def test_only_one_path_is_public(self, gateway: Gateway, target: str) -> None:
        """Gateways normalize a path before they compare it: the app must get the path that was compared."""
        seen = gateway.send(target)

        if reached(seen):
            assert seen.json()["target"] == PUBLIC
        else:
            assert target != PUBLIC
            assert seen.status_code in (400, 401)

    @pytest.mark.proves("X38", "X39")
    @pytest.mark.parametrize("scopes", [[], ["read"]])
    def test_the_identity_never_comes_from_the_client(self, gateway: Gateway, scopes: list[str]) -> None:
        """In any spelling, with and without scopes, and on public paths."""
        issued = gateway.keys.create(scopes=scopes)

        inside = headers_of(gateway.send("/", SPOOFED, Authorization=issued.authorization))
        public = headers_of(gateway.send(PUBLIC, SPOOFED, Authorization=issued.authorization))

        def claimed(headers: dict[str, list[str]]) -> dict[str, list[str]]:
            return {name: values for name, values in headers.items() if claims_identity(name) and any(values)}

        expected = {"x-auth-client-id": [issued.client_id], "x-auth-scopes": scopes}
        assert claimed(inside) == {name: values for name, values in expected.items() if values}
        assert claimed(public) == {}
        assert not [name for name in CREDENTIALS if name in public]

    @pytest.mark.proves("X40")
    def test_a_client_can_only_lose_its_identity(self, gateway: Gateway, issued: Issued) -> None:
        """A gateway may treat the headers that ``Connection`` names as its own."""
        names = "X-Auth-Client-Id, X-Auth-Scopes, Authorization"
        for connection in (f"keep-alive, {names}", f"close, {names}"):
            sent = [("Connection", connection), *SPOOFED]
            inside = gateway.send("/", sent, Authorization=issued.authorization)
            if reached(inside):
                headers = headers_of(inside)
                assert headers.get("x-auth-client-id", [issued.client_id]) == [issued.client_id]
                assert headers.get("x-auth-scopes", ["read write"]) == ["read write"]
                assert not [name for name in headers if name in CREDENTIALS]
                assert {name for name in headers if claims_identity(name)} <= {
                    "x-auth-client-id",
                    "x-auth-scopes",
                }
            else:
                assert inside.status_code == 401
            assert not reached(gateway.send("/", sent))

    @pytest.mark.parametrize("has_length", [True, False])
    def test_a_large_body_reaches_the_app_whole(
        self, gateway: Gateway, issued: Issued, has_length: bool
    ) -> None:
        body = os.urandom(8 * 2**20)
        sent = body if has_length else (body[at : at + 100_000] for at in range(0, len(body), 100_000))

        seen = gateway.send("/", method="POST", body=sent, Authorization=issued.authorization).json()

        assert (seen["method"], seen["size"]) == ("POST", len(body))
        assert seen["sha256"] == hashlib.sha256(body).hexdigest()

    def test_a_refused_body_is_no_second_request(self, gateway: Gateway) -> None:
        """After a refusal, the connection ends, or its next request is read from the right byte on."""
        inner = f"GET {PUBLIC}?smuggled HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        with gateway.connection() as connection:
            for target, status in (("/", 401), (PUBLIC, 200)):
                connection.request("POST", target, inner * 100)
                response = connection.getresponse()
                content = response.read()
                assert response.status == status
        assert json.loads(content)["query"] == ""
        assert json.loads(content)["size"] == len(inner) * 100

    def test_a_response_of_the_app_is_unchanged(self, gateway: Gateway, issued: Issued) -> None:
        failed = gateway.send("/boom", Authorization=issued.authorization)

        assert (failed.status_code, failed.json()["method"]) == (500, "GET")

    def test_failures_are_throttled_by_the_clients_address(self, gateway: Gateway, issued: Issued) -> None:
        """The gateway provides the address: no header of the client changes it."""
        guess = encode_basic(issued.client_id, "wrong")
        here, elsewhere = "127.0.0.3", "127.0.0.4"
        statuses = []
        for number in range(5):
            forged = f"192.0.2.{number}"
            headers = [("X-Forwarded-For", forged), ("X-Real-IP", forged), ("Forwarded", f"for={forged}")]
            statuses.append(gateway.send("/", headers, address=here, Authorization=guess).status_code)
        blocked = gateway.send("/", address=here, Authorization=issued.authorization)

        assert statuses == [401, 401, 401, 429, 429]
        assert (blocked.status_code, reached(blocked)) == (429, False)
        assert int(blocked.headers["retry-after"]) >= 1
        if gateway.kind.passes_body:
            assert blocked.json()["code"] == "throttled"
        assert gateway.send("/", address=elsewhere, Authorization=issued.authorization).status_code == 200

    @pytest.mark.proves("H13")
    def test_a_store_that_is_down_is_a_503(self, gateway: Gateway, issued: Issued) -> None:
        gateway.redis.stop()
        try:
            refused = gateway.send("/", Authorization=issued.authorization)
            public = gateway.send(PUBLIC)
        finally:
            gateway.redis.start()
            wait_until(gateway.is_ready)

        assert (refused.status_code, reached(refused)) == (503, False)
        assert "www-authenticate" not in refused.headers
        if gateway.kind.passes_503:
            assert int(refused.headers["retry-after"]) >= 1
        if gateway.kind.passes_503 and gateway.kind.passes_body:
            assert refused.json()["code"] == "backend_unavailable"
        assert public.status_code == 200
        again = gateway.keys.create()
        assert gateway.send("/", Authorization=again.authorization).status_code == 200

    def test_a_service_that_is_down_refuses_every_request(self, gateway: Gateway, issued: Issued) -> None:
        assert gateway.send("/", Authorization=issued.authorization).status_code == 200
        gateway.stop_service()
        try:
            refused = gateway.send("/", SPOOFED, Authorization=issued.authorization)
            public = gateway.send(PUBLIC)
        finally:
            gateway.start_service()

        assert (refused.status_code, reached(refused)) == (gateway.kind.without_service[0], False)
        assert public.status_code == 200
        assert gateway.send("/", Authorization=issued.authorization).status_code == 200

    def test_a_service_that_hangs_refuses_every_request(self, gateway: Gateway, issued: Issued) -> None:
        """Within a few seconds."""
        gateway.signal_service(signal.SIGSTOP)
        try:
            begin = time.monotonic()
            refused = gateway.send("/", SPOOFED, Authorization=issued.authorization)
            took = time.monotonic() - begin
        finally:
            gateway.signal_service(signal.SIGCONT)

        assert (refused.status_code, reached(refused)) == (gateway.kind.without_service[1], False)
        assert took < 10

    @pytest.mark.proves("X35")
    def test_a_websocket_is_authenticated_before_the_upgrade(self, gateway: Gateway, issued: Issued) -> None:
        """The client is not asynchronous: the browser of other tests keeps an event loop in this thread."""
        url = f"ws://127.0.0.1:{gateway.port}/socket"
        good = [*SPOOFED, ("Authorization", issued.authorization)]

        with connect(url, additional_headers=good, proxy=None, source_address=(ME, 0)) as socket:
            headers = json.loads(socket.recv(10))
        identity = [(name, value) for name, value in headers if claims_identity(name)]
        assert sorted(identity) == [("x-auth-client-id", issued.client_id), ("x-auth-scopes", "read write")]
        assert not [name for name, _ in headers if name in CREDENTIALS]

        for headers in (SPOOFED, [("Authorization", wrong())]):
            with pytest.raises(InvalidStatus) as refused:
                connect(url, additional_headers=headers, proxy=None, source_address=(ME, 0))
            assert refused.value.response.status_code == 401
            assert refused.value.response.headers.get_all("WWW-Authenticate")[0] == CHALLENGES[0]

    def test_a_client_cannot_claim_https(self, gateway: Gateway, tmp_path: Path) -> None:
        """With ``require_https``: the gateway provides the scheme of the connection."""
        with run(gateway.kind, tmp_path, BASICAUTH_REQUIRE_HTTPS="1") as strict:
            issued = strict.keys.create()
            claims = [("X-Forwarded-Proto", "https"), ("Forwarded", "proto=https"), ("X-Scheme", "https")]
            refused = strict.send("/", claims, Authorization=issued.authorization)

        assert (refused.status_code, reached(refused)) == (403, False)
        if gateway.kind.passes_body:
            assert refused.json()["code"] == "https_required"

    @pytest.mark.proves("X39")
    def test_http_2_over_tls(self, gateway: Gateway, tmp_path: Path) -> None:
        """The service gets the scheme, and the app gets the identity of the service alone."""
        with run(gateway.kind, tmp_path, tls=True, BASICAUTH_REQUIRE_HTTPS="1") as secure:
            issued = secure.keys.create(scopes=["read"])
            headers = [("X-Forwarded-Proto", "http"), *SPOOFED]
            seen = secure.send("/", headers, Authorization=issued.authorization)
            refused = secure.send("/health", headers)
            public = secure.send(PUBLIC, headers)

        assert seen.http_version == "HTTP/2"
        identity = {name: values for name, values in headers_of(seen).items() if claims_identity(name)}
        assert identity == {"x-auth-client-id": [issued.client_id], "x-auth-scopes": ["read"]}
        assert (refused.status_code, reached(refused)) == (401, False)
        assert not any(value for name, (value,) in headers_of(public).items() if claims_identity(name))


def changed(before: str, after: str) -> Callable[[str], str]:
    return lambda text: text.replace(before, after)


def test_envoy_without_a_path_prefix_refuses_every_path_but_one(tmp_path: Path) -> None:
    """Envoy then sends the path of the request, and only the service's ``/`` and ``/check`` verify keys."""
    with run(KINDS["envoy"], tmp_path, changed("path_prefix: /check", "")) as gateway:
        issued = gateway.keys.create()
        for target in SERVICE_PATHS:
            for headers in ([], [("Authorization", wrong())]):
                assert not reached(gateway.send(target, headers)), target
            allowed = gateway.send(target, Authorization=issued.authorization)
            assert reached(allowed) == (allowed.status_code == 200), target
            assert not reached(allowed) or target == "/" or "check" in target, target
        statuses = {target: gateway.send(target).status_code for target in ("/", "/health", "/ready", "/x")}
    assert statuses == {"/": 401, "/health": 204, "/ready": 204, "/x": 404}


def test_haproxy_refuses_every_request_after_an_error_in_lua(tmp_path: Path) -> None:
    """HAProxy itself continues with the next rule."""
    with run(
        KINDS["haproxy"], tmp_path, changed("local received =", "error('x')\n    local received =")
    ) as gateway:
        issued = gateway.keys.create()
        refused = gateway.send("/", SPOOFED, Authorization=issued.authorization)
        assert (refused.status_code, reached(refused)) == (503, False)
        assert gateway.send(PUBLIC).status_code == 200
