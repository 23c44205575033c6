"""Run every benchmark in its own process, and write RESULTS.md, its charts, and the figures in the README.

python benchmarks/run.py [--quick] [--to DIRECTORY]
"""

from __future__ import annotations

import argparse
import os
import platform
import re
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
from proxies import find
from report import Goal, Outcome
from revoke import LIMIT_MS

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

# The order of RESULTS.md.
BENCHMARKS = [
    "alternatives",
    "hit",
    "refusals",
    "sqlite_check",
    "redis_check",
    "postgres_check",
    "startup",
    "cache_memory",
    "servers",
    "wsgi_requests",
    "timing",
    "many_keys",
    "slow_hash",
    "revoke",
    "bad_input",
    "dashboard",
    "import_keys",
]
QUICK_HELP = "run a few rounds, only to see that it works"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=QUICK_HELP)
    parser.add_argument(
        "--to", type=Path, help="where to write; default: benchmarks/, or .make/bench/ with --quick"
    )
    arguments = parser.parse_args()
    to = arguments.to or (ROOT / ".make" / "bench" if arguments.quick else HERE)
    to.mkdir(parents=True, exist_ok=True)

    facts = machine(quick=arguments.quick)  # first: if it fails, nothing has been measured yet
    begin, load = datetime.now(UTC), os.getloadavg()[0]
    outcomes: dict[str, Outcome] = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="basicauth-bench-") as directory:
        for name in BENCHMARKS:
            outcome = _run(name, Path(directory) / f"{name}.json", quick=arguments.quick)
            if outcome is None:
                failed.append(name)
            else:
                outcomes[name] = outcome

    drawn = draw(outcomes, to)
    end = datetime.now(UTC)
    when = (
        f"{begin:%Y-%m-%d %H:%M} UTC, {(end - begin).total_seconds() / 60:.0f} minutes; load average "
        f"{load:.2f} before and {os.getloadavg()[0]:.2f} at the end"
    )
    results = document([when, *facts], outcomes, drawn, failed)
    (to / "RESULTS.md").write_text(results)
    if to == HERE and not failed:
        readme = ROOT / "README.md"
        readme.write_text(figures.update(readme.read_text(), results))
    print(f"written: {to / 'RESULTS.md'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _run(name: str, path: Path, *, quick: bool) -> Outcome | None:
    """Run one benchmark and print its output; return None if it fails."""
    print(f"== {name}", flush=True)
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, HERE / f"{name}.py", f"--save={path}", *(["--quick"] if quick else [])],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    print(done.stdout if done.returncode == 0 else done.stderr)
    print(f"   {time.monotonic() - begin:.0f} s\n", flush=True)
    return Outcome.load(path.read_text()) if done.returncode == 0 else None


def draw(outcomes: dict[str, Outcome], to: Path) -> dict[str, str]:
    """Draw the charts whose figures were measured; return their titles by file name."""
    series = {name: outcome.series for name, outcome in outcomes.items()}
    drawn = {}
    if "alternatives" in series:
        charts.alternatives(series["alternatives"]["per_cpu_s"], to / "alternatives.png")
        drawn["alternatives.png"] = "Requests per CPU second, for whole stacks"
    if {"hit", "refusals"} <= series.keys():
        charts.cost(series["hit"]["valid"], series["refusals"], to / "cost.png")
        drawn["cost.png"] = "Cost per request, compared with other packages; ASGI, in one process"
    if {"many_keys", "sqlite_check"} <= series.keys():
        charts.keys({**series["many_keys"], **series["sqlite_check"]}, to / "keys.png")
        drawn["keys.png"] = "Cost by the number of keys"
    if "servers" in series:
        charts.uvicorn(series["servers"]["uvicorn"], to / "uvicorn.png")
        drawn["uvicorn.png"] = "Requests per CPU second of the server under uvicorn, bare and wrapped"
    if "revoke" in series:
        charts.revoke(series["revoke"]["revoke"], LIMIT_MS, to / "revoke.png")
        drawn["revoke.png"] = "From revoke to refusal"
    return drawn


def machine(*, quick: bool) -> list[str]:
    """What the figures depend on, an item each."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    required = (HERE / "requirements.txt").read_text().splitlines()
    names = [re.split(r"\[|==", line)[0] for line in required if "==" in line]  # without extras
    versions = ", ".join(f"{name} {version(name)}" for name in [*names, "argon2-cffi", "bcrypt"])
    from tests.redis_server import find_binary

    redis = subprocess.run([find_binary(), "--version"], capture_output=True, text=True).stdout.split()[2]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    few = ": **few rounds, which only show that it works**" if quick else ""
    return [
        f"`make bench{' BENCH_ARGS=--quick' if quick else ''}`{few}",
        f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB; {platform.system()} {platform.release()}",
        (
            f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {ssl.OPENSSL_VERSION}, "
            f"Redis {redis.removeprefix('v=')}, {nginx_version()}"
        ),
        f"basicauth_mw {version('basicauth_mw')}{_commit()}; {versions}",
    ]


def nginx_version() -> str:
    program = find("nginx")
    if program is None:
        return "no nginx"
    done = subprocess.run([program, "-v"], capture_output=True, text=True, check=True)
    return done.stderr.strip().rpartition(": ")[2].replace("/", " ")


def _commit() -> str:
    if not (ROOT / ".git").exists():
        return ""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""


def document(facts: list[str], outcomes: dict[str, Outcome], drawn: dict[str, str], failed: list[str]) -> str:
    """The text of RESULTS.md."""
    parts = [
        "# Benchmarks",
        (
            "Written by `make bench`; do not edit. Absolute times depend on the machine and the minute. "
            "Only ratios within one run are meaningful, and only they are goals. Settings have their "
            "defaults, unless a row says otherwise. Microseconds in this process are CPU time of the thread, "
            "except where a store is another process."
        ),
        "\n".join(f"- {fact}" for fact in facts),
        "## Goals",
        (
            "Each figure is a median, with quartiles in brackets. The floor is a middleware written by hand "
            "that does as little as possible: it finds a digest of the header in a table. It has no store, "
            "no error responses and no log, and refuses with a constant. The tables show what the other "
            "packages leave out. `void` means that the machine was too noisy to say."
        ),
        goals_table([goal for outcome in outcomes.values() for goal in outcome.goals]),
    ]
    if failed:
        parts.append(f"**Not measured, since the benchmark failed: {', '.join(failed)}.**")
    parts.append("## Charts")
    parts += [f"![{title}]({name})" for name, title in drawn.items()]
    for name, outcome in outcomes.items():
        title, _, text = (HERE / f"{name}.py").read_text().split('"""')[1].strip().partition("\n\n")
        parts += [f"## {title}", f"{' '.join(text.split())} (`benchmarks/{name}.py`)".replace("``", "`")]
        parts += [table.markdown().rstrip() for table in outcome.tables]
    return "\n\n".join(parts) + "\n"


def goals_table(goals: list[Goal]) -> str:
    subjects = [goal.subject for goal in goals]  # in the order of the benchmarks
    lines = ["| | figure | measured | goal | | if not: what the measurement shows |", "|---" * 6 + "|"]
    lines += [
        f"| {goal.subject} | {goal.what} | {goal.measured} | {goal.goal} | {goal.verdict} | {goal.reason} |"
        for goal in sorted(goals, key=lambda goal: subjects.index(goal.subject))
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
