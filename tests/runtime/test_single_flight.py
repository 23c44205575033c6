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


class Question:
    """Counts its calls, and returns when the test allows it."""

    def __init__(self, answer: Callable[[], str] = lambda: "answer") -> None:
        self.asked = 0
        self.answer = answer
        self.go_on = threading.Event()

    def __call__(self) -> str:
        self.asked += 1
        assert self.go_on.wait(LIMIT_S)
        return self.answer()

    async def aask(self) -> str:
        self.asked += 1
        while not self.go_on.is_set():
            await asyncio.sleep(0)
        return self.answer()


def fail() -> str:
    raise LookupError("away")


def in_threads(flights: SingleFlight[str], question: Question, *, count: int) -> list[object]:
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(flights.do("same", question, later()))
        except Exception as exc:
            answers.append(type(exc))

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    end = later()
    # Each but one waits for the one: nothing else can be seen from outside.
    while question.asked == 0 or sum(waits_in_result(thread) for thread in threads) < count - 1:
        assert time.monotonic() < end
        time.sleep(0.005)
    question.go_on.set()
    for thread in threads:
        thread.join(LIMIT_S)
    return answers


def waits_in_result(thread: threading.Thread) -> bool:
    import sys

    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "result":
            return True
        frame = frame.f_back
    return False


@pytest.mark.parametrize(
    ("answer", "expected"), [(lambda: "answer", "answer"), (fail, LookupError)], ids=["answer", "failure"]
)
def test_threads_share(answer: Callable[[], str], expected: object) -> None:
    flights: SingleFlight[str] = SingleFlight()
    question = Question(answer)
    assert in_threads(flights, question, count=8) == [expected] * 8
    assert question.asked == 1


@pytest.mark.proves("F26", "F27")
def test_no_result_is_kept() -> None:
    flights: SingleFlight[str] = SingleFlight()
    for answer in (fail, lambda: "answer", lambda: "other"):
        question = Question(answer)
        question.go_on.set()
        if answer is fail:
            with pytest.raises(LookupError):
                flights.do("same", question, later())
        else:
            assert flights.do("same", question, later()) == answer()
    assert not flights._threads


def test_a_thread_waits_until_its_deadline() -> None:
    flights: SingleFlight[str] = SingleFlight()
    question = Question()
    leader = threading.Thread(target=flights.do, args=("same", question, later()))
    leader.start()
    end = later()
    while not question.asked:
        assert time.monotonic() < end
        time.sleep(0.005)
    with pytest.raises(TimeoutError):
        flights.do("same", question, time.monotonic() + 0.01)
    question.go_on.set()
    leader.join(LIMIT_S)


def test_different_keys_share_nothing() -> None:
    flights: SingleFlight[str] = SingleFlight()
    question = Question()

    async def ask() -> list[str]:
        asked = [asyncio.create_task(flights.ado(what, question.aask, later())) for what in "abc"]
        while question.asked < 3:
            await asyncio.sleep(0)
        question.go_on.set()
        return await asyncio.gather(*asked)

    assert asyncio.run(ask()) == ["answer"] * 3


@pytest.mark.parametrize(
    ("answer", "expected"), [(lambda: "answer", "answer"), (fail, LookupError)], ids=["answer", "failure"]
)
def test_tasks_share(answer: Callable[[], str], expected: object) -> None:
    flights: SingleFlight[str] = SingleFlight()
    question = Question(answer)

    async def ask() -> list[object]:
        asked = [asyncio.create_task(flights.ado("same", question.aask, later())) for _ in range(32)]
        for _ in range(5):
            await asyncio.sleep(0)
        question.go_on.set()
        done = await asyncio.gather(*asked, return_exceptions=True)
        return [type(each) if isinstance(each, Exception) else each for each in done]

    assert asyncio.run(ask()) == [expected] * 32
    assert question.asked == 1
    assert not flights._tasks


@pytest.mark.proves("F27")
def test_a_cancelled_first_caller_does_not_cancel_the_others() -> None:
    flights: SingleFlight[str] = SingleFlight()
    question = Question()

    async def ask() -> list[object]:
        asked = [asyncio.create_task(flights.ado("same", question.aask, later())) for _ in range(8)]
        await asyncio.sleep(0)
        asked[0].cancel()
        while question.asked < 2:
            await asyncio.sleep(0)
        question.go_on.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    cancelled, *answers = asyncio.run(ask())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert answers == ["answer"] * 7
    assert question.asked == 2


@pytest.mark.proves("F27")
def test_a_cancelled_waiter_does_not_affect_the_others() -> None:
    flights: SingleFlight[str] = SingleFlight()
    question = Question()

    async def ask() -> list[object]:
        asked = [asyncio.create_task(flights.ado("same", question.aask, later())) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asked[1].cancel()
        await asyncio.sleep(0)
        question.go_on.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert (first, third) == ("answer", "answer")
    assert isinstance(second, asyncio.CancelledError)
    assert question.asked == 1


def test_a_task_waits_until_its_deadline() -> None:
    flights: SingleFlight[str] = SingleFlight()
    question = Question()

    async def ask() -> None:
        leader = asyncio.create_task(flights.ado("same", question.aask, later()))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await flights.ado("same", question.aask, time.monotonic() + 0.01)
        question.go_on.set()
        assert await leader == "answer"

    asyncio.run(ask())
    assert question.asked == 1


def test_event_loops_do_not_wait_for_each_other() -> None:
    flights: SingleFlight[str] = SingleFlight()
    question = Question()
    answers: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(asyncio.run(flights.ado("same", question.aask, later())))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    end = later()
    while question.asked < 2:
        assert time.monotonic() < end
        time.sleep(0.005)
    question.go_on.set()
    for thread in threads:
        thread.join(LIMIT_S)
    assert answers == ["answer"] * 2
