"""Selects the node for each command: one for all of them, or in a Redis Cluster the node of the key's slot.

Routers are sans-I/O, so threads and event loops share them. ``route`` is a generator: it yields a node and
the commands to send there, and is sent the replies of that node, or the exception that it gave none. A
cluster answers a command with a redirection when the slot of its key has moved (MOVED) or is moving (ASK).
After a MOVED, or when a node gave no reply, the slot map is stale and is refreshed from another node.

See the cluster specification of Redis: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...errors import BackendUnavailable
from ...runtime.extras import require
from .errors import exceptions

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from .url import Address

    # No int: while hiredis formats one, a signal handler that raises would crash the interpreter.
    Command = tuple[bytes | str, ...]
    Route = Generator[tuple["Node", Sequence[Command]], list[Any] | Exception, list[Any]]
    _NodeCall = Generator[tuple["Node", Sequence[Command]], list[Any] | Exception, list[Any] | Exception]

_crc = require("redis.crc", extra="redis")

_SLOTS: Final = 16384
_MAX_ATTEMPTS: Final = 5
_MAP_AGE_S: Final = 0.1  # a younger slot map is not refreshed


class Node(NamedTuple):
    """A server that commands are sent to.

    Attributes:
        address: Host and port; None: as the URL says, by Sentinels if it names some.
    """

    address: Address | None = None


_ONLY: Final = Node()


class SingleServer:
    """The router where all keys are on one server.

    Attributes:
        nodes: The nodes in use.
    """

    nodes = frozenset({_ONLY})

    def node_for(self, _name: bytes) -> Node | None:
        """The node of a key as far as known; None: ``route`` finds out."""
        return _ONLY

    def mark_stale(self, node: Node) -> None:
        """Note that a node gave no reply."""

    def route(self, commands: Sequence[Command], *, retry: bool = True) -> Route:
        """Send each command to the node of its key, and return a reply for each, error replies included.

        Args:
            commands: Each names one key.
            retry: They may be sent twice.
        """
        outcome = yield _ONLY, commands
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def route_all(self, commands: Sequence[Command]) -> Route:
        """Send the same commands to every master, and return the replies of one node after another."""
        return self.route(commands)


class Cluster:
    """Sends each command to the node that serves its key, and follows redirections."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._seeds = tuple(Node(address) for address in addresses)
        self._sources = self._seeds  # where to get a slot map, the best first
        self._map: list[Node | None] = []  # by slot; empty until it is known
        self._is_stale = True
        self._refreshed_at = float("-inf")
        self.nodes: frozenset[Node] = frozenset(self._seeds)

    def node_for(self, name: bytes) -> Node | None:
        if self._is_stale and not self._is_young():
            return None
        slot: int = _crc.key_slot(name)
        return self._map[slot]

    def mark_stale(self, node: Node) -> None:
        """Mark the slot map stale; try this node last when it is refreshed."""
        self._sources = tuple(sorted(self._sources, key=lambda source: source == node))
        self._is_stale = True

    def route(self, commands: Sequence[Command], *, retry: bool = True) -> Route:
        slots = [_crc.key_slot(_key_of(command)) for command in commands]
        replies: list[Any] = [None] * len(commands)
        pending = list(range(len(commands)))  # the indexes of commands without a reply
        asking: dict[int, Node] = {}  # the nodes for commands with an ASK redirection
        failed: dict[Node, Exception] = {}
        for _ in range(_MAX_ATTEMPTS):
            if self._is_stale:
                yield from self._refresh()
            batches: dict[Node, list[int]] = {}
            for index in pending:
                batches.setdefault(asking.get(index) or self._node_of(slots[index]), []).append(index)
            pending, redirected = [], {}
            for node, indexes in batches.items():
                if node in failed:
                    raise failed[node]
                batch = [
                    each
                    for index in indexes
                    for each in ([("ASKING",), commands[index]] if index in asking else [commands[index]])
                ]
                outcome = yield from self._send(node, batch)
                if isinstance(outcome, Exception):
                    if not retry:
                        raise outcome
                    failed[node] = outcome
                    pending += indexes
                    continue
                received = iter(outcome)
                for index in indexes:
                    if index in asking:
                        next(received)
                    reply = replies[index] = next(received)
                    if isinstance(reply, exceptions.AskError):  # of which MovedError is a subclass
                        pending.append(index)
                        target = _node_at(reply.host, reply.port, node)
                        if isinstance(reply, exceptions.MovedError):
                            self._move(slots[index], target)
                        else:
                            redirected[index] = target
            if not pending:
                return replies
            asking = redirected
        raise BackendUnavailable("the nodes of the Redis Cluster redirect from one to another")

    def route_all(self, commands: Sequence[Command]) -> Route:
        yield from self._refresh()
        replies: list[Any] = []
        for node in dict.fromkeys(filter(None, self._map)):
            outcome = yield from self._send(node, commands)
            if isinstance(outcome, Exception):
                raise outcome
            replies += outcome
        return replies

    def _node_of(self, slot: int) -> Node:
        if (node := self._map[slot]) is None:
            self._is_stale = True
            raise BackendUnavailable("no node of the Redis Cluster serves the slot of a key")
        return node

    def _move(self, slot: int, node: Node) -> None:
        """Another node serves a slot, and is the first to know about other changes."""
        self._map[slot] = node
        self._sources = (node, *(other for other in self._sources if other != node))
        self._is_stale = True

    def _send(self, node: Node, commands: Sequence[Command]) -> _NodeCall:
        """Send commands to one node. If it does not reply, or the caller gives up, the slot map is stale."""
        replied = False
        try:
            outcome = yield node, commands
            replied = not isinstance(outcome, Exception)
            return outcome
        finally:
            if not replied:
                self.mark_stale(node)

    def _refresh(self) -> Generator[tuple[Node, Sequence[Command]], list[Any] | Exception, None]:
        """Get a new slot map, unless this one is young."""
        if self._is_young():
            return
        before = self._map
        reason: Exception = BackendUnavailable("no node of the Redis Cluster knows which slots it serves")
        for node in self._sources:
            outcome = yield from self._send(node, [("CLUSTER", "SLOTS")])
            if self._map is not before:
                return  # another thread or task was faster
            if isinstance(outcome, Exception):
                reason = outcome
            elif isinstance(outcome[0], Exception):
                reason = outcome[0]
                if "cluster support disabled" in str(reason):
                    reason = BackendUnavailable(
                        "the Redis server is not a cluster: use redis:// or rediss://"
                    )
            elif any(slots := _slots(outcome[0], node)):
                self._replace(slots)
                return
        self._refreshed_at = time.monotonic()
        if not self._map:
            raise reason

    def _is_young(self) -> bool:
        return bool(self._map) and time.monotonic() < self._refreshed_at + _MAP_AGE_S

    def _replace(self, slots: list[Node | None]) -> None:
        masters = frozenset(filter(None, slots))
        self.nodes = masters.union(self._seeds)
        candidates = (*self._sources, *masters)
        self._map = slots
        self._sources = tuple(dict.fromkeys(node for node in candidates if node in self.nodes))
        self._is_stale = False
        self._refreshed_at = time.monotonic()


Router = SingleServer | Cluster


def _key_of(command: Command) -> Any:
    return command[3 if command[0] == "EVAL" else 1]


def _node_at(host: str, port: int, node: Node) -> Node:
    """The node that another one names; without a host, it is on the same host."""
    same = node.address[0] if node.address else ""
    return Node((host or same, port))


def _slots(reply: Any, node: Node) -> list[Node | None]:
    """The node of each slot by a reply to ``CLUSTER SLOTS``; empty: it is something else."""
    slots: list[Node | None] = [None] * _SLOTS
    with suppress(TypeError, ValueError, AttributeError, IndexError):
        for first, last, master, *_ in reply:
            target = _node_at((master[0] or b"").decode(), int(master[1]), node)
            for slot in range(first, last + 1):
                slots[slot] = target
        return slots
    return []
