"""docs/operations.md and what it is about: every alert has its section, every command and file is there."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.options import ROOT, tool

BOOK = ROOT / "docs/operations.md"
TEXT = BOOK.read_text()
ALERTS = ROOT / "deploy/k8s/base/otel/prometheus/alerts.yaml"
ADAPTER = ROOT / "deploy/k8s/overlays/prod/prometheus-adapter-values.yaml"
CRONJOB = ROOT / "deploy/k8s/components/backup/cronjob.yaml"


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def anchor(heading: str) -> str:
    """As the places where the book is read make it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def sections() -> dict[str, str]:
    """Text below each heading, by anchor."""
    parts = re.split(
        r"^#{2,4} (.+)$", re.sub(r"```.*?```", _masked, TEXT, flags=re.DOTALL), flags=re.MULTILINE
    )
    return {anchor(heading): body for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def _masked(block: re.Match[str]) -> str:
    return block[0].replace("\n#", "\n ")


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert["alert"]))
def test_every_alert_says_where_to_read_and_there_is_what_to_do(alert: dict[str, Any]) -> None:
    path, _, target = alert["annotations"]["runbook_url"].partition("#")
    assert path.endswith("docs/operations.md")
    assert target == alert["alert"].lower()
    assert len(sections()[target].split()) > 8


def test_no_section_is_of_an_alert_that_is_gone() -> None:
    headings = re.findall(
        r"^### (\w+)$", TEXT.partition("\n## Alerts")[2].partition("\n## ")[0], re.MULTILINE
    )
    assert sorted(headings) == sorted(alert["alert"] for alert in alerts())


def test_every_link_of_the_book_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, place = target.partition("#")
        assert not path or (BOOK.parent / path).exists(), target
        assert not place or place in sections(), target


def test_every_tool_that_the_book_names_is_a_module() -> None:
    named = set(re.findall(r"-m ((?:[a-z_]+\.)+[a-z_]+)", TEXT)) | set(
        re.findall(r"^ops \S+ (\S+)", TEXT, re.M)
    )
    assert {"ops.backup", "ops.agency", "identity.keys", "identity.first_admin", "kit.dead"} <= named
    assert [name for name in named if importlib.util.find_spec(name) is None] == []


def test_ops_makes_a_job_of_the_backups_pod_with_other_arguments_and_ends_as_it_does(tmp_path: Path) -> None:
    """The shell function of the book, run with a kubectl that has no cluster behind it: the container has not
    started at the first look, and has not ended when its log has."""
    function = re.search(r"^ops\(\) \{.*?^\}", TEXT, re.DOTALL | re.MULTILINE)
    assert function
    pattern = yaml.safe_load(CRONJOB.read_text())["spec"]["jobTemplate"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "dead"}, **pattern}
    (tmp_path / "job.json").write_text(json.dumps(job))
    stub = tmp_path / "kubectl"
    stub.write_text(
        f"""#!/bin/sh
case "$*" in
*"create job"*) cat {tmp_path}/job.json ;;
"patch --local"*) exec {tool("kubectl")} "$@" ;;
"create -f -") cat > {tmp_path}/made.yaml ;;
*"logs -f job/dead") mkdir {tmp_path}/asked && exit 1 || echo the log ;;
*"get pods"*) mkdir {tmp_path}/looked || echo 3 ;;
*"delete job dead") touch {tmp_path}/deleted ;;
esac 2>/dev/null
"""
    )
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    ran = subprocess.run(
        ["bash", "-ec", f"{function[0]}\nops dead kit.dead show 3"],  # noqa: S607
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert (ran.stdout, ran.returncode) == ("the log\n", 3)
    assert (tmp_path / "deleted").exists()
    made = yaml.safe_load((tmp_path / "made.yaml").read_text())
    container = made["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["kit.dead", "show", "3"]
    assert made["spec"]["backoffLimit"] == 0
    assert "activeDeadlineSeconds" not in made["spec"]  # a restore takes as long as it takes
    assert container["envFrom"] == pattern["spec"]["template"]["spec"]["containers"][0]["envFrom"]


def test_a_backup_that_was_made_but_found_damage_is_not_made_a_second_time() -> None:
    job = yaml.safe_load(CRONJOB.read_text())["spec"]["jobTemplate"]["spec"]
    [rule] = job["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [1])
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # else Kubernetes refuses the policy


def test_the_tool_for_agencies_is_run_where_identity_may_be_called_from() -> None:
    pods = re.findall(r"exec -it deployment/(\w+) -- (?:[^`]|\n)*?-m ops\.agency", TEXT)
    policy = yaml.safe_load((ROOT / "deploy/k8s/base/identity/networkpolicy.yaml").read_text())
    [callers] = [
        rule["from"][0]["podSelector"]["matchExpressions"][0]["values"]
        for rule in policy["spec"]["ingress"]
        if {"port": "grpc"} in rule["ports"]
    ]
    assert pods
    assert set(pods) <= set(callers)


def test_the_adapter_gives_the_metric_that_autoscalers_ask_for_counted_once() -> None:
    [rule] = yaml.safe_load(ADAPTER.read_text())["rules"]["external"]
    asked = set()
    for path in (ROOT / "deploy/k8s/base").glob("*/horizontalpodautoscaler.yaml"):
        for metric in yaml.safe_load(path.read_text())["spec"]["metrics"]:
            if metric["type"] == "External":
                asked.add(metric["external"]["metric"]["name"])
    assert asked == {rule["name"]["as"]}
    assert re.fullmatch(rule["name"]["matches"], "event_consumer_pending")
    assert rule["metricsQuery"].startswith("max by (stream, consumer) (<<.Series>>{<<.LabelMatchers>>}")
