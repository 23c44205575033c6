"""A forwarder to Redis: a process that passes data on, delays it, drops it, or sends other data.

    python -m tests.soak.proxy PORT

It prints the port that it listens on. Each line on its standard input sets the mode: ``pass``; ``delay``,
which delays each piece; ``lose``, which passes nothing on and closes nothing, so that both sides see a
half-open connection; ``garble``, which replaces each reply by invalid data; ``cut``, which closes all open
and new connections. It is a separate process, so that the rest of the soak test does not slow it down.
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
# Never a complete valid reply, which a client could not recognize as wrong.
GARBAGE = (b"-ERR garbage\r\n", b"$5\r\nab", b"*3\r\n$1", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 40)


class Proxy:
    """The forwarder process. Use it as a context manager.

    Args:
        to: The port of Redis.

    Attributes:
        port: The port that it listens on.
    """

    def __init__(self, to: int) -> None:
        self._to = to

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.proxy", str(self._to)],
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
        """Set the mode."""
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
            if mode == "cut" or self._mode in ("lose", "garble"):  # lost data must not arrive later
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
        except (OSError, asyncio.CancelledError):  # Redis does not listen, or the forwarder ends
            pass
        finally:
            self._open -= writers
            for writer in writers:
                writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, garbles: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self._mode == "delay":
                    await asyncio.sleep(DELAY_S)
                if self._mode == "lose":
                    continue
                writer.write(random.choice(GARBAGE) if garbles and self._mode == "garble" else data)
                await writer.drain()


if __name__ == "__main__":
    asyncio.run(_Forwarder(int(sys.argv[1])).run())
