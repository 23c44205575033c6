"""What does an authenticated or refused WSGI request cost?

In this process, with default settings, compared with a floor written by hand and with Flask-HTTPAuth.
"""

from __future__ import annotations

import asyncio

from asgi_apps import FIELD, UNKNOWN_FIELD, WRONG_FIELD, addresses_for, is_right
from peers import FLASK_HTTPAUTH, FLOOR, MISSING_IN_ALL, OURS, UNMAPPED, leaves_out
from report import Outcome, Table, at_most, main
from rounds import added, measure, ratios, spread, us
from wsgi_apps import Floor, bare, flask, ours, request_of

FLOOR_FLASK, OURS_FLASK = "floor, written by hand, around Flask", "basicauth_mw, around Flask"
REFUSED = {"wrong": WRONG_FIELD, "unknown": UNKNOWN_FIELD, "missing": None}


async def find(quick: bool) -> Outcome:
    views = flask()
    unprotected = {"bare": bare, "Flask": views}
    variants = {
        FLOOR: (Floor(bare), "bare"),
        OURS: (ours(bare), "bare"),
        UNMAPPED: (ours(bare, map_errors=False), "bare"),
        FLOOR_FLASK: (Floor(views), "Flask"),
        OURS_FLASK: (ours(views), "Flask"),
        FLASK_HTTPAUTH: (flask(is_right), "Flask"),
    }
    rounds, count = (9, 200) if quick else (61, 500)
    addresses = addresses_for(rounds * count)
    calls = {name: request_of(app, FIELD, 200) for name, app in unprotected.items()}
    for name, (app, _) in variants.items():
        calls[f"valid {name}"] = request_of(app, FIELD, 200)
        for kind, field in REFUSED.items():
            calls[f"{kind} {name}"] = request_of(app, field, 401, addresses)
    times = await measure(calls, rounds=rounds, calls=count)

    more = {name: added(times, f"valid {name}", base) for name, (_, base) in variants.items()}
    rows = []
    for name, (_, base) in variants.items():
        hit = [us(more[name]), spread(ratios(more[name], more[FLOOR])).text()]
        refused = [us(times[f"{kind} {name}"]) for kind in REFUSED]
        rows.append([name, base, *hit, *refused, leaves_out(name.removesuffix(", around Flask"))])
    rows += [[name, "", f"{us(times[name])} (whole)", "", "", "", "", ""] for name in unprotected]
    table = Table(
        "WSGI, in this process",
        [
            *("protected by", "app", "hit: added us", "added, x floor (quartiles)"),
            *(f"{kind}: whole us" for kind in REFUSED),
            "leaves out",
        ],
        rows,
        f"{rounds} interleaved rounds, at most {count} calls of each in a round, one core, default settings, "
        f"keys in `memory:`. {MISSING_IN_ALL}",
    )

    floors = {name: spread(ratios(figures, more[FLOOR])) for name, figures in more.items()}
    goals = [
        at_most(
            "WSGI",
            "hit, default settings: added / floor's",
            floors[OURS],
            1.35,
            reason=f"without `map_errors`, so without holding the response start: {floors[UNMAPPED].text()}",
        ),
        at_most(
            "WSGI",
            "hit, map_errors=False: added / floor's",
            floors[UNMAPPED],
            0.95,
            reason=f"default settings: {floors[OURS].text()}",
        ),
        *(
            at_most(
                "WSGI",
                f"{kind}: whole request / Flask-HTTPAuth's",
                spread(ratios(times[f"{kind} {OURS_FLASK}"], times[f"{kind} {FLASK_HTTPAUTH}"])),
                1,
                reason=f"the unprotected app takes {us(times['Flask'])} us",
            )
            for kind in REFUSED
        ),
    ]
    return Outcome([table], goals)


def measured(quick: bool) -> Outcome:
    return asyncio.run(find(quick))


if __name__ == "__main__":
    main(measured, __doc__)
