"""Apps with many dependencies, each with its client in an environment that ``make test-system`` creates."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.system.real.serving import ROOT

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_S = 420.0  # less than a minute on an idle machine
ENVIRONMENTS = {
    "mlflow": {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    },
    "prefect": {
        "DO_NOT_TRACK": "1",
        "PREFECT_CLIENT_MAX_RETRIES": "0",
        "PREFECT_HOME": "{directory}/prefect",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    },
}


def test_the_documented_versions_are_installed() -> None:
    """docs/apps.md names them; another version is a separate change."""
    document = (ROOT / "docs" / "apps.md").read_text().lower()
    for name in ENVIRONMENTS:
        requirements = (ROOT / "tests" / "system" / "real" / f"{name}.txt").read_text()
        (pinned,) = [line for line in requirements.splitlines() if line.startswith(f"{name}==")]
        assert pinned.replace("==", " ") in document


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_app_and_its_client(name: str, tmp_path: Path) -> None:
    """See ``main`` of the script."""
    python = ROOT / ".make" / "apps" / name / "bin" / "python"
    variables = {key: value.format(directory=tmp_path) for key, value in ENVIRONMENTS[name].items()}
    done = subprocess.run(
        [python, "-m", f"tests.system.real.{name}_client", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_PROXY": "127.0.0.1", **variables},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    log = tmp_path / "server.log"
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{log.read_text() if log.exists() else ''}"
