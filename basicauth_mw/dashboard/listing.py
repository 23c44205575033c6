"""One page of the list of keys, those that cannot be read included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import UnreadableRecord
from .display import view_of
from .requests import encode_query

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from starlette.datastructures import QueryParams

    from ..backend import Backend
    from .display import KeyView

ROWS: Final = 25
# A trail of this length fits into any server's limit for an address; with minted ids it is some 30 pages.
# With short ids its pages count: each is a field, and a query may have only so many.
MAX_TRAIL_OCTETS: Final = 2_000
MAX_TRAIL_PAGES: Final = 50


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
