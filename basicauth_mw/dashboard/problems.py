"""The errors of the dashboard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import BackendError, KeyNotFound, ReadOnlyBackend, UnreadableRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..errors import BasicAuthError


@dataclass(eq=False)
class PageProblem(Exception):
    """A request that fails; ``code`` selects the text in ``_problems.html``, which shows ``detail``."""

    status: int
    code: str
    detail: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)


class FormProblem(PageProblem):
    """A problem of a form, which is shown again; ``errors``: messages by field."""


def to_page_problem(exc: BasicAuthError, *, changing: bool) -> PageProblem:
    """Convert an error of the backend; ``changing``: a change may have been in progress."""
    match exc:
        case UnreadableRecord():
            return PageProblem(500, "unreadable", str(exc))
        case ReadOnlyBackend():
            return PageProblem(409, "read-only", str(exc))
        case BackendError():
            return PageProblem(503, "unconfirmed" if changing else "unavailable", "", {"Retry-After": "2"})
        case KeyNotFound():
            return PageProblem(404, "key-not-found")
        case _:
            return PageProblem(422, "refused", str(exc))
