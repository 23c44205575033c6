"""Find keys by text, state and scope, with a scan in the order of ids that stops after a bounded number."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from ..errors import InvalidKey, UnreadableRecord
from ..keys import lifecycle
from ..keys.model import Key

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SCANNED: Final = 10_000  # keys that one search looks at
EXPIRING_WITHIN: Final = timedelta(days=30)
UNUSED_FOR: Final = timedelta(days=90)
STATES: Final = ("active", "expired", "disabled", "revoked", "expiring", "never-used", "unused")


class Page(NamedTuple):
    """A part of the result of a search.

    Attributes:
        keys: The keys that were found, in the order of their ids.
        next: Pass it as ``after`` to go on; None if there is no more.
        complete: Whether all keys after ``after`` were looked at. If not, there may be more.
    """

    keys: tuple[Key, ...]
    next: str | None
    complete: bool


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Selects keys.

    Args:
        text: Part of the name or of the id, in any case.
        state: One of ``STATES``; None for any. ``expiring``: active, and ends within 30 days. ``never-used``
            and ``unused`` (for 90 days): active, by the recorded last use.
        scope: A scope that the key has; None for any.
        unused_for: Only keys that were not used, and not created, for so long.

    Raises:
        InvalidKey: There is no such state.
    """

    text: str = ""
    state: str | None = None
    scope: str | None = None
    unused_for: timedelta | None = None

    def __post_init__(self) -> None:
        if self.state is not None and self.state not in STATES:
            raise InvalidKey(f"unknown state {self.state!r}; expected one of {', '.join(STATES)}")

    def matches(self, key: Key, now: datetime) -> bool:
        """Whether a key is selected."""
        if self.text:
            text = self.text.casefold()
            if text not in key.client_id.casefold() and text not in key.name.casefold():
                return False
        if self.scope is not None and self.scope not in key.scopes:
            return False
        if self.unused_for is not None and not _is_unused(key, now - self.unused_for):
            return False
        return self.state is None or _has_state(key, self.state, now)


class Listing(Protocol):
    """What a search needs of ``Backend``."""

    def iter_keys(self, prefix: str = "", after: str = "", limit: int | None = None) -> Iterator[Key]: ...


def search(keys: Listing, wanted: KeyFilter, *, after: str, limit: int, now: datetime) -> Page:
    """Return up to ``limit`` keys after an id; looks at ``MAX_SCANNED`` at most.

    Records that cannot be read are not found.
    """
    found: list[Key] = []
    last = after
    records = iter_records(keys, after=after)
    for record in islice(records, MAX_SCANNED):
        last = (record.client_id or last) if isinstance(record, UnreadableRecord) else record.client_id
        if isinstance(record, Key) and wanted.matches(record, now):
            found.append(record)
            if len(found) == limit:
                break
    is_complete = next(records, None) is None
    return Page(tuple(found), None if is_complete else last, is_complete)


def iter_records(
    keys: Listing, *, prefix: str = "", after: str = "", limit: int | None = None
) -> Iterator[Key | UnreadableRecord]:
    """Iterate over all keys in the order of their ids, and over the errors of those that cannot be read."""
    one_by_one = False  # from the start of a page with such a record up to that record
    while True:
        start = after
        try:
            for key in keys.iter_keys(prefix, after, 1 if one_by_one else limit):
                yield key
                after = key.client_id
                limit = None if limit is None else limit - 1
        except UnreadableRecord as exc:
            if exc.client_id is None:
                raise
            if one_by_one:
                yield exc.with_traceback(None)
                after = exc.client_id
            one_by_one = not one_by_one
        else:
            if not one_by_one or after == start:
                return


def _is_unused(key: Key, since: datetime) -> bool:
    return (key.last_used_at or key.created_at) < since


def _has_state(key: Key, state: str, now: datetime) -> bool:
    current = lifecycle.state_of(key, now)
    if state in ("active", "expired", "disabled", "revoked"):
        return current == state
    if current != "active":
        return False
    if state == "expiring":
        return lifecycle.ends_by(key, now + EXPIRING_WITHIN, now)
    if state == "never-used":
        return key.last_used_at is None
    return _is_unused(key, now - UNUSED_FOR)
