"""The installation on a cluster as the tests see it: its pods, where to reach it, and what can befall it."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

from dev.cluster.kube import JSON, Kubectl
from dev.parts import Addresses

OURS = ("identity", "catalog", "dossier", "payment", "notify", "gateway")
STANDINS = ("sandbox", "mail")  # for the world outside; one replica each
STORES = ("mongo", "nats", "objects")
READY_SECONDS = 300.0
NAME = "app.kubernetes.io/name"
THREADS = ThreadPoolExecutor(32)
T = TypeVar("T")


@dataclass(frozen=True)
class Pod:
    """One pod as the API server told it."""

    name: str
    uid: str
    ip: str
    ready: bool
    leaving: bool
    whole: JSON = field(repr=False, compare=False)

    @property
    def containers(self) -> dict[str, str]:
        """The engine's id of each of its containers by name; empty while there are none."""
        statuses = self.whole["status"].get("containerStatuses") or []
        return {one["name"]: str(one.get("containerID", "")).rpartition("//")[2] for one in statuses}

    @property
    def container(self) -> str:
        """The engine's id of its first container, the one that matters; empty while there is none."""
        return self.containers.get(self.whole["spec"]["containers"][0]["name"], "")

    @property
    def waits_for(self) -> str:
        """Why its container does not run, such as ErrImagePull or CrashLoopBackOff; empty when it does."""
        statuses = self.whole["status"].get("containerStatuses") or [{}]
        return str(statuses[0].get("state", {}).get("waiting", {}).get("reason", ""))

    @property
    def seconds_to_ready(self) -> float:
        """From the start of its container to readiness (the API server knows whole seconds)."""
        began = self.whole["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
        became = next(
            c["lastTransitionTime"] for c in self.whole["status"]["conditions"] if c["type"] == "Ready"
        )
        return (datetime.fromisoformat(became) - datetime.fromisoformat(began)).total_seconds()


@dataclass(frozen=True)
class Lab:
    """One namespace of one cluster whose pod and service addresses can be reached from here."""

    kubectl: Kubectl

    async def do(self, *arguments: str, input: str | None = None, seconds: float = READY_SECONDS) -> str:
        """kubectl, beside the loop. Raises Refused."""
        return await in_a_thread(self.kubectl, *arguments, input=input, seconds=seconds)

    async def pods(self, workload: str = "") -> list[Pod]:
        """The pods of a workload, or all; those that are on their way out too."""
        chosen = ("-l", f"{NAME}={workload}") if workload else ()
        return [_pod(whole) for whole in await in_a_thread(self.kubectl.get, "pods", *chosen)]

    async def serving(self, workload: str) -> list[Pod]:
        """Those that are ready and stay, oldest name first."""
        pods = [pod for pod in await self.pods(workload) if pod.ready and not pod.leaving]
        return sorted(pods, key=lambda pod: pod.name)

    async def object(self, kind: str, name: str) -> JSON:
        """One object. Raises Refused when there is none."""
        return dict(json.loads(await self.do("get", kind, name, "-o", "json")))

    async def secret(self, name: str) -> dict[str, str]:
        """The values of a Secret."""
        data = (await self.object("secret", name))["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    async def address(self, service: str) -> str:
        """host:port of a service's first port, which spreads over its pods."""
        spec = (await self.object("service", service))["spec"]
        return f"{spec['clusterIP']}:{spec['ports'][0]['port']}"

    async def addresses(self) -> Addresses:
        """Where everything is, for people and for a look behind."""
        admin = (await self.secret("nats-auth"))["admin-password"]
        return Addresses(
            gateway=f"http://{await self.address('gateway')}",
            sandbox=f"http://{await self.address('sandbox')}",
            mail=f"http://{await self.address('mail-front')}",
            smtp="",
            nats=f"nats://admin:{admin}@{await self.address('nats-front')}",
            mongodb=f"mongodb://{await self.address('mongo-front')}/?directConnection=true",
            store="nx-27017",
            data="",
            services={},
            metrics={},
        )

    async def delete(self, pod: Pod, *, force: bool = False) -> None:
        """Deletes a pod, waiting for nothing; by force it has no time to say goodbye."""
        how = ("--grace-period=0", "--force") if force else ()
        await self.do("delete", "pod", pod.name, "--wait=false", *how)

    async def whole_again(self, workload: str, without: Pod | None = None, *, pods: int = 2) -> None:
        """Returns when so many pods of the workload serve, and none of them is the one given."""

        async def there() -> bool:
            serving = [pod for pod in await self.serving(workload) if not without or pod.uid != without.uid]
            return len(serving) >= pods

        await eventually(there, f"{workload}: {pods} pods that serve")

    async def rolled_out(self, deployment: str) -> None:
        """Returns when the Deployment is as its latest template says, and nothing older runs."""
        await self.do("rollout", "status", f"deployment/{deployment}", f"--timeout={READY_SECONDS:.0f}s")

        async def gone() -> bool:
            return not any(pod.leaving for pod in await self.pods(deployment))

        await eventually(gone, f"{deployment}: the end of the old pods")

    async def calls(self, pod: Pod) -> int:
        """Calls of our own API that this pod has answered, by its metrics."""
        return int(sum(await self.metric(pod, "rpc_server_seconds_count", "method", "motcua.")))

    async def metric(self, pod: Pod, name: str, label: str = "", holds: str = "") -> list[float]:
        """The values of one metric of a pod, of those whose label has this text."""
        async with httpx.AsyncClient(timeout=10) as client:
            text = (await client.get(f"http://{pod.ip}:9100/metrics")).text
        return [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and holds in sample.labels.get(label, "")
        ]


def _pod(whole: JSON) -> Pod:
    conditions = {c["type"]: c["status"] for c in whole["status"].get("conditions") or ()}
    return Pod(
        name=whole["metadata"]["name"],
        uid=whole["metadata"]["uid"],
        ip=whole["status"].get("podIP", ""),
        ready=conditions.get("Ready") == "True",
        leaving="deletionTimestamp" in whole["metadata"],
        whole=whole,
    )


async def in_a_thread(work: Callable[..., T], *arguments: Any, **more: Any) -> T:
    """Runs it beside the loop, in threads of our own: who waits for the cluster keeps no citizen waiting."""
    return await asyncio.get_running_loop().run_in_executor(THREADS, partial(work, *arguments, **more))


def docker(*arguments: str, input: str | None = None) -> str:
    """What docker prints. Raises CalledProcessError."""
    done = subprocess.run(
        ["docker", *arguments],  # noqa: S607 - where it is differs
        input=input,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    return done.stdout


def has_engine() -> bool:
    """Whether a Docker engine answers here."""
    if shutil.which("docker") is None:
        return False
    try:
        docker("version", "--format", "{{.Server.Version}}")
    except (subprocess.SubprocessError, OSError):
        return False
    return True


async def eventually(
    condition: Callable[[], Any], what: str, seconds: float = READY_SECONDS, every: float = 0.5
) -> None:
    """Returns when the condition holds. Fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        await asyncio.sleep(every)
