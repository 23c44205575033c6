"""One page of keys, those that cannot be read included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import UnreadableRecord
from .views import view_of

if TYPE_CHECKING:
    from datetime import datetime

    from ..backend import Backend
    from .views import KeyView, Place

ROWS: Final = 25


def listed(backend: Backend, place: Place, now: datetime) -> tuple[list[KeyView], bool]:
    """The keys of a page, and whether there are more behind it.

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
    return found[:ROWS], len(found) > ROWS
