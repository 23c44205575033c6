"""``basicauth_mw.forward_auth``: key verification for a reverse proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from basicauth_mw import Backend, ConfigurationError, Settings, encode_basic, forward_auth
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.forward_auth import create_app
from tests.asgi.helpers import call, connect, http_scope, websocket_scope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from basicauth_mw import Issued
    from basicauth_mw.asgi import BasicAuthMiddleware


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Backend(MemoryStore(), settings=Settings()) as backend:
        yield backend


@pytest.fixture
def issued(backend: Backend) -> Issued:
    return backend.create(client_id="ci", scopes=["write", "read"])


@pytest.fixture
def app(backend: Backend) -> BasicAuthMiddleware:
    return create_app(backend, settings=Settings(), throttle="2/minute")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "path", ["/", "/check", "/check/", "/check/any/path", "/check/health", "/check/../health"]
)
def test_a_valid_key(app: BasicAuthMiddleware, issued: Issued, method: str, path: str) -> None:
    seen = call(app, http_scope(issued.authorization, method=method, path=path))

    assert (seen.status, seen.body) == (200, b"")
    assert seen.headers == {
        "content-length": "0",
        "x-auth-client-id": "ci",
        "x-auth-scopes": "read write",
        "cache-control": "no-store",
    }


def test_refusals_are_the_responses_of_the_middleware(app: BasicAuthMiddleware, issued: Issued) -> None:
    missing = call(app, http_scope())
    wrong = [call(app, http_scope(encode_basic("ci", "wrong"))) for _ in range(2)]
    throttled = call(app, http_scope(issued.authorization))

    assert (missing.status, missing.problem["code"]) == (401, "missing_credentials")
    assert missing.headers["www-authenticate"] == 'Basic realm="api", charset="UTF-8"'
    assert [each.problem["code"] for each in wrong] == ["invalid_credentials"] * 2
    assert (throttled.status, "retry-after" in throttled.headers) == (429, True)
    assert "x-auth-client-id" not in throttled.headers


def test_an_unavailable_store_is_a_503() -> None:
    class Down:
        def get(self, _client_id: str) -> None:
            raise OSError

    app = create_app(Down(), settings=Settings())
    seen = call(app, http_scope(encode_basic("ci", "secret")))
    ready = call(app, http_scope(path="/ready"))

    assert (seen.status, seen.problem["code"]) == (503, "backend_unavailable")
    assert (ready.status, ready.problem["code"]) == (503, "backend_unavailable")
    assert call(app, http_scope(path="/health")).status == 204


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_need_no_key(app: BasicAuthMiddleware, method: str, path: str) -> None:
    """The status is not 200: Envoy may send the paths of the app, and allows a request for a 200 only."""
    scope = http_scope(method=method, path=path)
    scope["raw_path"] = f"{path}?q=1".encode()
    seen = call(app, scope)

    assert (seen.status, seen.body) == (204, b"")


@pytest.mark.parametrize("with_key", [True, False])
@pytest.mark.parametrize(
    "raw",
    [
        *(
            "/_key",
            "/any/path",
            "/checks",
            "/Check",
            "//check",
            "/check%2fx/..",
            "//health",
            "/health/",
            "/Health",
        ),
        *(
            "/%68ealth",
            "/health%20",
            "/./health",
            "/x/../health",
            "/health;x",
            "/ready/",
            "//",
            "*",
            "/health/check",
        ),
    ],
)
def test_any_other_path_is_not_found(
    app: BasicAuthMiddleware, issued: Issued, raw: str, with_key: bool
) -> None:
    scope = http_scope(issued.authorization if with_key else None, path=unquote(raw))
    scope["raw_path"] = raw.encode()
    seen = call(app, scope)

    if raw.startswith("/check%2f"):  # decoded, it is under /check
        assert seen.status == (200 if with_key else 401)
    else:
        assert (seen.status, seen.problem["code"]) == (404, "not_found")
    assert seen.status != 200 or with_key


def test_every_path_under_a_mount_point_is_not_found(app: BasicAuthMiddleware) -> None:
    assert call(app, http_scope(path="/api/health", root_path="/api")).status == 404
    assert call(app, http_scope(path="/check", root_path="/check")).status == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/x"])
def test_a_websocket_handshake_on_another_path_is_not_found(app: BasicAuthMiddleware, path: str) -> None:
    assert connect(app, websocket_scope(path=path, denial=True)).status == 404


@pytest.mark.parametrize(
    ("client_id", "sent"),
    [
        ("id_0aZ", "id_0aZ"),
        ("a-b.c~d_e@f/g,h;i=j", "a-b.c~d_e@f/g,h;i=j"),
        ("two words ", "two%20words%20"),
        ("100%41", "100%2541"),
        ("\u3042", "%E3%81%82"),
        ("\u00e9\U0001f600", "%C3%A9%F0%9F%98%80"),
    ],
)
def test_client_ids_are_percent_encoded(
    app: BasicAuthMiddleware, backend: Backend, client_id: str, sent: str
) -> None:
    issued = backend.create(client_id=client_id)

    seen = call(app, http_scope(issued.authorization))

    assert seen.headers["x-auth-client-id"] == sent
    assert unquote(sent, errors="strict") == client_id
    assert seen.headers["x-auth-scopes"] == ""


@pytest.mark.parametrize("denial", [True, False])
def test_a_websocket_handshake(app: BasicAuthMiddleware, issued: Issued, denial: bool) -> None:
    """A proxy may forward the headers of a handshake; the response never accepts the connection."""
    good = connect(app, websocket_scope(issued.authorization, denial=denial))
    bad = connect(app, websocket_scope(denial=denial))

    if denial:
        assert (good.status, good.headers["x-auth-client-id"]) == (200, "ci")
        assert bad.status == 401
    else:
        assert [message["type"] for message in [*good.messages, *bad.messages]] == ["websocket.close"] * 2


def test_lifespan() -> None:
    closed: list[str] = []

    class Store(MemoryStore):
        def close(self) -> None:
            closed.append("closed")

    app = create_app(Store(), settings=Settings())
    lifespan: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}}
    seen = call(app, lifespan, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})

    assert [message["type"] for message in seen.messages] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert closed == []


@pytest.mark.parametrize(
    "setting",
    [
        {"include": ["/x"]},
        {"exclude": ["/x"]},
        {"optional": ["/x"]},
        {"allow_preflight": True},
    ],
    ids=str,
)
def test_excluded_paths_and_preflights_are_configuration_errors(
    setting: dict[str, Any], backend: Backend
) -> None:
    with pytest.raises(ConfigurationError, match="have no effect in forward_auth"):
        create_app(backend, settings=Settings(), **setting)


def test_the_app_is_configured_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is created once, on first use."""
    monkeypatch.setenv("BASICAUTH_KEYS", "demo:p@55w0rd")
    try:
        app = forward_auth.app
        assert forward_auth.app is app
        assert call(app, http_scope("Basic ZGVtbzpwQDU1dzByZA==")).status == 200
    finally:
        vars(forward_auth).pop("app", None)
    with pytest.raises(AttributeError, match="has no attribute 'application'"):
        _ = forward_auth.application  # type: ignore[attr-defined]
