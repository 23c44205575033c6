"""What the real Sentry SDK reports for a protected app."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import pytest

# The SDK imports eventlet if it is installed, as it is for the tests of servers, and eventlet then warns
# about every fork of this process.
# ruff: noqa: E402
sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]

# isort: split
import sentry_sdk
from fastapi import FastAPI
from flask import Flask
from sentry_sdk.transport import Transport
from werkzeug.middleware.proxy_fix import ProxyFix

from basicauth_mw import Backend, InsufficientScope, Issued, Settings
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.integrations.fastapi import install
from basicauth_mw.integrations.flask import BasicAuth
from basicauth_mw.testing import authenticated_as
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIMiddleware
from tests.asgi.helpers import call, http_scope
from tests.integrations import django_site

# isort: split
from django.test import Client, override_settings  # with the settings of django_site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sentry_sdk.envelope import Envelope

    from tests.asgi.helpers import AnyApp


class _Collect(Transport):
    def __init__(self, events: list[Any]) -> None:
        super().__init__()
        self._events = events

    def capture_envelope(self, envelope: Envelope) -> None:
        if (event := envelope.get_event()) is not None:
            self._events.append(event)


RECIPE = {"on": False}


def recipe() -> Callable[[Any, Any], Any]:
    """The ``before_send`` from docs/errors.md."""
    text = (Path(__file__).parents[2] / "docs/errors.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(
        text.partition("```python\nfrom basicauth_mw import InsufficientScope\n")[2].partition("```")[0],
        globals(),
        names,
    )
    made: Callable[[Any, Any], Any] = names["before_send"]
    return made


def before_send(event: Any, hint: Any) -> Any:
    return recipe()(event, hint) if RECIPE["on"] else event


@pytest.fixture
def events() -> Iterator[list[Any]]:
    """The events that the SDK sends; a test may turn on the ``before_send`` from docs/errors.md."""
    collected: list[Any] = []
    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=_Collect(collected), before_send=before_send)
    yield collected
    sentry_sdk.init()


@pytest.mark.parametrize("place", ["installed", "around"])
def test_one_event_per_exception_without_the_credential(
    backend: Backend, issued: Issued, events: list[Any], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 500 is one event, that of the exception; a missing scope is none."""
    monkeypatch.setitem(RECIPE, "on", place == "around")
    app = FastAPI()

    @app.get("/boom")
    async def boom() -> None:
        raise ValueError("x")

    @app.get("/scope")
    async def scope() -> None:
        raise InsufficientScope

    settings = Settings(strip_authorization=True)
    protected: AnyApp = app
    if place == "installed":
        install(app, backend, settings=settings)
    else:
        protected = BasicAuthMiddleware(app, backend, settings=settings)

    assert call(protected, http_scope(issued.authorization, path="/scope")).status == 403
    assert events == []
    assert call(protected, http_scope(issued.authorization, path="/boom")).status == 500
    the_one(events, issued)


def the_one(events: list[Any], issued: Issued) -> None:
    """There is one event, that of the exception, without the credential."""
    (event,) = events
    assert [each["type"] for each in event["exception"]["values"]] == ["ValueError"]
    assert issued.authorization.removeprefix("Basic ") not in repr(event)
    assert issued.secret not in repr(event)


def flask_app() -> Flask:
    app = Flask("monitored")

    @app.get("/boom")
    def boom() -> str:
        raise ValueError("x")

    @app.get("/scope")
    def scope() -> str:
        raise InsufficientScope

    return app


@pytest.mark.parametrize("place", ["installed", "around", "around-a-layer"])
def test_one_event_per_exception_of_flask(
    backend: Backend, issued: Issued, events: list[Any], place: str
) -> None:
    """The same for Flask."""
    app = flask_app()
    settings = Settings(strip_authorization=True)
    if place == "installed":
        app.config["BASICAUTH_STRIP_AUTHORIZATION"] = True
        BasicAuth(app, backend)
    elif place == "around":
        app.wsgi_app = WSGIMiddleware(app.wsgi_app, backend, settings=settings)  # type: ignore[method-assign]
    else:
        app.wsgi_app = WSGIMiddleware(ProxyFix(app.wsgi_app), backend, settings=settings)  # type: ignore[method-assign]
    client = app.test_client()

    refused = client.get("/scope", headers={"Authorization": issued.authorization})
    assert (refused.status_code, refused.get_json()["code"]) == (403, "insufficient_scope")
    assert events == []
    assert client.get("/boom", headers={"Authorization": issued.authorization}).status_code == 500
    the_one(events, issued)


@pytest.mark.parametrize("map_errors", [True, False], ids=["mapped", "raised"])
def test_no_frame_of_the_middleware_contains_the_environ(
    backend: Backend, issued: Issued, events: list[Any], map_errors: bool
) -> None:
    """For a bare WSGI app, even without ``strip_authorization``."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        del environ, start_response
        raise ValueError("x")

    middleware = WSGIMiddleware(app, backend, settings=Settings(map_errors=map_errors))
    environ = {"HTTP_AUTHORIZATION": issued.authorization, "PATH_INFO": "/"}
    setup_testing_defaults(environ)
    given = [environ]
    del environ
    try:
        list(middleware(given.pop(), lambda *_: lambda _: None))
    except ValueError as exc:
        sentry_sdk.capture_exception(exc)

    the_one(events, issued)


@pytest.mark.usefixtures("events")
def test_the_middleware_is_found_in_django(backend: Backend) -> None:
    """Sentry wraps each middleware of Django in its own object, permanently."""
    with override_settings(BASICAUTH_BACKEND=backend, MIDDLEWARE=[django_site.MIDDLEWARE_PATH]):
        client = Client()
        with authenticated_as(client, "me"):
            assert client.get("/me").status_code == 200
        assert client.get("/me").status_code == 401
