"""What does the middleware cost under a real server?

Two servers, one unprotected and one protected, share one core at the same time, and a load generator runs on
another core. What counts is the CPU time of each server per request. A pair of two equal servers is the
control: unless its ratio is within 0.97..1.03, the figures of that server are void.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from asgi_apps import FIELD
from load import Target
from load import run as run_load
from report import Goal, Outcome, Table, at_least, main
from rounds import Spread, spread
from serving import free_port, gunicorn, served, uvicorn, waitress

if TYPE_CHECKING:
    from collections.abc import Callable

CONTROL = (0.97, 1.03)
# To each server; few to those with threads, which otherwise mostly wait for each other.
CONNECTIONS = {"uvicorn": 16, "waitress": 4, "gunicorn": 4}

SERVERS: dict[str, Callable[..., list[str]]] = {
    "uvicorn": uvicorn,
    "waitress": waitress,
    "gunicorn": gunicorn,
}
HOLDING = "floor that holds the response start"
AGAINST_FLOOR = "basicauth_mw, in place of the floor that holds"
# Server, what is measured, its app, and the app it is compared with. The first of a server is its control.
PAIRS = [
    ("uvicorn", "control: bare", "asgi_apps:bare_app", "asgi_apps:bare_app"),
    ("uvicorn", "floor, around bare", "asgi_apps:floor_app", "asgi_apps:bare_app"),
    ("uvicorn", f"{HOLDING}, around bare", "asgi_apps:holding_floor_app", "asgi_apps:bare_app"),
    ("uvicorn", "basicauth_mw, around bare", "asgi_apps:ours_app", "asgi_apps:bare_app"),
    ("uvicorn", "basicauth_mw, map_errors=False", "asgi_apps:ours_unmapped_app", "asgi_apps:bare_app"),
    ("uvicorn", AGAINST_FLOOR, "asgi_apps:ours_app", "asgi_apps:holding_floor_app"),
    ("uvicorn", "Starlette, around bare", "asgi_apps:starlette_app", "asgi_apps:bare_app"),
    (
        "uvicorn",
        f"{HOLDING}, around FastAPI",
        "asgi_apps:holding_floor_fastapi_app",
        "asgi_apps:fastapi_app",
    ),
    ("uvicorn", "basicauth_mw, around FastAPI", "asgi_apps:ours_fastapi_app", "asgi_apps:fastapi_app"),
    ("uvicorn", "HTTPBasic, in FastAPI", "asgi_apps:dependency_fastapi_app", "asgi_apps:fastapi_app"),
    ("waitress", "control: Flask", "wsgi_apps:flask_app", "wsgi_apps:flask_app"),
    ("waitress", "floor, around Flask", "wsgi_apps:floor_flask_app", "wsgi_apps:flask_app"),
    ("waitress", "basicauth_mw, around Flask", "wsgi_apps:ours_flask_app", "wsgi_apps:flask_app"),
    ("waitress", "Flask-HTTPAuth, in Flask", "wsgi_apps:httpauth_flask_app", "wsgi_apps:flask_app"),
    ("gunicorn", "control: Flask", "wsgi_apps:flask_app", "wsgi_apps:flask_app"),
    ("gunicorn", "floor, around Flask", "wsgi_apps:floor_flask_app", "wsgi_apps:flask_app"),
    ("gunicorn", "basicauth_mw, around Flask", "wsgi_apps:ours_flask_app", "wsgi_apps:flask_app"),
    ("gunicorn", "Flask-HTTPAuth, in Flask", "wsgi_apps:httpauth_flask_app", "wsgi_apps:flask_app"),
]
# Server, what is measured, the limit, and what it is explained by.
GOALS = [
    ("uvicorn", "basicauth_mw, around bare", 0.84, f"{HOLDING}, around bare"),
    ("uvicorn", AGAINST_FLOOR, 1.0, "basicauth_mw, map_errors=False"),
    ("uvicorn", "basicauth_mw, around FastAPI", 0.95, f"{HOLDING}, around FastAPI"),
    ("gunicorn", "basicauth_mw, around Flask", 0.95, "floor, around Flask"),
    ("waitress", "basicauth_mw, around Flask", 0.95, "floor, around Flask"),
]


class Pair:
    """CPU seconds per request of two servers, by round."""

    def __init__(self) -> None:
        self.mine: list[float] = []
        self.base: list[float] = []

    @property
    def ratio(self) -> Spread:
        return spread([base / mine for mine, base in zip(self.mine, self.base, strict=True)])

    def row(self) -> list[str]:
        more = [mine - base for mine, base in zip(self.mine, self.base, strict=True)]
        return [
            self.ratio.text(".3f"),
            f"{spread(self.base).middle * 1e6:,.1f}",
            spread([each * 1e6 for each in more]).text(".1f"),
        ]


def measured(quick: bool) -> Outcome:
    rounds, seconds = (2, 0.5) if quick else (9, 1.0)
    found = {
        (server, name): compare(server, mine, base, rounds=rounds, seconds=seconds)
        for server, name, mine, base in PAIRS
    }
    tables, void = [], {}
    for server in SERVERS:
        named = {name: pair for (its, name), pair in found.items() if its == server}
        control = next(iter(named.values())).ratio.middle
        if not CONTROL[0] <= control <= CONTROL[1]:
            void[server] = control
        tables.append(
            Table(
                f"Under {server}, paired",
                ["", "unprotected / protected, CPU per request", "unprotected: us", "added us (quartiles)"],
                [[name, *pair.row()] for name, pair in named.items()],
                f"1 means no cost. {rounds} rounds of {seconds:g} s, {CONNECTIONS[server]} connections to "
                "each server, valid and cached credentials, default settings, one core for both servers. "
                f"Control: {control:.3f}, {'**outside' if server in void else 'within'} 0.97..1.03"
                f"{': void.**' if server in void else '.'} The added microseconds are several times those in "
                "a loop in one process, since the server's own code evicts the middleware's from the "
                "processor's caches.",
            )
        )
    goals = []
    for server, name, limit, beside in GOALS:
        what = f"{server}, {name}: unprotected / protected CPU"
        if name == AGAINST_FLOOR:
            what = f"{server}: CPU of the {HOLDING} / of basicauth_mw"
        reason = f"{beside}: {found[server, beside].ratio.text('.3f')}"
        goal = at_least("server", what, found[server, name].ratio, limit, unit="", reason=reason)
        if server in void:
            goal = Goal(
                "server",
                what,
                goal.measured,
                goal.goal,
                None,
                f"the control has {void[server]:.3f}: too noisy",
            )
        goals.append(goal)
    rates = {
        name.partition(", around ")[2]: [1 / spread(pair.base).middle, 1 / spread(pair.mine).middle]
        for (server, name), pair in found.items()
        if server == "uvicorn" and name.startswith("basicauth_mw, around")
    }
    return Outcome(tables, goals, {"uvicorn": rates})


def compare(server: str, mine: str, base: str, *, rounds: int, seconds: float) -> Pair:
    """Serve two apps on one core, and load both at the same time."""
    cores = sorted(os.sched_getaffinity(0))
    pair, start, connections = Pair(), SERVERS[server], CONNECTIONS[server]
    with ExitStack() as stack:
        servers = []
        for app in (mine, base):
            port = free_port()
            servers.append(stack.enter_context(served(start(app, port), port, cores={cores[0]})))
        targets = [Target(server.port, server.pids, [FIELD.decode()]) for server in servers]
        for number in range(rounds):
            # Alternate, so that neither server is always the first that is connected to.
            order = targets if number % 2 else targets[::-1]
            loads = run_load(order, seconds=seconds, connections=connections, core=cores[-1])
            ours, theirs = loads if number % 2 else loads[::-1]
            pair.mine.append(ours.cpu_per_request_s)
            pair.base.append(theirs.cpu_per_request_s)
    return pair


if __name__ == "__main__":
    main(measured, __doc__)
