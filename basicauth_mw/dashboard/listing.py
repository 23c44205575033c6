"""Keys as pages show them, never with a hash, and one page of their list."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import inf
from typing import TYPE_CHECKING, Final

from ..errors import UnreadableRecord
from ..keys import lifecycle
from ..keys.model import Key
from .request import encode_query

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from starlette.datastructures import QueryParams

    from ..backends.backend import Backend

ROWS: Final = 25
# Fits into any server's limit for a URL; with generated IDs it holds some 30 pages. With short IDs the number
# of pages is limited instead: each is a query parameter.
MAX_HISTORY_BYTES: Final = 2_000
MAX_HISTORY_PAGES: Final = 50
_KEY_FIELDS: Final = tuple(each.name for each in fields(Key))


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
    shown = {name: getattr(key, name) for name in _KEY_FIELDS}
    shown["secrets"] = tuple(sorted(active, key=lambda each: each.created_at, reverse=True))
    return KeyView(**shown, state=lifecycle.state_of(key, now))


def recency_of(keys: Iterable[KeyView], now: datetime) -> dict[str, int]:
    """Count keys by how recently they were used."""
    limits = {"within a day": 1, "within 7 days": 7, "within 30 days": 30, "longer ago": inf}
    counts = {**dict.fromkeys(limits, 0), "never": 0}
    for key in keys:
        if key.last_used_at is not None:
            days = (now - key.last_used_at).days
            counts[next(name for name, limit in limits.items() if days < limit)] += 1
        elif not key.problem:
            counts["never"] += 1
    return counts


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position of a page in the list: after an ID, among those with a prefix.

    Stores scan forwards only, so links carry ``history``: ``after`` of the previous pages, oldest first.
    """

    prefix: str = ""
    after: str = ""
    history: tuple[str, ...] = ()

    @classmethod
    def from_query(cls, query: QueryParams) -> Cursor:
        """Read the cursor from a link."""
        history = tuple(each[1:] for each in query.getlist("back") if each.startswith("-"))
        return cls(query.get("prefix", ""), query.get("after", ""), history)

    def query(self) -> dict[str, str | Sequence[str]]:
        """Return the query of a link. History entries get a hyphen: the first page's is empty otherwise."""
        return {"prefix": self.prefix, "after": self.after, "back": [f"-{each}" for each in self.history]}

    def next(self, last: str) -> Cursor:
        """Return the cursor of the page after the one that ends with ``last``."""
        history = [*self.history, self.after][-MAX_HISTORY_PAGES:]
        while sum(len(encode_query({"back": f"-{each}"})) + 1 for each in history) > MAX_HISTORY_BYTES:
            del history[0]
        return Cursor(self.prefix, last, tuple(history))

    def previous(self) -> Cursor | None:
        """Return the cursor of the previous page, or of the first one; None on the first page."""
        if self.history:
            return Cursor(self.prefix, self.history[-1], self.history[:-1])
        return Cursor(self.prefix) if self.after else None


def list_page(backend: Backend, cursor: Cursor, now: datetime) -> tuple[list[KeyView], Cursor | None]:
    """Return the keys of a page, unreadable records included, and the cursor of the next one."""
    try:
        keys = [view_of(key, now) for key in backend.iter_keys(cursor.prefix, cursor.after, ROWS + 1)]
    except UnreadableRecord as exc:
        if exc.client_id is None:
            raise
        keys = _list_one_by_one(backend, cursor, now)
    shown = keys[:ROWS]
    return shown, cursor.next(shown[-1].client_id) if len(keys) > ROWS else None


def _list_one_by_one(backend: Backend, cursor: Cursor, now: datetime) -> list[KeyView]:
    keys: list[KeyView] = []
    while len(keys) <= ROWS:
        after = keys[-1].client_id if keys else cursor.after
        found: Key | UnreadableRecord | None
        try:
            found = next(iter(backend.iter_keys(cursor.prefix, after, 1)), None)
        except UnreadableRecord as exc:
            if exc.client_id is None:
                raise
            found = exc
        if found is None:
            break
        keys.append(view_of(found, now))
    return keys
