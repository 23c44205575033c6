"""Write keys by compare and swap, and determine the outcome of a write whose reply was lost.

A store may apply a write and fail before it replies. Such a write is read back, so that callers learn whether
it was made, or that this cannot be known.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from ..errors import BackendError, BackendUnavailable, KeyNotFound
from . import BulkStore, HistoryStore, dump_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..keys.model import Change, Key
    from . import Store

logger = logging.getLogger("basicauth_mw")

_CHANGE_LIMIT_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.1


def change_key(
    store: Store, client_id: str, change: Callable[[Key], Key], changes: Sequence[Change] = ()
) -> tuple[Key, bool]:
    """Read a key, change it, and write it; start again if another writer was faster.

    ``changes`` are for the history of the key. Returns the key as it is stored now, and whether it had to be
    written.

    Raises:
        KeyNotFound: There is no such key.
        BackendUnavailable: The store cannot be reached, or other writers win for 10 seconds.
    """
    give_up_at = time.monotonic() + _CHANGE_LIMIT_S
    pause_s = _FIRST_PAUSE_S
    while True:
        key = store.get(client_id)
        if key is None:
            raise not_found(client_id)
        changed = change(key)
        # Compare what is stored: in Python, the 1, 1.0 and true of JSON metadata are equal.
        if dump_key(changed) == dump_key(key):
            announce(store, client_id)  # a caller who repeats a change may need the announcement
            return changed, False
        changed = replace(changed, version=key.version + 1)
        if put_confirmed(store, changed, key, changes):
            return changed, True
        if time.monotonic() > give_up_at:
            raise BackendUnavailable(f"the key {client_id!r} was changed by others at each attempt")
        # Random pauses, so that the same writer does not lose every time.
        time.sleep(random.uniform(0, pause_s))  # noqa: S311 - it is not a secret
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def put_confirmed(store: Store, key: Key, before: Key | None, changes: Sequence[Change] = ()) -> bool:
    """Write a key if ``before`` is what the store holds; False if it holds something else.

    ``changes`` are added to the history of the key, in a store that keeps one.

    Raises:
        BackendUnavailable: As for ``apply_and_confirm``.
    """
    put = partial(store.put, key, None if before is None else before.version)
    if changes and isinstance(store, HistoryStore):
        put = partial(put, changes=changes)
    return apply_and_confirm(store, key.client_id, put, partial(matches_stored, store, key, before))


def add_confirmed(
    store: Store,
    keys: Sequence[Key],
    changes: Sequence[Sequence[Change]],
    on_partial: Callable[[list[Key]], object],
) -> list[bool]:
    """Write new keys, in bulk where the store can; return for each whether its client ID was free.

    Args:
        store: Where to write them.
        keys: The keys.
        changes: The history of each.
        on_partial: Called with the keys that were written, if not all could be.

    Raises:
        BackendUnavailable: Not all could be written, or that cannot be known.
    """
    try:
        if isinstance(store, HistoryStore):
            return store.add(keys, changes)
        return store.add(keys) if isinstance(store, BulkStore) else [store.put(key, None) for key in keys]
    except BackendUnavailable as exc:
        confirmed = [_is_confirmed(store, key) for key in keys]
        if False not in confirmed:
            return [each is True for each in confirmed]
        on_partial([key for key, each in zip(keys, confirmed, strict=True) if each])
        raise BackendUnavailable(f"{confirmed.count(True)} of {len(keys)} keys were stored: {exc}") from exc


def _is_confirmed(store: Store, key: Key) -> bool | None:
    """``matches_stored`` for a new key; False too if the store cannot be read."""
    try:
        return matches_stored(store, key, None)
    except BackendError:
        return False


def apply_and_confirm(
    store: Store, client_id: str, change: Callable[[], bool], is_done: Callable[[], bool | None]
) -> bool:
    """Apply a change; if its reply is lost, read whether it was made by ``is_done`` (None: unknown).

    Raises:
        BackendUnavailable: The change was not made, or that cannot be known.
    """
    try:
        return change()
    except BackendUnavailable as exc:
        try:
            done = is_done()
        except BackendError:
            done = None
        if done is None:
            raise BackendUnavailable(
                f"the change of {client_id!r} may or may not have been made ({exc}): check with "
                "basicauth-mw keys show ID"
            ) from exc
        if not done:
            raise BackendUnavailable(f"nothing was changed so far: {exc}") from exc
        try:
            announce(store, client_id)
        except BackendError as failure:
            logger.warning(
                "%r was changed, but this may take up to cache_ttl_s to take effect in other processes (%s): "
                "repeat the command",
                client_id,
                failure,
            )
        return True


def announce(store: Store, client_id: str) -> None:
    """Announce a change again, in a store where it may have been written without its announcement."""
    if publish := getattr(store, "announce", None):
        publish(client_id)


def not_found(client_id: str) -> KeyNotFound:
    return KeyNotFound(f"there is no key with the client ID {client_id!r}")


def matches_stored(store: Store, key: Key, before: Key | None) -> bool | None:
    """Whether the store holds exactly ``key``; None if it holds neither that nor ``before``."""
    current, wanted, previous = (each and dump_key(each) for each in (store.get(key.client_id), key, before))
    return current == wanted if current in (wanted, previous) else None
