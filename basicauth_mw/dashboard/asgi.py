"""The dashboard as an ASGI app, behind a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Router
from starlette.websockets import WebSocketClose

from ..asgi import BasicAuthMiddleware
from .requests import MAX_BODY_OCTETS, header, wants_html
from .site import PROBLEM

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from ..backends.backend import Backend
    from ..settings import Settings
    from .site import Site


class ASGIDashboard:
    """What ``dashboard`` gives. It answers the messages of a lifespan: a server may have nothing else."""

    def __init__(self, site: Site, backend: Backend, settings: Settings) -> None:
        self._site = site
        self._authenticator = BasicAuthMiddleware(self._app, backend, settings=settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and wants_html(header(scope, "accept"), scope["method"]):
            send = _with_pages(send, self._site)
        running = self._authenticator(scope, receive, send)
        del scope  # error monitors record the variables of each frame that an exception passes
        await running

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await Router()(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(code=1008)(scope, receive, send)
        else:
            try:
                body = await _read(Request(scope, receive))
            except ClientDisconnect:
                return  # in the middle of its form: half of one is none
            request = self._site.request(scope, body)
            del scope, body  # error monitors record the variables of each frame that an exception passes
            response = await run_in_threadpool(self._site.response, request)
            await response(request.scope, receive, send)


async def _read(request: Request) -> bytes | None:
    """The body; None: it is longer than ``MAX_BODY_OCTETS``."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_OCTETS:
            return None
    return bytes(body)


def _with_pages(send: Send, site: Site) -> Send:
    """Send pages in the place of the gate's own JSON: a person reads them."""
    held: Message | None = None

    async def sending(message: Message) -> None:
        nonlocal held
        if message["type"] == "http.response.start":
            if dict(message["headers"]).get(b"content-type") == PROBLEM.encode():
                held = message
                return
        elif held is not None:
            start, held = held, None
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
            page = site.gate_page(message.get("body", b""), headers)
            await send({**start, "headers": page.raw_headers})
            message = {**message, "body": page.body}
        await send(message)

    return sending
