"""Placeholders, and the choices that forms offer."""

from __future__ import annotations

from typing import Final

ADMIN_SCOPE: Final = "basicauth:admin"
READ_SCOPE: Final = "basicauth:read"

# Shown while the page has no credentials. They need no quoting in any language.
TOKEN: Final = "YOUR_TOKEN"  # noqa: S105 - a placeholder
CLIENT_ID: Final = "YOUR_CLIENT_ID"
SECRET: Final = "YOUR_CLIENT_SECRET"  # noqa: S105

# Durations that forms offer, and how they are shown.
LIFETIMES: Final = {"7d": "7 days", "30d": "30 days", "90d": "90 days", "365d": "1 year"}
OVERLAPS: Final = {
    "0": "none: the old secrets stop working now",
    "5m": "5 minutes",
    "1h": "1 hour",
    "24h": "24 hours",
    "7d": "7 days",
    "30d": "30 days",
}

# The states that a search selects, and how they are shown.
STATES: Final = {
    "active": "active",
    "expiring": "expiring within 30 days",
    "expired": "expired",
    "disabled": "disabled",
    "revoked": "revoked",
    "never-used": "active, never used",
    "unused": "active, unused for 90 days",
}

# What can be done to a key, and the states of a key in which it is offered.
ACTIONS: Final = {
    "edit": ("active", "disabled", "expired"),
    "end-secret": ("active", "disabled", "expired"),
    "rotate": ("active", "disabled", "expired"),
    "disable": ("active", "expired"),
    "enable": ("disabled",),
    "revoke": ("active", "disabled", "expired"),
    "delete": ("active", "disabled", "expired", "revoked", "unreadable"),
}
