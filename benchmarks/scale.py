"""The figures in docs/scale.md: ``python benchmarks/scale.py PART``, one part at a time, on an idle machine.

- ``sqlite``, ``postgres``: lookups among 10 million keys, and their size on disk (``--keys``).
- ``redis``: memory per key.
- ``feed-redis``, ``feed-postgres``: 200 simulated processes (``--processes``) read the changes of one server;
  its CPU time, that of each process, and the time until a change has reached them.
- ``file``: reading a file of 100,000 keys, its memory, and how long no other thread can run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from secrets import token_bytes
from typing import TYPE_CHECKING

from basicauth_mw import Key, Secret, Settings, open_backend
from basicauth_mw.backends import LastUse, dump_key
from basicauth_mw.backends.file import FileStore
from basicauth_mw.keys.generated_secrets import ALPHABET, generate
from basicauth_mw.keys.hashing import Hasher, salts
from basicauth_mw.keys.model import utcnow

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH = 100_000
SAMPLE = 20_000
SYSTEMS = 4  # operating-system processes that share the simulated ones
CHANGES = 60
HASHED = Hasher().digest_secret(generate("sk"))
SETTINGS = Settings(backend_deadline_s=30.0)


def say(what: str, value: object) -> None:
    print(f"{what:<44} {value}", flush=True)


def random_ids(count: int) -> list[str]:
    """As ``generate_id`` makes, with one read of the random generator; sorted within themselves."""
    digits = [ALPHABET[byte % 62] for byte in token_bytes(12 * count)]
    return sorted({"id_" + "".join(digits[start : start + 12]) for start in range(0, len(digits), 12)})


def records(keys: int) -> Iterator[tuple[list[tuple[str, int, str]], list[str]]]:
    """Batches of rows, and a sample of their IDs."""
    before, after = dump_key(Key("?", scopes=frozenset({"read"}), secrets=(Secret(HASHED),))).split('"?"')
    for _ in range(0, keys, BATCH):
        ids = random_ids(BATCH)
        yield [(each, 1, f'{before}"{each}"{after}') for each in ids], ids[:: max(1, keys // SAMPLE)]


def time_lookups(get: Callable[[str], object], ids: list[str]) -> None:
    for what in ("the first time", "again"):
        random.shuffle(ids)
        taken = []
        for client_id in ids:
            begin = time.perf_counter()
            found = get(client_id)
            taken.append(time.perf_counter() - begin)
            if found is None:
                raise RuntimeError("a key is missing")
        p50, p99 = (percentile(taken, percent) * 1e6 for percent in (50, 99))
        say(f"lookup, {what}: p50, p99, in us", f"{p50:.0f} {p99:.0f}")


def percentile(values: list[float], percent: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


def sqlite_keys(keys: int, stack: ExitStack) -> None:
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="basicauth-scale-"))) / "keys.db"
    backend = stack.enter_context(open_backend(f"sqlite:///{path}", settings=SETTINGS, create=True))
    backend.create(client_id="first")
    backend.close()
    sample = []
    begin = time.monotonic()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -2000000"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("BEGIN")
        for rows, ids in records(keys):
            connection.executemany("INSERT INTO keys (client_id, version, record) VALUES (?, ?, ?)", rows)
            sample += ids
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    say("keys", keys)
    say("seconds to write them by bulk SQL", f"{time.monotonic() - begin:.0f}")
    say("bytes per key", path.stat().st_size // keys)
    time_lookups(backend.store.get_record, sample)
    begin = time.perf_counter()
    for number in range(100):
        backend.create(client_id=f"new-{number}")
    say("ms to create a key, durably", f"{(time.perf_counter() - begin) * 10:.1f}")


def postgres_keys(keys: int, stack: ExitStack) -> None:
    server = stack.enter_context(PostgresServer(shared_buffers="512MB", max_wal_size="8GB"))
    url = server.url_with_tables()
    sample = []
    with server.connect() as connection, connection.cursor() as cursor:
        for rows, ids in records(keys):
            columns = "(client_id, version, record, history)"
            with cursor.copy(f"COPY basicauth_keys {columns} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row((*row, ""))
            sample += ids
    say("keys", keys)
    server.execute("VACUUM ANALYZE basicauth_keys")
    say("bytes per key", server.execute("SELECT pg_total_relation_size('basicauth_keys')")[0][0] // keys)
    backend = stack.enter_context(open_backend(url, settings=SETTINGS))
    time_lookups(backend.store.get, sample)


def redis_keys(keys: int, stack: ExitStack) -> None:
    import redis

    server = stack.enter_context(RedisServer())
    client = stack.enter_context(redis.Redis(port=server.port))
    backend = stack.enter_context(open_backend(server.url(), settings=SETTINGS))

    def used() -> int:
        return int(client.info("memory")["used_memory"])

    empty = used()
    now = utcnow()
    ids: list[str] = []
    while len(ids) < keys:
        batch = random_ids(5_000)
        hashes = [f"{HASHED[:9]}{salt}{HASHED[25:]}" for salt in salts(len(batch))]
        backend.add(
            [
                Key(each, created_at=now, scopes={"read"}, secrets=[Secret(hashed, now)])
                for each, hashed in zip(batch, hashes, strict=True)
            ]
        )
        ids += batch
    say("keys", len(ids))
    say("bytes per key", (used() - empty) // len(ids))
    before = used()
    for start in range(0, len(ids), 5_000):
        backend.store.record_uses([LastUse(each, now, now) for each in ids[start : start + 5_000]])
    say("bytes per key for its last use", (used() - before) // len(ids))


# --- the change feed


class Subscriber:
    """Notes when a change has reached one simulated process."""

    def __init__(self, found: list[tuple[str, float]]) -> None:
        self._found = found

    def invalidate(self, client_id: str) -> None:
        self._found.append((client_id, time.monotonic()))

    def clear(self) -> None:
        self._found.append(("", time.monotonic()))


def follow(url: str, processes: int) -> None:
    """Run simulated processes until a line is read from stdin, and then print what they found."""
    found: list[tuple[str, float]] = []
    backends = [open_backend(url, settings=SETTINGS) for _ in range(processes)]
    subscribers = [Subscriber(found) for _ in backends]
    for backend, subscriber in zip(backends, subscribers, strict=True):
        backend.feed.subscribe(subscriber, keeps_s=86_400)
        backend.feed.refresh()
        backend.feed.mark_active()
        time.sleep(0.1 / processes)  # they are not in step
    print("ready", flush=True)
    sys.stdin.readline()
    begin, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    sys.stdin.readline()
    now = resource.getrusage(resource.RUSAGE_SELF)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    print(json.dumps([found, cpu / (time.monotonic() - begin) / processes]), flush=True)
    os._exit(0)


def feed(url: str, processes: int, cpu_s: Callable[[], float]) -> None:
    with open_backend(url, settings=SETTINGS) as backend:
        ids = [backend.create().client_id for _ in range(CHANGES)]
        followers = [
            subprocess.Popen(
                [sys.executable, __file__, "follow", "--url", url, "--processes", str(processes // SYSTEMS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(SYSTEMS)
        ]
        for each in followers:
            if each.stdout is None or each.stdout.readline() != "ready\n":
                raise RuntimeError("a follower failed")
        time.sleep(2)
        begin, used = time.monotonic(), cpu_s()
        for each in followers:
            if each.stdin is not None:
                each.stdin.write("\n")
                each.stdin.flush()
        time.sleep(10)
        share = (cpu_s() - used) / (time.monotonic() - begin)
        say("processes", processes)
        say("CPU of the server, % of a core", f"{share * 100:.1f}")
        changed: dict[str, float] = {}
        for client_id in ids:
            backend.disable(client_id)
            changed[client_id] = time.monotonic()
            time.sleep(random.uniform(0.15, 0.35))
        time.sleep(1)
        delays: dict[str, list[float]] = {client_id: [] for client_id in ids}
        shares = []
        for each in followers:
            out, _ = each.communicate("\n", timeout=60)
            found, cpu = json.loads(out)
            shares.append(cpu)
            for client_id, at in found:
                if client_id in delays:
                    delays[client_id].append(at - changed[client_id])
    if any(len(each) != processes // SYSTEMS * SYSTEMS for each in delays.values()):
        raise RuntimeError("a change did not reach every process")
    last = [max(each) for each in delays.values()]
    say("CPU of each process for its feed, % of a core", f"{max(shares) * 100:.2f}")
    each_one = [delay for found in delays.values() for delay in found]
    say("ms until one process knows: p50, p99", f"{ms(each_one, 50)} {ms(each_one, 99)}")
    say("ms until all know: p50, p99", f"{ms(last, 50)} {ms(last, 99)}")


def ms(values: list[float], percent: float) -> str:
    return f"{percentile(values, percent) * 1e3:.0f}"


def feed_redis(processes: int, stack: ExitStack) -> None:
    import redis

    server = stack.enter_context(RedisServer("--maxclients", "2000"))
    client = stack.enter_context(redis.Redis(port=server.port))

    def cpu_s() -> float:
        info = client.info("cpu")
        return float(info["used_cpu_sys"] + info["used_cpu_user"])

    feed(server.url(), processes, cpu_s)


def feed_postgres(processes: int, stack: ExitStack) -> None:
    server = stack.enter_context(PostgresServer(max_connections=str(processes * 3 + 20)))

    def cpu_s() -> float:
        tick = os.sysconf("SC_CLK_TCK")
        clients = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
        pids = [pid for (pid,) in server.execute(clients)]
        total = 0
        for pid in pids:
            with suppress(FileNotFoundError):  # the connection of this very query
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / tick

    feed(server.url_with_tables(), processes, cpu_s)


# --- the file


class MeasuredStore(FileStore):
    """Notes the CPU time of each step in which no other thread can run."""

    steps: list[float]
    last = 0.0

    def begin(self) -> None:
        self.steps = []
        self.last = time.thread_time()

    def note(self) -> None:
        now = time.thread_time()
        self.steps.append(now - self.last)
        self.last = now

    def _in_steps(self, items, pause_s):
        for item in super()._in_steps(items, pause_s):
            if self.last:
                self.note()
            yield item


def file_keys(keys: int, stack: ExitStack) -> None:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="basicauth-scale-")))
    path = directory / "keys"
    secrets = {f"client-{number:07}": generate("sk") for number in range(keys)}
    first = next(iter(secrets.values()))
    as_json = {each: {"secret": value, "scopes": ["read"]} for each, value in secrets.items()}
    texts = {
        "lines": "".join(f"{each}:{secret}\n" for each, secret in secrets.items()),
        "JSON": json.dumps(as_json),
    }

    def write(text: str) -> None:
        (directory / "new").write_text(text)
        (directory / "new").rename(path)
        time.sleep(0.2)

    for form, text in texts.items():
        write(text)
        before, used = memory(), time.process_time()
        store = MeasuredStore(f"file:{path}")
        say(f"{form}: CPU seconds to read {keys} keys", f"{time.process_time() - used:.2f}")
        if form == "lines":
            say("MB of memory", f"{(memory() - before) / 1e6:.0f}")
        for what, changed in (
            ("one changed", text.replace(first, "a new password", 1)),
            ("all changed", text.replace("client-", "other--")),
        ):
            write(changed)
            store.begin()
            used = time.thread_time()
            store.poll()
            store.note()
            say(f"{form}, {what}: CPU seconds", f"{time.thread_time() - used:.2f}")
            say(f"{form}, {what}: the longest step, ms", f"{max(store.steps) * 1e3:.1f}")
        if form == "lines":
            say("MB of memory after all have changed", f"{(memory() - before) / 1e6:.0f}")


def memory() -> int:
    """Resident bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


PARTS: dict[str, tuple[Callable[[int, ExitStack], None], int]] = {
    "sqlite": (sqlite_keys, 10_000_000),
    "postgres": (postgres_keys, 10_000_000),
    "redis": (redis_keys, 200_000),
    "feed-redis": (feed_redis, 200),
    "feed-postgres": (feed_postgres, 200),
    "file": (file_keys, 100_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=[*PARTS, "follow"])
    parser.add_argument("--keys", "--processes", dest="count", type=int)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part == "follow":
        follow(arguments.url, arguments.count)
    run, default = PARTS[arguments.part]
    say("load of the machine before", f"{os.getloadavg()[0]:.1f}")
    with ExitStack() as stack:
        run(arguments.count or default, stack)


if __name__ == "__main__":
    main()
