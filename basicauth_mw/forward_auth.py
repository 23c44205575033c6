"""The gate as a service that a proxy asks: nginx by ``auth_request``, Caddy by ``forward_auth``.

::

    BASICAUTH_BACKEND=sqlite:///keys.db uvicorn basicauth_mw.forward_auth:app

``/`` and everything under ``/check`` checks the key: 200 for a valid one, with who it is in
``X-Auth-Client-Id`` and ``X-Auth-Scopes``; else what the middleware answers.
``/health`` and ``/ready`` are probes, without a key. Everything else is 404. ``docs/gateways.md`` has the
proxies' side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from .asgi import PRINCIPAL, ASGIRequest, BasicAuthMiddleware, _refuse
from .auth.problems import Problem, render, to_problem
from .errors import BackendUnavailable, ConfigurationError

if TYPE_CHECKING:
    from typing import Unpack

    from .asgi import AnyReceive, AnySend, Message, Receive, Scope, Send
    from .settings import Overrides, Settings

    app: BasicAuthMiddleware

# All that is printable in ASCII, but the percent sign itself: so decoding always gives the id back.
_SAFE: Final = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
_NOT_FOUND: Final = Problem(404, "not_found", "There is nothing at this path.")


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = create_app()
    return made


def create_app(
    backend: Any = None, *, settings: Settings | None = None, **overrides: Unpack[Overrides]
) -> BasicAuthMiddleware:
    """Make the service; the arguments are those of ``BasicAuthMiddleware``.

    Raises:
        ConfigurationError: As there; or something is to be open, which only the proxy can know.
    """
    app = _Service(_answer, backend, settings=settings, **overrides)
    configured = app.authenticator.settings
    if configured.exclude or configured.allow_preflight:
        raise ConfigurationError(
            "exclude and allow_preflight: not here, where a path is the proxy's own; "
            "let the proxy not ask for what is open"
        )
    return app


class _Service(BasicAuthMiddleware):
    """Sends key checks to the middleware, and answers probes and unknown paths itself."""

    async def __call__(self, scope: Any, receive: AnyReceive, send: AnySend) -> None:
        path = "/" if scope["type"] == "lifespan" else scope["path"]
        if path in ("/", "/check") or path.startswith("/check/"):
            await super().__call__(scope, receive, send)
            return
        problem = _NOT_FOUND
        raw = ASGIRequest.path(scope)[2]
        if scope["type"] == "http" and path in ("/health", "/ready") and raw in (b"", path.encode()):
            if path == "/health" or await self.authenticator.backend.aready():
                # Envoy asks with the path of the app unless it has a path_prefix, and lets a request through
                # only if the status is 200. So 204 can never open the app's own path of this name.
                headers = [(b"cache-control", b"no-store")]
                await send({"type": "http.response.start", "status": 204, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
            problem = to_problem(BackendUnavailable())
        answer = render(problem, request_id=self.authenticator.request_id(scope), challenge="")
        await _refuse(scope, receive, send, answer)


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell the proxy who it is. The gate has checked the key already."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    prefix = ""
    if scope["type"] == "websocket":  # a proxy may ask with the handshake's own header fields
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
    # Not 204: Envoy sends any status but 200 to the client.
    await send({"type": f"{prefix}http.response.start", "status": 200, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": b""})


async def _live(receive: Receive, send: Send) -> None:
    message: Message = {}
    while message.get("type") != "lifespan.shutdown":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
