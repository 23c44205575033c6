"""What must be: the keys as they were changed, the outages as they were made, and what may be answered.

Nothing here asks anybody. All times are of the monotonic clock, which all processes of a machine share.

A change takes time, and meanwhile both states hold. So each key has spans: a state, since when it may be
seen, until when it may. What a request may get follows from the spans that it, and what a cache is allowed to
remember, meet.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import NamedTuple

CACHE_TTL_S = 8.0  # the bound of a revoke whatever happens: no more than that may anybody remember
BOUND_S = 0.25  # the bound while all is well
MARGIN_S = 0.75  # for a machine that is busy with nothing but this
RECOVERY_S = 5.0  # longest from the end of a fault until all is well
_LONGEST_S = 30.0  # no request takes that long
KEPT = 50  # windows of each place: more than any request can meet


@dataclass(frozen=True)
class Secret:
    """One of a key's secrets.

    Attributes:
        text: Itself.
        ends: From when it may be over and from when it must; None: it goes on.
    """

    text: str
    ends: tuple[float, float] | None = None

    def goes_on_at(self, now: float) -> bool:
        return self.ends is None or now < self.ends[1]

    def ending(self, ends: tuple[float, float]) -> Secret:
        """The same, over by then, unless it is sooner."""
        own = self.ends or (math.inf, math.inf)
        return replace(self, ends=(min(own[0], ends[0]), min(own[1], ends[1])))


@dataclass(frozen=True)
class State:
    """A key at a time.

    Attributes:
        status: ``live``, ``disabled``, ``revoked`` or ``absent``.
        secrets: Those that are known.
        scopes: What it may do.
    """

    status: str = "absent"
    secrets: tuple[Secret, ...] = ()
    scopes: frozenset[str] = frozenset()

    def find(self, secret: str) -> Secret | None:
        return next((each for each in self.secrets if each.text == secret), None)

    def outcomes(self, secret: str, sent: float, answered: float) -> set[frozenset[str] | None]:
        """What a request may come to: let in with these scopes, or None: refused."""
        found = self.find(secret)
        if self.status != "live" or found is None:
            return {None}
        outcomes: set[frozenset[str] | None] = set()
        if found.goes_on_at(sent):
            outcomes.add(self.scopes)
        if found.ends is not None and answered >= found.ends[0]:
            outcomes.add(None)
        return outcomes


@dataclass
class _Span:
    state: State
    since: float
    until: float = math.inf


@dataclass
class Entry:
    """One client id, through all that is done to it."""

    client_id: str
    is_password: bool = False  # its secrets are such as people choose
    spans: list[_Span] = field(default_factory=list)

    @property
    def state(self) -> State:
        """As it is, or is about to be."""
        return self.spans[-1].state


class Windows:
    """When something was made to fail, by where: a store, or a server."""

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
        """Whether anything of that kind was going on, or not yet over, in that time."""
        with self._lock:
            return any(
                begin <= until and since <= end + RECOVERY_S
                for place in places
                for begin, end in self._spans.get(place, ())
            )

    def is_quiet(self, place: str, for_s: float = 1.0) -> bool:
        """Whether nothing is failing there, nor was just now."""
        with self._lock:
            spans = self._spans.get(place)
            return not spans or spans[-1][1] + for_s < time.monotonic()


class Verdict(NamedTuple):
    """What may be answered.

    Attributes:
        scopes: Of those who may be let in; empty: nobody.
        refused: Whether a 401 is right.
        outage: Whether a 503 is.
        broken: Whether no whole answer is.
    """

    scopes: set[frozenset[str]]
    refused: bool
    outage: bool
    broken: bool


class Keys:
    """The keys of one store.

    Args:
        place: Name of the store.
        windows: Of all.
    """

    def __init__(self, place: str, windows: Windows) -> None:
        self.place = place
        self._windows = windows
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._gone: deque[tuple[str, str]] = deque(maxlen=300)  # of those that have ended

    # --- what is done to them

    def begin(self, client_id: str, after: State, *, is_password: bool = False) -> None:
        """A change begins: from now on either state may be seen."""
        with self._lock:
            entry = self._entries.setdefault(
                client_id, Entry(client_id, is_password, [_Span(State(), -math.inf)])
            )
            entry.spans.append(_Span(after, time.monotonic()))

    def done(self, client_id: str, after: State) -> None:
        """It was made, and is all that may be seen from now on."""
        with self._lock:
            spans, now = self._entries[client_id].spans, time.monotonic()
            self._gone += [(client_id, text) for text in _lost(spans[-2].state, after)]
            spans[-1].state = after
            spans[-2].until = now
            self._prune(now - CACHE_TTL_S - _LONGEST_S)

    def undone(self, client_id: str) -> None:
        """It was not made, and will not be."""
        with self._lock:
            spans = self._entries[client_id].spans
            before, after = spans[-2:]
            after.until = time.monotonic()
            spans[-2:] = [after, before]

    def _prune(self, oldest: float) -> None:
        """Forget what no request can meet any more."""
        for entry in list(self._entries.values()):
            entry.spans = [span for span in entry.spans if span.until > oldest]
            if len(entry.spans) == 1 and entry.state.status == "absent":
                del self._entries[entry.client_id]

    # --- what is asked

    def all(self) -> list[Entry]:
        """Those that are there, one way or another, and those that were."""
        with self._lock:
            return list(self._entries.values())

    def gone(self) -> list[tuple[str, str]]:
        """Client ids and secrets that have ended, or that had when they were put here."""
        with self._lock:
            return list(self._gone)

    def present(self) -> set[str]:
        with self._lock:
            return {each.client_id for each in self._entries.values() if each.state.status != "absent"}

    def is_quiet(self) -> bool:
        """Whether nothing that was on its way to the store before can reach it any more."""
        return self._windows.is_quiet(self.place)

    def had_outage(self, since: float, until: float, *servers: str) -> bool:
        """Whether the store, or one of these servers, may have been away in that time."""
        return self._windows.meet((self.place, *servers), since, until)

    def allowed(self, server: str, client_id: str, secret: str, sent: float, answered: float) -> Verdict:
        """What a request may get that was sent and answered at these times.

        Args:
            server: Who was asked.
            client_id: Whose; may be unknown.
            secret: May be none of its.
            sent: Just before it was.
            answered: Just after.
        """
        places = (self.place, server)
        outage = self._windows.meet(places, sent, answered)
        scopes: set[frozenset[str]] = set()
        refused = False
        with self._lock:
            entry = self._entries.get(client_id)
            spans = [_Span(State(), -math.inf)] if entry is None else [replace(each) for each in entry.spans]
        for span in spans:
            if span.since > answered:
                continue
            outcomes = span.state.outcomes(secret, sent, answered)
            if span.until < sent:
                if not self._is_remembered(span.until, sent, places):
                    continue
                # Equal requests share a verdict, so this one may have that of an earlier one; but nobody was
                # refused with a secret that nobody knew.
                if span.state.find(secret) is None:
                    outcomes.discard(None)
            refused |= None in outcomes
            scopes |= outcomes - {None}  # type: ignore[arg-type]
        return Verdict(scopes, refused, outage, self._windows.meet((server,), sent, answered))

    def lag_s(self, client_id: str, secret: str, scopes: frozenset[str], sent: float) -> float:
        """How long before a request was sent this answer had been overtaken; 0: it had not been."""
        with self._lock:
            entry = self._entries.get(client_id)
            spans = entry.spans if entry else []
            untils = [span.until for span in spans if scopes in span.state.outcomes(secret, sent, sent)]
        return max(0.0, sent - max(untils, default=sent))

    def tell(self, client_id: str, secret: str, sent: float) -> str:
        """What is known of a key, for people: times are seconds from when it was asked for."""
        with self._lock:
            entry = self._entries.get(client_id)
            spans = entry.spans if entry else []
            return "; ".join(
                f"{span.since - sent:+.3f} to {span.until - sent:+.3f} {span.state.status} "
                f"{sorted(span.state.scopes)} {_place(span.state, secret, sent)}"
                for span in spans
            )

    def _is_remembered(self, until: float, sent: float, places: tuple[str, ...]) -> bool:
        """Whether a process may still go by what was over by then."""
        if sent <= until + BOUND_S + MARGIN_S:
            return True
        return sent <= until + CACHE_TTL_S and self._windows.meet(places, until, sent)


def _lost(before: State, after: State) -> list[str]:
    """The secrets that a change has ended."""
    kept = {secret.text for secret in after.secrets} if after.status == "live" else set()
    return [secret.text for secret in before.secrets if secret.text not in kept]


def _place(state: State, secret: str, sent: float) -> str:
    """Which of its secrets it is, and when that ends."""
    for place, each in enumerate(state.secrets, 1):
        if each.text == secret:
            ends = (
                ""
                if each.ends is None
                else f", ends {each.ends[0] - sent:+.3f} to {each.ends[1] - sent:+.3f}"
            )
            return f"secret {place} of {len(state.secrets)}{ends}"
    return f"none of its {len(state.secrets)} secrets"
