"""What does a refused ASGI request cost?

The whole request, in process: a wrong secret for a known id, and no credentials at all. The peers that are
part of a framework refuse inside it. Besides: what this middleware's own steps cost, one by one.
"""

from __future__ import annotations

import asyncio
from statistics import median

import uvloop
from asgi_apps import (
    CLIENT_ID,
    WRONG_FIELD,
    Floor,
    FloorWithoutCache,
    bare,
    base_http,
    drop,
    fastapi,
    litestar,
    ours,
    request_of,
    scope,
    starlette,
)
from hit import BASE_HTTP, FASTAPI, FLOOR, LITESTAR, OURS, PLAIN_FLOOR, STARLETTE
from report import Outcome, Table, at_most, main
from rounds import Call, measure, ratios, spread, us

from basicauth_mw import Settings, open_backend
from basicauth_mw.auth.runner import arun
from basicauth_mw.errors import InvalidCredentials
from basicauth_mw.keys.model import Deny
from basicauth_mw.responses.asgi_send import send_response

THROTTLED = "basicauth_mw, throttled: 429"
UNKNOWN = "basicauth_mw, unknown id"
VERIFY, ANSWER = "verify: parse, look up, hash, compare", "answer: count, log, render, send"


async def find(quick: bool) -> Outcome:
    apps = {
        FLOOR: Floor(bare),
        PLAIN_FLOOR: FloorWithoutCache(bare),
        OURS: ours(bare, throttle=""),
        STARLETTE: starlette(bare),
        BASE_HTTP: base_http(bare),
        LITESTAR: litestar(protected=True),
        FASTAPI: fastapi(protected=True),
    }
    invalid: dict[str, Call] = {}
    missing: dict[str, Call] = {}
    for name, app in apps.items():
        # Starlette answers what its backend refuses with a 400 unless it is told otherwise.
        status = 400 if name == STARLETTE else 401
        invalid[name] = await request_of(app, WRONG_FIELD, status)
        missing[name] = await request_of(app, None, status)
    invalid[UNKNOWN] = await request_of(
        ours(bare, open_backend("memory:", settings=Settings()), throttle=""), WRONG_FIELD, 401
    )
    throttled = ours(bare)
    while not throttled._authenticator._throttle.active:
        await request_of(throttled, WRONG_FIELD, 401)
    invalid[THROTTLED] = await request_of(throttled, WRONG_FIELD, 429)
    parts = parts_of(apps[OURS])
    rounds, count = (9, 300) if quick else (61, 1000)
    variants = {f"invalid {name}": call for name, call in invalid.items()}
    variants |= {f"missing {name}": call for name, call in missing.items()}
    times = await measure({**variants, **parts}, rounds=rounds, calls=count)

    tables, whole = [], {}
    for kind, named in (("invalid", invalid), ("missing", missing)):
        whole[kind] = {
            name: spread(ratios(times[f"{kind} {name}"], times[f"{kind} {FLOOR}"])) for name in named
        }
        tables.append(
            Table(
                f"A request with {kind} credentials; ASGI, in process",
                ["refused by", "us, whole", "x floor (quartiles)"],
                [[name, us(times[f"{kind} {name}"]), whole[kind][name].text()] for name in named],
                f"{rounds} interleaved rounds, at most {count} calls of each in a round. The floors send one"
                " ready-made answer and write no log."
                + (
                    " The floor refuses whatever is not in its cache, unverified."
                    if kind == "invalid"
                    else ""
                ),
            )
        )
    tables.append(
        Table(
            "Parts of a refusal of ours",
            ["part", "us", "x the floor's whole refusal"],
            [
                [name, us(times[name]), spread(ratios(times[name], times[f"invalid {FLOOR}"])).text()]
                for name in parts
            ],
            "Of the same rounds. A refusal has to decode the field, tell a minted secret by its checksum, "
            "ask the store, hash, compare with eight hashes whatever was found, count, log, and make an "
            "answer with a request id.",
        )
    )
    verify, answer = (median(ratios(times[part], times[f"invalid {FLOOR}"])) for part in (VERIFY, ANSWER))
    plain = whole["invalid"][PLAIN_FLOOR].middle
    goals = [
        at_most(
            "G3",
            "invalid, in process: whole request / floor's",
            whole["invalid"][OURS],
            2,
            unit=" x",
            says=f"verifying is {verify:.1f} x floor, answer and send {answer:.1f}; a floor that "
            f"verifies at all (one SHA-256, no look-up, no checksum) is {plain:.1f}",
        ),
        at_most(
            "G3",
            "missing, in process: whole request / floor's",
            whole["missing"][OURS],
            1.5,
            unit=" x",
            says=f"the answer, with its request id, is made anew each time: {answer:.1f} x floor's invalid",
        ),
    ]
    shown = (FLOOR, OURS, STARLETTE, LITESTAR, FASTAPI, BASE_HTTP)
    return Outcome(
        tables,
        goals,
        {
            kind: {name: median(times[f"{kind} {name}"]) * 1e6 for name in shown}
            for kind in ("invalid", "missing")
        },
    )


def parts_of(protected) -> dict[str, Call]:
    """The two halves of a refusal, each with everything in it."""
    authenticator = protected._authenticator
    request = scope(WRONG_FIELD)

    deny = Deny(InvalidCredentials(), "wrong_secret", CLIENT_ID)

    async def verify() -> None:
        await arun(authenticator.decide(request), authenticator.reader)

    async def answer() -> None:
        await send_response(request, drop, authenticator.refusal_response(request, deny))

    return {VERIFY: verify, ANSWER: answer}


def measured(quick: bool) -> Outcome:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(find(quick))


if __name__ == "__main__":
    main(measured, __doc__)
