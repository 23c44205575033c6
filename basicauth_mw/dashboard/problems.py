"""What can be wrong with a request to the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import BackendError, KeyNotFound, KeyRevoked, ReadOnlyBackend, UnreadableRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..errors import BasicAuthError


class PageProblem(Exception):
    """A request that is not carried out.

    Args:
        status: HTTP status code.
        code: Of its title and advice in ``templates/_problems.html``.
        detail: What the advice tells besides.
        headers: For the response.
    """

    def __init__(
        self, status: int, code: str, detail: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}


class OldToken(PageProblem):
    """A form that lay about for too long: it is shown again, with a new token."""

    def __init__(self) -> None:
        super().__init__(403, "old-token")


def to_problem(exc: BasicAuthError, *, changing: bool) -> PageProblem:
    """What to tell of an error of the backend; ``changing``: it may have been in the middle of a change."""
    match exc:
        case UnreadableRecord():
            return PageProblem(500, "unreadable", str(exc))
        case ReadOnlyBackend():
            return PageProblem(409, "read-only", str(exc))
        case BackendError():
            return PageProblem(503, "lost" if changing else "down", headers={"Retry-After": "2"})
        case KeyNotFound():
            return PageProblem(404, "no-key")
        case KeyRevoked():
            return PageProblem(409, "revoked")
        case _:
            return PageProblem(422, "refused", str(exc))
