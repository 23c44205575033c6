"""What does an uncached verification cost with the keys in Redis?

One lookup alone is compared with a plain GET; lookups of 32 different keys at once, as in one iteration of a
busy event loop, with as many GETs gathered over redis-py's own pool. A lookup returns a decoded key, a GET
only bytes. A verification is everything between the request's headers and the decision.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis.asyncio
import uvloop
from asgi_apps import ours, scope
from report import Outcome, Table, at_least, at_most, main
from rounds import AT_ONCE, Call, alone, measure, ratios, spread, together, us

from basicauth_mw import Settings, open_backend
from basicauth_mw.auth.verifier import PendingVerification
from basicauth_mw.keys.model import Principal

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = 1_000
GET, LOOKUP, VERIFICATION = "plain GET", "lookup", "verification"
MGET = "one MGET, written by hand"


async def find(quick: bool, url: str, port: int) -> Outcome:
    backend = open_backend(url, settings=Settings())
    issued = [backend.create() for _ in range(KEYS)]
    authenticator = ours(None, backend, cache_ttl_s=0).authenticator
    ids = [each.client_id for each in issued]
    names = [f"basicauth:1:{{{client_id}}}" for client_id in ids]
    requests = [scope(each.authorization.encode()) for each in issued]
    plain = redis.asyncio.Redis(port=port)
    if None in await plain.mget(names):
        raise RuntimeError("the keys are not where the plain GETs look for them")

    async def verify(request: dict) -> None:
        decision = authenticator.decide(request)
        if isinstance(decision, PendingVerification):
            decision = await authenticator.averify(decision)
        if type(decision) is not Principal:
            raise RuntimeError("a valid credential was refused")

    async def mget() -> None:
        await plain.mget(names[:AT_ONCE])

    functions: dict[str, tuple[Callable[..., Any], list[Any]]] = {
        GET: (plain.get, names),
        LOOKUP: (backend.store.aget, ids),
        VERIFICATION: (verify, requests),
    }
    variants: dict[str, Call] = {f"{MGET}, at once": mget}
    for name, (function, arguments) in functions.items():
        variants[f"{name}, alone"] = alone(function, arguments)
        variants[f"{name}, at once"] = together(function, arguments)
    rounds, count = (9, 10) if quick else (61, 40)
    times = await measure(variants, rounds=rounds, calls=count, clock=time.perf_counter)
    await plain.aclose()
    await backend.aclose()

    def one(name: str):
        return spread(ratios(times[f"{name}, alone"], times[f"{GET}, alone"]))

    def rate(name: str):
        return spread(ratios(times[f"{GET}, at once"], times[f"{name}, at once"]))

    rows = [
        [
            name,
            us(times[f"{name}, alone"]) if name in functions else "",
            one(name).text() if name in functions else "",
            us([taken / AT_ONCE for taken in times[f"{name}, at once"]]),
            rate(name).text(),
        ]
        for name in [*functions, MGET]
    ]
    table = Table(
        "Uncached, keys in Redis, on an event loop",
        ["", "alone: us", "x a plain GET", f"{AT_ONCE} at once: us each", "rate, x gathered GETs"],
        rows,
        f"{rounds} interleaved rounds, {KEYS:,} keys, over TCP to 127.0.0.1, uvloop; redis-py "
        f"{redis.__version__} with hiredis.",
    )
    goals = [
        at_least(
            "check",
            f"Redis, {AT_ONCE} different keys at once: lookups/s / gathered GETs'",
            rate(LOOKUP),
            1,
            reason=f"whole verifications: {rate(VERIFICATION).text()}; {MGET}, not decoded: "
            f"{rate(MGET).text()}",
        ),
        at_most(
            "check",
            "Redis, one alone: lookup / plain GET",
            one(LOOKUP),
            1.3,
            reason=f"whole verifications: {one(VERIFICATION).text()}",
        ),
    ]
    return Outcome([table], goals)


def measured(quick: bool) -> Outcome:
    with RedisServer() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(find(quick, server.url(), server.port))


if __name__ == "__main__":
    main(measured, __doc__)
