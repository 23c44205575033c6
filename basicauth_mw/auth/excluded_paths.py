"""Which paths need no credentials: exact ones, and whole folders. An ambiguous path is always protected.

The path is the one that the app's router will use: decoded, as the server gives it, below the mount point. It
is never rebuilt from a URL or the Host header, never normalised, and never matched by a regular expression.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..settings.values import AMBIGUOUS_PATH

if TYPE_CHECKING:
    from collections.abc import Iterable

# ``AMBIGUOUS_PATH`` for the path as sent, in which characters may still be encoded: / \ . % NUL ? # ; and
# from which some servers have removed what looks like a fragment.
_AMBIGUOUS_RAW = re.compile(
    rb"//|/\.{1,2}(?:/|\Z)|[;\\#\x00-\x1f\x7f]|%(?:2f|5c|2e|25|00|3f|23|3b)", re.IGNORECASE
)


class ExcludedPaths:
    """The excluded paths of one middleware.

    Args:
        entries: Each ``/exact/path``, or ``/folder/*`` for everything below ``/folder/``.
        root_path: The mount point of the app, as configured; None if it is unknown.
    """

    def __init__(self, entries: Iterable[str], root_path: str | None = None) -> None:
        self.entries = tuple(entries)
        self.root_path = root_path
        self._exact = frozenset(entry for entry in self.entries if not entry.endswith("/*"))
        self._folders = tuple(entry[:-1] for entry in self.entries if entry.endswith("/*"))

    def __bool__(self) -> bool:
        return bool(self.entries)

    def is_open(self, path: str, *, root: str | None = None, raw: bytes = b"") -> bool:
        """Whether a request needs no credentials.

        Args:
            path: The decoded path, as the server gives it.
            root: The mount point as an ASGI server gives it, which may be a part of ``path``; None if
                ``path`` is below the mount point, as in WSGI.
            raw: The path as sent, checked as well; empty if the server does not provide it.
        """
        if not path.startswith("/") or AMBIGUOUS_PATH.search(path) or _AMBIGUOUS_RAW.search(raw):
            return False
        below = path if root is None else self._below(path, root)
        return below is not None and (
            below in self._exact
            or any(below.startswith(folder) and below != folder for folder in self._folders)
        )

    def _below(self, path: str, root: str) -> str | None:
        """The path below the mount point; None if two routers could disagree about it.

        Starlette removes the mount point, other frameworks route the whole path, and with some servers the
        client decides what the mount point is. So only the configured one counts, and only if all routers
        agree on the remaining path.
        """
        mount = self.root_path
        if mount is None:
            return None if root else path
        if root not in ("", mount):
            return None
        if path.startswith(f"{mount}/"):
            return path[len(mount) :]
        return None if mount in path else path
