"""What pages show of keys, and never a hash."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import lifecycle
from ..errors import UnreadableRecord

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from ..model import Key


@dataclass(frozen=True, slots=True)
class SecretView:
    """A secret as pages show it: never its hash."""

    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    age: str
    left: str


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as pages show it, or as much of one as can be read.

    Attributes:
        secrets: The live ones, newest first.
        problem: Why it cannot be read; empty: it can.
    """

    client_id: str
    name: str = ""
    scopes: tuple[str, ...] = ()
    created_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    state: str = "unreadable"
    metadata: str = ""
    secrets: tuple[SecretView, ...] = ()
    problem: str = ""

    @property
    def label(self) -> str:
        """How a confirmation names it."""
        return f"{self.name} ({self.client_id})" if self.name else self.client_id


def view_of(key: Key | UnreadableRecord, now: datetime) -> KeyView:
    """What of a key may be shown."""
    if isinstance(key, UnreadableRecord):
        return KeyView(key.client_id or "", problem=str(key))
    live = [each for each in key.secrets if lifecycle.is_live(each, now)]
    secrets = tuple(
        SecretView(
            each.created_at,
            each.expires_at,
            each.last_used_at,
            age=span(now - each.created_at),
            left=span(each.expires_at - now) if each.expires_at else "",
        )
        for each in sorted(live, key=lambda each: each.created_at, reverse=True)
    )
    return KeyView(
        client_id=key.client_id,
        name=key.name,
        scopes=tuple(sorted(key.scopes)),
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        last_used_at=key.last_used_at,
        state=lifecycle.state_of(key, now),
        metadata=json.dumps(dict(key.metadata), ensure_ascii=False, default=str) if key.metadata else "",
        secrets=secrets,
    )


def recency_of(keys: Iterable[KeyView], now: datetime) -> dict[str, int]:
    """How many keys were used last within a day, within a week, and so on."""
    counts = dict.fromkeys(["within a day", "within 7 days", "within 30 days", "longer ago", "never seen"], 0)
    for key in keys:
        if key.problem:
            continue
        if key.last_used_at is None:
            name = "never seen"
        else:
            days = (now - key.last_used_at).days
            limits = {1: "within a day", 7: "within 7 days", 30: "within 30 days"}
            name = next((each for limit, each in limits.items() if days < limit), "longer ago")
        counts[name] += 1
    return counts


def span(length: timedelta) -> str:
    """A duration in one or two words: ``3 days``."""
    seconds = max(0, int(length.total_seconds()))
    for name, size in (("year", 31_536_000), ("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            count = seconds // size
            return f"{count} {name}" + ("s" if count > 1 else "")
    return "under a minute"
