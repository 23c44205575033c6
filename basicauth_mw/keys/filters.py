"""Selects keys by text, state and scope."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from ..errors import InvalidKey
from . import lifecycle

if TYPE_CHECKING:
    from datetime import datetime

    from .model import Key

EXPIRING_WITHIN: Final = timedelta(days=30)
UNUSED_FOR: Final = timedelta(days=90)
STATES: Final = ("active", "expired", "disabled", "revoked", "expiring", "never-used", "unused")


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Selects keys.

    Args:
        text: Part of the name or of the ID, in any case.
        state: One of ``STATES``; None for any. ``expiring``: active, and ends within 30 days. ``never-used``
            and ``unused`` (for 90 days): active, by the recorded last use.
        scope: A scope that the key has; None for any.
        unused_for: Only keys that were neither used nor created in this time.

    Raises:
        InvalidKey: There is no such state.
    """

    text: str = ""
    state: str | None = None
    scope: str | None = None
    unused_for: timedelta | None = None

    def __post_init__(self) -> None:
        if self.state is not None and self.state not in STATES:
            raise InvalidKey(f"unknown state {self.state!r}; expected one of {', '.join(STATES)}")

    def matches(self, key: Key, now: datetime) -> bool:
        """Whether a key is selected."""
        if self.text:
            text = self.text.casefold()
            if text not in key.client_id.casefold() and text not in key.name.casefold():
                return False
        if self.scope is not None and self.scope not in key.scopes:
            return False
        if self.unused_for is not None and not _is_unused(key, now - self.unused_for):
            return False
        return self.state is None or _has_state(key, self.state, now)


def _is_unused(key: Key, since: datetime) -> bool:
    return (key.last_used_at or key.created_at) < since


def _has_state(key: Key, state: str, now: datetime) -> bool:
    current = lifecycle.state_of(key, now)
    if state in ("active", "expired", "disabled", "revoked"):
        return current == state
    if current != "active":
        return False
    if state == "expiring":
        return lifecycle.ends_by(key, now + EXPIRING_WITHIN, now)
    if state == "never-used":
        return key.last_used_at is None
    return _is_unused(key, now - UNUSED_FOR)
