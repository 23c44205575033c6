"""Apps whose responses name the worker, for servers with many. They load no framework in each of them."""

import os
from collections.abc import Awaitable, Callable

from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIBasicAuthMiddleware


async def _who(scope: dict[str, object], _receive: object, send: Callable[[object], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
    await send({"type": "http.response.body", "body": b"%010d" % os.getpid()})


def _wsgi_who(_environ: object, start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "10")])
    return [b"%010d" % os.getpid()]


app = BasicAuthMiddleware(_who)
wsgi_app = WSGIBasicAuthMiddleware(_wsgi_who)
