"""What error monitors and rich record of an exception: the variables of every frame."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def variables_of(exc: BaseException, *, but: str = "") -> str:
    """The variables of all frames of an exception, its causes and its contexts.

    ``but`` is the path of a test, whose own frames are omitted.
    """
    found = []
    for each in chain_of(exc):
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if frame.f_code.co_filename != but:
                found += [f"{name} = {value!r}" for name, value in frame.f_locals.items()]
    return "\n".join(found)


def chain_of(exc: BaseException) -> Iterator[BaseException]:
    """An exception with its causes and contexts, also those that a traceback omits."""
    pending, seen = [exc], set()
    while pending:
        each = pending.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            pending += [other for other in (each.__cause__, each.__context__) if other is not None]
