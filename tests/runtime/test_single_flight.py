"""Single flight: concurrent callers share one call, and a cancelled one does not cancel the others."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pytest

from basicauth_mw.runtime.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_S = 10.0


def later() -> float:
    return time.monotonic() + LIMIT_S


class Lookup:
    """Counts its calls, and returns when the test allows it."""

    def __init__(self, result: Callable[[], str] = lambda: "result") -> None:
        self.calls = 0
        self.result = result
        self.go_on = threading.Event()

    def __call__(self) -> str:
        self.calls += 1
        assert self.go_on.wait(LIMIT_S)
        return self.result()

    async def acall(self) -> str:
        self.calls += 1
        while not self.go_on.is_set():
            await asyncio.sleep(0)
        return self.result()


def fail() -> str:
    raise LookupError("away")


def in_threads(single_flight: SingleFlight[str], lookup: Lookup, *, count: int) -> list[object]:
    results: list[object] = []

    def run() -> None:
        try:
            results.append(single_flight.do("same", lookup, later()))
        except Exception as exc:
            results.append(type(exc))

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    end = later()
    # All threads except one wait for that one, which is all that can be observed from outside.
    while lookup.calls == 0 or sum(waits_in_result(thread) for thread in threads) < count - 1:
        assert time.monotonic() < end
        time.sleep(0.005)
    lookup.go_on.set()
    for thread in threads:
        thread.join(LIMIT_S)
    return results


def waits_in_result(thread: threading.Thread) -> bool:
    import sys

    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "result":
            return True
        frame = frame.f_back
    return False


@pytest.mark.parametrize(
    ("result", "expected"), [(lambda: "result", "result"), (fail, LookupError)], ids=["result", "failure"]
)
def test_threads_share(result: Callable[[], str], expected: object) -> None:
    single_flight: SingleFlight[str] = SingleFlight()
    lookup = Lookup(result)
    assert in_threads(single_flight, lookup, count=8) == [expected] * 8
    assert lookup.calls == 1


@pytest.mark.proves("F26", "F27")
def test_no_result_is_kept() -> None:
    single_flight: SingleFlight[str] = SingleFlight()
    for result in (fail, lambda: "result", lambda: "other"):
        lookup = Lookup(result)
        lookup.go_on.set()
        if result is fail:
            with pytest.raises(LookupError):
                single_flight.do("same", lookup, later())
        else:
            assert single_flight.do("same", lookup, later()) == result()
    assert not single_flight._threads


def test_a_thread_waits_until_its_deadline() -> None:
    single_flight: SingleFlight[str] = SingleFlight()
    lookup = Lookup()
    leader = threading.Thread(target=single_flight.do, args=("same", lookup, later()))
    leader.start()
    end = later()
    while not lookup.calls:
        assert time.monotonic() < end
        time.sleep(0.005)
    with pytest.raises(TimeoutError):
        single_flight.do("same", lookup, time.monotonic() + 0.01)
    lookup.go_on.set()
    leader.join(LIMIT_S)


def test_different_keys_share_nothing() -> None:
    single_flight: SingleFlight[str] = SingleFlight()
    lookup = Lookup()

    async def main() -> list[str]:
        tasks = [asyncio.create_task(single_flight.ado(what, lookup.acall, later())) for what in "abc"]
        while lookup.calls < 3:
            await asyncio.sleep(0)
        lookup.go_on.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == ["result"] * 3


@pytest.mark.parametrize(
    ("result", "expected"), [(lambda: "result", "result"), (fail, LookupError)], ids=["result", "failure"]
)
def test_tasks_share(result: Callable[[], str], expected: object) -> None:
    single_flight: SingleFlight[str] = SingleFlight()
    lookup = Lookup(result)

    async def main() -> list[object]:
        tasks = [asyncio.create_task(single_flight.ado("same", lookup.acall, later())) for _ in range(32)]
        for _ in range(5):
            await asyncio.sleep(0)
        lookup.go_on.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        return [type(each) if isinstance(each, Exception) else each for each in done]

    assert asyncio.run(main()) == [expected] * 32
    assert lookup.calls == 1
    assert not single_flight._tasks


@pytest.mark.proves("F27")
def test_a_cancelled_first_caller_does_not_cancel_the_others() -> None:
    single_flight: SingleFlight[str] = SingleFlight()
    lookup = Lookup()

    async def main() -> list[object]:
        tasks = [asyncio.create_task(single_flight.ado("same", lookup.acall, later())) for _ in range(8)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        while lookup.calls < 2:
            await asyncio.sleep(0)
        lookup.go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    cancelled, *results = asyncio.run(main())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert results == ["result"] * 7
    assert lookup.calls == 2


@pytest.mark.proves("F27")
def test_a_cancelled_waiter_does_not_affect_the_others() -> None:
    single_flight: SingleFlight[str] = SingleFlight()
    lookup = Lookup()

    async def main() -> list[object]:
        tasks = [asyncio.create_task(single_flight.ado("same", lookup.acall, later())) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        lookup.go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = asyncio.run(main())
    assert (first, third) == ("result", "result")
    assert isinstance(second, asyncio.CancelledError)
    assert lookup.calls == 1


def test_a_task_waits_until_its_deadline() -> None:
    single_flight: SingleFlight[str] = SingleFlight()
    lookup = Lookup()

    async def main() -> None:
        leader = asyncio.create_task(single_flight.ado("same", lookup.acall, later()))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await single_flight.ado("same", lookup.acall, time.monotonic() + 0.01)
        lookup.go_on.set()
        assert await leader == "result"

    asyncio.run(main())
    assert lookup.calls == 1


def test_event_loops_do_not_wait_for_each_other() -> None:
    single_flight: SingleFlight[str] = SingleFlight()
    lookup = Lookup()
    results: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(asyncio.run(single_flight.ado("same", lookup.acall, later())))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    end = later()
    while lookup.calls < 2:
        assert time.monotonic() < end
        time.sleep(0.005)
    lookup.go_on.set()
    for thread in threads:
        thread.join(LIMIT_S)
    assert results == ["result"] * 2
