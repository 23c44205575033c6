"""The command line with keys in Postgres."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.postgres_server import PostgresServer


def run(url: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BASICAUTH_")}
    return subprocess.run(
        [sys.executable, "-m", "basicauth_mw", *arguments],
        env=environment | {"BASICAUTH_BACKEND": url, "PGPASSWORD": "canary"},
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_from_the_first_key_to_an_export(postgres_server: PostgresServer) -> None:
    url = postgres_server.url("cli_first", user="keys:canary")
    other = postgres_server.url("cli_second", more="&prefix=other")
    missing = run(url, "keys", "list")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "has no tables of keys in the schema cli_first:  basicauth-mw keys create" in missing.stderr

    made = run(url, "keys", "create", "--name", "ci", "--client-id", "ci", "--json")
    assert made.returncode == 0, made.stderr
    assert "created the tables of keys in the schema cli_first" in made.stderr
    assert json.loads(made.stdout)["client_id"] == "ci"
    assert run(url, "keys", "rotate", "ci").returncode == 0

    exported = run(url, "keys", "export")
    assert exported.returncode == 0, exported.stderr
    imported = run(other, "keys", "import", "-", given=exported.stdout)
    assert imported.returncode == 0, imported.stderr
    assert run(other, "keys", "export").stdout == exported.stdout

    checked = run(url, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"postgresql://127.0.0.1:{postgres_server.port}/postgres" in checked.stdout
    assert "canary" not in checked.stdout + checked.stderr
    assert run(other, "keys", "list", "--backend", url).returncode == 2


def test_an_invalid_url_is_not_shown() -> None:
    checked = run("postgresql://keys:canary@h/db?canary=1", "check")
    assert checked.returncode == 1
    assert "option that cannot be set" in checked.stdout
    assert "canary" not in checked.stdout + checked.stderr
