"""Apps with the types of asgiref and of the standard library."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from httpx import Client

from basicauth_mw import Backend, Issued, Settings, encode_basic, open_backend, parse_basic
from basicauth_mw.asgi import BasicAuthMiddleware as ASGIMiddleware
from basicauth_mw.errors import BasicAuthError, MalformedCredentials
from basicauth_mw.testing import BasicAuth, authenticated_as
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIMiddleware

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from asgiref.typing import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope


async def by_asgiref(scope: "Scope", receive: "ASGIReceiveCallable", send: "ASGISendCallable") -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def by_hand(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def wsgi_app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


middlewares = [
    ASGIMiddleware(by_asgiref, backend="env:"),
    ASGIMiddleware(by_hand, "env:", realm="api"),
    ASGIMiddleware(app=by_hand, backend="env:"),
    ASGIMiddleware(ASGIMiddleware(by_hand), exclude=["/health"]),
    # Each setting takes its own type, or text as in the environment.
    ASGIMiddleware(
        by_hand,
        include=["/api/*"],
        exclude=("/health",),
        optional="/feed",
        require_https=True,
        timeout_s=5,
        cache_size=10,
        pepper=["a"],
    ),
    ASGIMiddleware(by_hand, include=["/api/*"], optional="/feed"),
    ASGIMiddleware(by_hand, exclude="/health,/docs/*", require_https="yes", timeout_s="5", cache_size="10"),
    ASGIMiddleware(
        by_hand, timeout_s=None, root_path=None, settings=Settings(realm="api"), backend=open_backend()
    ),
]
wsgi: "WSGIApplication" = WSGIMiddleware(wsgi_app, backend="env:")
asgi: "ASGI3Application" = ASGIMiddleware(by_asgiref)

try:
    client_id: str = parse_basic(encode_basic("id", "secret").encode()).client_id
except MalformedCredentials as exc:
    code: str | None = exc.code
except BasicAuthError:
    pass

client = Client(auth=BasicAuth("id", "secret"))


def test_something(api_keys: Backend, api_key: Issued) -> None:
    with authenticated_as(middlewares[0], "ci", scopes=["read"]):
        api_keys.revoke(api_key.client_id)
