"""The background thread: one at a time, started on demand, also after a failure."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from basicauth_mw.runtime.background import BackgroundThread
from tests.waiting import wait_until

if TYPE_CHECKING:
    import pytest


def test_a_thread_that_failed_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the exception, and not its text, which may contain a secret."""
    started: list[threading.Thread] = []

    def serve(closing: threading.Event) -> None:
        started.append(threading.current_thread())
        if len(started) == 1:
            raise ValueError("canary")
        closing.wait()

    background = BackgroundThread("test", serve)
    background.start()
    wait_until(lambda: started and not started[0].is_alive())
    background.start()
    wait_until(lambda: len(started) == 2)
    thread = background.stop()

    assert thread is started[1]
    thread.join(10)
    assert not thread.is_alive()
    assert "ValueError" in caplog.text
    assert "canary" not in caplog.text
