"""A request to the dashboard: Starlette's, with forms that are bounded and checks for those that write."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import ImmutableMultiDict, QueryParams
from starlette.requests import Request

from ..asgi import PRINCIPAL
from .problems import PageProblem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from ..keys.model import Principal

# A form holds at most a name, scopes, and a request to try; what is longer is no form of ours.
MAX_BODY_OCTETS: Final = 64 * 1024
_MAX_FIELDS: Final = 64
_FORM: Final = "application/x-www-form-urlencoded"
_LOOPBACK: Final = re.compile(r"(?:(?:.+\.)?localhost|127(?:\.[0-9]+){3}|\[::1\])(?::[0-9]+)?", re.IGNORECASE)
_HOST: Final = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,255}")


def header(scope: Mapping[str, Any], name: str) -> str | None:
    """A header field; all of its values where it was sent more than once, which no check takes for one."""
    # Compared without case, unlike in Starlette: ASGI no longer promises lower case.
    found = [value for key, value in scope["headers"] if key.lower() == name.encode()]
    return b", ".join(found).decode("latin-1") if found else None


def wants_html(accept: str | None, method: str) -> bool:
    """Whether a person will read the response."""
    return method != "HEAD" and accept is not None and "text/html" in accept.lower()


class DashboardRequest(Request):
    """A request of somebody whom the gate has let through.

    Args:
        scope: As in ASGI.
        body: All of it; None: it is longer than ``MAX_BODY_OCTETS``.
        now: The time.

    Attributes:
        authorization: The header field that the gate has checked.
        path: Below the place where the dashboard is mounted.
        subject: The client id that it is about, as soon as that is known; empty: none.
    """

    def __init__(self, scope: Mapping[str, Any], body: bytes | None, now: datetime) -> None:
        # A request is a mapping of its scope, which error monitors write down: what proves who asks is kept
        # out of it.
        others = [pair for pair in scope["headers"] if pair[0].lower() != b"authorization"]
        super().__init__({**scope, "headers": others})
        self.authorization = (header(scope, "authorization") or "").encode("latin-1")
        self._content = body
        self._sent: ImmutableMultiDict[str, str] = ImmutableMultiDict()
        self.now = now
        self.principal: Principal = scope[PRINCIPAL]
        root, path = scope.get("root_path") or "", scope["path"]
        self.path = path[len(root) :] if path == root or path.startswith(f"{root}/") else path
        self._root = root.rstrip("/")
        self.subject = ""

    @property
    def origin(self) -> str:
        """The origin at which it was asked; a host that cannot be one is not repeated."""
        host = header(self.scope, "host") or ""
        if not _HOST.fullmatch(host):
            host = "localhost"
        # Browsers send Sec-Fetch-Site over https, and else to their own machine only. A server behind a proxy
        # that ends TLS may not know.
        is_https = header(self.scope, "sec-fetch-site") is not None and not _LOOPBACK.fullmatch(host)
        return f"{'https' if is_https else self.scope.get('scheme', 'http')}://{host}"

    @property
    def base(self) -> str:
        """Where the paths of the app begin in which the dashboard is mounted."""
        root: str = self.scope.get("root_path") or ""
        for route in getattr(self.scope.get("app"), "routes", ()):
            if getattr(route, "app", None) is self.scope.get("endpoint") and root.endswith(route.path):
                return root.removesuffix(route.path)
        return self.scope.get("app_root_path") or ""

    @property
    def query_params(self) -> QueryParams:
        """The fields of the query, or a ``PageProblem`` if they cannot be read."""
        return QueryParams(_fields((self.scope.get("query_string") or b"").decode("latin-1")))

    def field(self, name: str) -> str:
        """A field of the form or, of a GET, of the query; empty: there is none. Of several, the last."""
        fields: ImmutableMultiDict[str, str] = self._sent if self.method == "POST" else self.query_params
        return fields.get(name, "")

    def check_form(self) -> None:
        """Read the form, unless no page of the dashboard can have sent it.

        Raises:
            PageProblem: It did not, or it cannot be read.
        """
        if not self._is_same_origin():
            raise PageProblem(403, "cross-site")
        if self._content is None:
            raise PageProblem(413, "too-large")
        if (header(self.scope, "content-type") or "").partition(";")[0].strip().lower() != _FORM:
            raise PageProblem(415, "no-form")
        try:
            self._sent = ImmutableMultiDict(_fields(self._content.decode("ascii")))
        except UnicodeDecodeError:
            raise PageProblem(400, "bad-form") from None

    def _is_same_origin(self) -> bool:
        site = header(self.scope, "sec-fetch-site")
        if site is not None:  # set by the browser itself; no page can change it
            return site == "same-origin"
        # A proxy may have ended TLS, so the scheme is not compared.
        scheme, _, host = (header(self.scope, "origin") or "").lower().partition("://")
        here = (header(self.scope, "host") or "").lower()
        return scheme in ("http", "https") and host != "" and host == here

    def link(self, path: str, **query: str | Sequence[str]) -> str:
        """A link to a page of the dashboard, never to another host; empty fields are left out."""
        # Never two slashes at the beginning: behind them stands a host (RFC 3986 section 4.2).
        root = quote(f"/{self._root.lstrip('/')}") if self._root else ""
        return f"{root}{path}" + (f"?{encoded}" if (encoded := encode_query(query)) else "")


def encode_query(fields: Mapping[str, str | Sequence[str]]) -> str:
    """Fields as a query, without those that are empty."""
    given = {name: value for name, value in fields.items() if value}
    # A record from elsewhere may hold what has no UTF-8: its link leads to no key, and all others work.
    return urlencode(given, doseq=True, errors="backslashreplace")


def _fields(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:  # too many, or not UTF-8
        raise PageProblem(400, "bad-form") from None
