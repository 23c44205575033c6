"""Constructing a middleware: the precedence of settings, all problems in one error, and no I/O."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import (
    Backend,
    ConfigurationError,
    Settings,
    backends,
    encode_basic,
    open_backend,
)
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.errors import MissingExtra
from tests.asgi.helpers import App, call, http_scope
from tests.auth.helpers import (
    AUTHORIZATION,
    GOOD,
    Doing,
    Switch,
    assert_unavailable,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def app() -> App:
    return App()


# --- construction


def environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"BASICAUTH_{name}", value)


@pytest.mark.parametrize(
    "url",
    [
        "memory:",
        "env:KEYS_OF_A_TEST",
        "sqlite:///{}/keys.db",
        "redis://:canary@192.0.2.1:6379/0",
        "rediss://192.0.2.1/0",
    ],
)
def test_construction_touches_nothing(
    app: App, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    """No socket, no thread, no task: workers are forked later, and event loops come and go."""
    monkeypatch.setenv("KEYS_OF_A_TEST", "ci:secret")
    url = url.format(tmp_path)
    open_backend(url, settings=Settings(), create=True).close()

    def refuse(*args: Any, **kwargs: Any) -> Any:
        pytest.fail("a socket was created")

    for name in ("socket", "create_connection", "getaddrinfo", "socketpair"):
        monkeypatch.setattr(socket, name, refuse)
    threads = set(threading.enumerate())  # threads of other tests may be about to end
    BasicAuthMiddleware(app, url, settings=Settings())
    assert set(threading.enumerate()) <= threads
    monkeypatch.undo()

    async def inside_a_loop() -> set[Any]:
        monkeypatch.setenv("KEYS_OF_A_TEST", "ci:secret")
        BasicAuthMiddleware(app, url, settings=Settings())
        return asyncio.all_tasks()

    assert len(asyncio.run(inside_a_loop())) == 1
    assert set(threading.enumerate()) <= threads


def test_sources_of_settings_have_an_order(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overrides before ``settings=`` before the environment; the backend argument before all of them."""
    environment(monkeypatch, KEYS="env:secret", REALM="env", TIMEOUT_S="7")
    monkeypatch.setenv("OTHER", "other:secret")

    def resolve(*args: Any, **kwargs: Any) -> tuple[str, str, int]:
        middleware = BasicAuthMiddleware(app, *args, **kwargs)
        realm = call(middleware, http_scope()).headers["www-authenticate"].split('"')[1]
        by_env = call(middleware, http_scope(encode_basic("env", "secret"))).status
        by_other = call(middleware, http_scope(encode_basic("other", "secret"))).status
        keys = {(200, 401): "env", (401, 200): "other", (401, 401): "none"}[by_env, by_other]
        return realm, keys, middleware._authenticator.settings.timeout_s or 0

    assert resolve() == ("env", "env", 7)
    assert resolve(realm="mine") == ("mine", "env", 7)
    assert resolve("env:OTHER") == ("env", "other", 7)
    assert resolve(backend="memory:") == ("env", "none", 7)
    environment(monkeypatch, BACKEND="env:OTHER")
    assert resolve() == ("env", "other", 7)
    assert resolve("env:") == ("env", "env", 7)
    assert resolve(settings=Settings(realm="given")) == ("given", "env", 0)
    assert resolve(settings=Settings(backend="env:OTHER"), realm="mine", timeout_s=3) == ("mine", "other", 3)
    assert resolve("env:", settings=Settings(backend="env:OTHER")) == ("api", "env", 0)


def test_with_settings_the_environment_is_not_read(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the environment is invalid."""
    environment(monkeypatch, TIMEOUT_S="soon", REALN="x", BACKEND="nonsense")

    BasicAuthMiddleware(app, "memory:", settings=Settings())
    with pytest.raises(ConfigurationError):
        BasicAuthMiddleware(app, "memory:")


def problems(*args: Any, **kwargs: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        BasicAuthMiddleware(App(), *args, **kwargs)
    assert isinstance(caught.value, ValueError)
    for problem in caught.value.problems:
        assert problem in str(caught.value)
    return caught.value.problems


def test_every_problem_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Problems of the environment, the overrides and the backend in one error."""
    environment(monkeypatch, TIMEOUT_S="soon", REALN="x", PEPPER="canary", PEPPER_FILE="/canary")
    found = problems(
        "nonsense://user:canary@host", realm="a\nb", exclude=["/*"], cache_tll_s=3, challenge="canary"
    )
    text = "\n".join(found)

    assert len(found) >= 7
    for word in (
        "BASICAUTH_TIMEOUT_S",
        "BASICAUTH_REALN",
        "BASICAUTH_PEPPER",
        "realm",
        "exclude",
        "cache_tll_s",
        "challenge",
        "backend",
    ):
        assert word in text
    assert "did you mean cache_ttl_s" in text
    assert "did you mean realm" in text
    assert "canary" not in text


@pytest.mark.parametrize(
    ("name", "meant"),
    [("exlude", "exclude"), ("require_http", "require_https"), ("timeout", "timeout_s"), ("Realm", "realm")],
)
def test_a_similar_name_is_suggested(name: str, meant: str) -> None:
    """A name that resembles no setting is reported too."""
    (found,) = problems("memory:", settings=Settings(), **{name: "1"})
    assert name in found
    assert meant in found

    (found,) = problems("memory:", settings=Settings(), zzz=1)
    assert "zzz" in found
    assert "did you mean" not in found


@pytest.mark.parametrize(
    "url",
    [
        "nonsense://user:canary@host/0",
        "canary",
        "",
        " ",
        "mysql://user:canary@host",
        "memory:canary",
        "env:not a name canary",
        "env:NO_SUCH_VARIABLE",
        "://canary",
    ],
)
def test_an_unusable_url_is_never_shown(url: str) -> None:
    """It may contain a password; the message shows what is expected."""
    for text in (
        problems(url, settings=Settings()),
        problems(url, settings=Settings(), zzz=1),
    ):
        assert "canary" not in "\n".join(text)
        assert text[0]


@pytest.mark.parametrize(
    "keys", ["", "canary", "id:", ":canary", '{"a": "canary"', '{"a": 1}', "a:canary,a:canary"]
)
def test_unusable_keys_are_never_shown(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    """Entries are identified by number."""
    environment(monkeypatch, KEYS=keys)

    assert "canary" not in "\n".join(problems(settings=Settings()))


@pytest.mark.parametrize(
    "thing",
    [42, object(), b"memory:", MemoryStore, Backend, ["memory:"]],
    ids=lambda thing: type(thing).__name__,
)
def test_a_backend_that_is_none(thing: Any) -> None:
    """Neither a URL nor an object with a lookup method."""
    (found,) = problems(thing, settings=Settings())

    assert "backend" in found


@pytest.mark.parametrize("extra", [[], [("zzz", 1)]])
def test_a_missing_driver_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, extra: list[tuple[str, Any]]
) -> None:
    """It is an ImportError as well if it is the only problem."""
    ours = "basicauth_mw.backends.redis"
    # An import sets this attribute too; it is restored after the test, like the entries below.
    monkeypatch.setattr(backends, "redis", getattr(backends, "redis", None), raising=False)
    for name in [name for name in sys.modules if name.startswith(("redis", ours))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'basicauth_mw\[redis\]'") as caught:
        BasicAuthMiddleware(App(), "redis://:canary@192.0.2.1/0", settings=Settings(), **dict(extra))

    assert "canary" not in str(caught.value)
    assert isinstance(caught.value, MissingExtra) == (not extra)


@pytest.mark.proves("O8")
def test_excluded_paths_are_logged_at_startup(
    app: App, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """In one line; there is none if nothing is excluded."""
    caplog.set_level(logging.INFO, "basicauth_mw")
    BasicAuthMiddleware(app, backend, settings=Settings())
    assert caplog.records == []
    BasicAuthMiddleware(app, backend, settings=Settings(exclude=("/health", "/docs/*")))

    (record,) = caplog.records
    assert "/health" in record.getMessage()
    assert "/docs/*" in record.getMessage()


@pytest.mark.proves("A13", "F1")
def test_a_store_that_is_down_does_not_stop_the_start(app: App) -> None:
    """503 while it is down, then 200 without a restart."""
    store = Switch()
    store.on = False
    middleware = BasicAuthMiddleware(App({"type": "lifespan.startup.complete"}), store, settings=Settings())
    seen = call(middleware, {"type": "lifespan"}, {"type": "lifespan.startup"})
    assert [message["type"] for message in seen.messages] == ["lifespan.startup.complete"]

    middleware = BasicAuthMiddleware(app, store, settings=Settings())
    assert_unavailable(call(middleware, http_scope(AUTHORIZATION)))
    store.on = True
    assert call(middleware, http_scope(AUTHORIZATION)).status == 200


@pytest.mark.proves("A14", "F31")
def test_a_middleware_works_on_many_loops_and_after_a_fork(app: App, tmp_path: Path) -> None:
    """Threads belong to the process that started them."""
    middleware = BasicAuthMiddleware(app, Doing(lambda: GOOD), settings=Settings(cache_ttl_s=0))
    assert [call(middleware, http_scope(AUTHORIZATION)).status for _ in range(3)] == [200] * 3

    child = os.fork()
    if child == 0:  # no pytest in the child
        status = 1
        try:
            status = 0 if call(middleware, http_scope(AUTHORIZATION)).status == 200 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
