"""Run a pending verification to its decision, on a thread or on an event loop.

The verifier is a generator that yields effects. The two drivers perform them with a ``StoreReader`` and
differ only in ``await``. Equal verifications that run at the same time share one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from ..backends.passwords import PASSWORD_LIMIT_S
from ..errors import BackendError
from ..keys.model import Allow
from .verifier import Lookup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..backends.reader import StoreReader
    from ..keys.model import Decision
    from .verifier import Effect, PendingVerification, Steps


def run(check: PendingVerification, reader: StoreReader) -> Decision:
    """Run a verification within the deadline, blocking."""
    return _count_allow(_run_shared(check, reader), reader)


async def arun(check: PendingVerification, reader: StoreReader) -> Decision:
    """``run`` for an event loop. Suspends only if something has to wait."""
    decision = _run_inline(check, reader)
    return _count_allow(await _arun_shared(check, reader) if decision is None else decision, reader)


def _run_shared(check: PendingVerification, reader: StoreReader) -> Decision:
    ends_at = reader.deadline()

    def verify() -> Decision:
        # Another verification may have filled the cache before this one became the shared one.
        return check.cached() or _run(iter(check), partial(_perform, reader, ends_at))

    if check.share_key is None:
        return verify()
    try:
        shared: Decision = reader.single_flight.do(check.share_key, verify, _wait_limit(check, ends_at))
    except TimeoutError as exc:
        return check.failed(reader.failed(exc))
    return shared


async def _arun_shared(check: PendingVerification, reader: StoreReader) -> Decision:
    ends_at = reader.deadline()

    def verify() -> Awaitable[Decision]:
        return _arun(iter(check), partial(_aperform, reader, ends_at))

    if check.share_key is None:
        return await verify()
    try:
        shared: Decision = await reader.single_flight.ado(
            check.share_key, verify, _wait_limit(check, ends_at)
        )
    except TimeoutError as exc:
        return check.failed(reader.failed(exc))
    return shared


def _run_inline(check: PendingVerification, reader: StoreReader) -> Decision | None:
    """Run a verification that needs only a lookup that cannot wait; None if it may need more.

    It needs no sharing: nothing else runs on this thread between its steps.
    """
    if not reader.may_run_inline(for_password=not check.is_generated):
        return None
    try:
        return _run(iter(check), partial(_perform_inline, reader))
    except BlockingIOError:
        return None


def _wait_limit(check: PendingVerification, ends_at: float) -> float:
    """How long to wait for an equal verification. A password has a separate time limit."""
    return ends_at if check.is_generated else ends_at + PASSWORD_LIMIT_S


def _count_allow(decision: Decision, reader: StoreReader) -> Decision:
    if reader.metrics is not None and type(decision) is Allow:
        reader.metrics.allowed()
    return decision


# --- perform one effect


def _perform(reader: StoreReader, ends_at: float, effect: Effect) -> object:
    if isinstance(effect, Lookup):
        return reader.lookup(effect.client_id, ends_at, for_password=effect.for_password)
    return reader.passwords.verify(effect.secret, effect.hashes)


async def _aperform(reader: StoreReader, ends_at: float, effect: Effect) -> object:
    if isinstance(effect, Lookup):
        return await reader.alookup(effect.client_id, ends_at, for_password=effect.for_password)
    return await reader.passwords.averify(effect.secret, effect.hashes)


def _perform_inline(reader: StoreReader, effect: Effect) -> object:
    if isinstance(effect, Lookup):
        return reader.lookup_inline(effect.client_id)
    raise BlockingIOError  # the first password hash was stored since may_run_inline


# --- drive the generator


def _run(steps: Steps, perform: Callable[[Effect], object]) -> Decision:
    try:
        effect = next(steps)
        while True:
            try:
                result = perform(effect)
            except BackendError as exc:
                effect = steps.throw(exc)  # the verifier decides what an outage means
            except StopIteration:
                raise RuntimeError("a step was not performed") from None  # or it would pass for a decision
            else:
                effect = steps.send(result)
    except StopIteration as done:
        return cast("Decision", done.value)


async def _arun(steps: Steps, perform: Callable[[Effect], Awaitable[object]]) -> Decision:
    try:
        effect = next(steps)
        while True:
            try:
                result = await perform(effect)
            except BackendError as exc:
                effect = steps.throw(exc)
            else:
                effect = steps.send(result)
    except StopIteration as done:
        return cast("Decision", done.value)
