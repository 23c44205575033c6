"""A soak test: real servers over real stores at full rate, with constant faults, and a verdict.

    python -m tests.soak.soak [--minutes 30] [--seed N] [--servers uvicorn-redis ...] [--write]

The exit status is 0 if there was no wrong response, no lost key and no growth, otherwise 1. Ctrl-C ends it
early, with a report.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from basicauth_mw import Settings, encode_basic, open_backend
from tests.soak.apps import CANARY
from tests.soak.changes import COMMAND, Changer
from tests.soak.faults import Faults
from tests.soak.growth import Watch
from tests.soak.proxy import ROOT
from tests.soak.report import Report
from tests.soak.sites import SERVERS, Fleet
from tests.soak.traffic import Client, Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.soak.sites import Site, Store

CLIENTS = 3  # for each server
WRITTEN_FROM = 30.0  # minutes: a shorter run does not measure growth
REPEATS = 3  # of the check at the end, each on a new connection, which may reach another worker
SHORT = 1.0  # minutes: in a shorter run, faults are more frequent


class Soak:
    """One run.

    Args:
        minutes: Duration.
        seed: Seed of all random choices. It does not determine the timing of threads.
        servers: Names of servers, from ``SERVERS``.
        clients: Clients for each server.
        quiet: Print only problems.
    """

    def __init__(
        self,
        minutes: float,
        seed: int,
        servers: tuple[str, ...] = SERVERS,
        *,
        clients: int = CLIENTS,
        quiet: bool = False,
    ) -> None:
        self._minutes = minutes
        self._seed = seed
        self._servers = servers
        self._clients = clients
        self.report = Report(seed, quiet=quiet)
        self.ended = threading.Event()

    def run(self) -> Report:
        """Run the test."""
        with (
            tempfile.TemporaryDirectory(prefix="basicauth-soak-") as folder,
            Fleet(self._servers, Path(folder)) as fleet,
        ):
            changers = [
                Changer(store, self.report, self._rng("changes", place, by), by=by)
                for place, store in fleet.stores.items()
                for by in ("library", "command line")
            ]
            often = 1.0 if self._minutes >= SHORT else 5.0
            faults = Faults(fleet, changers, self.report, self._rng("faults"), often=often)
            clients = [
                Client(site, fleet.stores[site.place].keys, self.report, self._rng(site.name, number))
                for site in fleet.sites
                for number in range(self._clients)
            ]
            watch = Watch(fleet, self.report)
            self.report.note(f"begins, seed {self._seed}")
            for part in (*changers, *clients, faults, watch):
                part.start()
            self.ended.wait(60 * self._minutes)
            for parts in ([faults], changers, clients, [watch]):  # faults first, so that all are over
                for part in parts:
                    part.stopping.set()
                for part in parts:
                    part.join()
            self.report.judge_growth(watch.seen)
            self._look_at_all(fleet)
        return self.report

    def _rng(self, *what: object) -> random.Random:
        return random.Random(f"{self._seed} {what}")

    # --- at the end

    def _look_at_all(self, fleet: Fleet) -> None:
        """Check every key on every server, every store, and the logs of the servers."""
        while fleet.windows.meet(fleet.places, time.monotonic(), time.monotonic()):
            time.sleep(0.05)  # until the recovery from the last fault is over
        self.report.note("checks every key")
        for store in fleet.stores.values():
            self._look_at_store(store)
        for site in fleet.sites:
            self._look_at_keys(site, fleet.stores[site.place])
            self._look_at_log(site)

    def _look_at_keys(self, site: Site, store: Store) -> None:
        client = Client(site, store.keys, self.report, self._rng("end", site.name))
        pairs = [
            ("valid key", each.client_id, secret.text)
            for each in store.keys.all()
            for secret in each.state.secrets
        ]
        pairs += [("inactive key", *pair) for pair in store.keys.gone()]
        for _ in range(REPEATS):
            for kind, client_id, secret in pairs:
                request = Request(kind, encode_basic(client_id, secret), client_id, secret)
                client.judge(request, client.send(request))
            client.close()

    def _look_at_store(self, store: Store) -> None:
        with open_backend(store.direct, settings=Settings()) as backend:
            there = {key.client_id for key in backend.iter_keys()}
        if there != store.keys.present():
            self.report.wrong(
                "store",
                store.place,
                f"only in the store or only in the model: {there ^ store.keys.present()}",
            )
        done = subprocess.run(
            [*COMMAND, "check", "--all", "--json"],
            cwd=ROOT,
            env=store.environment,
            capture_output=True,
            text=True,
        )
        found = json.loads(done.stdout)
        if (
            done.returncode
            or not found["ok"]
            # The log of SQLite is not empty while a process writes.
            or {each["code"] for each in found["warnings"]} - {"plain_http", "sqlite_log_not_empty"}
        ):
            self.report.wrong("check", store.place, done.stdout + done.stderr)

    def _look_at_log(self, site: Site) -> None:
        """Only the request handler that raises may leave tracebacks, which end with its message."""
        log = site.log.read_text(errors="replace")
        others = log.count("Traceback (most recent call last)") - log.count(f"Error: {CANARY}")
        if others:
            self.report.wrong("log", site.name, f"{others} unexpected tracebacks: {log[-3000:]}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS)
    parser.add_argument(
        "--write", action="store_true", help="write docs/soak.md, as a run of 30 minutes does"
    )
    given = parser.parse_args(arguments)
    print(f"seed {given.seed}", flush=True)
    soak = Soak(given.minutes, given.seed, tuple(given.servers))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: soak.ended.set())
    report = soak.run()
    print(report.text())
    if given.write or (given.minutes >= WRITTEN_FROM and not soak.ended.is_set()):
        report.write()
    print("failed: see the lines that begin with WRONG" if report.problems else "passed")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
