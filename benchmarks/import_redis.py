"""How fast keys are imported into Redis, beside redis-py's plain pipelined HSET loop with the same rows.

The loop does nothing but HSET finished rows, 500 at a time and without a transaction. Ours encodes each key
and writes it, unless its id is taken, with its place in the index; the last row counts the minting and the
hashing of the secrets as well. All take their batches in turn, against one real server, so that a machine
whose speed moves is fair to all. Run it with the number of keys, 1,000,000 if none is given.
"""

from __future__ import annotations

import resource
import sys
import time
from contextlib import closing
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).parents[1]))
from basicauth_mw.backends import dump_key
from basicauth_mw.backends.redis import RedisStore
from basicauth_mw.hashing import Hasher
from basicauth_mw.minting import ID_PREFIX, mint
from basicauth_mw.model import Key, Secret, utcnow
from tests.redis_server import RedisServer

BATCH = 500


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with (
        RedisServer() as server,
        closing(RedisStore(server.url())) as store,
        closing(redis.Redis(port=server.port)) as bare,
    ):
        fill(store, bare, 20 * BATCH)  # everything is imported and connected from here on
        bare.flushall()
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        mint_s, add_s, bare_s = fill(store, bare, count)
        grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
    print(f"{count:,} keys in batches of {BATCH:,}, on one server")
    print(f"{'':<30} {'seconds':>8} {'keys/s':>10} {'of the loop':>12}")
    for name, seconds in (
        ("plain pipelined HSET loop", bare_s),
        ("add()", add_s),
        ("mint, hash, add()", mint_s + add_s),
    ):
        print(f"{name:<30} {seconds:8.1f} {count / seconds:10,.0f} {bare_s / seconds:11.0%}")
    print(f"the memory of this process grew by {grown_mib:.1f} MiB")


def fill(store: RedisStore, bare: redis.Redis, count: int) -> tuple[float, float, float]:
    """Seconds for minting, for adding, and for the plain loop."""
    mint_s = add_s = bare_s = 0.0
    hasher = Hasher()
    for start in range(0, count, BATCH):
        begin = time.perf_counter()
        keys = [minted(hasher) for _ in range(min(BATCH, count - start))]
        mint_s += time.perf_counter() - begin

        begin = time.perf_counter()
        if not all(store.add(keys)):
            raise RuntimeError("not every key was written")
        add_s += time.perf_counter() - begin

        rows = [(f"bare:{key.client_id}", dump_key(key)) for key in keys]
        begin = time.perf_counter()
        pipeline = bare.pipeline(transaction=False)
        for name, row in rows:
            pipeline.hset(name, "record", row)
        pipeline.execute()
        bare_s += time.perf_counter() - begin
    return mint_s, add_s, bare_s


def minted(hasher: Hasher) -> Key:
    """A new key, as ``Backend.create`` makes it."""
    now = utcnow()
    return Key(
        mint(ID_PREFIX),
        name="benchmark",
        scopes=frozenset({"read"}),
        created_at=now,
        secrets=(Secret(hasher.hash_fast(mint("sk")), created_at=now),),
        version=int(now.timestamp() * 1_000_000),
    )


if __name__ == "__main__":
    main()
