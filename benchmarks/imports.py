"""How long does the import take?

Each in a fresh interpreter, in turn, with warm files; what the interpreter needs by itself is not counted.
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from report import Outcome, Table, at_most, main
from rounds import ratios, spread

OURS, PEER = "basicauth_mw.asgi", "starlette.middleware.authentication"
NEEDED = "dataclasses, hashlib, hmac, json, logging, threading"
MODULES = [
    OURS,
    NEEDED,
    "basicauth_mw.wsgi",
    "basicauth_mw",
    "asyncio",
    PEER,
    "fastapi.security",
    "litestar.middleware",
    "flask_httpauth",
]
PROGRAM = """
import sys, time
before = len(sys.modules)
begin = time.perf_counter()
import {module}
print(time.perf_counter() - begin, len(sys.modules) - before)
"""
SHOWN = 12


def measured(quick: bool) -> Outcome:
    rounds = 3 if quick else 21
    seconds: dict[str, list[float]] = {module: [] for module in MODULES}
    loaded: dict[str, int] = {}
    for number in range(rounds + 1):
        turn = number % len(MODULES)
        for module in MODULES[turn:] + MODULES[:turn]:
            took, count = _python("-c", PROGRAM.format(module=module)).stdout.split()
            if number:  # the first round fills the caches
                seconds[module].append(float(took))
            loaded[module] = int(count)
    rows = [
        [
            module,
            spread([each * 1e3 for each in seconds[module]]).text(".1f"),
            str(loaded[module]),
            spread(ratios(seconds[module], seconds[PEER])).text(".3f"),
        ]
        for module in MODULES
    ]
    costs = [costs_of(OURS) for _ in range(3 if quick else 9)]
    middle = {name: median(cost.get(name, 0) for cost in costs) for name in costs[0]}
    costliest = sorted(middle.items(), key=lambda pair: pair[1], reverse=True)[:SHOWN]
    tables = [
        Table(
            "Importing, in a fresh interpreter",
            ["module", "ms (quartiles)", "modules loaded", "x Starlette's"],
            rows,
            f"{rounds} rounds, each module once a round, the order turned.",
        ),
        Table(
            f"The modules that importing {OURS} spends most on",
            ["module", "ms, without what it imports"],
            [[name, f"{cost / 1e3:.2f}"] for name, cost in costliest],
            "By -X importtime, which itself makes it slower.",
        ),
    ]
    needed = spread(ratios(seconds[NEEDED], seconds[PEER])).text(".2f")
    goal = at_most(
        "import",
        f"import {OURS} / import {PEER}",
        spread(ratios(seconds[OURS], seconds[PEER])),
        0.25,
        reason=(
            f"what it needs of the standard library ({NEEDED}) takes {needed}; the rest "
            f"is its own, most of it in {', '.join(name for name, _ in costliest[:5])}"
        ),
    )
    return Outcome(tables, [goal])


def costs_of(module: str) -> dict[str, float]:
    """Microseconds that each module takes by itself."""
    costs = {}
    for line in _python("-X", "importtime", "-c", f"import {module}").stderr.splitlines():
        alone, _, name = line.removeprefix("import time:").split("|")
        if alone.strip().isdigit():
            costs[name.strip()] = float(alone)
    idle = {"site", "encodings", "encodings.utf_8", "_frozen_importlib_external", "zipimport"}
    return {name: cost for name, cost in costs.items() if name not in idle}


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


if __name__ == "__main__":
    main(measured, __doc__)
