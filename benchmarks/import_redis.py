"""How fast keys are imported into Redis, beside redis-py's plain pipelined HSET loop with the same rows.

The loop does nothing but HSET finished rows, 500 at a time and without a transaction. An import is what the
command line does, less what it prints: it reads a CSV of ``id,secret``, checks each line, hashes the secret,
and writes the key, unless its id is taken, with its place in the index. ``add()`` is that of the store alone,
with and without the minting and hashing of the secrets. All take their batches in turn, against one real
server, so that a machine whose speed moves is fair to all. Run it with the number of keys, 1,000,000 if none
is given.
"""

from __future__ import annotations

import io
import resource
import sys
import time
from contextlib import closing
from pathlib import Path

import redis
from rounds import ratios, spread

sys.path.insert(0, str(Path(__file__).parents[1]))
from basicauth_mw import Backend, Settings, open_backend
from basicauth_mw.backends import dump_key
from basicauth_mw.backends.redis.store import RedisStore
from basicauth_mw.cli.transfer.importer import ImportReport, import_keys
from basicauth_mw.cli.transfer.input_file import InputFile
from basicauth_mw.keys.generated_secrets import generate, generate_id
from basicauth_mw.keys.hashing import Hasher
from basicauth_mw.keys.model import Key, Secret, utcnow
from tests.redis_server import RedisServer

BATCH = 500
FILE = 20 * BATCH  # keys that are imported at a time; as many take their turn by each of the other ways
WANTED = 1 / 3


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with (
        RedisServer() as server,
        closing(open_backend(server.url("imported"), settings=Settings())) as backend,
        closing(RedisStore(server.url())) as store,
        closing(redis.Redis(port=server.port)) as bare,
    ):
        compare(backend, store, bare, FILE)  # everything is imported and connected from here on
        bare.flushall()
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = compare(backend, store, bare, count)
        grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
    print(f"{count:,} keys by each way, on one server; quartiles over rounds of {FILE:,} keys")
    print(f"{'':<30} {'keys/s':>10}   of the loop")
    for name, each in seconds.items():
        part = spread(ratios(seconds[LOOP], each)).text(".0%")
        print(f"{name:<30} {count / sum(each):10,.0f}   {part}")
    share = spread(ratios(seconds[LOOP], seconds[IMPORT])).middle
    holds = "yes" if share >= WANTED else "no"
    print(f"an import reaches {share:.0%} of the loop, goal >= {WANTED:.0%}: {holds}")
    print(f"the memory of this process grew by {grown_mib:.1f} MiB")


LOOP = "plain pipelined HSET loop"
IMPORT = "import of a CSV"


def compare(backend: Backend, store: RedisStore, bare: redis.Redis, count: int) -> dict[str, list[float]]:
    """Seconds that each way took, round by round."""
    seconds: dict[str, list[float]] = {LOOP: [], IMPORT: [], "add()": [], "mint, hash, add()": []}
    hasher = Hasher()
    for start in range(0, count, FILE):
        size = min(FILE, count - start)
        lines = b"".join(f"{generate_id()},{generate('sk')}\n".encode() for _ in range(size))
        report = ImportReport()
        begin = time.perf_counter()
        import_keys(backend, InputFile(io.BytesIO(lines)), report)
        seconds[IMPORT].append(time.perf_counter() - begin)
        if report.imported != size:
            raise RuntimeError("not every key was imported")

        begin = time.perf_counter()
        keys = [minted(hasher) for _ in range(size)]
        mint_s = time.perf_counter() - begin
        begin = time.perf_counter()
        if not all(store.add(keys)):
            raise RuntimeError("not every key was written")
        add_s = time.perf_counter() - begin
        seconds["add()"].append(add_s)
        seconds["mint, hash, add()"].append(mint_s + add_s)

        rows = [(f"bare:{key.client_id}", dump_key(key)) for key in keys]
        begin = time.perf_counter()
        for first in range(0, size, BATCH):
            pipeline = bare.pipeline(transaction=False)
            for name, row in rows[first : first + BATCH]:
                pipeline.hset(name, "record", row)
            pipeline.execute()
        seconds[LOOP].append(time.perf_counter() - begin)
    return seconds


def minted(hasher: Hasher) -> Key:
    """A new key, as ``Backend.create`` makes it."""
    now = utcnow()
    return Key(
        generate_id(),
        name="benchmark",
        scopes=frozenset({"read"}),
        created_at=now,
        secrets=(Secret(hasher.digest_secret(generate("sk")), created_at=now),),
        version=int(now.timestamp() * 1_000_000),
    )


if __name__ == "__main__":
    main()
