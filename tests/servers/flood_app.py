"""An app that tells how its event loop fares: nobody else can see when it stood still."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from basicauth_mw.asgi import BasicAuthMiddleware

if TYPE_CHECKING:
    from tests.asgi.helpers import Receive, Scope, Send

BEAT_S = 0.005
PAGE_OCTETS = os.sysconf("SC_PAGE_SIZE")
SCHEDULE = Path("/proc/thread-self/schedstat")


class App:
    """Answers 200 to everything; ``/state`` needs no key, and tells the worst since it was asked last.

    Attributes:
        worst_s: Seconds by which the event loop was late, but for those in which the machine did not run it.
        most_octets: Memory.
    """

    def __init__(self) -> None:
        self.worst_s = 0.0
        self.most_octets = 0
        self.heart: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                if kind == "lifespan.startup":
                    self.heart = asyncio.create_task(self._beat())
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        body = b"ok"
        if scope["path"] == "/state":
            body = json.dumps({"worst_s": self.worst_s, "most_octets": self.most_octets}).encode()
            self.worst_s, self.most_octets = 0.0, 0
        fields = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    async def _beat(self) -> None:
        while True:
            due, waited_s = time.monotonic() + BEAT_S, unscheduled_s()
            await asyncio.sleep(BEAT_S)
            self.worst_s = max(self.worst_s, time.monotonic() - due - (unscheduled_s() - waited_s))
            self.most_octets = max(self.most_octets, resident())


def unscheduled_s() -> float:
    """Seconds in which the event loop's thread wanted to run and the machine ran somebody else instead."""
    return int(SCHEDULE.read_text().split()[1]) / 1e9 if SCHEDULE.exists() else 0.0


def resident() -> int:
    """Memory of this process that is not swapped out."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_OCTETS


app = BasicAuthMiddleware(App(), exclude=("/state",))
