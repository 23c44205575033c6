"""Slow hashes asked for at once: equal checks share one, and nobody can tell by it whether an id exists."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

import basicauth_mw.drive
from basicauth_mw import Backend, Key, Secret, Settings, encode_basic
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.backends.memory import MemoryStore
from basicauth_mw.drive import Performer
from basicauth_mw.hashing import hash_slow
from basicauth_mw.minting import mint
from basicauth_mw.verifier import SlowCheck
from tests.shells.asgi_helpers import App, exchange, http_scope

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "correct horse battery staple"
HASH = hash_slow(SECRET)
LIMIT_S = 10.0


class Counter:
    """Counts the slow hashes that are really run, and lets none end before it is told to."""

    def __init__(self) -> None:
        self.run: list[str] = []
        self.go_on = threading.Event()

    def check(self, secret: str, hashes: tuple[str, ...]) -> int | None:
        self.run.append(secret)
        assert self.go_on.wait(LIMIT_S)
        return self.real(secret, hashes)

    real = staticmethod(basicauth_mw.drive._check_slow)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    """Wrapped round the real hash."""
    counter = Counter()
    monkeypatch.setattr(basicauth_mw.drive, "_check_slow", counter.check)
    yield counter
    counter.go_on.set()


@pytest.fixture
def performer() -> Iterator[Performer]:
    performer = Performer(MemoryStore(), deadline_s=LIMIT_S, slow_hash_workers=1)
    yield performer
    performer.close()


async def ask(performer: Performer, check: SlowCheck) -> object:
    return await performer.aperform(check, performer.deadline())


def test_equal_checks_share_one_hash(performer: Performer, counter: Counter) -> None:
    """However many, with one worker and its short queue; and it is run again for who comes later."""
    check = SlowCheck("ci", SECRET, (HASH,))

    async def main() -> list[object]:
        tasks = [asyncio.create_task(ask(performer, check)) for _ in range(100)]
        await asyncio.sleep(0)
        counter.go_on.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [0] * 100
    assert counter.run == [SECRET]
    assert performer.perform(check, performer.deadline()) == 0
    assert len(counter.run) == 2


def test_who_gives_up_does_not_end_it_for_the_others(performer: Performer, counter: Counter) -> None:
    check = SlowCheck("ci", SECRET, (HASH,))

    async def main() -> object:
        first = asyncio.create_task(ask(performer, check))
        second = asyncio.create_task(ask(performer, check))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        counter.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert asyncio.run(main()) == 0
    assert counter.run == [SECRET]


@pytest.mark.parametrize("hashes", [(), (HASH,)], ids=["unknown ids", "known ids"])
def test_checks_of_other_ids_are_never_shared(
    performer: Performer, counter: Counter, hashes: tuple[str, ...]
) -> None:
    """One secret tried on many ids costs as many hashes, whether there are such ids or not."""
    counter.go_on.set()

    async def main() -> None:
        await asyncio.gather(*(ask(performer, SlowCheck(f"id-{n}", "guess", hashes)) for n in range(5)))

    asyncio.run(main())

    assert counter.run == ["guess"] * 5


def test_a_burst_with_one_chosen_secret_is_let_in(counter: Counter) -> None:
    """Fifty first requests of one client at once: all get the app's answer, for one slow hash."""
    counter.go_on.set()
    store = MemoryStore()
    store.put(Key("ci", secrets=(Secret(HASH),)), None)
    settings = Settings(slow_hash_workers=1)
    app = App()
    gate = BasicAuthMiddleware(app, Backend(store, settings=settings), settings=settings)
    statuses: list[int] = []

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(int(str(message["status"])))

    async def receive() -> dict[str, object]:
        return {"type": "http.request"}

    async def main() -> None:
        scope = http_scope(encode_basic("ci", SECRET))
        await asyncio.gather(*(gate(dict(scope), receive, send) for _ in range(50)))

    asyncio.run(main())

    assert statuses == [200] * 50
    assert len(counter.run) == 1


class Gated:
    """A store whose look-ups can be held up, and are counted."""

    volatile = True

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.looked_up: list[str] = []
        self.go_on = asyncio.Event()
        for name in ("get", "put", "delete", "scan", "changes", "close"):
            setattr(self, name, getattr(self.inner, name))

    async def aget(self, client_id: str) -> Key | None:
        self.looked_up.append(client_id)
        found = self.inner.get(client_id)  # as it was when it was asked for
        await self.go_on.wait()
        return found


async def status(gate: BasicAuthMiddleware, authorization: str) -> int:
    return (await exchange(gate, http_scope(authorization))).status


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_one_look_up_for_one_credential_asked_for_at_once() -> None:
    async def run() -> None:
        store = Gated()
        keys = Backend(store, settings=Settings())
        issued = keys.create()
        gate = BasicAuthMiddleware(App(), keys, settings=Settings())
        asked = [asyncio.create_task(status(gate, issued.authorization)) for _ in range(32)]
        await turns()
        store.go_on.set()
        assert set(await asyncio.gather(*asked)) == {200}
        assert store.looked_up == [issued.client_id]

    asyncio.run(run())


def test_different_secrets_of_one_client_share_no_look_up() -> None:
    async def run() -> None:
        store = Gated()
        keys = Backend(store, settings=Settings())
        issued = keys.create()
        gate = BasicAuthMiddleware(App(), keys, settings=Settings())
        wrong = [encode_basic(issued.client_id, mint("sk")) for _ in range(2)]
        asked = [asyncio.create_task(status(gate, each)) for each in (issued.authorization, *wrong)]
        await turns()
        store.go_on.set()
        assert await asyncio.gather(*asked) == [200, 401, 401]
        assert len(store.looked_up) == 3

    asyncio.run(run())


@pytest.mark.parametrize("ttl_s", [30, 0], ids=["cached", "not-cached"])
def test_no_look_up_is_shared_across_a_change(ttl_s: float) -> None:
    """A request that comes after a revoke is not answered with what was read before it."""

    async def run() -> None:
        store = Gated()
        keys = Backend(store, settings=Settings())
        issued = keys.create()
        gate = BasicAuthMiddleware(App(), keys, settings=Settings(cache_ttl_s=ttl_s))
        before = asyncio.create_task(status(gate, issued.authorization))
        await turns()
        keys.revoke(issued.client_id)
        after = asyncio.create_task(status(gate, issued.authorization))
        await turns()
        store.go_on.set()
        assert await asyncio.gather(before, after) == [200, 401]
        assert await status(gate, issued.authorization) == 401

    asyncio.run(run())


def test_where_nothing_is_remembered_nothing_is_shared() -> None:
    """A change that another process made, say, is seen by every request that comes after it."""

    async def run() -> None:
        store = Gated()
        keys = Backend(store, settings=Settings())
        issued = keys.create()
        gate = BasicAuthMiddleware(App(), keys, settings=Settings(cache_ttl_s=0))
        before = asyncio.create_task(status(gate, issued.authorization))
        await turns()
        assert store.inner.delete(issued.client_id)
        after = asyncio.create_task(status(gate, issued.authorization))
        await turns()
        store.go_on.set()
        assert await asyncio.gather(before, after) == [200, 401]

    asyncio.run(run())
