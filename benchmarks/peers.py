"""The names of what is compared, and what each leaves out that this middleware does by default."""

from __future__ import annotations

OURS = "basicauth_mw"
UNMAPPED = "basicauth_mw, map_errors=False"
FLOOR = "floor, written by hand"
HOLDING = "floor that holds the response start"
UNCACHED = "floor without a cache"
STARLETTE = "Starlette AuthenticationMiddleware"
BASE_HTTP = "BaseHTTPMiddleware"
FASTAPI = "FastAPI, HTTPBasic dependency"
FLASK_HTTPAUTH = "Flask-HTTPAuth"

LEAVES_OUT = {
    OURS: "",
    UNMAPPED: "error responses",
    FLOOR: "verification: finds the whole header in a table",
    HOLDING: "verification: finds the whole header in a table",
    UNCACHED: "salt: computes one SHA-256",
    STARLETTE: "hash: compares with a constant",
    BASE_HTTP: "hash: compares with a constant",
    FASTAPI: "hash: compares with a constant",
    FLASK_HTTPAUTH: "hash: compares with a constant",
}
MISSING_IN_ALL = (
    "Of these, only basicauth_mw has a store, expiry and revocation of keys, throttling, an audit log (off "
    "here, as by default), and JSON responses with a request ID for refusals and exceptions; and the peers "
    "accept credentials that are not valid base64. So a ratio compares different amounts of work."
)


def leaves_out(name: str) -> str:
    """What a variant leaves out; the name may have details after a comma."""
    if name in LEAVES_OUT:
        return LEAVES_OUT[name]
    return LEAVES_OUT[name.partition(",")[0]]
