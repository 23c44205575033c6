"""What forms offer and what pages say: tables, and no logic."""

from __future__ import annotations

from typing import Final

ADMIN_SCOPE: Final = "basicauth:admin"

# What stands in for credentials that are not on the screen. Safe in every language's quotes.
TOKEN: Final = "YOUR_TOKEN"  # noqa: S105 - the very opposite
CLIENT_ID: Final = "YOUR_CLIENT_ID"
SECRET: Final = "YOUR_CLIENT_SECRET"  # noqa: S105

# What a form offers; what a rotation offers. In seconds.
LIVES: Final = {
    "7d": ("7 days", 7 * 86_400),
    "30d": ("30 days", 30 * 86_400),
    "90d": ("90 days", 90 * 86_400),
    "365d": ("1 year", 365 * 86_400),
}
OVERLAPS: Final = {
    "0": ("none: the old secrets end now", 0),
    "5m": ("5 minutes", 300),
    "1h": ("1 hour", 3_600),
    "24h": ("24 hours", 86_400),
    "7d": ("7 days", 7 * 86_400),
    "30d": ("30 days", 30 * 86_400),
}

# What can be done to a key, by methods of the backend of these names, and in which states.
ACTS: Final = {
    "rotate": ("active", "disabled", "expired"),
    "disable": ("active", "expired"),
    "enable": ("disabled",),
    "revoke": ("active", "disabled", "expired"),
    "delete": ("active", "disabled", "expired", "revoked", "unreadable"),
}

# What refusals mean, by decision, in the order in which they are shown.
REASONS: Final = {
    "Refused (401)": {
        "missing": "no credentials: a browser's first request, too",
        "malformed": "not well-formed Basic credentials",
        "unknown": "no key has that client id",
        "wrong_secret": "the secret is not the key's",
        "expired": "the key or the secret has ended",
        "disabled": "the key is disabled",
        "revoked": "the key was revoked",
    },
    "Forbidden (403)": {
        "insufficient_scope": "a right key without a scope that it needs",
        "https_required": "came by plain http",
    },
    "Throttled (429)": {"throttled": "too many failures from one address"},
    "Not checked (503)": {
        "backend_unavailable": "the key store could not be asked",
        "overloaded": "too many slow hashes at once",
    },
}
