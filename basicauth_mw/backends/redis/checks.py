"""Warnings of ``basicauth-mw check``: settings that lose keys, and members of the index that are not IDs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..base import StoreWarning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .cluster import Command
    from .commands import Commands

_SETTINGS: Final = ("maxmemory-policy", "save", "appendonly")
_MEMBERS_SHOWN: Final = 10
_PAGE: Final = 10_000

CONFIG: Final[Sequence[Command]] = [("CONFIG", "GET", name) for name in _SETTINGS]


def config_warnings(replies: Sequence[object]) -> Iterator[StoreWarning]:
    """Warnings for the replies of one or more servers to ``CONFIG``."""
    for start in range(0, len(replies), len(CONFIG)):
        config = {
            name: reply[1].decode(errors="replace")
            for name, reply in zip(_SETTINGS, replies[start:], strict=False)
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


def foreign_warning(commands: Commands, index: bytes) -> Iterator[StoreWarning]:
    """A warning if the index has members that are not client IDs. Listings omit them."""
    foreign: list[bytes] = []
    first, page = b"-", [b""]
    while page:
        (reply,) = commands.replies(("ZRANGEBYLEX", index, first, "+", "LIMIT", "0", str(_PAGE)))
        page = commands.items(reply, bytes)
        foreign += (member for member in page if decode_id(member) is None)
        first = b"(" + page[-1] if page else first
    if foreign:
        name = index.decode()
        members = " ".join(map(_quoted, foreign[:_MEMBERS_SHOWN]))
        yield StoreWarning(
            "redis_foreign_ids",
            f"{len(foreign)} members of {name} in Redis are not client IDs; they are ignored",
            f"in redis-cli (with -c for a cluster), run  ZREM {name} {members}",
        )


def decode_id(member: bytes) -> str | None:
    """Decode a client ID; None: it is not one."""
    try:
        return member.decode()
    except UnicodeDecodeError:
        return None


def _quoted(value: bytes) -> str:
    """Quote bytes for redis-cli."""
    plain = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')
    return '"' + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in value) + '"'
