"""What an object has to do in a forked child: locks may be held there by threads that are gone."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_hooks: list[weakref.WeakMethod[Callable[[], object]]] = []
_prune_at = 64  # when they may have become twice as many as are alive

# A child process keeps what it inherited, so that no finaliser closes it: the parent still uses it.
_inherited: Final[list[object]] = []


def after_fork(forget: Callable[[], object]) -> None:
    """Have a method called in every forked child, before it does anything else.

    Args:
        forget: A bound method, held weakly. It makes its object as good as new without touching what the
            parent process had opened, and returns that, to be kept and left alone for ever.
    """
    global _prune_at  # of the process, as os.register_at_fork is
    if len(_hooks) >= _prune_at:
        _hooks[:] = [hook for hook in _hooks if hook() is not None]
        _prune_at = max(64, 2 * len(_hooks))
    _hooks.append(weakref.WeakMethod(forget))


def _in_child() -> None:
    for hook in _hooks:
        forget = hook()
        if forget is not None:
            _inherited.append(forget())


os.register_at_fork(after_in_child=_in_child)
