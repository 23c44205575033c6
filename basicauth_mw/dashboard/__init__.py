"""A web dashboard to mount in an app: manage API keys, try requests, and see what is refused.

It authenticates every request itself, and accepts only keys with the scope ``basicauth:admin``.
"""

from __future__ import annotations

from ..runtime.extras import require

for _module in ("jinja2", "starlette"):
    require(_module, extra="dashboard")

from .asgi import dashboard  # noqa: E402
from .strings import ADMIN_SCOPE, READ_SCOPE  # noqa: E402
from .wsgi import wsgi_dashboard  # noqa: E402

__all__ = ["ADMIN_SCOPE", "READ_SCOPE", "dashboard", "wsgi_dashboard"]
