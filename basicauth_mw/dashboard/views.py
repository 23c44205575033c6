"""What pages show: keys, places in the list, requests, and never a hash. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from .. import lifecycle
from ..errors import UnreadableRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from ..backend import Issued
    from ..model import Key, Principal
    from .openapi import Endpoint
    from .snippets import Call, Snippet

# A trail of this length fits into any server's limit for an address; with minted ids it is some 30 pages.
# With short ids its pages count: each is a field, and a query may have only so many.
MAX_TRAIL_OCTETS: Final = 2_000
MAX_TRAIL_PAGES: Final = 50


def _query(fields: Mapping[str, str | Sequence[str]]) -> str:
    # A record from elsewhere may hold what has no UTF-8: its link leads to no key, and all others work.
    return urlencode(fields, doseq=True, errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Frame:
    """What all pages have round them.

    Attributes:
        root: Where the dashboard is mounted.
        principal: Who looks at it.
        writable: Whether keys can be changed.
        version: Of the static files.
        now: The time.
    """

    root: str
    principal: Principal
    writable: bool
    version: str
    now: datetime

    def url(self, path: str, **query: str | Sequence[str]) -> str:
        """A link to a page of ours; empty fields are left out."""
        fields = {name: value for name, value in query.items() if value}
        return f"{self.root}{path}" + (f"?{_query(fields)}" if fields else "")

    def static(self, name: str) -> str:
        """A link to a file of ours."""
        return f"{self.root}/static/{name}?v={self.version}"


@dataclass(frozen=True, slots=True)
class SecretView:
    """A secret as pages show it: never its hash."""

    number: int
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    age: str
    left: str


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as pages show it, or as much of one as can be read.

    Attributes:
        problem: Why it cannot be read; empty: it can.
        secrets: The live ones, newest first.
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
    live = sorted(
        (each for each in key.secrets if lifecycle.is_live(each, now)),
        key=lambda each: each.created_at,
        reverse=True,
    )
    secrets = tuple(
        SecretView(
            len(live) - place,
            each.created_at,
            each.expires_at,
            each.last_used_at,
            span(now - each.created_at),
            span(each.expires_at - now) if each.expires_at else "",
        )
        for place, each in enumerate(live)
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

    def query(self) -> dict[str, str | Sequence[str]]:
        """As fields of a link. A page that began at the start leaves ``-`` in the trail."""
        return {"prefix": self.prefix, "after": self.after, "back": [f"-{each}" for each in self.trail]}

    def next(self, last: str) -> Place:
        """The page behind the one that ends with ``last``."""
        trail = [*self.trail, self.after]
        del trail[:-MAX_TRAIL_PAGES]
        while trail and sum(len(_query({"back": f"-{each}"})) + 1 for each in trail) > MAX_TRAIL_OCTETS:
            del trail[0]
        return Place(self.prefix, last, tuple(trail))

    def previous(self) -> Place | None:
        """The page before this one, or else the first; None: this is the first."""
        if self.trail:
            return Place(self.prefix, self.trail[-1], self.trail[:-1])
        return Place(self.prefix) if self.after else None


@dataclass(frozen=True, slots=True)
class CallView:
    """The part of a page that tries requests.

    Attributes:
        endpoints: To pick from; empty: there is no document, and a field takes the path.
        picked: The label of one of them; empty: none.
        call: The request that is shown.
        path: Of it, as in the field.
        snippets: It in every language.
        encoders: The lines that encode a token.
        token: For its form.
        issued: The credentials are on the screen.
    """

    endpoints: Sequence[Endpoint]
    picked: str
    call: Call
    path: str
    snippets: Sequence[Snippet]
    encoders: Sequence[Snippet]
    token: str
    issued: Issued | None = None
    client_id: str = ""


@dataclass(frozen=True, slots=True)
class Recency:
    """How long ago keys were used: a row of the overview."""

    name: str
    count: int


def recency_of(keys: Iterable[KeyView], now: datetime) -> list[Recency]:
    """How many keys were used last today, this week, and so on."""
    names = ["within a day", "within 7 days", "within 30 days", "longer ago", "never seen"]
    counts = [0] * len(names)
    for key in keys:
        if key.problem:
            continue
        if key.last_used_at is None:
            counts[4] += 1
        else:
            age = (now - key.last_used_at).days
            counts[0 if age < 1 else 1 if age < 7 else 2 if age < 30 else 3] += 1
    return [Recency(name, count) for name, count in zip(names, counts, strict=True)]


def span(length: timedelta) -> str:
    """A duration in one or two words: ``3 days``."""
    seconds = max(0, int(length.total_seconds()))
    for name, size in (("year", 31_536_000), ("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            count = seconds // size
            return f"{count} {name}" + ("s" if count > 1 else "")
    return "under a minute"
