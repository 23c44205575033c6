"""Requests to try: from what was asked for to what is shown. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from .openapi import Endpoint
from .problems import PageProblem
from .snippets import CLIENT_ID, SECRET, TOKEN, Call, encoders_for, requests_for
from .views import CallView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..backend import Issued

_METHOD: Final = re.compile(r"[A-Z]{1,20}")
_CONTENT_TYPE: Final = re.compile(r"[\x20-\x7e]{1,200}")
_IN_URLS: Final = "/?:@!$&'()*+,;=-._~%[]"


class BadCall(PageProblem):
    """What was typed makes no request.

    Args:
        advice: What to do.
    """

    status = 422
    title = "That is no request that can be sent"

    def __init__(self, advice: str) -> None:
        super().__init__()
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Asked:
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
            BadCall: It does not.
        """
        if self.method and not _METHOD.fullmatch(self.method):
            raise BadCall("Give a method in letters, such as GET or POST.")
        if self.path and (not self.path.startswith("/") or self.path.startswith("//")):
            raise BadCall("Give a path on this host that begins with one slash, such as /items?page=2.")
        if self.content_type and not _CONTENT_TYPE.fullmatch(self.content_type):
            raise BadCall("Give a content type such as application/json.")


def call_view(
    asked: Asked,
    endpoints: Sequence[Endpoint],
    *,
    origin: str,
    base: str,
    token: str,
    issued: Issued | None = None,
) -> CallView:
    """What is shown of a request. It never fails: a new secret may stand beside it, this once.

    Args:
        asked: Which.
        endpoints: To pick from.
        origin: Of the app.
        base: Where its paths begin.
        token: For the form.
        issued: The credentials, while they are on the screen.
    """
    endpoint = next((each for each in endpoints if each.label == asked.endpoint), None)
    if endpoint is None and asked.path is None:
        endpoint = next(iter(endpoints), None)
    endpoint = endpoint or Endpoint("GET", f"{base}/")
    path = asked.path or endpoint.path
    client_id = issued.client_id if issued else asked.client_id
    call = Call(
        asked.method or endpoint.method,
        f"{origin}{quote(path, safe=_IN_URLS)}",
        endpoint.body if asked.body is None else asked.body.replace("\r\n", "\n"),
        asked.content_type or endpoint.content_type,
        issued.token if issued else TOKEN,
    )
    return CallView(
        endpoints=endpoints,
        picked=endpoint.label if endpoint in endpoints else "",
        call=call,
        path=path,
        snippets=requests_for(call),
        encoders=encoders_for(client_id or CLIENT_ID, issued.secret if issued else SECRET),
        token=token,
        issued=issued,
        client_id=client_id,
    )
