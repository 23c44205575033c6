"""The figures that the README gives, taken from RESULTS.md and from nowhere else."""

from __future__ import annotations

import re
import textwrap

BEGIN = "<!-- figures: made by make bench from benchmarks/RESULTS.md, and held by a test -->"
END = "<!-- end of figures -->"

_NAMES = ("basicauth_mw", "Starlette AuthenticationMiddleware", "floor, written by hand")

_BLOCK = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)


def update(readme: str, results: str) -> str:
    """The README with the figures of these results."""
    return _BLOCK.sub(lambda _: f"{BEGIN}\n{block(results)}\n{END}", readme)


def block(results: str) -> str:
    """What stands between the marks.

    Raises:
        LookupError: The results do not hold what is wanted.
    """
    ours, starlette, floor = (_added(results, name) for name in _NAMES)
    bare, fastapi = (_share(results, app) for app in ("bare", "FastAPI"))
    hit = (
        f"- **A request with a key that was seen before** costs {ours} µs more than without the middleware, "
        f"where a gate written by hand costs {floor} and Starlette's `AuthenticationMiddleware` {starlette}. "
        f"Under uvicorn that is {bare} % of the server's CPU time over a bare app, {fastapi} % over FastAPI."
    )
    revoke = (
        f"- **A revoke** was refused by the last of four workers after {_slowest(results)} ms (99 %; "
        "uvicorn and gunicorn, SQLite and Redis). The bound is 250 ms while the store is healthy, and "
        "`cache_ttl_s` if it is not."
    )
    return "\n".join(textwrap.fill(text, 130, subsequent_indent="  ") for text in (hit, revoke))


def _added(results: str, name: str) -> str:
    """What something adds to a valid request, in microseconds."""
    return _found(results, rf"\| {re.escape(name)} \| bare \| [\d.]+ \| ([\d.]+) \|")


def _share(results: str, app: str) -> str:
    """How much of a server's CPU the middleware takes, in per cent."""
    kept = _found(results, rf"\| G4 \| uvicorn, basicauth_mw, over {app}: bare/protected CPU \| ([\d.]+) ")
    return f"{(1 - float(kept)) * 100:.0f}"


def _slowest(results: str) -> int:
    """The longest that a revoke took, of all servers and stores, in milliseconds."""
    line = r"^\| G13 \| revoke to refusal by all 4 workers,.*?\| (\d+) ms"
    return max(int(found) for found in re.findall(line, results, re.MULTILINE))


def _found(results: str, line: str) -> str:
    found = re.search(f"^{line}", results, re.MULTILINE)
    if found is None:
        raise LookupError(line)
    return found[1]
