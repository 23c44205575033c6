"""Too many failed requests: 429 for the address and ID, and for no other client."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import (
    Backend,
    InsufficientScope,
    Issued,
    Settings,
    encode_basic,
)
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.auth.throttle import SHARE
from basicauth_mw.keys.generated_secrets import generate
from tests.asgi.helpers import LIMIT_S, App, call, connect, http_scope, websocket_scope
from tests.auth.helpers import (
    AUTHORIZATION,
    WRONG,
    Client,
    Switch,
    basic,
)

if TYPE_CHECKING:
    from tests.asgi.helpers import Exchange


@pytest.fixture
def app() -> App:
    return App()


# --- throttling


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
    """Valid or not, cached or not; no other client is affected."""
    assert throttled.request(issued.authorization).status == 200, "cached from here on"
    assert [throttled.request(WRONG).status for _ in range(3)] == [401] * 3

    assert_throttled(throttled.request(WRONG))
    assert_throttled(throttled.request(issued.authorization))
    assert_throttled(throttled.request(basic("ci:another shape")))
    assert throttled.request(None).status == 401
    assert throttled.request(encode_basic("other", generate("sk"))).status == 401
    assert Client(throttled.middleware, ("192.0.2.2", 1)).request(issued.authorization).status == 200
    assert Client(throttled.middleware, ("192.0.2.1", 2)).request(issued.authorization).status == 429


def test_a_throttled_pair_is_refused_before_any_lookup(app: App) -> None:
    """Even during an outage."""
    store = Switch()
    client = Client(BasicAuthMiddleware(app, store, settings=Settings(throttle="2/minute")))
    for _ in range(2):
        client.request(WRONG)
    store.on, calls = False, store.calls

    assert_throttled(client.request(WRONG))
    assert store.calls == calls


def test_a_throttled_websocket(throttled: Client) -> None:
    """The same response as over HTTP."""
    for _ in range(3):
        throttled.request(WRONG)

    assert_throttled(connect(throttled.middleware, websocket_scope(WRONG, client=throttled.address)))


def test_missing_credentials_and_outages_do_not_count(app: App) -> None:
    """They do not reveal whether the client guesses."""
    store = Switch()
    client = Client(BasicAuthMiddleware(app, store, settings=Settings(throttle="2/minute", cache_ttl_s=0)))
    store.on = False
    for _ in range(5):
        assert client.request(None).status == 401
        assert client.request(AUTHORIZATION).status == 503
    store.on = True

    assert client.request(AUTHORIZATION).status == 200


def test_success_and_missing_scopes_do_not_count(backend: Backend, issued: Issued) -> None:
    """Only failed authentications count."""
    client = Client(
        BasicAuthMiddleware(
            App({"type": "http.response.debug"}, raises=InsufficientScope()),
            backend,
            settings=Settings(throttle="2/minute", cache_ttl_s=0),
        )
    )

    assert [client.request(issued.authorization).status for _ in range(5)] == [403] * 5


@pytest.mark.parametrize("reason", ["disabled", "revoked"])
def test_valid_secrets_of_expired_or_revoked_keys_count(
    throttled: Client, backend: Backend, issued: Issued, reason: str
) -> None:
    """If they did not, the count would distinguish them from wrong secrets."""
    getattr(backend, {"disabled": "disable", "revoked": "revoke"}[reason])("ci")

    assert [throttled.request(issued.authorization).status for _ in range(4)] == [401, 401, 401, 429]


@pytest.mark.proves("O4", "X54")
def test_unknown_ids_count_like_known_ones(throttled: Client) -> None:
    """If they did not, a 429 would reveal which IDs exist."""
    unknown = encode_basic("unknown", generate("sk"))

    assert [throttled.request(unknown).status for _ in range(4)] == [401, 401, 401, 429]


@pytest.mark.parametrize("address", [None, ("", 1), (None, 1), []])
def test_without_an_address_nothing_is_throttled(
    app: App, backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture, address: Any
) -> None:
    """All clients would share one counter; a warning is logged once."""
    middleware = BasicAuthMiddleware(
        app, backend, settings=Settings(throttle="2/minute", throttle_address="2/minute")
    )
    client = Client(middleware, address)
    assert [client.request(WRONG).status for _ in range(6)] == [401] * 6
    scope = http_scope(WRONG)
    del scope["client"]
    assert call(middleware, scope).status == 401

    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1


@pytest.mark.proves("O5", "X54")
def test_an_address_can_be_throttled_alone(app: App, backend: Backend, issued: Issued) -> None:
    """Whatever IDs it tries, malformed headers included."""
    middleware = BasicAuthMiddleware(
        app, backend, settings=Settings(throttle="", throttle_address="3/minute")
    )
    client = Client(middleware)
    for header in (encode_basic("a", generate("sk")), encode_basic("b", generate("sk")), "Basic x"):
        assert client.request(header).status == 401

    assert_throttled(client.request(issued.authorization))
    assert_throttled(client.request("Basic x"))
    assert client.request(None).status == 401
    assert Client(middleware, ("192.0.2.2", 1)).request(issued.authorization).status == 200


def test_throttling_can_be_turned_off(app: App, backend: Backend, issued: Issued) -> None:
    """With an empty rate."""
    client = Client(BasicAuthMiddleware(app, backend, settings=Settings(throttle="")))

    assert {client.request(WRONG).status for _ in range(50)} == {401}


@pytest.mark.proves("X54")
def test_the_default_limit(app: App, backend: Backend, issued: Issued) -> None:
    """20 failures get a 401, the next one a 429."""
    client = Client(BasicAuthMiddleware(app, backend, settings=Settings()))

    assert [client.request(WRONG).status for _ in range(21)] == [401] * 20 + [429]


def test_the_shared_counter_of_an_address_spares_cached_credentials(
    app: App, backend: Backend, issued: Issued
) -> None:
    """Failures with new IDs block IDs without their own counter, but no cached credential."""
    client = Client(BasicAuthMiddleware(app, backend, settings=Settings(throttle="3/minute")))
    assert client.request(issued.authorization).status == 200
    for number in range(SHARE + 3):
        assert client.request(encode_basic(f"invented-{number}", generate("sk"))).status == 401

    assert_throttled(client.request(encode_basic("invented", generate("sk"))))
    assert client.request(issued.authorization).status == 200
    assert_throttled(client.request(WRONG))
    assert client.request(encode_basic("invented-1", generate("sk"))).status == 401
    assert Client(client.middleware, ("192.0.2.2", 1)).request(WRONG).status == 401


def test_a_throttled_pair_is_accepted_after_the_block(app: App, backend: Backend, issued: Issued) -> None:
    """After the time in Retry-After."""
    client = Client(BasicAuthMiddleware(app, backend, settings=Settings(throttle="1/second")))
    client.request(WRONG)
    assert_throttled(client.request(issued.authorization))

    end = time.monotonic() + LIMIT_S
    while client.request(issued.authorization).status == 429:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert client.request(issued.authorization).status == 200
