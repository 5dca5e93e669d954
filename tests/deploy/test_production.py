"""What only production has: stores with certificates of their own, and ways out of the cluster."""

from __future__ import annotations

import copy
import re
from typing import Any

from dev.options import ROOT
from tests.deploy.code import addresses_used
from tests.deploy.network import behind, hosts
from tests.deploy.rendered import PROD, Overlay, overlay, own_env, rendered, selects


def documented() -> tuple[str, str]:
    """The URLs of MongoDB and NATS that the vault is to have: a comment above the ExternalSecrets."""
    text = (ROOT / PROD / "secrets/externalsecrets.yaml").read_text()
    comment = "".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    found = re.search(r"(mongodb://\S+?ca\.crt)(tls://\S+)", comment)
    assert found
    return found[1], found[2]


def shown(here: Overlay, name: str) -> set[str]:
    """The names in a certificate."""
    spec = here.one("Certificate", name)["spec"]
    assert {"server auth", "client auth"} <= set(spec["usages"])
    return set(spec["dnsNames"])


def test_stores_show_the_names_by_which_they_are_called() -> None:
    here = overlay(PROD)
    mongodb, nats = documented()
    assert "tls=true" in mongodb
    told = own_env(here.workloads["nats"])
    for name, port, url in (
        ("mongo", 27017, mongodb),
        ("nats", 4222, nats),
        ("nats", 6222, told["NATS_ROUTES"].strip("[]").replace("'", "")),
    ):
        called = hosts(url.replace(" ", "").replace("$(CLUSTER)", "password"))
        assert {number for _, number in called} == {port}
        assert {host for host, _ in called} <= shown(here, name)
        assert len({host for host, _ in called}) == 3
    members = {f"mongo-{n}.mongo-svc.motcua.svc.cluster.local" for n in range(3)}
    assert members <= shown(here, "mongo")  # what the set itself tells its clients
    volumes = {v["secret"]["secretName"] for v in here.workloads["nats"].spec["volumes"] if "secret" in v}
    assert here.one("Certificate", "nats")["spec"]["secretName"] in volumes
    tls = here.one("MongoDBCommunity", "mongo")["spec"]["security"]["tls"]
    assert tls["certificateKeySecretRef"]["name"] == here.one("Certificate", "mongo")["spec"]["secretName"]


def calls_outside(here: Overlay) -> set[tuple[str, int]]:
    """Which process calls which port outside of the cluster, as it is set. Our own portal is for people."""
    portal = here.one("Ingress", "gateway")["spec"]["rules"][0]["host"]
    found = set()
    for workload in here.ours():
        told = here.settings(workload)
        for name in addresses_used(workload.module) & set(told) - {"GATEWAY_HOST"}:  # where it listens
            address = told[name]
            if name.endswith("_HOST"):  # its port is a setting of its own
                address += ":" + told.get(name.removesuffix("_HOST") + "_PORT", "")
            for host, port in hosts(address):
                if host != portal and not list(behind(here, host, port)):
                    found.add((workload.name, port))
    return found


def open_outside(here: Overlay) -> set[tuple[str, int]]:
    """Which process may call which port of addresses outside."""
    found = set()
    for policy in here.of("NetworkPolicy"):
        spec: dict[str, Any] = policy["spec"]
        for rule in spec.get("egress") or []:
            if "to" in rule and not any("ipBlock" in peer for peer in rule["to"]):
                continue
            for workload in here.ours():
                if selects(spec["podSelector"], workload.labels):
                    found |= {(workload.name, port["port"]) for port in rule["ports"]}
    return found


def test_the_ways_out_are_those_that_a_process_takes() -> None:
    here = overlay(PROD)
    assert calls_outside(here) == open_outside(here)
    assert {name for name, _ in open_outside(here)} == {"backup", "dossier", "notify", "payment"}


def test_a_way_out_that_is_missing_is_found() -> None:
    here = Overlay(copy.deepcopy(rendered(PROD)))
    env = here.workloads["notify"].app["env"]
    env.append({"name": "SMS_GATEWAY_URL", "value": "https://sms.example/send"})
    assert calls_outside(here) - open_outside(here) == {("notify", 443)}


def test_the_platform_may_scrape_every_pod_that_has_metrics() -> None:
    here = overlay(PROD)
    policy = here.one("NetworkPolicy", "metrics-to-platform")["spec"]
    (rule,) = policy["ingress"]
    (monitor,) = here.of("PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert rule["ports"] == [{"port": endpoint["port"]}]
    measured = {w.name for w in here.workloads.values() if w.port(endpoint["port"])}
    for workload in (here.workloads[name] for name in measured):
        assert selects(policy["podSelector"], workload.labels)
        assert selects(monitor["spec"]["selector"], workload.labels)
    services = {w.name for w in here.ours() if w.component in ("service", "gateway")}
    assert measured == services | {"nats", "otel-collector"}
