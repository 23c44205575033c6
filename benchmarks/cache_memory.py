"""How much memory does the cache take, and is it bounded?

By tracemalloc: what becomes free when a full cache is cleared. Every entry belongs to another client, whose
key was read from SQLite with one scope. Then a full cache is offered many more keys, and refusals.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from asgi_apps import UNKNOWN_FIELD, WRONG_FIELD, bare, drop, ours, receive, scope, status_of
from report import Goal, Outcome, Table, at_most, main
from rounds import Spread

from basicauth_mw import encode_basic, open_backend
from basicauth_mw.keys.generated_secrets import generate, generate_id
from basicauth_mw.keys.hashing import Hasher
from basicauth_mw.keys.model import Key, Secret

if TYPE_CHECKING:
    from basicauth_mw import Backend

LIMIT = 400
BOUND = 2_000


async def find(quick: bool, directory: Path) -> Outcome:
    entries, offered = (5_000, 6_000) if quick else (10_000, 20_000)
    url = f"sqlite:///{directory}/keys.db"
    fields = create_keys(url, max(entries, offered))
    own = await bytes_per_entry(url, fields[:entries])
    size, grown = await bounded(url, fields[:offered])
    refusals = await entries_after_refusals()
    table = Table(
        f"Memory of a cache entry, {entries:,} keys",
        ["", ""],
        [
            ["bytes per entry: a client each, one scope, read from SQLite", f"{own:.0f}"],
            [f"entries of a cache for {BOUND:,}, after {offered:,} different keys", f"{size:,}"],
            ["its growth in bytes meanwhile, after it was full", f"{grown:+,}"],
            ["entries after 1,000 refusals", str(refusals)],
        ],
        f"A client ID alone is a string of {len(generate_id()) + 49} bytes.",
    )
    goals = [
        at_most(
            "memory",
            "bytes per cache entry: a client each, one scope, read from a store",
            Spread(own, own, own),
            LIMIT,
            unit="",
            reason="each client has an ID, a principal, scopes and an entry of its own",
        ),
        Goal(
            "memory",
            f"a cache for {BOUND:,} after {offered:,} different keys",
            f"{size:,} entries, {grown / 1e6:+.2f} MB",
            f"{BOUND:,} entries, within 1 MB",
            size == BOUND and grown < 1e6,
        ),
        Goal("memory", "cache entries after 1,000 refusals", str(refusals), "0", refusals == 0),
    ]
    return Outcome([table], goals)


def create_keys(url: str, count: int) -> list[bytes]:
    """Create keys with one scope; return their header values."""
    secret = generate("sk")
    stored = (Secret(Hasher().digest_secret(secret)),)
    keys = [Key(generate_id(), scopes=frozenset({"read"}), secrets=stored) for _ in range(count)]
    with closing(open_backend(url, create=True)) as backend:
        if not all(backend.store.add(keys)):
            raise RuntimeError("not every key was written")
    return [encode_basic(key.client_id, secret).encode() for key in keys]


async def send(app, fields: list[bytes]) -> None:
    template = scope(None)
    for field in fields:
        headers = [*template["headers"], (b"authorization", field)]
        await app({**template, "headers": headers, "state": {}}, receive, drop)


async def bytes_per_entry(url: str, fields: list[bytes]) -> float:
    """What becomes free when the cache is cleared, per entry."""
    with closing(open_backend(url)) as backend:
        app = ours(bare, backend, cache_ttl_s=3600, cache_size=len(fields))
        cache = app.authenticator._cache
        tracemalloc.start()
        await send(app, fields)
        forget_uses(backend)
        cache.drain_hits()
        full = traced()
        if len(cache) != len(fields):
            raise RuntimeError(f"{len(cache)} of {len(fields)} keys are cached")
        cache.clear()
        empty = traced()
        tracemalloc.stop()
    return (full - empty) / len(fields)


async def bounded(url: str, fields: list[bytes]) -> tuple[int, int]:
    """Entries at the end, and bytes added since the cache was full."""
    with closing(open_backend(url)) as backend:
        app = ours(bare, backend, cache_ttl_s=3600, cache_size=BOUND)
        tracemalloc.start()
        await send(app, fields[: 2 * BOUND])  # twice: a dict grows once more while entries come and go
        forget_uses(backend)
        before = traced()
        await send(app, fields[2 * BOUND :])
        forget_uses(backend)
        after = traced()
        tracemalloc.stop()
        return len(app.authenticator._cache), after - before


def forget_uses(backend: Backend) -> None:
    """Drop the last uses, a bounded table of its own, so that the IDs in it count for the cache alone."""
    backend.usage.close()
    backend.usage._reset()


def traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def entries_after_refusals() -> int:
    app = ours(bare, throttle="")
    wrong = [scope(WRONG_FIELD), scope(UNKNOWN_FIELD), scope(b"Basic !"), scope(None)]
    for number in range(1_000):
        if await status_of(app, wrong[number % len(wrong)]) != 401:
            raise RuntimeError("a wrong credential was accepted")
    return len(app.authenticator._cache)


def measured(quick: bool) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="basicauth-bench-", ignore_cleanup_errors=True) as directory:
        return asyncio.run(find(quick, Path(directory)))


if __name__ == "__main__":
    main(measured, __doc__)
