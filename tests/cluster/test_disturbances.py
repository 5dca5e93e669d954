"""What operators and machines do to a running installation, while citizens file: nothing may be lost or
happen twice, and nobody may have to wait longer than half a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from dev.cluster import images
from dev.cluster.kube import Refused
from dev.cluster.rollout import KIND
from tests.cluster.lab import OURS, STANDINS, Lab, Pod, docker, eventually, has_engine, in_a_thread
from tests.cluster.load import BOUND, Figures, Load
from tests.whole_town import Town, jetstream_of

JSON = dict[str, Any]
Tell = Callable[[Figures | str], None]
# Between the moment a mail server takes a mail and the moment that notify has written this down, either's
# death leaves only one safe thing to do: send the same mail, with the same Message-ID, again.
MAIL_IN_HAND = ("notify", "mail", "mongo")


def nobody_saw_a_failure(figures: Figures) -> None:
    """At most one idempotent retry of a request was needed."""
    assert figures.tally.more_tries == 0, str(figures)


def it_went_on(figures: Figures) -> None:
    """No request, however often it had to be sent, and no effect took longer than the bound."""
    assert figures.tally.longest <= BOUND, str(figures)
    assert figures.tally.longest_effect <= BOUND, str(figures)
    assert figures.silence <= BOUND, str(figures)


@pytest.mark.parametrize("deployment", OURS)
async def test_a_rolling_restart_under_load_is_seen_by_nobody(
    deployment: str, lab: Lab, town: Town, expected: JSON, tell: Tell
) -> None:
    async with Load(town) as load:
        await load.goes_on()
        began = time.monotonic()
        await lab.do("rollout", "restart", f"deployment/{deployment}")
        await lab.rolled_out(deployment)
        took = time.monotonic() - began
        await load.goes_on(3)
    figures = load.figures(f"rolling restart of {deployment}", f"took {took:.0f} s")
    tell(figures)
    nobody_saw_a_failure(figures)
    await load.nothing_lost_and_nothing_twice(expected, mail_twice=deployment in MAIL_IN_HAND)


async def test_restarting_all_deployments_at_once_under_load_is_seen_by_nobody(
    lab: Lab, town: Town, expected: JSON, tell: Tell
) -> None:
    async with Load(town) as load:
        await load.goes_on()
        began = time.monotonic()
        await lab.do("rollout", "restart", *(f"deployment/{name}" for name in OURS))
        await asyncio.gather(*(lab.rolled_out(name) for name in OURS))
        took = time.monotonic() - began
        await load.goes_on(3)
    figures = load.figures("rolling restart of all at once", f"took {took:.0f} s")
    tell(figures)
    nobody_saw_a_failure(figures)
    await load.nothing_lost_and_nothing_twice(expected, mail_twice=True)


async def test_a_rolling_restart_of_nats_under_load_is_seen_by_nobody(
    lab: Lab, town: Town, expected: JSON, tell: Tell
) -> None:
    async with Load(town) as load:
        await load.goes_on()
        began = time.monotonic()
        await lab.do("rollout", "restart", "statefulset/nats")
        await lab.do("rollout", "status", "statefulset/nats", "--timeout=300s")
        took = time.monotonic() - began
        await load.goes_on(3)
    figures = load.figures("rolling restart of nats", f"took {took:.0f} s")
    tell(figures)
    nobody_saw_a_failure(figures)
    await load.nothing_lost_and_nothing_twice(expected)


def deleted(pod: Pod, lab: Lab) -> Any:
    return lab.delete(pod)


def deleted_by_force(pod: Pod, lab: Lab) -> Any:
    return lab.delete(pod, force=True)


def killed(pod: Pod, _lab: Lab) -> Any:
    return in_a_thread(docker, "kill", pod.container)


async def survive(
    what: str,
    victim: Pod,
    workload: str,
    how: Callable[[Pod, Lab], Any],
    lab: Lab,
    town: Town,
    expected: JSON,
    tell: Tell,
) -> None:
    """Citizens file while one pod is lost; they go on meanwhile or soon, until the pod is replaced."""
    pods = len(await lab.serving(workload))
    async with Load(town) as load:
        await load.goes_on()
        began = time.monotonic()
        await how(victim, lab)
        if how is killed:
            await another_container(lab, workload, victim)
        await lab.whole_again(workload, None if how is killed else victim, pods=pods)
        took = time.monotonic() - began
        await load.goes_on(3)
    figures = load.figures(what, f"replaced after {took:.0f} s")
    tell(figures)
    it_went_on(figures)
    await load.nothing_lost_and_nothing_twice(expected, mail_twice=workload in MAIL_IN_HAND)


async def another_container(lab: Lab, workload: str, victim: Pod) -> None:
    """Returns when the pod runs another container than it did."""

    async def there() -> bool:
        return any(
            pod.uid == victim.uid and pod.container != victim.container for pod in await lab.pods(workload)
        )

    await eventually(there, f"another container in {victim.name}")


@pytest.mark.parametrize("how", [deleted, deleted_by_force], ids=lambda how: how.__name__)
@pytest.mark.parametrize("workload", [*OURS, *STANDINS, "mongo", "objects"])
async def test_losing_a_pod_under_load_loses_nothing_and_repeats_nothing(
    workload: str, how: Callable[[Pod, Lab], Any], lab: Lab, town: Town, expected: JSON, tell: Tell
) -> None:
    victim = (await lab.serving(workload))[0]
    what = f"one pod of {workload} {how.__name__.replace('_', ' ')}"
    await survive(what, victim, workload, how, lab, town, expected, tell)


@pytest.mark.skipif(not has_engine(), reason="no Docker engine here to kill a container with")
@pytest.mark.parametrize("workload", ["dossier", "payment", "nats", "mongo", "objects"])
async def test_a_crash_in_a_pod_under_load_loses_nothing_and_repeats_nothing(
    workload: str, lab: Lab, town: Town, expected: JSON, tell: Tell
) -> None:
    victim = (await lab.serving(workload))[0]
    what = f"the container of one pod of {workload} killed"
    await survive(what, victim, workload, killed, lab, town, expected, tell)


@pytest.mark.parametrize("how", [deleted, deleted_by_force], ids=lambda how: how.__name__)
@pytest.mark.parametrize("role", ["leader of the stream dossier", "leader of JetStream", "a follower"])
async def test_losing_a_node_of_nats_under_load_loses_nothing_and_repeats_nothing(
    role: str, how: Callable[[Pod, Lab], Any], lab: Lab, town: Town, expected: JSON, tell: Tell
) -> None:
    nodes = {pod.name: pod for pod in await lab.serving("nats")}
    assert len(nodes) == 3
    async with jetstream_of(town) as jetstream:
        cluster = (await jetstream.stream_info("dossier")).cluster
        assert cluster is not None
        stream = str(cluster.leader)
    async with httpx.AsyncClient(timeout=10) as client:
        state = (await client.get(f"http://{nodes['nats-0'].ip}:8222/jsz")).json()
    meta = str(state["meta_cluster"]["leader"])
    victim = {
        "leader of the stream dossier": stream,
        "leader of JetStream": meta,
        "a follower": min({*nodes} - {stream, meta}),
    }[role]
    what = f"{role} ({victim}) {how.__name__.replace('_', ' ')}"
    await survive(what, nodes[victim], "nats", how, lab, town, expected, tell)


BROKEN = """
FROM {image}
ENTRYPOINT ["python", "-c", "raise SystemExit('broken on purpose')"]
"""


@dataclass(frozen=True)
class BadImage:
    """An image that cannot serve, and what Kubernetes says of a pod that has it."""

    about: str
    name: str
    complaint: str


@pytest.fixture(params=["that does not exist", "that crashes at start"])
async def bad_image(request: pytest.FixtureRequest, lab: Lab) -> BadImage:
    good = (await lab.serving("dossier"))[0].whole["spec"]["containers"][0]["image"]
    if request.param == "that does not exist":
        return BadImage(request.param, f"{good}-never-built", "Image")
    if not has_engine():
        pytest.skip("no Docker engine here to build a bad image with")
    bad = BadImage(request.param, f"{good}-broken", "CrashLoop")
    await in_a_thread(docker, "build", "--quiet", "--tag", bad.name, "-", input=BROKEN.format(image=good))
    if (context := lab.kubectl.current_context()).startswith(KIND):
        await in_a_thread(images.load, bad.name, context.removeprefix(KIND))
    return bad


async def test_a_bad_image_serves_nobody_and_is_rolled_back(
    bad_image: BadImage, lab: Lab, town: Town, expected: JSON, tell: Tell
) -> None:
    old = {pod.uid for pod in await lab.serving("dossier")}
    async with Load(town) as load:
        await load.goes_on()
        await lab.do("set", "image", "deployment/dossier", f"app={bad_image.name}")

        async def stuck() -> bool:
            return any(bad_image.complaint in pod.waits_for for pod in await lab.pods("dossier"))

        try:
            await eventually(stuck, f"a pod of dossier with {bad_image.complaint} trouble")
            await load.goes_on(3)
            assert {pod.uid for pod in await lab.serving("dossier")} == old
        finally:
            began = time.monotonic()
            await lab.do("rollout", "undo", "deployment/dossier")  # as docs/operations.md says
        await lab.rolled_out("dossier")
        took = time.monotonic() - began
        await load.goes_on(3)
    assert {pod.uid for pod in await lab.serving("dossier")} == old
    figures = load.figures(f"dossier with an image {bad_image.about}", f"rolled back in {took:.0f} s")
    tell(figures)
    nobody_saw_a_failure(figures)
    await load.nothing_lost_and_nothing_twice(expected)


async def evict(lab: Lab, pod: Pod) -> None:
    """What `kubectl drain` does to a pod. Raises Refused when a disruption budget forbids it."""
    version = "v1" if "policy/v1\n" in await lab.do("api-versions") else "v1beta1"
    eviction = (
        f'{{"apiVersion": "policy/{version}", "kind": "Eviction", '
        f'"metadata": {{"name": "{pod.name}", "namespace": "{lab.kubectl.namespace}"}}}}'
    )
    where = f"/api/v1/namespaces/{lab.kubectl.namespace}/pods/{pod.name}/eviction"
    await lab.do("create", "--raw", where, "-f", "-", input=eviction)


@pytest.mark.parametrize("workload", [*OURS, "nats"])
async def test_a_drain_takes_one_pod_and_is_refused_the_next(workload: str, lab: Lab, tell: Tell) -> None:
    pods = await lab.serving(workload)
    assert len(pods) == (3 if workload == "nats" else 2)
    await evict(lab, pods[0])
    with pytest.raises(Refused, match="disruption budget"):
        await evict(lab, pods[1])
    tell(f"eviction: {workload} gave one of {len(pods)} pods, the next was refused (429)")
    await lab.whole_again(workload, pods[0], pods=len(pods))


async def test_replicas_that_are_added_under_load_get_calls(
    lab: Lab, town: Town, expected: JSON, tell: Tell
) -> None:
    async def least(replicas: int) -> None:  # else the autoscaler would put a second one back
        patch = f'{{"spec": {{"minReplicas": {replicas}}}}}'
        await lab.do("patch", "hpa", "dossier", "--type=merge", "--patch", patch)

    await least(1)
    try:
        await lab.do("scale", "deployment/dossier", "--replicas=1")

        async def alone() -> bool:
            return len(await lab.pods("dossier")) == 1

        await eventually(alone, "one pod of dossier")
        async with Load(town) as load:
            await load.goes_on()
            began = time.monotonic()
            await lab.do("scale", "deployment/dossier", "--replicas=3")
            await lab.whole_again("dossier", pods=3)
            ready = time.monotonic() - began

            async def shared() -> bool:
                return all([await lab.calls(pod) for pod in await lab.serving("dossier")])

            await eventually(shared, "calls for each of three pods")
            all_called = time.monotonic() - began
            before = [await lab.calls(pod) for pod in await lab.serving("dossier")]
            await load.goes_on(6)
            after = [await lab.calls(pod) for pod in await lab.serving("dossier")]
        counts = [later - earlier for earlier, later in zip(before, after, strict=True)]
        assert len(counts) == 3
        assert all(counts)
    finally:
        await least(2)
        await lab.do("scale", "deployment/dossier", "--replicas=2")
    more = f"three ready after {ready:.0f} s, all called after {all_called:.0f} s; then calls {counts}"
    figures = load.figures("dossier scaled from 1 to 3", more)
    tell(figures)
    nobody_saw_a_failure(figures)
    await load.nothing_lost_and_nothing_twice(expected)
