"""The files in ``examples/deploy`` are valid, and name settings, paths and metrics that exist.

``tests/system/test_deploy.py`` runs them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from basicauth_mw import Settings, open_backend
from basicauth_mw.asgi import BasicAuthMiddleware
from basicauth_mw.metrics import instrument
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
    assert f"USER {template['spec']['securityContext']['fsGroup']}:" in (DEPLOY / "Dockerfile").read_text()
    assert template["spec"]["volumes"][0]["secret"]["defaultMode"] == 0o440, "of the group only"
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


@cache
def exported() -> dict[str, dict[str, set[str]]]:
    """The name of each series of ``basicauth_mw.metrics``, with its labels and their values."""

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    registry = CollectorRegistry()
    instrument(
        BasicAuthMiddleware(app, open_backend("memory:", settings=Settings()), settings=Settings()),
        registry=registry,
    )
    found: dict[str, dict[str, set[str]]] = {}
    for sample in (sample for metric in registry.collect() for sample in metric.samples):
        labels = found.setdefault(sample.name, {"job": {"api", "$job"}})
        for name, value in sample.labels.items():
            labels.setdefault(name, set()).add(value)
    return found


MATCHER = r'(\w+)(=~|=|!=|!~)"([^"]*)"'


def expressions() -> list[str]:
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [rule["expr"] for rule in rules] + panels


def series_of_tests() -> list[str]:
    tests = yaml.safe_load((DEPLOY / "alerts_test.yml").read_text())["tests"]
    return [series["series"] for test in tests for series in test["input_series"]]


def mistakes(expression: str) -> list[str]:
    """What an expression names, but ``basicauth_mw.metrics`` does not export: series, labels and values."""
    groups = re.findall(r"\bby \(([^)]*)\)", expression)
    rest = re.sub(r"\bby \([^)]*\)|\[[^]]*\]", "", expression)
    read = re.findall(r"\b(?!or\b)([a-z_]\w*)\b(?! *\()(?:\{(.*?)\})?", rest)
    found = [] if read else ["no series"]
    for name, matchers in read:
        labels = exported().get(name)
        if labels is None:
            found.append(name)
            continue
        found += [label for group in groups for label in group.split(", ") if label not in labels]
        if not re.fullmatch(rf"({MATCHER}(,(?=.)|$))*", matchers):
            found.append(matchers)
        for label, operator, value in re.findall(MATCHER, matchers):
            values = value.split("|") if "~" in operator else [value]
            found += [f"{label}={each}" for each in values if each not in labels.get(label, ())]
    return found


@pytest.mark.parametrize("expression", [*expressions(), *series_of_tests()])
def test_metrics_exist(expression: str) -> None:
    """Each expression reads series, labels and label values that exist."""
    assert mistakes(expression) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("basicauth_keys_stale", "basicauth_key_stale"),
        ("basicauth_cache_hits_total", "basic_auth_cache_hits_total"),
        ("basicauth_circuit_open) > 0 or", "basicauth_circuit_opened) > 0 or"),
        ("by (decision)", "by (verdict)"),
        ("by (job, reason)", "by (job, cause)"),
        ("wrong_secret", "wrong_password"),
        ('reason="backend_unavailable"', 'reason="unavailable"'),
        ('decision="deny"', 'verdict="deny"'),
        ('decision="allow"', 'decision="allowed"'),
        ('job=~"$job"', 'job=~"$jobs"'),
        ('job=~"$job",decision', 'job=~"$job" decision'),
    ],
)
def test_a_wrong_name_is_found(right: str, wrong: str) -> None:
    changed = [each.replace(right, wrong) for each in expressions() if right in each]
    assert changed
    assert all(mistakes(each) for each in changed)


def test_dashboard() -> None:
    panels = DASHBOARD["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}

    assert len({panel["id"] for panel in panels}) == len(places) == len(panels)
    assert all(panel["description"] for panel in panels)
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"}
    variables = {variable["name"]: variable["query"] for variable in DASHBOARD["templating"]["list"]}
    assert used == variables.keys()
    values = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables["job"])
    assert values
    assert values[2] in exported()[values[1]]


def test_texts_show_labels_that_exist() -> None:
    """A legend or an alert shows only labels that its expression keeps."""
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    shown = [(rule["expr"], str(rule["annotations"])) for rule in rules]
    targets = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
    shown += [(target["expr"], target["legendFormat"]) for target in targets]
    found = [
        (label, re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", expression))))
        for expression, text in shown
        for label in re.findall(r"\{\{ *(?:\$labels\.)?(\w+) *\}\}", text)
    ]
    assert len(found) > len(rules)
    assert [label for label, kept in found if label not in kept] == []
