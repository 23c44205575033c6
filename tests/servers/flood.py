"""``python -m tests.servers.flood PORT KIND CONNECTIONS``: a flood until stdin ends.

Each connection sends the next request as soon as it has a response; with the kind ``held`` it sends only the
beginning of it. At the end it prints how many responses of each status there were.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

from basicauth_mw import encode_basic
from basicauth_mw.keys.generated_secrets import generate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KNOWN = "known"  # the ID of an existing key

# Kind: the Authorization header of a request, by its number.
KINDS: dict[str, Callable[[int], str]] = {
    "slow-hashes": lambda number: encode_basic(f"person-{number}", f"guess {number}"),
    "random-ids": lambda number: encode_basic(f"id_{number:x}", SECRETS[number % 64]),
    "wrong-secrets": lambda number: encode_basic(KNOWN, SECRETS[number % 64]),
    "held": lambda number: encode_basic(f"id_{number:x}", SECRETS[number % 64]),
    "malformed": lambda number: f"Basic {number:x}!",
}
SECRETS = [generate("sk") for _ in range(64)]  # generating a secret takes longer than sending it


class Connection(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], statuses: Counter[int], *, held: bool) -> None:
        self._held = held
        self._requests = requests
        self._statuses = statuses
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]):
            self._buffer = b""
            self._statuses[int(head[9:12])] += 1
            request = next(self._requests)
            self._transport.write(request[:30] if self._held else request)


async def main(port: int, kind: str, connections: int) -> None:
    requests = (
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: %b\r\n\r\n" % KINDS[kind](number).encode()
        for number in count()
    )
    loop, statuses, open_ones = asyncio.get_running_loop(), Counter[int](), []
    print("begins", flush=True)
    for opened in range(connections):
        while (
            kind == "held" and opened - statuses.total() >= 32
        ):  # no more in progress than with the other kinds
            await asyncio.sleep(0.001)
        transport, _ = await loop.create_connection(
            lambda: Connection(requests, statuses, held=kind == "held"),
            *("127.0.0.1", port),
            local_addr=(f"127.0.0.{2 + [*KINDS].index(kind)}", 0),
        )
        open_ones.append(transport)
    await loop.run_in_executor(None, sys.stdin.read)
    print(json.dumps(statuses), flush=True)
    for transport in open_ones:
        transport.abort()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
