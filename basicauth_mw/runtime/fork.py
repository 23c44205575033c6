"""What an object has to do when the process forks: locks may be held by threads that the child has not."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _Hooks:
    """Bound methods, held weakly, in the order in which they came."""

    def __init__(self) -> None:
        self._methods: list[weakref.WeakMethod[Callable[[], object]]] = []
        self._prune_at = 64  # when they may have become twice as many as are alive

    def add(self, method: Callable[[], object]) -> None:
        if len(self._methods) >= self._prune_at:
            self._methods[:] = [each for each in self._methods if each() is not None]
            self._prune_at = max(64, 2 * len(self._methods))
        self._methods.append(weakref.WeakMethod(method))

    def __iter__(self) -> Iterator[Callable[[], object]]:
        for each in self._methods:
            method = each()
            if method is not None:
                yield method


_before: Final = _Hooks()
_in_parent: Final = _Hooks()
_in_child: Final = _Hooks()

# A child process keeps what it inherited, so that no finaliser closes it: the parent still uses it.
_inherited: Final[list[object]] = []


def before_fork(prepare: Callable[[], object]) -> None:
    """Have a method called before every fork, by the thread that forks.

    Those that came first are called first: locks that they take are taken in that order.

    Args:
        prepare: A bound method, held weakly. It must end soon, whatever other threads are doing.
    """
    _before.add(prepare)


def after_fork_in_parent(resume: Callable[[], object]) -> None:
    """Have a method called after every fork, in the process that forked.

    Args:
        resume: A bound method, held weakly.
    """
    _in_parent.add(resume)


def after_fork(forget: Callable[[], object]) -> None:
    """Have a method called in every forked child, before it does anything else.

    Args:
        forget: A bound method, held weakly. It makes its object as good as new without touching what the
            parent process had opened, and returns that, to be kept and left alone for ever.
    """
    _in_child.add(forget)


def _prepare() -> None:
    for prepare in _before:
        prepare()


def _resume() -> None:
    for resume in _in_parent:
        resume()


def _forget() -> None:
    for forget in _in_child:
        _inherited.append(forget())


if hasattr(os, "register_at_fork"):  # not on Windows, where no process forks
    os.register_at_fork(before=_prepare, after_in_parent=_resume, after_in_child=_forget)
