"""Secrets: what the manifests ask for is what development makes and what production's vault brings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.network import made
from tests.deploy.rendered import KIND, PROD, Overlay, names, overlay

MORE_IN_PRODUCTION = {
    "notify-env": {"SMTP_USERNAME", "SMTP_PASSWORD"},  # a mail server that wants to know who sends
}
LESS_IN_PRODUCTION = {
    "mongo-auth": {"keyfile"},  # the operator makes one
}
OUTSIDE = {"objects-auth", "sandbox-env", "grafana-auth"}
"""Secrets of what production does not run itself."""
OF_PRODUCTION = {"backup-env"}
"""Secrets of what only production runs."""


def asked(here: Overlay) -> Iterator[tuple[str, str | None]]:
    """Each Secret that a pod uses, with the key, or None for all of it."""
    for workload in here.workloads.values():
        for volume in workload.spec.get("volumes", []):
            for source in [volume, *volume.get("projected", {}).get("sources", [])]:
                if "secret" in source:
                    name = source["secret"].get("secretName") or source["secret"]["name"]
                    keys = [item["key"] for item in source["secret"].get("items", [])]
                    yield from ((name, key) for key in keys or [None])
        for container in workload.containers:
            for source in container.get("envFrom", []):
                if "secretRef" in source:
                    yield source["secretRef"]["name"], None
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    yield reference["name"], reference["key"]
    for one in here.of("MongoDBCommunity"):
        for user in one["spec"]["users"]:
            yield user["passwordSecretRef"]["name"], user["passwordSecretRef"]["key"]


def certified(here: Overlay) -> set[str]:
    """Secrets that cert-manager makes."""
    return {one["spec"]["secretName"] for one in here.of("Certificate")}


def keys_of(external: dict[str, Any]) -> set[str]:
    """The keys that an ExternalSecret brings."""
    return {one["secretKey"] for one in external["spec"]["data"]}


@pytest.mark.parametrize("name", [name for name in names() if name != PROD])
def test_development_makes_every_secret_that_a_pod_asks_for(name: str) -> None:
    for secret, key in asked(overlay(name)):
        assert secret in made(), secret
        assert key is None or key in made()[secret], (secret, key)


def test_development_makes_no_secret_that_nothing_asks_for() -> None:
    assert set(made()) == {secret for secret, _ in asked(overlay(KIND))}


def test_production_brings_every_secret_that_a_pod_asks_for_and_no_other() -> None:
    here = overlay(PROD)
    brought = {one["metadata"]["name"]: keys_of(one) for one in here.of("ExternalSecret")}
    wanted = [(secret, key) for secret, key in asked(here) if secret not in certified(here)]
    assert {secret for secret, _ in wanted} == set(brought)
    for secret, key in wanted:
        assert key is None or key in brought[secret], (secret, key)


def test_production_brings_the_keys_that_development_makes() -> None:
    brought = {one["metadata"]["name"]: keys_of(one) for one in overlay(PROD).of("ExternalSecret")}
    assert set(brought) - OF_PRODUCTION == set(made()) - OUTSIDE
    for name in set(brought) - OF_PRODUCTION:
        wanted = set(made()[name]) - LESS_IN_PRODUCTION.get(name, set())
        assert brought[name] == wanted | MORE_IN_PRODUCTION.get(name, set()), name


def test_each_secret_comes_from_its_own_place_in_the_vault() -> None:
    for one in overlay(PROD).of("ExternalSecret"):
        name = one["metadata"]["name"]
        for data in one["spec"]["data"]:
            assert data["remoteRef"] == {"key": f"motcua/{name}", "property": data["secretKey"]}
        assert one["spec"]["secretStoreRef"]["kind"] == "ClusterSecretStore"
        assert one["spec"]["target"]["deletionPolicy"] == "Retain"  # a vault that is away takes nothing along
