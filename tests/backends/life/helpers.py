"""The life cycle of a key, observed by middleware in two processes with warm caches.

A change is made through ``Backend``. It takes effect at once in that process, and within 250 ms in others.
"""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta, timezone
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import bcrypt
import pytest

from basicauth_mw import Backend, Key, Principal, Secret, Settings, open_backend
from basicauth_mw import asgi as asgi_middleware
from basicauth_mw import wsgi as wsgi_middleware
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.keys.generated_secrets import SecretShape, classify, generate
from basicauth_mw.keys.model import utcnow
from tests.asgi import helpers as asgi_helpers
from tests.backends.conftest import STORES
from tests.waiting import wait_until
from tests.wsgi import helpers as wsgi_helpers

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack


LIMIT_S = 20.0


NOTICED_WITHIN_S = 0.25  # until other processes notice a change


SLACK_S = 2.0  # for a busy machine


OVERLAP_S = 1.5  # long enough for a few requests on a busy machine


class Outcome(NamedTuple):
    """The outcome of a request.

    Attributes:
        status: The status of the response.
        caller: The principal that the app received; None: the app was not called.
    """

    status: int
    caller: Principal | None


class AsgiClient:
    """An ASGI app wrapped by the middleware, on one event loop from the first request to ``close``."""

    def __init__(self, backend: Any, settings: Settings) -> None:
        self._app = asgi_helpers.App()
        self._authenticator = asgi_middleware.BasicAuthMiddleware(self._app, backend, settings=settings)
        self._backend = backend
        self._loop = asyncio.Runner()

    def request(self, authorization: str) -> Outcome:
        self._app.scopes.clear()
        scope = asgi_helpers.http_scope(authorization)
        answer = self._loop.run(asgi_helpers.exchange(self._authenticator, scope))
        callers = [scope["user"] for scope in self._app.scopes]
        return Outcome(answer.status, callers[0] if callers else None)

    def close(self) -> None:
        with self._loop:
            if aclose := getattr(self._backend, "aclose", None):
                self._loop.run(aclose())


class WsgiClient:
    """A WSGI app wrapped by the middleware."""

    def __init__(self, backend: Any, settings: Settings) -> None:
        self._callers: list[Principal] = []
        self._authenticator = wsgi_middleware.BasicAuthMiddleware(self._app, backend, settings=settings)

    def _app(self, environ: Any, start_response: Any) -> list[bytes]:
        self._callers.append(environ["basicauth_mw.principal"])
        start_response("200 OK", [])
        return [b"hello"]

    def request(self, authorization: str) -> Outcome:
        self._callers.clear()
        answer = wsgi_helpers.call(self._authenticator, authorization)
        return Outcome(answer.status, self._callers[0] if self._callers else None)

    def close(self) -> None:
        """There is nothing to close."""


# A memory store belongs to one process, so peppers and hashes do not outlive it.
beyond_memory = pytest.mark.parametrize("url", [name for name in STORES if name != "memory"], indirect=True)


CLIENTS = {"asgi": AsgiClient, "wsgi": WsgiClient}


AnyClient = AsgiClient | WsgiClient


class Deployment:
    """A store with keys. Every ``open`` stands for another process."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.url = url
        self._stack = stack
        self._shared = MemoryStore() if url == "memory:" else None

    def open(self, **settings: Any) -> Backend:
        configured = Settings(backend_deadline_s=5.0, **settings)
        if self._shared is not None:
            backend = Backend(self._shared, settings=configured)
        else:
            backend = open_backend(self.url, settings=configured, create=True)
        self._stack.callback(backend.close)
        return backend

    def serve(self, kind: str, backend: Any, **settings: Any) -> AnyClient:
        configured = {"throttle": "", "backend_deadline_s": 5.0, **settings}
        client = CLIENTS[kind](backend, Settings(**configured))
        self._stack.callback(client.close)
        return client


def changed(event: str, client_id: str) -> dict[str, Any]:
    """The complete audit record of a change."""
    return {
        "event": event,
        "client_id": client_id,
        "reason": None,
        "detail": None,
        "scheme": None,
        "address": None,
        "request_id": None,
        "actor": None,
    }


def stored(backend: Backend, client_id: str) -> Key:
    key = backend.get(client_id)
    assert key is not None
    return key


def cursor(backend: Backend) -> str:
    return str(backend.store.changes(None).cursor)


def soon(condition: Callable[[], bool]) -> None:
    """Wait until the other process has noticed a change."""
    wait_until(condition, NOTICED_WITHIN_S + SLACK_S)


PAST = datetime(2000, 1, 1, tzinfo=UTC)


BAD_CHECKSUM = generate("sk")[:-1]


BAD_CHECKSUM += "1" if classify(BAD_CHECKSUM + "0") is SecretShape.GENERATED else "0"


DEEP: object = reduce(lambda inner, _: [inner], range(100_000), [])  # deeper than any parser goes


BAD_SECRETS = {
    "empty": "",
    "1025-bytes": "a" * 1025,
    "513-characters-in-1026-bytes": "ä" * 513,
    "newline": "a\nb",
    "nul": "\0",
    "lone-surrogate": "\udfff",
    "mistyped": BAD_CHECKSUM,
    "bytes": b"secret",
}


BAD_FIELDS: list[tuple[str, str, Any]] = [
    ("name", "201-characters", "n" * 201),
    ("name", "control", "a\x1b[2J"),
    ("name", "lone-surrogate", "\ud800"),
    ("name", "none", None),
    ("scopes", "text", "read"),
    ("scopes", "space", ["read write"]),
    ("scopes", "empty", [""]),
    ("scopes", "quote", ['"']),
    ("scopes", "backslash", ["\\"]),
    ("scopes", "not-ascii", ["löschen"]),
    ("scopes", "number", [1]),
    ("scopes", "none", None),
    ("scopes", "101", [f"s{number}" for number in range(101)]),
    ("expires_at", "past", PAST),
    ("expires_at", "naive", datetime(2999, 1, 1)),  # noqa: DTZ001
    ("expires_at", "text", "2999-01-01T00:00:00Z"),
    ("expires_at", "out-of-range", datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))),
    ("metadata", "4097-bytes", {"a": "x" * 4088}),
    ("metadata", "no-json", {"a": object()}),
    ("metadata", "nan", {"a": float("nan")}),
    ("metadata", "list", [1]),
    ("metadata", "number-as-name", {1: 2}),
    ("metadata", "lone-surrogate", {"a": "\ud800"}),
    ("metadata", "too-deep", {"a": DEEP}),
]


bad_fields = pytest.mark.parametrize(
    ("field", "value"),
    [pytest.param(field, value, id=f"{field}-{case}") for field, case, value in BAD_FIELDS],
)


bad_secrets = pytest.mark.parametrize("secret", BAD_SECRETS.values(), ids=BAD_SECRETS)


def ends_of(key: Key) -> list[Any]:
    return [secret.expires_at for secret in key.secrets]


CHANGES: dict[str, Callable[[Backend], object]] = {
    "rotate": lambda backend: backend.rotate("ci"),
    "update": lambda backend: backend.update("ci", name="n"),
    "update-nothing": lambda backend: backend.update("ci"),
    "disable": lambda backend: backend.disable("ci"),
    "enable": lambda backend: backend.enable("ci"),
    "revoke": lambda backend: backend.revoke("ci"),
    "delete": lambda backend: backend.delete("ci"),
}


def at_once(work: list[Callable[[], object]]) -> None:
    """Run each on its own thread; fail if one of them fails."""
    barrier = threading.Barrier(len(work))
    failures: list[BaseException] = []

    def run(each: Callable[[], object]) -> None:
        try:
            barrier.wait(LIMIT_S)
            each()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures


def bcrypt_of(secret: str) -> str:
    return bcrypt.hashpw(secret.encode(), bcrypt.gensalt(4)).decode()


def imported(client_id: str, *hashes: str) -> Key:
    made = utcnow()
    return Key(
        client_id,
        secrets=tuple(
            Secret(hashed, created_at=made + timedelta(microseconds=number))
            for number, hashed in enumerate(hashes)
        ),
    )
