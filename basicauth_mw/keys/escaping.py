"""Escape what is invisible in the names, IDs and metadata of keys, before people see them."""

from __future__ import annotations

import unicodedata


def escape_control(text: str) -> str:
    """Escape control characters and bidirectional overrides, as Python does; all kinds of spaces remain."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
