"""Backend URLs may contain a password, which no output and no process list may show."""

import os
import re
from importlib.metadata import entry_points
from urllib.parse import urlsplit

from ..backends import ENTRY_POINTS
from ..backends.file import parse_file_url
from ..backends.redis.url import parse_url
from ..backends.sqlite.files import path_of
from ..errors import ConfigurationError

_PASSWORD_BEFORE_HOST = re.compile(r"\A[^:]*:/*[^@]*:[^@]*@")
_PASSWORD_AS_PARAMETER = re.compile(r"[?&][^=&]*(?:passw|secret|token)[^=&]*=", re.IGNORECASE)


def has_password(url: str) -> bool:
    """Whether a URL contains a password, or looks like it."""
    # A URL that the driver would refuse may contain one, too. A wrong result here only means that the URL has
    # to be set in the environment.
    if url.startswith(("sqlite:", "file:")):
        return False
    return bool(_PASSWORD_BEFORE_HOST.search(url) or _PASSWORD_AS_PARAMETER.search(url))


def without_secrets(url: str) -> str:
    """The parts of a backend URL that can be shown. In an invalid URL, every part may be a password."""
    scheme, colon, rest = url.partition(":")
    kind = scheme.lower() if colon else ""
    try:
        if kind == "sqlite":
            path_of(url)
            return url
        if kind == "file":
            parse_file_url(url)
            return url
        if kind.partition("+")[0] in ("redis", "rediss", "unix"):
            return f"{scheme}:{_redis_location(url)}"
        if kind in ("postgresql", "postgres"):
            return f"{scheme}:{_postgres_location(url)}"
    except ConfigurationError:
        return f"{scheme}:..."
    if kind in ("env", "memory"):
        # Anything but the name of a variable may be the keys, with their secrets.
        return url if not rest or rest in os.environ or f"{rest}_FILE" in os.environ else f"{scheme}:..."
    is_known = kind and kind in {entry.name.lower() for entry in entry_points(group=ENTRY_POINTS)}
    return f"{scheme}:..." if is_known else "..."


def _redis_location(url: str) -> str:
    """Hosts, name of the master, and database or path of the socket."""
    target = parse_url(url)
    parts = urlsplit(url)
    if "@" in parts.path + parts.query:
        return "..."  # perhaps a password with a / or ? that is not encoded
    hosts = ",".join(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in target.addresses
    )
    return f"//{'' if target.socket_path else hosts}{parts.path}"


def _postgres_location(url: str) -> str:
    from ..backends.postgres.url import parse_url as parse_postgres_url  # imports psycopg

    target = parse_postgres_url(url)
    hosts = ",".join(":".join(filter(None, address)) for address in target.hosts)
    return f"//{hosts}/{target.options.get('dbname', '')}"
