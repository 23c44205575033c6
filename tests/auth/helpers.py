"""Shared credentials, clients and stores."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from basicauth_mw import Key, Secret, encode_basic, hash_secret
from basicauth_mw.keys.generated_secrets import generate
from tests.asgi.helpers import call, http_scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from basicauth_mw.asgi import BasicAuthMiddleware
    from tests.asgi.helpers import Exchange


def basic(pair: str) -> str:
    return "Basic " + b64encode(pair.encode()).decode()


SECRET = generate("sk")


AUTHORIZATION = encode_basic("ci", SECRET)


HASH = hash_secret(SECRET)


GOOD = Key("ci", secrets=(Secret(HASH),))


@dataclass
class Doing:
    """A third-party store that runs in a thread."""

    do: Callable[[], Any]
    calls: int = 0

    def get(self, client_id: str) -> Any:
        self.calls += 1
        return self.do()


def raising(exc: BaseException) -> Callable[[], Any]:
    def do() -> Any:
        raise exc

    return do


@dataclass
class Client:
    """A client that sends requests from one address."""

    middleware: BasicAuthMiddleware
    address: Any = ("192.0.2.1", 1)

    def request(self, authorization: str | None, **more: Any) -> Exchange:
        return call(self.middleware, http_scope(authorization, client=self.address, **more))


WRONG = encode_basic("ci", generate("sk"))


def assert_unavailable(seen: Exchange, code: str = "backend_unavailable") -> None:
    assert seen.raised is None
    assert seen.status == 503
    assert seen.problem["code"] == code
    assert "www-authenticate" not in seen.headers
    assert int(seen.headers["retry-after"]) >= 1
    assert "canary" not in seen.body.decode()


class Switch:
    """A store that can be switched off."""

    def __init__(self) -> None:
        self.on = True
        self.calls = 0

    def get(self, client_id: str) -> Key | None:
        self.calls += 1
        if not self.on:
            raise ConnectionRefusedError("redis.internal")
        return GOOD if client_id == "ci" else None
