"""Writes whose answer is lost: what is done has to be told as done, and what is not, as not done."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from ..errors import BackendError, BackendUnavailable
from . import dump_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..keys.model import Key
    from . import Store

logger = logging.getLogger("basicauth_mw")


def write(store: Store, key: Key, before: Key | None) -> bool:
    """Write a key, unless another than ``before`` is stored by now.

    Raises:
        BackendUnavailable: As ``apply_and_confirm`` says.
    """
    put = partial(store.put, key, None if before is None else before.version)
    return apply_and_confirm(store, key.client_id, put, partial(matches_stored, store, key, before))


def apply_and_confirm(
    store: Store, client_id: str, change: Callable[[], bool], is_done: Callable[[], bool | None]
) -> bool:
    """Change something, and if the answer is lost, see what has become of it.

    Args:
        store: Where.
        client_id: Whose key it is.
        change: Answers whether it was made.
        is_done: Looks whether it was; None: that cannot be told.

    Raises:
        BackendUnavailable: It was not made, or that cannot be told.
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
                f"the change of {client_id!r} may or may not have been made ({exc}): look with  "
                "basicauth-mw keys show ID"
            ) from exc
        if not done:
            raise BackendUnavailable(f"nothing was changed so far: {exc}") from exc
        try:
            announce(store, client_id)
        except BackendError as unheard:
            logger.warning(
                "the change of %r was made, but others may not hear of it before cache_ttl_s is over (%s): "
                "repeat it",
                client_id,
                unheard,
            )
        return True


def announce(store: Store, client_id: str) -> None:
    """Tell of a change once more, where it may have been made without that."""
    if tell := getattr(store, "announce", None):
        tell(client_id)


def matches_stored(store: Store, key: Key, before: Key | None) -> bool | None:
    """Whether a key is stored just as it is; None: neither it is, nor what was there before."""
    stored, wanted, known = (each and dump_key(each) for each in (store.get(key.client_id), key, before))
    return stored == wanted if stored in (wanted, known) else None
