"""A dashboard to mount: API keys, requests to try them with, and what was refused.

It is always behind a gate of its own, and for keys with the scope ``basicauth:admin`` only.
"""

from __future__ import annotations

from ..runtime.extras import require

for _module in ("jinja2", "starlette"):
    require(_module, extra="dashboard")

from .app import dashboard, wsgi_dashboard  # noqa: E402
from .wording import ADMIN_SCOPE  # noqa: E402

__all__ = ["ADMIN_SCOPE", "dashboard", "wsgi_dashboard"]
