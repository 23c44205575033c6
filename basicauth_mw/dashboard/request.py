"""A request to the dashboard: Starlette's, with bounded forms and protection against cross-site requests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import ImmutableMultiDict, QueryParams
from starlette.requests import Request

from ..auth.request_adapters import PRINCIPAL
from ..keys.model import utcnow
from .problems import PageProblem
from .strings import ADMIN_SCOPE, READ_SCOPE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..keys.model import Principal

# Any key that is valid fits into the edit form, which sends each field twice, as shown and as typed.
MAX_BODY_BYTES: Final = 256 * 1024
_MAX_FIELDS: Final = 64
_FORM: Final = "application/x-www-form-urlencoded"
_LOOPBACK: Final = re.compile(r"(?:(?:.+\.)?localhost|127(?:\.[0-9]+){3}|\[::1\])(?::[0-9]+)?", re.IGNORECASE)
_HOST: Final = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,255}")


def header(scope: Mapping[str, Any], name: str) -> str | None:
    """Return a header; repeated ones are joined by commas, which passes none of the checks below."""
    # Unlike Starlette, accept names in any case: newer ASGI versions do not guarantee lower case.
    found = [value for key, value in scope["headers"] if key.lower() == name.encode()]
    return b", ".join(found).decode("latin-1") if found else None


def wants_html(accept: str | None, method: str) -> bool:
    """Return whether a person will read the response."""
    return method != "HEAD" and accept is not None and "text/html" in accept.lower()


class DashboardRequest(Request):
    """An authenticated request, with its whole body; None: it is longer than ``MAX_BODY_BYTES``.

    ``path`` is relative to the mount point; ``subject`` is the client ID that it is about, once it is known.
    """

    def __init__(self, scope: Mapping[str, Any], body: bytes | None) -> None:
        # A request is a mapping of its scope, which error monitors record: keep the credential out of it.
        others = [pair for pair in scope["headers"] if pair[0].lower() != b"authorization"]
        super().__init__({**scope, "headers": others})
        self.authorization = (header(scope, "authorization") or "").encode("latin-1")
        self._raw_body = body
        self._submitted: ImmutableMultiDict[str, str] = ImmutableMultiDict()
        self.now = utcnow()
        self.principal: Principal = scope[PRINCIPAL]
        root, path = scope.get("root_path") or "", scope["path"]
        self.path = path[len(root) :] if path == root or path.startswith(f"{root}/") else path
        self._root = root.rstrip("/")
        self.subject = ""

    @property
    def may_change(self) -> bool:
        """Whether the caller may change keys."""
        return ADMIN_SCOPE in self.principal.scopes

    @property
    def may_read(self) -> bool:
        """Whether the caller may see keys."""
        return self.may_change or READ_SCOPE in self.principal.scopes

    @property
    def origin(self) -> str:
        """The origin that the browser uses; an invalid ``Host`` is not repeated."""
        host = header(self.scope, "host") or ""
        if not _HOST.fullmatch(host):
            host = "localhost"
        # If a proxy terminates TLS, the server may not know that the browser uses HTTPS. Browsers send
        # Sec-Fetch-Site over HTTPS and to loopback addresses only.
        is_https = header(self.scope, "sec-fetch-site") is not None and not _LOOPBACK.fullmatch(host)
        return f"{'https' if is_https else self.scope.get('scheme', 'http')}://{host}"

    @property
    def base(self) -> str:
        """The root path of the app in which the dashboard is mounted."""
        root: str = self.scope.get("root_path") or ""
        for route in getattr(self.scope.get("app"), "routes", ()):
            if getattr(route, "app", None) is self.scope.get("endpoint") and root.endswith(route.path):
                return root.removesuffix(route.path)
        return self.scope.get("app_root_path") or ""

    @property
    def query_params(self) -> QueryParams:
        """The query parameters; raises ``PageProblem`` if they cannot be parsed."""
        return QueryParams(_parse_fields((self.scope.get("query_string") or b"").decode("latin-1")))

    def field(self, name: str) -> str:
        """Return a field of the submitted form, or of the query for other methods; empty if missing."""
        return (self._submitted if self.method == "POST" else self.query_params).get(name, "")

    def check_form(self) -> None:
        """Parse the form; raises ``PageProblem`` if it cannot be parsed or comes from another site."""
        if not self._is_same_origin():
            raise PageProblem(403, "cross-site")
        if self._raw_body is None:
            raise PageProblem(413, "too-large")
        if (header(self.scope, "content-type") or "").partition(";")[0].strip().lower() != _FORM:
            raise PageProblem(415, "unsupported-type")
        try:
            self._submitted = ImmutableMultiDict(_parse_fields(self._raw_body.decode("ascii")))
        except UnicodeDecodeError:
            raise PageProblem(400, "bad-form") from None

    def _is_same_origin(self) -> bool:
        site = header(self.scope, "sec-fetch-site")
        if site is not None:  # set by the browser itself; pages cannot change it
            return site == "same-origin"
        # A proxy may have terminated TLS, so the scheme is not compared.
        scheme, _, host = (header(self.scope, "origin") or "").lower().partition("://")
        own_host = (header(self.scope, "host") or "").lower()
        return scheme in ("http", "https") and host != "" and host == own_host

    def link(self, path: str, **query: str | Sequence[str]) -> str:
        """Return the URL of a page of the dashboard, never on another host, without empty parameters.

        Starlette's ``url_for`` would repeat the ``Host`` header.
        """
        # Never begin with two slashes: a host would follow (RFC 3986 section 4.2).
        root = quote(f"/{self._root.lstrip('/')}") if self._root else ""
        return f"{root}{path}" + (f"?{encoded}" if (encoded := encode_query(query)) else "")


def encode_query(fields: Mapping[str, str | Sequence[str]]) -> str:
    """Encode query parameters, without empty ones."""
    present = {name: value for name, value in fields.items() if value}
    # A foreign record may hold text that UTF-8 cannot encode: its link finds no key, the others work.
    return urlencode(present, doseq=True, errors="backslashreplace")


def _parse_fields(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:  # too many fields, or not UTF-8
        raise PageProblem(400, "bad-form") from None
