"""The dashboard as an ASGI and as a WSGI app, without a server."""

from __future__ import annotations

import asyncio
import re
from html import unescape
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx
import pytest

from basicauth_mw import Backend, Principal, Settings, open_backend
from basicauth_mw.auth.request_adapters import PRINCIPAL
from basicauth_mw.dashboard import ADMIN_SCOPE, dashboard, wsgi_dashboard
from basicauth_mw.dashboard.request import DashboardRequest
from basicauth_mw.dashboard.templates import render_template

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
    """A browser; ``authorization`` is sent with every request, unless it is None."""

    def __init__(self, app: Any, kind: str, authorization: str | None, root: str = "") -> None:
        self.app, self.kind, self.authorization, self.root = app, kind, authorization, root

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """Send a request."""
        fields = {"Accept": "text/html,*/*;q=0.8", **(headers or {})}
        if self.authorization is not None:
            fields["Authorization"] = self.authorization
        if self.kind == "wsgi":
            transport = httpx.WSGITransport(self.app, script_name=self.root)
            with httpx.Client(transport=transport, base_url=BASE) as client:
                return client.request(method, path, headers=fields, **more)

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, root_path=self.root)
            async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
                return await client.request(method, self.root + path, headers=fields, **more)

        return asyncio.run(send())

    def get(self, path: str, **query: str) -> httpx.Response:
        """Follow a link."""
        return self.request("GET", path + (f"?{urlencode(query)}" if query else ""))

    def post(self, path: str, fields: Mapping[str, str], **headers: str) -> httpx.Response:
        """Submit a form as a browser does."""
        sent = {
            "Sec-Fetch-Site": "same-origin",
            **{name.replace("_", "-"): at for name, at in headers.items()},
        }
        return self.request("POST", path, headers=sent, data=dict(fields))

    def form(self, path: str, **query: str) -> dict[str, str]:
        """Return the hidden fields of the form on a page."""
        response = self.get(path, **query)
        assert response.status_code == 200, response.text
        return hidden(response.text)

    def create(self, **fields: str) -> httpx.Response:
        """Create a key with the form."""
        return self.post("/new", {**self.form("/new"), "expires": "never", **fields})


def a_request() -> DashboardRequest:
    """A request of an administrator."""
    principal = Principal("me", scopes=frozenset({ADMIN_SCOPE}))
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], PRINCIPAL: principal}
    return DashboardRequest(scope, b"")


def render_page(template: str, **context: Any) -> str:
    """Render a page for an administrator."""
    return render_template(
        template,
        request=a_request(),
        writable=True,
        may_create=True,
        **{
            "deleted": "",
            "expiring": (0, False),
            "done": "",
            "history": [],
            "problem": None,
            "errors": {},
            "listable": True,
            **context,
        },
    )


def hidden(markup: str) -> dict[str, str]:
    """Return the hidden fields of the first form with method POST."""
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
    """Return a function that signs in with a new key that has the given scopes."""

    def sign_in(
        *scopes: str, keys: Any = None, authorization: str | None = None, root: str = "", **settings: Any
    ) -> Visitor:
        make = dashboard if kind == "asgi" else wsgi_dashboard
        app = make(keys or backend, settings=Settings(**settings), openapi=DOCUMENT)
        if authorization is None:
            authorization = backend.create(name="me", scopes=scopes or [ADMIN_SCOPE]).authorization
        return Visitor(app, kind, authorization, root)

    return sign_in


@pytest.fixture
def admin(visitor: Callable[..., Visitor]) -> Visitor:
    """A visitor with the scope ``basicauth:admin``."""
    return visitor()
