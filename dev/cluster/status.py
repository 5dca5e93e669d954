"""How far a rollout is and what is wrong with it, read from what `kubectl get -o json` answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from dev.cluster.kube import JSON

KINDS = ("Deployment", "StatefulSet", "DaemonSet", "Job")
NO_IMAGE = ("ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "ErrImageInspect")
NO_CONTAINER = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
CRASHES = 5  # after so many starts a container will not come up by itself
PATIENCE = 10  # failures of a startup probe that are nothing yet: it begins before the process does
REVISION = "deployment.kubernetes.io/revision"

Name = tuple[str, str]  # kind and name of a workload


@dataclass(frozen=True)
class Trouble:
    """Something wrong in one place. `stuck` says that waiting is unlikely to mend it.

    `log` is the container whose last lines tell more, `before` whether its last run but one does.
    """

    place: str
    what: str
    stuck: bool = False
    log: str = ""
    before: bool = False


@dataclass(frozen=True)
class Workload:
    """One that is waited for: so many of its pods are ready and new."""

    kind: str
    name: str
    ready: int
    wanted: int
    done: bool
    troubles: tuple[Trouble, ...] = ()

    def __str__(self) -> str:
        if self.kind == "Job":
            return f"{self.name}: {'done' if self.done else 'running'}"
        return f"{self.name}: {self.ready} of {self.wanted} ready"


def workloads(objects: Iterable[JSON], names: Collection[Name]) -> list[Workload]:
    """The named workloads, in that order; one that the cluster does not have yet wants one pod.

    `objects` are the namespace's Deployments, StatefulSets, DaemonSets, Jobs, ReplicaSets, Pods and Events.
    """
    found = list(objects)
    by_name = {(item["kind"], item["metadata"]["name"]): item for item in found}
    return [
        _workload(by_name[name], found) if name in by_name else Workload(*name, ready=0, wanted=1, done=False)
        for name in names
    ]


def _workload(item: JSON, objects: list[JSON]) -> Workload:
    kind, name = item["kind"], item["metadata"]["name"]
    spec, status = item["spec"], item.get("status", {})
    seen = status.get("observedGeneration", 0) >= item["metadata"].get("generation", 0)
    if kind == "Job":
        ended = {c["type"]: c for c in status.get("conditions") or () if c["status"] == "True"}
        ready, wanted, done = status.get("succeeded", 0), 1, "Complete" in ended
    elif kind == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        ready = min(status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0))
        done = seen and ready >= wanted
    else:
        wanted = spec.get("replicas", 1)
        available = status.get("availableReplicas" if kind == "Deployment" else "readyReplicas", 0)
        updated = status.get("updatedReplicas", 0)
        ready = sum(map(_is_ready, _pods(item, objects)))
        done = seen and min(updated, available) >= wanted and status.get("replicas", 0) <= updated
    troubles = () if done else tuple(_troubles(item, objects))
    return Workload(kind, name, ready, wanted, done, troubles)


def _troubles(item: JSON, objects: list[JSON]) -> Iterator[Trouble]:
    """What keeps this workload from being done: its own conditions, then its new pods."""
    for condition in item.get("status", {}).get("conditions") or ():
        kind, true = condition["type"], condition["status"] == "True"
        reason, message = condition.get("reason", ""), condition.get("message", "")
        if (kind == "ReplicaFailure" and true) or (kind == "Progressing" and not true):
            yield Trouble(item["metadata"]["name"], f"{reason}: {message}", stuck=kind == "Progressing")
        if kind == "Failed" and true:
            yield Trouble(item["metadata"]["name"], f"{reason}: {message}", stuck=True)
    pods = list(_pods(item, objects))
    for pod in pods:
        yield from _pod(pod, objects)
    if not pods and (event := _warning(item, objects)):
        yield Trouble(item["metadata"]["name"], event)


def _is_ready(pod: JSON) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _pods(item: JSON, objects: list[JSON]) -> Iterator[JSON]:
    """Its pods that are to stay and are as its template says now."""
    owners = {item["metadata"]["uid"]}
    revision = item.get("status", {}).get("updateRevision")  # of a StatefulSet
    if item["kind"] == "Deployment":
        newest = item["metadata"].get("annotations", {}).get(REVISION)
        owners = {
            one["metadata"]["uid"]
            for one in objects
            if one["kind"] == "ReplicaSet"
            and owners & _owners(one)
            and one["metadata"].get("annotations", {}).get(REVISION) == newest
        }
    for one in objects:
        about = one["metadata"]
        if one["kind"] != "Pod" or not owners & _owners(one) or "deletionTimestamp" in about:
            continue
        if item["kind"] != "StatefulSet" or about["labels"].get("controller-revision-hash") == revision:
            yield one


def _owners(item: JSON) -> set[str]:
    return {owner["uid"] for owner in item["metadata"].get("ownerReferences") or ()}


def _pod(pod: JSON, objects: list[JSON]) -> Iterator[Trouble]:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    if status.get("phase") == "Succeeded":
        return
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Trouble(name, f"no node takes it: {condition.get('message', '')}")
            return
    if status.get("phase") == "Failed" and status.get("reason"):  # evicted, for one
        yield Trouble(name, f"{status['reason']}: {status.get('message', '')}")
    told = False
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if trouble := _container(name, container):
            told = True
            yield trouble
    if not told and (event := _warning(pod, objects)):  # a volume that is not there, a probe that fails
        log = next((c["name"] for c in status.get("containerStatuses") or () if "running" in c["state"]), "")
        yield Trouble(name, event, log=log)


def _container(pod: str, status: JSON) -> Trouble | None:
    """What is wrong with a container by its status alone; None when nothing is, or nothing that it tells."""
    state, name, restarts = status.get("state", {}), status["name"], status.get("restartCount", 0)
    waiting = state.get("waiting", {})
    reason = waiting.get("reason", "")
    if reason in NO_IMAGE:
        return Trouble(pod, f"no image {status['image']}: {waiting.get('message') or reason}", stuck=True)
    if reason in NO_CONTAINER:
        return Trouble(pod, f"{reason}: {waiting.get('message', '')}", stuck=True)
    ended = state.get("terminated") or (status.get("lastState", {}).get("terminated") if waiting else None)
    if ended and ended.get("exitCode") != 0:
        how = f"exit code {ended['exitCode']}"
        if ended.get("reason") not in (None, "Error"):
            how += f", {ended['reason']}"
        times = f", {restarts + 1} starts so far" if restarts else ""
        before = "terminated" not in state
        return Trouble(pod, f"{name} ended: {how}{times}", stuck=restarts >= CRASHES, log=name, before=before)
    return None


def _warning(item: JSON, objects: list[JSON]) -> str:
    """The newest warning about an object, "" when there is none."""
    found = [
        one
        for one in objects
        if one["kind"] == "Event"
        and one.get("type") == "Warning"
        and one.get("involvedObject", {}).get("uid") == item["metadata"]["uid"]
    ]
    found = [one for one in found if "Startup probe" not in one["message"] or one.get("count", 1) >= PATIENCE]
    newest = max(found, key=lambda one: one.get("lastTimestamp") or one.get("eventTime") or "", default=None)
    return f"{newest['reason']}: {newest['message']}" if newest else ""
