"""Changes keys of a store continuously, with the library and the command line, and updates the model."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from basicauth_mw import Settings, open_backend
from basicauth_mw.errors import BasicAuthError
from tests.soak.model import Entry, Secret, State
from tests.soak.parts import Part
from tests.soak.proxy import ROOT
from tests.waiting import wait_until

if TYPE_CHECKING:
    import random

    from basicauth_mw import Backend, Key
    from tests.soak.report import Report
    from tests.soak.sites import Store

KEYS = {"library": 50, "command line": 6}  # about how many keys each has
PASSWORDS = 2  # how many of them have passwords
PAUSE_S = 0.01
KILL_SHARE = 0.2
EXPORT_SHARE = 0.05
LIMIT_S = 60.0
ARRIVED_S = 0.5  # after that, everything that a dead process has sent has arrived
COMMAND = (sys.executable, "-m", "basicauth_mw")


class NotSaid(Exception):
    """A command did not report that the change was made."""


@dataclass(frozen=True)
class Change:
    """One change of one key.

    Attributes:
        verb: The method of the library; ``update`` changes the scopes.
        client_id: ID of the key.
        before: State of the key before the change.
        overlap_s: For ``rotate``.
        scopes: For ``create`` and ``update``.
        password: A password for ``create`` and ``rotate``; None: a secret is generated.
        began: When it began, on the monotonic clock.
        began_at: When it began, in seconds since the epoch.
    """

    verb: str
    client_id: str
    before: State
    overlap_s: int
    scopes: frozenset[str]
    password: str | None
    began: float
    began_at: float

    def after(self, secret: str | None, until: float) -> State:
        """The state of the key after the change.

        Args:
            secret: The new secret, if it is known.
            until: The latest time at which the change was made.
        """
        new = () if secret is None else (Secret(secret),)
        match self.verb:
            case "create":
                return State("live", new, self.scopes)
            case "rotate":
                ends = (self.began + self.overlap_s, until + self.overlap_s)
                old = live(self.before) if self.overlap_s else ()
                return replace(self.before, secrets=(*(each.ending(ends) for each in old), *new))
            case "update":
                return replace(self.before, scopes=self.scopes)
            case "delete":
                return State()
        status = {"disable": "disabled", "enable": "live", "revoke": "revoked"}[self.verb]
        return replace(self.before, status=status)

    def make(self, backend: Backend) -> str | None:
        """Make the change, and return the new secret if there is one."""
        match self.verb:
            case "create":
                return backend.create(
                    client_id=self.client_id, scopes=self.scopes, secret=self.password
                ).secret
            case "rotate":
                return backend.rotate(self.client_id, overlap_s=self.overlap_s, secret=self.password).secret
            case "update":
                backend.update(self.client_id, scopes=self.scopes)
            case _:
                getattr(backend, self.verb)(self.client_id)
        return None

    def words(self) -> list[str]:
        """The arguments of the command line for the change."""
        scopes = [word for scope in sorted(self.scopes) for word in ("--scope", scope)]
        stdin = [] if self.password is None else ["--secret-stdin"]
        match self.verb:
            case "create":
                return ["create", "--client-id", self.client_id, *scopes, *stdin]
            case "rotate":
                overlap = f"{self.overlap_s}s" if self.overlap_s else "0"
                return ["rotate", self.client_id, "--overlap", overlap, *stdin]
            case "update":
                return ["update", self.client_id, *(scopes or ["--no-scopes"])]
        return [self.verb, self.client_id]

    def is_made(self, found: Key | None) -> bool:
        """Whether the stored key is in the state after the change."""
        if self.verb == "rotate" and found is not None:
            return max(each.created_at.timestamp() for each in found.secrets) >= self.began_at
        return is_like(found, self.after(None, 0))


class Changer(Part):
    """Changes its own keys in a store that is shared with other changers.

    Args:
        store: The store.
        report: Gets counts and problems.
        rng: Source of randomness.
        by: ``library`` or ``command line``.

    Attributes:
        place: The name of the store.
        pause: A lock that prevents changes.
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

    # --- choosing a change

    def _change(self, backend: Backend, direct: Backend) -> None:
        mine = [each for each in self._keys.all() if each.client_id.startswith(self._prefix)]
        entries = [each for each in mine if each.state.status != "absent"]
        if len(entries) < KEYS[self._by] * self._rng.uniform(0.5, 1):
            is_password = sum(each.is_password for each in entries) < PASSWORDS and self._rng.random() < 0.1
            gone = [each.client_id for each in mine if each.state.status == "absent"]
            entry, verb = self._new(is_password, gone), "create"
        elif self._by != "library" and self._rng.random() < EXPORT_SHARE:
            self._export()
            return
        else:
            entry = self._rng.choice(entries)
            verb = self._rng.choice(_possible(entry))
        self._make(backend, direct, entry, verb)

    def _new(self, is_password: bool, gone: list[str]) -> Entry:
        """A new ID, or the ID of a deleted key."""
        self._made += 1
        again = bool(gone) and self._rng.random() < 0.3 and not is_password
        client_id = self._rng.choice(gone) if again else f"{self._prefix}{self._made}"
        return Entry(client_id, is_password)

    # --- making a change

    def _make(self, backend: Backend, direct: Backend, entry: Entry, verb: str) -> None:
        rng, now = self._rng, time.monotonic()
        before = State() if verb == "create" else entry.state
        gets_password = entry.is_password and verb in ("create", "rotate")
        change = Change(
            verb,
            entry.client_id,
            before,
            overlap_s=0 if entry.is_password or len(live(before)) > 3 else rng.choice((0, 1, 2, 3)),
            scopes=frozenset(f"s{rng.randrange(100)}" for _ in range(rng.randrange(3))),
            password=f"password-{rng.randrange(10**9)}" if gets_password else None,
            began=now,
            began_at=time.time(),
        )
        kills = self._by != "library" and rng.random() < KILL_SHARE
        what = f"{verb}, killed {self._by}" if kills else f"{verb}, {self._by}"
        # Without the new secret, since clients must not use it before it is known to work.
        self._keys.begin(change.client_id, change.after(None, now + LIMIT_S), is_password=entry.is_password)
        try:
            secret = change.make(backend) if self._by == "library" else self._command(change, kills)
        except (BasicAuthError, NotSaid) as exc:
            self._report.count("changes", f"{what}: unknown outcome")
            reason = f"{what} of {before}: {type(exc).__name__}: {exc}"
            if not kills and not self._keys.had_outage(now, time.monotonic()):
                self._report.wrong("changes", self.place, reason)
            self._settle(direct, change, reason)
        else:
            self._report.count("changes", what)
            self._keys.done(change.client_id, change.after(secret, time.monotonic()))

    def _command(self, change: Change, kills: bool) -> str | None:
        with self._start_command("keys", *change.words(), "--json") as process:
            secret = (change.password or "").encode()
            try:
                out, err = process.communicate(secret, self._rng.uniform(0, 2) if kills else LIMIT_S)
            except subprocess.TimeoutExpired:
                if not kills:
                    raise
                self._report.count("faults", "kill -9 of a command line")
                process.kill()  # usually in the middle of the change
                out, err = process.communicate()
        if process.returncode:
            raise NotSaid(err.decode().strip())
        said: str | None = json.loads(out).get("secret")
        return said

    def _export(self) -> None:
        began = time.monotonic()
        with self._start_command("keys", "export") as process:
            out, err = process.communicate(timeout=LIMIT_S)
        if process.returncode:
            self._report.count("changes", "export: refused")
            if not self._keys.had_outage(began, time.monotonic()):
                self._report.wrong("export", self.place, err.decode())
            return
        self._report.count("changes", "export")
        ids = {json.loads(line)["client_id"] for line in out.splitlines()}
        others = {each for each in ids ^ self._keys.present() if each.startswith(self._prefix)}
        if others:
            self._report.wrong("export", self.place, f"only in the store or only in the model: {others}")

    def _start_command(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*COMMAND, *words],
            cwd=ROOT,
            env=self._store.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    # --- unknown outcomes

    def _settle(self, direct: Backend, change: Change, reason: str) -> None:
        """Read the key to see whether a change was made, once no earlier command can still be running."""
        time.sleep(ARRIVED_S)
        wait_until(self._keys.is_quiet)
        found = direct.get(change.client_id)
        if change.is_made(found):
            self._keys.done(change.client_id, change.after(change.password, time.monotonic()))
            return
        if not is_like(found, change.before):
            self._report.wrong("store", self.place, f"a change is half made, the key is {found}: {reason}")
        self._keys.undone(change.client_id)


def live(state: State) -> tuple[Secret, ...]:
    """The secrets that are active now."""
    return tuple(each for each in state.secrets if each.goes_on_at(time.monotonic()))


def is_like(found: Key | None, state: State) -> bool:
    if found is None:
        return state.status == "absent"
    status = "disabled" if found.disabled else "live"
    return ("revoked" if found.revoked_at else status, found.scopes) == (state.status, state.scopes)


def _possible(entry: Entry) -> tuple[str, ...]:
    match entry.state.status:
        case "live":
            return ("rotate", "rotate", "rotate", "update", "update", "disable", "revoke", "delete")
        case "disabled":
            return ("enable", "enable", "delete")
        case _:
            return ("delete",)
