"""Wrapped apps for servers on a Unix socket: one for ASGI, and one for WSGI without and with ``ProxyFix``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from werkzeug.middleware.proxy_fix import ProxyFix

from basicauth_mw import asgi, wsgi

if TYPE_CHECKING:
    from collections.abc import Iterable


async def hello(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def wsgi_hello(_environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


asgi_app = asgi.BasicAuthMiddleware(hello, throttle="3/hour")
wsgi_app = wsgi.BasicAuthMiddleware(wsgi_hello, throttle="3/hour")
wsgi_proxied = ProxyFix(wsgi.BasicAuthMiddleware(wsgi_hello, throttle="3/hour"), x_for=1)
