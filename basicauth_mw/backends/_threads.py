"""What belongs to one thread of one process: a connection, as a rule."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from ..runtime.fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable


class Closable(Protocol):
    def close(self) -> None:
        """Release what is held; may be called from any thread, and more than once."""


T = TypeVar("T", bound=Closable)


class PerThread(Generic[T]):
    """Makes a thing for each thread that asks, and closes it when that thread has ended.

    Args:
        make: Makes one. It must not refer to who owns this object, or neither would ever be freed.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._start()
        after_fork(self._forget)

    def mine(self) -> T:
        """The calling thread's own."""
        try:
            return cast("T", self._local.holder.value)
        except AttributeError:
            holder = self._local.holder = _Holder(self._make(), self._all)
            return cast("T", holder.value)

    def all(self) -> list[T]:
        """Those of every thread."""
        return list(self._all.values())

    def _start(self) -> None:
        self._local = threading.local()
        self._all: dict[int, T] = {}

    def _forget(self) -> object:
        inherited = (self._local, self._all)
        self._start()
        return inherited


class _Holder:
    """Dies with its thread, or with the ``PerThread``, whichever is first."""

    def __init__(self, value: Any, everyone: dict[int, Any]) -> None:
        self.value = value
        self._everyone = everyone
        self._pid = os.getpid()
        everyone[id(value)] = value

    def __del__(self) -> None:
        # A fork ends every other thread in the child: what they held is still the parent's.
        if self._pid == os.getpid():
            self.value.close()
            self._everyone.pop(id(self.value), None)  # now: whoever closes all must find what is still open
