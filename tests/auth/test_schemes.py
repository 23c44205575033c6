"""The setting ``schemes``: a key gets the same decision by each scheme, on both middlewares."""

from __future__ import annotations

import logging
from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basicauth_mw import Backend, ConfigurationError, Settings, asgi, wsgi
from basicauth_mw.auth.request_adapters import environ_key
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.keys.generated_secrets import generate
from tests.asgi.helpers import App, connect, http_scope, websocket_scope
from tests.asgi.helpers import call as call_asgi
from tests.auth.helpers import AUTHORIZATION, GOOD, Doing
from tests.wsgi.helpers import call as call_wsgi

if TYPE_CHECKING:
    from collections.abc import Iterable

    Headers = list[tuple[str, bytes]]

BASIC = 'Basic realm="api", charset="UTF-8"'
BEARER = 'Bearer realm="api"'
API_KEY = 'ApiKey realm="api"'

ALL = ("basic", "bearer", "header:x-api-key")


def token(pair: str | bytes) -> bytes:
    return b64encode(pair.encode() if isinstance(pair, str) else pair)


DEMO = token("demo:p@55w0rd")
OTHER = token("other:p@55w0rd")


@dataclass
class Seen:
    """What the client and the app got."""

    status: int
    challenges: list[str]
    body: bytes
    app: dict[str, Any] = field(default_factory=dict)


class OverAsgi:
    """The ASGI middleware around an app that records its scope."""

    def __init__(self, backend: Any, **settings: Any) -> None:
        self._app = App()
        self._middleware = asgi.BasicAuthMiddleware(self._app, backend, settings=Settings(**settings))

    def request(self, headers: Headers) -> Seen:
        self._app.scopes.clear()
        pairs = [(name.encode(), value) for name, value in headers]
        seen = call_asgi(self._middleware, http_scope(headers=[(b"x-request-id", b"r-1"), *pairs]))
        assert seen.raised is None
        (start,) = seen.starts
        found = [value.decode("latin-1") for name, value in start["headers"] if name == b"www-authenticate"]
        scope = self._app.scopes[0] if self._app.scopes else {}
        names = [name.decode() for name, _ in scope.get("headers", ())]
        return Seen(start["status"], found, seen.body, {"headers": names, "user": scope.get("user")})


class OverWsgi:
    """The WSGI middleware around an app that records its environ."""

    def __init__(self, backend: Any, **settings: Any) -> None:
        self._environ: dict[str, Any] = {}
        self._middleware = wsgi.BasicAuthMiddleware(self._app, backend, settings=Settings(**settings))

    def _app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self._environ = environ
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]

    def request(self, headers: Headers) -> Seen:
        self._environ = {}
        environ: dict[str, Any] = {}
        for name, value in headers:  # a server joins repeated headers
            key, text = environ_key(name), value.decode("latin-1")
            environ[key] = f"{environ[key]}, {text}" if key in environ else text
        seen = call_wsgi(self._middleware, **environ)
        assert seen.raised is None
        found = [value for name, value in seen.headers if name == "WWW-Authenticate"]
        names = [key.removeprefix("HTTP_").lower().replace("_", "-") for key in self._environ]
        principal = self._environ.get("basicauth_mw.principal")
        auth_type = self._environ.get("AUTH_TYPE")
        return Seen(
            seen.status, found, seen.body, {"headers": names, "user": principal, "auth_type": auth_type}
        )


SHELLS = [pytest.param(OverAsgi, id="asgi"), pytest.param(OverWsgi, id="wsgi")]
both_shells = pytest.mark.parametrize("shell", SHELLS)


@pytest.fixture(scope="module")
def keys() -> Backend:
    backend = Backend(MemoryStore(), settings=Settings())
    backend.create(client_id="demo", secret="p@55w0rd")
    backend.create(client_id="other", secret="p@55w0rd")
    return backend


def headers_by(scheme: str, value: bytes) -> Headers:
    """The headers of a request that sends a token by one scheme."""
    if scheme.startswith("header:"):
        return [(scheme.removeprefix("header:"), value)]
    return [("authorization", scheme.capitalize().encode() + b" " + value)]


# --- one decision


@both_shells
@pytest.mark.parametrize("scheme", ALL)
@pytest.mark.parametrize(
    ("value", "status"),
    [
        pytest.param(DEMO, 200, id="right"),
        pytest.param(b"  " + DEMO + b"\t ", 200, id="whitespace-around"),
        pytest.param(token("demo:p@55w0re"), 401, id="wrong"),
        pytest.param(token("unknown:p@55w0rd"), 401, id="unknown"),
        pytest.param(token(f"demo:{generate('sk')}"), 401, id="generated"),
        pytest.param(DEMO.rstrip(b"="), 401, id="no-padding"),
        pytest.param(DEMO[:-3] + b"B==", 401, id="trailing-bits"),
        pytest.param(b"!" + DEMO, 401, id="outside-the-alphabet"),
        pytest.param(DEMO + b", " + DEMO, 401, id="joined"),
        pytest.param(b"Basic " + DEMO, 401, id="scheme-inside"),
        pytest.param(b'"' + DEMO + b'"', 401, id="quoted"),
        pytest.param(b"demo:p@55w0rd", 401, id="not-encoded"),
        pytest.param(token("demo"), 401, id="no-colon"),
        pytest.param(token("demo:"), 401, id="no-secret"),
        pytest.param(token("demo:p@55\x7fw0rd"), 401, id="control"),
        pytest.param(token(b"j\xfcrgen:x"), 401, id="not-utf-8"),
        pytest.param(DEMO + b"\r\n", 401, id="line-break"),
        pytest.param(b"\xff\xfe", 401, id="high-bytes"),
        pytest.param(b" " * 9000 + DEMO, 401, id="too-long"),
        pytest.param(token("demo:" + "x" * 2000), 401, id="long-secret"),
    ],
)
def test_a_token_gets_the_same_decision_by_each_scheme(
    shell: Any, scheme: str, value: bytes, status: int, keys: Backend
) -> None:
    for schemes in ((scheme,), ALL):
        client = shell(keys, schemes=schemes, throttle="")
        first, second = client.request(headers_by(scheme, value)), client.request(headers_by(scheme, value))

        assert (first.status, second.status) == (status, status)  # the second may come from the cache
        if status == 401:
            assert b'"invalid_credentials"' in first.body
        else:
            assert first.app["user"].client_id == "demo"


@both_shells
@given(value=st.binary(max_size=60) | st.text("ZGVtbzpwQDU1dzByA= ", max_size=24).map(str.encode))
def test_any_bytes_get_the_same_decision_by_each_scheme(shell: Any, value: bytes) -> None:
    backend = Backend(MemoryStore(), settings=Settings())
    backend.create(client_id="demo", secret=generate("sk"))
    client = shell(backend, schemes=ALL, throttle="")
    seen = [client.request(headers_by(scheme, value)) for scheme in ALL]

    if value.strip(b" \t"):
        assert {(each.status, each.body.partition(b"request_id")[0]) for each in seen} == {
            (401, seen[0].body.partition(b"request_id")[0])
        }
        assert b'"invalid_credentials"' in seen[0].body
    else:
        assert {each.status for each in seen} == {401}


@both_shells
def test_schemes_share_the_cache(shell: Any) -> None:
    store = Doing(lambda: GOOD)
    client = shell(store, schemes=ALL)
    sent = AUTHORIZATION.removeprefix("Basic ").encode()

    statuses = [client.request(headers_by(scheme, sent)).status for scheme in ALL]

    assert statuses == [200, 200, 200]
    assert store.calls == 1


# --- which fields are read


BASIC_DEMO = ("authorization", b"Basic " + DEMO)
BEARER_DEMO = ("authorization", b"Bearer " + DEMO)
HEADER_DEMO = ("x-api-key", DEMO)
HEADER_OTHER = ("x-api-key", OTHER)
TWO = "basic,header:x-api-key"


def row(name: str, schemes: str, status: int, *headers: tuple[str, bytes]) -> Any:
    return pytest.param(schemes, list(headers), status, id=name)


@both_shells
@pytest.mark.parametrize(
    ("schemes", "headers", "status"),
    [
        row("bearer-not-enabled", "basic", 401, BEARER_DEMO),
        row("basic-not-enabled", "bearer", 401, BASIC_DEMO),
        row("any-case", "bearer", 200, ("authorization", b"BEARER " + DEMO)),
        row("spaces", "bearer", 200, ("authorization", b"Bearer   " + DEMO)),
        row("tab", "bearer", 401, ("authorization", b"Bearer\t" + DEMO)),
        row("scheme-alone", "bearer", 401, ("authorization", b"Bearer")),
        row("longer-scheme", "bearer", 401, ("authorization", b"Bearers " + DEMO)),
        row("header-any-case", "header:X-API-Key", 200, ("X-Api-Key", DEMO)),
        row("header-not-enabled", "basic", 401, HEADER_DEMO),
        row("authorization-is-the-apps", "header:x-api-key", 200, HEADER_DEMO, ("authorization", b"x y")),
        row("authorization-alone", "header:x-api-key", 401, BASIC_DEMO),
        row("other-scheme", TWO, 401, HEADER_DEMO, ("authorization", b"Digest x")),
        row("bearer-and-header", TWO, 401, HEADER_DEMO, BEARER_DEMO),
        row("same-twice", TWO, 200, HEADER_DEMO, BASIC_DEMO),
        row("two-keys", TWO, 401, HEADER_OTHER, BASIC_DEMO),
        row("two-headers", "header:x-api-key,header:x-token", 401, HEADER_OTHER, ("x-token", DEMO)),
        row("one-wrong", TWO, 401, ("x-api-key", b"?"), BASIC_DEMO),
        row("empty-and-good", TWO, 200, ("x-api-key", b" "), BASIC_DEMO),
        row("repeated-header", "header:x-api-key", 401, HEADER_DEMO, HEADER_DEMO),
        row("repeated-in-two-cases", "header:x-api-key", 401, HEADER_DEMO, ("X-API-KEY", DEMO)),
        row("repeated-bearer", "bearer", 401, BEARER_DEMO, BEARER_DEMO),
    ],
)
def test_enabled_schemes_decide_which_headers_count(
    shell: Any, schemes: str, headers: Headers, status: int, keys: Backend
) -> None:
    assert shell(keys, schemes=schemes).request(headers).status == status


@both_shells
@pytest.mark.parametrize("schemes", ["basic", "bearer", "header:x-api-key", "basic,bearer,header:x-api-key"])
@pytest.mark.parametrize("value", [None, b"", b" \t"])
def test_no_credentials_are_missing(shell: Any, schemes: str, value: bytes | None, keys: Backend) -> None:
    name = "x-api-key" if schemes.startswith("header") else "authorization"
    seen = shell(keys, schemes=schemes).request([] if value is None else [(name, value)])

    assert seen.status == 401
    assert b'"missing_credentials"' in seen.body


@pytest.mark.parametrize(
    ("schemes", "detail"),
    [
        ("basic", b"Send an API key: Authorization: Basic base64(client_id:client_secret)."),
        ("bearer", b"Send an API key: Authorization: Bearer base64(client_id:client_secret)."),
        (
            "bearer,header:x-api-key",
            b"Bearer base64(client_id:client_secret) or x-api-key: base64(client_id:client_secret).",
        ),
    ],
)
def test_a_missing_key_is_answered_with_instructions(schemes: str, detail: bytes, keys: Backend) -> None:
    assert detail in OverAsgi(keys, schemes=schemes).request([]).body


# --- the challenge


@both_shells
@pytest.mark.parametrize(
    ("schemes", "challenges"),
    [
        ("basic", [BASIC]),
        ("bearer", [BEARER]),
        ("bearer,basic", [BEARER, BASIC]),
        ("basic,bearer", [BASIC, BEARER]),
        ("header:x-api-key", [API_KEY]),
        ("header:x-api-key,header:x-token", [API_KEY]),
        ("header:x-api-key,bearer", [BEARER]),
    ],
)
def test_a_401_has_a_challenge_per_scheme(
    shell: Any, schemes: str, challenges: list[str], keys: Backend
) -> None:
    client = shell(keys, schemes=schemes)

    assert client.request([]).challenges == challenges
    assert client.request([("authorization", b"Basic !"), ("x-api-key", b"!")]).challenges == challenges


@both_shells
def test_quiet_challenges_change_basic_alone(shell: Any, keys: Backend) -> None:
    client = shell(keys, schemes="bearer,basic", challenge="navigations")

    assert client.request([("sec-fetch-mode", b"cors")]).challenges == [
        BEARER,
        'xBasic realm="api", charset="UTF-8"',
    ]
    assert client.request([("sec-fetch-mode", b"navigate")]).challenges == [BEARER, BASIC]


# --- what the app sees


@both_shells
@pytest.mark.parametrize(
    ("schemes", "left"),
    [
        ("basic,header:x-api-key", {"cookie"}),
        ("header:x-api-key", {"cookie", "authorization"}),
        ("basic", {"cookie", "x-api-key"}),
    ],
)
def test_every_read_header_can_be_removed(shell: Any, schemes: str, left: set[str], keys: Backend) -> None:
    client = shell(keys, schemes=schemes, strip_authorization=True)
    headers = [("X-API-Key", DEMO), ("Authorization", b"Basic " + DEMO), ("cookie", b"a=1")]
    seen = client.request(headers)

    assert seen.status == 200
    named = {name.lower() for name in seen.app["headers"]}
    assert named & {"cookie", "authorization", "x-api-key"} == left


@pytest.mark.parametrize(
    ("scheme", "auth_type"), [("basic", "Basic"), ("bearer", "Bearer"), ("header:x-api-key", "ApiKey")]
)
def test_auth_type_is_the_scheme_of_the_request(scheme: str, auth_type: str, keys: Backend) -> None:
    for schemes in ((scheme,), ALL):
        seen = OverWsgi(keys, schemes=schemes).request(headers_by(scheme, DEMO))

        assert seen.app["auth_type"] == auth_type


# --- logs and limits


@both_shells
@pytest.mark.parametrize(
    ("headers", "scheme", "reason"),
    [
        ([("authorization", b"Basic " + token("demo:wrong"))], "basic", "wrong_secret"),
        ([("authorization", b"Bearer " + token("demo:wrong"))], "bearer", "wrong_secret"),
        ([("x-api-key", token("demo:wrong"))], "header:x-api-key", "wrong_secret"),
        ([("authorization", b"Digest x")], None, "malformed"),
        ([], None, "missing"),
    ],
    ids=["basic", "bearer", "header", "other", "missing"],
)
def test_the_audit_log_names_the_scheme(
    shell: Any,
    headers: Headers,
    scheme: str | None,
    reason: str,
    keys: Backend,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "basicauth_mw.audit")
    shell(keys, schemes=ALL).request(headers)

    (record,) = [each.basicauth for each in caplog.records if hasattr(each, "basicauth")]
    assert (record["scheme"], record["reason"]) == (scheme, reason)


@both_shells
def test_different_credentials_are_logged_as_repeated(
    shell: Any, keys: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "basicauth_mw.audit")
    shell(keys, schemes=ALL).request([("authorization", b"Bearer " + DEMO), ("x-api-key", OTHER)])

    (record,) = [each.basicauth for each in caplog.records if hasattr(each, "basicauth")]
    assert (record["reason"], record["detail"]) == ("malformed", "repeated header")


@both_shells
def test_failures_by_all_schemes_count_together(shell: Any, keys: Backend) -> None:
    client = shell(keys, schemes=ALL, throttle="3/minute")
    wrong = token("demo:wrong")
    statuses = [client.request(headers_by(scheme, wrong)).status for scheme in (*ALL, "bearer")]

    assert statuses == [401, 401, 401, 429]
    assert client.request(headers_by("header:x-api-key", DEMO)).status == 429


def test_a_websocket_takes_every_scheme(keys: Backend) -> None:
    accepted: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        accepted.append(scope["user"].client_id)
        await send({"type": "websocket.accept"})

    middleware = asgi.BasicAuthMiddleware(app, keys, settings=Settings(schemes=ALL))
    for scheme in ALL:
        headers = [(name.encode(), value) for name, value in headers_by(scheme, DEMO)]
        connect(middleware, websocket_scope(headers=headers))

    assert accepted == ["demo"] * 3


# --- the setting


@pytest.mark.parametrize(
    ("value", "schemes"),
    [
        ("basic", ("basic",)),
        ("Bearer, Basic", ("bearer", "basic")),
        (["header:X-API-Key"], ("header:x-api-key",)),
        ('["basic", "bearer"]', ("basic", "bearer")),
        ("header:x-auth-token2", ("header:x-auth-token2",)),
    ],
)
def test_schemes_are_normalized(value: Any, schemes: tuple[str, ...]) -> None:
    assert Settings(schemes=value).schemes == schemes
    assert (
        Settings.from_env({"BASICAUTH_SCHEMES": value if isinstance(value, str) else ",".join(value)}).schemes
        == schemes
    )


@pytest.mark.parametrize(
    "value",
    [
        *("", [], "digest", "header", "header:", "header:x y", "header:x_api_key", "header:\u00fc"),
        *("basic,basic", "header:x-api-key,header:X-API-KEY", "header:Authorization", "header:Cookie"),
        *("header:Host", "header:Proxy-Authorization", "header:Content-Type", "header:Forwarded"),
        *("header:X-Forwarded-For", "header:X-Request-ID", "header:Connection", "header:x:y"),
        *("query:key", "cookie:key", "basic bearer"),
    ],
)
def test_a_bad_scheme_is_an_error(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="schemes: ") as raised:
        Settings(schemes=value)

    assert len(str(raised.value)) < 200
