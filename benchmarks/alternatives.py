"""How does the middleware compare with its alternatives?

Real servers, each with the same 1,000 clients; one server at a time is under load, in rotation. The figure is
requests per second of CPU time, for a proxy including the CPU time of its app. All servers share one core,
and the load generator has another.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from alternative_apps import API_KEY, KEYS, PASSWORD, client_id
from asgi_apps import SECRET, WRONG_SECRET
from load import Target, run
from proxies import (
    BCRYPT_COST,
    apr1,
    bcrypt_hash,
    caddy,
    envoy,
    envoy_api_key_auth,
    envoy_basic_auth,
    find,
    nginx,
    sha1,
)
from report import Outcome, Table, main
from serving import HERE, free_port, gunicorn, served, uvicorn

from basicauth_mw import encode_basic

if TYPE_CHECKING:
    from collections.abc import Callable

    from serving import Server

KINDS = ("valid", "wrong", "unknown", "missing")
CONNECTIONS = 8
CLIENTS = 64  # IDs that requests use in turn, so that failures of each stay below the limit of the throttle
NONE = ": no authentication"
OURS = "FastAPI: **basicauth_mw**"


def basic(secret: str, name: Callable[[int], str] = client_id, clients: int = CLIENTS) -> list[str]:
    step = KEYS // (clients + 1)  # spread over the file, since some read it from the start
    return [encode_basic(name(number * step), secret) for number in range(1, clients + 1)]


def unknown(number: int) -> str:
    return f"unknown-{number:04}"


@dataclass
class Stack:
    """An app and what protects it.

    Attributes:
        name: What protects it.
        command: Starts it on a port.
        fields: Values of the header by kind of request; without authentication, only ``valid``.
        leaves_out: What it does not do, in comparison with this middleware.
        slow: Kinds that compute a password hash each time.
        refused: The status of a refusal.
        header: The header that carries the credentials.
        has_app: Whether it is a proxy in front of the shared app.
    """

    name: str
    command: Callable[[int], list[str]]
    fields: dict[str, list[str]]
    leaves_out: str
    slow: frozenset[str] = frozenset()
    refused: int = 401
    header: str = "Authorization"
    has_app: bool = False
    per_cpu_s: dict[str, list[float]] = field(default_factory=dict)


OPEN: dict[str, list[str]] = {"valid": []}
GENERATED = {
    "valid": basic(SECRET),
    "wrong": basic(WRONG_SECRET),
    "unknown": basic(WRONG_SECRET, unknown),
    "missing": [],
    "throttled": basic(WRONG_SECRET, clients=4),
}
PASSWORDS = {
    "valid": basic(PASSWORD, clients=1),
    "wrong": basic("a wrong password"),
    "unknown": basic("a wrong password", unknown),
    "missing": [],
}
API_KEYS = {
    "valid": [f"Api-Key {API_KEY}"],
    "wrong": [f"Api-Key prefix00.{WRONG_SECRET}"],
    "unknown": [f"Api-Key nobody00.{WRONG_SECRET}"],
    "missing": [],
}
PLAIN_KEYS = {"valid": [SECRET + "0007"], "wrong": [WRONG_SECRET], "unknown": [WRONG_SECRET], "missing": []}
REFUSED_SLOWLY, SLOW = frozenset({"wrong", "unknown"}), frozenset({"valid", "wrong", "unknown"})

_REST = "throttling of failures, audit log, error responses"
_HASHED = f"salt, cache, {_REST}"


def apps() -> list[Stack]:
    """The apps that protect themselves."""

    def on_uvicorn(app: str) -> Callable[[int], list[str]]:
        return lambda port: uvicorn(app if ":" in app else f"alternative_apps:{app}", port)

    def on_gunicorn(app: str) -> Callable[[int], list[str]]:
        return lambda port: gunicorn(app if ":" in app else f"alternative_apps:{app}", port)

    api, views, drf = "FastAPI", "Flask", "Django REST framework"
    return [
        Stack(f"{api}{NONE}", on_uvicorn("asgi_apps:fastapi_app"), OPEN, ""),
        Stack(OURS, on_uvicorn("fastapi_ours"), GENERATED, ""),
        Stack(f"{api}: **basicauth_mw**, cache off", on_uvicorn("fastapi_ours_uncached"), GENERATED, "cache"),
        Stack(
            f"{api}: **basicauth_mw**, Argon2id passwords",
            on_uvicorn("fastapi_ours_argon2"),
            PASSWORDS,
            "",
            slow=REFUSED_SLOWLY,
        ),
        Stack(f"{api}: HTTPBasic, SQLite, SHA-256", on_uvicorn("fastapi_sha256"), GENERATED, _HASHED),
        Stack(
            f"{api}: HTTPBasic, SQLite, Argon2id",
            on_uvicorn("fastapi_argon2"),
            PASSWORDS,
            f"cache, {_REST}",
            slow=SLOW,
        ),
        Stack(
            f"{api}: Starlette's AuthenticationMiddleware, SQLite, SHA-256",
            on_uvicorn("fastapi_starlette"),
            GENERATED,
            _HASHED,
            refused=400,
        ),
        Stack(f"{views}{NONE}", on_gunicorn("wsgi_apps:flask_app"), OPEN, ""),
        Stack(f"{views}: **basicauth_mw**", on_gunicorn("flask_ours"), GENERATED, ""),
        Stack(
            f"{views}: **basicauth_mw**, cache off", on_gunicorn("flask_ours_uncached"), GENERATED, "cache"
        ),
        Stack(f"{views}: Flask-HTTPAuth, SQLite, SHA-256", on_gunicorn("flask_sha256"), GENERATED, _HASHED),
        Stack(
            f"{views}: Flask-HTTPAuth, SQLite, Argon2id",
            on_gunicorn("flask_argon2"),
            PASSWORDS,
            f"cache, {_REST}",
            slow=SLOW,
        ),
        Stack(f"{drf}{NONE}", on_gunicorn("drf_bare"), OPEN, ""),
        Stack(f"{drf}: **basicauth_mw**", on_gunicorn("drf_ours"), GENERATED, ""),
        Stack(
            f"{drf}: BasicAuthentication, PBKDF2",
            on_gunicorn("drf_basic"),
            PASSWORDS,
            f"cache, {_REST}",
            slow=SLOW,
        ),
        Stack(
            f"{drf}: djangorestframework-api-key",
            on_gunicorn("drf_api_key"),
            API_KEYS,
            _HASHED,
            refused=403,
        ),
    ]


def proxies(directory: Path, app_port: int) -> list[Stack]:
    """Proxies in front of FastAPI, those that are installed."""
    ids = [client_id(number) for number in range(KEYS)]
    numbers = count()

    def place() -> Path:
        return directory / f"proxy{next(numbers)}"

    rest = f"scopes, expiry, changes without a reload, {_REST}"
    stacks = []
    if find("nginx"):
        hashes = {"{SHA}": sha1(SECRET)}
        if find("openssl"):
            hashes["apr1"] = apr1(SECRET)
        stacks.append(Stack(f"nginx{NONE}", lambda port: nginx(place(), port, app_port, None), OPEN, ""))
        for name, stored in hashes.items():
            users = dict.fromkeys(ids, stored)
            stacks.append(
                Stack(
                    f"nginx: auth_basic, {name}",
                    lambda port, users=users: nginx(place(), port, app_port, users),  # type: ignore[misc]
                    GENERATED,
                    f"cache; reads its file on each request; {rest}",
                )
            )
    if find("caddy"):
        users = dict.fromkeys(ids, bcrypt_hash(PASSWORD))
        stacks += [
            Stack(f"Caddy{NONE}", lambda port: caddy(place(), port, app_port, None), OPEN, ""),
            Stack(
                f"Caddy: basic_auth, bcrypt of cost {BCRYPT_COST}",
                lambda port: caddy(place(), port, app_port, users),
                PASSWORDS,
                f"{rest}; caches refusals too",
            ),
            Stack(
                f"Caddy: basic_auth, bcrypt of cost {BCRYPT_COST}, cache off",
                lambda port: caddy(place(), port, app_port, users, caches=False),
                PASSWORDS,
                f"cache, {rest}",
                slow=SLOW,
            ),
        ]
    if find("envoy"):
        shas = envoy_basic_auth(dict.fromkeys(ids, sha1(SECRET)))
        keys = envoy_api_key_auth({name: f"{SECRET}{name[-4:]}" for name in ids})
        stacks += [
            Stack(f"Envoy{NONE}", lambda port: envoy(place(), port, app_port, None), OPEN, ""),
            Stack(
                "Envoy: basic_auth, {SHA}",
                lambda port: envoy(place(), port, app_port, shas),
                GENERATED,
                f"salt, {rest}",
            ),
            Stack(
                "Envoy: api_key_auth",
                lambda port: envoy(place(), port, app_port, keys),
                PLAIN_KEYS,
                f"hash (keys in plain text), {rest}",
                header="x-api-key",
            ),
        ]
    for stack in stacks:
        stack.has_app = True
    return stacks


def measured(quick: bool) -> Outcome:
    rounds, seconds = (1, 0.1) if quick else (3, 0.3)
    cores = sorted(os.sched_getaffinity(0))
    addresses = (f"127.{number >> 8 & 255}.{number & 255}.1" for number in count(257))
    throttled: list[float] = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="basicauth-bench-")))
        environ = {"BENCH_DIRECTORY": str(directory)}
        program = [sys.executable, str(HERE / "alternative_apps.py")]
        subprocess.run(program, env={**os.environ, **environ}, check=True)

        def serve(command: list[str], port: int) -> Server:
            return stack.enter_context(served(command, port, cores={cores[0]}, settings=environ))

        app_port = free_port()
        app = serve(uvicorn("asgi_apps:fastapi_app", app_port), app_port)
        stacks = [*apps(), *proxies(directory, app_port)]
        servers: dict[str, Server] = {}
        for each in stacks:
            port = free_port()
            servers[each.name] = serve(each.command(port), port)

        def rate(each: Stack, kind: str, status: int, *, slow: bool, address: str) -> float:
            """Requests per CPU second."""
            pids = servers[each.name].pids + (app.pids if each.has_app else [])
            target = Target(servers[each.name].port, pids, each.fields[kind], status, each.header)
            (load,) = run(
                [target],
                seconds=seconds,
                connections=1 if slow else CONNECTIONS,
                core=cores[-1],
                address=address,
                at_least=2 if slow else 10,
            )
            return 1 / load.cpu_per_request_s

        ours = next(each for each in stacks if each.name == OURS)
        pairs = [(each, kind) for each in stacks for kind in KINDS if kind in each.fields]
        for number in range(rounds):
            turn = number * len(pairs) // rounds
            for each, kind in pairs[turn:] + pairs[:turn]:
                status = 200 if kind == "valid" else each.refused
                figure = rate(each, kind, status, slow=kind in each.slow, address=next(addresses))
                each.per_cpu_s.setdefault(kind, []).append(figure)
            blocked = f"127.255.{number}.1"  # new, so that its failures are all in one window
            block(servers[OURS].port, ours.fields["throttled"], blocked)
            throttled.append(rate(ours, "throttled", 429, slow=False, address=blocked))
    series = {each.name: {kind: median(found) for kind, found in each.per_cpu_s.items()} for each in stacks}
    return Outcome([table(stacks, rounds, seconds, median(throttled))], series={"per_cpu_s": series})


def block(port: int, fields: list[str], address: str) -> None:
    """Send as many wrong secrets as the throttle blocks, from the addresses of one load."""
    prefix, _, last = address.rpartition(".")
    for number in range(CONNECTIONS):
        connection = HTTPConnection("127.0.0.1", port, source_address=(f"{prefix}.{int(last) + number}", 0))
        with closing(connection):
            for value in fields * 21:
                connection.request("GET", "/", headers={"Authorization": value})
                connection.getresponse().read()


def table(stacks: list[Stack], rounds: int, seconds: float, throttled: float) -> Table:
    note = (
        f"The median of {rounds} rounds of {seconds:g} s; more is better. FastAPI under uvicorn, Flask and "
        "Django under gunicorn with threads, the proxies in front of the same FastAPI app. Default settings; "
        "each package has the hash that it uses by default, or the one that is named. Keys and hashes are in "
        "SQLite, for Django in its database. FastAPI's dependency is `def`, as in its documentation. Wrong "
        "and unknown credentials come from many addresses and IDs, so the throttle counts them, but does not "
        "block them; of requests that it blocks (429), FastAPI with basicauth_mw responds to "
        f"{throttled:,.0f} per CPU second. Valid credentials are cached where the package has a cache. Only "
        "basicauth_mw counts failures, can log each refusal (off here, as by default), and refuses a revoked "
        "key in all processes within a second."
    )
    absent = [name for name in ("nginx", "caddy", "envoy") if not find(name)]
    if absent:
        note += f" Not measured, since not installed: {', '.join(absent)}."
    rows = []
    for stack in stacks:
        cells = [figure_of(stack.per_cpu_s.get(kind)) for kind in KINDS]
        rows.append([stack.name, *cells, stack.leaves_out])
    columns = ["app and its protection", *KINDS, "leaves out"]
    return Table("Requests per CPU second, by credentials", columns, rows, note)


def figure_of(values: list[float] | None) -> str:
    if values is None:
        return ""
    middle = median(values)
    return f"{middle:,.0f}" if middle >= 100 else f"{middle:.1f}"


if __name__ == "__main__":
    main(measured, __doc__)
