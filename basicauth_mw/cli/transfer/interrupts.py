"""Signals during an export or import."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self


class Interrupts:
    """Turns Ctrl-C, SIGTERM and SIGHUP into a KeyboardInterrupt. Use as a context manager."""

    def __enter__(self) -> Self:
        self._is_deferring = False
        self._has_signal = False
        self._previous = {
            number: signal.signal(number, self._on_signal)
            for name in ("SIGINT", "SIGTERM", "SIGHUP")
            if (number := getattr(signal, name, None)) is not None  # Windows has no SIGHUP
            and signal.getsignal(number) is not signal.SIG_IGN  # as under nohup
        }
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer the first signal to the end of the block. The second one interrupts the block."""
        self._is_deferring = True
        try:
            yield
        finally:
            self._is_deferring = False
        if self._has_signal:
            raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        is_first, self._has_signal = not self._has_signal, True
        if not (self._is_deferring and is_first):
            raise KeyboardInterrupt
