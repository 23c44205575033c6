"""Runs every benchmark, each in a process of its own, and writes RESULTS.md and its charts.

python benchmarks/run.py [--quick] [--to DIRECTORY]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import charts
import figures
from report import Goal, Outcome
from revoke import LIMIT_MS

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

# In the order of the goals; those that need quiet first.
QUESTIONS = [
    "hit",
    "refusals",
    "timing",
    "wsgi_requests",
    "servers",
    "many_keys",
    "sqlite_check",
    "redis_check",
    "slow_hash",
    "imports",
    "cache_memory",
    "revoke",
    "bad_input",
    "dashboard",
]
# These take a number of keys, and print their table.
IMPORTS = ["import_sqlite", "import_redis"]
IMPORTED, IMPORTED_QUICK = 200_000, 10_000


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few rounds: shows that it works, and little else"
    )
    parser.add_argument(
        "--to", type=Path, help="where to write; otherwise benchmarks/, and .make/bench/ if it is --quick"
    )
    arguments = parser.parse_args()
    to = arguments.to or (ROOT / ".make" / "bench" if arguments.quick else HERE)
    to.mkdir(parents=True, exist_ok=True)

    begun, load = datetime.now(UTC), os.getloadavg()[0]
    outcomes: dict[str, Outcome] = {}
    printed: dict[str, str] = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="basicauth-bench-") as directory:
        for name in QUESTIONS:
            kept = Path(directory) / f"{name}.json"
            options = ["--save", str(kept), *(["--quick"] if arguments.quick else [])]
            if _run(name, options) is None:
                failed.append(name)
            else:
                outcomes[name] = Outcome.load(kept.read_text())
    for name in IMPORTS:
        said = _run(name, [str(IMPORTED_QUICK if arguments.quick else IMPORTED)])
        if said is None:
            failed.append(name)
        else:
            printed[name] = said

    drawn = draw(outcomes, to)
    facts = machine(begun, load, quick=arguments.quick)
    results = document(facts, outcomes, printed, drawn, failed)
    (to / "RESULTS.md").write_text(results)
    if to == HERE and not failed:
        readme = ROOT / "README.md"
        readme.write_text(figures.update(readme.read_text(), results))
    print(f"written: {to / 'RESULTS.md'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _run(name: str, options: list[str]) -> str | None:
    """Run one, and pass on what it prints; None: it failed."""
    print(f"== {name}", flush=True)
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, HERE / f"{name}.py", *options], capture_output=True, text=True, cwd=ROOT
    )
    print(done.stdout if done.returncode == 0 else done.stderr)
    print(f"   {time.monotonic() - begin:.0f} s\n", flush=True)
    return done.stdout if done.returncode == 0 else None


def draw(outcomes: dict[str, Outcome], to: Path) -> dict[str, str]:
    """Make the charts for which there are figures; their titles, by file name."""
    series = {name: outcome.series for name, outcome in outcomes.items()}
    drawn = {}
    if {"hit", "refusals"} <= series.keys():
        charts.cost(series["hit"]["valid"], series["refusals"], to / "cost.png")
        drawn["cost.png"] = "Cost per request, against peers; ASGI, in process"
    if {"many_keys", "sqlite_check"} <= series.keys():
        charts.keys({**series["many_keys"], **series["sqlite_check"]}, to / "keys.png")
        drawn["keys.png"] = "Cost against the number of keys"
    if "servers" in series:
        charts.uvicorn(series["servers"]["uvicorn"], to / "uvicorn.png")
        drawn["uvicorn.png"] = "Requests per second of server CPU under uvicorn, bare and wrapped"
    if "revoke" in series:
        charts.revoke(series["revoke"]["revoke"], LIMIT_MS, to / "revoke.png")
        drawn["revoke.png"] = "From revoke to refusal"
    return drawn


def machine(begun: datetime, load: float, *, quick: bool) -> list[str]:
    """What the figures depend on, a line each."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    names = [
        line.partition("==")[0]
        for line in (HERE / "requirements.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in [*names, "argon2-cffi", "bcrypt"])
    from tests.redis_server import find_binary

    redis = subprocess.run([find_binary(), "--version"], capture_output=True, text=True).stdout.split()[2]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    proxies = [name for name in ("nginx", "caddy") if shutil.which(name)]
    ended = datetime.now(UTC)
    return [
        (
            f"{begun:%Y-%m-%d %H:%M} UTC, {(ended - begun).total_seconds() / 60:.0f} minutes; load average "
            f"{load:.2f} before and {os.getloadavg()[0]:.2f} at the end"
        ),
        f"`make bench{' BENCH_ARGS=--quick' if quick else ''}`"
        + (": **few rounds, which show that it runs and little else**" if quick else ""),
        (f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB; {platform.system()} {platform.release()}"),
        (
            f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {ssl.OPENSSL_VERSION}, "
            f"Redis {redis.removeprefix('v=')}"
        ),
        f"basicauth_mw {version('basicauth_mw')}{_commit()}; {versions}",
        f"nginx and Caddy, measured where they are installed: {', '.join(proxies) or 'neither is'}",
    ]


def _commit() -> str:
    if not (ROOT / ".git").exists():
        return ""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""


def document(
    facts: list[str],
    outcomes: dict[str, Outcome],
    printed: dict[str, str],
    drawn: dict[str, str],
    failed: list[str],
) -> str:
    goals = [goal for outcome in outcomes.values() for goal in outcome.goals]
    parts = [
        "# Benchmarks",
        (
            "Made by `make bench`; do not edit. Absolute times are of this machine and minute: only ratios "
            "within one run mean anything, and only they are goals."
        ),
        "\n".join(f"- {fact}" for fact in facts),
        "## Goals",
        (
            "The goals are set against the least that can be done (`floor`, written by hand: it holds back "
            "no answer, knows no store and writes no log), or against other packages. Where one does not "
            "hold, the last column gives what was measured of the cause."
        ),
        "Measured: the median, and the quartiles in brackets. `void`: the run cannot tell.",
        _goals(goals),
    ]
    if failed:
        parts.append(f"**Not measured, as they failed: {', '.join(failed)}.**")
    parts.append("## Charts")
    parts += [f"![{title}]({name})" for name, title in drawn.items()]
    for name, outcome in outcomes.items():
        doc = (HERE / f"{name}.py").read_text().split('"""')[1].strip()
        parts += [f"## {doc.splitlines()[0]}", f"`benchmarks/{name}.py`"]
        parts += [table.markdown().rstrip() for table in outcome.tables]
    for name, said in printed.items():
        doc = (HERE / f"{name}.py").read_text().split('"""')[1].strip()
        parts += [f"## {doc.splitlines()[0]}", f"`benchmarks/{name}.py`", f"```text\n{said.rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def _goals(goals: list[Goal]) -> str:
    def number(goal: Goal) -> int:
        digits = goal.subject.removeprefix("G")
        return int(digits) if digits.isdigit() else 99

    lines = ["| | what | measured | goal | holds | if not: what the measurement says |", "|---" * 6 + "|"]
    lines += [
        f"| {goal.subject} | {goal.what} | {goal.measured} | {goal.goal} | {goal.verdict} | {goal.reason} |"
        for goal in sorted(goals, key=number)
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
