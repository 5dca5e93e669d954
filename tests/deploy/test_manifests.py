"""`make manifests` finds what Kubernetes would refuse or, worse, ignore."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dev.manifests import CUSTOM, VERSIONS, misfits
from tests.deploy.rendered import KIND, names, overlay


def one(kind: str, name: str) -> dict[str, Any]:
    """A copy of an object, to be broken."""
    return copy.deepcopy(overlay(KIND).one(kind, name))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_whole_object_fits(version: str) -> None:
    assert list(misfits(one("Deployment", "dossier"), version)) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_misspelt_field_does_not_fit(version: str) -> None:
    broken = one("Deployment", "dossier")
    spec = broken["spec"]["template"]["spec"]
    spec["terminationGracePeriodSecond"] = spec.pop("terminationGracePeriodSeconds")
    (line,) = misfits(broken, version)
    assert "Deployment/dossier" in line
    assert "terminationGracePeriodSecond" in line


def test_a_value_of_the_wrong_type_does_not_fit() -> None:
    broken = one("Deployment", "gateway")
    broken["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "MAX_DEPTH", "value": 15})
    assert len(list(misfits(broken, VERSIONS[-1]))) == 1


def test_a_kind_that_nobody_knows_does_not_fit() -> None:
    broken = one("PodDisruptionBudget", "gateway")
    broken["apiVersion"] = "policy/v1beta1"  # gone since 1.25
    (line,) = misfits(broken, VERSIONS[-1])
    assert "policy/v1beta1 PodDisruptionBudget" in line


def test_each_custom_kind_is_one_that_an_overlay_has() -> None:
    had = {(found["apiVersion"], found["kind"]) for name in names() for found in overlay(name).objects}
    assert set(CUSTOM) <= had
