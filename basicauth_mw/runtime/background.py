"""A daemon thread that is started on demand."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from .fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("basicauth_mw")


class BackgroundThread:
    """Runs ``serve`` in one thread of this process, which ends when its argument, an event, is set."""

    def __init__(self, name: str, serve: Callable[[threading.Event], None]) -> None:
        self._name = name
        self._serve = serve
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread unless it is running. Cheap if it is, so requests may call it."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(
                    target=self._run, args=(self._closing,), name=f"basicauth_mw {self._name}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # the system cannot start more threads, or the interpreter exits
                    return
                self._thread = thread

    def _run(self, closing: threading.Event) -> None:
        try:
            self._serve(closing)
        except Exception as exc:  # a fault of this package; its text may contain a secret
            name = type(exc).__name__
            logger.error("the %s thread failed (%s); it is restarted on demand", self._name, name)
            with self._lock:
                if self._closing is closing:
                    self._thread = None

    def stop(self) -> threading.Thread | None:
        """Signal the thread to stop, and return it if it is running. The next ``start`` starts another."""
        with self._lock:
            thread, closing = self._thread, self._closing
            self._thread, self._closing = None, threading.Event()
        closing.set()
        return thread
