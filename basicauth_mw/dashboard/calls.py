"""The Call API page: a request, and code samples that send it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pprint import pformat
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from ..keys.validation import strict_json_loads
from .openapi import Endpoint
from .problems import PageProblem
from .strings import CLIENT_ID, SECRET, TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..backends.backend import Issued
    from .request import DashboardRequest

_CHECKS: Final = {
    "method": (re.compile(r"[A-Z]{1,20}"), "Enter a method in letters, such as GET or POST."),
    "path": (
        re.compile("/(?!/).*", re.DOTALL),
        "Enter a path on this host that starts with one slash, such as /items?page=2.",
    ),
    "content_type": (re.compile(r"[\x20-\x7e]{1,200}"), "Enter a content type such as application/json."),
}
_URL_SAFE: Final = "/?:@!$&'()*+,;=-._~%[]{}"
_WIDTH: Final = 88
_MAX_DEPTH: Final = 32  # JSON that is nested deeper is shown as text


@dataclass(frozen=True, slots=True)
class RequestDraft:
    """A request for code samples, with the credentials of a new key or placeholders."""

    method: str
    url: str
    body: str = ""
    content_type: str = "application/json"
    scheme: str = "basic"
    client_id: str = CLIENT_ID
    secret: str = field(default=SECRET, repr=False)
    token: str = field(default=TOKEN, repr=False)

    @property
    def header(self) -> str:
        """The header that holds the token."""
        return self.scheme.partition(":")[2] or "Authorization"

    @property
    def prefix(self) -> str:
        """What precedes the token in the header."""
        return "" if ":" in self.scheme else f"{self.scheme.capitalize()} "

    @property
    def sends_body(self) -> bool:
        """Whether it has a body: browsers send none with GET and HEAD."""
        return bool(self.body) and self.method not in ("GET", "HEAD")

    @property
    def has_globs(self) -> bool:
        """Whether curl would expand the URL to several."""
        return any(character in self.url for character in "[]{}")

    @property
    def python_value(self) -> str:
        """A JSON body as a Python expression, indented as an argument; empty: send the body as text."""
        if not self.sends_body or self.content_type != "application/json":
            return ""
        try:
            value = strict_json_loads(self.body, _MAX_DEPTH)
        except (ValueError, RecursionError):
            return ""
        return pformat(value, width=_WIDTH, sort_dicts=False).replace("\n", "\n         ")


def check_fields(fields: Mapping[str, str]) -> None:
    """Raise ``PageProblem`` unless the fields of the form make a request to this host."""
    for name, (pattern, advice) in _CHECKS.items():
        if fields[name] and not pattern.fullmatch(fields[name]):
            raise PageProblem(422, "invalid-request", advice)


def call_context(
    request: DashboardRequest,
    fields: Mapping[str, str],
    endpoints: Sequence[Endpoint],
    scheme: str,
    issued: Issued | None,
) -> dict[str, Any]:
    """Return the variables of ``_call.html``. It must not fail: the page may show a new secret, only once.

    Fields that are missing or empty come from the endpoint.
    """
    endpoint = next((each for each in endpoints if each.label == fields.get("endpoint")), None)
    if endpoint is None and "path" not in fields:
        endpoint = next(iter(endpoints), None)
    endpoint = endpoint or Endpoint("GET", f"{request.base}/")
    path = fields.get("path") or endpoint.path
    client_id = issued.client_id if issued else fields.get("id", "")
    draft = RequestDraft(
        fields.get("method") or endpoint.method,
        f"{request.origin}{quote(path, safe=_URL_SAFE)}",
        fields["body"].replace("\r\n", "\n") if "body" in fields else endpoint.body,
        fields.get("content_type") or endpoint.content_type,
        scheme,
        client_id or CLIENT_ID,
        *((issued.secret, issued.token) if issued else ()),
    )
    return {
        "endpoints": endpoints,
        "selected": endpoint.label if endpoint in endpoints else "",
        "draft": draft,
        "path": path,
        "issued": issued,
        "client_id": client_id,
    }
