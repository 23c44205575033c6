"""Per-thread resources, such as connections, that are closed when their thread ends."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from .fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable


class Closable(Protocol):
    def close(self) -> None:
        """Release what is held. May be called from any thread, and more than once."""


T = TypeVar("T", bound=Closable)


class ThreadLocalRegistry(Generic[T]):
    """Creates a resource for each thread that uses one, and closes it when that thread has ended.

    ``create`` must not refer to the owner of the registry, or neither would ever be freed.
    """

    def __init__(self, create: Callable[[], T]) -> None:
        self._create = create
        self._reset()
        after_fork(self._reset_in_child)

    def get(self) -> T:
        """The resource of the calling thread."""
        try:
            value: T = self._local.owner.value
        except AttributeError:
            value = self._create()
            self._local.owner = _Owner(value, self._values)
        return value

    def values(self) -> list[T]:
        return list(self._values.values())

    def _reset(self) -> None:
        self._local = threading.local()
        self._values: dict[int, T] = {}

    def _reset_in_child(self) -> object:
        inherited = (self._local, self._values)
        self._reset()
        return inherited


class _Owner:
    """Is freed with its thread, or with the registry, whichever is first."""

    def __init__(self, value: Any, values: dict[int, Any]) -> None:
        self.value = value
        self._values = values
        self._pid = os.getpid()
        values[id(value)] = value

    def __del__(self) -> None:
        # A fork ends every other thread in the child, but their resources are still the parent's.
        if self._pid == os.getpid():
            self.value.close()
            self._values.pop(id(self.value), None)  # last, so that ``values`` has whatever is still open
