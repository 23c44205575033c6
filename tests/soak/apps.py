"""The apps of the soak test, which respond with the principal that they get.

The response of ``/who`` has the client ID, its scopes and the number in the query, which shows whether two
requests were mixed up. ``/raises`` raises, ``/slow`` times out, and ``/late`` responds after a pause.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from basicauth_mw import parse_basic
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.errors import MalformedCredentials
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIBasicAuthMiddleware

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

TIMEOUT_S = 1.0
LATE_S = 0.05
CANARY = "the request handler of the soak test raises"


def said(client_id: str, scopes: Iterable[str], number: str) -> bytes:
    return json.dumps({"client_id": client_id, "scopes": sorted(scopes), "number": number}).encode()


async def _asgi(scope: Any, _receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    if scope["type"] != "http":
        raise RuntimeError("the app does not support the lifespan protocol")
    match scope["path"]:
        case "/raises":
            raise RuntimeError(CANARY)
        case "/slow":
            await asyncio.sleep(60)
        case "/late":
            await asyncio.sleep(LATE_S)
    user = scope["user"]
    await _send(send, said(user.client_id, user.scopes, scope["query_string"].decode()))


async def _send(send: Callable[[Any], Awaitable[None]], body: bytes) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


def _wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    match environ["PATH_INFO"]:
        case "/raises":
            raise RuntimeError(CANARY)
        case "/slow":
            time.sleep(LATE_S)
            raise TimeoutError(CANARY)
        case "/late":
            time.sleep(LATE_S)
    user = environ["basicauth_mw.principal"]
    body = said(user.client_id, user.scopes, environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def asgi() -> BasicAuthMiddleware:
    return BasicAuthMiddleware(_asgi, timeout_s=TIMEOUT_S)


def wsgi() -> WSGIBasicAuthMiddleware:
    return WSGIBasicAuthMiddleware(_wsgi)


def open_asgi() -> Any:
    """An app that does not verify secrets, which a soak test must detect."""
    return _open


async def _open(scope: Any, _receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    if scope["type"] != "http":
        raise RuntimeError("the app does not support the lifespan protocol")
    client_id = "unknown"
    for name, value in scope["headers"]:
        if name == b"authorization":
            with suppress(MalformedCredentials):
                client_id = parse_basic(value).client_id
    await _send(send, said(client_id, (), scope["query_string"].decode()))
