"""What an object has to do in a forked child: locks may be held there by threads that are gone."""

from __future__ import annotations

import os
import weakref
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_hooks: Final[dict[int, weakref.WeakMethod[Callable[[], object]]]] = {}
_numbers: Final = count()

# A child process keeps what it inherited, so that no finaliser closes it: the parent still uses it.
_inherited: Final[list[object]] = []


def after_fork(forget: Callable[[], object]) -> None:
    """Have a method called in every forked child, before it does anything else.

    Args:
        forget: A bound method, held weakly. It makes its object as good as new without touching what the
            parent process had opened, and returns that, to be kept and left alone for ever.
    """
    number = next(_numbers)
    _hooks[number] = weakref.WeakMethod(forget, lambda _gone: _hooks.pop(number, None))


def _in_child() -> None:
    for hook in tuple(_hooks.values()):
        forget = hook()
        if forget is not None:
            _inherited.append(forget())


os.register_at_fork(after_in_child=_in_child)
