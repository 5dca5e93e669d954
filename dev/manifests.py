"""`make manifests`: renders every overlay and checks it without a cluster.

Every object against the schema of its kind, in the oldest and the newest Kubernetes that we support: unknown
fields and kinds fail. Then checkov's rules, and hadolint for the Dockerfiles.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from dev.options import ROOT

BIN = Path(sys.executable).parent
CHECKOV = ROOT / ".venv-checkov" / "bin" / "checkov"
VERSIONS = ("1.34", "1.37")  # the oldest that gets fixes when a release is made, and the newest
# Kinds that Kubernetes does not have itself: whose they are, and what for. No package brings schemas of them.
CUSTOM = {
    ("cert-manager.io/v1", "Certificate"): "cert-manager: TLS between all parts",
    ("cert-manager.io/v1", "Issuer"): "cert-manager: the authority of the namespace",
    ("external-secrets.io/v1", "ExternalSecret"): "External Secrets: from the vault into Secrets",
    (
        "mongodbcommunity.mongodb.com/v1",
        "MongoDBCommunity",
    ): "MongoDB's operator: the replica set",
    ("monitoring.coreos.com/v1", "PodMonitor"): "Prometheus operator: whom to scrape",
    ("monitoring.coreos.com/v1", "PrometheusRule"): "Prometheus operator: alerts",
}

Object = dict[str, Any]
# It reads the schemas anew for each object.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)


def overlays() -> list[Path]:
    """The folders that are rendered as a whole: those of deploy/k8s/overlays, and the lab's."""
    found = [*(ROOT / "deploy/k8s/overlays").iterdir(), ROOT / "tests/cluster/k8s"]
    return sorted(folder for folder in found if (folder / "kustomization.yaml").exists())


def dockerfiles() -> list[Path]:
    """Every Dockerfile of the project."""
    return sorted([*ROOT.glob("Dockerfile"), *ROOT.glob("tests/cluster/images/**/Dockerfile")])


class Failed(Exception):
    """A check found something; the message has a line for each."""


@cache
def render(overlay: Path) -> str:
    """What kustomize makes of a folder. Raises Failed."""
    return _ran([str(BIN / "kubectl"), "kustomize", str(overlay)])


def _ran(command: list[str]) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if ran.returncode:
        raise Failed((ran.stdout + ran.stderr).strip())
    return ran.stdout


def objects(rendered: str) -> list[Object]:
    """The objects of a rendered overlay."""
    return [one for one in yaml.load_all(rendered, Loader=yaml.CSafeLoader) if one]


def title(one: Object) -> str:
    """Kind and name of an object."""
    return f"{one['kind']}/{one['metadata']['name']}"


def misfits(one: Object, version: str) -> Iterator[str]:
    """What is wrong with an object of a kind that Kubernetes has; nothing for those of CUSTOM."""
    if (one["apiVersion"], one["kind"]) in CUSTOM:
        return
    try:
        kubernetes_validate.validate(one, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        yield f"{title(one)}: Kubernetes {version} has no {one['apiVersion']} {one['kind']}"
    except kubernetes_validate.ValidationError as error:
        where = ".".join(str(step) for step in error.path)
        yield f"{title(one)}: Kubernetes {version}: {where}: {error.message}"


def check_schemas() -> str:
    """Kubernetes' schemas."""
    told: list[str] = []
    wrong: list[str] = []
    for overlay in overlays():
        name = str(overlay.relative_to(ROOT))
        found = objects(render(overlay))
        for version in VERSIONS:
            wrong += [f"{name}: {line}" for one in found for line in misfits(one, version)]
        custom = sum((one["apiVersion"], one["kind"]) in CUSTOM for one in found)
        told.append(f"{name}: {len(found) - custom} objects" + (f", {custom} custom" if custom else ""))
    if wrong:
        raise Failed("\n".join(wrong))
    return f"valid in Kubernetes {' and '.join(VERSIONS)} ({'; '.join(told)})"


def check_rules() -> str:
    """checkov, for all overlays in one run."""
    with tempfile.TemporaryDirectory(prefix="motcua-manifests-") as folder:
        for overlay in overlays():
            name = str(overlay.relative_to(ROOT)).replace("/", "-")
            (Path(folder) / f"{name}.yaml").write_text(render(overlay))
        _ran([str(CHECKOV), "--config-file", str(ROOT / "deploy/checkov.yaml"), "-d", folder])
    return "checkov has nothing against them"


def check_dockerfiles() -> str:
    """hadolint."""
    _ran([str(BIN / "hadolint"), *map(str, dockerfiles())])
    return f"hadolint has nothing against {len(dockerfiles())} Dockerfiles"


def main() -> int:
    """Runs all checks, also after one that failed. Exit code 1 when any did."""
    checks: tuple[Callable[[], str], ...] = (check_schemas, check_rules, check_dockerfiles)
    failed = 0
    for check in checks:
        began = time.monotonic()
        try:
            line = check()
        except Failed as error:
            failed = 1
            line = f"FAILED: {check.__doc__}\n{error}"
        print(f"{time.monotonic() - began:5.1f} s  {line}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
