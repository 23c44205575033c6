"""Does a password hash block the event loop?

A heartbeat is due every millisecond while passwords are verified, one after another. Its delay shows how
long the loop was blocked. The control is the same without requests.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import bcrypt
import uvloop
from asgi_apps import bare, ours, scope, status_of
from report import Goal, Outcome, Table, main
from rounds import spread

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.keys.model import Key, Secret

SECRET = "a password of a person"
BEAT_S = 0.001
LIMIT_MS = 5.0


class Heart:
    """Records how late each beat is, in milliseconds."""

    def __init__(self) -> None:
        self.late: list[float] = []

    async def beat(self) -> None:
        while True:
            due = time.perf_counter() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self.late.append((time.perf_counter() - due) * 1e3)


async def find(quick: bool, directory: Path) -> Outcome:
    keys = open_backend(f"sqlite:///{directory}/keys.db", settings=Settings(), create=True)
    argon2 = keys.create(secret=SECRET).client_id
    keys.add([Key("bcrypt", secrets=(Secret(bcrypt.hashpw(SECRET.encode(), bcrypt.gensalt(10)).decode()),))])
    app = ours(bare, keys, cache_ttl_s=0)
    requests = {
        "Argon2id (t=2, m=19 MiB, p=1)": scope(encode_basic(argon2, SECRET).encode()),
        "bcrypt, cost 10": scope(encode_basic("bcrypt", SECRET).encode()),
    }
    for request in requests.values():  # create what is created once per process
        await status_of(app, request)
    late: dict[str, list[float]] = {"nothing (control)": [], **{name: [] for name in requests}}
    took: dict[str, list[float]] = {name: [] for name in late}
    for _ in range(10 if quick else 40):
        for name, beats in late.items():
            heart = Heart()
            task = asyncio.create_task(heart.beat())
            begin = time.perf_counter()
            if name in requests:
                if await status_of(app, requests[name]) != 200:
                    raise RuntimeError("a valid credential was refused")
            else:
                await asyncio.sleep(0.05)
            took[name].append((time.perf_counter() - begin) * 1e3)
            await asyncio.sleep(2 * BEAT_S)  # count a late beat too
            task.cancel()
            beats += heart.late
    await keys.aclose()
    rows = []
    for name, beats in late.items():
        beats.sort()
        rows.append(
            [
                name,
                spread(took[name]).text(".0f"),
                f"{len(beats):,}",
                f"{beats[len(beats) // 2]:.2f}",
                f"{beats[len(beats) * 99 // 100]:.2f}",
                f"{beats[-1]:.2f}",
            ]
        )
    table = Table(
        "A heartbeat while passwords are verified",
        ["verified meanwhile", "took ms (quartiles)", "beats", "late ms: median", "99 %", "most"],
        rows,
        f"Beats are due every {BEAT_S * 1e3:g} ms.",
    )
    control = late["nothing (control)"][-1]
    goals = []
    for name in requests:
        most = late[name][-1]
        # Void if the machine itself is that late.
        holds = True if most <= LIMIT_MS else None if control > LIMIT_MS else False
        goals.append(
            Goal(
                "password",
                f"event loop blocked by {name}, at most",
                f"{most:.1f} ms (control {control:.1f})",
                f"<= {LIMIT_MS:g} ms",
                holds,
                f"without requests, the loop was late by {control:.1f} ms too" if holds is None else "",
            )
        )
    return Outcome([table], goals)


def measured(quick: bool) -> Outcome:
    with (
        tempfile.TemporaryDirectory(prefix="basicauth-bench-") as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(find(quick, Path(directory)))


if __name__ == "__main__":
    main(measured, __doc__)
