"""The ASGI apps that are compared: bare ones, ours round them, and what else protects them.

All of them take the same credentials. ``bare``, ``floor`` and so on are what a server is pointed at; the ones
that import a framework are made by functions, for ``uvicorn --factory`` and for whoever asks.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import time
from hashlib import blake2b, sha256

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.asgi import BasicAuthMiddleware

CLIENT_ID = "id_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg3yO5DM"
SECRET = "sk_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg1A7p0b"
FIELD = encode_basic(CLIENT_ID, SECRET).encode()
WRONG_FIELD = encode_basic(CLIENT_ID, "sk_zyxwvutsrqponmlkjihgfedcbaZYXWVUTSRQPONMLKJ0zkyHD").encode()

BODY = b'{"hello": "world"}'
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"18")],
}
REFUSED_BODY = b'{"detail": "Unauthorized"}'
REFUSED = {
    "type": "http.response.start",
    "status": 401,
    "headers": [
        (b"content-type", b"application/json"),
        (b"content-length", b"26"),
        (b"www-authenticate", b'Basic realm="api"'),
    ],
}


async def bare(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await send(START)
    await send({"type": "http.response.body", "body": BODY})


async def lifespan(receive, send):
    """Start and stop."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def refuse(send):
    await send(REFUSED)
    await send({"type": "http.response.body", "body": REFUSED_BODY})


class Floor:
    """The yardstick, the least that a correct gate can do, written by hand: all headers read, a second
    Authorization refused, length capped, keyed digest from a copied state, constant-time compare, expiry,
    principal in a copied scope. No error mapping, no settings, no parser, no store, one ready answer.

    ``holds``: the start of the app's answer is held until its body, which is the least that it takes to be
    able to answer for an app that raises between the two."""

    def __init__(self, app, field: bytes = FIELD, *, holds: bool = False) -> None:
        self.app = app
        self.holds = holds
        self.keyed = blake2b(key=os.urandom(32), digest_size=32)
        keyed = self.keyed.copy()
        keyed.update(field)
        digest = keyed.digest()
        self.table = {digest: (digest, time.monotonic() + 3600, "demo")}

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        found = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                if found is not None:
                    await refuse(send)
                    return
                found = value
        if found is None or len(found) > 8192:
            await refuse(send)
            return
        keyed = self.keyed.copy()
        keyed.update(found)
        digest = keyed.digest()
        entry = self.table.get(digest)
        if entry is None or not hmac.compare_digest(entry[0], digest) or entry[1] <= time.monotonic():
            await refuse(send)
            return
        scope = dict(scope)
        state = scope["state"] = dict(scope.get("state", ()))
        state["principal"] = entry[2]
        if not self.holds:
            await self.app(scope, receive, send)
            return
        held = Held(send)
        await self.app(scope, receive, held.send)
        if not held.begun:
            await send(held.start)


class Held:
    """Sends the start with the first body."""

    __slots__ = ("begun", "inner", "start")

    def __init__(self, send) -> None:
        self.inner = send
        self.start = None
        self.begun = False

    async def send(self, message):
        if self.start is None:
            self.start = message
        elif self.begun:
            await self.inner(message)
        else:
            self.begun = True
            await self.inner(self.start)
            await self.inner(message)


class FloorWithoutCache:
    """As ``Floor``, but the credentials are decoded and hashed each time."""

    def __init__(self, app) -> None:
        self.app = app
        self.table = {CLIENT_ID.encode(): sha256(SECRET.encode()).digest()}
        self.dummy = os.urandom(32)

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        found = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                if found is not None:
                    await refuse(send)
                    return
                found = value
        if found is None or len(found) > 8192 or found[:6].lower() != b"basic ":
            await refuse(send)
            return
        try:
            client_id, _, secret = binascii.a2b_base64(found[6:], strict_mode=True).partition(b":")
        except binascii.Error:
            await refuse(send)
            return
        known = self.table.get(client_id, self.dummy)
        if not hmac.compare_digest(sha256(secret).digest(), known):
            await refuse(send)
            return
        scope = dict(scope)
        state = scope["state"] = dict(scope.get("state", ()))
        state["principal"] = client_id
        await self.app(scope, receive, send)


def is_right(client_id: str, secret: str) -> bool:
    """What the peers ask, as carefully as their documentation asks for."""
    return hmac.compare_digest(secret.encode(), SECRET.encode()) and client_id == CLIENT_ID


def is_right_field(field: str) -> bool:
    """What peers do with a field that hand it over whole."""
    scheme, _, coded = field.partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        client_id, _, secret = base64.b64decode(coded).decode().partition(":")
    except ValueError:
        return False
    return is_right(client_id, secret)


def ours(app, backend=None, **overrides):
    """This middleware; with a key in memory if no backend is given."""
    settings = Settings(**{"cache_ttl_s": 3600, **overrides})
    if backend is None:
        backend = open_backend("memory:", settings=settings)
        backend.create(client_id=CLIENT_ID, secret=SECRET)
    return BasicAuthMiddleware(app, backend, settings=settings)


def starlette(app):
    """Starlette's AuthenticationMiddleware with its documentation's backend; a missing field is refused."""
    from starlette.authentication import (
        AuthCredentials,
        AuthenticationBackend,
        AuthenticationError,
        SimpleUser,
    )
    from starlette.middleware.authentication import AuthenticationMiddleware

    class Documented(AuthenticationBackend):
        async def authenticate(self, conn):
            if "Authorization" not in conn.headers:
                raise AuthenticationError("Not authenticated")
            scheme, credentials = conn.headers["Authorization"].split()
            if scheme.lower() != "basic":
                raise AuthenticationError("Invalid basic auth credentials")
            username, _, password = base64.b64decode(credentials).decode("ascii").partition(":")
            if not is_right(username, password):
                raise AuthenticationError("Invalid basic auth credentials")
            return AuthCredentials(["authenticated"]), SimpleUser(username)

    return AuthenticationMiddleware(app, backend=Documented())


def base_http(app):
    """Basic auth in a BaseHTTPMiddleware, as in many tutorials."""
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import JSONResponse

    class Basic(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            if not is_right_field(request.headers.get("authorization", "")):
                return JSONResponse(
                    {"detail": "Unauthorized"}, 401, headers={"WWW-Authenticate": 'Basic realm="api"'}
                )
            return await call_next(request)

    return Basic(app)


def fastapi(protected: bool = False):
    """A FastAPI app with one ``async def`` route; protected: by a dependency on its HTTPBasic."""
    from fastapi import Depends, FastAPI, HTTPException
    from fastapi.security import HTTPBasic, HTTPBasicCredentials

    basic = Depends(HTTPBasic())

    async def check(credentials: HTTPBasicCredentials = basic) -> str:
        if not is_right(credentials.username, credentials.password):
            raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})
        return credentials.username

    api = FastAPI(dependencies=[Depends(check)] if protected else [])

    @api.get("/")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    return api


def litestar(protected: bool = False):
    """A Litestar app with one route; protected: by its AbstractAuthenticationMiddleware."""
    from litestar import Litestar, get
    from litestar.exceptions import NotAuthorizedException
    from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult

    class Basic(AbstractAuthenticationMiddleware):
        async def authenticate_request(self, connection):
            if not is_right_field(connection.headers.get("authorization", "")):
                raise NotAuthorizedException(headers={"WWW-Authenticate": "Basic"})
            return AuthenticationResult(user=CLIENT_ID, auth=None)

    @get("/")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    return Litestar(
        [hello], middleware=[Basic] if protected else [], openapi_config=None, logging_config=None
    )


# --- for servers


def bare_app():
    return bare


def floor_app():
    return Floor(bare)


def ours_app():
    return ours(bare)


def starlette_app():
    return starlette(bare)


def base_http_app():
    return base_http(bare)


def fastapi_app():
    return fastapi()


def floor_round_fastapi_app():
    return Floor(fastapi())


def floor_round_litestar_app():
    return Floor(litestar())


def ours_round_fastapi_app():
    return ours(fastapi())


def fastapi_dependency_app():
    return fastapi(protected=True)


def litestar_app():
    return litestar()


def ours_round_litestar_app():
    return ours(litestar())


def litestar_middleware_app():
    return litestar(protected=True)


def worker_app():
    """Tells which process answered; keys and settings from the environment."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        body = b"%d" % os.getpid()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return BasicAuthMiddleware(app)


# --- requests in process


def scope(field: bytes | None = FIELD) -> dict:
    """What uvicorn makes of curl's request, with or without an Authorization field."""
    headers = [
        (b"host", b"127.0.0.1:8000"),
        (b"user-agent", b"curl/8.0"),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"authorization", field),
        (b"connection", b"keep-alive"),
    ]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "headers": [pair for pair in headers if pair[1] is not None],
        "state": {},
    }


async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}


async def drop(message):
    pass


async def status_of(app, request: dict) -> int:
    """The status of the answer."""
    statuses = []

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app({**request, "state": {}}, receive, send)
    return statuses[0]


async def request_of(app, field: bytes | None, status: int):
    """A call that sends one request; made only if the answer is the expected one.

    Every request has a scope and a state of its own, as under a server: frameworks write into them.
    """
    request = scope(field)
    answered = await status_of(app, request)
    if answered != status:
        raise RuntimeError(f"{app!r} answered {answered}, not {status}")

    async def call() -> None:
        await app({**request, "state": {}}, receive, drop)

    return call
