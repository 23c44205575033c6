"""Says which extra is missing before anything here is imported without it."""

from __future__ import annotations

from .._extras import require

for _module in ("jinja2", "starlette"):
    require(_module, extra="dashboard")
