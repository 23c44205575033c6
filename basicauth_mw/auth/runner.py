"""Run a pending verification to its decision, on a thread or on an event loop.

The verification itself does no I/O. The two drivers perform its lookup and its password hash with a
``StoreReader`` and differ only in ``await``. Equal verifications that run at the same time share one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..backends.passwords import PASSWORD_LIMIT_S
from ..errors import BackendError
from ..keys.model import Principal
from .verifier import VerifyPassword

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ..backends.reader import DecisionHook, StoreReader
    from ..keys.model import Decision
    from .verifier import PendingVerification


def run(pending: PendingVerification, reader: StoreReader) -> Decision:
    """Run a verification within the deadline, blocking."""
    decision = _run_inline(pending, reader)
    if decision is None:
        decision = _run_shared(pending, reader)
    return _report_allow(decision, reader.hooks) if reader.hooks else decision


async def arun(pending: PendingVerification, reader: StoreReader) -> Decision:
    """``run`` for an event loop. Suspends only if something has to wait."""
    decision = _run_inline(pending, reader)
    if decision is None:
        decision = await _arun_shared(pending, reader)
    return _report_allow(decision, reader.hooks) if reader.hooks else decision


def _run_inline(pending: PendingVerification, reader: StoreReader) -> Decision | None:
    """Run a verification that needs only a lookup that cannot wait; None if it may need more.

    It is not shared: it takes less time than checking whether an equal one is running.
    """
    try:
        decision = pending.decide(
            reader.lookup_inline(pending.client_id, for_password=not pending.is_generated)
        )
    except BlockingIOError:
        return None
    except BackendError as exc:
        return pending.deny(exc)
    # None: the first password hash was stored since the lookup.
    return None if isinstance(decision, VerifyPassword) else decision


def _run_shared(pending: PendingVerification, reader: StoreReader) -> Decision:
    ends_at = reader.deadline()

    def verify() -> Decision:
        # Another verification may have filled the cache before this one became the shared one.
        return pending.cached() or _run(pending, reader, ends_at)

    if pending.share_key is None:
        return verify()
    try:
        shared: Decision = reader.single_flight.do(pending.share_key, verify, _wait_limit(pending, ends_at))
    except TimeoutError as exc:
        return pending.deny(reader.breaker.record_failure(exc))
    return shared


async def _arun_shared(pending: PendingVerification, reader: StoreReader) -> Decision:
    ends_at = reader.deadline()

    def verify() -> Awaitable[Decision]:
        return _arun(pending, reader, ends_at)

    if pending.share_key is None:
        return await verify()
    try:
        shared: Decision = await reader.single_flight.ado(
            pending.share_key, verify, _wait_limit(pending, ends_at)
        )
    except TimeoutError as exc:
        return pending.deny(reader.breaker.record_failure(exc))
    return shared


def _run(pending: PendingVerification, reader: StoreReader, ends_at: float) -> Decision:
    try:
        found = reader.lookup(pending.client_id, ends_at, for_password=not pending.is_generated)
        decision = pending.decide(found)
        if isinstance(decision, VerifyPassword):
            decision = decision.conclude(reader.passwords.verify(decision.secret, decision.hashes))
    except BackendError as exc:
        return pending.deny(exc)
    return decision


async def _arun(pending: PendingVerification, reader: StoreReader, ends_at: float) -> Decision:
    try:
        found = await reader.alookup(pending.client_id, ends_at, for_password=not pending.is_generated)
        decision = pending.decide(found)
        if isinstance(decision, VerifyPassword):
            decision = decision.conclude(await reader.passwords.averify(decision.secret, decision.hashes))
    except BackendError as exc:
        return pending.deny(exc)
    return decision


def _wait_limit(pending: PendingVerification, ends_at: float) -> float:
    """How long to wait for an equal verification. A password has a separate time limit."""
    return ends_at if pending.is_generated else ends_at + PASSWORD_LIMIT_S


def _report_allow(decision: Decision, hooks: tuple[DecisionHook, ...]) -> Decision:
    if type(decision) is Principal:
        for hook in hooks:
            hook.allowed(decision.client_id)
    return decision
