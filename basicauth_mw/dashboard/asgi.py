"""The dashboard as an ASGI app: a thin shell round ``Site``, behind a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from ..asgi import PRINCIPAL, BasicAuthMiddleware
from .facts import MAX_BODY_OCTETS, PROBLEM, Request, wants_page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from ..backend import Backend
    from ..settings import Settings
    from .site import Site

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]


class ASGIDashboard:
    """What ``dashboard`` gives. It answers the messages of a lifespan: a server may have nothing else."""

    def __init__(self, site: Site, backend: Backend, settings: Settings) -> None:
        self._site = site
        self._gate = BasicAuthMiddleware(self._inside, backend, settings=settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and wants_page(_field(scope, b"accept"), scope["method"]):
            send = _GatePages(send, self._site).send
        await self._gate(scope, receive, send)

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
        else:
            try:
                body = await _read(receive)
            except EOFError:
                return  # the client has gone in the middle of its form: half of one is none
            answer = await run_in_threadpool(self._site.answer, _scope_request(scope, body))
            raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.sized()]
            await send({"type": "http.response.start", "status": answer.status, "headers": raw})
            shown = b"" if scope["method"] == "HEAD" else answer.body
            await send({"type": "http.response.body", "body": shown})


class _GatePages:
    """Puts a page in the place of the gate's own JSON answers: a person reads them."""

    def __init__(self, send: Send, site: Site) -> None:
        self._send = send
        self._site = site
        self._held: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if dict(message["headers"]).get(b"content-type") == PROBLEM.encode():
                self._held = message
                return
        elif self._held is not None:
            start, self._held = self._held, None
            body, headers = self._site.in_place_of(
                message.get("body", b""),
                [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]],
            )
            raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
            await self._send({**start, "headers": raw})
            message = {**message, "body": body}
        await self._send(message)


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _read(receive: Receive) -> bytes | None:
    """The body; None: it is too long.

    Raises:
        EOFError: The client has gone before it had sent all of it.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise EOFError
        body += message.get("body", b"")
        if len(body) > MAX_BODY_OCTETS:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _field(scope: Scope, name: bytes) -> str | None:
    found = [value for key, value in scope["headers"] if key.lower() == name]
    return b", ".join(found).decode("latin-1") if found else None


def _scope_request(scope: Scope, body: bytes | None) -> Request:
    root, path = scope.get("root_path") or "", scope["path"]
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    return Request(
        method=scope["method"],
        path=path,
        root=root.rstrip("/"),
        principal=scope[PRINCIPAL],
        authorization=(_field(scope, b"authorization") or "").encode("latin-1"),
        query=(scope.get("query_string") or b"").decode("latin-1"),
        body=body,
        content_type=_field(scope, b"content-type") or "",
        host=_field(scope, b"host") or "",
        scheme=scope.get("scheme", "http"),
        site=_field(scope, b"sec-fetch-site"),
        origin=_field(scope, b"origin"),
        base=_base_of(scope),
        openapi=lambda: _document_of(scope.get("app")),
    )


def _base_of(scope: Scope) -> str:
    """Where the app in which the dashboard is mounted begins itself: above the place of the mount."""
    root: str = scope.get("root_path") or ""
    for route in getattr(scope.get("app"), "routes", ()):
        if getattr(route, "app", None) is scope.get("endpoint") and root.endswith(route.path):
            return root.removesuffix(route.path)
    return scope.get("app_root_path") or ""


def _document_of(app: object) -> Mapping[str, Any] | None:
    """The OpenAPI document of a FastAPI app, told by what it can do."""
    give = getattr(app, "openapi", None)
    document: Mapping[str, Any] | None = give() if callable(give) else None
    return document
