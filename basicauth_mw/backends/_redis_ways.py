"""Which Redis server to ask, and how to get there; what is asked and connected is left to others."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._redis_url import Address

    Command = tuple[bytes | str | int, ...]


class Stop(NamedTuple):
    """A server on the way to the one that is wanted.

    Attributes:
        options: Of its connection, beside those of the URL.
        command: What to ask there; None: only connect.
        limit_s: For connecting and for the answer; None: that of the whole way.
    """

    options: Mapping[str, Any]
    command: Command | None = None
    limit_s: float | None = None


class Way(Protocol):
    """How to get a connection to some server. It can be compared and hashed."""

    def stops(self) -> Generator[Stop, Any, None]:
        """The servers to connect to, one after another: what is asked stays connected to the last.

        Each is answered with the reply to its command, or with the exception that was in its place. What is
        raised in the end says why there is no connection.
        """
        ...


@dataclass(frozen=True, slots=True)
class Direct:
    """Straight to one server.

    Attributes:
        address: Host and port; None: those of the URL.
    """

    address: Address | None = None

    def stops(self) -> Generator[Stop, Any, None]:
        outcome = yield Stop(host_and_port(self.address) if self.address else {})
        if isinstance(outcome, Exception):
            raise outcome


def host_and_port(address: Address) -> dict[str, Any]:
    """An address as options of a connection."""
    host, port = address
    return {"host": host, "port": port}


# What a question goes through: whom to ask what, answered with the replies or with an exception.
Steps = Generator[tuple[Way, "Iterable[Command]"], "list[Any] | Exception", list[Any]]


class Router(Protocol):
    """Knows which server to ask. Shared by all threads and event loops."""

    @property
    def ways(self) -> frozenset[Way]:
        """All that may be taken; another object as soon as they have changed."""
        ...

    def way_of(self, name: bytes) -> Way | None:
        """Where a key is, as far as known; None: ``ask`` finds out."""
        ...

    def doubt(self, way: Way) -> None:
        """Note that there was no answer."""
        ...

    def ask(self, commands: Iterable[Command], *, again: bool) -> Steps:
        """Each command where its key is; one reply for each. A command has one key, or more in one place.

        Args:
            commands: An error reply to one of them is returned, not raised.
            again: They may be asked twice; it is a sequence then.
        """
        ...

    def ask_all(self, commands: Iterable[Command]) -> Steps:
        """The same commands at every server that can be written; one server's replies after another's."""
        ...


class OneServer:
    """All keys are in one place.

    Args:
        way: There.
    """

    def __init__(self, way: Way) -> None:
        self.ways: frozenset[Way] = frozenset({way})
        self._way = way

    def way_of(self, _name: bytes) -> Way:
        return self._way

    def doubt(self, way: Way) -> None:
        """There is no other."""

    def ask(self, commands: Iterable[Command], *, again: bool = True) -> Steps:
        outcome = yield self._way, commands
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    ask_all = ask
