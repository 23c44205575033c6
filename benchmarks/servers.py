"""What does the middleware cost under a real server?

Paired: two servers, bare and protected, share one core at the same time, a load generator runs on another,
and what counts is the CPU time that each server took per request. So a machine whose speed moves moves both.
A pair of two bare servers is the control: if its ratio is not within 0.97 and 1.03, the run cannot tell
anything about that server, and says so.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from asgi_apps import CLIENT_ID, FIELD, SECRET
from load import Target
from load import run as run_load
from report import Goal, Outcome, Table, at_least, main
from rounds import Spread, spread
from serving import free_port, gunicorn, served, uvicorn, waitress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONTROL = (0.97, 1.03)
CONNECTIONS = 16

# A server, and how to start it with an app.
PYTHON: dict[str, Callable[..., list[str]]] = {
    "uvicorn": uvicorn,
    "waitress": waitress,
    "gunicorn": gunicorn,
}
# Server, what is compared, its app, and the app it protects. The first of each server is the control.
PAIRS = [
    ("uvicorn", "control: bare", "asgi_apps:bare_app", "asgi_apps:bare_app"),
    ("uvicorn", "floor, over bare", "asgi_apps:floor_app", "asgi_apps:bare_app"),
    ("uvicorn", "basicauth_mw, over bare", "asgi_apps:ours_app", "asgi_apps:bare_app"),
    ("uvicorn", "Starlette, over bare", "asgi_apps:starlette_app", "asgi_apps:bare_app"),
    ("uvicorn", "BaseHTTPMiddleware, over bare", "asgi_apps:base_http_app", "asgi_apps:bare_app"),
    ("uvicorn", "floor, over FastAPI", "asgi_apps:floor_round_fastapi_app", "asgi_apps:fastapi_app"),
    ("uvicorn", "basicauth_mw, over FastAPI", "asgi_apps:ours_round_fastapi_app", "asgi_apps:fastapi_app"),
    ("uvicorn", "HTTPBasic, over FastAPI", "asgi_apps:fastapi_dependency_app", "asgi_apps:fastapi_app"),
    ("uvicorn", "floor, over Litestar", "asgi_apps:floor_round_litestar_app", "asgi_apps:litestar_app"),
    ("uvicorn", "basicauth_mw, over Litestar", "asgi_apps:ours_round_litestar_app", "asgi_apps:litestar_app"),
    ("uvicorn", "middleware, over Litestar", "asgi_apps:litestar_middleware_app", "asgi_apps:litestar_app"),
    ("waitress", "control: Flask", "wsgi_apps:flask", "wsgi_apps:flask"),
    ("waitress", "floor, over Flask", "wsgi_apps:floor_round_flask_app", "wsgi_apps:flask"),
    ("waitress", "basicauth_mw, over Flask", "wsgi_apps:ours_round_flask_app", "wsgi_apps:flask"),
    ("waitress", "Flask-HTTPAuth, over Flask", "wsgi_apps:flask_httpauth_app", "wsgi_apps:flask"),
    ("gunicorn", "control: bare", "wsgi_apps:bare_app", "wsgi_apps:bare_app"),
    ("gunicorn", "floor, over bare", "wsgi_apps:floor_app", "wsgi_apps:bare_app"),
    ("gunicorn", "basicauth_mw, over bare", "wsgi_apps:ours_app", "wsgi_apps:bare_app"),
    ("gunicorn", "floor, over Flask", "wsgi_apps:floor_round_flask_app", "wsgi_apps:flask"),
    ("gunicorn", "basicauth_mw, over Flask", "wsgi_apps:ours_round_flask_app", "wsgi_apps:flask"),
    ("gunicorn", "Flask-HTTPAuth, over Flask", "wsgi_apps:flask_httpauth_app", "wsgi_apps:flask"),
]
GOALS = [
    ("G4", "uvicorn", "basicauth_mw, over bare", 0.87),
    ("G4", "uvicorn", "basicauth_mw, over FastAPI", 0.95),
    ("G4", "uvicorn", "basicauth_mw, over Litestar", 0.95),
    ("G5", "waitress", "basicauth_mw, over Flask", 0.95),
    ("G5", "gunicorn", "basicauth_mw, over bare", 0.97),
    ("G5", "gunicorn", "basicauth_mw, over Flask", 0.97),
]


class Pair:
    """What the rounds of one pair showed: requests per CPU second of the protected and the bare server."""

    def __init__(self) -> None:
        self.mine: list[float] = []
        self.bare: list[float] = []
        self.by_rate: list[float] = []

    @property
    def ratio(self) -> Spread:
        return spread([mine / bare for mine, bare in zip(self.mine, self.bare, strict=True)])

    def row(self) -> list[str]:
        return [
            self.ratio.text(".3f"),
            spread(self.by_rate).text(".3f"),
            f"{spread(self.bare).middle:,.0f}",
            f"{spread(self.mine).middle:,.0f}",
        ]


def measured(quick: bool) -> Outcome:
    rounds, seconds = (2, 0.5) if quick else (5, 1.5)
    found: dict[tuple[str, str], Pair] = {}
    for server, name, mine, bare in PAIRS:
        found[server, name] = pair(PYTHON[server], mine, bare, rounds=rounds, seconds=seconds)
    columns = [
        "protected by, over",
        "bare / protected, CPU per request (quartiles)",
        "the same by requests/s",
        "requests per CPU second, bare",
        "protected",
    ]
    tables, void = [], set()
    for server in PYTHON:
        named = {name: pair for (its, name), pair in found.items() if its == server}
        control = next(iter(named.values())).ratio.middle
        if not CONTROL[0] <= control <= CONTROL[1]:
            void.add(server)
        tables.append(
            Table(
                f"Under {server}, paired",
                columns,
                [[name, *pair.row()] for name, pair in named.items()],
                f"1 is free. {rounds} rounds of {seconds:g} s, {CONNECTIONS} connections to each server, "
                f"valid credentials, one core for both servers. Control: {control:.3f}, "
                + ("**out of 0.97..1.03: void.**" if server in void else "within 0.97..1.03."),
            )
        )
    goals = []
    for number, server, name, limit in GOALS:
        what = f"{server}, {name}: bare/protected CPU"
        floor = found[server, name.replace("basicauth_mw", "floor")].ratio.text(".3f")
        goal = at_least(number, what, found[server, name].ratio, limit, says=f"the floor has {floor}")
        if server in void:
            goal = Goal(number, what, goal.measured, goal.goal, None, "the control is out of 0.97..1.03")
        goals.append(goal)
    if proxies := [proxy for proxy in (nginx, caddy) if shutil.which(proxy.__name__)]:
        tables.append(proxy_table(proxies, rounds=rounds, seconds=seconds))
    rates = {
        name.partition(", over ")[2]: [spread(pair.bare).middle, spread(pair.mine).middle]
        for (server, name), pair in found.items()
        if server == "uvicorn" and name.startswith("basicauth_mw")
    }
    return Outcome(tables, goals, {"uvicorn": rates})


def pair(start: Callable[..., list[str]], mine: str, bare: str, *, rounds: int, seconds: float) -> Pair:
    """Serve two apps and load them."""
    first, second = free_port(), free_port()
    return pair_of({first: start(mine, first), second: start(bare, second)}, rounds=rounds, seconds=seconds)


def pair_of(commands: dict[int, list[str]], *, rounds: int, seconds: float) -> Pair:
    """The same for what starts servers, by their ports; the protected one first."""
    cores = sorted(os.sched_getaffinity(0))
    found = Pair()
    with ExitStack() as stack:
        servers = [
            stack.enter_context(served(command, port, cores={cores[0]})) for port, command in commands.items()
        ]
        targets = [Target(server.port, server.pids, FIELD.decode()) for server in servers]
        for _ in range(rounds):
            mine, theirs = run_load(targets, seconds=seconds, connections=CONNECTIONS, core=cores[-1])
            found.mine.append(1 / mine.cpu_per_request_s)
            found.bare.append(1 / theirs.cpu_per_request_s)
            found.by_rate.append(mine.requests / theirs.requests)
    return found


# --- proxies, which are measured if they are there


def nginx(directory: Path, port: int, protected: bool) -> list[str]:
    """nginx with a file of one entry, as SHA-1: the fastest that it knows."""
    import base64
    import hashlib

    root = directory / str(port)
    root.mkdir()
    (root / "index.html").write_text("ok")
    digest = base64.b64encode(hashlib.sha1(SECRET.encode()).digest()).decode()
    (root / "htpasswd").write_text(f"{CLIENT_ID}:{{SHA}}{digest}\n")
    auth = f"auth_basic api; auth_basic_user_file {root}/htpasswd;" if protected else ""
    temporary = " ".join(
        f"{kind}_temp_path {root}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (root / "nginx.conf").write_text(
        f"daemon off; master_process off; user {os_user()}; pid {root}/pid; error_log {root}/log crit;"
        f"events {{}} http {{ access_log off; keepalive_requests 100000000; {temporary}"
        f"server {{ listen 127.0.0.1:{port}; root {root}; location / {{ {auth} }} }} }}"
    )
    return ["nginx", "-p", str(root), "-e", f"{root}/log", "-c", f"{root}/nginx.conf"]


def caddy(directory: Path, port: int, protected: bool) -> list[str]:
    """Caddy with one bcrypt entry of cost 5, and its cache of proved passwords on."""
    import json

    import bcrypt

    handlers: list[dict[str, object]] = [{"handler": "static_response", "body": "ok"}]
    if protected:
        account = {
            "username": CLIENT_ID,
            # Caddy 2.6 reads the hash as base64.
            "password": base64_of(bcrypt.hashpw(SECRET.encode(), bcrypt.gensalt(5))),
        }
        basic = {"hash": {"algorithm": "bcrypt"}, "accounts": [account], "hash_cache": {}}
        handlers.insert(0, {"handler": "authentication", "providers": {"http_basic": basic}})
    server = {
        "listen": [f"127.0.0.1:{port}"],
        "automatic_https": {"disable": True},
        "routes": [{"handle": handlers}],
    }
    config = directory / f"{port}.json"
    apps = {"http": {"servers": {"bench": server}}}
    config.write_text(json.dumps({"admin": {"disabled": True}, "apps": apps}))
    return ["caddy", "run", "--config", str(config)]


def base64_of(octets: bytes) -> str:
    import base64

    return base64.b64encode(octets).decode()


def os_user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def proxy_table(
    proxies: Sequence[Callable[[Path, int, bool], list[str]]], *, rounds: int, seconds: float
) -> Table:
    rows = []
    with tempfile.TemporaryDirectory(prefix="basicauth-bench-") as directory:
        for proxy in proxies:
            for protected in (False, True):
                first, second = free_port(), free_port()
                commands = {
                    first: proxy(Path(directory), first, protected),
                    second: proxy(Path(directory), second, False),
                }
                name = f"{proxy.__name__}: {'htpasswd' if protected else 'control'}"
                rows.append([name, *pair_of(commands, rounds=rounds, seconds=seconds).row()])
    return Table(
        "Proxies, paired",
        [
            "",
            "unprotected / protected, CPU per request",
            "by requests/s",
            "requests per CPU second, unprotected",
            "protected",
        ],
        rows,
        "nginx with {SHA}, which it computes each time; Caddy with bcrypt of cost 5 and its hash cache.",
    )


if __name__ == "__main__":
    main(measured, __doc__)
