"""The gate over broken backends, under attack, and misconfigured: it stays shut, says why to the operator and
nothing to anybody else."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import socket
import sys
import threading
import time
import traceback
from base64 import b64encode
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import (
    Backend,
    ConfigurationError,
    InsufficientScope,
    Issued,
    Key,
    Secret,
    Settings,
    encode_basic,
    hash_secret,
    open_backend,
)
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.auth.throttle import SHARE
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.errors import BackendUnavailable, MissingExtra, UnreadableRecord
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher, hash_password
from basicauth_mw.keys.model import utcnow
from tests.shells.asgi_helpers import LIMIT_S, App, call, connect, exchange, http_scope, websocket_scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.shells.asgi_helpers import Exchange

AUDIT = "basicauth_mw.audit"
SHORT_S = 0.1  # a deadline that is meant to pass


@pytest.fixture
def app() -> App:
    return App()


def basic(pair: str) -> str:
    return "Basic " + b64encode(pair.encode()).decode()


# --- a backend that cannot be asked


SECRET = generate("sk")
AUTHORIZATION = encode_basic("ci", SECRET)
HASH = hash_secret(SECRET)
GOOD = Key("ci", secrets=(Secret(HASH),))


@dataclass
class Doing:
    """A third party's store, in a thread."""

    do: Callable[[], Any]
    asked: int = 0

    def get(self, client_id: str) -> Any:
        self.asked += 1
        return self.do()


class DoingNowait(Doing):
    """One that says that it never blocks."""

    def get_nowait(self, client_id: str) -> Any:
        return self.get(client_id)


@dataclass
class DoingAsync:
    """One with an asynchronous driver."""

    do: Callable[[], Any]
    asked: int = 0

    async def aget(self, client_id: str) -> Any:
        self.asked += 1
        return self.do()


STORES = [Doing, DoingNowait, DoingAsync]


def raising(exc: BaseException) -> Callable[[], Any]:
    def do() -> Any:
        raise exc

    return do


class AlmostKey:
    """Has every field of a key, and is none."""

    def __getattr__(self, name: str) -> Any:
        return getattr(GOOD, name)


class Truthy:
    """Equal to everything and true."""

    client_id = "ci"
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


EXCEPTIONS: list[Exception] = [
    Exception("canary"),
    ValueError(),
    KeyError("ci"),
    OSError(),
    ConnectionRefusedError(),
    TimeoutError(),
    BackendUnavailable("down"),
    UnreadableRecord("damaged"),
    RuntimeError("no current event loop"),
    RecursionError(),
    MemoryError(),
    AssertionError(),
    StopIteration(),
    StopAsyncIteration(),
    ExceptionGroup("a", [ValueError()]),
    BlockingIOError(),
]
ANSWERS: list[Any] = [
    True,
    False,
    0,
    1,
    "",
    "ci",
    b"ci",
    {},
    {"client_id": "ci"},
    (GOOD,),
    [GOOD],
    NotImplemented,
    ...,
    Key,
    Exception("returned"),
    AlmostKey(),
    Truthy(),
    replace(GOOD, client_id="other"),
    replace(GOOD, client_id="CI"),
]
# Keys by type, which cannot be read: a store is somebody else's code.
DAMAGED: dict[str, Key] = {
    "naive expiry": replace(GOOD, expires_at=datetime(2999, 1, 1)),  # noqa: DTZ001
    "expiry as text": replace(GOOD, expires_at="2999-01-01"),  # type: ignore[arg-type]
    "expiry as number": replace(GOOD, expires_at=4e9),  # type: ignore[arg-type]
    "naive expiry of the secret": replace(
        GOOD,
        secrets=(Secret(HASH, expires_at=datetime(2999, 1, 1)),),  # noqa: DTZ001
    ),
    "hashes instead of secrets": replace(GOOD, secrets=(HASH,)),  # type: ignore[arg-type]
    "nothing as hash": replace(GOOD, secrets=(Secret(None),)),  # type: ignore[arg-type]
    "octets as hash": replace(GOOD, secrets=(Secret(HASH.encode()),)),  # type: ignore[arg-type]
    "cut hash": replace(GOOD, secrets=(Secret(HASH[:-1]),)),
    "unknown version": replace(GOOD, secrets=(Secret(HASH.replace("$bamw1$", "$bamw9$")),)),
    "unknown pepper": replace(GOOD, secrets=(Secret(HASH.replace("$0$", "$deadbeef$")),)),
}


def assert_unavailable(seen: Exchange, code: str = "backend_unavailable") -> None:
    assert seen.raised is None
    assert seen.status == 503
    assert seen.problem["code"] == code
    assert "www-authenticate" not in seen.headers
    assert int(seen.headers["retry-after"]) >= 1
    assert "canary" not in seen.body.decode()


@pytest.mark.proves("H13", "F34")
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("exc", EXCEPTIONS, ids=repr)
def test_whatever_a_store_raises_is_an_outage(app: App, store: Any, exc: Exception) -> None:
    """503 at once, never 401, never 500, never the app."""
    backend = store(raising(exc))
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(backend_deadline_s=2))
    began = time.monotonic()
    seen = call(authenticator, http_scope(AUTHORIZATION))

    assert_unavailable(seen)
    assert app.scopes == []
    assert backend.asked >= 1
    assert time.monotonic() - began < 1, "what was raised is told, not waited for"


@pytest.mark.proves("F34")
@pytest.mark.parametrize(
    "exc",
    [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), asyncio.CancelledError()],
    ids=repr,
)
def test_a_thread_of_a_store_cannot_end_the_server(app: App, exc: BaseException) -> None:
    """What means "end" in the main thread is one more failure in a worker."""
    authenticator = BasicAuthMiddleware(
        app, Doing(raising(exc)), settings=Settings(backend_deadline_s=LIMIT_S / 2)
    )

    async def main() -> Exchange:
        async with asyncio.timeout(LIMIT_S):
            return await exchange(authenticator, http_scope(AUTHORIZATION))

    try:
        seen = asyncio.run(main())
    except BaseException as raised:
        pytest.fail(f"{raised!r} came out of the event loop")
    assert_unavailable(seen)


@pytest.mark.proves("F34")
def test_a_store_that_was_cancelled_inside_is_an_outage(app: App) -> None:
    """A driver's own task was cancelled; the request was not."""
    authenticator = BasicAuthMiddleware(
        app, DoingAsync(raising(asyncio.CancelledError())), settings=Settings()
    )

    try:
        seen = call(authenticator, http_scope(AUTHORIZATION))
    except asyncio.CancelledError:
        pytest.fail("the request was cancelled")
    assert_unavailable(seen)


@pytest.mark.proves("X50", "F34")
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: type(answer).__name__)
def test_a_wrong_answer_is_an_outage(app: App, store: Any, answer: Any) -> None:
    """Only a Key, and only of the client that was asked for, is one; only None means unknown."""
    authenticator = BasicAuthMiddleware(app, store(lambda: answer), settings=Settings())

    assert_unavailable(call(authenticator, http_scope(AUTHORIZATION)))
    assert app.scopes == []


@pytest.mark.proves("F34")
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("key", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_key_that_cannot_be_read_is_an_outage(app: App, store: Any, key: Key) -> None:
    """It lets nobody in, and it is not the caller's fault."""
    authenticator = BasicAuthMiddleware(app, store(lambda: key), settings=Settings())

    assert_unavailable(call(authenticator, http_scope(AUTHORIZATION)))
    assert app.scopes == []


@pytest.mark.proves("F34")
def test_a_coroutine_is_no_key(app: App) -> None:
    """A ``get`` that is ``async`` by mistake: an un-awaited coroutine is true, and still nobody."""

    async def later() -> Key:
        return GOOD

    made: list[Any] = []

    def get() -> Any:
        made.append(later())
        return made[-1]

    for store in (Doing(get), DoingNowait(get), DoingAsync(get)):
        authenticator = BasicAuthMiddleware(app, store, settings=Settings())
        assert_unavailable(call(authenticator, http_scope(AUTHORIZATION)))
    for coroutine in made:
        coroutine.close()
    assert app.scopes == []


@pytest.mark.parametrize("store", STORES)
def test_a_good_key_of_a_third_party_is_good(app: App, store: Any) -> None:
    """The same stores, answering as they should; None is unknown and a 401."""
    assert (
        call(
            BasicAuthMiddleware(app, store(lambda: GOOD), settings=Settings()), http_scope(AUTHORIZATION)
        ).status
        == 200
    )
    assert (
        call(
            BasicAuthMiddleware(app, store(lambda: None), settings=Settings()), http_scope(AUTHORIZATION)
        ).status
        == 401
    )


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Lets hanging threads go on when the test is over."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.proves("F2", "F9")
def test_a_store_that_hangs_in_a_thread_is_given_up(app: App, released: threading.Event) -> None:
    """At the deadline, for many requests at once, more than there are threads."""
    authenticator = BasicAuthMiddleware(
        app, Doing(lambda: released.wait(LIMIT_S)), settings=Settings(backend_deadline_s=SHORT_S)
    )

    async def main() -> list[Exchange]:
        return await asyncio.gather(*(exchange(authenticator, http_scope(AUTHORIZATION)) for _ in range(30)))

    began = time.monotonic()
    for seen in asyncio.run(main()):
        assert_unavailable(seen)
    assert time.monotonic() - began < LIMIT_S / 2
    released.set()


@pytest.mark.proves("F2")
def test_a_store_that_hangs_on_the_loop_is_given_up(app: App) -> None:
    """Its look-up is cancelled at the deadline."""
    cancelled = []

    class Hanging:
        async def aget(self, client_id: str) -> Any:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(client_id)
                raise

    authenticator = BasicAuthMiddleware(app, Hanging(), settings=Settings(backend_deadline_s=SHORT_S))
    assert_unavailable(call(authenticator, http_scope(AUTHORIZATION)))

    assert cancelled == ["ci"]


@pytest.mark.proves("A11", "F11")
def test_a_request_that_is_cancelled_stays_cancelled(app: App) -> None:
    """The look-up with it; nothing is answered."""

    async def main() -> None:
        asked = asyncio.Event()

        class Hanging:
            async def aget(self, client_id: str) -> Any:
                asked.set()
                await asyncio.Event().wait()

        authenticator = BasicAuthMiddleware(app, Hanging(), settings=Settings())
        sent: list[Any] = []
        running = asyncio.ensure_future(exchange(authenticator, http_scope(AUTHORIZATION), send=sent.append))
        async with asyncio.timeout(LIMIT_S):
            await asked.wait()
            running.cancel()
            await asyncio.wait([running])
        assert running.cancelled()
        assert sent == []

    asyncio.run(main())


@pytest.mark.proves("F2")
def test_the_deadline_is_for_all_questions_together(app: App, released: threading.Event) -> None:
    """A store that is slow to say what it holds has no second deadline of its own."""
    deadline_s = 1.0

    class Slow:
        def get(self, client_id: str) -> Any:
            released.wait(0.8 * deadline_s)

        def has_password_hashes(self) -> bool:
            released.wait(LIMIT_S)
            return True

    authenticator = BasicAuthMiddleware(app, Slow(), settings=Settings(backend_deadline_s=deadline_s))
    began = time.monotonic()
    seen = call(authenticator, http_scope(basic("ci:chosen by a person")))

    assert_unavailable(seen)
    assert time.monotonic() - began < 1.5 * deadline_s


@pytest.mark.proves("B3", "B10", "O3", "F1")
@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "Basic x", "Bearer x", basic("ci:"), basic(":x"), basic("ci"), basic("c\0i:x")),
        *(basic("ci:x\x7f"), basic("x" * 256 + ":y"), basic("ci:" + "x" * 1025)),
    ],
)
def test_what_needs_no_look_up_is_still_refused_during_an_outage(app: App, value: str | None) -> None:
    """401, and the store is not asked."""
    store = Doing(raising(OSError()))
    authenticator = BasicAuthMiddleware(app, store, settings=Settings())

    assert call(authenticator, http_scope(value)).status == 401
    assert store.asked == 0


@pytest.mark.proves("B10")
@pytest.mark.parametrize("pair", [":", "ci:", ":x"])
@pytest.mark.parametrize("slow", [True, False])
def test_an_empty_half_lets_nobody_in(app: App, pair: str, slow: bool) -> None:
    """Though a store has a key for just that."""
    client_id, secret = pair.split(":")
    stored = Secret(hash_password(secret) if slow else Hasher().digest_secret(secret))
    authenticator = BasicAuthMiddleware(
        app, Doing(lambda: Key(client_id, secrets=(stored,))), settings=Settings()
    )

    seen = call(authenticator, http_scope(basic(pair)))

    assert (seen.status, seen.problem["code"]) == (401, "invalid_credentials")
    assert app.scopes == []


def test_a_mistyped_secret_is_refused_during_an_outage(app: App) -> None:
    """Its checksum tells, without a look-up."""
    store = Doing(raising(OSError()))
    authenticator = BasicAuthMiddleware(app, store, settings=Settings())
    mistyped = SECRET[:-1] + ("a" if SECRET[-1] != "a" else "b")

    assert call(authenticator, http_scope(basic(f"ci:{mistyped}"))).status == 401
    assert store.asked == 0


@pytest.mark.proves("F1")
def test_a_refused_websocket_during_an_outage(app: App) -> None:
    """503 as a denial response, Retry-After included."""
    authenticator = BasicAuthMiddleware(app, Doing(raising(OSError())), settings=Settings())
    seen = connect(authenticator, websocket_scope(AUTHORIZATION))

    assert_unavailable(seen)
    assert app.scopes == []


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


@pytest.mark.proves("F25")
def test_a_proved_credential_outlives_an_outage_for_a_while(app: App) -> None:
    """Until ``cache_ttl_s`` is over; no other credential does, and none of the same client either."""
    store = Switch()
    ttl_s = 0.4
    authenticator = BasicAuthMiddleware(app, store, settings=Settings(cache_ttl_s=ttl_s))
    proved_by = time.monotonic() + ttl_s
    assert call(authenticator, http_scope(AUTHORIZATION)).status == 200
    store.on = False

    for _ in range(3):
        seen = call(authenticator, http_scope(AUTHORIZATION))
        assert seen.status == 200 or time.monotonic() >= proved_by
    assert_unavailable(call(authenticator, http_scope(encode_basic("ci", generate("sk")))))
    assert_unavailable(call(authenticator, http_scope(encode_basic("other", SECRET))))

    end = time.monotonic() + LIMIT_S
    while call(authenticator, http_scope(AUTHORIZATION)).status == 200:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert time.monotonic() >= proved_by
    assert_unavailable(call(authenticator, http_scope(AUTHORIZATION)))

    store.on = True
    assert call(authenticator, http_scope(AUTHORIZATION)).status == 200


@pytest.mark.proves("F25")
def test_without_a_cache_every_request_asks(app: App) -> None:
    """``cache_ttl_s=0``."""
    store = Switch()
    authenticator = BasicAuthMiddleware(app, store, settings=Settings(cache_ttl_s=0))
    assert [call(authenticator, http_scope(AUTHORIZATION)).status for _ in range(3)] == [200] * 3
    assert store.asked == 3
    store.on = False

    assert_unavailable(call(authenticator, http_scope(AUTHORIZATION)))


@pytest.mark.proves("F1")
def test_an_outage_is_logged_once_for_each_change(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """Not per request; and the end of it too."""
    store = Switch()
    authenticator = BasicAuthMiddleware(app, store, settings=Settings(cache_ttl_s=0))
    caplog.set_level(logging.WARNING, "basicauth_mw")
    for on, expected in ((True, 0), (False, 1), (True, 2), (False, 3)):
        store.on = on
        for _ in range(5):
            call(authenticator, http_scope(AUTHORIZATION))
        own = [record for record in caplog.records if record.name == "basicauth_mw"]
        assert len(own) == expected
    assert "redis.internal" not in caplog.text


@pytest.mark.proves("F24")
def test_a_change_through_the_backend_reaches_the_cache_at_once(
    app: App, backend: Backend, issued: Issued
) -> None:
    """Revoked and deleted keys are refused although they were proved before."""
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())
    assert call(authenticator, http_scope(issued.authorization)).status == 200
    backend.disable("ci")
    assert call(authenticator, http_scope(issued.authorization)).status == 401
    backend.enable("ci")
    assert call(authenticator, http_scope(issued.authorization)).status == 200
    backend.revoke("ci")
    assert call(authenticator, http_scope(issued.authorization)).status == 401
    backend.delete("ci")
    assert call(authenticator, http_scope(issued.authorization)).status == 401


@pytest.mark.proves("F23")
def test_expiry_is_looked_at_on_every_request(app: App) -> None:
    """A cached credential ends when its key does."""
    ends = utcnow() + timedelta(seconds=0.3)
    authenticator = BasicAuthMiddleware(
        app, Doing(lambda: replace(GOOD, expires_at=ends)), settings=Settings(throttle="")
    )
    assert call(authenticator, http_scope(AUTHORIZATION)).status == 200

    end = time.monotonic() + LIMIT_S
    while call(authenticator, http_scope(AUTHORIZATION)).status == 200:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert utcnow() >= ends


@pytest.mark.proves("X18", "F28", "F30")
def test_a_full_pool_of_slow_hashes_is_said_at_once(app: App) -> None:
    """503 overloaded; a minted secret is not held up by it."""
    chosen = Key("person", secrets=(Secret(hash_secret("chosen by a person")),))

    class Store:
        def get(self, client_id: str) -> Key | None:
            return chosen if client_id == "person" else GOOD

    authenticator = BasicAuthMiddleware(
        app, Store(), settings=Settings(slow_hash_workers=1, throttle="", backend_deadline_s=LIMIT_S)
    )

    async def main() -> list[Exchange]:
        wrong = (exchange(authenticator, http_scope(basic(f"person:guess {n}"))) for n in range(30))
        return await asyncio.gather(*wrong, exchange(authenticator, http_scope(AUTHORIZATION)))

    *seen, minted = asyncio.run(main())

    assert minted.status == 200
    assert {each.status for each in seen} == {401, 503}
    for each in seen:
        if each.status == 503:
            assert_unavailable(each, "overloaded")


@pytest.mark.parametrize("ended", [False, True])
def test_a_record_with_more_secrets_than_a_key_may_have_is_unreadable(
    app: App, caplog: pytest.LogCaptureFixture, ended: bool
) -> None:
    """Each would cost a comparison at every refusal. Even the right one gets a 503, and the log says why."""
    made = utcnow()
    expires_at = made if ended else None
    secrets = [
        Secret(HASH, created_at=made + timedelta(microseconds=number), expires_at=expires_at)
        for number in range(17)
    ]
    authenticator = BasicAuthMiddleware(
        app, Doing(lambda: Key("ci", secrets=secrets)), settings=Settings(throttle="")
    )

    for value in (AUTHORIZATION, WRONG):
        seen = call(authenticator, http_scope(value))
        assert (seen.status, seen.problem["code"]) == (503, "backend_unavailable")
    assert "more than 16 secrets" in caplog.text


# --- throttling


@dataclass
class Client:
    """Asks a gate from one address."""

    authenticator: BasicAuthMiddleware
    address: Any = ("192.0.2.1", 1)

    def ask(self, authorization: str | None, **more: Any) -> Exchange:
        return call(self.authenticator, http_scope(authorization, client=self.address, **more))


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
    assert Client(throttled.authenticator, ("192.0.2.2", 1)).ask(issued.authorization).status == 200
    assert Client(throttled.authenticator, ("192.0.2.1", 2)).ask(issued.authorization).status == 429


def test_a_throttled_pair_is_told_before_any_look_up(app: App) -> None:
    """Also during an outage."""
    store = Switch()
    client = Client(BasicAuthMiddleware(app, store, settings=Settings(throttle="2/minute")))
    for _ in range(2):
        client.ask(WRONG)
    store.on, asked = False, store.asked

    assert_throttled(client.ask(WRONG))
    assert store.asked == asked


def test_a_throttled_websocket(throttled: Client) -> None:
    """The same answer as over http."""
    for _ in range(3):
        throttled.ask(WRONG)

    assert_throttled(connect(throttled.authenticator, websocket_scope(WRONG, client=throttled.address)))


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
    authenticator = BasicAuthMiddleware(
        app, backend, settings=Settings(throttle="2/minute", throttle_address="2/minute")
    )
    client = Client(authenticator, address)
    assert [client.ask(WRONG).status for _ in range(6)] == [401] * 6
    scope = http_scope(WRONG)
    del scope["client"]
    assert call(authenticator, scope).status == 401

    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1


@pytest.mark.proves("O5", "X54")
def test_an_address_can_be_throttled_alone(app: App, backend: Backend, issued: Issued) -> None:
    """Whatever ids it tries, and malformed fields too."""
    authenticator = BasicAuthMiddleware(
        app, backend, settings=Settings(throttle="", throttle_address="3/minute")
    )
    client = Client(authenticator)
    for field in (encode_basic("a", generate("sk")), encode_basic("b", generate("sk")), "Basic x"):
        assert client.ask(field).status == 401

    assert_throttled(client.ask(issued.authorization))
    assert_throttled(client.ask("Basic x"))
    assert client.ask(None).status == 401
    assert Client(authenticator, ("192.0.2.2", 1)).ask(issued.authorization).status == 200


def test_throttling_can_be_turned_off(app: App, backend: Backend, issued: Issued) -> None:
    """By an empty rate."""
    client = Client(BasicAuthMiddleware(app, backend, settings=Settings(throttle="")))

    assert {client.ask(WRONG).status for _ in range(50)} == {401}


@pytest.mark.proves("X54")
def test_the_default_limit(app: App, backend: Backend, issued: Issued) -> None:
    """20 failures are looked at, the next is not."""
    client = Client(BasicAuthMiddleware(app, backend, settings=Settings()))

    assert [client.ask(WRONG).status for _ in range(21)] == [401] * 20 + [429]


def test_the_counter_of_an_address_spares_credentials_that_were_proved(
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
    assert Client(client.authenticator, ("192.0.2.2", 1)).ask(WRONG).status == 401


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


# --- the audit log


def events(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [
        record.basicauth  # type: ignore[attr-defined]
        for record in caplog.records
        if record.name == AUDIT and record.basicauth["event"].startswith("auth.")  # type: ignore[attr-defined]
    ]


@pytest.mark.proves("O6")
def test_every_refusal_is_told_with_its_reason(
    app: App, backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    """Event, id as claimed, reason, address and request id; what was missing at DEBUG, the rest at INFO."""
    caplog.set_level(logging.DEBUG, AUDIT)
    for client_id in ("disabled", "revoked", "expired"):
        made = backend.create(client_id=client_id, secret=issued.secret)
    backend.disable("disabled")
    backend.revoke("revoked")
    ended = replace(made.key, expires_at=utcnow() - timedelta(seconds=1), version=made.key.version + 1)
    assert backend.store.put(ended, made.key.version)
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())
    expected = [
        (None, "missing", None),
        ("Basic x", "malformed", None),
        (encode_basic("nobody", issued.secret), "unknown", "nobody"),
        (WRONG, "wrong_secret", "ci"),
        (encode_basic("disabled", issued.secret), "disabled", "disabled"),
        (encode_basic("revoked", issued.secret), "revoked", "revoked"),
        (encode_basic("expired", issued.secret), "expired", "expired"),
    ]
    for value, reason, client_id in expected:
        caplog.clear()
        call(authenticator, http_scope(value, headers=[(b"x-request-id", b"req-1")]))

        assert events(caplog) == [
            {
                "event": "auth.refused",
                "client_id": client_id,
                "reason": reason,
                "detail": "not base64" if reason == "malformed" else None,
                "address": "192.0.2.1",
                "request_id": "req-1",
                "actor": None,
            }
        ]
        assert caplog.records[0].levelno == (logging.DEBUG if reason == "missing" else logging.INFO)


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("Bearer canary", "wrong scheme"),
        ("Basic canary!", "not base64"),
        ("Basic Y2FuYXJ5OmE", "not base64"),
        ("Basic Y2FuYXJ5OmE=,Basic Y2FuYXJ5OmE=", "repeated header"),
        ("Basic Y2FuYXJ5OmF=", "not canonical base64"),
        (basic("canary"), "no colon"),
        (basic("canary:a\n"), "control character"),
        ("Basic Y2FuYXJ5Ov8=", "not UTF-8"),
        (basic("canary:"), "empty id or secret"),
        (basic("canary:" + "x" * 9000), "too long"),
        (basic("c" * 256 + ":a"), "too long"),
        (basic("ci:" + "x" * 1025), "too long"),
        (basic(f"ci:{generate('sk')[:-6]}000000"), "mistyped secret"),
        (basic("ci:wrong"), None),
    ],
    ids=lambda each: "sent" if str(each).startswith(("Basic ", "Bearer ")) else str(each),
)
def test_which_mistake_it_was_is_for_the_log_alone(
    app: App, backend: Backend, caplog: pytest.LogCaptureFixture, value: str, detail: str | None
) -> None:
    """The audit log says what is wrong with a header, in fixed words. The client gets the usual 401."""
    caplog.set_level(logging.INFO, AUDIT)
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings(throttle=""))
    wrong = call(authenticator, http_scope(WRONG, headers=[(b"x-request-id", b"req-1")]))
    caplog.clear()
    seen = call(authenticator, http_scope(value, headers=[(b"x-request-id", b"req-1")]))

    (event,) = events(caplog)
    assert event["detail"] == detail
    assert "canary" not in caplog.text
    assert (seen.status, seen.body, seen.headers) == (wrong.status, wrong.body, wrong.headers)


def test_outages_and_missing_scopes_are_told(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """With the id that was claimed, or proved."""
    caplog.set_level(logging.INFO, AUDIT)
    call(
        BasicAuthMiddleware(App(), Doing(raising(OSError())), settings=Settings()), http_scope(AUTHORIZATION)
    )
    app = App({"type": "http.response.debug"}, raises=InsufficientScope())
    call(BasicAuthMiddleware(app, Doing(lambda: GOOD), settings=Settings()), http_scope(AUTHORIZATION))

    assert [(event["reason"], event["client_id"]) for event in events(caplog)] == [
        ("backend_unavailable", "ci"),
        ("insufficient_scope", "ci"),
    ]


def test_good_requests_are_not_told(
    app: App, backend: Backend, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    """There would be too many of them."""
    caplog.set_level(logging.DEBUG)
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())
    caplog.clear()
    call(authenticator, http_scope(issued.authorization))

    assert [record for record in caplog.records if record.name.startswith("basicauth_mw")] == []


def test_a_throttled_pair_is_told_once(throttled: Client, caplog: pytest.LogCaptureFixture) -> None:
    """At INFO, not for every request of a flood."""
    caplog.set_level(logging.INFO, AUDIT)
    for _ in range(10):
        throttled.ask(WRONG)

    told = [event for event in events(caplog) if event["event"] == "auth.throttled"]
    assert len(told) == 1
    assert (told[0]["reason"], told[0]["client_id"], told[0]["address"]) == ("throttled", "ci", "192.0.2.1")
    assert len(events(caplog)) == 4


@pytest.mark.parametrize("kind", ["refused", "throttled"])
def test_the_id_that_is_logged_is_the_id_that_was_sent(
    throttled: Client, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Whoever reports a problem quotes the id from the answer."""
    caplog.set_level(logging.INFO, AUDIT)
    for _ in range(3 if kind == "throttled" else 0):
        throttled.ask(WRONG)
    seen = throttled.ask(WRONG)

    assert events(caplog)[-1]["event"] == f"auth.{kind}"
    assert events(caplog)[-1]["request_id"] == seen.headers["x-request-id"] == seen.problem["request_id"]


@pytest.mark.proves("O6")
@pytest.mark.parametrize(
    "hostile",
    [
        "a\u2028b",
        "a\u202eb",
        "a\x85b",
        "a\u200bb",
        "\ufeffx",
        "x" * 255,
        "é" * 127,
        "\U0001f600\u0301" * 30,
        "a%sb%(x)d",
    ],
    ids=ascii,
)
def test_a_hostile_id_cannot_forge_the_log(
    app: App, backend: Backend, caplog: pytest.LogCaptureFixture, hostile: str
) -> None:
    """One line, printable characters only, of bounded length."""
    caplog.set_level(logging.INFO, AUDIT)
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())
    call(authenticator, http_scope(basic(f"{hostile}:x")))

    (record,) = [record for record in caplog.records if record.name == AUDIT]
    claimed = record.basicauth["client_id"]  # type: ignore[attr-defined]
    assert claimed.isprintable()
    assert len(claimed) <= 255
    assert record.getMessage().isprintable()
    if hostile.isprintable():
        assert claimed == hostile


@pytest.mark.proves("O6", "X43")
@pytest.mark.parametrize(
    "secret",
    [generate("sk"), generate("my_app"), f"sk_{'A' * 49}"],
    ids=["minted", "other-prefix", "mistyped"],
)
def test_a_secret_in_the_place_of_the_id_is_not_logged(
    app: App, backend: Backend, caplog: pytest.LogCaptureFixture, secret: str
) -> None:
    """Somebody took the one for the other: ``curl -u SECRET:ID``."""
    caplog.set_level(logging.INFO, AUDIT)
    authenticator = BasicAuthMiddleware(app, backend, settings=Settings())
    call(authenticator, http_scope(basic(f"{secret}:ci")))

    (record,) = [record for record in caplog.records if record.name == AUDIT]
    assert record.basicauth["client_id"] == f"{secret.rpartition('_')[0]}_..."  # type: ignore[attr-defined]
    assert secret[5:20] not in record.getMessage()


# --- secrets stay inside


def spellings(canary: str) -> list[str]:
    """How a secret may turn up: plain, in base64 at any offset, percent-encoded, backwards."""
    found = [canary, canary[::-1]]
    for before in ("", "x", "xx"):
        token = b64encode(f"{before}{canary}".encode()).decode()
        found.append(token[4:-4])
    return found


@pytest.mark.proves("O6", "X43")
def test_no_secret_leaves(
    backend: Backend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by a log record at any level, a ``repr``, an answer or the text of a traceback."""
    caplog.set_level(logging.DEBUG)
    canary = generate("sk")
    chosen = "canary-chosen-by-a-person"
    issued = backend.create(client_id="canary", secret=canary)
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)

    boom = RuntimeError("boom")
    down = Doing(raising(RuntimeError(f"cannot send {canary} {chosen} to the store")))
    told: list[object] = [issued, issued.key, backend]
    for each, store in (
        (App(), backend),
        (App({"type": "http.response.debug"}, raises=boom), backend),
        (App(), down),
    ):
        authenticator = BasicAuthMiddleware(
            each, store, settings=Settings(pepper=(canary, chosen), throttle="2/minute", timeout_s=5)
        )
        told += [
            authenticator,
            authenticator._authenticator,
            authenticator._authenticator.settings,
            authenticator._authenticator.backend,
            authenticator._authenticator.__dict__,
        ]
        for field in (
            issued.authorization,
            issued.authorization + "!",
            encode_basic("other", canary),
            basic(f"canary:{chosen}"),
            basic(f"canary:{canary}x"),
            basic(f"{canary}"),
            "Bearer " + canary,
            *[basic(f"canary:{chosen}")] * 3,
        ):
            seen = call(authenticator, http_scope(field))
            told += seen.messages
            if seen.raised is not None:
                told += traceback.TracebackException.from_exception(seen.raised).format()
    formatter = logging.Formatter("%(message)s %(exc_text)s")
    told += [formatter.format(record) + repr(record.__dict__) for record in caplog.records]
    told.append(output.getvalue())
    text = "\n".join(part if isinstance(part, str) else repr(part) for part in told)

    assert "backend_unavailable" in text
    assert [found for secret in (canary, chosen) for found in spellings(secret) if found in text] == []


@pytest.mark.proves("X43")
def test_a_password_in_a_url_is_in_no_repr(app: App) -> None:
    """Settings are what people print first when something does not work."""
    settings = Settings(backend="redis://user:canary@192.0.2.1/0", pepper=("canary",))
    authenticator = BasicAuthMiddleware(app, settings=settings)

    for thing in (
        settings,
        authenticator,
        authenticator._authenticator,
        authenticator._authenticator.backend,
        authenticator._authenticator.backend.store,
    ):
        assert "canary" not in repr(thing)


# --- construction


def environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"BASICAUTH_{name}", value)


@pytest.mark.parametrize(
    "url",
    [
        "memory:",
        "env:KEYS_OF_A_TEST",
        "sqlite:///{}/keys.db",
        "redis://:canary@192.0.2.1:6379/0",
        "rediss://192.0.2.1/0",
    ],
)
def test_construction_touches_nothing(
    app: App, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    """No socket, no thread, no task: workers are forked later, loops come and go."""
    monkeypatch.setenv("KEYS_OF_A_TEST", "ci:secret")
    url = url.format(tmp_path)
    open_backend(url, settings=Settings(), create=True).close()

    def refuse(*args: Any, **kwargs: Any) -> Any:
        pytest.fail("a socket was asked for")

    for name in ("socket", "create_connection", "getaddrinfo", "socketpair"):
        monkeypatch.setattr(socket, name, refuse)
    threads = set(threading.enumerate())  # some, of other tests, may be about to end
    BasicAuthMiddleware(app, url, settings=Settings())
    assert set(threading.enumerate()) <= threads
    monkeypatch.undo()

    async def inside_a_loop() -> set[Any]:
        monkeypatch.setenv("KEYS_OF_A_TEST", "ci:secret")
        BasicAuthMiddleware(app, url, settings=Settings())
        return asyncio.all_tasks()

    assert len(asyncio.run(inside_a_loop())) == 1
    assert set(threading.enumerate()) <= threads


def test_sources_of_settings_have_an_order(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overrides before ``settings=`` before the environment; the backend argument before them all."""
    environment(monkeypatch, KEYS="env:secret", REALM="env", TIMEOUT_S="7")
    monkeypatch.setenv("OTHER", "other:secret")

    def facts(*args: Any, **kwargs: Any) -> tuple[str, str, int]:
        authenticator = BasicAuthMiddleware(app, *args, **kwargs)
        realm = call(authenticator, http_scope()).headers["www-authenticate"].split('"')[1]
        by_env = call(authenticator, http_scope(encode_basic("env", "secret"))).status
        by_other = call(authenticator, http_scope(encode_basic("other", "secret"))).status
        who = {(200, 401): "env", (401, 200): "other", (401, 401): "nobody"}[by_env, by_other]
        return realm, who, authenticator._authenticator.settings.timeout_s or 0

    assert facts() == ("env", "env", 7)
    assert facts(realm="mine") == ("mine", "env", 7)
    assert facts("env:OTHER") == ("env", "other", 7)
    assert facts(backend="memory:") == ("env", "nobody", 7)
    environment(monkeypatch, BACKEND="env:OTHER")
    assert facts() == ("env", "other", 7)
    assert facts("env:") == ("env", "env", 7)
    assert facts(settings=Settings(realm="given")) == ("given", "env", 0)
    assert facts(settings=Settings(backend="env:OTHER"), realm="mine", timeout_s=3) == ("mine", "other", 3)
    assert facts("env:", settings=Settings(backend="env:OTHER")) == ("api", "env", 0)


def test_given_settings_keep_the_environment_out(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """However broken it is."""
    environment(monkeypatch, TIMEOUT_S="soon", REALN="x", BACKEND="nonsense")

    BasicAuthMiddleware(app, "memory:", settings=Settings())
    with pytest.raises(ConfigurationError):
        BasicAuthMiddleware(app, "memory:")


def problems(*args: Any, **kwargs: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        BasicAuthMiddleware(App(), *args, **kwargs)
    assert isinstance(caught.value, ValueError)
    for problem in caught.value.problems:
        assert problem in str(caught.value)
    return caught.value.problems


def test_every_problem_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment, the overrides and the backend together."""
    environment(monkeypatch, TIMEOUT_S="soon", REALN="x", PEPPER="canary", PEPPER_FILE="/canary")
    found = problems(
        "nonsense://user:canary@host", realm="a\nb", exclude=["/*"], cache_tll_s=3, challenge="canary"
    )
    text = "\n".join(found)

    assert len(found) >= 7
    for word in (
        "BASICAUTH_TIMEOUT_S",
        "BASICAUTH_REALN",
        "BASICAUTH_PEPPER",
        "realm",
        "exclude",
        "cache_tll_s",
        "challenge",
        "backend",
    ):
        assert word in text
    assert "did you mean cache_ttl_s" in text
    assert "did you mean realm" in text
    assert "canary" not in text


@pytest.mark.parametrize(
    ("name", "meant"),
    [("exlude", "exclude"), ("require_http", "require_https"), ("timeout", "timeout_s"), ("Realm", "realm")],
)
def test_a_near_miss_is_named(name: str, meant: str) -> None:
    """So is a name that is like nothing."""
    (found,) = problems("memory:", settings=Settings(), **{name: "1"})
    assert name in found
    assert meant in found

    (found,) = problems("memory:", settings=Settings(), zzz=1)
    assert "zzz" in found
    assert "did you mean" not in found


@pytest.mark.parametrize(
    "url",
    [
        "nonsense://user:canary@host/0",
        "canary",
        "",
        " ",
        "postgres://user:canary@host",
        "memory:canary",
        "env:not a name canary",
        "env:NO_SUCH_VARIABLE",
        "://canary",
    ],
)
def test_an_unusable_url_is_never_shown(url: str) -> None:
    """It may hold a password; what is expected is."""
    for text in (
        problems(url, settings=Settings()),
        problems(url, settings=Settings(), zzz=1),
    ):
        assert "canary" not in "\n".join(text)
        assert text[0]


@pytest.mark.parametrize(
    "keys", ["", "canary", "id:", ":canary", '{"a": "canary"', '{"a": 1}', "a:canary,a:canary"]
)
def test_unusable_keys_are_never_shown(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    """Entries are named by number."""
    environment(monkeypatch, KEYS=keys)

    assert "canary" not in "\n".join(problems(settings=Settings()))


@pytest.mark.parametrize(
    "thing",
    [42, object(), b"memory:", MemoryStore, Backend, ["memory:"]],
    ids=lambda thing: type(thing).__name__,
)
def test_a_backend_that_is_none(thing: Any) -> None:
    """Neither a URL nor an object that can be asked."""
    (found,) = problems(thing, settings=Settings())

    assert "backend" in found


class NotInstalled:
    """Makes the import system find no ``redis``."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "redis":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("extra", [[], [("zzz", 1)]])
def test_a_missing_driver_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, extra: list[tuple[str, Any]]
) -> None:
    """Also an ImportError when it is the only problem."""
    ours = "basicauth_mw.backends.redis"
    for name in [name for name in sys.modules if name.startswith(("redis", ours))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NotInstalled(), *sys.meta_path])

    with pytest.raises(ConfigurationError, match=r"pip install 'basicauth_mw\[redis\]'") as caught:
        BasicAuthMiddleware(App(), "redis://:canary@192.0.2.1/0", settings=Settings(), **dict(extra))

    assert "canary" not in str(caught.value)
    assert isinstance(caught.value, MissingExtra) == (not extra)


@pytest.mark.proves("O8")
def test_what_is_open_is_said_at_the_start(
    app: App, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """One line; none if nothing is."""
    caplog.set_level(logging.INFO, "basicauth_mw")
    BasicAuthMiddleware(app, backend, settings=Settings())
    assert caplog.records == []
    BasicAuthMiddleware(app, backend, settings=Settings(exclude=("/health", "/docs/*")))

    (record,) = caplog.records
    assert "/health" in record.getMessage()
    assert "/docs/*" in record.getMessage()


@pytest.mark.proves("A13", "F1")
def test_a_store_that_is_down_does_not_stop_the_start(app: App) -> None:
    """503 until it is up, then 200 without a restart."""
    store = Switch()
    store.on = False
    authenticator = BasicAuthMiddleware(
        App({"type": "lifespan.startup.complete"}), store, settings=Settings()
    )
    seen = call(authenticator, {"type": "lifespan"}, {"type": "lifespan.startup"})
    assert [message["type"] for message in seen.messages] == ["lifespan.startup.complete"]

    authenticator = BasicAuthMiddleware(app, store, settings=Settings())
    assert_unavailable(call(authenticator, http_scope(AUTHORIZATION)))
    store.on = True
    assert call(authenticator, http_scope(AUTHORIZATION)).status == 200


@pytest.mark.proves("A14", "F31")
def test_a_gate_works_on_many_loops_and_after_a_fork(app: App, tmp_path: Path) -> None:
    """Threads belong to the process that started them."""
    authenticator = BasicAuthMiddleware(app, Doing(lambda: GOOD), settings=Settings(cache_ttl_s=0))
    assert [call(authenticator, http_scope(AUTHORIZATION)).status for _ in range(3)] == [200] * 3

    child = os.fork()
    if child == 0:  # no pytest in here
        status = 1
        try:
            status = 0 if call(authenticator, http_scope(AUTHORIZATION)).status == 200 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
