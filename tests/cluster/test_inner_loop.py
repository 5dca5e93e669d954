"""The developer's commands on a real cluster, with the two parts that need no others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import cache

import pytest
from rich.console import Console

from dev.cluster import images, rollout, waiting
from dev.cluster.forward import MAIL, SANDBOX, forward
from dev.cluster.rollout import Options
from dev.cluster.waiting import NotReady
from dev.options import ROOT, Problem, is_free
from dev.person import Person

pytestmark = pytest.mark.cluster
PARTS = ("sandbox", "mail")
OVERLAY = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: {namespace}
resources: [{resources}]
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Options]:
    """The two parts installed by `up`; taken away by `down`."""
    folder = tmp_path_factory.mktemp("overlay")
    namespace = "motcua-inner-loop"
    bases = (os.path.relpath(ROOT / "deploy/k8s/base" / part, folder) for part in PARTS)
    (folder / "kustomization.yaml").write_text(
        OVERLAY.format(namespace=namespace, resources=", ".join(bases))
    )
    tools = os.environ.get("MOTCUA_LAB")
    made = Options(
        overlay=folder,
        namespace=namespace,
        context=os.environ.get("CONTEXT", ""),
        filter=f"{tools}/downgrade" if tools else "",
        confirmed=os.environ.get("CONFIRM") == "yes",
        seconds=180,
        console=Console(force_terminal=False, width=200),
    )
    try:
        rollout.confirm(made, "install into")
        made.kubectl("version", seconds=20)
    except Problem as problem:
        pytest.skip(f"no cluster: {problem}")
    if not shutil.which("docker"):
        pytest.skip("no engine to build images with")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(images, "build", cache(images.build))  # once, whatever somebody edits meanwhile
    rollout.up(made)
    yield made
    monkeypatch.undo()
    rollout.down(made)
    assert made.kubectl.find("namespace", namespace) is None


def pods(options: Options) -> dict[str, int]:
    """The pods that are to stay, with the starts of their container."""
    return {
        item["metadata"]["name"]: item["status"]["containerStatuses"][0]["restartCount"]
        for item in options.kubectl.get("pods")
        if "deletionTimestamp" not in item["metadata"]
    }


def test_up_again_without_a_change_restarts_nothing(options: Options) -> None:
    before = pods(options)
    rollout.up(options)
    assert pods(options) == before
    assert len(before) == len(PARTS)


async def test_an_address_is_open_again_after_its_pod_went(options: Options) -> None:
    async with Person("Ai đó", "", patience=60) as somebody:
        with forward(options.kubectl, (SANDBOX, MAIL)) as where:
            assert (await somebody.get(f"{where.sandbox}/healthz")).status_code == 200
            assert (await somebody.get(f"{where.mail}/mails")).status_code == 200
            options.kubectl("delete", "pod", "-l", "app.kubernetes.io/name=mail", seconds=120)
            waiting.wait(options.kubectl, [("Deployment", "mail")], options.console, 120)
            assert (await somebody.get(f"{where.mail}/mails")).status_code == 200
    assert is_free(MAIL.local)


def test_what_did_not_change_is_not_replaced(options: Options) -> None:
    before = pods(options)
    assert rollout.redeploy(options, ["sandbox"]) == {}
    assert pods(options) == before


def test_a_bad_image_is_told_with_the_way_back_and_the_way_back_works(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "build", lambda name, console: f"{name}:nowhere")
    monkeypatch.setattr(waiting, "STUCK", 1.0)
    with pytest.raises(NotReady) as failed:
        rollout.redeploy(options, ["sandbox"])
    told = str(failed.value)
    assert "no image motcua:nowhere" in told
    undo = next(line.split() for line in told.splitlines() if "rollout undo" in line)
    options.kubectl(*undo[undo.index("rollout") :])
    assert "sandbox" in waiting.wait(options.kubectl, [("Deployment", "sandbox")], options.console, 120)


def test_the_image_that_a_workload_got_is_in_its_history(options: Options) -> None:
    (deployment,) = (
        item for item in options.kubectl.get("deployments") if item["metadata"]["name"] == "sandbox"
    )
    ((container, name),) = rollout.own(deployment)
    assert (container, name) == ("app", "motcua")
    assert "motcua:nowhere" in options.kubectl("rollout", "history", "deployment/sandbox")


def test_nobody_listens_on_a_port_twice(options: Options) -> None:
    with (
        forward(options.kubectl, (MAIL,)),
        pytest.raises(Problem, match="port 8025 is busy"),
        forward(options.kubectl, (MAIL,)),
    ):
        pass


def test_a_door_that_leads_nowhere_is_told(options: Options) -> None:
    with pytest.raises(Problem, match="has no service gateway"), forward(options.kubectl):
        pass
