"""The stored form of a key's history: a line of JSON for each change, the newest first."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from ..keys.model import Change
from .base import HISTORY_KEPT
from .codec import from_microseconds, to_microseconds

if TYPE_CHECKING:
    from collections.abc import Sequence


def extend_history(text: str, changes: Sequence[Change]) -> str:
    """Put changes in front of a stored history, and keep the newest."""
    lines = [*map(_dump_change, changes), *(text.split("\n") if text else ())]
    return "\n".join(lines[:HISTORY_KEPT])


@lru_cache(maxsize=8)  # an import has one change for many keys
def _dump_change(change: Change) -> str:
    fields = {"event": change.event, "actor": change.actor, "time": to_microseconds(change.time)}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def load_history(text: str) -> list[Change]:
    """Decode a stored history, without the lines that cannot be read."""
    found = []
    for line in text.split("\n"):
        with suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
            fields = json.loads(line)
            event, actor, time = fields["event"], fields["actor"], fields["time"]
            if type(event) is str and type(actor) in (str, type(None)) and type(time) is int:
                found.append(Change(event, actor, from_microseconds(time)))
    return found
