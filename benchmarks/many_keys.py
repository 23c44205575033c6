"""What does a hit cost with many cached keys?

Every call takes another of 20,000 random keys, so that a large table is not in the processor's caches.
"""

from __future__ import annotations

import asyncio
import random
from itertools import cycle
from statistics import median

import uvloop
from asgi_apps import bare, drop, ours, receive, scope
from report import Outcome, Table, at_most, main
from rounds import Call, added, measure, ratios, spread, us

from basicauth_mw import encode_basic
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.model import Principal, utcnow

SAMPLE = 20_000


async def find(quick: bool) -> Outcome:
    sizes = [1_000, 10_000, 100_000] if quick else [1_000, 10_000, 100_000, 1_000_000]
    rounds, count = (9, 500) if quick else (41, 2000)
    calls: dict[str, Call] = {"bare": requests(bare, [b"Basic " + b"x" * 140] * SAMPLE)}
    for size in sizes:
        app, fields = filled(size)
        # The same number of strings for every size, so that only the cache differs.
        sample = [bytes(bytearray(field)) for field in random.Random(1).choices(fields, k=SAMPLE)]
        calls[f"{size:,}"] = requests(app, sample)
    times = await measure(calls, rounds=rounds, calls=count)
    first, last = sizes[0], sizes[-1]
    hits = {size: added(times, f"{size:,}", "bare") for size in sizes}
    table = Table(
        "A hit, by the number of cached keys; ASGI, in this process",
        ["cached keys", "added us", "x the first (quartiles)"],
        [[f"{size:,}", us(hits[size]), spread(ratios(hits[size], hits[first])).text()] for size in sizes],
        f"{rounds} interleaved rounds, {count} calls of each in a round, over {SAMPLE:,} keys at random.",
    )
    goal = at_most(
        "hit",
        f"a hit with {last:,} cached keys / with {first:,}",
        spread(ratios(hits[last], hits[first])),
        1.7,
        reason=f"added us, by number of keys: {'; '.join(f'{size:,}: {us(hits[size])}' for size in sizes)}",
    )
    series = {str(size): median(hits[size]) * 1e6 for size in sizes}
    return Outcome([table], [goal], {"cached": series})


def filled(size: int):
    """A middleware whose cache is full, and the header values in it."""
    app = ours(bare, cache_size=size, cache_ttl_s=3600)
    cache = app.authenticator._cache
    fields = []
    now = utcnow()
    for _ in range(size):
        client_id = generate("id")
        field = encode_basic(client_id, generate("sk")).encode()
        principal = Principal(client_id)
        cache.put(field, principal, secret_created_at=now, expires_at=None, stamp=cache.stamp())
        fields.append(field)
    return app, fields


def requests(app, fields: list[bytes]) -> Call:
    template = scope(None)
    headers = template["headers"]
    turn = cycle(fields)

    async def call() -> None:
        sent = [*headers, (b"authorization", next(turn))]
        await app({**template, "headers": sent, "state": {}}, receive, drop)

    return call


def measured(quick: bool) -> Outcome:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(find(quick))


if __name__ == "__main__":
    main(measured, __doc__)
