"""One installation on a cluster for all tests of a session: applied anew, two replicas of every service.

`KUBECONFIG` says where the cluster is, `CONTEXT` that it is meant. `MOTCUA_LAB` is the folder of a lab's
tools, whose `downgrade` rewrites manifests for its old Kubernetes; a current cluster needs none.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dev.cluster import rollout
from dev.options import Problem
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
    """The cluster with everything applied and ready; as it is with CLUSTER_AS_IT_IS=yes.

    Skips without a cluster that is meant: kind's, or one named by CONTEXT.
    """
    tools = os.environ.get("MOTCUA_LAB")
    options = rollout.Options(
        overlay=OVERLAY,
        context=os.environ.get("CONTEXT", ""),
        filter=f"{tools}/downgrade" if tools else "",
        standin=True,
        confirmed=os.environ.get("CONFIRM") == "yes",
    )
    try:
        rollout.confirm(options, "install into, and disturb,")
        options.kubectl("version", seconds=20)
    except Problem as problem:
        pytest.skip(f"no cluster: {problem}")
    if os.environ.get("CLUSTER_AS_IT_IS") == "yes":
        figures.append("the cluster was taken as it was")
    else:
        began = time.monotonic()
        rollout.up(options)
        figures.append(f"images built, all applied and ready: {time.monotonic() - began:.0f} s")
    made = Lab(options.kubectl)
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
