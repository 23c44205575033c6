"""The gate as a service that a proxy asks: nginx by ``auth_request``, Caddy by ``forward_auth``.

::

    BASICAUTH_BACKEND=sqlite:///keys.db uvicorn basicauth_mw.forward_auth:app

Every request is answered, whatever its path: 204 for a valid key, with who it is in ``X-Auth-Client-Id`` and
``X-Auth-Scopes``; else what the middleware answers. ``docs/gateways.md`` has the proxies' side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from .asgi import PRINCIPAL, BasicAuthMiddleware
from .errors import ConfigurationError

if TYPE_CHECKING:
    from .asgi import Message, Receive, Scope, Send
    from .settings import Settings

    app: BasicAuthMiddleware

# All that is printable in ASCII, but the percent sign itself: so decoding always gives the id back.
_SAFE: Final = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = create_app()
    return made


def create_app(
    backend: Any = None, *, settings: Settings | None = None, **overrides: Any
) -> BasicAuthMiddleware:
    """Make the service; the arguments are those of ``BasicAuthMiddleware``.

    Raises:
        ConfigurationError: As there; or something is to be open, which only the proxy can know.
    """
    app = BasicAuthMiddleware(_answer, backend, settings=settings, **overrides)
    configured = app.gate.settings
    if configured.exclude or configured.allow_preflight:
        raise ConfigurationError(
            "exclude and allow_preflight: not here, where a path is the proxy's own; "
            "let the proxy not ask for what is open"
        )
    return app


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
    ]
    await send({"type": f"{prefix}http.response.start", "status": 204, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": b""})


async def _live(receive: Receive, send: Send) -> None:
    message: Message = {}
    while message.get("type") != "lifespan.shutdown":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
