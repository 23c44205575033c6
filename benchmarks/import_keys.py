"""How fast are keys imported?

Beside the driver alone: ``executemany`` with finished rows for SQLite, and a plain pipelined HSET loop for
Redis. An import reads a CSV of ``id,secret``, checks each line, hashes the secret, and writes the key, as the
command line does. All ways take turns, file by file.
"""

from __future__ import annotations

import io
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import redis
from report import Outcome, Table, at_least, main
from rounds import ratios, spread

sys.path.insert(0, str(Path(__file__).parents[1]))
from basicauth_mw import Backend, Settings, open_backend
from basicauth_mw.backends import dump_key
from basicauth_mw.cli.transfer.importer import ImportReport, import_keys
from basicauth_mw.cli.transfer.input_file import InputFile
from basicauth_mw.keys.generated_secrets import generate, generate_id
from basicauth_mw.keys.hashing import Hasher
from basicauth_mw.keys.model import Key, Secret
from tests.redis_server import RedisServer

FILE = 10_000  # keys in a file
PIPELINE = 500
SQLITE, REDIS = "SQLite", "Redis"


def measured(quick: bool) -> Outcome:
    rounds = 2 if quick else 12
    seconds: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="basicauth-bench-", ignore_cleanup_errors=True) as directory,
        RedisServer() as server,
        closing(open_backend(f"sqlite:///{directory}/keys.db", settings=Settings(), create=True)) as sqlite,
        closing(sqlite3.connect(f"{directory}/bare.db", isolation_level=None)) as bare_sqlite,
        closing(open_backend(server.url(), settings=Settings())) as redis_keys,
        closing(redis.Redis(port=server.port)) as bare_redis,
    ):
        bare_sqlite.execute("PRAGMA journal_mode = WAL").fetchall()
        bare_sqlite.execute(
            "CREATE TABLE keys (client_id TEXT PRIMARY KEY, version INTEGER, record TEXT) WITHOUT ROWID"
        )
        calls = {
            f"{SQLITE}: executemany": lambda rows: insert(bare_sqlite, rows),
            f"{SQLITE}: import of a CSV file": lambda rows: import_csv(sqlite),
            f"{REDIS}: pipelined HSET loop": lambda rows: hset(bare_redis, rows),
            f"{REDIS}: import of a CSV file": lambda rows: import_csv(redis_keys),
        }
        for number in range(rounds + 1):
            for name, call in calls.items():
                taken = call(rows())
                if number:  # the first round connects and imports
                    seconds.setdefault(name, []).append(taken)
    shares = {
        store: spread(ratios(seconds[driver], seconds[f"{store}: import of a CSV file"]))
        for store, driver in (
            (SQLITE, f"{SQLITE}: executemany"),
            (REDIS, f"{REDIS}: pipelined HSET loop"),
        )
    }
    table = Table(
        "Importing keys",
        ["", "keys/s (quartiles)", "of the driver's"],
        [
            [
                name,
                spread([FILE / each for each in taken]).text(",.0f"),
                shares[name.partition(":")[0]].text() if "import" in name else "",
            ]
            for name, taken in seconds.items()
        ],
        f"{rounds} rounds of {FILE:,} keys each way.",
    )
    goal = at_least(
        "import of keys",
        "into Redis: keys/s / a pipelined HSET loop's",
        shares[REDIS],
        1 / 3,
        reason="the loop writes finished rows without checking, hashing or an index",
    )
    return Outcome([table], [goal])


def import_csv(backend: Backend) -> float:
    """Seconds for one file."""
    lines = b"".join(f"{generate_id()},{generate('sk')}\n".encode() for _ in range(FILE))
    report = ImportReport()
    begin = time.perf_counter()
    import_keys(backend, InputFile(io.BytesIO(lines)), report)
    taken = time.perf_counter() - begin
    if report.imported != FILE:
        raise RuntimeError(f"{report.imported} of {FILE} keys were imported")
    return taken


def rows() -> list[tuple[str, str]]:
    """IDs and finished records."""
    secrets = (Secret(Hasher().digest_secret(generate("sk"))),)
    keys = [Key(generate_id(), scopes=frozenset({"read"}), secrets=secrets) for _ in range(FILE)]
    return [(key.client_id, dump_key(key)) for key in keys]


def insert(connection: sqlite3.Connection, rows: list[tuple[str, str]]) -> float:
    begin = time.perf_counter()
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO keys (client_id, version, record) VALUES (?, 1, ?)", rows)
    connection.execute("COMMIT")
    return time.perf_counter() - begin


def hset(client: redis.Redis, rows: list[tuple[str, str]]) -> float:
    begin = time.perf_counter()
    for first in range(0, len(rows), PIPELINE):
        pipeline = client.pipeline(transaction=False)
        for client_id, record in rows[first : first + PIPELINE]:
            pipeline.hset(f"bare:{client_id}", "record", record)
        pipeline.execute()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main(measured, __doc__)
