"""FastAPI apps for tests with a browser; keys come from the environment."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.integrations.fastapi import CurrentPrincipal, install

documented = FastAPI()
"""An app with public documentation."""


@documented.get("/hello")
async def hello(caller: CurrentPrincipal) -> dict[str, str]:
    """Return the caller."""
    return {"hello": caller.client_id}


install(documented, exclude=["/docs", "/openapi.json"])


# --- CORS, for scripts from the origin ORIGIN

CORS: dict[str, Any] = {
    "allow_origins": [os.environ.get("ORIGIN", "")],
    "allow_headers": ["Authorization"],
    "expose_headers": ["X-Request-ID"],
}


def _api() -> FastAPI:
    api = FastAPI()

    @api.get("/hello")
    async def hello(caller: CurrentPrincipal) -> dict[str, str]:
        return {"hello": caller.client_id}

    @api.get("/boom")
    async def boom() -> None:
        raise RuntimeError("canary of the handler")

    return api


cors_installed = _api()
install(cors_installed)
cors_installed.add_middleware(CORSMiddleware, **CORS)

cors_outside = CORSMiddleware(BasicAuthMiddleware(_api()), **CORS)

_inside = _api()
_inside.add_middleware(CORSMiddleware, **CORS)
cors_inside = BasicAuthMiddleware(_inside)
