"""An app that measures the delays of its event loop."""

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
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SCHEDULE = Path("/proc/thread-self/schedstat")


class App:
    """Responds with 200. ``/state`` needs no key, and returns the maxima since it was last requested.

    Attributes:
        worst_s: Longest delay of the event loop in seconds, without the time in which it was not scheduled.
        most_bytes: Maximum memory.
    """

    def __init__(self) -> None:
        self.worst_s = 0.0
        self.most_bytes = 0
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
            body = json.dumps({"worst_s": self.worst_s, "most_bytes": self.most_bytes}).encode()
            self.worst_s, self.most_bytes = 0.0, 0
        fields = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    async def _beat(self) -> None:
        while True:
            due, waited_s = time.monotonic() + BEAT_S, unscheduled_s()
            await asyncio.sleep(BEAT_S)
            self.worst_s = max(self.worst_s, time.monotonic() - due - (unscheduled_s() - waited_s))
            self.most_bytes = max(self.most_bytes, resident())


def unscheduled_s() -> float:
    """Seconds in which this thread was ready to run, but another one ran."""
    return int(SCHEDULE.read_text().split()[1]) / 1e9 if SCHEDULE.exists() else 0.0


def resident() -> int:
    """The resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


app = BasicAuthMiddleware(App(), exclude=("/state",))
