"""A model of the keys and their changes, of the faults, and of the responses that are correct.

It makes no calls to a store or a server. All times are from the monotonic clock, which all processes of a
machine share.

A change takes time, and until it is complete both states are correct. So each key has spans: a state, and the
times from which and until which a server may see it. The responses that a request may get follow from the
spans that overlap with it, or with the time that a cache may keep a verification.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import NamedTuple

CACHE_TTL_S = 8.0  # the limit of a revocation in any case
BOUND_S = 0.25  # the limit of a revocation without faults
MARGIN_S = 0.75  # added because the machine is fully loaded
RECOVERY_S = 5.0  # maximum time to recover from a fault
_LONGEST_S = 30.0  # no request takes that long
KEPT = 50  # faults of each place: more than can overlap with a request


@dataclass(frozen=True)
class Secret:
    """One of a key's secrets.

    Attributes:
        text: The secret.
        ends: When it may end, and when it must have ended; None: it does not end.
    """

    text: str
    ends: tuple[float, float] | None = None

    def goes_on_at(self, now: float) -> bool:
        return self.ends is None or now < self.ends[1]

    def ending(self, ends: tuple[float, float]) -> Secret:
        """The secret with this end, unless it ends earlier."""
        own = self.ends or (math.inf, math.inf)
        return replace(self, ends=(min(own[0], ends[0]), min(own[1], ends[1])))


@dataclass(frozen=True)
class State:
    """A key at a time.

    Attributes:
        status: ``live``, ``disabled``, ``revoked`` or ``absent``.
        secrets: Its known secrets.
        scopes: Its scopes.
    """

    status: str = "absent"
    secrets: tuple[Secret, ...] = ()
    scopes: frozenset[str] = frozenset()

    def find(self, secret: str) -> Secret | None:
        return next((each for each in self.secrets if each.text == secret), None)

    def outcomes(self, secret: str, sent: float, received: float) -> set[frozenset[str] | None]:
        """The possible outcomes of a request: allowed with these scopes, or None for refused."""
        found = self.find(secret)
        if self.status != "live" or found is None:
            return {None}
        outcomes: set[frozenset[str] | None] = set()
        if found.goes_on_at(sent):
            outcomes.add(self.scopes)
        if found.ends is not None and received >= found.ends[0]:
            outcomes.add(None)
        return outcomes


@dataclass
class _Span:
    state: State
    since: float
    until: float = math.inf


@dataclass
class Entry:
    """One client ID with its history."""

    client_id: str
    is_password: bool = False  # its secrets are passwords
    spans: list[_Span] = field(default_factory=list)

    @property
    def state(self) -> State:
        """The current state, or the one that a change in progress leads to."""
        return self.spans[-1].state


class Windows:
    """The times of the faults of each place: a store or a server."""

    def __init__(self) -> None:
        self._spans: dict[str, deque[list[float]]] = {}
        self._lock = threading.Lock()

    def open(self, place: str) -> None:
        with self._lock:
            self._spans.setdefault(place, deque(maxlen=KEPT)).append([time.monotonic(), math.inf])

    def close(self, place: str) -> None:
        with self._lock:
            self._spans[place][-1][1] = time.monotonic()

    def meet(self, places: tuple[str, ...], since: float, until: float) -> bool:
        """Whether there was a fault, or the recovery from one, in that time."""
        with self._lock:
            return any(
                begin <= until and since <= end + RECOVERY_S
                for place in places
                for begin, end in self._spans.get(place, ())
            )

    def is_quiet(self, place: str, for_s: float = 1.0) -> bool:
        """Whether there is no fault, and was none in the last seconds."""
        with self._lock:
            spans = self._spans.get(place)
            return not spans or spans[-1][1] + for_s < time.monotonic()


class Verdict(NamedTuple):
    """The responses that are correct for a request.

    Attributes:
        scopes: The scopes with which it may be allowed; empty: it must not be allowed.
        refused: Whether a 401 is correct.
        outage: Whether a 503 is correct.
        broken: Whether an incomplete response is correct.
    """

    scopes: set[frozenset[str]]
    refused: bool
    outage: bool
    broken: bool


class Keys:
    """The keys of one store.

    Args:
        place: Name of the store.
        windows: The faults of all places.
    """

    def __init__(self, place: str, windows: Windows) -> None:
        self.place = place
        self._windows = windows
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._gone: deque[tuple[str, str]] = deque(maxlen=300)  # inactive keys

    # --- changes

    def begin(self, client_id: str, after: State, *, is_password: bool = False) -> None:
        """Record the start of a change: from now on both states are correct."""
        with self._lock:
            entry = self._entries.setdefault(
                client_id, Entry(client_id, is_password, [_Span(State(), -math.inf)])
            )
            entry.spans.append(_Span(after, time.monotonic()))

    def done(self, client_id: str, after: State) -> None:
        """Record that the change was made: from now on only the new state is correct."""
        with self._lock:
            spans, now = self._entries[client_id].spans, time.monotonic()
            self._gone += [(client_id, text) for text in _lost(spans[-2].state, after)]
            spans[-1].state = after
            spans[-2].until = now
            self._prune(now - CACHE_TTL_S - _LONGEST_S)

    def undone(self, client_id: str) -> None:
        """Record that the change was not made, and will not be."""
        with self._lock:
            spans = self._entries[client_id].spans
            before, after = spans[-2:]
            after.until = time.monotonic()
            spans[-2:] = [after, before]

    def _prune(self, oldest: float) -> None:
        """Drop spans that no request can overlap with any more."""
        for entry in list(self._entries.values()):
            entry.spans = [span for span in entry.spans if span.until > oldest]
            if len(entry.spans) == 1 and entry.state.status == "absent":
                del self._entries[entry.client_id]

    # --- queries

    def all(self) -> list[Entry]:
        """All entries, those of deleted keys included."""
        with self._lock:
            return list(self._entries.values())

    def gone(self) -> list[tuple[str, str]]:
        """Client IDs and secrets that have become inactive."""
        with self._lock:
            return list(self._gone)

    def present(self) -> set[str]:
        with self._lock:
            return {each.client_id for each in self._entries.values() if each.state.status != "absent"}

    def is_quiet(self) -> bool:
        """Whether no earlier command can still be running."""
        return self._windows.is_quiet(self.place)

    def had_outage(self, since: float, until: float, *servers: str) -> bool:
        """Whether the store, or one of these servers, may have had a fault in that time."""
        return self._windows.meet((self.place, *servers), since, until)

    def allowed(self, server: str, client_id: str, secret: str, sent: float, received: float) -> Verdict:
        """The correct responses for a request.

        Args:
            server: The server.
            client_id: The client ID, which may be unknown.
            secret: The secret, which may be wrong.
            sent: When the request was sent.
            received: When the response was received.
        """
        places = (self.place, server)
        outage = self._windows.meet(places, sent, received)
        scopes: set[frozenset[str]] = set()
        refused = False
        with self._lock:
            entry = self._entries.get(client_id)
            spans = [_Span(State(), -math.inf)] if entry is None else [replace(each) for each in entry.spans]
        for span in spans:
            if span.since > received:
                continue
            outcomes = span.state.outcomes(secret, sent, received)
            if span.until < sent:
                if not self._is_remembered(span.until, sent, places):
                    continue
                # Identical requests in progress share a verdict, so this one may have that of an earlier one.
                # But no earlier request can have been refused with a secret that did not exist.
                if span.state.find(secret) is None:
                    outcomes.discard(None)
            refused |= None in outcomes
            scopes |= outcomes - {None}  # type: ignore[arg-type]
        return Verdict(scopes, refused, outage, self._windows.meet((server,), sent, received))

    def lag_s(self, client_id: str, secret: str, scopes: frozenset[str], sent: float) -> float:
        """How long an outcome had been outdated when the request was sent; 0: it was current."""
        with self._lock:
            entry = self._entries.get(client_id)
            spans = entry.spans if entry else []
            untils = [span.until for span in spans if scopes in span.state.outcomes(secret, sent, sent)]
        return max(0.0, sent - max(untils, default=sent))

    def describe(self, client_id: str, secret: str, sent: float) -> str:
        """The history of a key, for a message; times are seconds relative to the request."""
        with self._lock:
            entry = self._entries.get(client_id)
            spans = entry.spans if entry else []
            return "; ".join(
                f"{span.since - sent:+.3f} to {span.until - sent:+.3f} {span.state.status} "
                f"{sorted(span.state.scopes)} {_place(span.state, secret, sent)}"
                for span in spans
            )

    def _is_remembered(self, until: float, sent: float, places: tuple[str, ...]) -> bool:
        """Whether a process may still use a state that ended at ``until``."""
        if sent <= until + BOUND_S + MARGIN_S:
            return True
        return sent <= until + CACHE_TTL_S and self._windows.meet(places, until, sent)


def _lost(before: State, after: State) -> list[str]:
    """The secrets that a change makes inactive."""
    kept = {secret.text for secret in after.secrets} if after.status == "live" else set()
    return [secret.text for secret in before.secrets if secret.text not in kept]


def _place(state: State, secret: str, sent: float) -> str:
    """Which of the key's secrets it is, and when that ends."""
    for place, each in enumerate(state.secrets, 1):
        if each.text == secret:
            ends = (
                ""
                if each.ends is None
                else f", ends {each.ends[0] - sent:+.3f} to {each.ends[1] - sent:+.3f}"
            )
            return f"secret {place} of {len(state.secrets)}{ends}"
    return f"none of its {len(state.secrets)} secrets"
