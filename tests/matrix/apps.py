"""The same app for ASGI and WSGI, without a framework, which could change responses.

Every response of the app has ``X-Reached``: the client ID of the caller, or ``anonymous``. A response without
it comes from the middleware or the server. Keys and settings come from the environment.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basicauth_mw import InsufficientScope
from basicauth_mw.asgi import BasicAuthMiddleware as ASGIMiddleware
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIMiddleware
from tests.matrix.paths import OPEN, OPTIONAL, OWN, STREAM_LIMIT_S, TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

RAISES: dict[str, Callable[[], Exception]] = {
    "/raise": lambda: RuntimeError("canary of the request handler"),
    "/raise/timeout": lambda: TimeoutError("canary of the request handler"),
    "/raise/scope": lambda: InsufficientScope("write"),
}


def waits_for(headers: dict[str, str]) -> Path:
    """A file that the client creates when it has the first chunk."""
    return Path(headers["x-wait-for"])


# --- ASGI


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    reached = scope["user"].client_id or "anonymous"
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": reached})
        await send({"type": "websocket.close", "code": 1000, "reason": ""})
        return
    path = scope["path"]

    async def start(status: int = 200, *more: tuple[bytes, bytes]) -> None:
        fields = [(b"content-type", b"text/plain"), (b"x-reached", ascii(reached).strip("'").encode()), *more]
        await send({"type": "http.response.start", "status": status, "headers": fields})

    async def body(data: bytes, *, more: bool = False) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": more})

    if path in RAISES:
        raise RAISES[path]()
    if path == "/raise/started":
        await start()
        raise RuntimeError("canary of the request handler")
    if path == "/raise/late":
        await start()
        await body(b"x" * 1000, more=True)
        raise RuntimeError("canary of the request handler")
    if path == "/raise/short":
        await start(200, (b"content-length", b"2000"))
        await body(b"x" * 1000, more=True)
        raise RuntimeError("canary of the request handler")
    if path == "/slow":
        await asyncio.sleep(STREAM_LIMIT_S)
    elif path == "/stream":
        await start()
        await body(b"first", more=True)
        ends = time.monotonic() + STREAM_LIMIT_S
        while not waits_for(headers).exists():
            if time.monotonic() > ends:
                raise TimeoutError("the client did not get the first chunk")
            await asyncio.sleep(0.01)
        await body(b"second")
    elif path in OWN:
        status, _, data = OWN[path]
        length = () if status == 204 else ((b"content-length", str(len(data)).encode()),)
        await start(status, *length, (b"x-own", b"kept"))
        await body(b"" if scope["method"] == "HEAD" else data)
    else:
        read = 0
        if scope["method"] in ("POST", "PUT"):
            while True:
                message = await receive()
                read += len(message.get("body", b""))
                if not message.get("more_body"):
                    break
        details = {
            "client_id": scope["user"].client_id,
            "user": type(scope["user"]).__name__,
            "scopes": list(scope["auth"].scopes),
            "method": scope["method"],
            "path": path,
            "read": read,
            "headers": headers,
            "http_version": scope["http_version"],
            "scheme": scope["scheme"],
            "address": scope["client"][0],
        }
        data = json.dumps(details).encode()
        await start(200, (b"content-length", str(len(data)).encode()))
        await body(b"" if scope["method"] == "HEAD" else data)


_asgi = ASGIMiddleware(asgi_app, exclude=OPEN, optional=OPTIONAL)
_asgi_with_timeout = ASGIMiddleware(asgi_app, timeout_s=TIMEOUT_S)


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """A layer outside the middleware that sets an identity. One path has a middleware with a timeout."""
    if scope["type"] == "lifespan":
        await _asgi(scope, receive, send)
        return
    planted = {**scope, "user": "planted", "auth": "planted"}
    await (_asgi_with_timeout if scope["path"] == "/slow" else _asgi)(planted, receive, send)


# --- WSGI


def wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    principal = environ["basicauth_mw.principal"]
    reached = principal.client_id if principal else "anonymous"

    def start(status: str = "200 OK", *more: tuple[str, str]) -> None:
        start_response(
            status, [("Content-Type", "text/plain"), ("X-Reached", ascii(reached).strip("'")), *more]
        )

    def chunks(*data: bytes, started: bool = False, length: int | None = None) -> Iterator[bytes]:
        if not started:
            start("200 OK", *([] if length is None else [("Content-Length", str(length))]))
        yield from data
        raise RuntimeError("canary of the request handler")

    def stream() -> Iterator[bytes]:
        yield b"first"
        ends = time.monotonic() + STREAM_LIMIT_S
        while not Path(environ["HTTP_X_WAIT_FOR"]).exists():
            if time.monotonic() > ends:
                raise TimeoutError("the client did not get the first chunk")
            time.sleep(0.01)
        yield b"second"

    if path in RAISES:
        raise RAISES[path]()
    if path == "/raise/started":
        start()
        raise RuntimeError("canary of the request handler")
    if path == "/write":
        write = start_response("200 OK", [("Content-Type", "text/plain"), ("X-Reached", reached)])
        write(b"written ")
        return [b"and given"]
    if path == "/raise/generator":
        return chunks()
    if path == "/raise/started-generator":
        start()
        return chunks(started=True)
    if path == "/raise/empty-chunk":
        start()
        return chunks(b"", started=True)
    if path == "/raise/late":
        return chunks(b"x" * 1000)
    if path == "/raise/short":
        return chunks(b"x" * 1000, length=2000)
    if path == "/stream":
        start()
        return stream()
    if path in OWN:
        status, phrase, data = OWN[path]
        length = [] if status == 204 else [("Content-Length", str(len(data)))]
        start(f"{status} {phrase}", *length, ("X-Own", "kept"))
        return [] if environ["REQUEST_METHOD"] == "HEAD" or not data else [data]
    read = 0
    if environ["REQUEST_METHOD"] in ("POST", "PUT"):
        left = int(environ.get("CONTENT_LENGTH") or 0)
        while left and (data := environ["wsgi.input"].read(min(left, 65536))):
            read += len(data)
            left -= len(data)
    details = {
        "client_id": principal.client_id if principal else "",
        "remote_user": environ.get("REMOTE_USER"),
        "auth_type": environ.get("AUTH_TYPE"),
        "method": environ["REQUEST_METHOD"],
        "path": path,
        "read": read,
        "headers": {
            name[5:].lower().replace("_", "-"): value
            for name, value in environ.items()
            if name.startswith("HTTP_")
        },
        "http_version": environ["SERVER_PROTOCOL"].removeprefix("HTTP/"),
        "scheme": environ["wsgi.url_scheme"],
        "address": environ.get("REMOTE_ADDR"),
    }
    data = json.dumps(details).encode()
    start("200 OK", ("Content-Length", str(len(data))))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [data]


_wsgi = WSGIMiddleware(wsgi_app, exclude=OPEN, optional=OPTIONAL)


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """A layer outside the middleware that sets an identity."""
    planted = {"REMOTE_USER": "planted", "AUTH_TYPE": "planted", "basicauth_mw.principal": "planted"}
    return _wsgi({**environ, **planted}, start_response)
