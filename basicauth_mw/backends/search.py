"""Find keys by text, state and scope, in the order of IDs.

A store may find candidates with an index. Otherwise keys are read in the order of their IDs, and a search
stops after a bounded number: a frequent text is found soon, and for a rare one the result says how far the
search went.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from ..errors import UnreadableRecord
from ..keys.model import Key
from .usage import attach_last_used

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from ..keys.filters import KeyFilter

MAX_SCANNED: Final = 10_000  # keys that one search looks at

_FIRST_CANDIDATES: Final = 64
_CANDIDATES: Final = 1000  # each further time, since each sorts them again


class Page(NamedTuple):
    """A part of the result of a search.

    Attributes:
        keys: The keys that were found, in the order of their IDs.
        next: Pass it as ``after`` to continue; None if there are no more keys.
        complete: Whether all keys after ``after`` were looked at. If not, there may be more.
    """

    keys: tuple[Key, ...]
    next: str | None
    complete: bool


class Listing(Protocol):
    """The part of ``Backend`` that a search needs."""

    store: Any

    def iter_keys(self, prefix: str = "", after: str = "", limit: int | None = None) -> Iterator[Key]: ...


def search(keys: Listing, wanted: KeyFilter, *, after: str, limit: int, now: datetime) -> Page:
    """Return up to ``limit`` keys after an ID; looks at ``MAX_SCANNED`` at most.

    Records that cannot be read are not found.
    """
    found: list[Key] = []
    last = after
    records = iter_candidates(keys, wanted, after=after)
    for record in islice(records, MAX_SCANNED):
        last = (record.client_id or last) if isinstance(record, UnreadableRecord) else record.client_id
        if isinstance(record, Key) and wanted.matches(record, now):
            found.append(record)
            if len(found) == limit:
                break
    is_complete = next(records, None) is None
    return Page(tuple(found), None if is_complete else last, is_complete)


def iter_candidates(
    keys: Listing, wanted: KeyFilter, *, prefix: str = "", after: str = ""
) -> Iterator[Key | UnreadableRecord]:
    """Iterate, in the order of IDs, over all keys that may match; errors as for ``iter_records``."""
    find = None if prefix else getattr(keys.store, "search", None)
    size = _FIRST_CANDIDATES
    while find is not None and (page := find(wanted, after, size)) is not None:
        yield from attach_last_used(keys.store, page)
        if len(page) < size:
            return
        after = page[-1].client_id
        size = _CANDIDATES
    yield from iter_records(keys, prefix=prefix, after=after)


def iter_records(
    keys: Listing, *, prefix: str = "", after: str = "", limit: int | None = None
) -> Iterator[Key | UnreadableRecord]:
    """Iterate over all keys in the order of their IDs, and over the errors of those that cannot be read."""
    damaged: str | None = None  # keys up to this ID are read one by one
    while limit != 0:
        start = after
        try:
            for key in keys.iter_keys(prefix, after, limit if damaged is None else 1):
                yield key
                after = key.client_id
                limit = None if limit is None else limit - 1
            if damaged is not None and after >= damaged:  # repaired or deleted meanwhile
                damaged = None
                continue
        except UnreadableRecord as exc:
            if exc.client_id is None:
                raise
            if damaged is not None:
                yield exc.with_traceback(None)
                after = exc.client_id
            damaged = exc.client_id if damaged is None else None
        else:
            if damaged is None or after == start:
                return
