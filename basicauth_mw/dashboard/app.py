"""The dashboard as an ASGI app and as a WSGI app: two thin shells round ``Site``, each behind a gate."""

from __future__ import annotations

import json
import weakref
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.concurrency import run_in_threadpool

from ..asgi import BasicAuthMiddleware as ASGIGate
from ..backend import Backend, open_backend
from ..errors import ConfigurationError
from ..settings import Settings
from ..wsgi import PRINCIPAL
from ..wsgi import BasicAuthMiddleware as WSGIGate
from . import pages
from .facts import HTML, MAX_BODY_OCTETS, Request, safe_headers
from .site import Site

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping

    from .facts import Answer

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Environ = dict[str, Any]
    StartResponse = Callable[..., Any]
    Document = Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None

# Those of an app's settings that would let somebody past the gate, or take away what forms are bound to.
_FIXED: Final[Mapping[str, Any]] = {
    "exclude": (),
    "allow_preflight": False,
    "strip_authorization": False,
    "challenge": "always",
    "map_errors": True,
    "timeout_s": None,
}
_PROBLEM: Final = "application/problem+json"


def dashboard(
    backend: Any = None, *, settings: Settings | None = None, openapi: Document = None, **overrides: Any
) -> ASGIDashboard:
    """Make the dashboard as an ASGI app: ``app.mount("/keys", dashboard(backend=...))``.

    It is behind a gate of its own, over the same keys, and open to those with the scope ``basicauth:admin``
    only. Settings that would open it (``exclude`` and the like) do nothing here.

    Args:
        backend: Where the keys are: a URL, what ``open_backend`` gives, or a store; None:
            ``settings.backend``.
        settings: None: ``Settings.from_env()``.
        openapi: The OpenAPI document of the app that the keys are for, or what gives it; None: that of the
            FastAPI app in which it is mounted, if it is.
        **overrides: Any field of ``Settings``.

    Raises:
        ConfigurationError: Names everything that is wrong, and no secret.

    .. versionadded:: 0.1
    """
    opened, resolved, owned = _opened(backend, settings, overrides)
    app = ASGIDashboard(Site(opened, resolved, openapi=openapi), opened, resolved)
    if owned:
        weakref.finalize(app, opened.close)
    return app


def wsgi_dashboard(
    backend: Any = None, *, settings: Settings | None = None, openapi: Document = None, **overrides: Any
) -> WSGIDashboard:
    """Make the dashboard as a WSGI app, for Werkzeug's ``DispatcherMiddleware`` or any other.

    Args:
        backend: As for ``dashboard``.
        settings: None: ``Settings.from_env()``.
        openapi: The OpenAPI document of the app that the keys are for, or what gives it; None: there is none.
        **overrides: Any field of ``Settings``.

    Raises:
        ConfigurationError: Names everything that is wrong, and no secret.

    .. versionadded:: 0.1
    """
    opened, resolved, owned = _opened(backend, settings, overrides)
    app = WSGIDashboard(Site(opened, resolved, openapi=openapi), opened, resolved)
    if owned:
        weakref.finalize(app, opened.close)
    return app


def _opened(
    backend: Any, settings: Settings | None, overrides: Mapping[str, Any]
) -> tuple[Backend, Settings, bool]:
    """Backend, settings, and whether the backend is ours to close."""
    resolved = Settings.from_env(**overrides) if settings is None else settings.replace(**overrides)
    resolved = resolved.replace(**_FIXED)
    if backend is None or isinstance(backend, str):
        return open_backend(backend, settings=resolved), resolved, True
    if isinstance(backend, Backend):
        return backend, resolved, False
    if isinstance(backend, type) or not hasattr(backend, "get"):
        raise ConfigurationError("backend is a URL, or an object with get: see open_backend")
    return Backend(backend, settings=resolved), resolved, False


# --- ASGI


class ASGIDashboard:
    """What ``dashboard`` gives. It answers the messages of a lifespan: a server may have nothing else."""

    def __init__(self, site: Site, backend: Backend, settings: Settings) -> None:
        self._site = site
        self._gate = ASGIGate(self._inside, backend, settings=settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _wants_page(_field(scope, b"accept"), scope["method"]):
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
            raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in _sized(answer)]
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
            if dict(message["headers"]).get(b"content-type") == _PROBLEM.encode():
                self._held = message
                return
        elif self._held is not None:
            start, self._held = self._held, None
            body, headers = _gate_page(
                self._site,
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
        principal=scope["user"],
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


# --- WSGI


class WSGIDashboard:
    """What ``wsgi_dashboard`` gives."""

    def __init__(self, site: Site, backend: Backend, settings: Settings) -> None:
        self._site = site
        self._gate = WSGIGate(self._inside, backend, settings=settings)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if not _wants_page(environ.get("HTTP_ACCEPT"), str(environ.get("REQUEST_METHOD", ""))):
            return self._gate(environ, start_response)
        held: list[Any] = []

        def hold(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if dict(headers).get("Content-Type") != _PROBLEM:
                return start_response(status, headers, *([exc_info] if exc_info else []))
            held[:] = [status, headers, exc_info]
            return None

        result = self._gate(environ, hold)
        if not held:
            return result
        status, headers, exc_info = held
        body, headers = _gate_page(self._site, b"".join(result), headers)
        start_response(status, headers, *([exc_info] if exc_info else []))
        return [body]

    def _inside(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        answer = self._site.answer(_environ_request(environ))
        phrase = HTTPStatus(answer.status).phrase
        start_response(f"{answer.status} {phrase}", list(_sized(answer)))
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [answer.body]


def _environ_request(environ: Environ) -> Request:
    def text(name: str) -> str:
        return str(environ.get(name) or "")

    def unicode(name: str) -> str:
        return text(name).encode("latin-1", "replace").decode("utf-8", "replace")

    return Request(
        method=text("REQUEST_METHOD"),
        path=unicode("PATH_INFO"),
        root=unicode("SCRIPT_NAME").rstrip("/"),
        principal=environ[PRINCIPAL],
        authorization=text("HTTP_AUTHORIZATION").encode("latin-1"),
        query=text("QUERY_STRING"),
        body=_read_input(environ),
        content_type=text("CONTENT_TYPE"),
        host=text("HTTP_HOST") or f"{text('SERVER_NAME')}:{text('SERVER_PORT')}",
        scheme=text("wsgi.url_scheme") or "http",
        site=environ.get("HTTP_SEC_FETCH_SITE"),
        origin=environ.get("HTTP_ORIGIN"),
    )


def _read_input(environ: Environ) -> bytes | None:
    """The body; None: it is too long. One that ends too early is none."""
    said = str(environ.get("CONTENT_LENGTH") or "")
    if said.isascii() and said.isdecimal():
        length = int(said[:12])
        if length > MAX_BODY_OCTETS:
            return None
        body: bytes = environ["wsgi.input"].read(length)
        return body if len(body) >= length else b""
    if not environ.get("wsgi.input_terminated"):
        return b""
    rest: bytes = environ["wsgi.input"].read(MAX_BODY_OCTETS + 1)
    return rest if len(rest) <= MAX_BODY_OCTETS else None


# --- both


def _wants_page(accept: str | None, method: str) -> bool:
    return method != "HEAD" and accept is not None and "text/html" in accept.lower()


def _sized(answer: Answer) -> tuple[tuple[str, str], ...]:
    return (*answer.headers, ("Content-Length", str(len(answer.body))))


def _gate_page(
    site: Site, problem: bytes, headers: list[tuple[str, str]]
) -> tuple[bytes, list[tuple[str, str]]]:
    """A page that says what a problem of the gate says, and its header fields."""
    told = json.loads(problem)
    markup = pages.gate_page(
        told["status"], told["title"], told["detail"], told["code"], told["request_id"], site.style
    ).encode()
    replaced = {"content-type", "content-length", "x-content-type-options"}
    kept = [(name, value) for name, value in headers if name.lower() not in replaced]
    fields = [("Content-Type", HTML), ("Content-Length", str(len(markup))), *safe_headers(site.style_source)]
    return markup, [*kept, *fields]
