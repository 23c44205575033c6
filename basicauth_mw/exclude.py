"""Which paths are open. Exact, or under a whole segment; a path that is odd in any way is protected.

The path is the one that the router below will use: decoded, as the server gives it, below the mount point.
It is never rebuilt from a URL or the Host field, never normalised, never matched by a regular expression.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# What two readers of a path may understand differently: an empty or dot segment, a second encoding, a path
# parameter, a query or fragment that some server left in, a backslash, a control, an undecodable octet.
_ODD = re.compile(r"//|/\.{1,2}(?:/|\Z)|[;\\?#%\x00-\x1f\x7f-\x9f\ufffd]|[\ud800-\udfff]")
# The same in the path as sent, where it may still be encoded: / \ . % NUL ? # ; and where a server has cut
# off what it takes for a fragment.
_ODD_RAW = re.compile(rb"//|/\.{1,2}(?:/|\Z)|[;\\#\x00-\x1f\x7f]|%(?:2f|5c|2e|25|00|3f|23|3b)", re.IGNORECASE)


class Exclude:
    """The open paths of one gate.

    Args:
        entries: Each ``/exact/path``, or ``/folder/*`` for everything below ``/folder/``.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self.entries = tuple(entries)
        self._exact = frozenset(entry for entry in self.entries if not entry.endswith("/*"))
        self._folders = tuple(entry[:-1] for entry in self.entries if entry.endswith("/*"))

    def __bool__(self) -> bool:
        return bool(self.entries)

    def is_open(self, path: str, *, root: str = "", raw: bytes = b"") -> bool:
        """Tell whether a request needs no credentials.

        Args:
            path: Decoded path, as the server gives it.
            root: Where the app is mounted; taken off as a whole segment if ``path`` starts with it.
            raw: The path as sent, if the server tells, for a second look.
        """
        if not path.startswith("/") or _ODD.search(path) or _ODD_RAW.search(raw):
            return False
        below = _below(path, root)
        return below in self._exact or any(
            below.startswith(folder) and below != folder for folder in self._folders
        )


def problem_with_entry(entry: str) -> str:
    """Say what is wrong with an entry of the ``exclude`` setting; empty if nothing is."""
    if entry == "/*":
        return "would open everything: name what is open"
    path = entry.removesuffix("/*")
    if not path.startswith("/"):
        return "must start with /"
    if "*" in path:
        return "may hold * only as a final /*"
    if _ODD.search(entry):
        return "can never match: give it decoded, without //, dots, ;, ?, #, % or backslashes"
    return ""


def _below(path: str, root: str) -> str:
    """Take the mount point off, as Starlette's router does: only as a whole segment."""
    if not root or not path.startswith(root):
        return path
    below = path[len(root) :]
    return below if below == "" or below.startswith("/") else path
