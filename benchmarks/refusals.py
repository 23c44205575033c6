"""What does a refused ASGI request cost?

Whole requests in this process, with default settings: a wrong secret, an unknown ID, no credentials, and a
throttled client. The requests come from many addresses, so that failures are counted but not throttled.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import uvloop
from asgi_apps import (
    ADDRESSES,
    CLIENT_ID,
    SECRET,
    UNKNOWN_FIELD,
    WRONG_FIELD,
    Floor,
    FloorWithoutCache,
    addresses_for,
    bare,
    base_http,
    fastapi,
    is_right,
    ours,
    request_of,
    starlette,
)
from peers import BASE_HTTP, FASTAPI, FLOOR, MISSING_IN_ALL, OURS, STARLETTE, UNCACHED, leaves_out
from report import Outcome, Table, at_most, main
from rounds import Call, measure, ratios, spread, us

from basicauth_mw import Backend, Settings, open_backend
from basicauth_mw.keys.hashing import Hasher
from basicauth_mw.keys.model import Key, Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

ONE_HASH = "basicauth_mw, dictionary store"
MEMORY = "basicauth_mw, memory:"
SQLITE = "basicauth_mw, SQLite"
THROTTLED = "basicauth_mw, throttled: 429"
# Starlette responds with 400 to what its backend refuses, unless it is configured otherwise.
STATUS = {STARLETTE: 400}


class DictStore:
    """Keys in a dictionary: the cost of a refusal without that of a lookup.

    Digests have no pepper, as in a file, so a refusal computes one.
    """

    def __init__(self, keys: Mapping[str, Key]) -> None:
        self._keys = keys

    def get(self, client_id: str, /) -> Key | None:
        return self._keys.get(client_id)

    get_nowait = get

    def has_password_hashes(self) -> bool:
        return False


async def find(quick: bool, directory: Path) -> Outcome:
    settings = Settings()
    key = Key(CLIENT_ID, secrets=(Secret(Hasher().digest_secret(SECRET)),))
    with closing(open_backend(f"sqlite:///{directory}/keys.db", settings=settings, create=True)) as sqlite:
        sqlite.create(client_id=CLIENT_ID, secret=SECRET)
        stores = {
            ONE_HASH: ours(bare, Backend(DictStore({CLIENT_ID: key}), settings=settings)),
            MEMORY: ours(bare),
            SQLITE: ours(bare, sqlite),
        }
        peers = {
            FLOOR: Floor(bare),
            UNCACHED: FloorWithoutCache(bare),
            STARLETTE: starlette(bare),
            BASE_HTTP: base_http(bare),
            FASTAPI: fastapi(is_right),
        }
        rounds, count = (9, 200) if quick else (61, 500)
        addresses = addresses_for(rounds * count)
        kinds: dict[str, dict[str, Call]] = {"wrong": {}, "unknown": {}, "missing": {}}
        fields = {"wrong": WRONG_FIELD, "unknown": UNKNOWN_FIELD, "missing": None}
        for name, app in (stores | peers).items():
            for kind, calls in kinds.items():
                status = STATUS.get(name, 401)
                calls[name] = await request_of(app, fields[kind], status, addresses)
        kinds["throttled"] = {THROTTLED: await throttled()}
        variants = {f"{kind} {name}": call for kind, calls in kinds.items() for name, call in calls.items()}
        times = await measure(variants, rounds=rounds, calls=count)

    def ratio(kind: str, name: str, base: str):
        return spread(ratios(times[f"{kind} {name}"], times[base]))

    peer = {kind: f"{kind} {STARLETTE}" for kind in fields}
    rows = []
    for name in [*stores, *peers]:
        cells = [cell for kind in fields for cell in _cells(times, kind, name, peer[kind])]
        rows.append([name, *cells, leaves_out(name)])
    limited = times[f"throttled {THROTTLED}"]
    to_missing = spread(ratios(limited, times[f"missing {ONE_HASH}"]))
    columns = [cell for kind in fields for cell in (f"{kind}: us", "x Starlette's")]
    table = Table(
        "A refused request, whole; ASGI, in this process",
        ["refused by", *columns, "leaves out"],
        rows,
        f"{rounds} interleaved rounds, at most {count} calls of each in a round; from "
        f"{len(addresses):,} addresses in turn. Default settings: each failure is counted for the throttle. "
        "The dictionary store and SQLite need one digest for a refusal, `memory:` two, since its keys have a "
        f"pepper. A throttled request takes {us(limited)} us. {MISSING_IN_ALL}",
    )
    floor = {kind: ratio(kind, FLOOR, peer[kind]).text() for kind in fields}
    memory = {kind: ratio(kind, MEMORY, peer[kind]).text() for kind in fields}
    goals = [
        *(
            at_most(
                "refusal",
                f"{kind}, one digest: whole request / Starlette's",
                ratio(kind, ONE_HASH, peer[kind]),
                2,
                reason=f"a floor that verifies has {ratio(kind, UNCACHED, peer[kind]).text()}, `memory:` "
                f"{memory[kind]}; missing credentials, where only the response is made, take "
                f"{us(times[f'missing {ONE_HASH}'])} of the {us(times[f'{kind} {ONE_HASH}'])} us",
            )
            for kind in ("wrong", "unknown")
        ),
        at_most(
            "refusal",
            "missing: whole request / Starlette's",
            ratio("missing", ONE_HASH, peer["missing"]),
            1.05,
            reason=f"the floor, with a constant response, has {floor['missing']}",
        ),
        at_most(
            "refusal",
            "throttled (429): whole request / missing's",
            to_missing,
            1.5,
            reason="the client ID is parsed and its counters are looked up before it is refused",
        ),
    ]
    shown = {FLOOR: FLOOR, OURS: ONE_HASH, STARLETTE: STARLETTE, FASTAPI: FASTAPI, BASE_HTTP: BASE_HTTP}
    series = {
        kind: {label: median(times[f"{kind} {name}"]) * 1e6 for label, name in shown.items()}
        for kind in ("wrong", "missing")
    }
    return Outcome([table], goals, series)


def _cells(times: dict[str, list[float]], kind: str, name: str, base: str) -> list[str]:
    figures = times[f"{kind} {name}"]
    return [us(figures), spread(ratios(figures, times[base])).text()]


async def throttled() -> Call:
    """A request of a client that has failed too often."""
    app, one = ours(bare), ADDRESSES[:1]
    for _ in range(20):  # the default limit
        await request_of(app, WRONG_FIELD, 401, one)
    return await request_of(app, WRONG_FIELD, 429, one)


def measured(quick: bool) -> Outcome:
    with (
        tempfile.TemporaryDirectory(prefix="basicauth-bench-") as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(find(quick, Path(directory)))


if __name__ == "__main__":
    main(measured, __doc__)
