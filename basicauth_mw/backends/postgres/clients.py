"""The connections of a store: a few that all threads share, and one for each event loop.

A connection is opened when it is needed, and closed when it has been idle for a minute. If a connection turns
out to be dead, its work is done on a new one, within the same deadline. A change that was sent is not
repeated; if its reply is lost, the caller reads back what happened.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ...errors import BackendUnavailable
from ...runtime.background import BackgroundThread
from ...runtime.batches import Batcher
from ...runtime.fork import after_fork
from .errors import ConnectionFailed
from .libpq import execute, pq, run

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from .libpq import Connector, Do, Value, Waiting, Work

    Lookup = Callable[[Sequence[str], Do], Coroutine[Any, Any, list[str | bytes | None]]]

T = TypeVar("T")

THREAD_CONNECTIONS: Final = 4
IDLE_S: Final = 60.0
_CHECK_EVERY_S: Final = 15.0


class Session:
    """One connection, which does one unit of work at a time.

    Args:
        connector: Opens the connection.
        names: The tables by their names in statements.
        waiting: Waits in a thread or on an event loop.
        check: Done on each new connection; returns the process ID of the server. An exception means that the
            connection cannot be used.
    """

    def __init__(
        self,
        connector: Connector,
        names: Mapping[str, str],
        waiting: Waiting,
        check: Work[int] | None = None,
    ) -> None:
        self._connector = connector
        self._names = names
        self._waiting = waiting
        self._check = check
        self._prepared: set[str] | None = None  # the names of statements; None: none may be prepared
        self._has_replied = False
        self.connection: Any = None
        self.used_at = 0.0

    async def perform(self, work: Work[T], timeout_s: float) -> T:
        """Do some work within a time limit.

        If there is no reply to its first statement on an old connection, the work is done on a new one: that
        statement only reads, or begins a transaction, or can be repeated.
        """
        until = time.monotonic() + timeout_s
        if self.connection is not None:
            try:
                return await self._attempt(work, until, first_until=until - timeout_s / 2)
            except (ConnectionFailed, TimeoutError):
                if self._has_replied:
                    raise
        self._prepared = None
        self.connection = await self._connector.connect(self._waiting, until)
        if self._check is not None:
            try:
                pid = await self._attempt(self._check, until, first_until=until)
            except BaseException:
                self.close()
                raise
            if pid == self.connection.backend_pid:  # a pooler has another, and prepares nothing
                self._prepared = set()
        return await self._attempt(work, until, first_until=until)

    def close(self) -> None:
        """Close the connection; the next work opens another."""
        if self.connection is not None:
            self.connection.finish()
            self.connection = None

    async def _attempt(self, work: Work[T], until: float, *, first_until: float) -> T:
        connection, self.connection = self.connection, None
        self._has_replied = False

        async def do(statement: str, values: Sequence[Value] | None = None, name: str = "") -> Any:
            text = statement.format_map(self._names)
            ends_at = until if self._has_replied else first_until
            if self._prepared is None:
                name = ""
            elif name and name not in self._prepared:
                await execute(connection, self._waiting, ends_at, text, name=name)
                self._prepared.add(name)
            result = await execute(connection, self._waiting, ends_at, text, values, name=name)
            self._has_replied = True
            return result

        try:
            result = await work(do)
        except BaseException:
            # It is broken, in a transaction, or out of step with the replies. Or a statement was prepared
            # before the tables changed, or was prepared and its name is not in the set yet.
            connection.finish()
            raise
        if connection.transaction_status == pq.TransactionStatus.IDLE:
            self.connection = connection
            self.used_at = time.monotonic()
        else:
            connection.finish()
        return result


class ThreadClients:
    """The connections that all threads of the process share."""

    def __init__(self, new_session: Callable[[], Session]) -> None:
        self._new_session = new_session
        self._closer = BackgroundThread("postgres", self._close_idle)
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> object:
        inherited = getattr(self, "_idle", None)
        self._slots = _slots(THREAD_CONNECTIONS)
        self._admin_slots = _slots(THREAD_CONNECTIONS // 2)
        self._idle: list[Session] = []
        return inherited

    def run(self, work: Work[T], timeout_s: float) -> T:
        """Do some work in this thread. Raises as ``execute`` and ``Connector.connect`` do."""
        ends_at = time.monotonic() + timeout_s
        slots, idle = self._slots, self._idle
        try:
            for slot in iter(partial(slots.get, timeout=max(0, timeout_s)), None):  # see _slots
                try:
                    try:
                        session = idle.pop()
                    except IndexError:
                        session = self._new_session()
                    try:
                        return run(session.perform(work, ends_at - time.monotonic()))
                    finally:
                        if idle is self._idle and session.connection is not None:
                            idle.append(session)
                            self._closer.start()
                        else:
                            session.close()
                finally:
                    slots.put(slot)
        except Empty:
            pass
        raise BackendUnavailable(f"all {THREAD_CONNECTIONS} connections of this process are in use")

    def run_admin(self, work: Work[T], timeout_s: float) -> T:
        """``run`` for all but lookups, such as changes, which wait for each other.

        It uses half of the connections, so that it never keeps a lookup from one.
        """
        ends_at = time.monotonic() + timeout_s
        slots = self._admin_slots
        try:
            for slot in iter(partial(slots.get, timeout=max(0, timeout_s)), None):
                try:
                    return self.run(work, ends_at - time.monotonic())
                finally:
                    slots.put(slot)
        except Empty:
            pass
        raise BackendUnavailable("other work of this process uses the connections for changes and lists")

    def close(self) -> None:
        """Close all connections; one in use is closed when its work is done."""
        self._closer.stop()
        idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    def _close_idle(self, closing: threading.Event) -> None:
        while not closing.wait(_CHECK_EVERY_S):
            since = time.monotonic() - IDLE_S
            idle = self._idle
            for session in [each for each in idle if each.used_at < since]:
                with suppress(ValueError):  # another thread uses it
                    idle.remove(session)
                    session.close()
            if not idle:
                self._closer.stop()
                if self._idle:  # appended meanwhile
                    self._closer.start()
                return


def _slots(count: int) -> SimpleQueue[int]:
    """A semaphore for signal handlers that raise: one of ``threading`` may stay locked after them.

    A handler may run at the end of a call, before its result is used, but not between two steps of an
    iteration. So a slot is taken by an iteration, and cannot get lost.
    """
    slots: SimpleQueue[int] = SimpleQueue()
    for number in range(count):
        slots.put(number)
    return slots


class LoopClients:
    """One connection for each event loop.

    Lookups of one iteration of a loop are sent as one query, as are those that wait for a reply.

    Args:
        new_session: Returns a connection.
        lookup: Returns the record of each ID, or None.
        timeout_s: Seconds for a query, including DNS and connecting.
    """

    def __init__(self, new_session: Callable[[], Session], lookup: Lookup, *, timeout_s: float) -> None:
        self._new_session = new_session
        self._lookup = lookup
        self._timeout_s = timeout_s
        self._clients: dict[asyncio.AbstractEventLoop, _LoopClient] = {}
        after_fork(self._reset)

    def _reset(self) -> object:
        inherited, self._clients = self._clients, {}
        return inherited

    async def get(self, client_id: str) -> str | bytes | None:
        """Return a record. May be cancelled at any time."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            self.close_ended()
            client = _LoopClient(self._new_session(), self._lookup, self._timeout_s)
            self._clients[loop] = client
        return await client.batcher.get(client_id)

    def close_ended(self) -> None:
        """Close the connections of event loops that are closed."""
        for loop in list(self._clients):
            if loop.is_closed() and (client := self._clients.pop(loop, None)):
                client.close()

    async def aclose(self) -> None:
        """Close the connection of the running event loop; lookups that wait for a reply fail."""
        if client := self._clients.pop(asyncio.get_running_loop(), None):
            if (task := client.batcher.cancel()) is not None:
                await asyncio.wait([task])
            client.close()


class _LoopClient:
    def __init__(self, session: Session, lookup: Lookup, timeout_s: float) -> None:
        self._session = session
        self._lookup = lookup
        self._timeout_s = timeout_s
        self._closer: asyncio.TimerHandle | None = None
        self.batcher = Batcher(self._send)

    def close(self) -> None:
        if self._closer is not None:
            self._closer.cancel()
        self._session.close()

    async def _send(self, ids: Sequence[str]) -> list[str | bytes | None]:
        found = await self._session.perform(partial(self._lookup, ids), self._timeout_s)
        if self._closer is None:
            self._close_idle()
        return found

    def _close_idle(self) -> None:
        """Close the connection if it has been idle for long enough; look again later if it has not."""
        left = self._session.used_at + IDLE_S - time.monotonic()
        if left > 0:
            self._closer = asyncio.get_running_loop().call_later(left, self._close_idle)
        else:
            self._closer = None
            self._session.close()  # unless it is in use
