"""Runs commands, and checks their replies.

Errors of redis-py are raised without a context, as their frames hold the password.
"""

from __future__ import annotations

from asyncio import get_running_loop
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ...errors import BackendUnavailable
from ...runtime.fork import after_fork
from .clients import LoopClients, ThreadClients
from .cluster import Cluster, Node, SingleServer
from .connections import Connector
from .errors import is_split, translate_error

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from .cluster import Command, Route, Router
    from .url import Target

T = TypeVar("T")

_ADMIN_TIMEOUT_S: Final = 5.0


class Commands:
    """Runs commands on the servers of a store, from threads and event loops, and across a fork.

    Args:
        target: The servers.
        deadline_s: Seconds for a lookup.
    """

    def __init__(self, target: Target, deadline_s: float) -> None:
        self._connector = Connector(target)
        self.server = self._connector.server(Node())
        self._attempt_s = deadline_s / 2
        self._router: Router = Cluster(target.addresses) if target.topology == "cluster" else SingleServer()
        # Two attempts end before the deadline of the caller does, to report which step took so long.
        lookup_s = 0.8 * self._attempt_s
        self._lookups = ThreadClients(self._router, self._connector, timeout_s=lookup_s, retry=True)
        # No retry: when the reply to a swap is lost, the swap may have been made.
        self._admin = ThreadClients(self._router, self._connector, timeout_s=_ADMIN_TIMEOUT_S, retry=False)
        self._loops: dict[asyncio.AbstractEventLoop, LoopClients] = {}
        after_fork(self._reset_in_child)

    async def aget(self, name: bytes) -> Any:
        """The reply to a GET over the connections of the running event loop. May be cancelled at any time."""
        loop = get_running_loop()
        try:
            clients = self._loops.get(loop) or await self._open(loop)
            return await clients.get(name)
        except Exception as exc:
            failure = translate_error(exc, self.server)
        raise failure

    def read(self, *commands: Command) -> list[Any]:
        """Replies to a lookup, error replies included."""
        return self._run(self._lookups, self._router.route(commands))

    def replies(self, *commands: Command, retry: bool = True) -> list[Any]:
        """Replies to administrative commands, error replies included."""
        replies = self._run(self._admin, self._router.route(commands, retry=retry))
        if any(isinstance(reply, Exception) for reply in replies):
            self._admin.reconnect()  # there may be another master now
        return replies

    def replies_of_all(self, commands: Sequence[Command]) -> list[Any]:
        """Replies of every master, error replies included."""
        return self._run(self._admin, self._router.route_all(commands))

    def do(self, *commands: Command, retry: bool = True, may_be_split: bool = False) -> list[Any]:
        """Replies to administrative commands of which none may fail, except because its keys are split."""
        replies = self.replies(*commands, retry=retry)
        for reply in replies:
            if isinstance(reply, Exception) and not (may_be_split and is_split(reply)):
                raise translate_error(reply, self.server)
        return replies

    def check_type(self, reply: Any, kind: type[T], name: bytes = b"") -> T:
        """Return a reply if it has this type; raise if it has not, or is an error.

        ``name`` is the name in Redis that the command was about, for the error.
        """
        if isinstance(reply, kind):
            return reply
        if isinstance(reply, Exception):
            raise translate_error(reply, self.server, name) from None
        raise BackendUnavailable(f"{self.server} sent {type(reply).__name__} instead of {kind.__name__}")

    def items(self, reply: Any, kind: type[T], name: bytes = b"") -> list[T]:
        """``check_type`` of a reply that is a list, and of its items."""
        items = self.check_type(reply, list, name)
        for item in items:
            self.check_type(item, kind)
        return items

    def close(self) -> None:
        """Close all connections of threads."""
        self._lookups.close()
        self._admin.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        if clients := self._loops.pop(get_running_loop(), None):
            await clients.aclose()

    def _reset_in_child(self) -> object:
        # Start with new clients: a thread that the child does not have may have held the lock of a pool.
        inherited, self._loops = self._loops, {}
        return inherited, self._lookups.reset(), self._admin.reset()

    async def _open(self, loop: asyncio.AbstractEventLoop) -> LoopClients:
        for other in list(self._loops):
            if other.is_closed():
                self._loops.pop(other, None)
        made = self._loops[loop] = LoopClients(self._router, self._connector, timeout_s=self._attempt_s)
        await made.start()
        return made

    def _run(self, clients: ThreadClients, route: Route) -> list[Any]:
        try:
            return clients.run(route)
        except Exception as exc:
            failure = translate_error(exc, self.server)
        self._admin.reconnect()
        raise failure
