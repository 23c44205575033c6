"""Requests to try: from what was asked for to what is shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from .openapi import Endpoint
from .problems import PageProblem
from .snippets import Call, Snippet, encoders_for, requests_for
from .wording import CLIENT_ID, SECRET, TOKEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..backend import Issued

_METHOD: Final = re.compile(r"[A-Z]{1,20}")
_CONTENT_TYPE: Final = re.compile(r"[\x20-\x7e]{1,200}")
_IN_URLS: Final = "/?:@!$&'()*+,;=-._~%[]"


@dataclass(frozen=True, slots=True)
class CallForm:
    """Which request is to be shown; what is empty or None is as the endpoint has it."""

    endpoint: str = ""
    client_id: str = ""
    method: str = ""
    path: str | None = None
    body: str | None = None
    content_type: str = ""

    def check(self) -> None:
        """Make sure that what was typed makes a request to this host.

        Raises:
            PageProblem: It does not.
        """
        advice = ""
        if self.method and not _METHOD.fullmatch(self.method):
            advice = "Give a method in letters, such as GET or POST."
        elif self.path and (not self.path.startswith("/") or self.path.startswith("//")):
            advice = "Give a path on this host that begins with one slash, such as /items?page=2."
        elif self.content_type and not _CONTENT_TYPE.fullmatch(self.content_type):
            advice = "Give a content type such as application/json."
        if advice:
            raise PageProblem(422, "That is no request that can be sent", advice)


@dataclass(frozen=True, slots=True, repr=False)
class CallView:
    """The part of a page that tries requests.

    Attributes:
        endpoints: To pick from; empty: there is no document, and a field takes the path.
        picked: The label of one of them; empty: none.
        path: Of the call, as in the field.
        encoders: The lines that encode a token.
        issued: The credentials, while they are on the screen.
    """

    endpoints: Sequence[Endpoint]
    picked: str
    call: Call
    path: str
    snippets: Sequence[Snippet]
    encoders: Sequence[Snippet]
    issued: Issued | None
    client_id: str


def call_view(
    form: CallForm, endpoints: Sequence[Endpoint], *, origin: str, base: str, issued: Issued | None = None
) -> CallView:
    """What is shown of a request. It never fails: a new secret may stand beside it, this once.

    Args:
        form: Which.
        endpoints: To pick from.
        origin: Of the app.
        base: Where its paths begin.
        issued: The credentials, while they are on the screen.
    """
    endpoint = next((each for each in endpoints if each.label == form.endpoint), None)
    if endpoint is None and form.path is None:
        endpoint = next(iter(endpoints), None)
    endpoint = endpoint or Endpoint("GET", f"{base}/")
    path = form.path or endpoint.path
    client_id = issued.client_id if issued else form.client_id
    call = Call(
        form.method or endpoint.method,
        f"{origin}{quote(path, safe=_IN_URLS)}",
        endpoint.body if form.body is None else form.body.replace("\r\n", "\n"),
        form.content_type or endpoint.content_type,
        issued.token if issued else TOKEN,
    )
    return CallView(
        endpoints,
        endpoint.label if endpoint in endpoints else "",
        call,
        path,
        requests_for(call),
        encoders_for(client_id or CLIENT_ID, issued.secret if issued else SECRET),
        issued,
        client_id,
    )
