"""Security headers, redirects and static files."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from starlette.responses import RedirectResponse, Response

if TYPE_CHECKING:
    from .request import DashboardRequest

_MEDIA_TYPES: Final = {
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "call.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_FILES: Final = {name: (files(__package__) / "static" / name).read_bytes() for name in _MEDIA_TYPES}
VERSION: Final = hashlib.sha256(b"".join(_FILES.values())).hexdigest()[:12]
# A page for someone who is not signed in cannot link to the static files: its style is inline.
STYLE: Final = _FILES["dashboard.css"].decode()
STYLE_SOURCE: Final = f"'sha256-{b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"


def security_headers(cache: str = "no-store", *, style: str = "'self'") -> dict[str, str]:
    """Return the headers of every response; ``style``: the allowed source of styles."""
    return {
        "Cache-Control": cache,
        "Content-Security-Policy": (
            f"default-src 'none'; script-src 'self'; style-src {style}; img-src 'self'; connect-src 'self'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


def see_other(link: str) -> RedirectResponse:
    """Redirect to a page with GET."""
    return RedirectResponse(link, 303, security_headers())


def static_file(request: DashboardRequest) -> Response:
    """Serve a file from memory: Starlette's ``StaticFiles`` needs an event loop, which WSGI does not have."""
    name = request.path.removeprefix("/static/")
    if name not in _FILES or request.method not in ("GET", "HEAD"):
        return Response(b"", 404, security_headers(), "text/plain")
    is_current = request.scope.get("query_string") == f"v={VERSION}".encode()
    cache = "private, max-age=31536000, immutable" if is_current else "no-store"
    return Response(_FILES[name], 200, security_headers(cache), _MEDIA_TYPES[name])
