"""Concurrent verifications: equal ones share a decision, and this never reveals whether an ID exists."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

import pytest

from basicauth_mw import Backend, Key, Secret, Settings, encode_basic
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.backends import passwords
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.errors import BackendUnavailable
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import hash_password
from basicauth_mw.keys.model import ANONYMOUS
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIMiddleware
from tests.asgi.helpers import App, exchange, http_scope
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "correct horse battery staple"
HASH = hash_password(SECRET)
LIMIT_S = 10.0
SETTINGS = Settings(slow_hash_workers=1)


class Counter:
    """Counts the password hashes that are really computed, and blocks them until they are released."""

    def __init__(self) -> None:
        self.run: list[str] = []
        self.go_on = threading.Event()

    def check(self, secret: str, hashes: tuple[str, ...]) -> int | None:
        self.run.append(secret)
        assert self.go_on.wait(LIMIT_S)
        return self.real(secret, hashes)

    real = staticmethod(passwords._verify_any)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    """Wraps the real hash function."""
    counter = Counter()
    monkeypatch.setattr(passwords, "_verify_any", counter.check)
    yield counter
    counter.go_on.set()


@pytest.fixture
def authenticator() -> BasicAuthMiddleware:
    """A middleware with a client ``ci`` that has a password, and one worker for password hashes."""
    store = MemoryStore()
    store.put(Key("ci", secrets=(Secret(HASH),)), None)
    return BasicAuthMiddleware(App(), Backend(store, settings=SETTINGS), settings=SETTINGS)


async def status(authenticator: BasicAuthMiddleware, authorization: str) -> int:
    return (await exchange(authenticator, http_scope(authorization))).status


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def at_once(
    authenticator: BasicAuthMiddleware, counter: Counter, authorizations: list[str]
) -> list[int]:
    """Send requests while hashes are blocked; release them when all requests are in progress."""
    tasks = [asyncio.create_task(status(authenticator, each)) for each in authorizations]
    await turns()
    counter.go_on.set()
    return await asyncio.gather(*tasks)


@pytest.mark.proves("X17", "F27")
@pytest.mark.parametrize(
    ("secret", "expected"), [(SECRET, 200), ("guess", 401)], ids=["the right one", "a wrong one"]
)
def test_a_burst_with_one_password_costs_one_hash(
    authenticator: BasicAuthMiddleware, counter: Counter, secret: str, expected: int
) -> None:
    """However many requests, with one worker and its short queue.

    A wrong one is hashed again for later requests.
    """
    authorization = encode_basic("ci", secret)

    async def main() -> None:
        assert await at_once(authenticator, counter, [authorization] * 15) == [expected] * 15
        assert counter.run == [secret]
        assert await status(authenticator, authorization) == expected
        assert counter.run == [secret] * (1 if expected == 200 else 2)

    asyncio.run(main())


@pytest.mark.proves("F27")
def test_a_cancelled_request_does_not_cancel_the_others(
    authenticator: BasicAuthMiddleware, counter: Counter
) -> None:
    authorization = encode_basic("ci", SECRET)

    async def main() -> None:
        first = asyncio.create_task(status(authenticator, authorization))
        second = asyncio.create_task(status(authenticator, authorization))
        await turns()
        first.cancel()
        await turns()
        counter.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == 200

    asyncio.run(main())


@pytest.mark.proves("A11", "F28")
def test_a_cancelled_request_leaves_the_queue(authenticator: BasicAuthMiddleware, counter: Counter) -> None:
    """A flood of clients that disconnect must not keep the worker busy."""

    async def main() -> None:
        busy = asyncio.create_task(status(authenticator, encode_basic("ci", "first")))
        await turns()
        for number in range(100):
            gone = asyncio.create_task(status(authenticator, encode_basic("ci", f"guess {number}")))
            await turns()
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
        counter.go_on.set()
        assert await busy == 401
        assert await status(authenticator, encode_basic("ci", SECRET)) == 200

    asyncio.run(main())
    assert counter.run == ["first", SECRET]


@pytest.mark.proves("X2", "X3", "F27")
@pytest.mark.parametrize("client_id", ["ci", "unknown"], ids=["a known id", "an unknown id"])
def test_different_passwords_share_no_hash(
    authenticator: BasicAuthMiddleware, counter: Counter, client_id: str
) -> None:
    """Nor does one password for many IDs, whether these exist or not."""
    sent = [encode_basic(client_id, f"guess {number}") for number in range(3)]
    sent += [encode_basic(f"{client_id}-{number}", "guess") for number in range(2)]

    assert asyncio.run(at_once(authenticator, counter, sent)) == [401] * 5
    assert sorted(counter.run) == ["guess", "guess", "guess 0", "guess 1", "guess 2"]


@pytest.mark.proves("F27")
@pytest.mark.parametrize("secret", [SECRET, "guess"])
def test_threads_share_one_hash(counter: Counter, secret: str) -> None:
    """They share one lookup too; a later thread finds the cached decision."""
    store = Counted()
    store.put(Key("ci", secrets=(Secret(HASH),)), None)
    statuses: list[str] = []

    def app(_environ: object, start_response: Callable[..., object]) -> list[bytes]:
        start_response("200 OK", [])
        return []

    authenticator = WSGIMiddleware(app, Backend(store, settings=SETTINGS), settings=SETTINGS)

    def send() -> None:
        environ = {"HTTP_AUTHORIZATION": encode_basic("ci", secret), "REQUEST_METHOD": "GET"}
        list(authenticator(environ, lambda status, _headers, _exc_info=None: statuses.append(status)))

    threads = [threading.Thread(target=send) for _ in range(32)]
    for thread in threads:
        thread.start()
    wait_until(lambda: counter.run)
    counter.go_on.set()
    for thread in threads:
        thread.join(LIMIT_S)

    assert len(statuses) == 32
    assert len(set(statuses)) == 1
    if secret == SECRET:
        assert counter.run == [secret]
        assert store.looked_up == ["ci"]


class Counted(MemoryStore):
    """A store that counts its lookups, and blocks in each."""

    get_nowait = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.looked_up: list[str] = []

    def get(self, client_id: str, /) -> Key | None:
        self.looked_up.append(client_id)
        return super().get(client_id)


class HeldStore:
    """A store that counts its lookups, which can be held up."""

    volatile = True

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.looked_up: list[str] = []
        self.go_on = asyncio.Event()
        for name in ("get", "put", "delete", "scan", "changes", "close"):
            setattr(self, name, getattr(self.inner, name))

    async def aget(self, client_id: str) -> Key | None:
        self.looked_up.append(client_id)
        found = self.inner.get(client_id)  # as it was when the lookup began
        await self.go_on.wait()
        return found


@pytest.mark.proves("F27")
def test_one_lookup_for_concurrent_requests_with_one_credential() -> None:
    async def run() -> None:
        store = HeldStore()
        keys = Backend(store, settings=Settings())
        issued = keys.create()
        authenticator = BasicAuthMiddleware(App(), keys, settings=Settings())
        tasks = [asyncio.create_task(status(authenticator, issued.authorization)) for _ in range(32)]
        await turns()
        store.go_on.set()
        assert set(await asyncio.gather(*tasks)) == {200}
        assert store.looked_up == [issued.client_id]

    asyncio.run(run())


@pytest.mark.proves("X2", "X16", "F27")
def test_different_secrets_of_one_client_share_no_lookup() -> None:
    async def run() -> None:
        store = HeldStore()
        keys = Backend(store, settings=Settings())
        issued = keys.create()
        authenticator = BasicAuthMiddleware(App(), keys, settings=Settings())
        wrong = [encode_basic(issued.client_id, generate("sk")) for _ in range(2)]
        tasks = [asyncio.create_task(status(authenticator, each)) for each in (issued.authorization, *wrong)]
        await turns()
        store.go_on.set()
        assert await asyncio.gather(*tasks) == [200, 401, 401]
        assert len(store.looked_up) == 3

    asyncio.run(run())


@pytest.mark.proves("F24", "F27")
@pytest.mark.parametrize("ttl_s", [30, 0], ids=["cached", "not-cached"])
def test_no_lookup_is_shared_across_a_change(ttl_s: float) -> None:
    """A request after a revocation does not get a decision from before it."""

    async def run() -> None:
        store = HeldStore()
        keys = Backend(store, settings=Settings())
        issued = keys.create()
        authenticator = BasicAuthMiddleware(App(), keys, settings=Settings(cache_ttl_s=ttl_s))
        before = asyncio.create_task(status(authenticator, issued.authorization))
        await turns()
        keys.revoke(issued.client_id)
        after = asyncio.create_task(status(authenticator, issued.authorization))
        await turns()
        store.go_on.set()
        assert await asyncio.gather(before, after) == [200, 401]
        assert await status(authenticator, issued.authorization) == 401

    asyncio.run(run())


def test_without_a_cache_nothing_is_shared() -> None:
    """For example, every request sees a change that another process has made before it."""

    async def run() -> None:
        store = HeldStore()
        keys = Backend(store, settings=Settings())
        issued = keys.create()
        authenticator = BasicAuthMiddleware(App(), keys, settings=Settings(cache_ttl_s=0))
        before = asyncio.create_task(status(authenticator, issued.authorization))
        await turns()
        assert store.inner.delete(issued.client_id)
        after = asyncio.create_task(status(authenticator, issued.authorization))
        await turns()
        store.go_on.set()
        assert await asyncio.gather(before, after) == [200, 401]

    asyncio.run(run())


def test_the_first_password_works_at_once() -> None:
    """Even if the store had no password hash a moment ago, which is cached for a second."""
    settings = Settings(throttle="")
    keys = Backend(MemoryLike(), settings=settings)
    authenticator = BasicAuthMiddleware(App(), keys, settings=settings)

    async def main() -> None:
        assert await status(authenticator, encode_basic("ci", SECRET)) == 401
        keys.create(client_id="ci", secret=SECRET)
        assert await status(authenticator, encode_basic("ci", SECRET)) == 200
        assert await status(authenticator, encode_basic("ci", "guess")) == 401

    asyncio.run(main())


class Stopped(MemoryStore):
    """A store whose lookups raise ``StopIteration`` out of the handling of their failure."""

    get_nowait = None  # type: ignore[assignment]

    def get(self, _client_id: str, /) -> Key | None:
        raise BackendUnavailable("away")


@pytest.mark.proves("F34")
def test_no_stop_iteration_becomes_a_decision() -> None:
    """For example, if a filter of the logging configuration raises it while a lookup is performed."""
    log = logging.getLogger("basicauth_mw")
    served: list[object] = []

    class Stop(logging.Filter):
        def filter(self, _record: logging.LogRecord) -> bool:
            raise StopIteration(ANONYMOUS)

    def app(_environ: object, _start_response: object) -> list[bytes]:
        served.append(1)
        return []

    settings = Settings(throttle="")
    wsgi = WSGIMiddleware(app, Backend(Stopped(), settings=settings), settings=settings)
    inner = App()
    asgi = BasicAuthMiddleware(inner, Backend(Stopped(), settings=settings), settings=settings)
    environ = {"HTTP_AUTHORIZATION": encode_basic("ci", SECRET), "REQUEST_METHOD": "GET"}
    stop = Stop()
    log.addFilter(stop)
    try:
        with pytest.raises(StopIteration):
            wsgi(environ, lambda *_args: served.append(2))
        seen = asyncio.run(exchange(asgi, http_scope(encode_basic("ci", SECRET))))
    finally:
        log.removeFilter(stop)
    assert isinstance(seen.raised, RuntimeError)
    assert (served, inner.scopes, seen.messages) == ([], [], [])


class MemoryLike(MemoryStore):
    """Stores password hashes as a file does."""

    volatile = False
