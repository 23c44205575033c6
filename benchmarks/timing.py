"""Does the time of a refusal reveal its reason?

Whole ASGI requests in this process, in pairs: one of each of two kinds, in random order. The figure is the
median of the differences within the pairs, with its 99 % confidence interval. It must be within 2 us, and
within 1 % of the cost of a request; with a password hash, or for many requests at once, only the latter. The
controls are planted faults, which must be found, and pairs of one kind, in which nothing must be found. If a
control fails, the run is void.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from math import sqrt
from pathlib import Path
from statistics import NormalDist, median
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any
from unittest import mock

from report import Goal, Outcome, Table, main

from basicauth_mw import Settings, encode_basic, open_backend
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.backends import passwords
from basicauth_mw.keys.generated_secrets import ALPHABET, CHECKSUM_DIGITS, generate
from basicauth_mw.keys.hashing import Hasher
from basicauth_mw.keys.model import Key, utcnow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from basicauth_mw import Backend

CONFIDENCE = 0.99
LIMIT_US = 2.0
LIMIT_SHARE = 0.01
AT_ONCE = 50
CLIENTS = 64  # of each kind, so that a figure does not depend on one record
NEVER_S = 86_400.0

Fields = list[bytes]


# --- requests


class Keys:
    """A store with keys of every kind, and header values that are refused.

    Args:
        url: The URL of the store.
        passwords: Whether the secrets are passwords, so that each verification computes a password hash.
        clients: Number of keys of each kind.
    """

    def __init__(self, url: str, *, passwords: bool = False, clients: int = CLIENTS) -> None:
        self.backend = open_backend(url, settings=Settings(), create=True)
        self._passwords = passwords
        self._clients = clients
        # Only two kinds with passwords, since each takes a password hash to create.
        self._secrets = {kind: [self._secret() for _ in range(clients)] for kind in ("live", "revoked")}
        if not passwords:
            self._secrets |= {
                kind: [self._secret() for _ in range(clients)] for kind in ("expired", "disabled", "big")
            }
        for kind, secrets in self._secrets.items():
            for number, secret in enumerate(secrets):
                self._make(kind, self._id(kind, number), secret)

    @staticmethod
    def _id(kind: str, number: int) -> str:
        return f"{kind:->12}-{number:03}"  # all have one length

    def _secret(self) -> str:
        return random.randbytes(12).hex() if self._passwords else generate("sk")

    def _make(self, kind: str, client_id: str, secret: str) -> None:
        backend = self.backend
        metadata = {"note": "x" * 4000} if kind == "big" else None
        backend.create(client_id=client_id, secret=secret, name="n", metadata=metadata)
        match kind:
            case "revoked":
                backend.revoke(client_id)
            case "disabled":
                backend.disable(client_id)
            case "expired":
                key: Key = backend.store.get(client_id)
                ended = replace(key, expires_at=utcnow() - timedelta(days=1), version=key.version + 1)
                if not backend.store.put(ended, key.version):
                    raise RuntimeError("the key did not expire")
            case "big":
                for _ in range(7):
                    backend.rotate(client_id, overlap_s=NEVER_S)

    def _fields(self, make: Callable[[int], tuple[str, str]], many: int = 4) -> Fields:
        numbers = [number for number in range(self._clients) for _ in range(many)]
        return [encode_basic(*make(number)).encode() for number in numbers]

    def unknown(self) -> Fields:
        return self._fields(lambda number: (self._id("unknown", number), self._secret()))

    def wrong(self, kind: str = "live") -> Fields:
        return self._fields(lambda number: (self._id(kind, number), self._secret()))

    def right(self, kind: str) -> Fields:
        """The right secrets of keys that are no longer active."""
        return self._fields(lambda number: (self._id(kind, number), self._secrets[kind][number]), 1)

    def wrong_at(self, *, last: bool) -> Fields:
        """The right secrets except for the first or last secret character."""

        def make(number: int) -> tuple[str, str]:
            secret = self._secrets["live"][number]
            if self._passwords:
                at = len(secret) - 1 if last else 0
                return self._id("live", number), secret[:at] + other("0123456789abcdef", secret[at]) + secret[
                    at + 1 :
                ]
            begin = secret.index("_") + 1
            at = len(secret) - CHECKSUM_DIGITS - 1 if last else begin
            body = secret[:at] + other(ALPHABET[:7], secret[at]) + secret[at + 1 : -CHECKSUM_DIGITS]
            return self._id("live", number), body + checksum(body)

        return self._fields(make)

    def lengths(self, length: int) -> Fields:
        """Wrong passwords of one length."""
        return self._fields(lambda number: (self._id("live", number), random.randbytes(32).hex()[-length:]))

    def good(self) -> Fields:
        return self._fields(lambda number: (self._id("live", number), self._secrets["live"][number]), 1)


def other(alphabet: str, character: str) -> str:
    return random.choice(alphabet.replace(character, ""))


def checksum(body: str) -> str:
    from basicauth_mw.keys.generated_secrets import _checksum

    return _checksum(body.encode("ascii"))


class Timed:
    """A middleware over a store, and how long its responses take."""

    def __init__(self, backend: Backend, **settings: Any) -> None:
        self.app = BasicAuthMiddleware(app, backend, settings=Settings(**{"throttle": "", **settings}))

    async def send(self, field: bytes) -> int:
        """Send a request; return nanoseconds. The scope is created before the clock starts."""
        scope = scope_of(field)
        begin = perf_counter_ns()
        await self.app(scope, receive, drop)
        return perf_counter_ns() - begin

    async def send_many(self, field: bytes) -> int:
        """Send many requests at once; return nanoseconds until the last response."""
        scopes = [scope_of(field) for _ in range(AT_ONCE)]
        begin = perf_counter_ns()
        await asyncio.gather(*(self.app(scope, receive, drop) for scope in scopes))
        return perf_counter_ns() - begin


def scope_of(field: bytes) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "scheme": "http",
        "client": ("127.0.0.1", 50000),
        "headers": [(b"host", b"127.0.0.1:8000"), (b"authorization", field), (b"accept", b"*/*")],
    }


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def receive() -> Any:
    raise RuntimeError("the body is not read")


async def drop(message: Any) -> None:
    pass


# --- results


@dataclass
class Pair:
    """Two kinds of requests.

    Attributes:
        what: Their names.
        these: Header values of the first kind.
        those: Header values of the second kind.
        site: The middleware.
        other_site: The middleware for the second kind, if it is another one.
        many: Whether ``AT_ONCE`` are sent at the same time.
        known: Whether the client knows which kind it sends, so that only the absolute limit counts.
    """

    what: str
    these: Fields
    those: Fields
    site: Timed
    other_site: Timed | None = None
    many: bool = False
    known: bool = False


@dataclass
class Finding:
    """The result of a pair.

    Attributes:
        what: The names of the kinds.
        pairs: Number of pairs.
        cost_us: Median time of the second kind.
        low_us: Lower end of the confidence interval.
        middle_us: Median of the differences.
        high_us: Upper end of the confidence interval.
        limits_us: The absolute limit, and the one relative to the cost; None if one does not apply.
    """

    what: str
    pairs: int
    cost_us: float
    low_us: float
    middle_us: float
    high_us: float
    limits_us: tuple[float | None, float | None]

    def within(self, limit_us: float | None) -> bool | None:
        """Whether the difference is within a limit; None if the interval is too wide to say."""
        if limit_us is None:
            return None
        if -limit_us <= self.low_us and self.high_us <= limit_us:
            return True
        return False if self.low_us > limit_us or self.high_us < -limit_us else None

    @property
    def holds(self) -> bool | None:
        """Whether it is within all limits; None if the intervals are too wide to say."""
        verdicts = {self.within(limit) for limit in self.limits_us if limit is not None}
        return False if False in verdicts else None if None in verdicts else True

    @property
    def interval(self) -> str:
        return f"{self.middle_us:+.3f} ({self.low_us:+.3f}..{self.high_us:+.3f})"

    @property
    def share(self) -> float:
        return self.middle_us / self.cost_us

    def row(self) -> list[str]:
        words = {True: "yes", False: "NO", None: "unclear"}
        verdicts = ["" if limit is None else words[self.within(limit)] for limit in self.limits_us]
        return [
            self.what,
            f"{self.pairs:,}",
            f"{self.cost_us:,.1f}",
            self.interval,
            f"{self.share:+.2%}",
            *verdicts,
        ]


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """The median and its confidence interval, by the percentile bootstrap.

    The bootstrap of a median needs no resampling: the median of a resample is at most the k-th smallest
    figure if at least half of its draws are, which is binomially distributed, so for many figures normally.
    """
    ordered, count = sorted(differences), len(differences)
    half = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * sqrt(count) / 2
    low, high = max(0, int(count / 2 - half)), min(count - 1, int(count / 2 + half) + 1)
    return ordered[low], median(ordered), ordered[high]


async def compare(pair: Pair, pairs: int, *, slow: bool = False) -> Finding:
    """Send pairs, each in random order, and compare the times."""
    rng = random.Random(os.urandom(8))
    first, second = pair.site, pair.other_site or pair.site
    send_first, send_second = (first.send_many, second.send_many) if pair.many else (first.send, second.send)
    differences, costs = [], []
    warm_up = min(pairs, 10 if slow or pair.many else 1000)
    gc.collect()
    gc.disable()
    try:
        for number in range(-warm_up, pairs):
            this, that = rng.choice(pair.these), rng.choice(pair.those)
            if rng.random() < 0.5:
                here, there = await send_first(this), await send_second(that)
            else:
                there = await send_second(that)
                here = await send_first(this)
            if number >= 0:
                differences.append((here - there) / 1e3)
                costs.append(there / 1e3)
            if not number % 2000:
                gc.collect(0)
    finally:
        gc.enable()
    low, middle, high = interval(differences)
    cost = median(costs)
    limits = (
        None if slow or pair.many else LIMIT_US,
        None if pair.known else LIMIT_SHARE * cost,
    )
    return Finding(pair.what, pairs, cost, low, middle, high, limits)


# --- planted faults


class EarlyReturn(Hasher):
    """Computes no digest for an unknown ID."""

    def verify_digest(self, secret: str, candidates: Any, **shape: Any) -> Any:
        return (
            None if candidates is self.decoy_secrets else super().verify_digest(secret, candidates, **shape)
        )


class CheapDecoy(Hasher):
    """Computes a digest for an unknown ID, but compares it with nothing."""

    def verify_digest(self, secret: str, candidates: Any, **shape: Any) -> Any:
        if candidates is not self.decoy_secrets:
            return super().verify_digest(secret, candidates, **shape)
        self._blake2b(secret.encode(), next(reversed(self._peppers)), "A" * 16)
        return None


def cheap_decoy() -> str:
    """A dummy password hash with half the cost."""
    from argon2 import PasswordHasher

    from basicauth_mw.keys.hashing import ARGON2_LANES, ARGON2_MEMORY_KIB, ARGON2_TIME_COST

    return PasswordHasher(ARGON2_TIME_COST // 2, ARGON2_MEMORY_KIB, ARGON2_LANES).hash("dummy")


def planted(keys: Keys, kind: type[Hasher]) -> Timed:
    """A middleware over the same keys, with a fault."""
    real = keys.backend.hasher
    with mock.patch.object(keys.backend, "hasher", kind()) as faulty:
        faulty.__dict__.update(real.__dict__)
        return Timed(keys.backend)


# --- the run


async def find(quick: bool, stack: ExitStack) -> Outcome:
    many = 8_000 if quick else 30_000
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="basicauth-bench-")))
    outcome = Outcome()
    controls: list[tuple[Finding, bool]] = []
    findings: list[tuple[str, list[Finding]]] = []

    for name, url, pairs in (
        ("memory", "memory:", many),
        ("SQLite", f"sqlite:///{directory}/generated.db", many // 4),
    ):
        keys = Keys(url)
        stack.callback(keys.backend.close)
        found = [await compare(pair, pairs) for pair in await alone(keys)]
        found += [await compare(pair, max(200, pairs // 100)) for pair in together(keys)]
        findings.append((f"{name}, generated secrets", found))
        controls += [
            (await compare(same(keys), pairs), False),
            (await compare(fault(keys, "planted early return", EarlyReturn), pairs), True),
            (await compare(fault(keys, "planted cheap decoy", CheapDecoy), pairs), True),
        ]

    keys = Keys(f"sqlite:///{directory}/passwords.db", passwords=True, clients=8)
    stack.callback(keys.backend.close)
    pairs = 40 if quick else 300
    site = Timed(keys.backend)
    slow = [
        Pair("unknown / wrong secret", keys.unknown(), keys.wrong(), site),
        Pair("wrong first / wrong last character", keys.wrong_at(last=False), keys.wrong_at(last=True), site),
        Pair("revoked / unknown", keys.right("revoked"), keys.unknown(), site),
        Pair("1 / 24 characters", keys.lengths(1), keys.lengths(24), site),
    ]
    found = [await compare(pair, pairs, slow=True) for pair in slow]
    crowd = Pair(f"unknown / wrong secret, {AT_ONCE} at once", keys.unknown(), keys.wrong(), site, many=True)
    found.append(await compare(crowd, pairs, slow=True))
    findings.append(("SQLite, passwords (Argon2id)", found))
    control = Pair("same kind twice", keys.unknown(), keys.unknown(), site)
    controls.append((await compare(control, pairs, slow=True), False))
    decoy = cheap_decoy()
    with mock.patch.object(passwords, "dummy_password_hash", return_value=decoy):
        control = Pair("planted cheap decoy", keys.unknown(), keys.wrong(), site)
        controls.append((await compare(control, pairs, slow=True), True))
    decoy, check = passwords.dummy_password_hash(), passwords.verify_password
    with mock.patch.object(
        passwords, "verify_password", lambda secret, stored: stored != decoy and check(secret, stored)
    ):
        control = Pair("planted early return", keys.unknown(), keys.wrong(), site)
        controls.append((await compare(control, pairs, slow=True), True))

    return judged(outcome, findings, controls)


async def alone(keys: Keys) -> list[Pair]:
    """One request after the other."""
    site, warm = Timed(keys.backend), Timed(keys.backend)
    for field in keys.good():
        await warm.send(field)  # fills its cache
    unknown, wrong = keys.unknown(), keys.wrong()
    return [
        Pair("unknown / wrong secret", unknown, wrong, site),
        Pair("wrong first / wrong last character", keys.wrong_at(last=False), keys.wrong_at(last=True), site),
        Pair("revoked / unknown", keys.right("revoked"), unknown, site),
        Pair("expired / unknown", keys.right("expired"), unknown, site),
        Pair("disabled / unknown", keys.right("disabled"), unknown, site),
        Pair("wrong, nothing cached / its key cached", wrong, wrong, site, warm),
        Pair("smallest / biggest record", wrong, keys.wrong("big"), site),
        Pair("password of 1 / 64 characters", keys.lengths(1), keys.lengths(64), site, known=True),
    ]


def together(keys: Keys) -> list[Pair]:
    site = Timed(keys.backend)
    return [
        Pair(f"unknown / wrong secret, {AT_ONCE} at once", keys.unknown(), keys.wrong(), site, many=True),
        Pair(f"revoked / unknown, {AT_ONCE} at once", keys.right("revoked"), keys.unknown(), site, many=True),
    ]


def same(keys: Keys) -> Pair:
    return Pair("same kind twice", keys.unknown(), keys.unknown(), Timed(keys.backend))


def fault(keys: Keys, what: str, kind: type[Hasher]) -> Pair:
    return Pair(what, keys.unknown(), keys.wrong(), planted(keys, kind))


def judged(
    outcome: Outcome, findings: list[tuple[str, list[Finding]]], controls: list[tuple[Finding, bool]]
) -> Outcome:
    """The tables, and a goal for each store; void if a control failed."""
    works = all((finding.holds is False) == wanted for finding, wanted in controls)
    columns = ["pair", "pairs", "cost, us", "median difference, us (99 %)", "of the cost"]
    for title, found in findings:
        rows = [finding.row() for finding in found]
        outcome.tables.append(Table(title, [*columns, f"within {LIMIT_US:g} us", "within 1 %"], rows))
        bad = [finding for finding in found if finding.holds is False]
        vague = [finding for finding in found if finding.holds is None]
        holds = None if not works else False if bad else None if vague else True
        worst = max(found, key=lambda finding: abs(finding.share))
        reason = "; ".join(
            f"{finding.what}: {finding.middle_us:+.2f} us, {finding.share:+.1%}" for finding in bad
        )
        if not works:
            reason = "a control failed: this run is void"
        elif vague and not bad:
            reason = f"too few pairs, or too noisy: {', '.join(finding.what for finding in vague)}"
        measured = f"worst: {worst.what}, {worst.interval} us"
        goal = f"within {LIMIT_US:g} us and 1 %"
        outcome.goals.append(Goal("timing", f"time of a refusal, {title}", measured, goal, holds, reason))
    shown = [
        [*finding.row()[:5], "yes" if finding.holds is False else "no", "yes" if wanted else "no"]
        for finding, wanted in controls
    ]
    note = "" if works else "A control failed: this run is void, whatever the tables above show."
    title = "Controls: planted faults must be found, and nothing in equal pairs"
    outcome.tables.append(Table(title, [*columns, "found", "must be"], shown, note))
    return outcome


def measured(quick: bool) -> Outcome:
    with ExitStack() as stack, asyncio.Runner() as runner:
        return runner.run(find(quick, stack))


if __name__ == "__main__":
    main(measured, __doc__)
