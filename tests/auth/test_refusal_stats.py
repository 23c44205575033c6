"""``RefusalStats``: the refusals of a process."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from basicauth_mw.auth.refusal_stats import MINUTES, RefusalStats
from tests.waiting import Clock


def test_refusals_are_counted_by_reason_and_by_minute() -> None:
    clock = Clock(1_000_000_020)
    stats = RefusalStats(wall_clock=clock)
    stats.count("unknown")
    clock.now += 60
    stats.count("unknown")
    stats.count("missing")

    seen = stats.snapshot()
    assert seen.since == datetime.fromtimestamp(1_000_000_020, UTC)
    assert seen.totals == {"unknown": 2, "missing": 1}
    assert seen.minutes == (*[0] * (MINUTES - 2), 1, 2)


def test_minutes_leave_after_an_hour_and_totals_stay() -> None:
    clock = Clock(1_000_000_020)
    stats = RefusalStats(wall_clock=clock)
    stats.count("unknown")
    clock.now += 60 * (MINUTES - 1)
    assert stats.snapshot().minutes[0] == 1
    clock.now += 60
    assert sum(stats.snapshot().minutes) == 0
    stats.count("unknown")
    clock.now += 10**9
    assert sum(stats.snapshot().minutes) == 0
    assert len(stats.snapshot().minutes) == MINUTES
    assert stats.snapshot().totals == {"unknown": 2}


@pytest.mark.proves("F23")
def test_a_clock_that_is_set_back_loses_nothing() -> None:
    clock = Clock(1_000_000_020)
    stats = RefusalStats(wall_clock=clock)
    stats.count("unknown")
    clock.now -= 3600
    stats.count("unknown")

    assert stats.snapshot().minutes[-1] == 2


def test_a_forked_child_counts_its_own() -> None:
    stats = RefusalStats()
    stats.count("unknown")
    child = os.fork()
    if child == 0:
        os._exit(len(stats.snapshot().totals))

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert stats.snapshot().totals == {"unknown": 1}
