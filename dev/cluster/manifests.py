"""An overlay as the objects that go to the cluster: rendered, with real image names, filtered if asked."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from dev.cluster.kube import JSON, Kubectl
from dev.cluster.status import KINDS, Name
from dev.options import Problem

TAG = ":dev"  # of the images that the manifests leave to us


@dataclass(frozen=True)
class Manifests:
    """The objects of an overlay."""

    objects: list[JSON]

    def text(self) -> str:
        """As YAML, one document an object."""
        return yaml.safe_dump_all(self.objects, sort_keys=False, allow_unicode=True)

    def names(self) -> list[Name]:
        """Kind and name of every workload."""
        return [(one["kind"], one["metadata"]["name"]) for one in self.objects if one["kind"] in KINDS]

    def own_images(self) -> list[str]:
        """The images that we build: `motcua`, `motcua-tools`, … without their tag."""
        images = {one["image"] for item in self.objects for one in containers(item)}
        return sorted(image.removesuffix(TAG) for image in images if is_own(image))

    def with_images(self, real: Mapping[str, str]) -> Manifests:
        """With `motcua:dev` and its like replaced by what `real` says for `motcua`."""
        for item in self.objects:
            for container in containers(item):
                if is_own(container["image"]):
                    container["image"] = real[container["image"].removesuffix(TAG)]
        return self

    def has(self, kind: str, name: str = "") -> bool:
        """Whether there is an object of this kind, and name if one is given."""
        return any(one["kind"] == kind and name in ("", one["metadata"]["name"]) for one in self.objects)

    def brought(self) -> set[str]:
        """Names of the Secrets that come with the overlay, or that an operator brings because of it."""
        return {
            one.get("spec", {}).get("target", {}).get("name") or one["metadata"]["name"]
            for one in self.objects
            if one["kind"] in ("Secret", "ExternalSecret")
        }


def is_own(image: str) -> bool:
    """Whether the image is one of this repository, not yet named for a cluster."""
    return image.startswith("motcua") and "/" not in image and image.endswith(TAG)


def containers(item: JSON) -> Iterator[JSON]:
    """The containers of an object that has a pod template, the initial ones first."""
    spec = item.get("spec") or {}
    if item["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    pod = (spec.get("template") or {}).get("spec") or {} if item["kind"] != "Pod" else spec
    yield from pod.get("initContainers") or ()
    yield from pod.get("containers") or ()


def render(kubectl: Kubectl, overlay: Path) -> Manifests:
    """What kustomize makes of the overlay. Raises Problem when it cannot."""
    if not overlay.is_dir():
        raise Problem(f"there is no overlay {overlay}")
    return parse(kubectl("kustomize", str(overlay)))


def filtered(manifests: Manifests, command: str) -> tuple[Manifests, int]:
    """What the command makes of the manifests on its standard input, and how many lines it told about it.

    Raises Problem when the command fails.
    """
    try:
        done = subprocess.run(shlex.split(command), input=manifests.text(), capture_output=True, text=True)
    except OSError as error:
        raise Problem(f"the filter {command!r} does not run: {error.strerror}") from None
    if done.returncode:
        raise Problem(f"the filter {command!r} failed: {done.stderr.strip()}")
    return parse(done.stdout), len(done.stderr.splitlines())


def parse(text: str) -> Manifests:
    """Objects from YAML documents."""
    return Manifests([item for item in yaml.safe_load_all(text) if item])


def job(manifests: Manifests, cronjob: str, name: str) -> JSON:
    """A Job of the pattern that a suspended CronJob is. Raises StopIteration when there is no such one."""
    pattern = next(
        one for one in manifests.objects if one["kind"] == "CronJob" and one["metadata"]["name"] == cronjob
    )
    template = pattern["spec"]["jobTemplate"]
    about = template.get("metadata") or {}
    labels = about.get("labels") or pattern["metadata"].get("labels", {})
    metadata = {**about, "name": name, "namespace": pattern["metadata"]["namespace"], "labels": labels}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]}
