"""A service that verifies keys for a reverse proxy: nginx, Caddy, Envoy, HAProxy and others.

::

    BASICAUTH_BACKEND=sqlite:///keys.db uvicorn basicauth_mw.forward_auth:app

``/`` and every path under ``/check`` verify a key. For a valid key the response is a 200 with the headers
``X-Auth-Client-Id`` and ``X-Auth-Scopes``, otherwise that of the middleware. ``/health`` and ``/ready`` are
probes without a key. Any other path is a 404. ``docs/gateways.md`` shows the configuration of the proxy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from .asgi import BasicAuthMiddleware
from .auth.problems import Problem, render, to_problem
from .auth.request_adapters import PRINCIPAL, ASGIRequest
from .errors import BackendUnavailable, ConfigurationError
from .responses.asgi_send import refuse

if TYPE_CHECKING:
    from typing import Unpack

    from .asgi import AnyReceive, AnySend
    from .responses.asgi_send import Message, Receive, Scope, Send
    from .settings import Overrides, Settings

    app: BasicAuthMiddleware

__all__ = ["app", "create_app"]

# All visible ASCII characters except the percent sign, so that decoding always restores the client ID.
_SAFE: Final = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
_NOT_FOUND: Final = Problem(404, "not_found", "There is nothing at this path.")


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = globals()[name] = create_app()
    return app


def create_app(
    backend: Any = None, *, settings: Settings | None = None, **overrides: Unpack[Overrides]
) -> BasicAuthMiddleware:
    """Create the service; the arguments are those of ``BasicAuthMiddleware``.

    Raises:
        ConfigurationError: The configuration is invalid, or has ``include``, ``exclude``, ``optional``
            or ``allow_preflight``. The service does not know which path the client requested, so the proxy
            has to decide.
    """
    app = _Service(_send_identity, backend, settings=settings, **overrides)
    resolved = app.authenticator.settings
    if resolved.include or resolved.exclude or resolved.optional or resolved.allow_preflight:
        raise ConfigurationError(
            "include, exclude, optional and allow_preflight have no effect in forward_auth; "
            "configure the proxy to skip the check for public paths"
        )
    return app


class _Service(BasicAuthMiddleware):
    """The middleware on the paths that verify a key; probes and 404 responses on all others."""

    async def __call__(self, scope: Any, receive: AnyReceive, send: AnySend) -> None:
        path = "/" if scope["type"] == "lifespan" else scope["path"]
        if path in ("/", "/check") or path.startswith("/check/"):
            await super().__call__(scope, receive, send)
            return
        problem = _NOT_FOUND
        raw = ASGIRequest.path(scope)[2]
        if scope["type"] == "http" and path in ("/health", "/ready") and raw in (b"", path.encode()):
            if path == "/health" or await self.authenticator.backend.aready():
                # Without a path_prefix, Envoy sends the path of the request, and allows the request only for
                # a 200. So a 204 can never allow a request for /health or /ready of the app itself.
                headers = [(b"cache-control", b"no-store")]
                await send({"type": "http.response.start", "status": 204, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
            problem = to_problem(BackendUnavailable())
        response = render(problem, request_id=self.authenticator.request_id(scope))
        await refuse(scope, receive, send, response)


async def _send_identity(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the verified identity to the proxy; the app inside the middleware."""
    if scope["type"] == "lifespan":
        message: Message = {}
        while message.get("type") != "lifespan.shutdown":
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
        return
    prefix = ""
    if scope["type"] == "websocket":  # a proxy may forward the headers of a handshake
        await receive()
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        prefix = "websocket."
    principal = scope[PRINCIPAL]
    headers = [
        (b"x-auth-client-id", quote(principal.client_id, safe=_SAFE).encode()),
        (b"x-auth-scopes", " ".join(sorted(principal.scopes)).encode()),
        (b"cache-control", b"no-store"),
        (b"content-length", b"0"),
    ]
    # Not 204: Envoy sends any status other than 200 to the client.
    await send({"type": f"{prefix}http.response.start", "status": 200, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": b""})
