"""What does an authenticated request cost over a bare ASGI app?

Valid credentials, seen before, in process: a bare app, the least that a correct gate can do written by hand
(``floor``), this middleware, and Starlette's ``AuthenticationMiddleware`` with the backend of its
documentation and a constant-time comparison. All in one interleaved run.

    python benchmarks/hit.py [--rounds 61] [--calls 2000]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hmac
import os
import sys
import time
from hashlib import blake2b
from pathlib import Path
from statistics import median

from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware

sys.path.insert(0, str(Path(__file__).parent))
from rounds import Call, added_ratio, measure

from basicauth_mw import encode_basic, open_backend
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.settings import Settings

BODY = b'{"hello": "world"}'
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"18")],
}


async def bare(scope, receive, send):
    await send(START)
    await send({"type": "http.response.body", "body": BODY})


class Floor:
    """All headers read, a second Authorization refused, length capped, keyed digest, constant-time compare,
    expiry, principal in a copied scope; no error mapping, no settings, no refusal worth the name."""

    def __init__(self, app, field: bytes) -> None:
        self.app = app
        self.keyed = blake2b(key=os.urandom(32), digest_size=32)
        keyed = self.keyed.copy()
        keyed.update(field)
        digest = keyed.digest()
        self.table = {digest: (digest, time.monotonic() + 3600, "demo")}

    async def __call__(self, scope, receive, send):
        found = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                if found is not None:
                    raise PermissionError
                found = value
        if found is None or len(found) > 8192:
            raise PermissionError
        keyed = self.keyed.copy()
        keyed.update(found)
        digest = keyed.digest()
        entry = self.table.get(digest)
        if entry is None or not hmac.compare_digest(entry[0], digest) or entry[1] <= time.monotonic():
            raise PermissionError
        scope = dict(scope)
        state = scope["state"] = dict(scope.get("state", ()))
        state["principal"] = entry[2]
        await self.app(scope, receive, send)


class DocsBackend(AuthenticationBackend):
    async def authenticate(self, conn):
        if "Authorization" not in conn.headers:
            return None
        scheme, credentials = conn.headers["Authorization"].split()
        if scheme.lower() != "basic":
            return None
        username, _, password = base64.b64decode(credentials).decode("ascii").partition(":")
        if not hmac.compare_digest(password.encode(), b"p@55w0rd") or username != "demo":
            raise AuthenticationError("Invalid basic auth credentials")
        return AuthCredentials(["authenticated"]), SimpleUser(username)


def scope(field: bytes) -> dict:
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
        "headers": [
            (b"host", b"127.0.0.1:8000"),
            (b"user-agent", b"curl/8.0"),
            (b"accept", b"*/*"),
            (b"accept-encoding", b"gzip, deflate"),
            (b"authorization", field),
            (b"connection", b"keep-alive"),
        ],
        "state": {},
    }


async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message):
    pass


def call_of(app, field: bytes) -> Call:
    request = scope(field)

    async def call() -> None:
        await app(request, receive, send)

    return call


async def run(rounds: int, calls: int) -> None:
    settings = Settings()
    backend = open_backend("memory:", settings=settings)
    issued = backend.create(name="bench")
    ours = issued.authorization.encode()
    demo = encode_basic("demo", "p@55w0rd").encode()
    apps = {
        "bare app": (bare, ours),
        "floor, written by hand": (Floor(bare, ours), ours),
        "basicauth_mw": (BasicAuthMiddleware(bare, backend, settings=settings, cache_ttl_s=3600), ours),
        "basicauth_mw, map_errors=False": (
            BasicAuthMiddleware(bare, backend, settings=settings, cache_ttl_s=3600, map_errors=False),
            ours,
        ),
        "Starlette AuthenticationMiddleware": (AuthenticationMiddleware(bare, backend=DocsBackend()), demo),
    }
    times = await measure(
        {name: call_of(app, field) for name, (app, field) in apps.items()}, rounds=rounds, calls=calls
    )
    base, unit = "bare app", "floor, written by hand"
    print(f"A cached hit over a bare ASGI app: {rounds} interleaved rounds of {calls} calls, one core.\n")
    print(f"{'variant':<36} {'us a call':>10} {'added us':>9} {'x floor, median (quartiles)':>30}")
    for name, taken in times.items():
        added = median(mine - theirs for mine, theirs in zip(taken, times[base], strict=True))
        ratio = ""
        if name != base:
            low, middle, high = added_ratio(times, name, base=base, unit=unit)
            ratio = f"{middle:.2f} ({low:.2f}..{high:.2f})"
        print(f"{name:<36} {median(taken) * 1e6:>10.2f} {added * 1e6:>9.2f} {ratio:>30}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument("--calls", type=int, default=2000, help="of each variant in a round")
    arguments = parser.parse_args()
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(arguments.rounds, arguments.calls))


if __name__ == "__main__":
    main()
