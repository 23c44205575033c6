"""What pages show of keys, and never a hash; one page of their list, unreadable ones included."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

from ..errors import UnreadableRecord
from ..keys import lifecycle
from .requests import encode_query

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime, timedelta

    from starlette.datastructures import QueryParams

    from ..backends.backend import Backend
    from ..keys.model import Key

ROWS: Final = 25
# A trail of this length fits into any server's limit for an address; with minted ids it is some 30 pages.
# With short ids its pages count: each is a field, and a query may have only so many.
MAX_TRAIL_OCTETS: Final = 2_000
MAX_TRAIL_PAGES: Final = 50


@dataclass(frozen=True, slots=True)
class SecretView:
    """A secret as pages show it: never its hash."""

    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    age: str
    left: str


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as pages show it, or as much of one as can be read.

    Attributes:
        secrets: The live ones, newest first.
        problem: Why it cannot be read; empty: it can.
    """

    client_id: str
    name: str = ""
    scopes: tuple[str, ...] = ()
    created_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    state: str = "unreadable"
    metadata: str = ""
    secrets: tuple[SecretView, ...] = ()
    problem: str = ""

    @property
    def label(self) -> str:
        """How a confirmation names it."""
        return f"{self.name} ({self.client_id})" if self.name else self.client_id


def view_of(key: Key | UnreadableRecord, now: datetime) -> KeyView:
    """What of a key may be shown."""
    if isinstance(key, UnreadableRecord):
        return KeyView(key.client_id or "", problem=str(key))
    live = [each for each in key.secrets if lifecycle.is_live(each, now)]
    secrets = tuple(
        SecretView(
            each.created_at,
            each.expires_at,
            each.last_used_at,
            age=span(now - each.created_at),
            left=span(each.expires_at - now) if each.expires_at else "",
        )
        for each in sorted(live, key=lambda each: each.created_at, reverse=True)
    )
    return KeyView(
        client_id=key.client_id,
        name=key.name,
        scopes=tuple(sorted(key.scopes)),
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        last_used_at=key.last_used_at,
        state=lifecycle.state_of(key, now),
        metadata=json.dumps(dict(key.metadata), ensure_ascii=False, default=str) if key.metadata else "",
        secrets=secrets,
    )


def recency_of(keys: Iterable[KeyView], now: datetime) -> dict[str, int]:
    """How many keys were used last within a day, within a week, and so on."""
    days = {"within a day": 1, "within 7 days": 7, "within 30 days": 30, "longer ago": inf}
    found = {**dict.fromkeys(days, 0), "never seen": 0}
    for key in keys:
        if key.last_used_at is not None:
            age = (now - key.last_used_at).days
            found[next(name for name, most in days.items() if age < most)] += 1
        elif not key.problem:
            found["never seen"] += 1
    return found


def span(length: timedelta) -> str:
    """A duration in one or two words: ``3 days``."""
    seconds = max(0, int(length.total_seconds()))
    for name, size in (("year", 31_536_000), ("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            count = seconds // size
            return f"{count} {name}" + ("s" if count > 1 else "")
    return "under a minute"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the list of keys a page is. Stores scan forwards only, so the way back is kept in the link.

    Attributes:
        prefix: Of the ids that are listed.
        after: The page begins behind this id.
        trail: Where the pages before it began, oldest first; bounded, and the oldest goes first.
    """

    prefix: str = ""
    after: str = ""
    trail: tuple[str, ...] = ()

    @classmethod
    def of(cls, query: QueryParams) -> Place:
        """The place that a link leads to."""
        trail = tuple(each[1:] for each in query.getlist("back") if each.startswith("-"))
        return cls(query.get("prefix", ""), query.get("after", ""), trail)

    def query(self) -> dict[str, str | Sequence[str]]:
        """As fields of a link. Each of the trail has a hyphen, so that the start of the list is not empty."""
        return {"prefix": self.prefix, "after": self.after, "back": [f"-{each}" for each in self.trail]}

    def next(self, last: str) -> Place:
        """The page behind the one that ends with ``last``."""
        trail = [*self.trail, self.after][-MAX_TRAIL_PAGES:]
        while trail and sum(len(encode_query({"back": f"-{each}"})) + 1 for each in trail) > MAX_TRAIL_OCTETS:
            del trail[0]
        return Place(self.prefix, last, tuple(trail))

    def previous(self) -> Place | None:
        """The page before this one, or else the first; None: this is the first."""
        if self.trail:
            return Place(self.prefix, self.trail[-1], self.trail[:-1])
        return Place(self.prefix) if self.after else None


def listed(backend: Backend, place: Place, now: datetime) -> tuple[list[KeyView], Place | None]:
    """The keys of a page, and the page behind it if there is one.

    Raises:
        ReadOnlyBackend: The store cannot list its keys.
        BackendUnavailable: It cannot be asked.
    """
    found: list[KeyView] = []
    after, one_by_one = place.after, False
    while len(found) <= ROWS:
        before = len(found)
        limit = 1 if one_by_one else ROWS + 1 - before
        try:
            for key in backend.iter_keys(place.prefix, after, limit):
                found.append(view_of(key, now))
                after = key.client_id
        except UnreadableRecord as exc:
            if exc.client_id is None:
                raise
            if one_by_one:
                found.append(view_of(exc, now))
                after = exc.client_id
            one_by_one = not one_by_one
        else:
            if not one_by_one or len(found) == before:
                break
    shown = found[:ROWS]
    return shown, place.next(shown[-1].client_id) if len(found) > ROWS else None
