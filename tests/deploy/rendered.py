"""The overlays as they are rendered, and what their workloads will be told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dev.manifests import Object, objects, overlays, render
from dev.options import ROOT

LAB = "tests/cluster/k8s"
KIND = "deploy/k8s/overlays/kind"
PROD = "deploy/k8s/overlays/prod"
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")
OURS = ("motcua:", "motcua-tools:")
"""How the images begin that run our code; what comes before the last slash is the registry's."""


@dataclass(frozen=True)
class Workload:
    """Something that runs pods."""

    name: str
    kind: str
    whole: Object
    pod: Object
    """The template: metadata and spec."""

    @property
    def spec(self) -> Object:
        """The pod's spec."""
        found: Object = self.pod["spec"]
        return found

    @property
    def labels(self) -> dict[str, str]:
        """The pod's labels."""
        return dict(self.pod.get("metadata", {}).get("labels", {}))

    @property
    def component(self) -> str:
        """What sort of workload it is."""
        return self.labels.get("app.kubernetes.io/component", "")

    @property
    def containers(self) -> list[Object]:
        """All containers, those that only begin a pod included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def app(self) -> Object:
        """The container that runs the process."""
        found: Object = self.spec["containers"][0]
        return found

    @property
    def ours(self) -> bool:
        """Whether it runs our code."""
        return str(self.app.get("image", "")).rpartition("/")[2].startswith(OURS)

    @property
    def module(self) -> str:
        """What `python -m` runs; the image's entry point is just that."""
        return str(self.app["args"][0])

    def port(self, name: str | int) -> int | None:
        """The number of a port of the pod, by name or number; None when no container has it."""
        for container in self.containers:
            for port in container.get("ports", []):
                if name in (port.get("name"), port["containerPort"]):
                    return int(port["containerPort"])
        return None


class Overlay:
    """One rendered overlay, or one that a test has changed."""

    def __init__(self, found: list[Object]) -> None:
        self.objects = found
        self.workloads = {one.name: one for one in _workloads(found)}

    def of(self, *kinds: str) -> list[Object]:
        """The objects of these kinds."""
        return [one for one in self.objects if one["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        """The object of that kind and name. Raises KeyError."""
        for found in self.of(kind):
            if found["metadata"]["name"] == name:
                return found
        raise KeyError(f"{kind}/{name}")

    def ours(self) -> list[Workload]:
        """The workloads that run our code."""
        return [one for one in self.workloads.values() if one.ours]

    def settings(self, workload: Workload) -> dict[str, str]:
        """The ConfigMaps of a process, under what its own `env` says: no Secrets."""
        told: dict[str, str] = {}
        for source in workload.app.get("envFrom", []):
            if "configMapRef" in source:
                told.update(self.one("ConfigMap", source["configMapRef"]["name"])["data"])
        return {**told, **own_env(workload)}

    def secrets(self, workload: Workload) -> list[str]:
        """Names of the Secrets whose keys become environment variables."""
        return [s["secretRef"]["name"] for s in workload.app.get("envFrom", []) if "secretRef" in s]


def own_env(workload: Workload) -> dict[str, str]:
    """What the workload's own `env` says, where it says a value."""
    return {e["name"]: e["value"] for e in workload.app.get("env", []) if "value" in e}


def _workloads(found: list[Object]) -> Iterator[Workload]:
    for one in found:
        if one["kind"] in WORKLOADS:
            spec = one["spec"]["jobTemplate"]["spec"] if one["kind"] == "CronJob" else one["spec"]
            yield Workload(one["metadata"]["name"], one["kind"], one, spec["template"])
        if one["kind"] == "MongoDBCommunity":  # its operator makes the StatefulSet
            pod = one["spec"]["statefulSet"]["spec"]["template"]
            yield Workload(one["metadata"]["name"], one["kind"], one, pod)


@cache
def rendered(name: str) -> list[Object]:
    """The objects of an overlay by its folder."""
    return objects(render(ROOT / name))


def overlay(name: str) -> Overlay:
    """An overlay by its folder."""
    return Overlay(rendered(name))


def names() -> list[str]:
    """The folders of all overlays."""
    return [str(folder.relative_to(ROOT)) for folder in overlays()]


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything, none nothing."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for term in selector.get("matchExpressions", []):
        value, among = labels.get(term["key"]), term.get("values", [])
        fits = {
            "In": value in among,
            "NotIn": value not in among,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not fits[term["operator"]]:
            return False
    return True


def mounts(workload: Workload) -> dict[str, Object]:
    """The volumes of the process by the folder where they are."""
    volumes = {volume["name"]: volume for volume in workload.spec.get("volumes", [])}
    return {m["mountPath"]: volumes.get(m["name"], {}) for m in workload.app.get("volumeMounts", [])}


def under(path: str, folders: Mapping[str, Object]) -> tuple[Path, Object] | None:
    """The folder among `folders` that a path lies in, and its volume."""
    for folder, volume in folders.items():
        if Path(path).is_relative_to(folder):
            return Path(folder), volume
    return None
