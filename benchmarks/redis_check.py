"""How many uncached look-ups a second does Redis answer, and what does a single one take?

Thirty-two different keys at once, as in one turn of a busy event loop, beside the same number of plain GETs
gathered over redis-py's own pool; and one alone beside one plain GET. All to one server, in turn. A look-up
gives a decoded key, and is shown without the decoding too: then it gives octets, as a plain GET does. A check
is all behind the request's head, verdict included.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import redis.asyncio
import uvloop
from asgi_apps import ours, scope
from report import Outcome, Table, at_least, at_most, main
from rounds import Call, measure, ratios, spread, us

from basicauth_mw import Settings, open_backend
from basicauth_mw.auth.runner import arun
from basicauth_mw.backends.codec import load_for_lookup
from basicauth_mw.keys.model import Allow

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.redis_server import RedisServer

AT_ONCE = 32
KEYS = 1_000
MGET = "one MGET, by hand"
DECODING = "decoding of a look-up"
GATHER = "gather alone"


async def find(quick: bool, url: str, port: int) -> Outcome:
    backend = open_backend(url, settings=Settings())
    issued = [backend.create() for _ in range(KEYS)]
    authenticator = ours(None, backend, cache_ttl_s=0)._authenticator
    ids = [each.client_id for each in issued]
    names = [f"basicauth:1:{{{client_id}}}" for client_id in ids]
    requests = [scope(each.authorization.encode()) for each in issued]
    plain = redis.asyncio.Redis(port=port)
    store = backend.store
    records = await plain.mget(names)
    if None in records:
        raise RuntimeError("the keys are not where the plain GETs look for them")
    stored = dict(zip(ids, records, strict=True))
    await store.aget(ids[0])  # connects

    async def get(name: bytes) -> bytes:
        return await next(iter(store._loops.values())).get(name)

    async def decode() -> None:
        for client_id in ids[:AT_ONCE]:
            load_for_lookup(stored[client_id], client_id)

    async def nothing(_name: str) -> None:
        pass

    async def check(request: dict) -> None:
        if type(await arun(authenticator.decide(request), authenticator.reader)) is not Allow:
            raise RuntimeError("a good credential was refused")

    calls: dict[str, tuple[Any, list[Any]]] = {
        "plain GET": (plain.get, names),
        "look-up": (store.aget_record, ids),
        "look-up, not decoded": (get, [name.encode() for name in names]),
        "check": (check, requests),
    }
    parts: dict[str, Call] = {
        MGET: mget(plain, names),
        DECODING: decode,
        GATHER: together(nothing, names),
    }
    variants = dict(parts)
    for name, (function, arguments) in calls.items():
        variants[f"{name}, alone"] = alone(function, arguments)
        variants[f"{name}, {AT_ONCE} at once"] = together(function, arguments)
    rounds, count = (9, 10) if quick else (61, 40)
    times = await measure(variants, rounds=rounds, calls=count)
    await plain.aclose()
    await backend.aclose()

    rows = []
    for name in calls:
        one, many = times[f"{name}, alone"], times[f"{name}, {AT_ONCE} at once"]
        rows.append(
            [
                name,
                us(one),
                spread(ratios(one, times["plain GET, alone"])).text(),
                us([taken / AT_ONCE for taken in many]),
                spread(ratios(times[f"plain GET, {AT_ONCE} at once"], many)).text(),
            ]
        )
    gathered = times[f"plain GET, {AT_ONCE} at once"]
    for name in parts:
        rate = spread(ratios(gathered, times[name])).text()
        rows.append([name, "", "", us([taken / AT_ONCE for taken in times[name]]), rate])
    table = Table(
        "Uncached look-ups in Redis, from an event loop",
        ["", "alone: us", "x a plain GET", f"{AT_ONCE} at once: us each", "rate, x gathered GETs"],
        rows,
        f"{rounds} interleaved rounds of at most {count} turns, {KEYS:,} keys, over TCP to 127.0.0.1, "
        f"uvloop. redis-py {redis.__version__} with hiredis.",
    )
    at_once = {name: times[f"{name}, {AT_ONCE} at once"] for name in calls}
    lone = {name: times[f"{name}, alone"] for name in calls}
    checks = spread(ratios(at_once["plain GET"], at_once["check"]))
    octets = spread(ratios(at_once["plain GET"], at_once["look-up, not decoded"]))
    least = [sum(each) for each in zip(*(times[name] for name in parts), strict=True)]
    floor = spread(ratios(at_once["plain GET"], least))
    goals = [
        at_least(
            "check",
            f"Redis, {AT_ONCE} different keys at once: look-ups/s / gathered GETs'",
            spread(ratios(at_once["plain GET"], at_once["look-up"])),
            1,
            reason=f"a plain GET gives octets, a look-up a decoded key, which without its decoding comes to "
            f"{octets.text()}; {MGET}, decoding and gather alone come to {floor.text()}, whole checks to "
            f"{checks.text()}",
        ),
        at_most(
            "check",
            "Redis, one alone: look-up / plain GET",
            spread(ratios(lone["look-up"], lone["plain GET"])),
            1.3,
        ),
    ]
    return Outcome([table], goals)


def mget(plain: redis.asyncio.Redis, names: list[str]) -> Call:
    """What a batch costs at the least: one command, one reply, nothing decoded."""
    some = names[:AT_ONCE]

    async def call() -> None:
        await plain.mget(some)

    return call


def alone(function, arguments: list) -> Call:
    place = 0

    async def call() -> None:
        nonlocal place
        place = (place + 1) % len(arguments)
        await function(arguments[place])

    return call


def together(function, arguments: list) -> Call:
    place = 0

    async def call() -> None:
        nonlocal place
        place = (place + AT_ONCE) % (len(arguments) - AT_ONCE)
        await asyncio.gather(*map(function, arguments[place : place + AT_ONCE]))

    return call


def measured(quick: bool) -> Outcome:
    with RedisServer() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(find(quick, server.url(), server.port))


if __name__ == "__main__":
    main(measured, __doc__)
