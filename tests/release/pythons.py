"""Run the core of the tests on every supported Python that is installed, with the newest dependencies, and on
the oldest of them with the lowest dependencies too: ``make test-all``, or ``make test-all PYTHONS=3.14``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".make" / "pythons"
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SUPPORTED = re.findall(r"Python :: (3\.\d+)", "\n".join(PYPROJECT["project"]["classifiers"]))

CORE = (
    *("asgi", "auth", "backends/life", "backends/test_stores.py", "integrations"),
    *("keys", "responses", "runtime", "settings", "wsgi"),
)


def find(version: str) -> str | None:
    """Return an interpreter with that version: on PATH, or installed by pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [
        *(shutil.which(name) for name in (f"python{version}", "python3", "python")),
        *map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python"))),
    ]
    code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        run = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
        if run.stdout.strip() == version:  # one of pyenv's links may lead nowhere
            return candidate
    return None


def lowest() -> str:
    """Return constraints that choose the lowest allowed version of each dependency and framework."""
    project, groups = PYPROJECT["project"], PYPROJECT["dependency-groups"]
    extras = [name for extra in project["optional-dependencies"].values() for name in extra]
    listed = [*project["dependencies"], *extras, *groups["demo"], *groups["examples"]]
    return "\n".join(re.sub(r"(\[.*\])?>=", "==", each) for each in listed if ">=" in each)


def test(python: str, name: str, *constraints: str) -> bool:
    """Run the core in an environment of its own; return whether it passes."""
    print(f"\n=== Python {name}", flush=True)
    environment = WORK / name.replace(" ", "-").replace(",", "")
    if not environment.exists():
        subprocess.run([python, "-m", "venv", "--without-pip", environment], check=True)
    program = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", program, "install", "--quiet", "--upgrade", *constraints]
    subprocess.run([*pip, "-e", ".[standard,postgres]", "--group", "core"], cwd=ROOT, check=True)
    tests = [f"tests/{name}" for name in CORE]
    command = [program, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=ROOT).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", metavar="3.x", help="the default is all that are found")
    required = parser.parse_args().versions
    WORK.mkdir(parents=True, exist_ok=True)
    found = {version: path for version in required or SUPPORTED if (path := find(version))}
    passed = {version: test(path, version) for version, path in found.items()}
    if found:
        oldest, path = next(iter(found.items()))
        (WORK / "lowest.txt").write_text(lowest())
        name = f"{oldest}, lowest dependencies"
        passed[name] = test(path, name, "-c", str(WORK / "lowest.txt"))
    print()
    for version in required or SUPPORTED:
        if version not in found:
            print(f"Python {version}: not found")
    for name, result in passed.items():
        print(f"Python {name}: {'passed' if result else 'FAILED'}")
    return not (passed and all(passed.values()) and found.keys() >= set(required))


if __name__ == "__main__":
    sys.exit(main())
