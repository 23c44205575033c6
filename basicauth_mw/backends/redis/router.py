"""Which server gets a command: the same for all, where there is no cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from .url import Address

    Command = tuple[bytes | str | int, ...]
    # A command goes through these steps: a node and what to send it, answered with replies or an exception.
    Steps = Generator[tuple["Node", Sequence[Command]], list[Any] | Exception, list[Any]]


@dataclass(frozen=True, slots=True)
class Node:
    """A server that gets commands.

    Attributes:
        address: Host and port; None: as the URL says, by Sentinels if it names some.
    """

    address: Address | None = None


class Router(Protocol):
    """Knows which node gets a command. Shared by all threads and event loops."""

    @property
    def nodes(self) -> frozenset[Node]:
        """Those that may be used; another object as soon as they have changed."""
        ...

    def node_for(self, name: bytes) -> Node | None:
        """The node of a key as far as known; None: ``route`` finds out."""
        ...

    def mark_stale(self, node: Node) -> None:
        """Note that a node gave no reply."""
        ...

    def route(self, commands: Sequence[Command], *, retry: bool) -> Steps:
        """Each command to the node of its key; a reply for each, error replies included.

        Args:
            commands: Each names one key.
            retry: They may be sent twice.
        """
        ...

    def route_all(self, commands: Sequence[Command]) -> Steps:
        """The same commands to every node that can be written; the replies of one node after another's."""
        ...


class SingleServer:
    """The router where all keys are on one server."""

    def __init__(self) -> None:
        self._node = Node()
        self.nodes = frozenset({self._node})

    def node_for(self, _name: bytes) -> Node:
        return self._node

    def mark_stale(self, node: Node) -> None:
        """There is no other."""

    def route(self, commands: Sequence[Command], *, retry: bool = True) -> Steps:
        outcome = yield self._node, commands
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    route_all = route
