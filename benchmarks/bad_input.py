"""Can a client make memory grow, or time grow faster than its input?

Random unknown IDs and different valid keys from random addresses, header values of 64 kB, and requests with
10,000 headers, with the keys in SQLite. Memory is that of the process. Time is per request in the first and
last quarter, and as the request grows.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import random
import tempfile
import time
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import uvloop
from asgi_apps import SECRET, bare, drop, ours, receive, scope
from report import Goal, Outcome, Table, main

from basicauth_mw import Settings, encode_basic
from basicauth_mw.backends.backend import Backend
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.keys.model import Key, Secret

if TYPE_CHECKING:
    from collections.abc import Callable

GROWTH_MB = 20
STEPS = 40
BATCH = 100  # requests created at a time: many would be most of the measured memory
# Allows noise, but not quadratic growth, which has the exponent 2.
LINEAR = 1.25


class AllKnown(SqliteStore):
    """A store in which every ID has a valid key."""

    hashed: Secret

    def get_nowait(self, client_id: str, /) -> Key:
        return Key(client_id, secrets=(self.hashed,))


async def find(quick: bool, directory: Path) -> Outcome:
    floods, goals = [], []
    unknown = SqliteStore(f"sqlite:///{directory}/unknown.db", create=True)
    known = AllKnown(f"sqlite:///{directory}/known.db", create=True)
    dice = random.Random(1)
    for name, count, store in (
        ("random IDs", 50_000 if quick else 500_000, unknown),
        ("different valid keys", 25_000 if quick else 300_000, known),
    ):
        keys = Backend(store, settings=Settings())
        known.hashed = Secret(keys.hasher.digest_secret(SECRET))
        app = ours(bare, keys)
        grown, growth, quarters = await flood(
            app, lambda: encode_basic(f"id_{dice.getrandbits(128)}", SECRET).encode(), count
        )
        await keys.aclose()
        rate = quarters[-1] / quarters[0]
        floods.append(
            [
                f"{count:,} {name}",
                f"{grown:+.1f}",
                f"{growth:+.1f}",
                f"{quarters[0] * 1e6:.1f}",
                f"{rate:.2f}",
            ]
        )
        goals += [
            Goal(
                "input",
                f"memory after {count:,} {name}",
                f"{grown:+.1f} MB",
                f"<= {GROWTH_MB} MB",
                grown <= GROWTH_MB,
            ),
            Goal(
                "input",
                f"time of the last quarter of {count:,} {name} / first",
                f"{rate:.2f}",
                f"<= {LINEAR}",
                rate <= LINEAR,
                "us per request, by quarter: " + ", ".join(f"{each * 1e6:.1f}" for each in quarters),
            ),
        ]
    memory = Table(
        "Floods",
        [
            "of",
            "MB since the first tenth",
            "MB since the start",
            "us per request, first quarter",
            "last / first",
        ],
        floods,
        "The start is before the first request; in the first tenth the bounded tables fill up.",
    )
    sizes, more = await growing(ours(bare, Backend(unknown, settings=Settings()), throttle=""), quick)
    return Outcome([memory, sizes], goals + more)


async def flood(app, field: Callable[[], bytes], count: int) -> tuple[float, float, list[float]]:
    """MB since the first tenth and since the start, and seconds per request in each quarter."""
    template = scope(None)
    begin = rss_mb()
    tenth, times = 0.0, []
    for step in range(STEPS):
        taken, left = 0.0, count // STEPS
        while left:
            some = min(left, BATCH)
            left -= some
            requests = [
                {
                    **template,
                    "client": (f"{IPv4Address(random.getrandbits(32))}", 50000),
                    "headers": [*template["headers"], (b"authorization", field())],
                    "state": {},
                }
                for _ in range(some)
            ]
            start = time.thread_time()
            for request in requests:
                await app(request, receive, drop)
            taken += time.thread_time() - start
        times.append(taken / (count // STEPS))
        if step + 1 == STEPS // 10:
            tenth = rss_mb()
    end = rss_mb()
    quarter = STEPS // 4
    return end - tenth, end - begin, [median(times[at : at + quarter]) for at in range(0, STEPS, quarter)]


async def growing(app, quick: bool) -> tuple[Table, list[Goal]]:
    """Requests that grow by a factor of ten or two."""
    template = scope(None)

    def with_fields(*fields: tuple[bytes, bytes]) -> dict:
        return {**template, "headers": [*template["headers"], *fields]}

    kinds: dict[str, tuple[list[int], Callable[[int], dict]]] = {
        "Authorization, bytes": (
            [8_000, 16_000, 32_000, 64_000],
            lambda size: with_fields((b"authorization", b"Basic " + b"QUJD" * (size // 4))),
        ),
        "another header, bytes": (
            [8_000, 16_000, 32_000, 64_000],
            lambda size: with_fields((b"x-other", b"x" * size)),
        ),
        "other headers": (
            [100, 1_000, 10_000],
            lambda count: with_fields(*((b"x-other-%d" % number, b"x") for number in range(count))),
        ),
        "headers whose names are as long as Authorization": (
            [100, 1_000, 10_000],
            lambda count: with_fields(
                *((b"x-othername-%d" % (number % 10), b"x") for number in range(count))
            ),
        ),
        "Authorization headers": (
            [100, 1_000, 10_000],
            lambda count: with_fields(*([(b"authorization", b"Basic " + b"QUJD" * 16)] * count)),
        ),
    }
    rows, goals = [], []
    for name, (sizes, make) in kinds.items():
        taken = {}
        for size in sizes:
            request = make(size)
            samples = []
            for _ in range(5 if quick else 25):
                begin = time.thread_time()
                await app({**request, "state": {}}, receive, drop)
                samples.append(time.thread_time() - begin)
            taken[size] = min(samples)
        first, last = sizes[0], sizes[-1]

        exponent = math.log(taken[last] / taken[sizes[-2]]) / math.log(last / sizes[-2])
        rows.append(
            [
                name,
                f"{first:,}: {taken[first] * 1e6:,.0f} us",
                f"{last:,}: {taken[last] * 1e6:,.0f} us",
                f"{exponent:.2f}",
            ]
        )
        goals.append(
            Goal(
                "input",
                f"{name} up to {last:,}: exponent of the time",
                f"{exponent:.2f}",
                f"<= {LINEAR}",
                exponent <= LINEAR,
                "" if exponent <= LINEAR else f"{last:,} take {taken[last] * 1e3:.1f} ms",
            )
        )
    return Table(
        "Requests that grow, refused",
        ["", "smallest", "largest", "exponent of the last step"],
        rows,
        "Linear growth has the exponent 1, quadratic growth 2.",
    ), goals


def rss_mb() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measured(quick: bool) -> Outcome:
    with (
        tempfile.TemporaryDirectory(prefix="basicauth-bench-") as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(find(quick, Path(directory)))


if __name__ == "__main__":
    main(measured, __doc__)
