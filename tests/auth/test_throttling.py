"""Too many failed requests: 429 for the address and id, and for no other client."""

from __future__ import annotations

import logging
import time
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import (
    Backend,
    InsufficientScope,
    Issued,
    Key,
    Secret,
    Settings,
    encode_basic,
    hash_secret,
)
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.auth.throttle import SHARE
from basicauth_mw.keys.generated_secrets import generate
from tests.asgi.helpers import LIMIT_S, App, call, connect, http_scope, websocket_scope

if TYPE_CHECKING:
    from tests.asgi.helpers import Exchange


@pytest.fixture
def app() -> App:
    return App()


def basic(pair: str) -> str:
    return "Basic " + b64encode(pair.encode()).decode()


SECRET = generate("sk")
AUTHORIZATION = encode_basic("ci", SECRET)
HASH = hash_secret(SECRET)
GOOD = Key("ci", secrets=(Secret(HASH),))


class Switch:
    """A store that can be turned off."""

    def __init__(self) -> None:
        self.on = True
        self.asked = 0

    def get(self, client_id: str) -> Key | None:
        self.asked += 1
        if not self.on:
            raise ConnectionRefusedError("redis.internal")
        return GOOD if client_id == "ci" else None


# --- throttling


@dataclass
class Client:
    """Asks a middleware from one address."""

    middleware: BasicAuthMiddleware
    address: Any = ("192.0.2.1", 1)

    def ask(self, authorization: str | None, **more: Any) -> Exchange:
        return call(self.middleware, http_scope(authorization, client=self.address, **more))


WRONG = encode_basic("ci", generate("sk"))


@pytest.fixture
def throttled(app: App, backend: Backend, issued: Issued) -> Client:
    """Three failures a minute."""
    return Client(BasicAuthMiddleware(app, backend, settings=Settings(throttle="3/minute")))


def assert_throttled(seen: Exchange) -> None:
    assert seen.status == 429
    assert seen.problem["code"] == "throttled"
    assert "www-authenticate" not in seen.headers
    assert 1 <= int(seen.headers["retry-after"]) <= 120


@pytest.mark.proves("O5", "X54")
def test_past_the_limit_a_pair_gets_429_whatever_it_sends(throttled: Client, issued: Issued) -> None:
    """Right or wrong, cached or not; nobody else is affected."""
    assert throttled.ask(issued.authorization).status == 200, "cached from here on"
    assert [throttled.ask(WRONG).status for _ in range(3)] == [401] * 3

    assert_throttled(throttled.ask(WRONG))
    assert_throttled(throttled.ask(issued.authorization))
    assert_throttled(throttled.ask(basic("ci:another shape")))
    assert throttled.ask(None).status == 401
    assert throttled.ask(encode_basic("other", generate("sk"))).status == 401
    assert Client(throttled.middleware, ("192.0.2.2", 1)).ask(issued.authorization).status == 200
    assert Client(throttled.middleware, ("192.0.2.1", 2)).ask(issued.authorization).status == 429


def test_a_throttled_pair_is_refused_before_any_lookup(app: App) -> None:
    """Also during an outage."""
    store = Switch()
    client = Client(BasicAuthMiddleware(app, store, settings=Settings(throttle="2/minute")))
    for _ in range(2):
        client.ask(WRONG)
    store.on, asked = False, store.asked

    assert_throttled(client.ask(WRONG))
    assert store.asked == asked


def test_a_throttled_websocket(throttled: Client) -> None:
    """The same response as over http."""
    for _ in range(3):
        throttled.ask(WRONG)

    assert_throttled(connect(throttled.middleware, websocket_scope(WRONG, client=throttled.address)))


def test_missing_credentials_and_outages_do_not_count(app: App) -> None:
    """They say nothing about who sends them."""
    store = Switch()
    client = Client(BasicAuthMiddleware(app, store, settings=Settings(throttle="2/minute", cache_ttl_s=0)))
    store.on = False
    for _ in range(5):
        assert client.ask(None).status == 401
        assert client.ask(AUTHORIZATION).status == 503
    store.on = True

    assert client.ask(AUTHORIZATION).status == 200


def test_success_and_missing_scopes_do_not_count(backend: Backend, issued: Issued) -> None:
    """Only failures to prove who one is do."""
    client = Client(
        BasicAuthMiddleware(
            App({"type": "http.response.debug"}, raises=InsufficientScope()),
            backend,
            settings=Settings(throttle="2/minute", cache_ttl_s=0),
        )
    )

    assert [client.ask(issued.authorization).status for _ in range(5)] == [403] * 5


@pytest.mark.parametrize("reason", ["disabled", "revoked"])
def test_right_secrets_of_dead_keys_count(
    throttled: Client, backend: Backend, issued: Issued, reason: str
) -> None:
    """A refusal is a refusal, or the count would tell them apart."""
    getattr(backend, {"disabled": "disable", "revoked": "revoke"}[reason])("ci")

    assert [throttled.ask(issued.authorization).status for _ in range(4)] == [401, 401, 401, 429]


@pytest.mark.proves("O4", "X54")
def test_unknown_ids_count_like_known_ones(throttled: Client) -> None:
    """Or 429 would tell who exists."""
    unknown = encode_basic("nobody", generate("sk"))

    assert [throttled.ask(unknown).status for _ in range(4)] == [401, 401, 401, 429]


@pytest.mark.parametrize("address", [None, ("", 1), (None, 1), []])
def test_without_an_address_nothing_is_throttled(
    app: App, backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture, address: Any
) -> None:
    """All callers would be one; the operator is warned once."""
    middleware = BasicAuthMiddleware(
        app, backend, settings=Settings(throttle="2/minute", throttle_address="2/minute")
    )
    client = Client(middleware, address)
    assert [client.ask(WRONG).status for _ in range(6)] == [401] * 6
    scope = http_scope(WRONG)
    del scope["client"]
    assert call(middleware, scope).status == 401

    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1


@pytest.mark.proves("O5", "X54")
def test_an_address_can_be_throttled_alone(app: App, backend: Backend, issued: Issued) -> None:
    """Whatever ids it tries, and malformed fields too."""
    middleware = BasicAuthMiddleware(
        app, backend, settings=Settings(throttle="", throttle_address="3/minute")
    )
    client = Client(middleware)
    for field in (encode_basic("a", generate("sk")), encode_basic("b", generate("sk")), "Basic x"):
        assert client.ask(field).status == 401

    assert_throttled(client.ask(issued.authorization))
    assert_throttled(client.ask("Basic x"))
    assert client.ask(None).status == 401
    assert Client(middleware, ("192.0.2.2", 1)).ask(issued.authorization).status == 200


def test_throttling_can_be_turned_off(app: App, backend: Backend, issued: Issued) -> None:
    """By an empty rate."""
    client = Client(BasicAuthMiddleware(app, backend, settings=Settings(throttle="")))

    assert {client.ask(WRONG).status for _ in range(50)} == {401}


@pytest.mark.proves("X54")
def test_the_default_limit(app: App, backend: Backend, issued: Issued) -> None:
    """20 failures are looked at, the next is not."""
    client = Client(BasicAuthMiddleware(app, backend, settings=Settings()))

    assert [client.ask(WRONG).status for _ in range(21)] == [401] * 20 + [429]


def test_the_shared_counter_of_an_address_spares_cached_credentials(
    app: App, backend: Backend, issued: Issued
) -> None:
    """Failures with ever new ids block ids without a counter of their own, and none that is in the cache."""
    client = Client(BasicAuthMiddleware(app, backend, settings=Settings(throttle="3/minute")))
    assert client.ask(issued.authorization).status == 200
    for number in range(SHARE + 3):
        assert client.ask(encode_basic(f"invented-{number}", generate("sk"))).status == 401

    assert_throttled(client.ask(encode_basic("invented", generate("sk"))))
    assert client.ask(issued.authorization).status == 200
    assert_throttled(client.ask(WRONG))
    assert client.ask(encode_basic("invented-1", generate("sk"))).status == 401
    assert Client(client.middleware, ("192.0.2.2", 1)).ask(WRONG).status == 401


def test_a_throttled_pair_comes_back(app: App, backend: Backend, issued: Issued) -> None:
    """When the time it was told is over."""
    client = Client(BasicAuthMiddleware(app, backend, settings=Settings(throttle="1/second")))
    client.ask(WRONG)
    assert_throttled(client.ask(issued.authorization))

    end = time.monotonic() + LIMIT_S
    while client.ask(issued.authorization).status == 429:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert client.ask(issued.authorization).status == 200
