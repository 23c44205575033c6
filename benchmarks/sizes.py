"""What a check costs in SQLite files of a thousand to five million keys, beside the bare SELECT.

A check is all that a request with an uncached credential costs behind the parsing of its head: the verifier's
steps, the look-up, the decoding, the hash. Every call takes another key, at random, and the files take turns.
Run it with the sizes, 1000 100000 1000000 5000000 if none are given; they need 450 octets of disk a key.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))
from rounds import Call, measure

from basicauth_mw import encode_basic
from basicauth_mw.auth.cache import VerdictCache
from basicauth_mw.auth.runner import run
from basicauth_mw.auth.verifier import PendingVerification, Verifier
from basicauth_mw.backends.reader import StoreReader
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.keys.generated_secrets import ID_PREFIX, generate
from basicauth_mw.keys.hashing import Hasher
from basicauth_mw.keys.model import Allow, Key, Secret

BATCH = 10_000
ASKED = 20_000  # different keys that are asked for
WARM_UP = 100_000
ROUNDS = 31
CALLS = 1_000


async def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [1_000, 100_000, 1_000_000, 5_000_000]
    secret = generate("sk")
    calls: dict[str, Call] = {}
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="basicauth-bench-"))
        for size in sizes:
            path = Path(directory) / f"{size}.db"
            store = stack.enter_context(closing(SqliteStore(f"sqlite:///{path}", create=True)))
            ids = fill(store, size, secret)
            bare = stack.enter_context(closing(sqlite3.connect(path)))
            print(f"{size:,} keys made, {path.stat().st_size / 1e6:,.0f} MB", flush=True)
            calls[f"check {size:,}"] = check(store, ids, secret)
            calls[f"SELECT {size:,}"] = select(bare, ids)
        for call in calls.values():
            for _ in range(WARM_UP):
                await call()
        times = await measure(calls, rounds=ROUNDS, calls=CALLS)
    for kind in ("check", "SELECT"):
        smallest = times[f"{kind} {sizes[0]:,}"]
        for size in sizes:
            mine = times[f"{kind} {size:,}"]
            ratio = median(each / base for each, base in zip(mine, smallest, strict=True))
            print(f"{kind:<7} {size:>10,} keys {median(mine) * 1e6:7.1f} us {ratio:6.2f} times the first")


def fill(store: SqliteStore, size: int, secret: str) -> list[str]:
    """Make keys that all have the same secret; some of their ids."""
    stored = Secret(Hasher().digest_secret(secret))
    ids: list[str] = []
    for start in range(0, size, BATCH):
        new = [generate(ID_PREFIX) for _ in range(min(BATCH, size - start))]
        keys = [Key(client_id, scopes=frozenset({"read"}), secrets=(stored,)) for client_id in new]
        if not all(store.add(keys)):
            raise RuntimeError("not every key was written")
        ids += new[:: max(1, size // ASKED)]
    return ids


def check(store: SqliteStore, ids: list[str], secret: str) -> Call:
    verifier = Verifier(Hasher(), VerdictCache(ttl_s=0, size=1))
    reader = StoreReader(store, deadline_s=1.0, slow_hash_workers=1)
    fields = [encode_basic(client_id, secret).encode() for client_id in ids]
    pick = random.Random(1).choice

    async def call() -> None:
        begun = verifier.parse(pick(fields))
        if not isinstance(begun, PendingVerification) or type(run(begun, reader)) is not Allow:
            raise RuntimeError("a good credential was refused")

    return call


def select(bare: sqlite3.Connection, ids: list[str]) -> Call:
    pick = random.Random(1).choice

    async def call() -> None:
        bare.execute("SELECT record FROM keys WHERE client_id = ?", (pick(ids),)).fetchone()

    return call


if __name__ == "__main__":
    asyncio.run(main())
