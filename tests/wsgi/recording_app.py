"""An app that records its environs, and stores, for several tests of the WSGI middleware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.wsgi.helpers import Environ


PRINCIPAL = "basicauth_mw.principal"


class App:
    """An app that records the environ of each call and returns ``result``."""

    def __init__(self, result: Any = (b"hello",), status: str = "200 OK") -> None:
        self.seen: list[Environ] = []
        self.result = result
        self.status = status
        self.headers = [("Content-Type", "text/plain")]

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        self.seen.append(environ)
        start_response(self.status, list(self.headers))
        result: Iterable[bytes] = self.result
        return result


class FakeStore:
    """A third-party store with only a ``get``, which the test defines."""

    def __init__(self, get: Any) -> None:
        self.get = get
