"""Who may call whom by the network policies, and who does by the code: both as a set of calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from dev.cluster.credentials import secrets
from tests.deploy.code import addresses_used, settings_of
from tests.deploy.rendered import Overlay, Workload, selects

KINDS = {"ingress": "Ingress", "egress": "Egress"}


made = cache(secrets)
"""The Secrets of a cluster of development, made once."""


class Call(NamedTuple):
    """One workload reaches a port of another."""

    caller: str
    called: str
    port: int


def calls_in_code(overlay: Overlay) -> set[Call]:
    """Every call inside the namespace that our processes make as they are set here.

    A setting counts when the code behind the process uses it and its value leads to a Service.
    """
    return {call for workload in overlay.ours() for call in _calls(overlay, workload)}


def _calls(overlay: Overlay, workload: Workload) -> Iterator[Call]:
    kind = settings_of(workload.module)
    values = {name.upper(): str(field.default) for name, field in (kind.model_fields if kind else {}).items()}
    for name in overlay.secrets(workload):
        values.update(made()[name])
    values.update(overlay.settings(workload))
    for name in addresses_used(workload.module):
        told = values.get(name, "")
        if name.endswith("_HOST"):  # its port is a setting of its own
            told += ":" + values.get(name.removesuffix("_HOST") + "_PORT", "")
        for host, port in hosts(told):
            for called, number in behind(overlay, host, port):
                yield Call(workload.name, called.name, number)


def hosts(told: str) -> list[tuple[str, int]]:
    """Hosts and ports of an address as settings have it: URLs by commas, gRPC targets, host:port.

    In `mongodb://user@a:1,b:2/` all but the first come without a scheme.
    """
    found = []
    for part in told.split(","):
        part = part.replace("dns:///", "dns://")
        try:
            url = urlsplit(part if "://" in part else f"//{part}")
            port = url.port or {"http": 80, "https": 443, "s3": None}.get(url.scheme)
        except ValueError:
            continue
        if url.hostname and port:
            found.append((url.hostname, port))
    return found


def behind(overlay: Overlay, host: str, port: int) -> Iterator[tuple[Workload, int]]:
    """The workloads behind the Service that a host name means, or that it is a pod of; and their port."""
    services: dict[str, Any] = {one["metadata"]["name"]: one["spec"] for one in overlay.of("Service")}
    labels = host.split(".")
    service = services.get(labels[0]) or (services.get(labels[1]) if len(labels) > 1 else None)
    if service is None:
        return
    assert port in {listed["port"] for listed in service["ports"]}, f"{host} has no port {port}"
    for listed in service["ports"]:
        if listed["port"] == port:
            for workload in overlay.workloads.values():
                if selects({"matchLabels": service["selector"]}, workload.labels):
                    number = workload.port(listed.get("targetPort", port))
                    assert number, f"{host}:{port}: {workload.name} has no such port"
                    yield workload, number


def calls_allowed(overlay: Overlay, direction: str) -> set[Call]:
    """Every call between workloads of the namespace that policies let in (`ingress`) or out (`egress`)."""
    inwards = direction == "ingress"
    found: set[Call] = set()
    for policy in overlay.of("NetworkPolicy"):
        spec = policy["spec"]
        if KINDS[direction] not in spec["policyTypes"]:
            continue
        ours = [w for w in overlay.workloads.values() if selects(spec["podSelector"], w.labels)]
        for rule in spec.get(direction) or []:
            listed, numbers = rule.get("from" if inwards else "to"), rule.get("ports")
            for one, other in product(ours, peers(overlay, listed)):
                caller, called = (other, one) if inwards else (one, other)
                found |= {Call(caller.name, called.name, port) for port in ports(called, numbers)}
    return found


def peers(overlay: Overlay, listed: list[Any] | None) -> Iterator[Workload]:
    """The workloads of the namespace that a rule's `from` or `to` means; without one, all."""
    for workload in overlay.workloads.values():
        if listed is None or any(_means(peer, workload) for peer in listed):
            yield workload


def _means(peer: dict[str, Any], workload: Workload) -> bool:
    return "namespaceSelector" not in peer and selects(peer.get("podSelector"), workload.labels)


def ports(called: Workload, listed: list[Any] | None) -> Iterable[int]:
    """The ports of a workload that a rule means; without any named, all that it has."""
    if listed is None:
        return [p["containerPort"] for c in called.containers for p in c.get("ports", [])]
    return [number for one in listed if (number := called.port(one["port"])) is not None]


def named(policy: dict[str, Any]) -> set[str]:
    """Every workload that a policy names as a peer in the namespace."""
    found: set[str] = set()
    rules = [*(policy["spec"].get("ingress") or []), *(policy["spec"].get("egress") or [])]
    for peer in (peer for rule in rules for peer in [*rule.get("from", []), *rule.get("to", [])]):
        if "namespaceSelector" in peer or "podSelector" not in peer:
            continue
        selector = peer["podSelector"]
        found |= {value for key, value in selector.get("matchLabels", {}).items() if key.endswith("/name")}
        for term in selector.get("matchExpressions", []):
            if term["key"].endswith("/name"):
                found |= set(term["values"])
    return found
