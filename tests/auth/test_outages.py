"""Stores that fail, hang, or return a wrong result give a 503 within the deadline."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import (
    Backend,
    Issued,
    Key,
    Secret,
    Settings,
    encode_basic,
    hash_secret,
)
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.errors import BackendUnavailable, UnreadableRecord
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher, hash_password
from basicauth_mw.keys.model import utcnow
from tests.asgi.helpers import LIMIT_S, App, call, connect, exchange, http_scope, websocket_scope
from tests.auth.helpers import (
    AUTHORIZATION,
    GOOD,
    HASH,
    SECRET,
    WRONG,
    Doing,
    Switch,
    assert_unavailable,
    basic,
    raising,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.asgi.helpers import Exchange


SHORT_S = 0.1  # a deadline that is meant to expire


@pytest.fixture
def app() -> App:
    return App()


# --- a backend that is unavailable


class DoingNowait(Doing):
    """A store that declares that it never blocks."""

    def get_nowait(self, client_id: str) -> Any:
        return self.get(client_id)


@dataclass
class DoingAsync:
    """A store with an asynchronous driver."""

    do: Callable[[], Any]
    calls: int = 0

    async def aget(self, client_id: str) -> Any:
        self.calls += 1
        return self.do()


STORES = [Doing, DoingNowait, DoingAsync]


class AlmostKey:
    """Has every attribute of a key, but is not a Key."""

    def __getattr__(self, name: str) -> Any:
        return getattr(GOOD, name)


class Truthy:
    """Equal to everything, and true."""

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
RESULTS: list[Any] = [
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
# Key objects with unreadable contents, because a third party wrote the store.
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
    "bytes as hash": replace(GOOD, secrets=(Secret(HASH.encode()),)),  # type: ignore[arg-type]
    "cut hash": replace(GOOD, secrets=(Secret(HASH[:-1]),)),
    "unknown version": replace(GOOD, secrets=(Secret(HASH.replace("$bamw1$", "$bamw9$")),)),
    "unknown pepper": replace(GOOD, secrets=(Secret(HASH.replace("$0$", "$deadbeef$")),)),
}


@pytest.mark.proves("H13", "F34")
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("exc", EXCEPTIONS, ids=repr)
def test_whatever_a_store_raises_is_an_outage(app: App, store: Any, exc: Exception) -> None:
    """503 immediately, never 401, never 500, and the app is not called."""
    backend = store(raising(exc))
    middleware = BasicAuthMiddleware(app, backend, settings=Settings(backend_deadline_s=2))
    began = time.monotonic()
    seen = call(middleware, http_scope(AUTHORIZATION))

    assert_unavailable(seen)
    assert app.scopes == []
    assert backend.calls >= 1
    assert time.monotonic() - began < 1, "an exception ends the wait"


@pytest.mark.proves("F34")
@pytest.mark.parametrize(
    "exc",
    [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), asyncio.CancelledError()],
    ids=repr,
)
def test_a_thread_of_a_store_cannot_end_the_server(app: App, exc: BaseException) -> None:
    """Exceptions that end the main thread are an outage in a worker thread."""
    middleware = BasicAuthMiddleware(
        app, Doing(raising(exc)), settings=Settings(backend_deadline_s=LIMIT_S / 2)
    )

    async def main() -> Exchange:
        async with asyncio.timeout(LIMIT_S):
            return await exchange(middleware, http_scope(AUTHORIZATION))

    try:
        seen = asyncio.run(main())
    except BaseException as raised:
        pytest.fail(f"{raised!r} came out of the event loop")
    assert_unavailable(seen)


@pytest.mark.proves("F34")
def test_a_store_that_was_cancelled_inside_is_an_outage(app: App) -> None:
    """A driver's own task was cancelled; the request was not."""
    middleware = BasicAuthMiddleware(app, DoingAsync(raising(asyncio.CancelledError())), settings=Settings())

    try:
        seen = call(middleware, http_scope(AUTHORIZATION))
    except asyncio.CancelledError:
        pytest.fail("the request was cancelled")
    assert_unavailable(seen)


@pytest.mark.proves("X50", "F34")
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_wrong_result_of_a_store_is_an_outage(app: App, store: Any, result: Any) -> None:
    """Only a Key of the requested client is a match, and only None means unknown."""
    middleware = BasicAuthMiddleware(app, store(lambda: result), settings=Settings())

    assert_unavailable(call(middleware, http_scope(AUTHORIZATION)))
    assert app.scopes == []


@pytest.mark.proves("F34")
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("key", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_key_that_cannot_be_read_is_an_outage(app: App, store: Any, key: Key) -> None:
    """It accepts no client, and it is not the client's fault."""
    middleware = BasicAuthMiddleware(app, store(lambda: key), settings=Settings())

    assert_unavailable(call(middleware, http_scope(AUTHORIZATION)))
    assert app.scopes == []


@pytest.mark.proves("F34")
def test_a_coroutine_is_not_a_key(app: App) -> None:
    """A ``get`` that is ``async`` by mistake returns a coroutine, which is true but not a Key."""

    async def later() -> Key:
        return GOOD

    made: list[Any] = []

    def get() -> Any:
        made.append(later())
        return made[-1]

    for store in (Doing(get), DoingNowait(get), DoingAsync(get)):
        middleware = BasicAuthMiddleware(app, store, settings=Settings())
        assert_unavailable(call(middleware, http_scope(AUTHORIZATION)))
    for coroutine in made:
        coroutine.close()
    assert app.scopes == []


@pytest.mark.parametrize("store", STORES)
def test_a_valid_key_of_a_third_party_store_is_accepted(app: App, store: Any) -> None:
    """The same stores with correct results; None means unknown and gives a 401."""
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
    """Releases hanging threads at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.proves("F2", "F9")
def test_a_store_that_hangs_in_a_thread_is_given_up(app: App, released: threading.Event) -> None:
    """At the deadline, for more concurrent requests than there are threads."""
    middleware = BasicAuthMiddleware(
        app, Doing(lambda: released.wait(LIMIT_S)), settings=Settings(backend_deadline_s=SHORT_S)
    )

    async def main() -> list[Exchange]:
        return await asyncio.gather(*(exchange(middleware, http_scope(AUTHORIZATION)) for _ in range(30)))

    began = time.monotonic()
    for seen in asyncio.run(main()):
        assert_unavailable(seen)
    assert time.monotonic() - began < LIMIT_S / 2
    released.set()


@pytest.mark.proves("F2")
def test_a_store_that_hangs_on_the_loop_is_given_up(app: App) -> None:
    """Its lookup is cancelled at the deadline."""
    cancelled = []

    class Hanging:
        async def aget(self, client_id: str) -> Any:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(client_id)
                raise

    middleware = BasicAuthMiddleware(app, Hanging(), settings=Settings(backend_deadline_s=SHORT_S))
    assert_unavailable(call(middleware, http_scope(AUTHORIZATION)))

    assert cancelled == ["ci"]


@pytest.mark.proves("A11", "F11")
def test_a_request_that_is_cancelled_stays_cancelled(app: App) -> None:
    """Its lookup is cancelled too, and no response is sent."""

    async def main() -> None:
        calls = asyncio.Event()

        class Hanging:
            async def aget(self, client_id: str) -> Any:
                calls.set()
                await asyncio.Event().wait()

        middleware = BasicAuthMiddleware(app, Hanging(), settings=Settings())
        sent: list[Any] = []
        running = asyncio.ensure_future(exchange(middleware, http_scope(AUTHORIZATION), send=sent.append))
        async with asyncio.timeout(LIMIT_S):
            await calls.wait()
            running.cancel()
            await asyncio.wait([running])
        assert running.cancelled()
        assert sent == []

    asyncio.run(main())


@pytest.mark.proves("F2")
def test_all_calls_to_a_store_share_one_deadline(app: App, released: threading.Event) -> None:
    """``has_password_hashes`` of a slow store has no separate deadline."""
    deadline_s = 1.0

    class Slow:
        def get(self, client_id: str) -> Any:
            released.wait(0.8 * deadline_s)

        def has_password_hashes(self) -> bool:
            released.wait(LIMIT_S)
            return True

    middleware = BasicAuthMiddleware(app, Slow(), settings=Settings(backend_deadline_s=deadline_s))
    began = time.monotonic()
    seen = call(middleware, http_scope(basic("ci:correct horse battery")))

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
def test_requests_without_a_lookup_are_still_refused_during_an_outage(app: App, value: str | None) -> None:
    """401, and the store is not called."""
    store = Doing(raising(OSError()))
    middleware = BasicAuthMiddleware(app, store, settings=Settings())

    assert call(middleware, http_scope(value)).status == 401
    assert store.calls == 0


@pytest.mark.proves("B10")
@pytest.mark.parametrize("pair", [":", "ci:", ":x"])
@pytest.mark.parametrize("slow", [True, False])
def test_an_empty_id_or_secret_never_authenticates(app: App, pair: str, slow: bool) -> None:
    """Even if a store has a key for them."""
    client_id, secret = pair.split(":")
    stored = Secret(hash_password(secret) if slow else Hasher().digest_secret(secret))
    middleware = BasicAuthMiddleware(
        app, Doing(lambda: Key(client_id, secrets=(stored,))), settings=Settings()
    )

    seen = call(middleware, http_scope(basic(pair)))

    assert (seen.status, seen.problem["code"]) == (401, "invalid_credentials")
    assert app.scopes == []


def test_a_mistyped_secret_is_refused_during_an_outage(app: App) -> None:
    """Its checksum shows that it is wrong, without a lookup."""
    store = Doing(raising(OSError()))
    middleware = BasicAuthMiddleware(app, store, settings=Settings())
    mistyped = SECRET[:-1] + ("a" if SECRET[-1] != "a" else "b")

    assert call(middleware, http_scope(basic(f"ci:{mistyped}"))).status == 401
    assert store.calls == 0


@pytest.mark.proves("F1")
def test_a_refused_websocket_during_an_outage(app: App) -> None:
    """503 as a denial response, with Retry-After."""
    middleware = BasicAuthMiddleware(app, Doing(raising(OSError())), settings=Settings())
    seen = connect(middleware, websocket_scope(AUTHORIZATION))

    assert_unavailable(seen)
    assert app.scopes == []


@pytest.mark.proves("F25")
def test_a_cached_credential_works_during_an_outage_until_it_expires(app: App) -> None:
    """Until ``cache_ttl_s`` is over; no other credential is accepted, of the same client either."""
    store = Switch()
    ttl_s = 0.4
    middleware = BasicAuthMiddleware(app, store, settings=Settings(cache_ttl_s=ttl_s))
    proved_by = time.monotonic() + ttl_s
    assert call(middleware, http_scope(AUTHORIZATION)).status == 200
    store.on = False

    for _ in range(3):
        seen = call(middleware, http_scope(AUTHORIZATION))
        assert seen.status == 200 or time.monotonic() >= proved_by
    assert_unavailable(call(middleware, http_scope(encode_basic("ci", generate("sk")))))
    assert_unavailable(call(middleware, http_scope(encode_basic("other", SECRET))))

    end = time.monotonic() + LIMIT_S
    while call(middleware, http_scope(AUTHORIZATION)).status == 200:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert time.monotonic() >= proved_by
    assert_unavailable(call(middleware, http_scope(AUTHORIZATION)))

    store.on = True
    assert call(middleware, http_scope(AUTHORIZATION)).status == 200


@pytest.mark.proves("F25")
def test_without_a_cache_every_request_is_looked_up(app: App) -> None:
    """``cache_ttl_s=0``."""
    store = Switch()
    middleware = BasicAuthMiddleware(app, store, settings=Settings(cache_ttl_s=0))
    assert [call(middleware, http_scope(AUTHORIZATION)).status for _ in range(3)] == [200] * 3
    assert store.calls == 3
    store.on = False

    assert_unavailable(call(middleware, http_scope(AUTHORIZATION)))


@pytest.mark.proves("F1")
def test_an_outage_is_logged_once_for_each_change(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """Not for every request; its end is logged too."""
    store = Switch()
    middleware = BasicAuthMiddleware(app, store, settings=Settings(cache_ttl_s=0))
    caplog.set_level(logging.WARNING, "basicauth_mw")
    for on, expected in ((True, 0), (False, 1), (True, 2), (False, 3)):
        store.on = on
        for _ in range(5):
            call(middleware, http_scope(AUTHORIZATION))
        own = [record for record in caplog.records if record.name == "basicauth_mw"]
        assert len(own) == expected
    assert "redis.internal" not in caplog.text


@pytest.mark.proves("F24")
def test_a_change_through_the_backend_reaches_the_cache_at_once(
    app: App, backend: Backend, issued: Issued
) -> None:
    """Revoked and deleted keys are refused although they are cached."""
    middleware = BasicAuthMiddleware(app, backend, settings=Settings())
    assert call(middleware, http_scope(issued.authorization)).status == 200
    backend.disable("ci")
    assert call(middleware, http_scope(issued.authorization)).status == 401
    backend.enable("ci")
    assert call(middleware, http_scope(issued.authorization)).status == 200
    backend.revoke("ci")
    assert call(middleware, http_scope(issued.authorization)).status == 401
    backend.delete("ci")
    assert call(middleware, http_scope(issued.authorization)).status == 401


@pytest.mark.proves("F23")
def test_expiry_is_checked_on_every_request(app: App) -> None:
    """A cached credential expires with its key."""
    ends = utcnow() + timedelta(seconds=0.3)
    middleware = BasicAuthMiddleware(
        app, Doing(lambda: replace(GOOD, expires_at=ends)), settings=Settings(throttle="")
    )
    assert call(middleware, http_scope(AUTHORIZATION)).status == 200

    end = time.monotonic() + LIMIT_S
    while call(middleware, http_scope(AUTHORIZATION)).status == 200:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert utcnow() >= ends


@pytest.mark.proves("X18", "F28", "F30")
def test_a_full_pool_of_password_hashes_is_refused_at_once(app: App) -> None:
    """503 overloaded; a request with a generated secret is not delayed by it."""
    person = Key("person", secrets=(Secret(hash_secret("correct horse battery")),))

    class Store:
        def get(self, client_id: str) -> Key | None:
            return person if client_id == "person" else GOOD

    middleware = BasicAuthMiddleware(
        app, Store(), settings=Settings(slow_hash_workers=1, throttle="", backend_deadline_s=LIMIT_S)
    )

    async def main() -> list[Exchange]:
        wrong = (exchange(middleware, http_scope(basic(f"person:guess {n}"))) for n in range(30))
        return await asyncio.gather(*wrong, exchange(middleware, http_scope(AUTHORIZATION)))

    *seen, generated = asyncio.run(main())

    assert generated.status == 200
    assert {each.status for each in seen} == {401, 503}
    for each in seen:
        if each.status == 503:
            assert_unavailable(each, "overloaded")


@pytest.mark.parametrize("ended", [False, True])
def test_a_record_with_more_secrets_than_a_key_may_have_is_unreadable(
    app: App, caplog: pytest.LogCaptureFixture, ended: bool
) -> None:
    """Each secret costs a comparison in every refusal. Even a valid one gets a 503, and it is logged."""
    made = utcnow()
    expires_at = made if ended else None
    secrets = [
        Secret(HASH, created_at=made + timedelta(microseconds=number), expires_at=expires_at)
        for number in range(17)
    ]
    middleware = BasicAuthMiddleware(
        app, Doing(lambda: Key("ci", secrets=secrets)), settings=Settings(throttle="")
    )

    for value in (AUTHORIZATION, WRONG):
        seen = call(middleware, http_scope(value))
        assert (seen.status, seen.problem["code"]) == (503, "backend_unavailable")
    assert "more than 16 secrets" in caplog.text
