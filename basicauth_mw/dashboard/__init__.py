"""A dashboard to mount: API keys, requests to try them with, and what was refused.

It is always behind a gate of its own, and for keys with the scope ``basicauth:admin`` only.
"""

from __future__ import annotations

from . import _needs as _needs
from .app import dashboard, wsgi_dashboard
from .wording import ADMIN_SCOPE

__all__ = ["ADMIN_SCOPE", "dashboard", "wsgi_dashboard"]
