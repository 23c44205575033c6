"""How long does it take to import the package, and to run its command line?

CPU time with an installed wheel, with compiled bytecode as pip leaves it, each time in a new interpreter. The
interpreter's own start is not part of an import, but is part of a command.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from report import Goal, Outcome, Table, at_most, main
from rounds import ratios, spread

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
ASGI, WSGI, PEER = "basicauth_mw.asgi", "basicauth_mw.wsgi", "starlette.middleware.authentication"
MODULES = [ASGI, WSGI, "basicauth_mw", "asyncio", PEER, "fastapi.security", "flask_httpauth"]
IMPORT = """
import sys, time
before = len(sys.modules)
begin = time.process_time()
import {module}
print(time.process_time() - begin, len(sys.modules) - before, "asyncio" in sys.modules)
"""
TYPER = """
import typer
app = typer.Typer()
@app.command()
def main(name: str) -> None:
    typer.echo(name)
app()
"""
OURS_HELP, TYPER_HELP = "basicauth-mw --help", "the --help of Typer's minimal program"
LISTED = 8


class Installation:
    """The package as pip installs its wheel, in place of the editable installation.

    Args:
        directory: Where to install it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        wheels, target = directory / "wheels", directory / "installed"
        subprocess.run(
            [*pip, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={wheels}", ROOT], check=True
        )
        subprocess.run(
            [*pip, "install", "--no-deps", f"--target={target}", *wheels.glob("*.whl")], check=True
        )
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BASICAUTH_", "PYTHON", "COLUMNS"))
        }
        self._environ = {**kept, "PYTHONPATH": str(target)}
        module = self.python("-c", "import basicauth_mw.asgi as m; print(m.__file__, m.__cached__)").stdout
        if not all(Path(path).is_relative_to(target) and Path(path).exists() for path in module.split()):
            raise RuntimeError(f"the wheel is not what is imported, or is not compiled: {module}")

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a new interpreter, outside the source tree."""
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=self._directory,
            env=self._environ,
        )


def measured(quick: bool) -> Outcome:
    rounds = 3 if quick else 21
    with tempfile.TemporaryDirectory(prefix="basicauth-bench-") as directory:
        installed = Installation(Path(directory))
        program = Path(directory) / "minimal.py"
        program.write_text(TYPER)
        loaded: dict[str, list[str]] = {}

        def imported(module: str) -> float:
            seconds, *loaded[module] = installed.python("-c", IMPORT.format(module=module)).stdout.split()
            return float(seconds)

        def run(*arguments: str) -> float:
            begin = children_s()
            installed.python(*arguments)
            return children_s() - begin

        calls: dict[str, Callable[[], float]] = {
            module: lambda module=module: imported(module)  # type: ignore[misc]
            for module in MODULES
        }
        calls[OURS_HELP] = lambda: run("-m", "basicauth_mw", "--help")
        calls[TYPER_HELP] = lambda: run(str(program), "--help")
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        names = list(calls)
        for number in range(rounds + 1):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                taken = calls[name]()
                if number:  # the first round fills the file cache
                    seconds[name].append(taken)
        costs = [costs_of(ASGI, installed) for _ in range(3 if quick else 9)]
    own = {name: median(cost.get(name, 0) for cost in costs) for name in costs[0]}
    slowest = sorted(own.items(), key=lambda pair: pair[1], reverse=True)[:LISTED]
    to_peer = {module: spread(ratios(seconds[module], seconds[PEER])) for module in MODULES}
    to_typer = spread(ratios(seconds[OURS_HELP], seconds[TYPER_HELP]))
    rows = [
        [
            f"import {module}",
            spread([each * 1e3 for each in seconds[module]]).text(".1f"),
            loaded[module][0],
            to_peer[module].text(),
        ]
        for module in MODULES
    ]
    rows += [
        [name, spread([each * 1e3 for each in seconds[name]]).text(".1f"), "", ""]
        for name in (OURS_HELP, TYPER_HELP)
    ]
    table = Table(
        "Importing, and the command line; an installed wheel, a new interpreter each time",
        ["", "ms (quartiles)", "modules loaded", "x Starlette's"],
        rows,
        f"{rounds} interleaved rounds. basicauth_mw.asgi spends most time in (-X importtime, ms): "
        + ", ".join(f"{name} {cost / 1e3:.1f}" for name, cost in slowest)
        + ".",
    )
    reason = f"{', '.join(name for name, _ in slowest[:4])} take most"
    goals = [
        *(
            at_most("import", f"{module} / {PEER}", to_peer[module], 0.6, reason=reason)
            for module in (ASGI, WSGI)
        ),
        Goal(
            "import",
            f"{WSGI} imports asyncio",
            "yes" if loaded[WSGI][1] == "True" else "no",
            "no",
            loaded[WSGI][1] == "False",
        ),
        at_most(
            "import",
            f"{OURS_HELP} / {TYPER_HELP}",
            to_typer,
            2,
            reason="it imports its commands, and prints more text",
        ),
    ]
    return Outcome([table], goals)


def children_s() -> float:
    """CPU seconds of all processes that have been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def costs_of(module: str, installed: Installation) -> dict[str, float]:
    """Microseconds that each module takes itself, without what it imports."""
    costs = {}
    for line in installed.python("-X", "importtime", "-c", f"import {module}").stderr.splitlines():
        alone, _, name = line.removeprefix("import time:").split("|")
        if alone.strip().isdigit():
            costs[name.strip()] = float(alone)
    interpreter = {"site", "encodings", "encodings.utf_8", "_frozen_importlib_external", "zipimport"}
    return {name: cost for name, cost in costs.items() if name not in interpreter}


if __name__ == "__main__":
    main(measured, __doc__)
