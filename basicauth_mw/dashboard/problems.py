"""What can be wrong with a request to the dashboard: each says what happened and what to do."""

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
        title: What happened.
        advice: What to do.
        headers: For the response.
    """

    status: int = 400
    title: str = "That request could not be read"
    advice: str = "Nothing was changed. Go back and send the form again."

    def __init__(
        self, status: int = 0, title: str = "", advice: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self.status = status or self.status
        self.title = title or self.title
        self.advice = advice or self.advice
        self.headers = headers or {}


class BadForm(PageProblem):
    """Fields that are too many, or not UTF-8, or are none of ours."""


class NotFound(PageProblem):
    status = 404
    title = "There is no such page"
    advice = "Go on from the list of keys."


class MethodNotAllowed(PageProblem):
    status = 405
    title = "That page cannot be asked for in this way"
    advice = "Nothing was changed. Open the page from its link."


class TooLarge(PageProblem):
    status = 413
    title = "That is more than a form may hold"
    advice = "Nothing was changed. Send less than 64 KiB; a larger body can be tried with curl."


class NotAForm(PageProblem):
    """A body of another type."""

    status = 415
    title = "Only forms are read here"
    advice = "Nothing was changed. Programs use the basicauth-mw command, or the Backend of the package."


class CrossSite(PageProblem):
    """A write that does not come from a page of ours."""

    status = 403
    title = "That did not come from this dashboard"
    advice = (
        "Nothing was changed. Browsers send your key to this address whoever asks them to, so a form counts "
        "only if the browser says that it is from here. Open the dashboard and use its own form. Over plain "
        "http a browser says so for 127.0.0.1 and localhost only: use https, or an SSH tunnel."
    )


class BadToken(PageProblem):
    """A form without the token of its page, or with another's."""

    status = 403
    title = "That form is not one of yours"
    advice = (
        "Nothing was changed. It was made for another key or page, or you have signed in with another secret "
        "since. Open the page again and send its form."
    )


class OldToken(PageProblem):
    status = 403
    title = "This form has lain here for more than an hour"
    advice = "Nothing was changed. Look through it and send it again: it is good for another hour now."


class Stale(PageProblem):
    """A form about a key that is no longer what it was."""

    status = 409
    title = "The key has changed since that form was made"
    advice = (
        "Nothing was changed just now. Somebody else has changed the key, or the form was sent twice and the "
        "first one did it. See below how the key is, and start again if it is not as you want it."
    )


class SentTwice(PageProblem):
    """The form for a new key, once more."""

    status = 409
    title = "That form was sent already, and the key was created then"
    advice = (
        "No second key was created. The secret was shown once and cannot be shown again: if you have "
        "not kept it, rotate the key, or delete it."
    )


def problem_of(exc: BasicAuthError, *, changing: bool) -> PageProblem:
    """What to tell of an error of the backend; ``changing``: it may have been in the middle of a change."""
    match exc:
        case UnreadableRecord():
            advice = f"{exc}. Nothing was changed. Restore it from a backup, or delete it."
            return PageProblem(500, "That record cannot be read", advice)
        case ReadOnlyBackend():
            return PageProblem(409, "These keys cannot be changed from here", f"Nothing was changed: {exc}.")
        case BackendError() if changing:
            advice = (
                "The change was made whole or not at all, and it cannot be told which. When the store is "
                "back, look at the key before you do anything over. A secret that was made now was shown to "
                "nobody: rotate the key, or delete it."
            )
            return PageProblem(503, "The key store did not answer", advice, {"Retry-After": "2"})
        case BackendError():
            advice = "Nothing can be shown without it. Try again in a moment; basicauth-mw check tells more."
            return PageProblem(503, "The key store cannot be asked", advice, {"Retry-After": "2"})
        case KeyNotFound():
            advice = "Nothing was changed. It may have been deleted meanwhile."
            return PageProblem(404, "There is no such key", advice)
        case KeyRevoked():
            advice = "Nothing was changed. Create another key in its place."
            return PageProblem(409, "That key was revoked, which is final", advice)
        case _:
            return PageProblem(422, "That cannot be done", f"Nothing was changed: {exc}.")
