"""What does an authenticated or a refused WSGI request cost over an unprotected one?

In process, beside what a correct gate written by hand costs (``floor``), Werkzeug's
``request.authorization``, Flask-HTTPAuth and Django REST framework, each over the app that it protects.
"""

from __future__ import annotations

import asyncio

from asgi_apps import WRONG_FIELD
from report import Outcome, Table, main
from rounds import added, measure, ratios, spread, us
from wsgi_apps import FIELD, Floor, bare, django, flask, ours, request_of, werkzeug

FLOOR = "floor, written by hand"


async def find(quick: bool) -> Outcome:
    views = flask()
    bases = {"bare": bare, "Werkzeug": werkzeug(), "Flask": views, "Django REST framework": django()}
    pairs = {
        FLOOR: (Floor(bare), "bare"),
        "basicauth_mw": (ours(bare, throttle=""), "bare"),
        "basicauth_mw, map_errors=False": (ours(bare, throttle="", map_errors=False), "bare"),
        "request.authorization": (werkzeug(protected=True), "Werkzeug"),
        "floor, over Flask": (Floor(views), "Flask"),
        "basicauth_mw, over Flask": (ours(views, throttle=""), "Flask"),
        "Flask-HTTPAuth": (flask(protected=True), "Flask"),
        "BasicAuthentication": (django(protected=True), "Django REST framework"),
    }
    calls = {name: request_of(app, FIELD, 200) for name, app in bases.items()}
    for name, (app, _) in pairs.items():
        calls[f"valid {name}"] = request_of(app, FIELD, 200)
        calls[f"invalid {name}"] = request_of(app, WRONG_FIELD, 401)
        calls[f"missing {name}"] = request_of(app, None, 401)
    rounds, count = (9, 200) if quick else (41, 1000)
    times = await measure(calls, rounds=rounds, calls=count)

    more = {name: added(times, f"valid {name}", base) for name, (_, base) in pairs.items()}
    rows = [
        [
            name,
            base,
            us(more[name]),
            spread(ratios(more[name], more[FLOOR])).text(),
            us(times[f"invalid {name}"]),
            us(times[f"missing {name}"]),
        ]
        for name, (_, base) in pairs.items()
    ]
    rows += [[name, "", us(times[name]) + " (whole)", "", "", ""] for name in bases]
    return Outcome(
        [
            Table(
                "WSGI, in process",
                [
                    "protected by",
                    "over",
                    "valid: added us",
                    "added, x floor (quartiles)",
                    "invalid: whole us",
                    "missing: whole us",
                ],
                rows,
                f"{rounds} interleaved rounds, at most {count} calls of each in a round, one core.",
            )
        ]
    )


def measured(quick: bool) -> Outcome:
    return asyncio.run(find(quick))


if __name__ == "__main__":
    main(measured, __doc__)
