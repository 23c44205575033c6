"""The ASGI apps that are compared: unprotected ones, ours around them, and other ways to protect them.

All accept the same credentials. Servers start them through the functions whose names end in ``_app``.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import time
from hashlib import blake2b, sha256
from itertools import cycle

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.asgi import BasicAuthMiddleware

CLIENT_ID = "id_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg3yO5DM"
SECRET = "sk_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg1A7p0b"
WRONG_SECRET = "sk_zyxwvutsrqponmlkjihgfedcbaZYXWVUTSRQPONMLKJ0zkyHD"
FIELD = encode_basic(CLIENT_ID, SECRET).encode()
WRONG_FIELD = encode_basic(CLIENT_ID, WRONG_SECRET).encode()
UNKNOWN_FIELD = encode_basic("id_of_nobody", WRONG_SECRET).encode()

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
    """Complete startup and shutdown."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def refuse(send):
    await send(REFUSED)
    await send({"type": "http.response.body", "body": REFUSED_BODY})


class Floor:
    """The yardstick, written by hand: the least that a correct middleware with a cache can do.

    It reads all headers, refuses a second Authorization header and long values, looks a keyed digest up in
    constant time, checks the expiry, and passes the principal on. It has no parser, store, settings or error
    responses, and refuses with a constant.

    Args:
        app: The app to protect.
        holds: Hold the start of the app's response until its body. This is the least it takes to be able to
            respond for an app that raises between the two.
    """

    def __init__(self, app, *, holds: bool = False) -> None:
        self.app = app
        self.holds = holds
        self.keyed = blake2b(key=os.urandom(32), digest_size=32)
        keyed = self.keyed.copy()
        keyed.update(FIELD)
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
        held = HeldStart(send)
        await self.app(scope, receive, held.send)
        if not held.sent:
            await send(held.start)


class HeldStart:
    """Sends the response start together with the first body message."""

    __slots__ = ("inner", "sent", "start")

    def __init__(self, send) -> None:
        self.inner = send
        self.start = None
        self.sent = False

    async def send(self, message):
        if self.start is None:
            self.start = message
        elif self.sent:
            await self.inner(message)
        else:
            self.sent = True
            await self.inner(self.start)
            await self.inner(message)


class FloorWithoutCache:
    """Like ``Floor``, but it decodes and hashes the credentials each time."""

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
    """How the peers verify credentials in this process: a constant-time comparison with constants."""
    return hmac.compare_digest(secret.encode(), SECRET.encode()) and client_id == CLIENT_ID


def ours(app, backend=None, **overrides):
    """This middleware with its default settings; without ``backend``, with one key in memory."""
    settings = Settings(**overrides)
    if backend is None:
        backend = open_backend("memory:", settings=settings)
        backend.create(client_id=CLIENT_ID, secret=SECRET)
    return BasicAuthMiddleware(app, backend, settings=settings)


def starlette(app, verify=is_right):
    """Starlette's AuthenticationMiddleware with its documentation's backend; refuses a missing header."""
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
            if not verify(username, password):
                raise AuthenticationError("Invalid basic auth credentials")
            return AuthCredentials(["authenticated"]), SimpleUser(username)

    return AuthenticationMiddleware(app, backend=Documented())


def base_http(app):
    """Basic authentication in a BaseHTTPMiddleware, as in many tutorials."""
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import JSONResponse

    class Basic(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
            client_id, _, secret = base64.b64decode(encoded).decode().partition(":")
            if scheme.lower() != "basic" or not is_right(client_id, secret):
                headers = {"WWW-Authenticate": 'Basic realm="api"'}
                return JSONResponse({"detail": "Unauthorized"}, 401, headers=headers)
            return await call_next(request)

    return Basic(app)


def fastapi(verify=None, *, threads: bool = False):
    """A FastAPI app with one ``async def`` route, protected by a dependency on its HTTPBasic if ``verify``.

    Args:
        verify: Takes a client ID and a secret, and returns whether they are valid.
        threads: Whether the dependency is ``def``, as in FastAPI's documentation, and runs in a thread.
            Otherwise it is ``async def``, which is faster, but blocks the event loop.
    """
    from fastapi import Depends, FastAPI, HTTPException
    from fastapi.security import HTTPBasic, HTTPBasicCredentials

    basic = Depends(HTTPBasic())

    def check(credentials: HTTPBasicCredentials = basic) -> str:
        if not verify(credentials.username, credentials.password):
            raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})
        return credentials.username

    async def acheck(credentials: HTTPBasicCredentials = basic) -> str:
        return check(credentials)

    api = FastAPI(dependencies=[Depends(check if threads else acheck)] if verify else [])

    @api.get("/")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    return api


# --- for servers


def bare_app():
    return bare


def floor_app():
    return Floor(bare)


def holding_floor_app():
    return Floor(bare, holds=True)


def ours_app():
    return ours(bare)


def ours_unmapped_app():
    return ours(bare, map_errors=False)


def starlette_app():
    return starlette(bare)


def fastapi_app():
    return fastapi()


def holding_floor_fastapi_app():
    return Floor(fastapi(), holds=True)


def ours_fastapi_app():
    return ours(fastapi())


def dependency_fastapi_app():
    return fastapi(is_right)


def worker_app():
    """Responds with the ID of its process; settings from the environment."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        body = b"%d" % os.getpid()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return BasicAuthMiddleware(app)


# --- requests in this process

ADDRESSES = [(f"10.0.{number >> 8}.{number & 255}", 50000) for number in range(4096)]


def addresses_for(requests: int) -> list[tuple[str, int]]:
    """Clients that send 16 requests each, which the default throttle counts, but does not block."""
    return ADDRESSES[: requests // 16 + 1]


def scope(field: bytes | None = FIELD) -> dict:
    """What uvicorn makes of curl's request, with or without an Authorization header."""
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
    """The status of the response."""
    statuses = []

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app({**request, "state": {}}, receive, send)
    return statuses[0]


async def request_of(app, field: bytes | None, status: int, addresses=ADDRESSES):
    """Return a call that sends one request, from each address in turn.

    Every request has its own scope and state, as under a server: frameworks write to them.

    Raises:
        RuntimeError: The response has another status.
    """
    request = scope(field)
    clients = cycle(addresses)
    received = await status_of(app, {**request, "client": next(clients)})
    if received != status:
        raise RuntimeError(f"{app!r} responded with {received}, not {status}")

    async def call() -> None:
        await app({**request, "client": next(clients), "state": {}}, receive, drop)

    return call
