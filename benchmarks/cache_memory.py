"""How much memory does the cache take, and does its bound hold?

By tracemalloc: everything that stays allocated for an entry, counted from the moment the key was found. A
cache that is full is then offered a million other keys, and refusals.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from datetime import UTC, datetime

from asgi_apps import WRONG_FIELD, bare, ours, scope, status_of
from report import Goal, Outcome, Table, at_most, main
from rounds import Spread

from basicauth_mw import encode_basic
from basicauth_mw.auth.cache import VerificationCache
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import Allow, Principal

LIMIT = 250
MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)


def measured(quick: bool) -> Outcome:
    entries, offered = (20_000, 50_000) if quick else (100_000, 1_000_000)
    own = per_entry(entries, lambda number: Allow(Principal(f"id{number:049}")))
    one = Allow(Principal("one"))
    shared = per_entry(entries, lambda _number: one)
    kept = [f"id{number:049}" for number in range(entries)]
    without_id = per_entry(entries, lambda number: Allow(Principal(kept[number])))
    bound = bounded(10_000, offered)
    refusals = asyncio.run(entries_after_refusals())
    table = Table(
        f"Memory of a cache entry, {entries:,} keys",
        ["entries of", "octets an entry"],
        [
            ["a client each, all that it owns", f"{own:.0f}"],
            ["a client each, its id (of 51 octets) not counted", f"{without_id:.0f}"],
            ["one client, many secrets", f"{shared:.0f}"],
        ],
        f"A cache of 10,000 that was offered {offered:,} different keys holds {bound[0]:,}; it grew by "
        f"{bound[1] / 1e6:+.2f} MB meanwhile. After 1,000 refusals it holds {refusals}.",
    )
    says = "each client has a record, a principal and an id of its own; see the table"
    goals = [
        at_most(
            "memory",
            f"octets an entry, {entries:,} keys, a client each",
            Spread(own, own, own),
            LIMIT,
            unit="",
            reason=says,
        ),
        at_most(
            "memory",
            f"octets an entry, {entries:,} secrets of one client",
            Spread(shared, shared, shared),
            LIMIT,
            unit="",
            reason=says,
        ),
        Goal(
            "memory",
            f"entries after {offered:,} different keys",
            f"{bound[0]:,}, {bound[1] / 1e6:+.2f} MB",
            "10,000, flat within 1 MB",
            bound[0] == 10_000 and bound[1] < 1e6,
        ),
        Goal("memory", "entries after 1,000 refusals", str(refusals), "0", refusals == 0),
    ]
    return Outcome([table], goals)


def per_entry(entries: int, allow_of) -> float:
    """Octets that stay allocated."""
    fields = [b"Basic %052d" % number for number in range(entries)]
    cache = VerificationCache(3600, entries)
    gc.collect()
    tracemalloc.start()
    for number, field in enumerate(fields):
        cache.put(field, allow_of(number), secret_created_at=MADE_AT, expires_at=None, stamp=cache.stamp())
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken / entries


def bounded(size: int, offered: int) -> tuple[int, int]:
    """Entries in the end, and octets that were added since the cache was full."""
    cache = VerificationCache(3600, size)

    def offer() -> None:
        client_id = generate("id")
        field = encode_basic(client_id, "x" * 52).encode()
        allow = Allow(Principal(client_id))
        cache.put(field, allow, secret_created_at=MADE_AT, expires_at=None, stamp=cache.stamp())
        cache.get(field)

    tracemalloc.start()
    # Twice: a dict grows once more while entries come and go.
    for _ in range(2 * size):
        offer()
    cache.drain_hits()
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(offered):
        offer()
        if number % size == 0:
            cache.drain_hits()
    cache.drain_hits()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return len(cache), after - before


async def entries_after_refusals() -> int:
    app = ours(bare, throttle="")
    wrong = [scope(WRONG_FIELD), scope(encode_basic("nobody", "x").encode()), scope(b"Basic !"), scope(None)]
    for number in range(1_000):
        if await status_of(app, wrong[number % len(wrong)]) != 401:
            raise RuntimeError("a wrong credential was let in")
    return len(app._authenticator._cache)


if __name__ == "__main__":
    main(measured, __doc__)
