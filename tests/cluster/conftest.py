"""One installation on a cluster for all tests of a session: applied anew, two replicas of every service.

`KUBECONFIG` says which cluster. `MOTCUA_LAB` is the folder of a lab's tools, whose `downgrade` rewrites
manifests for its old Kubernetes; a current cluster needs none.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dev.cluster.kube import Kubectl
from dev.options import ROOT, Problem
from tests.cluster.lab import OURS, Lab
from tests.cluster.load import Figures
from tests.whole_town import Town, town_at, undisturbed_filing

OVERLAY = Path(__file__).parent / "k8s"
_lines: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What uses the lab needs a cluster; an image needs an engine only."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "lab" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured, in one place."""
    if _lines:
        terminalreporter.section("what was measured on the cluster")
        for line in _lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def figures() -> list[str]:
    """Lines for the summary at the end of the run."""
    return _lines


@pytest.fixture
def tell(figures: list[str]) -> Any:
    """Prints a line now, and again in the summary."""

    def line(what: Figures | str) -> None:
        print(what)
        figures.append(str(what))

    return line


@pytest.fixture(scope="session")
async def lab(figures: list[str]) -> Lab:
    """The cluster with everything applied and ready."""
    kubectl = Kubectl()
    try:
        kubectl("version", seconds=20)
    except Problem as problem:
        pytest.skip(f"no cluster: {problem}")
    began = time.monotonic()
    if os.environ.get("CLUSTER_AS_IT_IS"):
        figures.append("the cluster was taken as it was (CLUSTER_AS_IT_IS)")
    else:
        tools = os.environ.get("MOTCUA_LAB")
        rewritten = ["--filter", f"{tools}/downgrade"] if tools else []
        command = [
            "dev.cluster",
            "up",
            "--standin",
            "--confirm",
            "yes",
            "--overlay",
            str(OVERLAY),
            *rewritten,
        ]
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT)
        if done.returncode:
            pytest.exit(f"{' '.join(command)} ended with {done.returncode}", returncode=1)
        figures.append(f"images built, all applied and ready: {time.monotonic() - began:.0f} s")
    made = Lab(kubectl)
    for workload in OURS:
        await made.whole_again(workload)
    return made


@pytest.fixture(scope="session")
async def expected(lab: Lab) -> dict[str, Any]:
    """What one filing leaves behind when nothing happens."""
    async with town_at(await lab.addresses()) as town:
        return await undisturbed_filing(town)


@pytest.fixture
async def town(lab: Lab, expected: dict[str, Any]) -> AsyncIterator[Town]:
    """Officials at their desks, and a tally of its own for what this test's people go through."""
    async with town_at(await lab.addresses()) as town:
        yield town
