"""How long an import into SQLite takes, beside bare ``executemany`` calls with the same rows.

Ours mints and hashes every secret, builds the key, encodes it and adds it; the bare driver only inserts the
finished rows. Both keep a batch in one transaction, and take their batches in turn, so that a machine whose
speed moves is fair to both. Run it with the number of keys, 1,000,000 if none is given.
"""

from __future__ import annotations

import resource
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from basicauth_mw.backends import dump_key
from basicauth_mw.backends.sqlite.schema import _KEYS
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.keys.generated_secrets import ID_PREFIX, generate
from basicauth_mw.keys.hashing import Hasher
from basicauth_mw.keys.model import Key, Secret, utcnow

BATCH = 10_000


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(prefix="basicauth-bench-") as directory:
        path = Path(directory) / "keys.db"
        with (
            closing(SqliteStore(f"sqlite:///{path}", create=True)) as store,
            closing(sqlite3.connect(path.with_name("bare.db"), isolation_level=None)) as bare,
        ):
            bare.execute("PRAGMA journal_mode = WAL").fetchall()
            bare.execute(_KEYS)
            before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            ours_s, bare_s = fill(store, bare, count)
            grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
        size_mb = path.stat().st_size / 1e6
    print(f"{count:,} keys in batches of {BATCH:,}; the file has {size_mb:,.0f} MB")
    for name, seconds in (("mint, hash, encode, add()", ours_s), ("bare executemany()", bare_s)):
        print(f"{name:<26} {seconds:8.1f} s {count / seconds:10,.0f} rows/s")
    print(f"ours takes {ours_s / bare_s:.2f} times as long; memory grew by {grown_mib:.0f} MiB")


def fill(store: SqliteStore, bare: sqlite3.Connection, count: int) -> tuple[float, float]:
    """Seconds that each took."""
    ours_s = bare_s = 0.0
    hasher = Hasher()
    for start in range(0, count, BATCH):
        begin = time.perf_counter()
        keys = [minted(hasher) for _ in range(min(BATCH, count - start))]
        if not all(store.add(keys)):
            raise RuntimeError("not every key was written")
        ours_s += time.perf_counter() - begin

        rows = [(key.client_id, key.version, dump_key(key)) for key in keys]
        begin = time.perf_counter()
        bare.execute("BEGIN")
        bare.executemany("INSERT INTO keys VALUES (?, ?, ?)", rows)
        bare.execute("COMMIT")
        bare_s += time.perf_counter() - begin
    return ours_s, bare_s


def minted(hasher: Hasher) -> Key:
    """A new key, as ``Backend.create`` makes it."""
    now = utcnow()
    return Key(
        generate(ID_PREFIX),
        name="benchmark",
        scopes=frozenset({"read"}),
        created_at=now,
        secrets=(Secret(hasher.digest_secret(generate("sk")), created_at=now),),
        version=int(now.timestamp() * 1_000_000),
    )


if __name__ == "__main__":
    main()
