"""Keys as pages show them, never with a hash, and one page of their list."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from ..backends.search import iter_candidates, iter_records
from ..errors import ReadOnlyBackend, UnreadableRecord
from ..keys import lifecycle
from ..keys.filters import KeyFilter
from ..keys.model import Key
from .request import encode_query
from .strings import STATES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from starlette.datastructures import QueryParams

    from ..backends.backend import Backend

ROWS: Final = 25
MOST_COUNTED: Final = 2_000  # keys that the first page looks at, so that it stays fast
# Fits into any server's limit for a URL; with generated IDs it holds some 30 pages. With short IDs the number
# of pages is limited instead: each is a query parameter.
MAX_HISTORY_BYTES: Final = 2_000
MAX_HISTORY_PAGES: Final = 50


@dataclass(frozen=True, slots=True)
class KeyView(Key):
    """A key for pages: ``secrets`` are the active ones, newest first, without hashes.

    ``problem`` says why the record cannot be read; then everything but the ID is missing.
    """

    state: str = "unreadable"
    problem: str = ""

    @property
    def label(self) -> str:
        """The name, or else the client ID."""
        return self.name or self.client_id


def view_of(key: Key | UnreadableRecord, now: datetime) -> KeyView:
    """Select what pages may show of a key."""
    if isinstance(key, UnreadableRecord):
        return KeyView(key.client_id or "", problem=str(key))
    active = [replace(each, hash="") for each in key.secrets if lifecycle.is_active(each, now)]
    active.sort(key=lambda each: each.created_at, reverse=True)
    shown = {each.name: getattr(key, each.name) for each in fields(Key)}
    return KeyView(**{**shown, "secrets": tuple(active)}, state=lifecycle.state_of(key, now))


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position of a page in the list: after an ID, among the keys that the filters select.

    Stores scan forwards only, so links carry ``history``: ``after`` of the previous pages, oldest first.
    """

    text: str = ""
    state: str = ""
    scope: str = ""
    after: str = ""
    history: tuple[str, ...] = ()

    @classmethod
    def from_query(cls, query: QueryParams) -> Cursor:
        """Read the cursor from a link or from the search form; an unknown state selects all."""
        text, state, scope = (query.get(name, "").strip() for name in ("text", "state", "scope"))
        history = tuple(each[1:] for each in query.getlist("back") if each.startswith("-"))
        return cls(text, state if state in STATES else "", scope, query.get("after", ""), history)

    @property
    def is_filtered(self) -> bool:
        """Whether it selects some of the keys."""
        return bool(self.text or self.state or self.scope)

    def query(self) -> dict[str, str | Sequence[str]]:
        """Return the query of a link. History entries get a hyphen: the first page's is empty otherwise."""
        back = [f"-{each}" for each in self.history]
        return {
            "text": self.text,
            "state": self.state,
            "scope": self.scope,
            "after": self.after,
            "back": back,
        }

    def first(self) -> Cursor:
        return replace(self, after="", history=())

    def next(self, last: str) -> Cursor:
        """Return the cursor of the page after the one that ends with ``last``."""
        history = [*self.history, self.after][-MAX_HISTORY_PAGES:]
        while sum(len(encode_query({"back": f"-{each}"})) + 1 for each in history) > MAX_HISTORY_BYTES:
            del history[0]
        return replace(self, after=last, history=tuple(history))

    def previous(self) -> Cursor | None:
        """Return the cursor of the previous page, or of the first one; None on the first page."""
        if self.history:
            return replace(self, after=self.history[-1], history=self.history[:-1])
        return self.first() if self.after else None


class KeyPage(NamedTuple):
    """A page of the list. ``searched_to`` is where a search stopped early; empty if it did not."""

    cursor: Cursor
    keys: list[KeyView]
    following: Cursor | None = None
    searched_to: str = ""
    listable: bool = True


def list_page(backend: Backend, cursor: Cursor, now: datetime) -> KeyPage:
    """Return the keys of a page, and the cursor of the next one. Without filters, unreadable records too."""
    try:
        if cursor.is_filtered:
            state, scope = cursor.state or None, cursor.scope or None
            found = backend.search(cursor.text, state=state, scope=scope, after=cursor.after, limit=ROWS)
            keys = [view_of(key, now) for key in found.keys]
            following = cursor.next(found.next) if found.next else None
            return KeyPage(cursor, keys, following, found.next or "" if len(keys) < ROWS else "")
        records = islice(iter_records(backend, after=cursor.after, limit=ROWS + 1), ROWS + 1)
        keys = [view_of(record, now) for record in records]
    except ReadOnlyBackend:
        return KeyPage(cursor, [], listable=False)
    following = cursor.next(keys[ROWS - 1].client_id) if len(keys) > ROWS else None
    return KeyPage(cursor, keys[:ROWS], following)


def count_expiring(backend: Backend, now: datetime) -> tuple[int, bool]:
    """Return the number of keys that expire soon, and whether there may be more."""
    wanted = KeyFilter(state="expiring")
    records = iter_candidates(backend, wanted)
    looked_at = islice(records, MOST_COUNTED)
    count = sum(isinstance(each, Key) and wanted.matches(each, now) for each in looked_at)
    return count, next(records, None) is not None
