"""Waits for workloads and shows meanwhile what is waited for and what is wrong."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from dev.cluster.kube import Kubectl, Refused
from dev.cluster.status import Name, Trouble, Workload, workloads

PAUSE = 1.0  # seconds between two looks
STUCK = 45.0  # seconds that something hopeless may last: a registry that stumbled is asked again meanwhile
LOG_LINES = 8
KINDS = "deployments,statefulsets,daemonsets,jobs,replicasets,pods"


class NotReady(Exception):
    """Something did not come up; the text says what, why, and what it logged last."""


def look(kubectl: Kubectl, names: Collection[Name]) -> list[Workload]:
    """How far the workloads are now."""
    objects = kubectl.get(KINDS) + kubectl.get("events", "--field-selector", "type=Warning")
    return workloads(objects, names)


def wait(kubectl: Kubectl, names: Sequence[Name], console: Console, seconds: float) -> dict[str, float]:
    """Waits until all are ready; answers how long each took (seconds).

    On a terminal the state is redrawn, elsewhere each change is a line. Raises NotReady when one is late,
    failed, or is stuck.
    """
    began = time.monotonic()
    took: dict[str, float] = {}
    stuck: dict[str, float] = {}
    told: set[Trouble] = set()
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while True:
            seen = look(kubectl, names)
            now = time.monotonic() - began
            for one in seen:
                if one.done and one.name not in took:
                    took[one.name] = now
                    console.print(f"  [green]✓[/] {escape(one.name):<16} {now:5.1f} s")
            left = [one for one in seen if not one.done]
            if not left:
                return took
            troubles = [trouble for one in left for trouble in one.troubles]
            if not console.is_terminal:
                for trouble in troubles:
                    if trouble not in told:
                        console.print(f"  {escape(_line(trouble))}")
                told.update(troubles)
            live.update(Group(*(Text(f"    {line}") for one in left for line in _lines(one))))
            stuck = {one.place: stuck.get(one.place, now) for one in troubles if one.stuck}
            if any(now - since >= STUCK for since in stuck.values()):
                raise NotReady(report(kubectl, left))
            if now >= seconds:
                raise NotReady(f"not ready after {seconds:.0f} s\n{report(kubectl, left)}")
            time.sleep(PAUSE)


def report(kubectl: Kubectl, left: Sequence[Workload]) -> str:
    """What is not ready and why, with the last lines of the containers that the troubles name."""
    lines = []
    for one in left:
        lines.append(str(one))
        for trouble in one.troubles:
            lines.append(f"  {_line(trouble)}")
            lines += [f"    | {line}" for line in last_lines(kubectl, trouble)]
    return "\n".join(lines)


def last_lines(kubectl: Kubectl, trouble: Trouble) -> list[str]:
    """What the container of a trouble logged last; nothing when it has no container, or is gone."""
    if not trouble.log:
        return []
    before = ["--previous"] if trouble.before else []
    try:
        text = kubectl("logs", trouble.place, "-c", trouble.log, f"--tail={LOG_LINES}", *before)
    except Refused:
        return []
    return text.splitlines()


def _lines(one: Workload) -> list[str]:
    return [str(one), *(f"  {_line(trouble)}" for trouble in one.troubles)]


def _line(trouble: Trouble) -> str:
    return f"{trouble.place}: {trouble.what}"
