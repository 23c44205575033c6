"""The dashboard as an ASGI app, inside the middleware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Router
from starlette.websockets import WebSocketClose

from ..asgi import BasicAuthMiddleware
from .app import FIXED_SETTINGS, PROBLEM, DashboardApp, api_scheme
from .request import MAX_BODY_BYTES, DashboardRequest, header, wants_html

if TYPE_CHECKING:
    from typing import Unpack

    from starlette.types import Message, Receive, Scope, Send

    from ..settings import Overrides, Settings
    from .handlers import Document


class ASGIDashboard:
    """What ``dashboard`` returns. It handles lifespan messages: a server may run nothing else."""

    def __init__(
        self, backend: Any, settings: Settings | None, openapi: Document, overrides: Overrides
    ) -> None:
        fixed: Overrides = {**overrides, **FIXED_SETTINGS}
        self._middleware = BasicAuthMiddleware(self._serve, backend, settings=settings, **fixed)
        self._app = DashboardApp(self._middleware.authenticator, openapi, api_scheme(settings, overrides))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and wants_html(header(scope, "accept"), scope["method"]):
            send = _with_pages(send, self._app)
        running = self._middleware(scope, receive, send)
        del scope  # error monitors record the variables of each frame that an exception passes
        await running

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await Router()(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(code=1008)(scope, receive, send)
        else:
            try:
                request = DashboardRequest(scope, await _read(Request(scope, receive)))
            except ClientDisconnect:
                return  # an incomplete form is not processed
            del scope  # as above
            response = await run_in_threadpool(self._app.respond, request)
            await response(request.scope, receive, send)


def dashboard(
    backend: Any = None,
    *,
    settings: Settings | None = None,
    openapi: Document = None,
    **overrides: Unpack[Overrides],
) -> ASGIDashboard:
    """Make the dashboard as an ASGI app: ``app.mount("/keys", dashboard(backend=...))``.

    It has a separate middleware over the same keys. Keys with the scope ``basicauth:admin`` can change keys
    in it, and those with ``basicauth:read`` can read them; all others are refused. Settings that would let
    requests bypass it, such as ``exclude``, have no effect.

    Args:
        backend: Holds the keys: a URL, a ``Backend`` from ``open_backend``, or a store; None:
            ``settings.backend``.
        settings: None: ``Settings.from_env()``.
        openapi: The OpenAPI document of the app that the keys are for, or a function that returns it; None:
            that of the FastAPI app around the dashboard, if any.
        **overrides: Any field of ``Settings``. The first of ``schemes`` is how code samples send a key; users
            always sign in with Basic credentials.

    Raises:
        ConfigurationError: Names every problem, and no secret.

    .. versionadded:: 0.1
    """
    return ASGIDashboard(backend, settings, openapi, overrides)


async def _read(request: Request) -> bytes | None:
    """Read the body; None if it is longer than ``MAX_BODY_BYTES``."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def _with_pages(send: Send, app: DashboardApp) -> Send:
    """Send pages in place of the middleware's JSON problems."""
    start: Message | None = None

    async def send_page(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            if dict(message["headers"]).get(b"content-type") == PROBLEM.encode():
                start = message
                return
        elif start is not None:
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
            page = app.auth_error_page(message.get("body", b""), headers)
            await send({**start, "headers": page.raw_headers})
            start, message = None, {**message, "body": page.body}
        await send(message)

    return send_page
