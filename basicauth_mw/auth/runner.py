"""Drives a check to its decision: the steps of the verifier, with what a store reader finds for each.

The synchronous and the asynchronous driver differ in nothing but ``await``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from ..backends.reader import SLOW_CHECK_LIMIT_S
from ..errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..backends.reader import StoreReader
    from ..keys.model import Decision
    from .verifier import Effect, PendingVerification, Steps


def run(check: PendingVerification, reader: StoreReader) -> Decision:
    """Run the steps of a check to their end, performing what they ask for within one deadline."""
    return reader.count_allow(_run_shared(check, reader))


def _run_shared(check: PendingVerification, reader: StoreReader) -> Decision:
    ends_at = reader.deadline()
    if check.flight is None:
        return _run(iter(check), partial(reader.perform, ends_at=ends_at))

    def ask() -> Decision:
        # It may have been proved between the look into the cache and the beginning of this flight.
        return check.known() or _run(iter(check), partial(reader.perform, ends_at=ends_at))

    try:
        return reader.flights.ask(check.flight, ask, _wait_limit(check, ends_at))
    except TimeoutError as exc:
        return check.failed(reader.failed(exc))


async def arun(check: PendingVerification, reader: StoreReader) -> Decision:
    """``run`` for an event loop. Suspends only if something has to be waited for."""
    decision = _run_inline(check, reader)
    return reader.count_allow(await _arun_shared(check, reader) if decision is None else decision)


async def _arun_shared(check: PendingVerification, reader: StoreReader) -> Decision:
    ends_at = reader.deadline()

    def ask() -> Awaitable[Decision]:
        return _arun(iter(check), partial(reader.aperform, ends_at=ends_at))

    if check.flight is None:
        return await ask()
    try:
        return await reader.flights.aask(check.flight, ask, _wait_limit(check, ends_at))
    except TimeoutError as exc:
        return check.failed(reader.failed(exc))


def _run_inline(check: PendingVerification, reader: StoreReader) -> Decision | None:
    """Run a check that needs nothing but a lookup in a store that does not wait; None: it may need more.

    Nothing else of this thread can come between its steps, so there is nothing to share either.
    """
    if not reader.may_run_inline(is_generated=check.is_generated):
        return None
    try:
        return _run(iter(check), reader.perform_inline)
    except BlockingIOError:
        return None


def _wait_limit(check: PendingVerification, ends_at: float) -> float:
    """Until when to wait for an equal check: it may need a slow hash, which has a time limit of its own."""
    return ends_at if check.is_generated else ends_at + SLOW_CHECK_LIMIT_S


def _run(steps: Steps, perform: Callable[[Effect], object]) -> Decision:
    try:
        effect = next(steps)
        while True:
            try:
                answer = perform(effect)
            except BackendError as exc:
                effect = steps.throw(exc)  # the core says what an outage means: refuse
            except StopIteration:
                raise RuntimeError("a step was not performed") from None  # or it would pass for a verdict
            else:
                effect = steps.send(answer)
    except StopIteration as done:
        return cast("Decision", done.value)


async def _arun(steps: Steps, perform: Callable[[Effect], Awaitable[object]]) -> Decision:
    try:
        effect = next(steps)
        while True:
            try:
                answer = await perform(effect)
            except BackendError as exc:
                effect = steps.throw(exc)
            else:
                effect = steps.send(answer)
    except StopIteration as done:
        return cast("Decision", done.value)
