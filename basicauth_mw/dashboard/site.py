"""From a request to an answer, over a ``Backend``: what both shells share. Blocks as the store does."""

from __future__ import annotations

import hashlib
import json
import time
from base64 import b64encode
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from ..backends import Store
from ..credentials import challenge
from ..errors import (
    BackendError,
    BasicAuthError,
    KeyNotFound,
    KeyRevoked,
    ReadOnlyBackend,
    UnreadableRecord,
)
from . import pages, problems
from .facts import HTML, Answer, page, redirect, safe_headers
from .problems import PageProblem
from .views import Frame
from .visit import Desk, Visit
from .wording import ADMIN_SCOPE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..backend import Backend
    from ..settings import Settings
    from .facts import Request

_STATIC: Final = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "call.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


class Site:
    """Answers requests that the gate has let through.

    Args:
        backend: Where the keys are.
        settings: Of the gate.
        openapi: The document of the app that the keys are for, or what gives it; None: the app round it.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        *,
        openapi: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._desk = Desk(backend, settings.pepper, openapi)
        self._challenge = challenge(settings.realm).encode().decode("latin-1")
        self._clock = clock
        folder = files(__package__) / "static"
        self._files = {name: (folder / name).read_bytes() for name in _STATIC}
        self._version = hashlib.sha256(b"".join(self._files.values())).hexdigest()[:12]
        # A page for nobody cannot link to files behind the gate: the one style it has stands in it.
        self._style = self._files["dashboard.css"].decode()
        digest = hashlib.sha256(self._style.encode()).digest()
        self._style_source = f"'sha256-{b64encode(digest).decode()}'"

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        if request.path == "":
            return redirect(_links_from(request) + "/")
        if request.path.startswith("/static/"):
            return self._static(request)
        if ADMIN_SCOPE not in request.principal.scopes:
            return self._forbidden(request)
        visit = Visit(self._desk, request, self.frame(request))
        try:
            return visit.answer()
        except problems.NotAllowed as exc:
            return self._problem(request, exc, ("Allow", exc.allowed))
        except PageProblem as exc:
            return self._problem(request, exc)
        except BasicAuthError as exc:
            return self._failed(request, exc, visit.subject)

    def in_place_of(
        self, problem: bytes, headers: list[tuple[str, str]]
    ) -> tuple[bytes, list[tuple[str, str]]]:
        """A page that says what a problem of the gate says, and its header fields."""
        told = json.loads(problem)
        markup = pages.gate_page(
            told["status"],
            told["title"],
            told["detail"],
            told["code"],
            told["request_id"],
            self._style,
            writable=isinstance(self._desk.backend.store, Store),
        ).encode()
        replaced = {"content-type", "content-length", "x-content-type-options"}
        kept = [(name, value) for name, value in headers if name.lower() not in replaced]
        fields = [("Content-Type", HTML), ("Content-Length", str(len(markup)))]
        return markup, [*kept, *fields, *safe_headers(self._style_source)]

    def frame(self, request: Request) -> Frame:
        """What every page has round it."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        return Frame(
            _links_from(request),
            request.principal,
            isinstance(self._desk.backend.store, Store),
            self._version,
            now,
        )

    # --- what is no page

    def _static(self, request: Request) -> Answer:
        name = request.path.removeprefix("/static/")
        if name not in _STATIC or request.method not in ("GET", "HEAD"):
            return Answer(
                404, (("Content-Type", "text/plain"), ("Cache-Control", "no-store"), *safe_headers())
            )
        kept = "private, max-age=31536000, immutable" if request.query == f"v={self._version}" else "no-store"
        headers = (("Content-Type", _STATIC[name]), ("Cache-Control", kept), *safe_headers())
        return Answer(200, headers, self._files[name])

    def _forbidden(self, request: Request) -> Answer:
        if request.path == "/switch":  # a browser asks anew for what was refused
            return page(pages.forbidden_page(self.frame(request)), 401, ("WWW-Authenticate", self._challenge))
        return page(pages.forbidden_page(self.frame(request)), 403)

    def _problem(self, request: Request, problem: PageProblem, *more: tuple[str, str]) -> Answer:
        frame = self.frame(request)
        return page(pages.problem_page(frame, problem.title, problem.advice), problem.status, *more)

    def _failed(self, request: Request, exc: BasicAuthError, subject: str) -> Answer:
        """The store, or the key, is not as it has to be."""
        frame = self.frame(request)
        status, title, advice = _told(exc, changing=request.method == "POST")
        links = (
            [("Look at the key", frame.url("/key", id=subject))] if subject and request.path != "/key" else []
        )
        more = (("Retry-After", "2"),) if status == 503 else ()
        return page(pages.problem_page(frame, title, advice, links), status, *more)


def _links_from(request: Request) -> str:
    """What every link of ours begins with: never two slashes, behind which stands a host (RFC 3986 4.2)."""
    return quote(f"/{request.root.lstrip('/')}") if request.root else ""


def _told(exc: BasicAuthError, *, changing: bool) -> tuple[int, str, str]:
    """Status, title and advice for what the backend raised."""
    match exc:
        case UnreadableRecord():
            advice = f"{exc}. Nothing was changed. Restore it from a backup, or delete it."
            return 500, "That record cannot be read", advice
        case ReadOnlyBackend():
            return 409, "These keys cannot be changed from here", f"Nothing was changed: {exc}."
        case BackendError() if changing:
            advice = (
                "The change was made whole or not at all, and it cannot be told which. When the store is "
                "back, look at the key before you do anything over. A secret that was made now was shown to "
                "nobody: rotate the key, or delete it."
            )
            return 503, "The key store did not answer", advice
        case BackendError():
            advice = "Nothing can be shown without it. Try again in a moment; basicauth-mw check tells more."
            return 503, "The key store cannot be asked", advice
        case KeyNotFound():
            return 404, "There is no such key", "Nothing was changed. It may have been deleted meanwhile."
        case KeyRevoked():
            advice = "Nothing was changed. Create another key in its place."
            return 409, "That key was revoked, which is final", advice
        case _:
            return 422, "That cannot be done", f"Nothing was changed: {exc}."
