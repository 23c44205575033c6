"""Warnings of ``basicauth-mw check``: settings that lose keys, and members of the index that are not ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..base import StoreWarning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .cluster import Command

_SETTINGS: Final = ("maxmemory-policy", "save", "appendonly")
_MEMBERS_SHOWN: Final = 10

CONFIG: Final[Sequence[Command]] = [("CONFIG", "GET", name) for name in _SETTINGS]


def config_warnings(replies: Sequence[object]) -> Iterator[StoreWarning]:
    """Warnings for the replies of one or more servers to ``CONFIG``."""
    for start in range(0, len(replies), len(CONFIG)):
        yield from _of_one(replies[start : start + len(CONFIG)])


def foreign_warning(index: bytes, found: Iterable[bytes]) -> Iterator[StoreWarning]:
    """A warning if the index has members that are not client IDs."""
    if foreign := list(found):
        name = index.decode()
        members = " ".join(map(_quoted, foreign[:_MEMBERS_SHOWN]))
        yield StoreWarning(
            "redis_foreign_ids",
            f"{len(foreign)} members of {name} in Redis are not client IDs; they are ignored",
            f"in redis-cli (with -c for a cluster), run  ZREM {name} {members}",
        )


def _of_one(replies: Sequence[object]) -> Iterator[StoreWarning]:
    config = {
        name: reply[1].decode(errors="replace")
        for name, reply in zip(_SETTINGS, replies, strict=True)
        if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], bytes)
    }
    policy = config.get("maxmemory-policy", "")
    if policy.startswith("allkeys-"):
        yield StoreWarning(
            "redis_evicts",
            f"Redis drops keys when its memory is full (maxmemory-policy {policy})",
            "set maxmemory-policy to noeviction, or to a volatile policy",
        )
    if config.get("save") == "" and config.get("appendonly") == "no":
        yield StoreWarning(
            "redis_not_persistent",
            "Redis stores nothing on disk: a restart loses every key",
            "set appendonly to yes",
        )


def _quoted(value: bytes) -> str:
    """Quote bytes for redis-cli."""
    plain = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')
    return '"' + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in value) + '"'
