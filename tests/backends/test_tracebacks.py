"""No frame of an error holds the secrets of a backend: error monitors record the variables of every frame."""

from __future__ import annotations

import asyncio
from importlib.metadata import EntryPoint, EntryPoints
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Settings, open_backend
from basicauth_mw.asgi import BasicAuthMiddleware as AsgiMiddleware
from basicauth_mw.backends import open_store
from basicauth_mw.errors import BackendUnavailable, BasicAuthError, ConfigurationError
from basicauth_mw.keys.model import Key
from basicauth_mw.wsgi import BasicAuthMiddleware as WsgiMiddleware
from tests.redis_server import Sentinel, TlsFront, execute, make_certificates
from tests.tracebacks import chain_of, variables_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.redis_server import RedisServer

URLS = [
    "redis://:canary@h:port/0",
    "redis://:canary@[::1/0",
    "redis://:canary@h?canary",
    "redis://:canary@h/0/1?prefix=",
    "rediss://:canary@h/0?ssl_cert_reqs=canary",
    "rediss://:canary@h/0?ssl_ca_certs=/no/such/file",
    "redis+sentinel://:canary@h/name?sentinel_password=canary&nope=1",
    "redis+cluster://:canary@h:7000,",
    "mysql://:canary@h/0",
    "postgresql://:canary@h:1,h:2,h/0?port=1,2",
    "postgres://:canary@h/0?canary",
    "postgresql://:canary@h/0?schema=canary!",
    "canary",
    "team:canary",
    "env:canary/canary",
    "env:LISTED",
    "file:canary",
    "file://canary@h/keys",
    "file:/keys?canary",
    "sqlite://:canary@h/keys.db",
]


def team(url: str) -> None:
    raise ValueError(f"cannot use {url}")


@pytest.fixture(autouse=True)
def _third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("team", f"{__name__}:team", "basicauth_mw.backends")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_group: EntryPoints([point]))
    monkeypatch.setenv("LISTED", "id:canary\nid:canary2\n:canary")


def assert_hidden(exc: BaseException) -> None:
    assert "canary" not in variables_of(exc, but=__file__)
    assert "canary" not in " ".join(f"{each!r} {each}" for each in chain_of(exc))


@pytest.mark.parametrize("url", URLS)
def test_a_backend_that_cannot_be_opened(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its URL is an argument or a setting."""
    monkeypatch.setenv("BASICAUTH_BACKEND", url)
    openers: list[Callable[[], Any]] = [
        lambda: open_store(url),
        lambda: open_backend(url),
        open_backend,
        lambda: open_backend(settings=Settings(backend=url)),
        lambda: AsgiMiddleware(lambda *_: None),
        lambda: WsgiMiddleware(lambda *_: None),
    ]
    for opener in openers:
        with pytest.raises(ConfigurationError) as caught:
            opener()
        assert_hidden(caught.value)


def test_another_setting_that_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment contains the URL and the peppers."""
    monkeypatch.setenv("BASICAUTH_BACKEND", "redis://:canary@h/0")
    monkeypatch.setenv("BASICAUTH_PEPPER", "canary" * 8)
    monkeypatch.setenv("BASICAUTH_CACHE_SIZE", "many")
    readers: list[Callable[[], Any]] = [
        Settings.from_env,
        open_backend,
        lambda: AsgiMiddleware(lambda *_: None),
        lambda: Settings.from_mapping({"BASICAUTH_PEPPER": ["canary"], "BASICAUTH_CACHE_SIZE": "many"}),
        lambda: Settings(backend="redis://:canary@h/0").replace(cache_size="many"),
    ]
    for reader in readers:
        with pytest.raises(ConfigurationError) as caught:
            reader()
        assert_hidden(caught.value)


def errors_of(url: str) -> list[BasicAuthError]:
    """What every operation on a store raises."""
    store: Any = open_store(url, deadline_s=1)

    async def look() -> None:
        try:
            await store.aget("id")
        finally:
            await store.aclose()

    steps: list[Callable[[], object]] = [
        lambda: store.get("id"),
        lambda: asyncio.run(look()),
        lambda: store.put(Key("id"), None),
        lambda: store.add([Key("id")]),
        lambda: store.scan("", "", 9),
        lambda: store.changes(None),
        store.warnings,
    ]
    errors: list[BasicAuthError] = []
    for step in steps:
        with pytest.raises(BackendUnavailable) as caught:
            step()
        errors.append(caught.value)
    store.close()
    return errors


def test_a_server_that_refuses_the_password(own_redis_server: RedisServer, tmp_path: Path) -> None:
    execute(own_redis_server, "CONFIG", "SET", "requirepass", "right")
    where = f"127.0.0.1:{own_redis_server.port}"
    context, authority = make_certificates(tmp_path)
    with (
        Sentinel("keys", own_redis_server.port) as sentinel,
        TlsFront(own_redis_server.port, context) as front,
    ):
        for url in (
            f"redis://:canary@{where}",
            f"redis+cluster://user:canary@{where}",
            f"redis+sentinel://:canary@127.0.0.1:{sentinel.port}/keys?sentinel_password=canary",
            f"rediss://:canary@127.0.0.1:{front.port}?ssl_ca_certs={authority}",
        ):
            for error in errors_of(url):
                assert_hidden(error)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster"])
def test_a_server_that_is_away(own_redis_server: RedisServer, scheme: str) -> None:
    own_redis_server.stop()
    for error in errors_of(f"{scheme}://:canary@127.0.0.1:{own_redis_server.port}"):
        assert_hidden(error)
