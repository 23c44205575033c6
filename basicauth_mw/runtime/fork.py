"""Hooks for ``os.fork``: a lock may be held by a thread that does not exist in the child."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _Hooks:
    """Bound methods, held weakly, in the order in which they were added."""

    def __init__(self) -> None:
        self._methods: list[weakref.WeakMethod[Callable[[], object]]] = []
        self._prune_at = 64  # prune when the list may have doubled since the last time

    def add(self, method: Callable[[], object]) -> None:
        if len(self._methods) >= self._prune_at:
            self._methods[:] = [each for each in self._methods if each() is not None]
            self._prune_at = max(64, 2 * len(self._methods))
        self._methods.append(weakref.WeakMethod(method))

    def __iter__(self) -> Iterator[Callable[[], object]]:
        return (method for each in self._methods if (method := each()) is not None)


_before: Final = _Hooks()
_in_parent: Final = _Hooks()
_in_child: Final = _Hooks()

# What a child has inherited is kept alive, so that no finalizer closes it: the parent still uses it.
_kept_alive: Final[list[object]] = []


def before_fork(prepare: Callable[[], object]) -> None:
    """Call a bound method, held weakly, before every fork. It must return soon, whatever other threads do.

    Methods are called in the order in which they were added, so locks are taken in that order.
    """
    _before.add(prepare)


def after_fork_in_parent(resume: Callable[[], object]) -> None:
    """Call a bound method, held weakly, in the parent after every fork."""
    _in_parent.add(resume)


def after_fork(reset_in_child: Callable[[], object]) -> None:
    """Call a bound method, held weakly, in every forked child before anything else.

    It resets its object, and returns the inherited handles, which are kept alive and never closed in the
    child.
    """
    _in_child.add(reset_in_child)


def _prepare() -> None:
    for prepare in _before:
        prepare()


def _resume() -> None:
    for resume in _in_parent:
        resume()


def _reset() -> None:
    for reset_in_child in _in_child:
        _kept_alive.append(reset_in_child())


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(before=_prepare, after_in_parent=_resume, after_in_child=_reset)
