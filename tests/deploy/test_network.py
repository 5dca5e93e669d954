"""Network policies say who calls whom, neither less nor more than the code does."""

from __future__ import annotations

import ast
import copy
from typing import Any

import pytest

from tests.deploy.code import attributes
from tests.deploy.network import Call, calls_allowed, calls_in_code, hosts, named
from tests.deploy.rendered import KIND, LAB, Overlay, names, overlay, rendered

WHOLE = [name for name in (KIND, LAB) if name in names()]
"""Overlays in which every part that is called runs in the namespace; in production some are outside."""
TELEMETRY = {"prometheus", "otel-collector"}  # called or calling by addresses that are no setting of ours


def between_ours(overlay: Overlay, calls: set[Call]) -> set[Call]:
    """Those made by a process of ours."""
    ours = {one.name for one in overlay.ours()}
    return {call for call in calls if call.caller in ours}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_the_allowed_calls_are_those_that_the_code_makes(name: str, direction: str) -> None:
    found = overlay(name)
    allowed, made = between_ours(found, calls_allowed(found, direction)), calls_in_code(found)
    assert allowed - made == set(), "allowed, but no code calls that"
    assert made - allowed == set(), "the code calls that, but it is not allowed"


def test_between_services_production_allows_the_same_calls() -> None:
    prod, kind = overlay("deploy/k8s/overlays/prod"), overlay(KIND)
    services = {one.name for one in prod.ours()}
    for direction in ("ingress", "egress"):
        allowed = {call for call in calls_allowed(prod, direction) if {call.caller, call.called} <= services}
        assert allowed == {call for call in calls_in_code(kind) if {call.caller, call.called} <= services}


def test_each_call_of_the_code_is_one_that_a_policy_can_miss() -> None:
    """Takes one workload out of what another's policy names: then exactly its calls are missing."""
    made = calls_in_code(overlay(KIND))
    tried = 0
    for direction, there, here in (("ingress", "caller", "called"), ("egress", "called", "caller")):
        for call in made:
            changed = Overlay(copy.deepcopy(rendered(KIND)))
            for policy in changed.of("NetworkPolicy"):
                chosen = policy["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name")
                if chosen == getattr(call, here):
                    _forget(policy["spec"].get(direction) or [], getattr(call, there))
            missing = made - calls_allowed(changed, direction)
            assert call in missing
            assert {(getattr(m, here), getattr(m, there)) for m in missing} == {
                (getattr(call, here), getattr(call, there))
            }
            tried += 1
    assert tried > 40


def _forget(rules: list[dict[str, Any]], name: str) -> None:
    for rule in rules:
        for peers in (rule.get("from", []), rule.get("to", [])):
            for peer in list(peers):
                selector = peer.get("podSelector", {})
                if selector.get("matchLabels", {}).get("app.kubernetes.io/name") == name:
                    peers.remove(peer)
                for term in selector.get("matchExpressions", []):
                    term["values"] = [value for value in term.get("values", []) if value != name]


def test_a_caller_too_many_is_found() -> None:
    changed = Overlay(copy.deepcopy(rendered(KIND)))
    policy = changed.one("NetworkPolicy", "payment")
    policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchExpressions"][0]["values"].append("notify")
    surplus = calls_allowed(changed, "ingress") - calls_in_code(changed)
    assert Call("notify", "payment", 9000) in surplus


def test_a_new_call_in_the_code_is_found() -> None:
    source = "def build(settings):\n    channel = connect(settings.payment_target)\n"
    assert "payment_target" in set(attributes(ast.parse(source)))
    unused = (
        "class S:\n    @model_validator(mode='after')\n    def f(self):\n        return self.payment_target\n"
    )
    assert "payment_target" not in set(attributes(ast.parse(unused)))


def test_addresses_are_read_as_the_clients_read_them() -> None:
    assert hosts("dns:///dossier:9000") == [("dossier", 9000)]
    assert hosts("mongodb://u:p@mongo-0.mongo:27017,mongo-1.mongo:27017/?replicaSet=rs0") == [
        ("mongo-0.mongo", 27017),
        ("mongo-1.mongo", 27017),
    ]
    assert hosts("nats://u:p@nats-0.nats:4222,nats://u:p@nats-1.nats:4222") == [
        ("nats-0.nats", 4222),
        ("nats-1.nats", 4222),
    ]
    assert hosts("http://gateway/payments/vnpay/ipn") == [("gateway", 80)]
    assert hosts("mail:1025") == [("mail", 1025)]
    assert hosts("") == hosts("s3://motcua/vault") == []


@pytest.mark.parametrize("name", WHOLE)
def test_policies_name_workloads_that_there_are(name: str) -> None:
    found = overlay(name)
    for policy in found.of("NetworkPolicy"):
        assert named(policy) - TELEMETRY <= set(found.workloads), policy["metadata"]["name"]


@pytest.mark.parametrize("name", names())
def test_nothing_is_allowed_unless_a_policy_names_it(name: str) -> None:
    found = overlay(name)
    everything = [one["spec"] for one in found.of("NetworkPolicy") if one["spec"]["podSelector"] == {}]
    denied = [spec for spec in everything if not spec.get("ingress") and not spec.get("egress")]
    assert [sorted(spec["policyTypes"]) for spec in denied] == [["Egress", "Ingress"]]
    for spec in everything:  # what all may do is to ask DNS
        assert not spec.get("ingress")
        for rule in spec.get("egress") or []:
            assert {port["port"] for port in rule["ports"]} == {53}
    for workload in found.workloads.values():
        found.one("NetworkPolicy", workload.name)


@pytest.mark.parametrize("name", names())
def test_metrics_are_for_prometheus_alone(name: str) -> None:
    found = overlay(name)
    for workload in found.ours():
        number = workload.port("metrics")
        callers = {
            c.caller for c in calls_allowed(found, "ingress") if (c.called, c.port) == (workload.name, number)
        }
        assert callers <= {"prometheus"}
