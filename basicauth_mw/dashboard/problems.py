"""What can be wrong with a request to the dashboard: each says what happened and what to do."""

from __future__ import annotations


class PageProblem(Exception):
    """A request that is not carried out; nothing was changed.

    Attributes:
        status: HTTP status code.
        title: What happened.
        advice: What to do.
    """

    status: int = 400
    title: str = "That request could not be read"
    advice: str = "Nothing was changed. Go back and send the form again."


class BadForm(PageProblem):
    """Fields that are too many, or not UTF-8, or are none of ours."""


class NotFound(PageProblem):
    """No such page."""

    status = 404
    title = "There is no such page"
    advice = "Go on from the list of keys."


class NotAllowed(PageProblem):
    """A page that does not know the method.

    Args:
        allowed: The methods it knows.
    """

    status = 405
    title = "That page cannot be asked for in this way"
    advice = "Nothing was changed. Open the page from its link."

    def __init__(self, allowed: str) -> None:
        super().__init__()
        self.allowed = allowed


class TooLarge(PageProblem):
    """A form above the limit."""

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
    """A form that lay about for too long."""

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
