"""The way to a master that Redis Sentinels know: asked for anew with every connection that is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import BackendUnavailable
from ._redis_ways import Stop, host_and_port

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from ._redis_url import Address


class ToMaster:
    """Asks the sentinels in turn who the master is, and makes sure that it is one.

    Args:
        addresses: Of the sentinels.
        service: What they call the master.
        options: Of connections to them, beside those of the URL.
        limit_s: What all of them together have to answer in.
    """

    def __init__(
        self, addresses: Sequence[Address], service: str, options: Mapping[str, Any], limit_s: float
    ) -> None:
        self._addresses = tuple(addresses)
        self._question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        self._options = options
        self._limit_s = limit_s / (len(self._addresses) + 1)  # so that there is time left for the master

    def stops(self) -> Generator[Stop, Any, None]:
        for sentinel in self._addresses:
            options = {**self._options, **host_and_port(sentinel)}
            answer = yield Stop(options, self._question, self._limit_s)
            address = _address(answer)
            if address is None:
                continue
            # Who has answered is the first to be asked from now on: nobody waits for one that is down.
            others = (other for other in self._addresses if other != sentinel)
            self._addresses = (sentinel, *others)
            role = yield Stop(host_and_port(address), ("ROLE",))
            if isinstance(role, Exception):
                raise role
            if isinstance(role, list) and role[:1] == [b"master"]:
                return
        raise BackendUnavailable("no Redis Sentinel knows a master: see that they are up, and its name")


def _address(reply: Any) -> Address | None:
    try:
        host, port = reply
        return host.decode(), int(port)
    except (TypeError, ValueError, AttributeError):  # down, no such master, or something else altogether
        return None
