"""Our images: built here, tagged by their content, brought to where a cluster finds them."""

from __future__ import annotations

import os

from rich.console import Console

from dev.cluster import tag
from dev.cluster.programs import run
from dev.options import ROOT

LAB = "motcua-lab-"  # images of a cluster without a registry, a folder each
LAB_FOLDER = "tests/cluster/images"
LAB_CONTENT = ("requirements.lock", "dev/standin.py")


def build(name: str, console: Console) -> str:
    """Builds an image of ours and answers it with its tag; quick when nothing in it changed.

    Raises Problem when there is no engine, or with the end of what the build said.
    """
    if name.startswith(LAB):
        folder = f"{LAB_FOLDER}/{name.removeprefix(LAB)}"
        image = f"{name}:{tag.of([folder, *LAB_CONTENT])}"
        how = ["--file", str(ROOT / folder / "Dockerfile")]
    else:
        content = tag.of_image()
        image = f"{name}:{content}"
        how = ["--target", "tools"]
        if name != "motcua-tools":
            how = ["--target", "runtime", "--build-arg", f"REVISION={content}"]
    if "PIP_INDEX_URL" in os.environ:
        how += ["--build-arg", "PIP_INDEX_URL"]
    with console.status(f"building {image}"):
        run("docker", "build", "--tag", image, *how, str(ROOT))
    return image


def load(image: str, cluster: str) -> None:
    """Puts an image of this machine's engine into the nodes of a kind cluster."""
    run("kind", "load", "docker-image", image, "--name", cluster)


def push(image: str, registry: str) -> str:
    """Puts an image into a registry and answers its name there."""
    there = f"{registry.rstrip('/')}/{image}"
    run("docker", "tag", image, there)
    run("docker", "push", there)
    return there


def repository(image: str) -> str:
    """An image's name without registry, tag and digest: `motcua` of registry:5000/a/motcua:1@sha256:…"""
    return image.split("@")[0].rsplit("/", 1)[-1].split(":")[0]


def is_ours(repository: str) -> bool:
    """Whether we build the image of that name."""
    return repository in ("motcua", "motcua-tools") or repository.startswith(LAB)
