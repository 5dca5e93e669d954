"""The demo's journey on two replicas of everything, and what that takes."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest

from dev.journey import play
from tests.cluster.lab import NAME, OURS, Lab, docker, has_engine, in_a_thread

MEBI = 2**20
UNITS = {"B": 1, "KiB": 2**10, "MiB": MEBI, "GiB": 2**30}


async def test_the_demo_journey_passes_on_two_replicas_of_every_service(
    lab: Lab, tell: Callable[[str], None]
) -> None:
    for service in OURS:
        assert len(await lab.serving(service)) >= 2, service
    diary = await play(await lab.addresses(), lambda step: None)
    tell(f"demo journey: {len(diary.steps)} steps in {sum(step.seconds for step in diary.steps):.1f} s")


async def test_every_pod_is_ready(lab: Lab, tell: Callable[[str], None]) -> None:
    started = defaultdict(list)
    for pod in await lab.pods():
        owner = pod.whole["metadata"]["labels"].get(NAME, "")
        if pod.whole["status"]["phase"] != "Succeeded" and not pod.leaving:
            assert pod.ready, pod
            started[owner].append(pod.seconds_to_ready)
    for owner, seconds in sorted(started.items()):
        tell(f"start of {owner:<10} {len(seconds)} pods, ready after {min(seconds):.0f}-{max(seconds):.0f} s")


@pytest.mark.skipif(not has_engine(), reason="no Docker engine here: sizes and memory are its to tell")
async def test_the_engine_tells_the_size_of_images_and_the_memory_of_pods(
    lab: Lab, tell: Callable[[str], None]
) -> None:
    pods = {id: pod for pod in await lab.pods() for id in pod.containers.values() if id}
    images = {one["image"] for pod in pods.values() for one in pod.whole["spec"]["containers"]}
    for image in sorted(images):
        size = await in_a_thread(docker, "image", "inspect", image, "--format", "{{.Size}}")
        tell(f"image {image:<32} {int(size) / 1e6:6.0f} MB")
    stats = await asyncio.to_thread(
        docker, "stats", "--no-stream", "--no-trunc", "--format", "{{.ID}} {{.MemUsage}}"
    )
    memory: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in stats.splitlines():
        id, used, *_ = line.split()
        if pod := pods.get(id):
            number = used.rstrip("BKMGi")
            mebi = round(float(number) * UNITS[used[len(number) :]] / MEBI)
            memory[pod.whole["metadata"]["labels"].get(NAME, "?")][pod.name] += mebi
    assert set(OURS) <= set(memory)
    for owner, sizes in sorted(memory.items()):
        least, most = min(sizes.values()), max(sizes.values())
        tell(f"memory of {owner:<10} {len(sizes)} pods, {least:4}-{most:4} MiB each")
