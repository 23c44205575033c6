"""Selects the node for each command: one for all of them, or in a Redis Cluster the node of the key's slot.

Routers are sans-I/O, so threads and event loops share them. ``route`` is a generator: it yields a node and
the commands to send there, and is sent the replies of that node, or the exception that it gave none. A
cluster answers a command with a redirection when the slot of its key has moved (MOVED) or is moving (ASK).
After a MOVED, or when a node gave no reply, the slot map is stale and is refreshed from another node.

See the cluster specification of Redis: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

import time
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ...errors import BackendUnavailable
from ...runtime.extras import require
from .errors import parse_redirect

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Sequence

    from .url import Address

    Command = tuple[bytes | str | int, ...]
    Steps = Generator[tuple["Node", Sequence[Command]], list[Any] | Exception, list[Any]]
    _Asking = Generator[tuple["Node", Sequence[Command]], list[Any] | Exception, list[Any] | Exception]

_crc = require("redis.crc", extra="redis")

_MAX_ROUNDS: Final = 5
_MAP_AGE_S: Final = 0.1  # a younger map is not asked for again


@dataclass(frozen=True, slots=True)
class Node:
    """A server that commands are sent to.

    Attributes:
        address: Host and port; None: as the URL says, by Sentinels if it names some.
    """

    address: Address | None = None


class SingleServer:
    """The router where all keys are on one server.

    Attributes:
        nodes: The nodes in use; another object as soon as they have changed.
    """

    def __init__(self) -> None:
        self._node = Node()
        self.nodes = frozenset({self._node})

    def node_for(self, _name: bytes) -> Node | None:
        """The node of a key as far as known; None: ``route`` finds out."""
        return self._node

    def mark_stale(self, node: Node) -> None:
        """Note that a node gave no reply."""

    def route(self, commands: Sequence[Command], *, retry: bool = True) -> Steps:
        """Send each command to the node of its key, and return a reply for each, error replies included.

        Args:
            commands: Each names one key.
            retry: They may be sent twice.
        """
        outcome = yield self._node, commands
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def route_all(self, commands: Sequence[Command]) -> Steps:
        """Send the same commands to every master, and return the replies of one node after another."""
        return self.route(commands)


class SlotMap:
    """Which node serves which slots.

    Args:
        ranges: First slot, last slot, and who serves them.
    """

    def __init__(self, ranges: Sequence[tuple[int, int, Node]]) -> None:
        self._ranges = sorted(ranges, key=lambda each: each[0])
        self._firsts = [first for first, _, _ in self._ranges]
        self._moved: dict[int, Node] = {}
        self.nodes = frozenset(node for _, _, node in ranges)

    def node_of(self, slot: int) -> Node | None:
        """Who serves a slot; None: nobody."""
        if (moved := self._moved.get(slot)) is not None:
            return moved
        number = bisect_right(self._firsts, slot) - 1
        if number < 0:
            return None
        _, last, node = self._ranges[number]
        return node if slot <= last else None

    def move(self, slot: int, node: Node) -> None:
        """Note what a redirection has told."""
        self._moved[slot] = node


class Cluster:
    """Asks each command at the node that serves its key, and follows when that has changed.

    Args:
        addresses: Of some nodes, to begin with.
    """

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._seeds = tuple(Node(address) for address in addresses)
        self._sources = self._seeds  # whom to ask for a map, the best first
        self._map = SlotMap([])
        self._is_stale = True
        self._asked_at = float("-inf")  # when there last was an answer to what the map is
        self.nodes: frozenset[Node] = frozenset(self._seeds)

    def node_for(self, name: bytes) -> Node | None:
        if self._is_stale and not self._is_young():
            return None
        return self._map.node_of(_crc.key_slot(name))

    def mark_stale(self, node: Node) -> None:
        """Mark the slot map stale; try this node last when it is refreshed."""
        self._sources = tuple(sorted(self._sources, key=lambda source: source == node))
        self._is_stale = True

    def route(self, commands: Sequence[Command], *, retry: bool = True) -> Steps:
        slots = [_crc.key_slot(_key_of(command)) for command in commands]
        replies: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        asking: dict[int, Node] = {}  # by the number of a command: who takes it this once
        failed: dict[Node, Exception] = {}
        for _ in range(_MAX_ROUNDS):
            if self._is_stale:
                yield from self._refresh()
            places: dict[Node, list[int]] = {}
            for number in left:
                places.setdefault(asking.get(number) or self._node_of(slots[number]), []).append(number)
            for node in places.keys() & failed.keys():
                raise failed[node]
            left, redirected = [], {}
            for node, numbers in places.items():
                outcome = yield from self._ask(node, _batch(commands, numbers, asking))
                if isinstance(outcome, Exception):
                    if not retry:
                        raise outcome
                    failed[node] = outcome
                    left += numbers
                    continue
                answers = iter(outcome)
                for number in numbers:
                    if number in asking:
                        next(answers)
                    reply = replies[number] = next(answers)
                    if (sent := parse_redirect(reply)) is None:
                        continue
                    left.append(number)
                    there = _named_by(sent.host, sent.port, node)
                    if sent.once:
                        redirected[number] = there
                    else:
                        self._moved(slots[number], there)
            if not left:
                return replies
            asking = redirected
        raise BackendUnavailable("the nodes of the Redis Cluster send us from one to another")

    def route_all(self, commands: Sequence[Command]) -> Steps:
        yield from self._refresh()
        replies: list[Any] = []
        for node in self._map.nodes:
            outcome = yield from self._ask(node, commands)
            if isinstance(outcome, Exception):
                raise outcome
            replies += outcome
        return replies

    def _node_of(self, slot: int) -> Node:
        if (node := self._map.node_of(slot)) is None:
            self._is_stale = True
            raise BackendUnavailable("no node of the Redis Cluster serves the slot of a key")
        return node

    def _moved(self, slot: int, node: Node) -> None:
        """Somebody else serves a slot, and knows better than others who serves which."""
        self._map.move(slot, node)
        self._sources = (node, *(other for other in self._sources if other != node))
        self._is_stale = True

    def _ask(self, node: Node, commands: Sequence[Command]) -> _Asking:
        """Ask one node. Where that fails, or is given up, the map may be of yesterday."""
        answered = False
        try:
            outcome = yield node, commands
            answered = not isinstance(outcome, Exception)
            return outcome
        finally:
            if not answered:
                self.mark_stale(node)

    def _refresh(self) -> Generator[tuple[Node, Sequence[Command]], list[Any] | Exception, None]:
        """Get a new map, unless this one is very young."""
        if self._is_young():
            return
        known = self._map
        reason: Exception = BackendUnavailable("no node of the Redis Cluster knows who serves which slots")
        for node in self._sources:
            outcome = yield from self._ask(node, [("CLUSTER", "SLOTS")])
            if self._map is not known:
                return  # somebody else was faster
            if isinstance(outcome, Exception):
                reason = outcome
            elif isinstance(outcome[0], Exception):
                reason = _reason(outcome[0])
            elif ranges := _ranges(outcome[0], node):
                self._take(SlotMap(ranges))
                return
        self._asked_at = time.monotonic()
        if not known.nodes:
            raise reason

    def _is_young(self) -> bool:
        return bool(self._map.nodes) and time.monotonic() < self._asked_at + _MAP_AGE_S

    def _take(self, new: SlotMap) -> None:
        candidates = (*self._sources, *new.nodes)
        self._map = new
        self._sources = tuple(
            dict.fromkeys(node for node in candidates if node in new.nodes or node in self._seeds)
        )
        self._is_stale = False
        self._asked_at = time.monotonic()
        nodes = new.nodes.union(self._seeds)
        if nodes != self.nodes:
            self.nodes = nodes


Router = SingleServer | Cluster


def _key_of(command: Command) -> Any:
    return command[3 if command[0] == "EVAL" else 1]


def _batch(commands: Sequence[Command], numbers: Sequence[int], asking: Collection[int]) -> list[Command]:
    batch: list[Command] = []
    for number in numbers:
        if number in asking:
            batch.append(("ASKING",))
        batch.append(commands[number])
    return batch


def _named_by(host: str, port: int, node: Node) -> Node:
    """Whom a node tells us of; without a host, it is the same one."""
    same = node.address[0] if node.address else ""
    return Node((host or same, port))


def _ranges(reply: Any, node: Node) -> list[tuple[int, int, Node]]:
    """What ``CLUSTER SLOTS`` says; nothing, if it is something else."""
    try:
        return [
            (first, last, _named_by((master[0] or b"").decode(), int(master[1]), node))
            for first, last, master, *_ in reply
        ]
    except (TypeError, ValueError, AttributeError, IndexError):
        return []


def _reason(error: Exception) -> Exception:
    if "cluster support disabled" in str(error):
        return BackendUnavailable("the Redis server is no cluster: name it by redis:// or rediss://")
    return error
