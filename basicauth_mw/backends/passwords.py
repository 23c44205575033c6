"""Verify passwords on a few threads: a password hash takes much time and memory, by design."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from ..errors import BackendError, MissingExtra, Overloaded, UnreadableRecord
from ..keys.hashing import dummy_password_hash, verify_password
from ..runtime.deadline import await_until
from ..runtime.pool import QueueFull, WorkerPool

if TYPE_CHECKING:
    from ..runtime.pool import Job

MAX_QUEUE_PER_WORKER: Final = 8
PASSWORD_LIMIT_S: Final = 5.0  # including the time in the queue: a flood is refused instead of queued


class PasswordPool:
    """Verifies passwords in a bounded pool.

    Args:
        workers: Maximum number of passwords verified at the same time.
    """

    def __init__(self, workers: int) -> None:
        self._pool = WorkerPool("password", workers=workers, max_queue=MAX_QUEUE_PER_WORKER * workers)

    def close(self) -> None:
        """Stop the threads. A later call starts them again."""
        self._pool.close()

    def verify(self, secret: str, hashes: tuple[str, ...]) -> int | None:
        """Verify a password, blocking.

        Args:
            secret: The password.
            hashes: The stored hashes; if there are none, a dummy hash is verified.

        Returns:
            The index of the hash that matches, or None.

        Raises:
            Overloaded: Every worker is busy, or it took more than 5 seconds.
            UnreadableRecord: The library for a stored hash is not installed.
        """
        job = self._submit(secret, hashes)
        try:
            return job.result(PASSWORD_LIMIT_S)
        except TimeoutError:
            job.cancel()
            raise Overloaded("a password had to wait too long for its verification") from None

    async def averify(self, secret: str, hashes: tuple[str, ...]) -> int | None:
        """``verify`` for an event loop."""
        from asyncio import wrap_future  # a WSGI process never needs asyncio

        job = self._submit(secret, hashes)
        try:
            # Cancelling the wait takes the job out of the queue.
            return await await_until(time.monotonic() + PASSWORD_LIMIT_S, wrap_future(job))
        except TimeoutError:
            raise Overloaded("a password had to wait too long for its verification") from None

    def _submit(self, secret: str, hashes: tuple[str, ...]) -> Job[int | None]:
        try:
            return self._pool.submit(partial(_verify_any, secret, hashes))
        except QueueFull:
            raise Overloaded("every worker that verifies passwords is busy") from None


def _verify_any(secret: str, hashes: tuple[str, ...]) -> int | None:
    try:
        # Create the dummy before branching, so its one-time cost does not reveal whether the ID exists.
        dummy = dummy_password_hash()
        if not hashes:
            verify_password(secret, dummy)
            return None
        return next((index for index, hashed in enumerate(hashes) if verify_password(secret, hashed)), None)
    except MissingExtra as exc:
        failure: BackendError = UnreadableRecord(f"a stored hash cannot be verified: {exc}")
    except BackendError:
        raise
    except Exception as exc:  # out of memory, for example
        failure = Overloaded(f"the verification of a password failed ({type(exc).__name__})")
    # Raised here, so that its context is not an exception whose frames hold the secret.
    raise failure
