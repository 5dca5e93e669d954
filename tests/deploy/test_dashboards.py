"""Dashboards and alerts ask for what is measured, and say what they mean."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from dev import alerts
from tests.needs import missing

OTEL = alerts.FOLDER
OPERATIONS = Path(__file__).parents[2] / "docs/operations.md"
# The modules of ours that make metrics.
MEASURING = ("kit.telemetry", "notify.worker", "gateway.endpoint", "dossier.antivirus")
FOREIGN = {
    "process_cpu_seconds_total": "prometheus_client",  # on Linux only
    "process_resident_memory_bytes": "prometheus_client",
    "up": "Prometheus",
    "kube_cronjob_created": "kube-state-metrics",
    "kube_cronjob_status_last_successful_time": "kube-state-metrics",
    "kube_deployment_status_replicas_unavailable": "kube-state-metrics",
    "kube_horizontalpodautoscaler_spec_max_replicas": "kube-state-metrics",
    "kube_horizontalpodautoscaler_status_current_replicas": "kube-state-metrics",
    "kube_pod_container_status_restarts_total": "kube-state-metrics",
    "kube_statefulset_replicas": "kube-state-metrics",
    "kube_statefulset_status_replicas_ready": "kube-state-metrics",
    "kubelet_volume_stats_available_bytes": "kubelet",
    "kubelet_volume_stats_capacity_bytes": "kubelet",
    "jetstream_server_max_storage": "prometheus-nats-exporter",
    "jetstream_server_total_message_bytes": "prometheus-nats-exporter",
    "jetstream_stream_total_messages": "prometheus-nats-exporter",
    "SeaweedFS_s3_request_total": "SeaweedFS",
    "certmanager_certificate_expiration_timestamp_seconds": "cert-manager",
}
TARGET = {"namespace", "pod", "service", "le"}  # what scraping adds, and a histogram
WORDS = {"and", "or", "unless", "bool", "offset"}
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
SERIES = re.compile(r"(?<![\w:{.])([a-zA-Z_:][\w:]*)\b(?!\s*[(=!])(?:\{([^}]*)\})?")

Rule = dict[str, Any]
RULES: list[Rule] = [
    rule for group in yaml.safe_load(alerts.RULES.read_text())["groups"] for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((OTEL / "dashboards").glob("*.json"))}
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]
EXPRESSIONS = [
    *(pytest.param(rule["expr"], id=rule.get("alert") or rule["record"]) for rule in RULES),
    *(
        pytest.param(target["expr"], id=f"{name}: {panel['title']} {target['refId']}")
        for name, board in BOARDS.items()
        for panel in board["panels"]
        for target in panel.get("targets", [])
    ),
]


def metrics(expression: str) -> dict[str, set[str]]:
    """The metrics in a PromQL expression, each with the labels that its selector names."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = GROUPING.sub(" ", re.sub(r"\[[^\]]*\]", "", bare))
    found: dict[str, set[str]] = {}
    for name, selector in SERIES.findall(bare):
        if name not in WORDS:
            found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
    return found


@pytest.fixture(scope="module")
def ours() -> dict[str, set[str]]:
    """The series that our processes can show, each with its labels."""
    for module in MEASURING:
        import_module(module)
    found: dict[str, set[str]] = {}
    for name, collector in REGISTRY._names_to_collectors.items():  # its only list of them
        labels: tuple[str, ...] = getattr(collector, "_labelnames", getattr(collector, "_labels", ()))
        found[name] = set(labels)
    return found


def test_the_reader_of_expressions_finds_metrics_and_their_labels() -> None:
    text = 'sum by (a) (rate(x_total{b="c{}", d!~"e"}[5m])) / on (f) max_over_time(y:z[1h]) > 1.4 unless w'
    assert metrics(text) == {"x_total": {"b", "d"}, "y:z": set(), "w": set()}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_asked_for_is_measured(expression: str, ours: dict[str, set[str]]) -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    for name, labels in metrics(expression).items():
        if name in ours:
            assert labels <= ours[name] | TARGET, name
        else:
            assert name in recorded | set(FOREIGN), f"{name} is measured nowhere"


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_sum_keeps_labels_that_are_there(expression: str, ours: dict[str, set[str]]) -> None:
    asked = metrics(expression)
    if not all(name in ours for name in asked):
        return
    known = TARGET.union(*(ours[name] for name in asked))
    for group in GROUPING.findall(expression):
        assert {label.strip() for label in group.split(",")} <= known


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_a_unit_and_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["description"].endswith(".")
    assert all(target["legendFormat"] for target in panel["targets"])


def test_dashboards_and_their_panels_can_be_told_apart() -> None:
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)
    for board in BOARDS.values():
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
    listed = yaml.safe_load((OTEL / "dashboards/kustomization.yaml").read_text())["configMapGenerator"][0]
    assert sorted(listed["files"]) == [f"{name}.json" for name in BOARDS]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_bad_it_is_and_leads_to_what_to_do(rule: Rule) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert rule["alert"] in re.findall(r"^#+ (\w+)$", OPERATIONS.read_text(), re.MULTILINE)


def test_the_operators_rules_are_those_that_our_prometheus_loads() -> None:
    assert alerts.RESOURCE.read_text() == alerts.resource(alerts.RULES.read_text()), (
        "run python -m dev.alerts"
    )
    made = yaml.safe_load(alerts.RESOURCE.read_text())
    assert made["spec"] == yaml.safe_load(alerts.RULES.read_text())


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", str(Path(__file__).with_name("alerts.yaml")))


def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    """All but the finding of pods, which Debian's Prometheus is built without."""
    config = yaml.safe_load((OTEL / "prometheus/prometheus.yaml").read_text())
    for job in config["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs")
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(alerts.RULES, tmp_path)
    promtool("check", "config", str(tmp_path / "prometheus.yaml"))


def promtool(*arguments: str) -> None:
    found = shutil.which("promtool")
    if found is None:
        missing("promtool is not on the path (Debian package prometheus)")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
