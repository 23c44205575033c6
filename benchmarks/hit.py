"""What does an authenticated ASGI request cost over an unprotected one?

Valid credentials, seen before, in process: a bare app, the least that a correct gate can do written by hand
(``floor``), this middleware, and its peers, each over the app that it protects.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from statistics import median

import uvloop
from asgi_apps import (
    CLIENT_ID,
    FIELD,
    Floor,
    FloorWithoutCache,
    bare,
    base_http,
    fastapi,
    litestar,
    ours,
    request_of,
    scope,
    starlette,
)
from report import Outcome, Table, at_most, main
from rounds import Call, added, measure, ratios, spread, us

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.auth.requests import ASGIRequest

CHOSEN = "a secret that a person chose"
FLOOR, OURS = "floor, written by hand", "basicauth_mw"
STARLETTE, BASE_HTTP = "Starlette AuthenticationMiddleware", "BaseHTTPMiddleware"
FASTAPI, LITESTAR = "FastAPI, HTTPBasic dependency", "Litestar, authentication middleware"
SLOW = "basicauth_mw, Argon2id secret in SQLite"
PLAIN_FLOOR = "floor without a cache"
HOLDING = "floor that holds the answer's start"


class Passthrough:
    """One more frame, and nothing else."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


async def find(quick: bool, directory: Path) -> Outcome:
    slow_keys = open_backend(f"sqlite:///{directory}/keys.db", settings=Settings(), create=True)
    slow_keys.create(client_id=CLIENT_ID, secret=CHOSEN)
    slow_field = encode_basic(CLIENT_ID, CHOSEN).encode()
    protected, api, star = ours(bare), fastapi(), litestar()
    # What protects, over which app.
    pairs = {
        "one more async frame": (Passthrough(bare), "bare"),
        FLOOR: (Floor(bare), "bare"),
        PLAIN_FLOOR: (FloorWithoutCache(bare), "bare"),
        HOLDING: (Floor(bare, holds=True), "bare"),
        OURS: (protected, "bare"),
        "basicauth_mw, map_errors=False": (ours(bare, map_errors=False), "bare"),
        STARLETTE: (starlette(bare), "bare"),
        BASE_HTTP: (base_http(bare), "bare"),
        "floor, over FastAPI": (Floor(api), "FastAPI"),
        "basicauth_mw, over FastAPI": (ours(api), "FastAPI"),
        FASTAPI: (fastapi(protected=True), "FastAPI"),
        "floor, over Litestar": (Floor(star), "Litestar"),
        "basicauth_mw, over Litestar": (ours(star), "Litestar"),
        LITESTAR: (litestar(protected=True), "Litestar"),
    }
    apps = {"bare": bare, "FastAPI": api, "Litestar": star, **{name: app for name, (app, _) in pairs.items()}}
    calls = {name: await request_of(app, FIELD, 200) for name, app in apps.items()}
    calls[SLOW] = await request_of(ours(bare, slow_keys), slow_field, 200)
    pairs[SLOW] = (None, "bare")
    parts = parts_of(protected)
    rounds, count = (9, 300) if quick else (61, 2000)
    times = await measure({**calls, **parts}, rounds=rounds, calls=count)
    await slow_keys.aclose()

    more = {name: added(times, name, base) for name, (_, base) in pairs.items()}
    floors = {name: spread(ratios(figures, more[FLOOR])) for name, figures in more.items()}
    rows = [
        [name, base, us(times[name]), us(more[name]), floors[name].text()]
        for name, (_, base) in pairs.items()
    ]
    rows += [[name, "", us(times[name]), "", ""] for name in ("bare", "FastAPI", "Litestar")]
    nothing = times["nothing"]
    tables = [
        Table(
            "A request with valid credentials, seen before; ASGI, in process",
            ["protected by", "over", "us a call", "added us", "added, x floor (quartiles)"],
            rows,
            f"{rounds} interleaved rounds, at most {count} calls of each in a round, uvloop, one core.",
        ),
        Table(
            "Parts of a hit",
            ["part", "us"],
            [
                [name, us([mine - idle for mine, idle in zip(times[name], nothing, strict=True)])]
                for name in parts
                if name != "nothing"
            ],
            "Each alone, less the cost of an empty call. Of the same rounds.",
        ),
    ]
    to_starlette = spread(ratios(more[OURS], more[STARLETTE]))
    begin = ratios(added(times, "Authenticator.decide", "nothing"), more[FLOOR])
    frames = ratios(added(times, OURS, "basicauth_mw, map_errors=False"), more[FLOOR])
    says = (
        f"Authenticator.decide (header, cache, expiry) is {median(begin):.2f} x floor"
        f", map_errors {median(frames):.2f}"
        f"; a floor that holds the answer's start, as map_errors has to, is {floors[HOLDING].text()}"
    )

    def floor_of(peer: str) -> str:
        return f"the floor itself has {spread(ratios(more[FLOOR], more[peer])).text('.3g')} of it"

    goals = [
        at_most("G1", "valid, cached, in process: added / floor's", floors[OURS], 1.25, unit=" x", says=says),
        at_most(
            "G1",
            "the same / Starlette's AuthenticationMiddleware",
            to_starlette,
            0.45,
            unit=" x",
            says=floor_of(STARLETTE),
        ),
        at_most(
            "G2",
            "the same / FastAPI's async dependency",
            spread(ratios(more[OURS], more[FASTAPI])),
            1 / 15,
            unit=" x",
            says=floor_of(FASTAPI),
        ),
        at_most(
            "G2",
            "the same / BaseHTTPMiddleware",
            spread(ratios(more[OURS], more[BASE_HTTP])),
            1 / 60,
            unit=" x",
            says=floor_of(BASE_HTTP),
        ),
        at_most(
            "G10",
            "slow stored hash, second request: added / floor's",
            floors[SLOW],
            1.25,
            unit=" x",
            says=says,
        ),
        at_most(
            "G10",
            "the same / Starlette's AuthenticationMiddleware",
            spread(ratios(more[SLOW], more[STARLETTE])),
            0.45,
            unit=" x",
            says=floor_of(STARLETTE),
        ),
    ]
    shown = (FLOOR, OURS, STARLETTE, LITESTAR, FASTAPI, BASE_HTTP)
    return Outcome(tables, goals, {"valid": {name: median(more[name]) * 1e6 for name in shown}})


def parts_of(protected) -> dict[str, Call]:
    """What a hit is made of, one by one, beside a call that does nothing."""
    request = scope()
    authenticator = protected._authenticator
    cache = authenticator._cache

    def part(function, *arguments) -> Call:
        async def call() -> None:
            function(*arguments)

        return call

    return {
        "nothing": part(lambda: None),
        "ASGIRequest.authorization": part(ASGIRequest.authorization, request),
        "VerdictCache.get": part(cache.get, FIELD),
        "Authenticator.decide": part(authenticator.decide, request),
        "a copy of the scope": part(dict, request),
        "a copy of the digest's state, and its digest": part(lambda: digest(cache._keyed)),
    }


def digest(keyed) -> bytes:
    """What any cache has to do that must not be keyed by the secret itself."""
    state = keyed.copy()
    state.update(FIELD)
    return state.digest()


def measured(quick: bool) -> Outcome:
    with (
        tempfile.TemporaryDirectory(prefix="basicauth-bench-") as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(find(quick, Path(directory)))


if __name__ == "__main__":
    main(measured, __doc__)
