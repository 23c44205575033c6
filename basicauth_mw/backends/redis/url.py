"""Redis URLs: what of one is ours, and what redis-py may be given. Errors never show a part of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from ...errors import ConfigurationError

DEFAULT_PREFIX: Final = "basicauth"

# By scheme: what redis-py calls a URL with the same kind of connection, and how the servers are organised.
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

# What may stand behind the ? of a URL: how to reach the server, never how to wait or to decode.
_TLS_OPTIONS: Final = frozenset(
    {
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_keyfile",
        "ssl_min_version",
        "ssl_password",
    }
)
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})
_OPTIONS: Final = _TLS_OPTIONS | {"client_name", "db", "password", "prefix", "username"}

_PREFIX = re.compile(r"[!-z|~]{1,100}")  # visible ASCII but for braces
_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,200}")  # what Sentinel takes for the name of a master
_DATABASE = re.compile(r"\d{1,9}")

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Target:
    """What a Redis URL names.

    Attributes:
        form: ``node``, ``sentinel`` or ``cluster``.
        url: For redis-py: how to connect to the first host, and to any other but for its address.
        prefix: What the names of our keys begin with.
        addresses: Of every host in the URL: sentinels, or nodes of a cluster.
        service: What the sentinels call the master.
        socket_path: Of a unix socket; empty: the server is on the network.
        sentinel_login: ``username`` and ``password`` for the sentinels, those that are given.
    """

    form: str
    url: str = field(repr=False)
    prefix: str
    addresses: tuple[Address, ...] = ()
    service: str = ""
    socket_path: str = ""
    sentinel_login: dict[str, str] = field(default_factory=dict, repr=False)


def parse_url(url: str) -> Target:
    """Read a URL.

    Raises:
        ConfigurationError: Says everything that is wrong with it.
    """
    scheme, _, rest = url.partition(":")
    base, form = _SCHEMES.get(scheme.lower(), ("", "node"))
    try:
        # Each host in a URL of its own: with several in one, there would be no port to read.
        each = [urlsplit(f"{scheme}:{single}") for single in _hosts_apart(rest)]
        ports = [parts.port for parts in each]
        query = each[0].query
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:  # its text holds what was wrong, which may be a part of the password
        raise ConfigurationError(
            "the Redis URL cannot be read: percent-encode special characters of the password"
        ) from None
    parts = each[0]
    options = dict(pairs)
    problems: list[str] = []
    if not base:
        problems.append(f"a Redis URL starts with one of {', '.join(f'{name}://' for name in _SCHEMES)}")
    if any(character.isspace() or not character.isprintable() for character in url):
        problems.append("the Redis URL holds white space or control characters: percent-encode them")
    if "#" in url:
        problems.append("the Redis URL holds a #: percent-encode it as %23")
    if form == "node" and len(each) > 1:
        problems.append("the Redis URL names several hosts: write redis+sentinel:// or redis+cluster://")
    known = _OPTIONS | _SENTINEL_OPTIONS if form == "sentinel" else _OPTIONS
    if len(options) != len(pairs):
        problems.append("the Redis URL has an option twice")
    if not options.keys() <= known:
        problems.append(
            f"the Redis URL has an option that cannot be set; these can: {', '.join(sorted(known))}"
        )
    if base != "rediss" and options.keys() & _TLS_OPTIONS:
        problems.append("the Redis URL has options for TLS, but not a scheme that begins with rediss")
    prefix = options.pop("prefix", DEFAULT_PREFIX)
    if not _PREFIX.fullmatch(prefix):
        problems.append("the prefix in the Redis URL is 1 to 100 visible ASCII characters without braces")
    if not _DATABASE.fullmatch(options.get("db", "0")):
        problems.append("db in the Redis URL is the number of a database")
    service, database = "", parts.path.removeprefix("/")
    if base == "unix":
        if parts.hostname or ports[0] is not None or not parts.path.strip("/"):
            problems.append("a unix socket is unix:///path/to/redis.sock, with three slashes")
    else:
        if not all(single.hostname for single in each):
            problems.append(f"the Redis URL lacks a host: write {_example(form)}")
        if form == "sentinel":
            service, _, database = database.partition("/")
            service = unquote(service)
            if not _SERVICE.fullmatch(service):
                problems.append(f"the Redis URL lacks the name of the master: write {_example(form)}")
        if database and not _DATABASE.fullmatch(database):
            problems.append(f"the path of the Redis URL is the number of a database: write {_example(form)}")
        if "db" in options and database:
            problems.append("the Redis URL names the database twice")
        if form == "cluster" and (database or options.get("db", "0")).strip("0"):
            problems.append("a Redis Cluster has database 0 only: name none in the Redis URL")
    login = {name: options.pop(name) for name in tuple(options) if name in _SENTINEL_OPTIONS}
    if problems:
        raise ConfigurationError(problems)
    path = parts.path if base == "unix" else f"/{database}"
    return Target(
        form=form,
        url=f"{base}://{parts.netloc}{path}?{urlencode(options)}",
        prefix=prefix,
        addresses=tuple(
            (single.hostname or "", port or _PORTS[form]) for single, port in zip(each, ports, strict=True)
        ),
        service=service,
        socket_path=parts.path if base == "unix" else "",
        sentinel_login={name.removeprefix("sentinel_"): value for name, value in login.items()},
    )


def _hosts_apart(rest: str) -> list[str]:
    """``//user:password@a,b/path`` as ``//user:password@a/path`` and ``//user:password@b/path``."""
    found = re.fullmatch(r"(//(?:[^/?#]*@)?)([^/?#]*)(.*)", rest, re.DOTALL)
    if found is None:
        return [rest]
    before, hosts, behind = found.groups()
    return [f"{before}{host}{behind}" for host in hosts.split(",")]


def _example(form: str) -> str:
    return {
        "node": "redis://host:port/0",
        "sentinel": "redis+sentinel://host1:port,host2:port/master-name",
        "cluster": "redis+cluster://host1:port,host2:port",
    }[form]
