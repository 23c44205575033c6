"""The README's figures, taken from RESULTS.md."""

from __future__ import annotations

import re
import textwrap

BEGIN = "<!-- figures: made by make bench from benchmarks/RESULTS.md, and checked by a test -->"
END = "<!-- end of figures -->"

_NAMES = ("basicauth_mw", "Starlette AuthenticationMiddleware", "floor, written by hand")

_BLOCK = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)


def update(readme: str, results: str) -> str:
    """Return the README with the figures of these results."""
    return _BLOCK.sub(lambda _: f"{BEGIN}\n{block(results)}\n{END}", readme)


def block(results: str) -> str:
    """Return the text between the two markers.

    Raises:
        LookupError: A figure is missing in the results.
    """
    ours, starlette, floor = (_added(results, name) for name in _NAMES)
    bare, fastapi = (_share(results, app) for app in ("bare", "FastAPI"))
    hit = (
        f"- **A request with a cached key** takes {ours} µs longer than without the middleware; a middleware "
        f"written by hand adds {floor} µs, and Starlette's `AuthenticationMiddleware` {starlette} µs. Under "
        f"uvicorn it takes {bare} % of the server's CPU time around a bare app, {fastapi} % around FastAPI."
    )
    revoke = (
        f"- **A revoked key** was refused by all four workers after {_slowest(results)} ms (99th "
        "percentile; uvicorn and gunicorn, SQLite, Redis and Postgres). The limit is 250 ms while the store "
        "is healthy, and `cache_ttl_s` if it is not."
    )
    return "\n".join(textwrap.fill(text, 140, subsequent_indent="  ") for text in (hit, revoke))


def _added(results: str, name: str) -> str:
    """Return what a middleware adds to a valid request, in microseconds."""
    return _found(results, rf"\| {re.escape(name)} \| bare \| [\d.]+ \| ([\d.]+) \|")


def _share(results: str, app: str) -> str:
    """Return the share of a server's CPU time that the middleware takes, in per cent."""
    goal = rf"\| \w+ \| uvicorn, basicauth_mw, \w+ {app}: \w+ ?/ ?protected CPU \| "
    kept = _found(results, rf"{goal}([\d.]+) ")
    return f"{(1 - float(kept)) * 100:.0f}"


def _slowest(results: str) -> int:
    """Return the longest revocation latency of all servers and stores, in milliseconds."""
    line = r"^\| \w+ \| revoke to refusal by all 4 workers,.*?\| (\d+) ms"
    return max(int(found) for found in re.findall(line, results, re.MULTILINE))


def _found(results: str, line: str) -> str:
    found = re.search(f"^{line}", results, re.MULTILINE)
    if found is None:
        raise LookupError(line)
    return found[1]
