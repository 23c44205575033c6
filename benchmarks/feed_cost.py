"""What does following the store's changes add to a cached hit?

A hit with the thread that follows running, and with it stopped, over SQLite and over Redis, in turn, in
samples that are long enough for several polls; beside the floor, and a poll by itself.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from asgi_apps import FIELD, Floor, bare, ours, request_of
from report import Outcome, Table, at_most, main
from rounds import Call, ratios, spread, us

from basicauth_mw import Settings, open_backend
from basicauth_mw.backends.change_feed import POLL_EVERY_S

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.redis_server import RedisServer

SAMPLE_S = 3 * POLL_EVERY_S


async def find(quick: bool, urls: dict[str, str]) -> Outcome:
    rounds = 3 if quick else 15
    floor, unprotected = await request_of(Floor(bare), FIELD, 200), await request_of(bare, FIELD, 200)
    rows, goals = [], []
    for store, url in urls.items():
        backend = open_backend(url, settings=Settings(), create=True)
        hit = await request_of(ours(bare, backend), backend.create().authorization.encode(), 200)
        variants = {"bare": unprotected, "floor": floor, "stopped": hit, "again": hit, "followed": hit}
        times: dict[str, list[float]] = {name: [] for name in variants}
        for number in range(rounds):
            turn = number % len(variants)
            names = list(variants)
            for name in names[turn:] + names[:turn]:
                if name == "followed":
                    backend.feed.mark_active()  # starts the thread
                times[name].append(await sample(variants[name]))
                backend.feed.close()
        polls = []
        for _ in range(200):
            begin = time.perf_counter()
            backend.feed.poll()
            polls.append(time.perf_counter() - begin)
        await backend.aclose()
        floors = [mine - idle for mine, idle in zip(times["floor"], times["bare"], strict=True)]
        more, control = (
            spread(ratios(added, floors))
            for added in (
                [mine - idle for mine, idle in zip(times[name], times["stopped"], strict=True)]
                for name in ("followed", "again")
            )
        )
        # What a poll takes from the process in a second, as a share of each hit.
        share = spread([poll / POLL_EVERY_S for poll in polls])
        rows.append(
            [
                store,
                us(times["stopped"]),
                us(times["followed"]),
                more.text("+.3f"),
                control.text("+.3f"),
                us(polls),
                f"{share.middle:.2%}",
            ]
        )
        goals.append(at_most("G13", f"following {store} adds to a hit / floor's", more, 0.1, unit=" x"))
    table = Table(
        "What following the store adds to a hit; ASGI, in process",
        [
            "store",
            "stopped: us",
            "followed: us",
            "added, x floor (quartiles)",
            "control: stopped twice",
            "a poll: us",
            "its share of the time",
        ],
        rows,
        f"{rounds} interleaved rounds, samples of {SAMPLE_S * 1e3:g} ms. A hit itself does nothing for it.",
    )
    return Outcome([table], goals)


async def sample(call: Call) -> float:
    """Seconds per call, over a fixed time."""
    begin = time.perf_counter()
    end = begin + SAMPLE_S
    calls = 0
    while (now := time.perf_counter()) < end:
        for _ in range(200):
            await call()
        calls += 200
    return (now - begin) / calls


def measured(quick: bool) -> Outcome:
    with (
        tempfile.TemporaryDirectory(prefix="basicauth-bench-") as directory,
        RedisServer() as server,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        urls = {"SQLite": f"sqlite:///{directory}/keys.db", "Redis": server.url()}
        return runner.run(find(quick, urls))


if __name__ == "__main__":
    main(measured, __doc__)
