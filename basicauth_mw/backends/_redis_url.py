"""Redis URLs: what of one is ours, and what redis-py may be given. Errors never show a part of it."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from ..errors import ConfigurationError

DEFAULT_PREFIX: Final = "basicauth"

# What may stand behind the ? of a URL: how to reach the server, never how to wait or to decode.
_OPTIONS: Final = frozenset(
    {
        "client_name",
        "db",
        "password",
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_keyfile",
        "ssl_min_version",
        "ssl_password",
        "username",
    }
)
_PREFIX = re.compile(r"[!-z|~]{1,100}")  # visible ASCII but for braces


def parse_url(url: str) -> tuple[str, str]:
    """Take our own part off a URL.

    Returns:
        What redis-py understands, and the prefix of the keys' names.

    Raises:
        ConfigurationError: Says everything that is wrong with it.
    """
    scheme = url.partition(":")[0].lower()
    if scheme in ("redis+sentinel", "redis+cluster"):
        raise ConfigurationError(
            f"{scheme}:// is not supported in this release: name one node by redis://, rediss:// or unix://"
        )
    problems: list[str] = []
    try:
        parts = urlsplit(url)
        port = parts.port
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:  # its text holds what was wrong, which may be a part of the password
        raise ConfigurationError(
            "the Redis URL cannot be read: percent-encode special characters of the password"
        ) from None
    options = dict(pairs)
    prefix = options.pop("prefix", DEFAULT_PREFIX)
    if any(character.isspace() or not character.isprintable() for character in url):
        problems.append("the Redis URL holds white space or control characters: percent-encode them")
    if scheme not in ("redis", "rediss", "unix"):
        problems.append("a Redis URL starts with redis://, rediss:// or unix://")
    if "#" in url:
        problems.append("the Redis URL holds a #: percent-encode it as %23")
    if len(options) + ("prefix" in dict(pairs)) != len(pairs):
        problems.append("the Redis URL has an option twice")
    if not options.keys() <= _OPTIONS:
        problems.append(
            "the Redis URL has an option that cannot be set; these can: "
            + ", ".join(sorted({*_OPTIONS, "prefix"}))
        )
    if not _PREFIX.fullmatch(prefix):
        problems.append("the prefix in the Redis URL is 1 to 100 visible ASCII characters without braces")
    if scheme == "unix":
        if parts.hostname or port is not None or not parts.path.strip("/"):
            problems.append("a unix socket is unix:///path/to/redis.sock, with three slashes")
    else:
        if not parts.hostname:
            problems.append("the Redis URL has no host: write redis://host:port/0")
        if not re.fullmatch(r"(/\d{0,9})?", parts.path):
            problems.append(
                "the path of the Redis URL is the number of a database, as in redis://host:port/0"
            )
        if "db" in options and parts.path.strip("/"):
            problems.append("the Redis URL names the database twice")
    if not re.fullmatch(r"\d{1,9}", options.get("db", "0")):
        problems.append("db in the Redis URL is the number of a database")
    if problems:
        raise ConfigurationError(problems)
    return f"{scheme}://{parts.netloc}{parts.path}?{urlencode(options)}", prefix
