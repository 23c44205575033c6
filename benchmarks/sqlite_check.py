"""What does a check cost on the event loop when nothing is cached and the keys are in SQLite?

From a thousand to five million keys, beside the bare ``execute().fetchone()`` on the same file. A check is
all behind the parsing of the request's head: field, credentials, look-up, record, hash, verdict. Every call
takes another key, at random.

And what does a refusal cost, of an id that is unknown, and of keys with the smallest and the biggest record?
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
from sizes import select

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.auth.runner import arun
from basicauth_mw.backends import dump_key
from basicauth_mw.backends.codec import load_for_lookup
from basicauth_mw.backends.sqlite.store import SqliteStore
from basicauth_mw.keys.credentials import parse_basic
from basicauth_mw.keys.generated_secrets import classify, generate
from basicauth_mw.keys.hashing import MAX_LIVE_SECRETS, Hasher
from basicauth_mw.keys.model import Allow, Deny, Key, Secret, utcnow
from basicauth_mw.keys.validation import MAX_NAME, MAX_SCOPES

BATCH = 100_000
ASKED = 20_000  # different keys that are asked for

opened = 0


async def find(quick: bool, stack: ExitStack) -> Outcome:
    sizes = [1_000, 20_000, 100_000] if quick else [1_000, 10_000, 100_000, 1_000_000, 5_000_000]
    rounds, count, warm_up = (9, 300, 2_000) if quick else (41, 1000, 30_000)
    # The thread that notes last uses may still write there at the end.
    made = tempfile.TemporaryDirectory(prefix="basicauth-bench-", ignore_cleanup_errors=True)
    directory = Path(stack.enter_context(made))
    calls: dict[str, Call] = {}
    for size in sizes:
        path = directory / f"{size}.db"
        secret = generate("sk")
        ids = fill(path, size, secret)
        bare = stack.enter_context(closing(sqlite3.connect(path)))
        calls[f"check {size:,}"] = check(f"sqlite:///{path}", ids, secret, Allow)
        calls[f"SELECT {size:,}"] = select(bare, ids)
        if size in (sizes[0], sizes[-1]):
            unknown = [generate("id") for _ in range(len(ids))]
            calls[f"unknown {size:,}"] = check(f"sqlite:///{path}", unknown, secret, None)
        if size == sizes[0]:
            parts = parts_of(f"sqlite:///{path}", ids, secret)
    refusals = refusals_of(directory / "refusals.db")
    calls |= parts | refusals
    for call in calls.values():
        for _ in range(warm_up):
            await call()
    before = opened
    times = await measure(calls, rounds=rounds, calls=count)
    connections = opened - before

    first, last = sizes[0], sizes[-1]
    to_select = {size: spread(ratios(times[f"check {size:,}"], times[f"SELECT {size:,}"])) for size in sizes}
    grown = {
        kind: {
            size: spread(ratios(times[f"{kind} {size:,}"], times[f"{kind} {first:,}"]))
            for size in sizes
            if f"{kind} {size:,}" in times
        }
        for kind in ("check", "SELECT", "unknown")
    }
    rows = [
        [
            f"{size:,}",
            us(times[f"check {size:,}"]),
            grown["check"][size].text(),
            us(times[f"SELECT {size:,}"]),
            grown["SELECT"][size].text(),
            to_select[size].text(),
        ]
        for size in sizes
    ]
    table = Table(
        "An uncached check on the event loop, keys in SQLite",
        ["keys", "check us", "x the first", "bare SELECT us", "x the first", "check / SELECT (quartiles)"],
        rows,
        f"{rounds} interleaved rounds of {count} calls. To decide on an unknown id takes "
        f"{us(times[f'unknown {first:,}'])} us with {first:,} keys and {grown['unknown'][last].text()} times "
        f"that with {last:,}. Connections opened by requests meanwhile: {connections}.",
    )
    goals = [
        *(
            at_most(
                "G7",
                f"SQLite, uncached, {size:,} keys: check / bare execute().fetchone()",
                to_select[size],
                2,
                unit=" x",
                says="beside the SELECT: " + ", ".join(f"{name} {us(times[name])} us" for name in parts),
            )
            for size in (first, last)
        ),
        at_most(
            "G7",
            f"check with {last:,} keys / with {first:,}",
            grown["check"][last],
            2.5,
            unit=" x",
        ),
        Goal(
            "G7",
            "connections opened by uncached requests",
            f"{connections} in {rounds * count * len(calls):,}",
            "0",
            connections == 0,
        ),
    ]
    series = {
        kind: {str(size): median(times[f"{kind} {size:,}"]) * 1e6 for size in sizes}
        for kind in ("check", "SELECT")
    }
    split = Table(
        "Parts of a check",
        ["part", "us"],
        [[name, us(times[name])] for name in parts],
        f"Each alone, of the same rounds; the same key again and again, of the file of {first:,}.",
    )
    refused = Table(
        "A refusal, by what is stored",
        ["refused", "us", "x unknown id (quartiles)"],
        [
            [name, us(times[name]), spread(ratios(times[name], times[next(iter(refusals))])).text()]
            for name in refusals
        ],
        "Each with a minted secret that nobody has. The biggest record has as much of everything as a key "
        f"may have, but for scopes of common length: {len(dump_key(biggest())):,} octets.",
    )
    return Outcome([table, split, refused], goals, series)


def fill(path: Path, size: int, secret: str) -> list[str]:
    """Make a file of so many keys, which all have the same secret; some of their ids.

    By hand, in a tenth of the time that the store needs to write them durably; in no order over all, so that
    the pages of the index are as full as those of a file that has grown.
    """
    SqliteStore(f"sqlite:///{path}", create=True).close()
    record = dump_key(Key("?", scopes=frozenset({"read"}), secrets=(Secret(Hasher().digest_secret(secret)),)))
    before, after = record.split('"?"')
    asked = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -2000000"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("BEGIN")
        for start in range(0, size, BATCH):
            ids = sorted(f"id_{token_hex(25)[:49]}" for _ in range(min(BATCH, size - start)))
            rows = ((client_id, 1, f'{before}"{client_id}"{after}') for client_id in ids)
            connection.executemany("INSERT INTO keys VALUES (?, ?, ?)", rows)
            asked += ids[:: max(1, size // ASKED)]
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    return asked


def biggest() -> Key:
    """A key with as much as there may be."""
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
            for number in range(MAX_LIVE_SECRETS)
        ),
    )


def refusals_of(path: Path) -> dict[str, Call]:
    """Refusals of an unknown id, and of keys that differ in the size of their record alone."""
    url = f"sqlite:///{path}"
    most = biggest()
    keys = {
        "refusal, small record": Key(generate("id"), secrets=most.secrets[:1]),
        "refusal, 8 secrets, nothing else": Key(generate("id"), secrets=most.secrets),
        "refusal, 1 secret, else the biggest": replace(
            most, client_id=generate("id"), secrets=most.secrets[:1]
        ),
        "refusal, biggest record": most,
    }
    with closing(SqliteStore(url, create=True)) as store:
        if not all(store.add(list(keys.values()))):
            raise RuntimeError("not every key was written")
    asked = {"refusal, unknown id": generate("id")} | {name: key.client_id for name, key in keys.items()}
    wrong = generate("sk")
    return {name: check(url, [client_id], wrong, Deny) for name, client_id in asked.items()}


def check(url: str, ids: list[str], secret: str, expected: type | None) -> Call:
    """A call that verifies one of the ids, through a middleware that remembers nothing."""
    authenticator = ours(
        None, open_backend(url, settings=Settings()), cache_ttl_s=0, throttle=""
    )._authenticator
    fields = [encode_basic(client_id, secret).encode() for client_id in ids]
    template = scope(None)
    pick = random.Random(1).choice

    async def call() -> None:
        request = {**template, "headers": [*template["headers"], (b"authorization", pick(fields))]}
        decision = await arun(authenticator.decide(request), authenticator.reader)
        if expected is not None and type(decision) is not expected:
            raise RuntimeError(f"this is no {expected.__name__}")

    return call


def parts_of(url: str, ids: list[str], secret: str) -> dict[str, Call]:
    """What a check is made of, but for the look-up."""
    backend = open_backend(url, settings=Settings())
    field = encode_basic(ids[0], secret).encode()
    key = backend.store.get(ids[0])
    record = dump_key(key)

    def part(function, *arguments) -> Call:
        async def call() -> None:
            function(*arguments)

        return call

    return {
        "parse_basic": part(parse_basic, field),
        "classify": part(classify, secret),
        "load_for_lookup": part(load_for_lookup, record, key.client_id),
        "verify_digest": part(backend.hasher.verify_digest, secret, key.secrets),
        "UsageRecorder.record_use": part(backend.usage.record_use, key.client_id, key.secrets[0], secret),
    }


def count_connections(event: str, _arguments: tuple) -> None:
    """Count them; not those of the thread that notes last uses, which is not a request."""
    global opened
    if event == "sqlite3.connect" and "ledger" not in threading.current_thread().name:
        opened += 1


def measured(quick: bool) -> Outcome:
    sys.addaudithook(count_connections)
    with ExitStack() as stack:
        return asyncio.run(find(quick, stack))


if __name__ == "__main__":
    main(measured, __doc__)
