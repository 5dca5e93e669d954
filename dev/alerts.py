"""`python -m dev.alerts`: makes the PrometheusRule for the Prometheus operator from the rules that our own
Prometheus loads. One is the other, indented."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

FOLDER = Path(__file__).parents[1] / "deploy/k8s/base/otel"
RULES = FOLDER / "prometheus/alerts.yaml"
RESOURCE = FOLDER / "operator/prometheusrule.yaml"
_HEAD = """\
# Made from ../prometheus/alerts.yaml by `python -m dev.alerts`; change that file.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: motcua
spec:
"""


def resource(rules: str) -> str:
    """The text of the PrometheusRule with these rules (the text of a rule file)."""
    return _HEAD + indent(rules[rules.index("groups:") :], "  ")


if __name__ == "__main__":
    RESOURCE.write_text(resource(RULES.read_text()))
    print(RESOURCE.relative_to(Path.cwd()) if RESOURCE.is_relative_to(Path.cwd()) else RESOURCE)
