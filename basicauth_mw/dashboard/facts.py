"""What a page is made from, and what is sent: a request and an answer as plain values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from .problems import BadForm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..model import Principal

# A form holds at most a name, scopes, and a request to try; what is longer is no form of ours.
MAX_BODY_OCTETS: Final = 64 * 1024
_MAX_FIELDS: Final = 64
_LOOPBACK: Final = re.compile(r"(?:(?:.+\.)?localhost|127(?:\.[0-9]+){3}|\[::1\])(?::[0-9]+)?", re.IGNORECASE)
_HOST: Final = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,255}")

HTML: Final = "text/html; charset=utf-8"
PROBLEM: Final = "application/problem+json"

# No script or style but our own files, nothing from elsewhere, and nobody may put a page into theirs.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src {style}; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_SAFE: Final = (
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the dashboard, read from whatever the server speaks.

    Attributes:
        method: ``GET``, ``POST`` and so on.
        path: Below the place where the dashboard is mounted, decoded.
        root: That place: empty, or with a slash before it and none behind.
        principal: Who asks, as the gate found out.
        authorization: The field that proved it. Hidden in ``repr``.
        query: As sent, without the question mark.
        body: Of a form; None: longer than ``MAX_BODY_OCTETS``. Hidden in ``repr``.
        content_type: Of the body.
        host: The Host field.
        scheme: ``http`` or ``https``, as the server tells it.
        site: The Sec-Fetch-Site field.
        origin: The Origin field.
        base: Where the paths of the app round the dashboard begin: empty, or with a slash before it and none
            behind.
        openapi: Gives the OpenAPI document of the app round the dashboard, if there is one.
    """

    method: str
    path: str
    root: str
    principal: Principal
    authorization: bytes = field(repr=False)
    query: str = ""
    body: bytes | None = field(default=b"", repr=False)
    content_type: str = ""
    host: str = ""
    scheme: str = "http"
    site: str | None = None
    origin: str | None = None
    base: str = ""
    openapi: Callable[[], Mapping[str, Any] | None] = lambda: None

    @property
    def here(self) -> str:
        """The origin at which it was asked; a host that cannot be one is not repeated."""
        host = self.host if _HOST.fullmatch(self.host) else "localhost"
        # Browsers send Sec-Fetch-Site over https, and else to their own machine only. A server behind a proxy
        # that ends TLS may not know.
        is_https = self.site is not None and not _LOOPBACK.fullmatch(host)
        return f"{'https' if is_https else self.scheme}://{host}"

    @property
    def is_from_here(self) -> bool:
        """Whether the browser says that a page of this very origin sent it."""
        if self.site is not None:  # set by the browser itself; no page can change it
            return self.site == "same-origin"
        # A proxy may have ended TLS, so the scheme is not compared.
        scheme, _, host = (self.origin or "").lower().partition("://")
        return scheme in ("http", "https") and host != "" and host == self.host.lower()

    def asked(self) -> dict[str, list[str]]:
        """The fields of the query.

        Raises:
            BadForm: They cannot be read.
        """
        return _fields(self.query)

    def form(self) -> dict[str, list[str]]:
        """The fields of the body.

        Raises:
            BadForm: They cannot be read.
        """
        try:
            return _fields((self.body or b"").decode("ascii"))
        except UnicodeDecodeError:
            raise BadForm from None


def _fields(text: str) -> dict[str, list[str]]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:  # too many, or not UTF-8
        raise BadForm from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


def one(fields: Mapping[str, list[str]], name: str) -> str:
    """The value of a field; empty where there is none. Of several, the last."""
    return fields.get(name, [""])[-1]


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send.

    Attributes:
        status: HTTP status code.
        headers: Names in their usual case, and values, both of latin-1 characters.
        body: Octets. Hidden in ``repr``: it may show a secret.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(default=b"", repr=False)

    def sized(self) -> tuple[tuple[str, str], ...]:
        """The header fields, and how long the body is."""
        return (*self.headers, ("Content-Length", str(len(self.body))))


def wants_page(accept: str | None, method: str) -> bool:
    """Whether a person will read the answer."""
    return method != "HEAD" and accept is not None and "text/html" in accept.lower()


def safe_headers(style: str = "'self'") -> tuple[tuple[str, str], ...]:
    """Those that every answer carries but for how long it may be kept; ``style``: where styles come from."""
    return (("Content-Security-Policy", _POLICY.format(style=style)), *_SAFE)


def page(markup: str, status: int = 200, *more: tuple[str, str]) -> Answer:
    """A page: kept by nobody, framed by nobody."""
    body = markup.encode("utf-8", "backslashreplace")  # a record from elsewhere may hold what has no UTF-8
    headers = (("Content-Type", HTML), ("Cache-Control", "no-store"), *safe_headers(), *more)
    return Answer(status, headers, body)


def redirect(to: str) -> Answer:
    """See another page, by GET."""
    return Answer(303, (("Location", to), ("Cache-Control", "no-store"), *safe_headers()))
