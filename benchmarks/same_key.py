"""How often is the store asked, and how often is a slow hash computed, when many want the same at once?

Thirty-two requests at once with one credential that is not cached. Counted, not timed: over SQLite and
Redis, on an event loop and in threads, for a minted secret and one that a person chose; as the very first
requests of a process, and after another one.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from threading import Barrier
from typing import Any

from asgi_apps import bare as asgi_bare
from asgi_apps import ours as asgi_ours
from asgi_apps import scope, status_of
from report import Goal, Outcome, Table, main
from wsgi_apps import bare as wsgi_bare
from wsgi_apps import environ

from basicauth_mw import Settings, encode_basic
from basicauth_mw.backends import passwords
from basicauth_mw.backends.backend import Backend
from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.wsgi import BasicAuthMiddleware as WSGIGate

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.redis_server import RedisServer

AT_ONCE = 32


class RefusalStats:
    def __init__(self) -> None:
        self.lookups = self.hashes = 0


def counting(store, counts: RefusalStats):
    """The store itself, with its look-ups counted."""
    for name in ("get_nowait_stored", "aget_stored", "get_stored"):
        ask = getattr(store, name, None)
        if ask is None or (
            name == "get_stored" and hasattr(store, "get_nowait")
        ):  # it calls get_nowait_stored
            continue

        def counted(client_id, ask=ask):
            counts.lookups += 1
            return ask(client_id)

        setattr(store, name, counted)
    return store


def measured(quick: bool) -> Outcome:  # counting is quick as it is
    counts = RefusalStats()
    match = passwords.verify_password

    def counted(secret: str, stored: str) -> bool:
        counts.hashes += 1
        return match(secret, stored)

    passwords.verify_password = counted
    rows: list[list[str]] = []
    found: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory(prefix="basicauth-bench-") as directory, RedisServer() as server:
        urls = {"SQLite": f"sqlite:///{directory}/keys.db", "Redis": server.url()}
        for kind, what, world in product(urls, SECRETS, WORLDS):
            row = [f"{kind}, {what}, {world}"]
            for warm in (False, True):
                store = SqliteStore(urls[kind], create=True) if kind == "SQLite" else RedisStore(urls[kind])
                with Backend(counting(store, counts), settings=Settings()) as keys:
                    first = issued_field(keys, None) if warm else ""
                    statuses = WORLDS[world](keys, first, issued_field(keys, SECRETS[what]), counts)
                if set(statuses) != {200}:
                    raise RuntimeError(f"answered {statuses}")
                row += [str(counts.lookups), str(counts.hashes)]
                found[warm].append((counts.lookups, counts.hashes))
            rows.append(row)
    passwords.verify_password = match
    table = Table(
        f"{AT_ONCE} requests at once with one uncached credential",
        ["keys, secret, where", "first of all: look-ups", "slow hashes", "later: look-ups", "slow hashes"],
        rows,
        "Counted at the store and at the hash. The first requests of a process find the store unopened.",
    )
    goals = []
    for warm, when in ((True, ""), (False, ", first of a process")):
        lookups = sorted(asked for asked, _ in found[warm])
        says = "more than one in: " + "; ".join(row[0] for row in rows if row[3 if warm else 1] != "1")
        hashes = max(hashed for _, hashed in found[warm])
        what = f"{AT_ONCE} at once, one uncached credential{when}"
        one = lookups == [1] * len(lookups)
        measured = f"{lookups[0]} to {lookups[-1]}"
        goals += [
            Goal("G9", f"{what}: look-ups", measured, "exactly 1", one, "" if one else says),
            Goal(
                "G9",
                f"{what}: slow hashes",
                f"at most {hashes}",
                "at most 1",
                hashes <= 1,
                ""
                if hashes <= 1
                else "who looks at the cache before and asks after the first is done asks anew",
            ),
        ]
    return Outcome([table], goals)


def issued_field(keys: Backend, secret: str | None) -> str:
    issued = keys.create(secret=secret)
    return encode_basic(issued.client_id, issued.secret)


def on_a_loop(keys: Backend, first: str, field: str, counts: RefusalStats) -> list[int]:
    async def ask() -> list[int]:
        app = asgi_ours(asgi_bare, keys)
        if first:
            await status_of(app, scope(first.encode()))
        counts.lookups = counts.hashes = 0
        request = scope(field.encode())
        statuses = await asyncio.gather(*(status_of(app, request) for _ in range(AT_ONCE)))
        await keys.aclose()
        return statuses

    return asyncio.run(ask())


def in_threads(keys: Backend, first: str, field: str, counts: RefusalStats) -> list[int]:
    app = WSGIGate(wsgi_bare, keys, settings=Settings())
    ready = Barrier(AT_ONCE)
    statuses: list[int] = []

    def start_response(line: str, *_more: object) -> Any:
        statuses.append(int(line[:3]))

    def ask(sent: str) -> None:
        app(environ(sent.encode()), start_response)

    def ask_together(_number: int) -> None:
        ready.wait(10)
        ask(field)

    if first:
        ask(first)
    counts.lookups = counts.hashes = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(ask_together, range(AT_ONCE)))
    return statuses


SECRETS = {"minted": None, "chosen, Argon2id": "a secret that a person chose"}
WORLDS = {"event loop": on_a_loop, "threads": in_threads}


if __name__ == "__main__":
    main(measured, __doc__)
