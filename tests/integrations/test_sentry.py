"""What the real Sentry SDK reports of an app behind the middleware."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

# The SDK imports eventlet where it is installed, as here for the tests of servers, and eventlet then warns of
# every fork of this process.
# ruff: noqa: E402
sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]

# isort: split
import sentry_sdk
from fastapi import FastAPI
from sentry_sdk.transport import Transport

from basicauth_mw import Backend, InsufficientScope, Issued, Settings
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.integrations.fastapi import install
from tests.shells.asgi_helpers import call, http_scope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentry_sdk.envelope import Envelope

    from tests.shells.asgi_helpers import AnyApp


class _Collect(Transport):
    def __init__(self, events: list[Any]) -> None:
        super().__init__()
        self._events = events

    def capture_envelope(self, envelope: Envelope) -> None:
        if (event := envelope.get_event()) is not None:
            self._events.append(event)


@pytest.fixture
def events() -> Iterator[list[Any]]:
    """The events that an SDK with the recipe of docs/errors.md sends."""
    collected: list[Any] = []
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1", transport=_Collect(collected), ignore_errors=[InsufficientScope]
    )
    yield collected
    sentry_sdk.init()


@pytest.mark.parametrize("place", ["installed", "around"])
def test_one_event_per_exception_without_the_credential(
    backend: Backend, issued: Issued, events: list[Any], place: str
) -> None:
    """A 500 is the exception's own event and nothing else; a missing scope is none."""
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
    (event,) = events
    assert [each["type"] for each in event["exception"]["values"]] == ["ValueError"]
    assert issued.authorization.removeprefix("Basic ") not in repr(event)
    assert issued.secret not in repr(event)
