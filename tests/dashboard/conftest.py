"""The dashboard in both its forms, driven without a server."""

from __future__ import annotations

import asyncio
import re
from html import unescape
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx
import pytest

from basicauth_mw import Backend, Principal, Settings, open_backend
from basicauth_mw.asgi import PRINCIPAL
from basicauth_mw.dashboard import ADMIN_SCOPE, dashboard, wsgi_dashboard
from basicauth_mw.dashboard.requests import DashboardRequest
from basicauth_mw.keys.model import utcnow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BASE = "http://127.0.0.1:8000"
SECRET = re.compile(r"\bsk_[0-9A-Za-z]{49}\b")
DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {
        "/echo": {
            "post": {
                "summary": "Echo",
                "requestBody": {"content": {"application/json": {"example": {"text": "it's"}}}},
            }
        },
        "/missing": {"get": {"summary": "Missing"}},
    },
}


class Visitor:
    """A browser that is signed in, more or less.

    Attributes:
        authorization: Sent with every request; None: nothing is.
    """

    def __init__(self, app: Any, kind: str, authorization: str | None, root: str = "") -> None:
        self.app, self.kind, self.authorization, self.root = app, kind, authorization, root

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """One request."""
        fields = {"Accept": "text/html,*/*;q=0.8", **(headers or {})}
        if self.authorization is not None:
            fields["Authorization"] = self.authorization
        if self.kind == "wsgi":
            transport = httpx.WSGITransport(self.app, script_name=self.root)
            with httpx.Client(transport=transport, base_url=BASE) as client:
                return client.request(method, path, headers=fields, **more)

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, root_path=self.root)
            async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
                return await client.request(method, self.root + path, headers=fields, **more)

        return asyncio.run(ask())

    def get(self, path: str, **query: str) -> httpx.Response:
        """Follow a link."""
        return self.request("GET", path + (f"?{urlencode(query)}" if query else ""))

    def post(self, path: str, fields: Mapping[str, str], **headers: str) -> httpx.Response:
        """Send a form as a browser does."""
        sent = {
            "Sec-Fetch-Site": "same-origin",
            **{name.replace("_", "-"): at for name, at in headers.items()},
        }
        return self.request("POST", path, headers=sent, data=dict(fields))

    def form(self, path: str, **query: str) -> dict[str, str]:
        """The hidden fields of the form on a page."""
        answer = self.get(path, **query)
        assert answer.status_code == 200, answer.text
        return hidden(answer.text)

    def create(self, **fields: str) -> httpx.Response:
        """Make a key by the form."""
        return self.post("/new", {**self.form("/new"), "expires": "never", **fields})


def a_request() -> DashboardRequest:
    """Of somebody who is signed in."""
    principal = Principal("me", scopes=frozenset({ADMIN_SCOPE}))
    scope = {"type": "http", "path": "/", "headers": [], PRINCIPAL: principal}
    return DashboardRequest(scope, b"", utcnow())


def hidden(markup: str) -> dict[str, str]:
    """The hidden fields of the first form that is posted."""
    form = markup.partition('method="post"')[2].partition("</form>")[0]
    return {
        name: unescape(value)
        for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form)
    }


@pytest.fixture
def backend() -> Backend:
    return open_backend("memory:", settings=Settings())


@pytest.fixture(params=["asgi", "wsgi"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def visitor(backend: Backend, kind: str) -> Callable[..., Visitor]:
    """Make a visitor who is signed in with a new key; ``scopes``: of it."""

    def sign_in(
        *scopes: str, over: Any = None, authorization: str | None = None, root: str = "", **settings: Any
    ) -> Visitor:
        make = dashboard if kind == "asgi" else wsgi_dashboard
        app = make(over or backend, settings=Settings(**settings), openapi=DOCUMENT)
        if authorization is None:
            authorization = backend.create(name="me", scopes=scopes or [ADMIN_SCOPE]).authorization
        return Visitor(app, kind, authorization, root)

    return sign_in


@pytest.fixture
def admin(visitor: Callable[..., Visitor]) -> Visitor:
    """One with the scope that it takes."""
    return visitor()
