"""The files in ``.github`` are valid, run the commands of ``.ci/run``, and pass zizmor's security audit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.release.pythons import SUPPORTED

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = [path for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
SCHEMAS = {
    "github-workflows": WORKFLOWS,
    "github-issue-forms": FORMS,
    "github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
    "dependabot": [GITHUB / "dependabot.yml"],
}


def passes(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("schema", SCHEMAS)
def test_schema(schema: str) -> None:
    passes(sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *SCHEMAS[schema])


def test_security_audit() -> None:
    passes(Path(sys.executable).with_name("zizmor"), "--offline", "--persona=pedantic", GITHUB)


def test_workflows_run_what_any_machine_can_run() -> None:
    """Each check is a target of the Makefile, or .ci/run, which runs such targets too."""
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    files = [*WORKFLOWS, ROOT / ".ci" / "run"]
    used = {path.name: re.findall(r"^.*\bmake ([a-z-]+)", path.read_text(), re.MULTILINE) for path in files}

    assert {target for each in used.values() for target in each} <= targets
    assert used["run"] == ["docs", "test", "test-system", "test-all", "dist"]
    assert used["test.yml"] == ["test-all"]
    assert used["release.yml"] == ["dist"]
    assert used["docs.yml"] == ["docs"]
    jobs = yaml.safe_load((GITHUB / "workflows" / "test.yml").read_text())["jobs"]
    assert {"run": ".ci/run"} in jobs["everything"]["steps"]
    assert jobs["python"]["strategy"]["matrix"]["python"] == SUPPORTED


def test_missing_packages(tmp_path: Path) -> None:
    """Whatever PATH is, programs in /usr/sbin are found, and Postgres' server, not its commands alone."""
    (tmp_path / "curl").touch(0o755)
    (tmp_path / "pg_ctlcluster").touch(0o755)
    script = ROOT / ".ci" / "missing-packages"
    done = subprocess.run([script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True)
    missing = done.stdout.split()

    assert set(missing) >= {"chromium", "prometheus", "bubblewrap", "systemd"}
    assert "curl" not in missing
    assert ("nginx" in missing) != Path("/usr/sbin/nginx").exists()
    assert ("postgresql" in missing) != any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
