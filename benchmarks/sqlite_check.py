"""What does an uncached verification cost on the event loop, with the keys in SQLite?

From a thousand to five million keys, compared with a bare ``execute().fetchone()`` on the same file. A
verification is everything between the request's headers and the decision. Every call takes another key at
random.

The second table shows the cost of a refusal for an unknown ID, and for keys with the smallest and the biggest
record.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import tempfile
import threading
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from statistics import median

from asgi_apps import ours, scope
from report import Goal, Outcome, Table, at_most, main
from rounds import Call, measure, ratios, spread, us

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.auth.verifier import PendingVerification
from basicauth_mw.backends import dump_key
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import MAX_ACTIVE_SECRETS, Hasher
from basicauth_mw.keys.model import Deny, Key, Principal, Secret, utcnow
from basicauth_mw.keys.validation import MAX_NAME, MAX_SCOPES

BATCH = 100_000
SAMPLE = 20_000  # different keys that are looked up

connects = 0


async def find(quick: bool, stack: ExitStack) -> Outcome:
    sizes = [1_000, 20_000, 100_000] if quick else [1_000, 10_000, 100_000, 1_000_000, 5_000_000]
    rounds, count, warm_up = (9, 300, 2_000) if quick else (41, 1000, 20_000)
    # The thread that writes last uses may still be at work at the end.
    temporary = tempfile.TemporaryDirectory(prefix="basicauth-bench-", ignore_cleanup_errors=True)
    directory = Path(stack.enter_context(temporary))
    calls: dict[str, Call] = {}
    for size in sizes:
        path = directory / f"{size}.db"
        secret = generate("sk")
        ids = fill(path, size, secret)
        bare = stack.enter_context(closing(sqlite3.connect(path)))
        calls[f"check {size:,}"] = check(path, ids, secret, Principal)
        calls[f"SELECT {size:,}"] = select(bare, ids)
        if size in (sizes[0], sizes[-1]):
            unknown = [generate("id") for _ in range(len(ids))]
            calls[f"unknown {size:,}"] = check(path, unknown, secret, Deny)
        if size == sizes[0]:
            calls["check one"] = check(path, ids[:1], secret, Principal)
            calls["SELECT one"] = select(bare, ids[:1])
    refusals = refusals_of(directory / "refusals.db")
    calls |= refusals
    for call in calls.values():
        for _ in range(warm_up):
            await call()
    before = connects
    times = await measure(calls, rounds=rounds, calls=count)
    opened = connects - before

    first, last = sizes[0], sizes[-1]

    def to_select(what: str):
        return spread(ratios(times[f"check {what}"], times[f"SELECT {what}"]))

    def growth(kind: str, size: int):
        return spread(ratios(times[f"{kind} {size:,}"], times[f"{kind} {first:,}"]))

    rows = [
        [
            label,
            us(times[f"check {label}"]),
            growth("check", size).text() if size else "",
            us(times[f"SELECT {label}"]),
            growth("SELECT", size).text() if size else "",
            to_select(label).text(),
        ]
        for label, size in [("one", 0), *((f"{size:,}", size) for size in sizes)]
    ]
    table = Table(
        "An uncached verification on the event loop, keys in SQLite",
        ["keys", "verification us", "x the first", "bare SELECT us", "x the first", "verification / SELECT"],
        rows,
        f"{rounds} interleaved rounds of at most {count} calls; medians and quartiles. "
        '"one": the same key of the first file again and again. An unknown ID takes '
        f"{us(times[f'unknown {first:,}'])} us with {first:,} keys, and {growth('unknown', last).text()} "
        f"times that with {last:,}.",
    )
    hot = to_select("one")
    own_us = us([check - query for check, query in zip(times["check one"], times["SELECT one"], strict=True)])
    goals = [
        at_most(
            "check",
            "SQLite, uncached: verification / a bare hot SELECT",
            hot,
            4.5,
            reason=f"parsing, decoding, the digest and the last use take {own_us} us in addition to the "
            f"SELECT's {us(times['SELECT one'])} us; with {last:,} keys: {to_select(f'{last:,}').text()}",
        ),
        at_most("check", f"SQLite: {last:,} keys / {first:,} keys", growth("check", last), 2.5),
        Goal("check", "SQLite connections opened by uncached requests", str(opened), "0", opened == 0),
    ]
    series = {
        kind: {str(size): median(times[f"{kind} {size:,}"]) * 1e6 for size in sizes}
        for kind in ("check", "SELECT")
    }
    base = times[next(iter(refusals))]
    refused = Table(
        "A refusal, by what is stored in SQLite",
        ["refused", "us", "x unknown ID (quartiles)"],
        [[name, us(times[name]), spread(ratios(times[name], base)).text()] for name in refusals],
        "Each with a generated secret of no key. The biggest record has the maximum of everything, with "
        f"scopes of common length: {len(dump_key(biggest())):,} bytes.",
    )
    return Outcome([table, refused], goals, series)


def fill(path: Path, size: int, secret: str) -> list[str]:
    """Create a file with ``size`` keys that all have one secret; return a sample of their IDs.

    Written directly, in a tenth of the store's time. Not sorted as a whole, so that the pages of the index
    are as full as those of a file that has grown.
    """
    SqliteStore(f"sqlite:///{path}", create=True).close()
    record = dump_key(Key("?", scopes=frozenset({"read"}), secrets=(Secret(Hasher().digest_secret(secret)),)))
    before, after = record.split('"?"')
    sample = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -2000000"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("BEGIN")
        for start in range(0, size, BATCH):
            ids = sorted(f"id_{token_hex(25)[:49]}" for _ in range(min(BATCH, size - start)))
            rows = ((client_id, 1, f'{before}"{client_id}"{after}') for client_id in ids)
            connection.executemany("INSERT INTO keys (client_id, version, record) VALUES (?, ?, ?)", rows)
            sample += ids[:: max(1, size // SAMPLE)]
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    return sample


def biggest() -> Key:
    """A key with as much of everything as is allowed."""
    salt = "A" * 16
    now = utcnow()
    return Key(
        generate("id"),
        name="n" * MAX_NAME,
        scopes=frozenset(f"scope:{number}:read" for number in range(MAX_SCOPES)),
        created_at=now,
        expires_at=now + timedelta(days=90),
        metadata={f"name {number}": "v" * 16 for number in range(120)},
        secrets=tuple(
            Secret(
                Hasher().digest_secret(generate("sk"), salt=salt), now + timedelta(microseconds=number), now
            )
            for number in range(MAX_ACTIVE_SECRETS)
        ),
    )


def refusals_of(path: Path) -> dict[str, Call]:
    """Refusals of an unknown ID, and of keys that differ only in the size of their record."""
    most = biggest()
    keys = {
        "small record": Key(generate("id"), secrets=most.secrets[:1]),
        "8 secrets, nothing else": Key(generate("id"), secrets=most.secrets),
        "1 secret, the maximum of the rest": replace(
            most, client_id=generate("id"), secrets=most.secrets[:1]
        ),
        "biggest record": most,
    }
    with closing(SqliteStore(f"sqlite:///{path}", create=True)) as store:
        if not all(store.add(list(keys.values()))):
            raise RuntimeError("not every key was written")
    ids = {"unknown ID": generate("id")} | {name: key.client_id for name, key in keys.items()}
    wrong = generate("sk")
    return {name: check(path, [client_id], wrong, Deny) for name, client_id in ids.items()}


def check(path: Path, ids: list[str], secret: str, expected: type) -> Call:
    """Return a call that verifies one of the IDs, with the cache off."""
    backend = open_backend(f"sqlite:///{path}", settings=Settings())
    authenticator = ours(None, backend, cache_ttl_s=0).authenticator
    fields = [encode_basic(client_id, secret).encode() for client_id in ids]
    template = scope(None)
    pick = random.Random(1).choice

    async def call() -> None:
        request = {**template, "headers": [*template["headers"], (b"authorization", pick(fields))]}
        decision = authenticator.decide(request)
        if isinstance(decision, PendingVerification):
            decision = await authenticator.averify(decision)
        if type(decision) is not expected:
            raise RuntimeError(f"the decision is {type(decision).__name__}, not {expected.__name__}")

    return call


def select(bare: sqlite3.Connection, ids: list[str]) -> Call:
    pick = random.Random(1).choice

    async def call() -> None:
        bare.execute("SELECT record FROM keys WHERE client_id = ?", (pick(ids),)).fetchone()

    return call


def count_connects(event: str, _arguments: tuple) -> None:
    """Count connections, except those of the thread that writes last uses, which is no request."""
    global connects
    if event == "sqlite3.connect" and threading.current_thread() is threading.main_thread():
        connects += 1


def measured(quick: bool) -> Outcome:
    sys.addaudithook(count_connects)
    with ExitStack() as stack:
        return asyncio.run(find(quick, stack))


if __name__ == "__main__":
    main(measured, __doc__)
