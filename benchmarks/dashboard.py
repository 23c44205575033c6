"""How long does a page of the dashboard take with many keys?

From the authenticated request to the response: the CSRF token, the lookups, 25 keys with their last uses, and
the template. Each list begins at a random key. A search finds the one key whose ID has eight given
characters: SQLite has an index for that, and over Redis a page looks at 10,000 keys at most.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).parents[1]))
from report import Goal, Outcome, Table, at_most, main
from rounds import Call, Times, measure, ratios, spread, us

from basicauth_mw import Principal, Settings, encode_basic, open_backend
from basicauth_mw.auth.request_adapters import PRINCIPAL
from basicauth_mw.backends import LastUse
from basicauth_mw.dashboard import ADMIN_SCOPE, dashboard
from basicauth_mw.dashboard.request import DashboardRequest
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher
from basicauth_mw.keys.model import Key, Secret, utcnow
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from basicauth_mw import Backend
    from basicauth_mw.dashboard.app import DashboardApp

BATCH = 5_000
SAMPLE = 500  # different pages
SEARCHED = slice(20, 28)  # of an ID
USED_ONE_IN = 10  # every tenth key was used

AUTHORIZATION = encode_basic("admin", generate("sk")).encode()
ADMIN = Principal("admin", scopes=frozenset({ADMIN_SCOPE}))


async def find(quick: bool, stack: ExitStack) -> Outcome:
    sizes = [1_000, 20_000] if quick else [1_000, 200_000]
    rounds, count = (9, 20) if quick else (41, 20)
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="basicauth-bench-")))
    server = stack.enter_context(RedisServer())
    stores = {
        "SQLite": lambda size: f"sqlite:///{directory}/{size}.db",
        "Redis": lambda size: server.url(f"keys-{size}"),
    }
    calls: dict[str, Call] = {}
    for store, url in stores.items():
        for size in sizes:
            backend = stack.enter_context(closing(open_backend(url(size), settings=Settings(), create=True)))
            ids = fill(backend, size)
            app = dashboard(backend, settings=Settings())._app
            for kind, page in pages(app, ids).items():
                calls[f"{store} {kind} {size:,}"] = page
    times = await measure(calls, rounds=rounds, calls=count, clock=time.perf_counter)
    tables = [table(times, store, sizes, rounds) for store in stores]
    goals = [goal for store in stores for goal in goals_of(times, store, sizes)]
    last = f"{sizes[-1]:,}"
    series = {f"{store} list": median(times[f"{store} list {last}"]) * 1e3 for store in stores}
    return Outcome(tables, goals, {"page_ms": series})


def fill(backend: Backend, size: int) -> list[str]:
    """Create keys; return a sample of their IDs."""
    hashed, now = Hasher().digest_secret(generate("sk")), utcnow()
    sample: list[str] = []
    for start in range(0, size, BATCH):
        ids = [generate("id") for _ in range(min(BATCH, size - start))]
        secrets = (Secret(hashed, created_at=now),)
        backend.store.add(
            [
                Key(client_id, "a name", frozenset({"read"}), created_at=now, secrets=secrets, version=1)
                for client_id in ids
            ]
        )
        backend.store.record_uses([LastUse(client_id, now, now) for client_id in ids[::USED_ONE_IN]])
        sample += ids[:: max(1, size // SAMPLE)]
    return sample


def pages(app: DashboardApp, ids: list[str]) -> dict[str, Call]:
    """A call for each kind of page; every call requests another one."""
    chosen = random.Random(1).sample(ids, min(SAMPLE, len(ids)))
    return {
        "list": request_of(app, "/", [{"after": each} for each in chosen]),
        "search": request_of(app, "/", [{"text": each[SEARCHED]} for each in chosen]),
        "key": request_of(app, "/key", [{"id": each} for each in chosen]),
        "activity": request_of(app, "/activity", [{"after": each} for each in chosen]),
    }


def request_of(app: DashboardApp, path: str, queries: list[dict[str, str]]) -> Call:
    turn = cycle(queries)
    headers = [(b"authorization", AUTHORIZATION)]
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers, PRINCIPAL: ADMIN}

    async def call() -> None:
        request = {**scope, "query_string": urlencode(next(turn)).encode()}
        # Blocks, as in the thread that runs it in an app.
        response = app.respond(DashboardRequest(request, b""))
        assert response.status_code == 200

    return call


KINDS = {"list": "the list", "search": "a search", "key": "one key", "activity": "Activity"}


def table(times: Times, store: str, sizes: list[int], rounds: int) -> Table:
    rows = []
    for kind, name in KINDS.items():
        first = times[f"{store} {kind} {sizes[0]:,}"]
        for size in sizes:
            these = times[f"{store} {kind} {size:,}"]
            rows.append([f"{name}, {size:,} keys", us(these), spread(ratios(these, first)).text()])
    return Table(
        f"A page of the dashboard over {store}, by the number of keys; in one process",
        ["page", "us", "x the first (quartiles)"],
        rows,
        f"{rounds} interleaved rounds; {SAMPLE} different pages of each kind.",
    )


def goals_of(times: Times, store: str, sizes: list[int]) -> list[Goal]:
    kinds = ("list", "search") if store == "SQLite" else ("list",)
    return [
        at_most(
            "dashboard",
            f"{KINDS[kind]}: a page at {sizes[-1]:,} keys over {store} / at {sizes[0]:,}",
            spread(ratios(times[f"{store} {kind} {sizes[-1]:,}"], times[f"{store} {kind} {sizes[0]:,}"])),
            3,
        )
        for kind in kinds
    ]


def measured(quick: bool) -> Outcome:
    with ExitStack() as stack:
        return asyncio.run(find(quick, stack))


if __name__ == "__main__":
    main(measured, __doc__)
