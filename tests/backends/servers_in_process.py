"""Clients of both middlewares over one store, with the same interface."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from basicauth_mw import Settings, open_backend
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.keys.generated_secrets import ID_PREFIX
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIBasicAuthMiddleware
from tests.asgi.helpers import exchange, http_scope
from tests.wsgi.helpers import call

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.asgi.helpers import Message, Receive, Scope, Send


class Response(NamedTuple):
    """A response.

    Attributes:
        status: Its status.
        code: The code of its problem details; empty for the app's response.
        fields: Its headers, by lower-case name.
        took_s: Duration in seconds.
    """

    status: int
    code: str
    fields: dict[str, str]
    took_s: float


class Client:
    """A client of an app with middleware, over a store that records its lookups. Use as a context manager.

    Attributes:
        lookups: The IDs that were looked up, except the random IDs of the breaker's probe.
        served: The client IDs that the app received.
    """

    def __init__(self, url: str, *, deadline_s: float = 5.0, cache_ttl_s: float = 300.0) -> None:
        self.settings = Settings(
            backend=url,
            backend_deadline_s=deadline_s,
            throttle="",
            cache_ttl_s=cache_ttl_s,
            slow_hash_workers=1,
        )
        self.backend = open_backend(settings=self.settings)
        self.lookups: list[str] = []
        self.served: list[str] = []
        for names in (("get_record", "get"), ("get_record_nowait", "get_nowait"), ("aget_record", "aget")):
            name = next((each for each in names if hasattr(self.backend.store, each)), None)
            if name is not None:
                setattr(self.backend.store, name, self._counting(getattr(self.backend.store, name)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.backend.close()

    def request(self, authorization: str | None) -> Response:
        began = time.monotonic()
        status, fields, body = self.send(authorization)
        took_s = time.monotonic() - began
        code = json.loads(body)["code"] if "problem" in fields["content-type"] else ""
        return Response(status, code, fields, took_s)

    def send(self, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        raise NotImplementedError

    def _counting(self, look_up: Callable[[str], Any]) -> Callable[[str], Any]:
        def count(client_id: str, /) -> Any:
            if not client_id.startswith(ID_PREFIX):
                self.lookups.append(client_id)
            return look_up(client_id)

        return count


class AsgiClient(Client):
    def __init__(self, url: str, **settings: float) -> None:
        super().__init__(url, **settings)
        self.runner = asyncio.Runner()
        self.authenticator = BasicAuthMiddleware(self._app, self.backend, settings=self.settings)

    def __exit__(self, *exc: object) -> None:
        self.runner.run(self.backend.aclose())
        self.runner.close()
        super().__exit__(*exc)

    def send(self, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        return self.runner.run(self.asend(authorization))

    async def asend(self, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        seen = await exchange(self.authenticator, http_scope(authorization))
        return seen.status, seen.headers, seen.body

    async def _app(self, scope: Scope, _receive: Receive, send: Send) -> None:
        self.served.append(scope["user"].client_id)
        start: Message = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b""})


class WsgiClient(Client):
    def __init__(self, url: str, **settings: float) -> None:
        super().__init__(url, **settings)
        self.authenticator = WSGIBasicAuthMiddleware(self._app, self.backend, settings=self.settings)

    def send(self, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        seen = call(self.authenticator, authorization)
        assert seen.raised is None
        return seen.status, {name.lower(): value for name, value in seen.named.items()}, seen.body

    def _app(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.served.append(environ["REMOTE_USER"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return []
