"""The faults of a soak test, one at a time, each for a limited time."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from tests.redis_server import execute
from tests.soak.parts import Part
from tests.waiting import wait_until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    from tests.soak.changes import Changer
    from tests.soak.report import Report
    from tests.soak.sites import Fleet, Site, Store

PAUSE_S = (2.0, 6.0)  # between two faults
LASTS_S = (0.3, 3.0)
NOTICED_S = 1.0  # within that, all processes detect that the SQLite file was replaced


class Faults(Part):
    """Causes faults until it is stopped; the last one is over when it ends.

    Args:
        fleet: The stores and servers.
        changers: Those of a store are paused while its file is replaced.
        report: Gets counts.
        rng: Source of randomness.
        often: Divides the pauses, for short runs.
    """

    def __init__(
        self,
        fleet: Fleet,
        changers: Sequence[Changer],
        report: Report,
        rng: random.Random,
        *,
        often: float = 1.0,
    ) -> None:
        super().__init__("faults", report)
        self._fleet = fleet
        self._changers = changers
        self._rng = rng
        self._often = often

    def work(self) -> None:
        left: list[tuple[str, Callable[[], None]]] = []
        while not self.stopping.wait(self._rng.uniform(*PAUSE_S) / self._often):
            left = left or self._shuffled()  # so that all faults are equally frequent
            name, fault = left.pop()
            self._report.count("faults", name)
            self._report.note(f"fault: {name}")
            fault()

    def _shuffled(self) -> list[tuple[str, Callable[[], None]]]:
        faults = [*self._of_sites()]
        for store in self._fleet.stores.values():
            faults += self._of_redis(store) if store.redis else self._of_sqlite(store)
        self._rng.shuffle(faults)
        return faults

    # --- Redis

    def _of_redis(self, store: Store) -> Iterator[tuple[str, Callable[[], None]]]:
        redis, proxy = store.redis, store.proxy
        assert redis is not None
        assert proxy is not None

        def during(begin: Callable[[], object], end: Callable[[], object]) -> Callable[[], None]:
            def fault() -> None:
                with self._outage(store.place):
                    begin()
                    self._last()
                    end()

            return fault

        def busy(*command: object) -> Callable[[], None]:
            """A command that makes Redis unresponsive for a while."""
            return during(partial(execute, redis, *command), partial(execute, redis, "PING"))

        ms = int(1000 * self._rng.uniform(*LASTS_S))
        yield "Redis: SIGSTOP, SIGCONT", during(redis.freeze, redis.thaw)
        yield "Redis: SIGKILL, restart", during(redis.stop, redis.start)
        yield "Redis: CLIENT KILL", busy("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        yield "Redis: CLIENT PAUSE", busy("CLIENT", "PAUSE", ms)
        yield "Redis: DEBUG SLEEP", busy("DEBUG", "SLEEP", ms / 1000)
        for mode in ("delay", "lose", "garble", "cut"):
            yield (
                f"connection to Redis: {mode}",
                during(partial(proxy.turn, mode), partial(proxy.turn, "pass")),
            )

    # --- SQLite

    def _of_sqlite(self, store: Store) -> Iterator[tuple[str, Callable[[], None]]]:
        path = store.path
        assert path is not None

        def locked(how: str) -> None:
            """Another process holds the lock. Not an outage, since readers do not wait for writers."""
            with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
                connection.execute(f"BEGIN {how}")
                self._last()
                connection.execute("ROLLBACK")

        def replaced() -> None:
            """Replace the file by a copy, as a restore does; no keys are changed until all processes notice.

            Not an outage either.
            """
            with ExitStack() as stack:
                for changer in self._changers:
                    if changer.place == store.place:
                        stack.enter_context(changer.pause)
                copy = path.with_suffix(".copy")
                copy.touch(mode=0o600)
                with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(copy)) as new:
                    old.backup(new)
                copy.replace(path)
                time.sleep(NOTICED_S)

        yield "SQLite: BEGIN IMMEDIATE held", partial(locked, "IMMEDIATE")
        yield "SQLite: BEGIN EXCLUSIVE held", partial(locked, "EXCLUSIVE")
        yield "SQLite: file replaced by a copy", replaced

    # --- servers

    def _of_sites(self) -> Iterator[tuple[str, Callable[[], None]]]:
        for site in self._fleet.sites:
            server = site.name.partition("-")[0]
            yield f"{server}: worker SIGKILL", partial(self._kill, site)
            yield f"{server}: worker SIGSTOP, SIGCONT", partial(self._halt, site)

    def _kill(self, site: Site) -> None:
        """Kill the youngest worker. The oldest runs to the end, so that its memory can be compared."""
        with self._outage(site.name):
            youngest = site.workers()[-1]
            os.kill(youngest, signal.SIGKILL)
            wait_until(lambda: youngest not in site.workers())
            site.wait()

    def _halt(self, site: Site) -> None:
        with self._outage(site.name):
            worker = self._rng.choice(site.workers())
            os.kill(worker, signal.SIGSTOP)
            self._last()
            os.kill(worker, signal.SIGCONT)

    # --- all

    @contextmanager
    def _outage(self, place: str) -> Iterator[None]:
        self._fleet.windows.open(place)
        try:
            yield
        finally:
            self._fleet.windows.close(place)

    def _last(self) -> None:
        time.sleep(self._rng.uniform(*LASTS_S))
