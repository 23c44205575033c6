"""Redis URLs: the parts for this package, and a URL for redis-py. Errors never show a part of a URL."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from ...errors import ConfigurationError

DEFAULT_PREFIX: Final = "basicauth"

# By scheme: the scheme of redis-py for the same kind of connection, and how the servers are organized.
_SCHEMES: Final = {
    "redis": ("redis", "node"),
    "rediss": ("rediss", "node"),
    "unix": ("unix", "node"),
    "redis+sentinel": ("redis", "sentinel"),
    "rediss+sentinel": ("rediss", "sentinel"),
    "redis+cluster": ("redis", "cluster"),
    "rediss+cluster": ("rediss", "cluster"),
}
_PORTS: Final = {"node": 6379, "sentinel": 26379, "cluster": 6379}
_EXAMPLES: Final = {
    "node": "redis://host:port/0",
    "sentinel": "redis+sentinel://host1:port,host2:port/master-name",
    "cluster": "redis+cluster://host1:port,host2:port",
}

# The options of a URL: how to reach the server, never how to wait or to decode.
_TLS_OPTIONS: Final = frozenset(
    {"ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile"}
    | {"ssl_check_hostname", "ssl_keyfile", "ssl_min_version", "ssl_password"}
)
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})
_OPTIONS: Final = _TLS_OPTIONS | {"client_name", "db", "password", "prefix", "username"}

_PREFIX = re.compile(r"[!-z|~]{1,100}")  # visible ASCII but for braces
_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,200}")  # the names that Sentinel accepts for a master
_DATABASE = re.compile(r"\d{1,9}")

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Target:
    """What a Redis URL names.

    Attributes:
        topology: ``node``, ``sentinel`` or ``cluster``.
        url: For redis-py: how to connect to the first host, and to the others except for their addresses.
        prefix: The start of every name in Redis.
        addresses: The hosts of the URL: the server, the sentinels, or nodes of a cluster.
        service: The name of the master in Sentinel.
        socket_path: The path of a Unix socket.
        sentinel_login: ``username`` and ``password`` for the sentinels, if given.
    """

    topology: str
    url: str = field(repr=False)
    prefix: str
    addresses: tuple[Address, ...] = ()
    service: str = ""
    socket_path: str = ""
    sentinel_login: dict[str, str] = field(default_factory=dict, repr=False)


def parse_url(url: str) -> Target:
    """Read a URL.

    Raises:
        ConfigurationError: Lists everything that is wrong with it.
    """
    scheme, _, rest = url.partition(":")
    base, topology = _SCHEMES.get(scheme.lower(), ("", "node"))
    if (split := _split(scheme, rest)) is None:
        raise ConfigurationError(
            "the Redis URL cannot be read: percent-encode special characters of the password"
        )
    hosts, ports, pairs = split
    is_unix, first, options = base == "unix", hosts[0], dict(pairs)
    prefix = options.pop("prefix", DEFAULT_PREFIX)
    service, database = "", first.path.removeprefix("/")
    if topology == "sentinel":
        service, _, database = database.partition("/")
        service = unquote(service)
    known = _OPTIONS | _SENTINEL_OPTIONS if topology == "sentinel" else _OPTIONS
    write = f"write {_EXAMPLES[topology]}"
    problems = {
        f"a Redis URL starts with one of {', '.join(f'{name}://' for name in _SCHEMES)}": not base,
        "the Redis URL contains whitespace or control characters: percent-encode them": any(
            character.isspace() or not character.isprintable() for character in url
        ),
        "the Redis URL contains a #: percent-encode it as %23": "#" in url,
        "the Redis URL names several hosts: write redis+sentinel:// or redis+cluster://": (
            topology == "node" and len(hosts) > 1
        ),
        "the Redis URL has an option twice": len(dict(pairs)) != len(pairs),
        f"the Redis URL has an option that cannot be set; these can: {', '.join(sorted(known))}": (
            not options.keys() <= known
        ),
        "the Redis URL has options for TLS, but not a scheme that begins with rediss": (
            base != "rediss" and not options.keys().isdisjoint(_TLS_OPTIONS)
        ),
        "the prefix in the Redis URL is 1 to 100 visible ASCII characters without braces": (
            not _PREFIX.fullmatch(prefix)
        ),
        "db in the Redis URL is the number of a database": not _DATABASE.fullmatch(options.get("db", "0")),
        "a unix socket is unix:///path/to/redis.sock, with three slashes": (
            is_unix and bool(first.hostname or ports[0] is not None or not first.path.strip("/"))
        ),
        f"the Redis URL lacks a host: {write}": not is_unix and not all(host.hostname for host in hosts),
        f"the Redis URL lacks the name of the master: {write}": (
            topology == "sentinel" and not _SERVICE.fullmatch(service)
        ),
        f"the path of the Redis URL is the number of a database: {write}": (
            not is_unix and not _DATABASE.fullmatch(database or "0")
        ),
        "the Redis URL names the database twice": not is_unix and "db" in options and database != "",
        "a Redis Cluster has database 0 only: name none in the Redis URL": (
            topology == "cluster" and (database or options.get("db", "0")).strip("0") != ""
        ),
    }
    if any(problems.values()):
        raise ConfigurationError([text for text, is_wrong in problems.items() if is_wrong])
    login = {name: options.pop(name) for name in _SENTINEL_OPTIONS & options.keys()}
    path = first.path if is_unix else f"/{database}"
    return Target(
        topology=topology,
        url=f"{base}://{first.netloc}{path}?{urlencode(options)}",
        prefix=prefix,
        addresses=tuple(
            (host.hostname or "", port or _PORTS[topology]) for host, port in zip(hosts, ports, strict=True)
        ),
        service=service,
        socket_path=first.path if is_unix else "",
        sentinel_login={name.removeprefix("sentinel_"): value for name, value in login.items()},
    )


def _split(
    scheme: str, rest: str
) -> tuple[list[SplitResult], list[int | None], list[tuple[str, str]]] | None:
    """The URL of each host, their ports, and the options; None: malformed.

    ``//user:password@a,b/path`` becomes ``//user:password@a/path`` and ``//user:password@b/path``.
    """
    found = re.fullmatch(r"(//(?:[^/?#]*@)?)([^/?#]*)(.*)", rest, re.DOTALL)
    before, names, after = (found[1], found[2].split(","), found[3]) if found else ("", [rest], "")
    try:
        hosts = [urlsplit(f"{scheme}:{before}{name}{after}") for name in names]
        query = hosts[0].query
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        return hosts, [host.port for host in hosts], pairs
    except ValueError:  # its text may hold a part of the password
        return None
