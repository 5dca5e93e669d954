"""A cluster in a container on this machine: https://kind.sigs.k8s.io."""

from __future__ import annotations

from rich.console import Console

from dev.cluster.programs import run
from dev.options import ROOT

NAME = "motcua"
CONTEXT = f"kind-{NAME}"
CONFIG = ROOT / "deploy/k8s/overlays/kind/kind-config.yaml"


def up(console: Console) -> None:
    """Makes the cluster unless it is there. Raises Problem without kind or an engine."""
    run("docker", "version", "--format", "{{.Server.Version}}")
    if NAME in run("kind", "get", "clusters").split():
        console.print(f"kind cluster {NAME} is there")
        return
    with console.status(f"making kind cluster {NAME}; its node image is some 400 MB the first time"):
        run("kind", "create", "cluster", "--name", NAME, "--config", str(CONFIG), "--wait", "180s")
    console.print(f"kind cluster {NAME} made")


def down(console: Console) -> None:
    """Deletes the cluster with all its data; nothing when there is none."""
    run("kind", "delete", "cluster", "--name", NAME)
    console.print(f"kind cluster {NAME} is gone")
