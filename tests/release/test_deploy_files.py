"""The files in ``examples/deploy`` are valid, and name settings, paths and metrics that exist.

``tests/system/test_deploy.py`` runs them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from basicauth_mw import Settings, open_backend
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.metrics import REASONS, instrument
from basicauth_mw.settings import FIELDS

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())


def test_compose_files() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, *DEPLOY.glob("compose*.yaml")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout


def test_kubernetes_manifests_belong_together() -> None:
    deployment, service = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    (port,) = container["ports"]

    assert deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert service["spec"]["selector"] == template["metadata"]["labels"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert f'"{port["containerPort"]}"' in (DEPLOY / "Dockerfile").read_text()
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert container["env"][0]["value"].startswith(f"file:{container['volumeMounts'][0]['mountPath']}/")


def test_settings_exist() -> None:
    known = {f"BASICAUTH_{field.name.upper()}" for field in FIELDS}
    named = {
        name.removesuffix("_FILE")
        for path in DEPLOY.iterdir()
        for name in re.findall(r"BASICAUTH_[A-Z_]+", path.read_text())
    }

    assert named <= known
    assert len(named) >= 2


def series() -> dict[str, set[str]]:
    """The name of each series of ``basicauth_mw.metrics``, with its labels."""

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    registry = CollectorRegistry()
    instrument(
        BasicAuthMiddleware(app, open_backend("memory:", settings=Settings()), settings=Settings()),
        registry=registry,
    )
    return {sample.name: set(sample.labels) for metric in registry.collect() for sample in metric.samples}


def expressions() -> list[str]:
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [rule["expr"] for rule in rules] + panels


@pytest.mark.parametrize("expression", expressions())
def test_metrics_exist(expression: str) -> None:
    """Each expression reads existing series, with labels and label values that exist."""
    exist = series()
    read = re.findall(r"(basicauth_\w+)(?:\{([^}]*)\})?", expression)

    assert read
    for name, labels in read:
        assert set(re.findall(r"(\w+)=", labels)) <= exist[name] | {"job"}


def test_alerts_name_reasons_that_exist() -> None:
    for values in re.findall(r'reason=~?\\?"([^"\\]+)', (DEPLOY / "alerts.yml").read_text()):
        assert set(values.split("|")) <= set(REASONS)


def test_dashboard() -> None:
    panels = DASHBOARD["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}

    assert len({panel["id"] for panel in panels}) == len(places) == len(panels)
    assert all(panel["description"] for panel in panels)
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"}
    assert used == {variable["name"] for variable in DASHBOARD["templating"]["list"]}
