"""The connection to Redis: a process that passes octets on, delays them, loses them, or sends others.

    python -m tests.soak.way PORT

It prints the port that it listens on, and then does what each line on its standard input says: ``pass``;
``delay``, which holds each piece for a while; ``lose``, which passes nothing on and closes nothing, so that
both sides see a half-open connection; ``garble``, which sends nonsense in place of each reply; ``cut``, which
breaks what is open and whatever comes. It is a process of its own, so that what else the soak does takes no
time away from it.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
DELAY_S = 0.1
# No whole reply that could be true: who is told a lie in good form cannot know.
GARBAGE = (b"-ERR garbage\r\n", b"$5\r\nab", b"*3\r\n$1", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 40)


class Way:
    """The process, seen from outside. Use as a context manager.

    Args:
        to: The port to pass on to.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, to: int) -> None:
        self._to = to

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.way", str(self._to)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def turn(self, mode: str) -> None:
        """Do this from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(mode.encode() + b"\n")
        self._process.stdin.flush()


class _Forwarder:
    """The process, from inside."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._mode = "pass"
        self._open: set[asyncio.StreamWriter] = set()

    async def run(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
        )
        while line := await lines.readline():
            mode = line.decode().strip()
            if mode == "cut" or self._mode in ("lose", "garble"):  # nothing of it comes later
                for writer in self._open:
                    writer.transport.abort()
            self._mode = mode

    async def _serve(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        writers = {to_near}
        try:
            if self._mode == "cut":
                return
            far, to_far = await asyncio.open_connection("127.0.0.1", self._to)
            writers.add(to_far)
            self._open |= writers
            pumps = [
                asyncio.ensure_future(self._pump(near, to_far, garbles=False)),
                asyncio.ensure_future(self._pump(far, to_near, garbles=True)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
        except (OSError, asyncio.CancelledError):  # nobody there, or the end of it all
            pass
        finally:
            self._open -= writers
            for writer in writers:
                writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, garbles: bool
    ) -> None:
        with suppress(OSError):
            while octets := await reader.read(65536):
                if self._mode == "delay":
                    await asyncio.sleep(DELAY_S)
                if self._mode == "lose":
                    continue
                writer.write(random.choice(GARBAGE) if garbles and self._mode == "garble" else octets)
                await writer.drain()


if __name__ == "__main__":
    asyncio.run(_Forwarder(int(sys.argv[1])).run())
