"""What does an uncached verification cost with the keys in Postgres?

One lookup alone is compared with a plain prepared SELECT by psycopg; lookups of 32 different keys at once, as
in one iteration of a busy event loop, with as many SELECTs gathered over psycopg's own pool. A lookup returns
a decoded key, a SELECT only the record. A verification is everything between the request's headers and the
decision.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psycopg
import uvloop
from asgi_apps import ours, scope
from psycopg_pool import AsyncConnectionPool
from report import Outcome, Table, at_least, at_most, main
from rounds import AT_ONCE, Call, alone, measure, ratios, spread, together, us

from basicauth_mw import Key, Secret, Settings, encode_basic, open_backend
from basicauth_mw.auth.verifier import PendingVerification
from basicauth_mw.backends import dump_key
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher
from basicauth_mw.keys.model import Principal

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLE = 1_000  # different keys that are looked up
CONNECTIONS = 4  # of psycopg's pool
SELECT, LOOKUP, VERIFICATION = "plain SELECT", "lookup", "verification"


async def find(quick: bool, server: PostgresServer) -> Outcome:
    sizes = [1_000, 100_000] if quick else [1_000, 1_000_000, 5_000_000]
    rounds, count = (9, 10) if quick else (61, 40)
    times = {size: await times_of(server, size, rounds, count) for size in sizes}
    first, last = sizes[0], sizes[-1]

    def one(name: str, size: int = first):
        return spread(ratios(times[size][f"{name}, alone"], times[size][f"{SELECT}, alone"]))

    def rate(name: str, size: int = first):
        return spread(ratios(times[size][f"{SELECT}, at once"], times[size][f"{name}, at once"]))

    version = server.execute("SHOW server_version")[0][0]
    rows = [
        [
            f"{name}, {size:,} keys",
            us(times[size][f"{name}, alone"]),
            one(name, size).text(),
            us([taken / AT_ONCE for taken in times[size][f"{name}, at once"]]),
            rate(name, size).text(),
        ]
        for size in sizes
        for name in (SELECT, LOOKUP, VERIFICATION)
    ]
    table = Table(
        "Uncached, keys in Postgres, on an event loop",
        ["", "alone: us", "x a plain SELECT", f"{AT_ONCE} at once: us each", "rate, x gathered SELECTs"],
        rows,
        f"{rounds} interleaved rounds for each size, over TCP to 127.0.0.1, uvloop; psycopg "
        f"{psycopg.__version__} in C, a pool of {CONNECTIONS}; Postgres {version}.",
    )
    growth = median(times[last][f"{VERIFICATION}, alone"]) / median(times[first][f"{VERIFICATION}, alone"])
    goals = [
        at_most(
            "check",
            "Postgres, one alone: lookup / plain prepared SELECT",
            one(LOOKUP),
            1.5,
            reason=f"whole verifications: {one(VERIFICATION).text()}",
        ),
        at_least(
            "check",
            f"Postgres, {AT_ONCE} different keys at once: lookups/s / gathered SELECTs'",
            rate(LOOKUP),
            3,
            reason=f"whole verifications: {rate(VERIFICATION).text()}",
        ),
        at_most("check", f"Postgres: {last:,} keys / {first:,} keys", spread([growth]), 2.5),
    ]
    return Outcome([table], goals)


async def times_of(server: PostgresServer, size: int, rounds: int, count: int):
    secret = generate("sk")
    schema = f"keys_{size}"
    ids = fill(server, schema, size, secret)
    backend = open_backend(server.url(schema), settings=Settings())
    authenticator = ours(None, backend, cache_ttl_s=0).authenticator
    requests = [scope(encode_basic(client_id, secret).encode()) for client_id in ids]
    url = server.url().partition("?")[0]
    query = f"SELECT record FROM {schema}.basicauth_keys WHERE client_id = %s"
    alone_on = await psycopg.AsyncConnection.connect(url, autocommit=True)
    pool = AsyncConnectionPool(
        url, min_size=CONNECTIONS, max_size=CONNECTIONS, kwargs={"autocommit": True}, open=False
    )
    await pool.open(wait=True)

    async def select(client_id: str) -> None:
        await (await alone_on.execute(query, (client_id,), prepare=True)).fetchone()

    async def pooled_select(client_id: str) -> None:
        async with pool.connection() as connection:
            await (await connection.execute(query, (client_id,), prepare=True)).fetchone()

    async def verify(request: dict) -> None:
        decision = authenticator.decide(request)
        if isinstance(decision, PendingVerification):
            decision = await authenticator.averify(decision)
        if type(decision) is not Principal:
            raise RuntimeError("a valid credential was refused")

    functions: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[Any]]] = {
        SELECT: (select, pooled_select, ids),
        LOOKUP: (backend.store.aget, backend.store.aget, ids),
        VERIFICATION: (verify, verify, requests),
    }
    variants: dict[str, Call] = {}
    for name, (single, gathered, arguments) in functions.items():
        variants[f"{name}, alone"] = alone(single, arguments)
        variants[f"{name}, at once"] = together(gathered, arguments)
    times = await measure(variants, rounds=rounds, calls=count, clock=time.perf_counter)
    await alone_on.close()
    await pool.close()
    await backend.aclose()
    return times


def fill(server: PostgresServer, schema: str, size: int, secret: str) -> list[str]:
    """Create tables with ``size`` keys that all have one secret; return a sample of their IDs.

    Written by one statement, in a tenth of the store's time.
    """
    server.url_with_tables(schema)
    record = dump_key(Key("?", scopes=frozenset({"read"}), secrets=(Secret(Hasher().digest_secret(secret)),)))
    before, after = record.split('"?"')
    server.execute(
        f"INSERT INTO {schema}.basicauth_keys SELECT 'id_' || md5(n::text), 1, "
        "%s || '\"id_' || md5(n::text) || '\"' || %s, '' FROM generate_series(1, %s) AS n",
        (before, after, size),
    )
    server.execute(f"VACUUM ANALYZE {schema}.basicauth_keys")
    rows = server.execute(
        "SELECT 'id_' || md5(n::text) FROM generate_series(1, %s, %s) AS n", (size, max(1, size // SAMPLE))
    )
    return [client_id for (client_id,) in rows]


def measured(quick: bool) -> Outcome:
    loop = uvloop.new_event_loop
    with PostgresServer(shared_buffers="256MB") as server, asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(find(quick, server))


if __name__ == "__main__":
    main(measured, __doc__)
