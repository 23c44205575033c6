"""Changes the keys of a store all the time, by the library and by the command line, and tells the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from basicauth_mw import Settings, open_backend
from basicauth_mw.errors import BackendUnavailable, BasicAuthError
from tests.soak.model import Entry, Secret, State
from tests.soak.parts import Part
from tests.soak.way import ROOT

if TYPE_CHECKING:
    import random

    from basicauth_mw import Backend, Key
    from tests.soak.report import Report
    from tests.soak.sites import Store

KEYS = {"library": 50, "command line": 6}  # about so many are kept by each
CHOSEN = 2  # of them with secrets that people choose, which cost a slow hash
PAUSE_S = 0.01
KILL_SHARE = 0.2
EXPORT_SHARE = 0.05
LIMIT_S = 60.0
COMMAND = (sys.executable, "-m", "basicauth_mw")


class NotSaid(Exception):
    """It is not known whether the change was made."""


class Changer(Part):
    """Changes keys of its own in a store that others may change, too.

    Args:
        store: Where.
        report: Where it counts, and complains.
        rng: Where all chance comes from.
        by: ``library`` or ``command line``.

    Attributes:
        place: The name of the store.
        pause: To be held by whoever wants nothing to be changed meanwhile.
    """

    def __init__(self, store: Store, report: Report, rng: random.Random, *, by: str) -> None:
        super().__init__(f"changes of {store.place} by {by}", report)
        self.place = store.place
        self._by = by
        self._prefix = f"{store.place}-{by}-"
        self._store = store
        self._keys = store.keys
        self._rng = rng
        self._made = 0
        self.pause = threading.Lock()

    def work(self) -> None:
        settings = Settings(backend_deadline_s=2.0)
        with (
            open_backend(self._store.url, settings=settings) as backend,
            open_backend(self._store.direct, settings=settings) as direct,
        ):
            while not self.stopping.wait(PAUSE_S):
                with self.pause:
                    self._change(backend, direct)

    # --- which

    def _change(self, backend: Backend, direct: Backend) -> None:
        mine = [each for each in self._keys.all() if each.client_id.startswith(self._prefix)]
        entries = [each for each in mine if each.state.status != "absent"]
        if len(entries) < KEYS[self._by] * self._rng.uniform(0.5, 1):
            chosen = sum(each.is_chosen for each in entries) < CHOSEN and self._rng.random() < 0.1
            gone = [each.client_id for each in mine if each.state.status == "absent"]
            entry, verb = self._new(chosen, gone), "create"
        elif self._by != "library" and self._rng.random() < EXPORT_SHARE:
            self._export()
            return
        else:
            entry = self._rng.choice(entries)
            verb = self._rng.choice(_possible(entry))
        self._make(backend, direct, entry, verb)

    def _new(self, is_chosen: bool, gone: list[str]) -> Entry:
        """A new id, or one that was deleted, which is free again."""
        self._made += 1
        again = bool(gone) and self._rng.random() < 0.3 and not is_chosen
        client_id = self._rng.choice(gone) if again else f"{self._prefix}{self._made}"
        return Entry(client_id, is_chosen)

    # --- how

    def _make(self, backend: Backend, direct: Backend, entry: Entry, verb: str) -> None:
        rng, client_id = self._rng, entry.client_id
        before = State() if verb == "create" else entry.state
        chosen = (
            f"chosen-{rng.randrange(10**9)}" if entry.is_chosen and verb in ("create", "rotate") else None
        )
        live = [each for each in before.secrets if each.goes_on_at(time.monotonic())]
        overlap_s = 0 if entry.is_chosen or len(live) > 3 else rng.choice((0, 1, 2, 3))
        scopes = frozenset(f"s{rng.randrange(100)}" for _ in range(rng.randrange(3)))
        begun, begun_wall = time.monotonic(), time.time()

        def after(secret: str | None, until: float) -> State:
            """What it is once the change is made; ``until``: when that was at the latest."""
            new = () if secret is None else (Secret(secret),)
            match verb:
                case "create":
                    return State("live", new, scopes)
                case "rotate":
                    ends = (begun + overlap_s, until + overlap_s)
                    old = tuple(Secret(each.text, _sooner(each.ends, ends)) for each in live)
                    return replace(before, secrets=(*(old if overlap_s else ()), *new))
                case "scopes":
                    return replace(before, scopes=scopes)
                case "delete":
                    return State()
                case _:
                    status = {"disable": "disabled", "enable": "live", "revoke": "revoked"}[verb]
                    return replace(before, status=status)

        self._keys.begin(client_id, after(chosen, begun + LIMIT_S), is_chosen=entry.is_chosen)
        kills = self._by != "library" and rng.random() < KILL_SHARE
        way = f"killed {self._by}" if kills else self._by
        try:
            if self._by != "library":
                secret = self._by_command(verb, client_id, overlap_s, scopes, chosen, kills)
            else:
                secret = _by_library(backend, verb, client_id, overlap_s, scopes, chosen)
        except NotSaid as exc:
            self._report.count("changes", f"{verb}, {way}: not known")
            if not kills and not self._keys.had_outage(begun, time.monotonic()):
                self._report.wrong("changes", self._store.place, f"{verb} of {before}, {way}: {exc}")
            self._settle(direct, entry, verb, before, after(chosen, time.monotonic()), begun_wall, str(exc))
        else:
            self._report.count("changes", f"{verb}, {way}")
            self._keys.done(client_id, after(secret, time.monotonic()))

    def _by_command(
        self,
        verb: str,
        client_id: str,
        overlap_s: int,
        scopes: frozenset[str],
        chosen: str | None,
        kills: bool,
    ) -> str | None:
        listed = [word for scope in sorted(scopes) for word in ("--scope", scope)]
        words = {
            "create": ["create", "--client-id", client_id, *listed],
            "rotate": ["rotate", client_id, "--overlap", f"{overlap_s}s" if overlap_s else "0"],
            "scopes": ["update", client_id, *(listed or ["--no-scopes"])],
        }.get(verb, [verb, client_id])
        if chosen is not None:
            words.append("--secret-stdin")
        with self._run_command("keys", *words, "--json") as process:
            if kills:
                self._report.count("faults", "kill -9 of a command line")
                half_way_with_luck = self._rng.uniform(0, 2)
                try:
                    out, err = process.communicate((chosen or "").encode(), half_way_with_luck)
                except subprocess.TimeoutExpired:
                    process.kill()
                    out, err = process.communicate()
            else:
                out, err = process.communicate((chosen or "").encode(), LIMIT_S)
        if process.returncode:
            raise NotSaid(err.decode().strip())
        said = json.loads(out)
        secret: str | None = said.get("secret")
        return secret

    def _export(self) -> None:
        begun = time.monotonic()
        with self._run_command("keys", "export") as process:
            out, err = process.communicate(timeout=LIMIT_S)
        if process.returncode:
            self._report.count("changes", "export: refused")
            if not self._keys.had_outage(begun, time.monotonic()):
                self._report.wrong("export", self._store.place, err.decode())
            return
        self._report.count("changes", "export")
        ids = {json.loads(line)["client_id"] for line in out.splitlines()}
        others = {each for each in ids ^ self._keys.present() if each.startswith(self._prefix)}
        if others:
            self._report.wrong("export", self._store.place, f"these are there, or here, only: {others}")

    def _run_command(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*COMMAND, *words],
            cwd=ROOT,
            env={**os.environ, "BASICAUTH_BACKEND": self._store.url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    # --- what is not known

    def _settle(
        self,
        direct: Backend,
        entry: Entry,
        verb: str,
        before: State,
        after: State,
        begun_wall: float,
        reason: str,
    ) -> None:
        """Find out whether a change was made: read the key, as soon as nothing old can reach the store."""
        found: Key | None
        ends = time.monotonic() + LIMIT_S
        while True:
            time.sleep(0.05)
            if not self._keys.is_quiet():
                continue
            try:
                found = direct.get(entry.client_id)
                break
            except BackendUnavailable:
                if time.monotonic() > ends:
                    raise
        status = _status(found)
        made = (status, _scopes(found)) == (after.status, after.scopes)
        if verb == "rotate" and found is not None:
            made = max(each.created_at.timestamp() for each in found.secrets) >= begun_wall
        kept = (status, _scopes(found)) == (before.status, before.scopes)
        if not made and not kept:
            self._report.wrong(
                "store",
                self._store.place,
                f"{entry.client_id} is {status} {sorted(_scopes(found))} after {verb} of {before}: {reason}",
            )
        if made:
            self._keys.done(entry.client_id, after)
        else:
            self._keys.undone(entry.client_id)


def _by_library(
    backend: Backend,
    verb: str,
    client_id: str,
    overlap_s: int,
    scopes: frozenset[str],
    chosen: str | None,
) -> str | None:
    try:
        match verb:
            case "create":
                return backend.create(client_id=client_id, scopes=scopes, secret=chosen).secret
            case "rotate":
                return backend.rotate(client_id, overlap_s=overlap_s, secret=chosen).secret
            case "scopes":
                backend.update(client_id, scopes=scopes)
            case _:
                getattr(backend, verb)(client_id)
    except BasicAuthError as exc:
        raise NotSaid(f"{type(exc).__name__}: {exc}") from exc
    return None


def _possible(entry: Entry) -> tuple[str, ...]:
    match entry.state.status:
        case "live":
            return ("rotate", "rotate", "rotate", "scopes", "scopes", "disable", "revoke", "delete")
        case "disabled":
            return ("enable", "enable", "delete")
        case _:
            return ("delete",)


def _sooner(one: tuple[float, float] | None, other: tuple[float, float]) -> tuple[float, float]:
    return other if one is None else (min(one[0], other[0]), min(one[1], other[1]))


def _status(key: Key | None) -> str:
    if key is None:
        return "absent"
    if key.revoked_at is not None:
        return "revoked"
    return "disabled" if key.disabled else "live"


def _scopes(key: Key | None) -> frozenset[str]:
    return frozenset() if key is None else key.scopes
