"""How far a rollout is and what is wrong with it, from answers of a real API server (in recorded/)."""

import json
from pathlib import Path
from typing import Any

import pytest

from dev.cluster.status import Trouble, Workload, workloads

RECORDED = Path(__file__).parent / "recorded"
WEB = [("Deployment", "web")]


def recorded(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((RECORDED / f"{name}.json").read_text())
    return found


def one(name: str, kind: str, workload: str) -> Workload:
    return workloads(recorded(name), [(kind, workload)])[0]


def only_trouble(name: str) -> Trouble:
    kind = "Job" if name == "failing" else "Deployment"
    (trouble,) = one("troubled", kind, name).troubles
    return trouble


def test_a_deployment_whose_new_pods_are_all_available_is_done() -> None:
    web = one("rolled-out", "Deployment", "web")
    assert (web.done, web.ready, web.wanted, web.troubles) == (True, 2, 2, ())


def test_old_pods_that_still_serve_do_not_count_as_ready() -> None:
    web = one("bad-image", "Deployment", "web")
    assert (web.done, web.ready, web.wanted) == (False, 0, 2)


def test_a_rollback_is_done_when_the_old_template_serves_again() -> None:
    assert one("rolled-back", "Deployment", "web").done


def test_a_change_that_the_controller_has_not_seen_yet_is_not_done() -> None:
    objects = recorded("rolled-out")
    for item in objects:
        if item["kind"] == "Deployment":
            item["metadata"]["generation"] += 1
    assert not workloads(objects, WEB)[0].done


def test_what_the_cluster_does_not_have_yet_is_not_done() -> None:
    assert workloads([], WEB) == [Workload("Deployment", "web", ready=0, wanted=1, done=False)]


def test_an_image_that_cannot_be_pulled_is_told_and_hopeless() -> None:
    trouble = only_trouble("noimage")
    assert trouble.what.startswith("no image motcua-nowhere:1: ")
    assert trouble.stuck


def test_only_the_new_pods_of_a_rollout_are_in_trouble() -> None:
    (trouble,) = one("bad-image", "Deployment", "web").troubles
    assert trouble.what.startswith("no image motcua:nowhere: ")


def test_a_pod_that_no_node_takes_has_the_words_of_the_scheduler() -> None:
    assert only_trouble("pending").what == "no node takes it: 0/1 nodes are available: 1 Insufficient cpu."


def test_a_container_that_ends_again_and_again_has_its_exit_code_and_where_its_last_lines_are() -> None:
    trouble = only_trouble("crash")
    assert trouble.what == "app ended: exit code 2, 3 starts so far"
    assert (trouble.log, trouble.before, trouble.stuck) == ("app", True, False)


def test_one_that_ended_too_often_is_hopeless() -> None:
    objects = recorded("troubled")
    for item in objects:
        for status in item.get("status", {}).get("containerStatuses", ()):
            status["restartCount"] = 9
    (crash,) = workloads(objects, [("Deployment", "crash")])
    assert crash.troubles[0].stuck


def test_a_missing_secret_is_named() -> None:
    trouble = only_trouble("nosecret")
    assert trouble.what == 'CreateContainerConfigError: secret "nope" not found'
    assert trouble.stuck


def test_a_volume_that_cannot_be_mounted_is_known_from_its_events() -> None:
    assert 'FailedMount: MountVolume.SetUp failed for volume "x"' in only_trouble("novolume").what


def test_a_pod_that_does_not_get_ready_has_what_its_probe_says_and_its_log() -> None:
    trouble = only_trouble("unready")
    assert trouble.what == "Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 404"
    assert (trouble.log, trouble.before) == ("app", False)


def test_first_failures_of_a_startup_probe_are_no_trouble_yet() -> None:
    objects = recorded("troubled")
    for item in objects:
        if item["kind"] == "Event":
            item.update(message="Startup probe failed: connection refused", count=3)
    (unready,) = workloads(objects, [("Deployment", "unready")])
    assert unready.troubles == ()
    for item in objects:
        if item["kind"] == "Event":
            item.update(count=30)
    (unready,) = workloads(objects, [("Deployment", "unready")])
    assert unready.troubles


def test_a_failed_job_says_why_and_which_pod_tells_more() -> None:
    job = one("troubled", "Job", "failing")
    assert not job.done
    assert job.troubles[0].what.startswith("BackoffLimitExceeded: ")
    assert job.troubles[0].stuck
    assert job.troubles[1].what == "app ended: exit code 1"


def test_a_job_that_succeeded_is_done() -> None:
    objects = recorded("troubled")
    for item in objects:
        if item["kind"] == "Job":
            item["status"] = {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}
    assert workloads(objects, [("Job", "failing")])[0].done


def test_a_stateful_set_is_done_when_every_member_is_new_and_ready() -> None:
    assert one("statefulset", "StatefulSet", "nats").done


@pytest.mark.parametrize(("updated", "ready"), [(1, 3), (3, 2)])
def test_a_stateful_set_on_its_way_is_not_done(updated: int, ready: int) -> None:
    objects = recorded("statefulset")
    for item in objects:
        if item["kind"] == "StatefulSet":
            item["status"].update(updatedReplicas=updated, readyReplicas=ready)
    assert not workloads(objects, [("StatefulSet", "nats")])[0].done


def test_members_before_their_update_do_not_count_as_ready() -> None:
    objects = recorded("statefulset")
    for item in objects:
        if item["kind"] == "StatefulSet":
            item["status"].update(updateRevision="nats-next", updatedReplicas=0)
    assert workloads(objects, [("StatefulSet", "nats")])[0].ready == 0
