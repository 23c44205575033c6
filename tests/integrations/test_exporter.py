"""Layers outside the middleware see the route and the caller: the real starlette_exporter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, generate_latest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette_exporter import PrometheusMiddleware

from basicauth_mw import Backend, Issued, Settings
from basicauth_mw.asgi import BasicAuthMiddleware
from tests.asgi.helpers import call, http_scope

if TYPE_CHECKING:
    from starlette.requests import Request


def test_metrics_have_the_route(backend: Backend, issued: Issued) -> None:
    """The path label is the template of the route, which the router finds inside our middleware."""

    async def item(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.path_params["number"])

    app = Starlette(routes=[Route("/items/{number}", item)])
    app.add_middleware(BasicAuthMiddleware, backend=backend, settings=Settings())
    app.add_middleware(PrometheusMiddleware, prefix="exported")

    assert call(app, http_scope(issued.authorization, path="/items/7")).status == 200

    assert b'path="/items/{number}"' in generate_latest(REGISTRY)
