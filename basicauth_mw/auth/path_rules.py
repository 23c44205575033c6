"""Which paths need credentials: the settings ``include``, ``exclude`` and ``optional``.

If in doubt, a path is protected. ``exclude`` and ``optional`` let requests in without credentials, so they
match narrowly. ``include`` leaves all other paths open, so it matches widely: also what some routers treat as
the same path. An ambiguous path is always protected.

The path is the one that the app's router will use: decoded, as the server gives it, below the mount point. It
is never rebuilt from a URL or the Host header, never normalized, and never matched by a regular expression.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

from ..settings.parsers import PLAIN_PATH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..settings import Settings

    Access = Literal["protected", "optional", "open"]

# What makes a path as sent ambiguous: there, characters may still be encoded (/ \ . % NUL ? # ;), and some
# servers remove what looks like a fragment.
_AMBIGUOUS_RAW: Final = re.compile(
    rb"//|/\.{1,2}(?:/|\Z)|[;\\#\x00-\x1f\x7f]|%(?:2f|5c|2e|25|00|3f|23|3b)", re.IGNORECASE
)


class PathRules:
    """The rules of one middleware.

    If several rules match a path, ``optional`` takes precedence over ``exclude``, and that over ``include``.

    Args:
        include: Paths that need credentials; if there are any, all others are open. Each is ``/path``, with
            or without a final slash, or ``/folder/*`` for a folder and everything below it, in any case.
        exclude: Open paths. Each is ``/exact/path``, or ``/folder/*`` for everything below ``/folder/``.
        optional: As for ``exclude``: paths where credentials are verified if a request has any.
        root_path: The mount point of the app, as configured; None if it is unknown.

    Attributes:
        has_open: Whether any path is open.
        has_optional: Whether credentials are optional on any path.
        root_path: As configured.
    """

    def __init__(
        self,
        *,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        optional: Iterable[str] = (),
        root_path: str | None = None,
    ) -> None:
        self._entries = {"include": tuple(include), "exclude": tuple(exclude), "optional": tuple(optional)}
        self._include = _WideEntries(self._entries["include"])
        self._exclude = _NarrowEntries(self._entries["exclude"])
        self._optional = _NarrowEntries(self._entries["optional"])
        self.has_open = bool(self._entries["include"] or self._entries["exclude"])
        self.has_optional = bool(self._entries["optional"])
        self.root_path = root_path

    @classmethod
    def from_settings(cls, settings: Settings, root_path: str | None = None) -> PathRules:
        """The rules that the settings give; ``root_path`` is used if they have none."""
        return cls(
            include=settings.include,
            exclude=settings.exclude,
            optional=settings.optional,
            root_path=settings.root_path or root_path,
        )

    def access(self, path: str, *, root: str | None = None, raw: bytes = b"") -> Access:
        """Whether a request needs credentials.

        Args:
            path: The decoded path, as the server gives it.
            root: The mount point as an ASGI server gives it, which may be a part of ``path``; None if
                ``path`` is below the mount point, as in WSGI.
            raw: The path as sent, checked as well; empty if the server does not provide it.

        Returns:
            ``protected``: it needs credentials. ``optional``: they are verified if there are any. ``open``:
            they are not read.
        """
        below = path if root is None else self._below(path, root)
        if below is None:
            return "protected"
        access: Access
        if self.has_optional and below in self._optional:
            access = "optional"
        elif below in self._exclude or (self._entries["include"] and below not in self._include):
            access = "open"
        else:
            return "protected"
        # Most paths are protected in any form, so ambiguous ones are detected last.
        if not path.startswith("/") or not PLAIN_PATH.fullmatch(path):
            return "protected"
        if raw != path.encode() and _AMBIGUOUS_RAW.search(raw):
            return "protected"
        return access

    def describe(self) -> Iterator[str]:
        """One sentence for each rule that lets in requests without credentials, for logs."""
        texts = {
            "include": "open without credentials: every path except {}",
            "exclude": "open without credentials: {}",
            "optional": "credentials are optional: {}",
        }
        for name, entries in self._entries.items():
            if entries:
                yield texts[name].format(", ".join(map(repr, entries)))

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
        return None if _fold(mount) in _fold(path) else path


def open_folders(include: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each entry of ``include`` that leaves the paths below it open, with the entry that would cover them."""
    for entry in include:
        folder = f"{entry.removesuffix('/')}/*"
        if not entry.endswith("/*") and folder not in include:
            yield entry, folder


class _NarrowEntries:
    """Matches a path exactly, and everything below a folder."""

    def __init__(self, entries: tuple[str, ...]) -> None:
        self._exact = frozenset(entry for entry in entries if not entry.endswith("/*"))
        self._folders = tuple(entry[:-1] for entry in entries if entry.endswith("/*"))

    def __contains__(self, path: str) -> bool:
        if path in self._exact:
            return True
        # All folders in one call first: most paths are below none of them.
        return path.startswith(self._folders) and any(
            path.startswith(folder) and path != folder for folder in self._folders
        )


class _WideEntries:
    """Matches a path with or without a final slash, and a folder with everything below it, in any case.

    Routers redirect ``/api`` to ``/api/`` or serve both, and some serve ``/API``.
    """

    def __init__(self, entries: tuple[str, ...]) -> None:
        folded = [_fold(entry) for entry in entries]
        paths = [entry.removesuffix("/*").removesuffix("/") for entry in folded]
        self._exact = frozenset(each for path in paths for each in (path, f"{path}/"))
        self._folders = tuple(entry[:-1] for entry in folded if entry.endswith("/*"))

    def __contains__(self, path: str) -> bool:
        folded = _fold(path)
        return folded in self._exact or folded.startswith(self._folders)


def _fold(path: str) -> str:
    """Equal for paths that differ in case only, also in the sense of a regular expression with ``(?i)``."""
    if path.isascii():
        return path.lower()
    return path.replace("\u0130", "i").replace("\u0131", "i").casefold()
