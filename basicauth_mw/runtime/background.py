"""One daemon thread behind the requests: started when there is something to do, ended, and started anew."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .fork import after_fork

if TYPE_CHECKING:
    from collections.abc import Callable


class Background:
    """Runs a function in a thread of its own, at most one at a time, and never one of another process.

    Args:
        name: For the thread's name.
        serve: Runs until the event that it is given is set.
    """

    def __init__(self, name: str, serve: Callable[[threading.Event], None]) -> None:
        self._name = name
        self._serve = serve
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread unless it runs. Cheap if it does, so a request may call it."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(
                    target=self._serve, args=(self._ending,), name=f"basicauth_mw {self._name}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # the system has no more, or the interpreter ends
                    return
                self._thread = thread

    def end(self) -> threading.Thread | None:
        """Tell the thread to end, and wait for nothing; the next ``start`` starts another.

        Returns:
            The thread, if there is one.
        """
        with self._lock:
            thread, ending = self._thread, self._ending
            self._thread, self._ending = None, threading.Event()
        ending.set()
        return thread
