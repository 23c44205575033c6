"""What does an authenticated ASGI request cost?

Valid credentials that are cached, in this process: what each variant adds to the unprotected app.
"""

from __future__ import annotations

import asyncio
from statistics import median

import uvloop
from asgi_apps import FIELD, Floor, FloorWithoutCache, bare, base_http, fastapi, is_right, ours, request_of
from asgi_apps import starlette as starlette_middleware
from peers import (
    BASE_HTTP,
    FASTAPI,
    FLOOR,
    HOLDING,
    MISSING_IN_ALL,
    OURS,
    STARLETTE,
    UNCACHED,
    UNMAPPED,
    leaves_out,
)
from report import Outcome, Table, at_most, main
from rounds import added, measure, ratios, spread, us

OURS_FASTAPI = "basicauth_mw, around FastAPI"


async def find(quick: bool) -> Outcome:
    api = fastapi()
    unprotected = {"bare": bare, "FastAPI": api}
    # By name: the protected app, and which app it protects.
    variants = {
        FLOOR: (Floor(bare), "bare"),
        HOLDING: (Floor(bare, holds=True), "bare"),
        UNCACHED: (FloorWithoutCache(bare), "bare"),
        OURS: (ours(bare), "bare"),
        UNMAPPED: (ours(bare, map_errors=False), "bare"),
        f"{OURS}, exclude": (ours(bare, exclude=("/health", "/docs/*")), "bare"),
        f"{OURS}, include": (ours(bare, include=("/*",)), "bare"),
        f"{OURS}, optional": (ours(bare, optional=("/feed", "/public/*")), "bare"),
        f"{OURS}, three schemes": (ours(bare, schemes=("basic", "bearer", "header:x-api-key")), "bare"),
        STARLETTE: (starlette_middleware(bare), "bare"),
        BASE_HTTP: (base_http(bare), "bare"),
        OURS_FASTAPI: (ours(api), "FastAPI"),
        FASTAPI: (fastapi(is_right), "FastAPI"),
    }
    apps = unprotected | {name: app for name, (app, _) in variants.items()}
    calls = {name: await request_of(app, FIELD, 200) for name, app in apps.items()}
    rounds, count = (9, 300) if quick else (61, 2000)
    times = await measure(calls, rounds=rounds, calls=count)

    more = {name: added(times, name, base) for name, (_, base) in variants.items()}
    floors = {name: spread(ratios(figures, more[FLOOR])) for name, figures in more.items()}
    rows = [
        [name, base, us(times[name]), us(more[name]), floors[name].text(), leaves_out(name)]
        for name, (_, base) in variants.items()
    ]
    rows += [[name, "", us(times[name]), "", "", ""] for name in unprotected]
    table = Table(
        "A request with valid, cached credentials; ASGI, in this process",
        ["protected by", "app", "us per call", "added us", "added, x floor (quartiles)", "leaves out"],
        rows,
        f"{rounds} interleaved rounds, at most {count} calls of each in a round, uvloop, one core, default "
        "settings. In such a loop the processor's caches are warm; under a server each of these costs "
        f"several times as much, as shown below. {MISSING_IN_ALL}",
    )
    goals = [
        at_most(
            "hit",
            "default settings: added / floor's",
            floors[OURS],
            1.35,
            reason=f"a floor that holds the response start, as `map_errors` has to, is "
            f"{floors[HOLDING].text()}; without `map_errors` it is {floors[UNMAPPED].text()}",
        ),
        at_most(
            "hit",
            "map_errors=False: added / floor's",
            floors[UNMAPPED],
            0.95,
            reason=f"default settings: {floors[OURS].text()}",
        ),
        at_most(
            "hit",
            "default settings: added / Starlette's AuthenticationMiddleware",
            spread(ratios(more[OURS], more[STARLETTE])),
            0.5,
            reason=f"the floor has {spread(ratios(more[FLOOR], more[STARLETTE])).text()}",
        ),
    ]
    shown = (FLOOR, OURS, STARLETTE, FASTAPI, BASE_HTTP)
    return Outcome([table], goals, {"valid": {name: median(more[name]) * 1e6 for name in shown}})


def measured(quick: bool) -> Outcome:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(find(quick))


if __name__ == "__main__":
    main(measured, __doc__)
