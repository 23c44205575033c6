"""How many functions of this package a request calls: a change that adds some is seen in review.

Under a server the code of a request is cold in the processor's caches, so that each function counts for more
than its time in a benchmark. The numbers are exact. If a change needs more, write them here and say why.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from basicauth_mw import Backend, Settings, encode_basic, open_backend
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIMiddleware
from tests.asgi.helpers import http_scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

PACKAGE = str(Path(__file__).parents[1] / "basicauth_mw")
TRIES = 7  # the least is taken: once a second, or a minute, a request does a little more
FAILURES = 21  # one more than the default limit
SETTINGS = Settings(backend="memory:")  # all defaults

CALLS: dict[str, dict[str, int]] = {
    "asgi": {
        "hit": 8,
        "uncached": 49,
        "missing": 17,
        "malformed": 25,
        "unknown": 56,
        "wrong": 56,
        "revoked": 55,
        "throttled": 27,
    },
    "wsgi": {
        "hit": 10,
        "uncached": 50,
        "missing": 18,
        "malformed": 26,
        "unknown": 56,
        "wrong": 56,
        "revoked": 55,
        "throttled": 28,
    },
}


class Counter:
    """Counts the functions of the package that this thread calls.

    Comprehensions do not count: only Python 3.11 calls a function for them.
    """

    def __init__(self) -> None:
        self.called: list[str] = []

    def __enter__(self) -> Self:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        code: CodeType = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and not code.co_name.endswith("comp>"):
            self.called.append(f"{Path(code.co_filename).stem}.{code.co_qualname}")


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    with open_backend(f"sqlite:///{tmp_path}/keys.db", settings=SETTINGS, create=True) as backend:
        yield backend


async def app(_scope: Any, _receive: Any, send: Callable[[Any], Any]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def wsgi_app(_environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


async def receive() -> Any:
    raise AssertionError("no body is read")


async def send_asgi(middleware: BasicAuthMiddleware, authorization: str | None, client: str) -> list[str]:
    scope = http_scope(authorization, client=(client, 1))

    async def send(_message: Any) -> None:
        pass

    with Counter() as counter:
        await middleware(scope, receive, send)
    return counter.called


def send_wsgi(middleware: WSGIMiddleware, authorization: str | None, client: str) -> list[str]:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": client}
    if authorization is not None:
        environ["HTTP_AUTHORIZATION"] = authorization
    with Counter() as counter:
        list(middleware(environ, lambda *_start: None))
    return counter.called


def requests(backend: Backend) -> dict[str, tuple[str | None, Callable[[], None]]]:
    """By name: the Authorization header, and what is done before the request is sent."""
    issued = backend.create()
    revoked = backend.create()
    backend.revoke(revoked.client_id)

    def nothing() -> None:
        pass

    return {
        "hit": (issued.authorization, nothing),
        "uncached": (issued.authorization, lambda: backend.feed.invalidate(issued.client_id)),
        "missing": (None, nothing),
        "malformed": ("Basic ?", nothing),
        "unknown": (encode_basic("unknown", generate("sk")), nothing),
        "wrong": (encode_basic(issued.client_id, generate("sk")), nothing),
        "revoked": (revoked.authorization, nothing),
    }


def differences(kind: str, called: dict[str, list[list[str]]]) -> dict[str, Any]:
    """The cases whose count is not the expected one: the count and the functions."""
    least = {name: min(tries, key=len) for name, tries in called.items()}
    print({name: len(names) for name, names in least.items()})  # the line to copy
    return {name: (len(names), names) for name, names in least.items() if len(names) != CALLS[kind].get(name)}


def test_an_asgi_request_calls_so_many_functions(backend: Backend) -> None:
    middleware = BasicAuthMiddleware(app, backend, settings=SETTINGS)
    called: dict[str, list[list[str]]] = {}

    async def main() -> None:
        for name, (authorization, prepare) in requests(backend).items():
            for number in range(TRIES):  # each from another address, so that none is throttled
                prepare()
                tried = await send_asgi(middleware, authorization, f"192.0.2.{number}")
                called.setdefault(name, []).append(tried)
        wrong = encode_basic("throttled", generate("sk"))
        for _ in range(FAILURES):
            await send_asgi(middleware, wrong, "192.0.2.200")
        called["throttled"] = [await send_asgi(middleware, wrong, "192.0.2.200") for _ in range(TRIES)]
        await backend.aclose()

    asyncio.run(main())

    assert differences("asgi", called) == {}


def test_a_wsgi_request_calls_so_many_functions(backend: Backend) -> None:
    middleware = WSGIMiddleware(wsgi_app, backend, settings=SETTINGS)
    called: dict[str, list[list[str]]] = {}
    for name, (authorization, prepare) in requests(backend).items():
        for number in range(TRIES):
            prepare()
            called.setdefault(name, []).append(send_wsgi(middleware, authorization, f"192.0.2.{number}"))
    wrong = encode_basic("throttled", generate("sk"))
    for _ in range(FAILURES):
        send_wsgi(middleware, wrong, "192.0.2.200")
    called["throttled"] = [send_wsgi(middleware, wrong, "192.0.2.200") for _ in range(TRIES)]

    assert differences("wsgi", called) == {}
