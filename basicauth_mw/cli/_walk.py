"""All keys of a backend, also where some of its records cannot be read."""

from collections.abc import Callable, Iterator

from ..backends.backend import Backend
from ..errors import UnreadableRecord
from ..keys.model import Key


def readable(
    store: Backend,
    on_unreadable: Callable[[str, UnreadableRecord], object],
    *,
    prefix: str = "",
    after: str = "",
    limit: int | None = None,
) -> Iterator[Key]:
    """The keys, in the order of their ids, without those that cannot be read.

    Args:
        store: Whose keys.
        on_unreadable: Called with the client id of each that cannot be read, and why.
        prefix: As for ``iter_keys``.
        after: As for ``iter_keys``.
        limit: As for ``iter_keys``; of those that can be read.

    Raises:
        UnreadableRecord: One that cannot be named, and so not be stepped over.
    """
    one_by_one = False  # from the start of a page that holds such a record to the record itself
    while True:
        start = after
        try:
            for key in store.iter_keys(prefix, after, 1 if one_by_one else limit):
                yield key
                after = key.client_id
                limit = None if limit is None else limit - 1
        except UnreadableRecord as exc:
            if exc.client_id is None:
                raise
            if one_by_one:
                on_unreadable(exc.client_id, exc)
                after = exc.client_id
            one_by_one = not one_by_one
        else:
            if not one_by_one or after == start:
                return
