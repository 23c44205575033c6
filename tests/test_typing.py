"""Code that uses the package passes two type checkers in strict mode.

The benchmarks, which take too long for the tests, are type-checked too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = ROOT / "tests" / "typing"

CHECKERS = {
    "mypy": [  # with the options, and so the cache, of `make test`
        *("mypy", "--strict", "--config-file=", "--warn-unreachable", f"--cache-dir={ROOT}/.mypy_cache"),
    ],
    "pyright": ["pyright", f"--pythonpath={sys.executable}"],
}


MISTAKES = [
    "basicauth_mw.Key(client_id=1)",
    "basicauth_mw.Settings(relm='api')",
    "basicauth_mw.encode_basic(b'a', 'b')",
    "basicauth_mw.Principal('a').nmae",
    "basicauth_mw.nothing",
    "basicauth_mw.asgi.BasicAuthMiddleware(1)",
    "basicauth_mw.wsgi.BasicAuthMiddleware(1)",
    "basicauth_mw.open_backend('memory:').creat()",
    "basicauth_mw.asgi.BasicAuthMiddleware(wrapped, exlude=['/x'])",
    "basicauth_mw.asgi.BasicAuthMiddleware(wrapped, require_https=None)",
    "basicauth_mw.wsgi.BasicAuthMiddleware(wrapped, exlude=['/x'])",
    "basicauth_mw.integrations.fastapi.install(fastapi.FastAPI(), exlude=['/x'])",
    "fastapi.FastAPI().add_middleware(basicauth_mw.asgi.BasicAuthMiddleware, exlude=['/x'])",
    "starlette.middleware.Middleware(basicauth_mw.asgi.BasicAuthMiddleware, exlude=['/x'])",
    "basicauth_mw.dashboard.dashboard(exlude=['/x'])",
    "basicauth_mw.dashboard.wsgi_dashboard(exlude=['/x'])",
    "basicauth_mw.forward_auth.create_app(exlude=['/x'])",
    "basicauth_mw.Settings.from_env(exlude=['/x'])",
    "basicauth_mw.Settings.from_mapping({}, exlude=['/x'])",
    "basicauth_mw.Settings().replace(exlude=['/x'])",
    # An Authorization header is not a principal, and an ID is not one either.
    "basicauth_mw.require_scopes(basicauth_mw.parse_basic(b''), 'read')",
    "basicauth_mw.require_scopes('ci', 'read')",
]


@pytest.mark.proves("X41")
@pytest.mark.parametrize("checker", CHECKERS)
def test_mistakes_are_found_and_correct_programs_pass(checker: str, tmp_path: Path) -> None:
    """The types are precise: mistakes are reported, and nothing else."""
    mistaken = tmp_path / "mistaken.py"
    modules = ("asgi", "wsgi", "dashboard", "forward_auth", "integrations.fastapi")
    names = ["fastapi", "starlette.middleware", "basicauth_mw", *(f"basicauth_mw.{each}" for each in modules)]
    imports = f"from typing import Any; import {', '.join(names)}; wrapped: Any = None"
    mistaken.write_text("\n".join([imports, *MISTAKES, ""]))
    command = [sys.executable, "-m", *CHECKERS[checker], mistaken, *PROGRAMS.glob("*.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    found = re.findall(r"(\w+\.py):(\d+):.*error", done.stdout)
    expected = {("mistaken.py", str(line)) for line in range(2, len(MISTAKES) + 2)}
    assert set(found) == expected, done.stdout + done.stderr


def test_the_benchmarks_match_the_package() -> None:
    """They are run manually, so a renamed function would be noticed late."""
    benchmarks = ROOT / "benchmarks"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file=", f"--cache-dir={ROOT}/.mypy_cache/benchmarks"),
            *("--check-untyped-defs", "--ignore-missing-imports", "--explicit-package-bases"),
            *sorted(map(str, benchmarks.glob("*.py"))),
        ],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": f"{ROOT}:{benchmarks}"},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stdout + done.stderr
