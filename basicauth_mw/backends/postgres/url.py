"""Postgres URLs, read by libpq but for the options of this package. Errors never show a part of a URL."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final
from urllib.parse import unquote

from ...errors import ConfigurationError
from ...runtime.extras import require

_conninfo = require("psycopg.conninfo", extra="postgres")
_Error = require("psycopg", extra="postgres").Error

DEFAULT_SCHEMA: Final = "public"
DEFAULT_PREFIX: Final = "basicauth"

# The parameters of libpq that say how to reach the server and log in, never how to wait.
_OPTIONS: Final = frozenset(
    {"application_name", "channel_binding", "dbname", "gssencmode", "host", "keepalives", "keepalives_count"}
    | {"keepalives_idle", "keepalives_interval", "krbsrvname", "options", "passfile", "password", "port"}
    | {"require_auth", "sslcert", "sslcertmode", "sslcrl", "sslkey", "sslmode", "sslnegotiation"}
    | {"sslpassword", "sslrootcert", "ssl_min_protocol_version", "target_session_attrs", "user"}
)
_OURS: Final = frozenset({"schema", "prefix"})
_PRIMARY: Final = ("primary", "read-write")

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}", re.ASCII)
_PORT = re.compile(r"[0-9]{0,5}")
# libpq would take what follows an @ or a slash in a password as the host or the database.
_BASE = re.compile(r"//([^@/]*@)?[^@/]*(/[^@]*)?")


@dataclass(frozen=True, slots=True)
class Target:
    """What a Postgres URL names.

    Attributes:
        hosts: Host, or directory of a Unix socket, and port of each server; empty for libpq's default.
        options: The other parameters for libpq.
        schema: The schema of the tables.
        prefix: The start of the names of the tables.
    """

    hosts: tuple[tuple[str, str], ...]
    options: dict[str, str] = field(repr=False)
    schema: str = DEFAULT_SCHEMA
    prefix: str = DEFAULT_PREFIX


def parse_url(url: str) -> Target:
    """Read a URL.

    Raises:
        ConfigurationError: Lists everything that is wrong with it.
    """
    _, _, rest = url.partition(":")
    base, _, query = rest.partition("?")
    texts = [pair for pair in query.split("&") if pair]
    pairs = [tuple(map(unquote, pair.partition("=")[::2])) for pair in texts]
    names = [name for name, _ in pairs]
    ours = {name: value for name, value in pairs if name in _OURS}
    others = [text for text, name in zip(texts, names, strict=True) if name not in _OURS]
    found = _read_by_libpq(f"postgresql:{base}?{'&'.join(others)}") if _BASE.fullmatch(base) else None
    options = found or {}
    hosts = options.pop("host", os.environ.get("PGHOST", "")).split(",")
    ports = options.pop("port", os.environ.get("PGPORT", "")).split(",")
    known = _OPTIONS | _OURS
    unknown = not known.issuperset(names)
    write = "write postgresql://user@host:port/database; percent-encode special characters of the password"
    checks = [
        (found is None and not unknown, f"the Postgres URL cannot be read: {write}"),
        (
            any(character.isspace() or not character.isprintable() for character in url),
            "the Postgres URL contains whitespace or control characters: percent-encode them",
        ),
        (
            unknown,
            f"the Postgres URL has an option that cannot be set; these can: {', '.join(sorted(known))}",
        ),
        (len(set(names)) != len(names), "the Postgres URL has an option twice"),
        (
            not all(_NAME.fullmatch(each) for each in ours.values()),
            "schema and prefix in the Postgres URL are 1 to 40 lower-case letters, digits and underscores",
        ),
        (
            options.setdefault("target_session_attrs", "primary") not in _PRIMARY,
            "keys are read from the primary: target_session_attrs in the Postgres URL must be primary",
        ),
        (not all(map(_PORT.fullmatch, ports)), "the port in the Postgres URL is not a number"),
        (len(ports) not in (1, len(hosts)), "the Postgres URL has not one port for each host"),
    ]
    if problems := [text for is_wrong, text in checks if is_wrong]:
        raise ConfigurationError(problems)
    return Target(tuple(zip_longest(hosts, ports, fillvalue=ports[0])), options, **ours)


def _read_by_libpq(url: str) -> dict[str, str] | None:
    """The parameters that a URL sets; None: malformed."""
    try:
        found: dict[str, str] = _conninfo.conninfo_to_dict(url)
    except (_Error, ValueError):  # its text holds a part of the URL
        return None
    return found
