"""Every workload may do little, can be moved and scaled, and is found by its Service."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.deploy.network import hosts
from tests.deploy.rendered import (
    KIND,
    PROD,
    Overlay,
    Workload,
    mounts,
    names,
    overlay,
    rendered,
    selects,
    under,
)

ASK_THE_API = {"prometheus", "kube-state-metrics"}  # they find pods by the API server, read-only


def running(here: Overlay) -> Iterator[Workload]:
    """The workloads whose pods these manifests describe whole: not those that an operator completes."""
    yield from (one for one in here.workloads.values() if one.kind != "MongoDBCommunity")


def unrestricted(workload: Workload) -> list[str]:
    """What Pod Security `restricted` and our own rules would refuse, and why."""
    wrong = []
    pod = workload.spec.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        wrong += [field] if workload.spec.get(field) else []
    wrong += [f"volume {v['name']}" for v in workload.spec.get("volumes", []) if "hostPath" in v]
    if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        wrong.append("seccomp")
    if not pod.get("runAsNonRoot") or not pod.get("runAsUser"):
        wrong.append("may be root")
    if workload.spec.get("enableServiceLinks") is not False:
        wrong.append("variables of Services become settings")
    for container in workload.containers:
        own = container.get("securityContext", {})
        allowed = {
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "user": own.get("runAsUser", pod.get("runAsUser")) != 0,
            "privileged": not own.get("privileged"),
            "ports of the node": not any(port.get("hostPort") for port in container.get("ports", [])),
        }
        wrong += [f"{container['name']}: {what}" for what, fine in allowed.items() if not fine]
        resources = container.get("resources", {})
        if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get(
            "limits", {}
        ):
            wrong.append(f"{container['name']}: resources")
    return wrong


@pytest.mark.parametrize("name", names())
def test_every_pod_is_restricted_and_says_what_it_needs(name: str) -> None:
    here = overlay(name)
    assert here.workloads
    for workload in running(here):
        assert unrestricted(workload) == [], workload.name


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("securityContext", "runAsNonRoot"), False),
        (("securityContext", "seccompProfile"), {"type": "Unconfined"}),
        (("enableServiceLinks",), True),
        (("hostNetwork",), True),
        (("containers", 0, "securityContext", "readOnlyRootFilesystem"), False),
        (("containers", 0, "securityContext", "capabilities"), {"drop": ["ALL"], "add": ["NET_ADMIN"]}),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), None),
        (("containers", 0, "securityContext", "privileged"), True),
        (("containers", 0, "resources", "limits"), {}),
    ],
)
def test_a_pod_that_may_more_is_found(path: tuple[str | int, ...], value: Any) -> None:
    changed = Overlay(copy.deepcopy(rendered(KIND)))
    inner: Any = changed.workloads["dossier"].spec
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    assert len(unrestricted(changed.workloads["dossier"])) == 1


@pytest.mark.parametrize("name", names())
def test_the_namespace_is_restricted(name: str) -> None:
    here = overlay(name)
    (namespace,) = here.of("Namespace")
    labels = namespace["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
    cluster_wide = {"Namespace", "PriorityClass", "ClusterRole", "ClusterRoleBinding"}
    for one in here.objects:
        if one["kind"] not in cluster_wide:
            assert one["metadata"]["namespace"] == namespace["metadata"]["name"]


@pytest.mark.parametrize("name", names())
def test_every_workload_has_an_account_of_its_own_without_a_token(name: str) -> None:
    here = overlay(name)
    accounts = [workload.spec["serviceAccountName"] for workload in running(here)]
    assert len(set(accounts)) == len(accounts)
    for workload in running(here):
        account = here.one("ServiceAccount", workload.spec["serviceAccountName"])
        if workload.name not in ASK_THE_API:
            assert workload.spec["automountServiceAccountToken"] is False
            assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", names())
def test_no_secret_is_in_the_manifests(name: str) -> None:
    assert overlay(name).of("Secret") == []


@pytest.mark.parametrize("name", names())
def test_a_drain_never_takes_the_last_replica(name: str) -> None:
    here = overlay(name)
    budgets = here.of("PodDisruptionBudget")
    for workload in here.workloads.values():
        mine = [b["spec"] for b in budgets if selects(b["spec"]["selector"], workload.labels)]
        assert len(mine) <= 1
        if workload.component in ("service", "gateway", "broker"):
            (budget,) = mine
            assert budget.get("minAvailable") == 1 or budget.get("maxUnavailable") == 1
        if workload.component in ("service", "gateway"):  # one that never got ready holds no drain up
            assert mine[0]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    for budget in budgets:
        assert any(selects(budget["spec"]["selector"], w.labels) for w in here.workloads.values())


@pytest.mark.parametrize("name", names())
def test_the_autoscaler_alone_says_how_many_replicas_there_are(name: str) -> None:
    here = overlay(name)
    scaled = {s["spec"]["scaleTargetRef"]["name"]: s["spec"] for s in here.of("HorizontalPodAutoscaler")}
    for workload in here.workloads.values():
        if workload.component in ("service", "gateway"):
            spec = scaled.pop(workload.name)
            assert "replicas" not in workload.whole["spec"]
            assert 1 <= spec["minReplicas"] < spec["maxReplicas"]
            assert any(metric["type"] == "Resource" for metric in spec["metrics"])
            quick, slow = spec["behavior"]["scaleUp"], spec["behavior"]["scaleDown"]
            assert quick["stabilizationWindowSeconds"] < slow["stabilizationWindowSeconds"]
    assert scaled == {}


@pytest.mark.parametrize("name", names())
def test_a_rollout_never_has_fewer_replicas_than_before(name: str) -> None:
    for workload in overlay(name).workloads.values():
        if workload.component in ("service", "gateway"):
            rolling = workload.whole["spec"]["strategy"]["rollingUpdate"]
            assert rolling == {"maxUnavailable": 0, "maxSurge": 1}


def test_production_spreads_over_three_zones_and_survives_one() -> None:
    here = overlay(PROD)
    for workload in here.workloads.values():
        if workload.component not in ("service", "gateway", "broker", "store"):
            continue
        spread = {s["topologyKey"]: s for s in workload.spec["topologySpreadConstraints"]}
        zones = spread["topology.kubernetes.io/zone"]
        assert zones["maxSkew"] == 1
        assert selects(zones["labelSelector"], workload.labels)
        quorum = workload.component in ("broker", "store")
        assert zones["whenUnsatisfiable"] == ("DoNotSchedule" if quorum else "ScheduleAnyway")
        assert workload.spec["priorityClassName"] in {p["metadata"]["name"] for p in here.of("PriorityClass")}
        own = [
            h["spec"] for h in here.of("HorizontalPodAutoscaler") if h["metadata"]["name"] == workload.name
        ]
        spec = workload.whole["spec"]
        assert (own[0]["minReplicas"] if own else spec.get("replicas") or spec["members"]) >= 3


@pytest.mark.parametrize("name", names())
def test_every_service_leads_to_ports_that_its_pods_have(name: str) -> None:
    here = overlay(name)
    for service in here.of("Service"):
        spec = service["spec"]
        found = [w for w in here.workloads.values() if selects({"matchLabels": spec["selector"]}, w.labels)]
        assert len(found) == 1, service["metadata"]["name"]
        for port in spec["ports"]:
            assert found[0].port(port.get("targetPort", port["port"])), (service["metadata"]["name"], port)
        if found[0].component == "service":  # gRPC balances over addresses, so there must be one a replica
            assert spec["clusterIP"] == "None"
            assert not spec.get("publishNotReadyAddresses")


@pytest.mark.parametrize("name", names())
def test_the_ingress_leads_to_the_gateway(name: str) -> None:
    here = overlay(name)
    (ingress,) = here.of("Ingress")
    (rule,) = ingress["spec"]["rules"]
    for path in rule["http"]["paths"]:
        backend = path["backend"]["service"]
        service = here.one("Service", backend["name"])
        assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


def test_in_production_all_addresses_of_the_portal_are_the_ingresss() -> None:
    here = overlay(PROD)
    (ingress,) = here.of("Ingress")
    host = ingress["spec"]["rules"][0]["host"]
    assert ingress["spec"]["tls"][0]["hosts"] == [host]
    for process, setting in (
        ("gateway", "PUBLIC_URL"),
        ("notify", "PORTAL_URL"),
        ("payment", "VNPAY_RETURN_URL"),
    ):
        url = urlsplit(here.settings(here.workloads[process])[setting])
        assert (url.scheme, url.hostname) == ("https", host)


def test_in_production_certificates_have_the_names_that_others_call() -> None:
    here = overlay(PROD)
    certificates = {one["spec"]["secretName"]: one["spec"] for one in here.of("Certificate")}
    for workload in here.ours():
        told = here.settings(workload)
        folder = under(told["TLS_CERT"], mounts(workload))
        assert folder, workload.name
        assert under(told["TLS_KEY"], mounts(workload)) == under(told["TLS_CA"], mounts(workload)) == folder
        certificate = certificates[folder[1]["secret"]["secretName"]]
        assert certificate["commonName"] == workload.name
        assert "client auth" in certificate["usages"]
        target = told.get(f"{workload.name.upper()}_TARGET")
        if target:
            ((name, _),) = hosts(target)
            assert name in certificate["dnsNames"]
            assert "server auth" in certificate["usages"]


@pytest.mark.parametrize("name", names())
def test_what_is_mounted_is_there(name: str) -> None:
    here = overlay(name)
    maps = {one["metadata"]["name"] for one in here.of("ConfigMap")}
    claims = {one["metadata"]["name"] for one in here.of("PersistentVolumeClaim")}
    for workload in running(here):
        templates = {t["metadata"]["name"] for t in workload.whole["spec"].get("volumeClaimTemplates", [])}
        volumes = {volume["name"]: volume for volume in workload.spec.get("volumes", [])}
        for container in workload.containers:
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in volumes or mount["name"] in templates, (workload.name, mount)
        for volume in volumes.values():
            assert volume.get("configMap", {}).get("name") in {None, *maps}
            assert volume.get("persistentVolumeClaim", {}).get("claimName") in {None, *claims}
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], (
                workload.name,
                volume["name"],
            )
