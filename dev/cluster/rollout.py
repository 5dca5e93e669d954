"""Brings the whole to a cluster, one service again, and takes it away."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from dev.cluster import credentials, images
from dev.cluster.kube import FIELD_MANAGER, JSON, Kubectl
from dev.cluster.manifests import Manifests, containers, filtered, job, render
from dev.cluster.status import Name
from dev.cluster.waiting import NotReady, wait
from dev.options import ROOT, Problem

KIND_OVERLAY = ROOT / "deploy/k8s/overlays/kind"
IMPORTER = "importer"
PREPARE = credentials.PREPARE  # also the name of its Job
SANDBOX = "sandbox"  # only an overlay for development has it
KIND = "kind-"  # how kind names its contexts
SERVER_SIDE = (1, 22)  # before, applying server-side was beta and stumbled over defaults
SECONDS = 600.0  # until all must be ready; pulling the images of others may take minutes


@dataclass(frozen=True)
class Options:
    """What goes where. See `python -m dev.cluster up --help`."""

    overlay: Path = KIND_OVERLAY
    namespace: str = "motcua"
    context: str = ""
    registry: str = ""
    filter: str = ""
    standin: bool = False
    confirmed: bool = False
    seconds: float = SECONDS
    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))

    @property
    def kubectl(self) -> Kubectl:
        """kubectl on that context and namespace."""
        return Kubectl(self.namespace, self.context)


def confirm(options: Options, doing: str) -> str:
    """The context that is meant. Raises Problem unless it is kind's, was named, or CONFIRM=yes says so."""
    context = options.kubectl.current_context()
    if not (context.startswith(KIND) or options.context or options.confirmed):
        raise Problem(
            f"this would {doing} namespace {options.namespace} of context {context}. "
            f"If that is what you want: CONTEXT={context} or CONFIRM=yes"
        )
    return context


def up(options: Options) -> Manifests:
    """Builds the images, makes the Secrets, applies the overlay, waits for all.

    What is there already stays; done again without a change, nothing restarts. An overlay for development
    gets its catalogue, too. Raises Problem, or NotReady when something did not come up.
    """
    context = confirm(options, "install into")
    kubectl, console = options.kubectl, options.console
    console.print(
        f"[bold]{escape(_relative(options.overlay))}[/] → context {context}, namespace {options.namespace}"
    )
    kubectl.server()  # asked before minutes go into building for a cluster that does not answer
    manifests = render(kubectl, options.overlay)
    real = deliver(options, context, manifests.own_images())
    manifests = manifests.with_images(real)
    if options.filter:
        manifests, lines = filtered(manifests, options.filter)
        console.print(f"filter: {lines} lines about changes")
    if not manifests.brought() & set(credentials.NAMES):
        made = credentials.ensure(kubectl, standin=options.standin)
        kept = sum(line.endswith(" kept") for line in made)
        console.print(f"secrets: {kept} kept, {len(credentials.NAMES) - kept} made")
        for line in made:
            if "fit" in line:
                console.print(f"  {line}")
    began = time.monotonic()
    prepare(kubectl, manifests, console, options.seconds)
    apply(kubectl, manifests)
    console.print(f"applied {len(manifests.objects)} objects in {time.monotonic() - began:.1f} s; waiting")
    wait(kubectl, manifests.names(), console, options.seconds)
    if manifests.has("CronJob", IMPORTER) and manifests.has("Deployment", SANDBOX):
        load_catalogue(kubectl, manifests, console)
    return manifests


def prepare(kubectl: Kubectl, manifests: Manifests, console: Console, seconds: float) -> None:
    """Runs the Job that makes streams and consumers to its end, after all but what is rolled out is applied:
    it needs the broker, and what is rolled out needs it."""
    if not manifests.has("CronJob", PREPARE):
        return
    apply(kubectl, Manifests([one for one in manifests.objects if one["kind"] != "Deployment"]))
    kubectl("delete", "job", PREPARE, "--ignore-not-found", "--wait", seconds=120)
    kubectl("create", "-f", "-", input=json.dumps(job(manifests, PREPARE, PREPARE)))
    wait(kubectl, [("Job", PREPARE)], console, seconds)
    said = kubectl("logs", f"job/{PREPARE}", "--tail=1").strip()
    console.print(escape(said))


def apply(kubectl: Kubectl, manifests: Manifests) -> None:
    """What the overlay says wins over what was changed by hand; what it does not say stays."""
    how = ["--server-side", "--force-conflicts"] if kubectl.server() >= SERVER_SIDE else []
    order = ["apply", *how, f"--field-manager={FIELD_MANAGER}", "-f", "-"]
    kubectl(*order, input=manifests.text(), seconds=180)


def load_catalogue(kubectl: Kubectl, manifests: Manifests, console: Console, seconds: float = 180) -> None:
    """Runs the importer's Job to its end; loading again changes nothing."""
    kubectl("delete", "job", IMPORTER, "--ignore-not-found", "--wait", seconds=120)
    kubectl("create", "-f", "-", input=json.dumps(job(manifests, IMPORTER, IMPORTER)))
    wait(kubectl, [("Job", IMPORTER)], console, seconds)
    said = kubectl("logs", f"job/{IMPORTER}", "--tail=1").strip()
    console.print(f"catalogue: {escape(said)}")


def deliver(options: Options, context: str, names: Sequence[str]) -> dict[str, str]:
    """Builds our images, brings them to where the cluster finds them; answers name -> image with its tag."""
    real: dict[str, str] = {}
    for name in names:
        began = time.monotonic()
        local = images.build(name, options.console)
        built = time.monotonic() - began
        if context.startswith(KIND):
            images.load(local, context.removeprefix(KIND))
        real[name] = images.push(local, options.registry) if options.registry else local
        took = f"built in {built:.1f} s, there in {time.monotonic() - began:.1f} s"
        options.console.print(f"image {real[name]}: {took}")
    return real


def redeploy(options: Options, services: Sequence[str]) -> dict[str, float]:
    """Builds the image, puts it under these workloads only, and waits; answers the seconds of each rollout.

    Raises Problem for what is not there or not ours, NotReady with the reason and the way back.
    """
    context = confirm(options, f"replace {', '.join(services)} in")
    kubectl, console = options.kubectl, options.console
    live = {
        (item["kind"], item["metadata"]["name"]): item for item in kubectl.get("deployments,statefulsets")
    }
    chosen = choose(live, services, options.namespace)
    wanted = sorted({repository for item in chosen.values() for _, repository in own(item)})
    real = deliver(options, context, wanted)
    changed: list[Name] = []
    for (kind, name), item in chosen.items():
        new = {container: real[repository] for container, repository in own(item)}
        old = {one["name"]: one["image"] for one in containers(item)}
        if all(old[container] == image for container, image in new.items()):
            console.print(f"{name} runs {next(iter(new.values()))} already: what goes into it did not change")
            continue
        where = f"{kind.lower()}/{name}"
        kubectl("set", "image", where, *(f"{container}={image}" for container, image in new.items()))
        cause = f"kubernetes.io/change-cause={next(iter(new.values()))}"
        kubectl("annotate", where, "--overwrite", cause)
        changed.append((kind, name))
    if not changed:
        return {}
    try:
        return wait(kubectl, changed, console, options.seconds)
    except NotReady as failure:
        at = f"--context {context} -n {options.namespace}"
        undo = [f"  kubectl {at} rollout undo {kind.lower()}/{name}" for kind, name in changed]
        raise NotReady("\n".join([str(failure), "back to what ran before:", *undo])) from None


def choose(live: Mapping[Name, JSON], services: Sequence[str], namespace: str) -> dict[Name, JSON]:
    """The workloads of these names. Raises Problem for a name that is none, or runs none of our images."""
    found = {}
    for service in services:
        match = [(name, item) for name, item in live.items() if name[1] == service]
        if not match:
            ours = sorted(name for (_, name), item in live.items() if own(item))
            there = f"it has {', '.join(ours)}" if ours else "nothing of ours runs there; `make k8s-up` first"
            raise Problem(f"there is no {service} in namespace {namespace}: {there}")
        name, item = match[0]
        if not own(item):
            image = next(containers(item))["image"]
            raise Problem(
                f"{service} runs {image}, which is not built here: change its version in deploy/k8s"
            )
        found[name] = item
    return found


def own(item: JSON) -> list[tuple[str, str]]:
    """Containers of a running workload that have an image of ours: their name, and the image's."""
    repositories = ((one["name"], images.repository(one["image"])) for one in containers(item))
    return [(name, repository) for name, repository in repositories if images.is_ours(repository)]


def down(options: Options) -> None:
    """Deletes the namespace with all its data, and what the overlay made outside of it."""
    context = confirm(options, "DELETE, with all its data,")
    kubectl = options.kubectl
    options.console.print(f"deleting namespace {options.namespace} of context {context} with all its data")
    outside = Manifests(
        [
            item
            for item in render(kubectl, options.overlay).objects
            if not item["metadata"].get("namespace") and item["kind"] != "Namespace"
        ]
    )
    if outside.objects:
        kubectl("delete", "-f", "-", "--ignore-not-found", input=outside.text(), seconds=120)
    kubectl("delete", "namespace", options.namespace, "--ignore-not-found", seconds=300)


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
