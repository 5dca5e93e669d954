"""Images and manifests on their way to a cluster: tags, names, and what is refused beforehand."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dev import demo
from dev.cluster import images, kind, programs, tag
from dev.cluster.__main__ import main
from dev.cluster.kube import Kubectl, Refused
from dev.cluster.manifests import filtered, job, parse
from dev.cluster.rollout import Options, choose, confirm
from dev.options import Problem

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: {context}
contexts:
  - name: {context}
    context: {{cluster: here, user: me}}
clusters:
  - name: here
    cluster: {{server: "https://127.0.0.1:1"}}
users:
  - {{name: me, user: {{token: none}}}}
"""
PEOPLE = """
apiVersion: v1
kind: Namespace
metadata: {name: motcua}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: dossier, namespace: motcua}
spec:
  template:
    spec:
      containers:
        - {name: app, image: "motcua:dev"}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: mongo, namespace: motcua}
spec:
  template:
    spec:
      initContainers:
        - {name: setup, image: "motcua-lab-store:dev"}
      containers:
        - {name: mongo, image: "docker.io/library/mongo:8.0"}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: importer, namespace: motcua, labels: {app.kubernetes.io/name: importer}}
spec:
  suspend: true
  jobTemplate:
    spec:
      template:
        spec:
          containers:
            - {name: app, image: "motcua:dev", args: [catalog.load]}
"""


def git(folder: Path, *arguments: str) -> None:
    names = ("-c", "user.name=a", "-c", "user.email=a@example.vn")
    command = ["git", "-C", str(folder), *names, *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose image is made of Dockerfile, .dockerignore and services."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / ".dockerignore").write_text("# what enters\n*\n!services\n**/__pycache__\n")
    (tmp_path / "services" / "dossier").mkdir(parents=True)
    (tmp_path / "services" / "dossier" / "domain.py").write_text("a = 1\n")
    (tmp_path / "README.md").write_text("read me\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_the_tag_is_the_commit_that_last_touched_what_is_in_the_image(checkout: Path) -> None:
    first = tag.of_image(checkout)
    (checkout / "README.md").write_text("read me again\n")
    assert tag.of_image(checkout) == first
    git(checkout, "commit", "-qam", "second")
    assert tag.of_image(checkout) == first
    (checkout / "services" / "dossier" / "domain.py").write_text("a = 2\n")
    git(checkout, "commit", "-qam", "third")
    assert tag.of_image(checkout) not in ("", first)


def test_what_is_not_committed_changes_the_tag_and_going_back_brings_it_back(checkout: Path) -> None:
    path = checkout / "services" / "dossier" / "domain.py"
    clean = tag.of_image(checkout)
    path.write_text("a = 2\n")
    once = tag.of_image(checkout)
    assert once.startswith(f"{clean}-")
    assert tag.of_image(checkout) == once
    path.write_text("a = 3\n")
    assert tag.of_image(checkout) not in (clean, once)
    path.write_text("a = 1\n")
    assert tag.of_image(checkout) == clean
    (path.parent / "new.py").write_text("")
    assert tag.of_image(checkout) != clean


def test_a_tag_needs_no_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    first = tag.of_image(checkout)
    (checkout / "services" / "dossier" / "domain.py").write_text("a = 2\n")
    assert "" not in (first, tag.of_image(checkout))
    assert tag.of_image(checkout) != first


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("motcua:dev", "motcua"),
        ("registry.example.vn:5000/province/motcua:1-a", "motcua"),
        ("motcua-tools@sha256:00", "motcua-tools"),
        ("docker.io/library/mongo:8.0", "mongo"),
        ("mongo", "mongo"),
    ],
)
def test_the_name_of_an_image_is_known_wherever_it_came_from(image: str, name: str) -> None:
    assert images.repository(image) == name
    assert images.is_ours(name) is name.startswith("motcua")


def test_our_images_get_their_tags_and_the_others_stay() -> None:
    manifests = parse(PEOPLE)
    assert manifests.own_images() == ["motcua", "motcua-lab-store"]
    text = manifests.with_images({"motcua": "r/motcua:1", "motcua-lab-store": "store:2"}).text()
    assert text.count("r/motcua:1") == 2
    assert "store:2" in text
    assert "docker.io/library/mongo:8.0" in text
    assert ":dev" not in text


def test_workloads_are_what_is_waited_for() -> None:
    assert parse(PEOPLE).names() == [("Deployment", "dossier"), ("StatefulSet", "mongo")]


def test_a_suspended_cron_job_is_a_pattern_of_jobs() -> None:
    made = job(parse(PEOPLE), "importer", "importer-1")
    assert (made["kind"], made["metadata"]["name"], made["metadata"]["namespace"]) == (
        "Job",
        "importer-1",
        "motcua",
    )
    assert made["metadata"]["labels"] == {"app.kubernetes.io/name": "importer"}
    assert made["spec"]["template"]["spec"]["containers"][0]["args"] == ["catalog.load"]


def test_manifests_go_through_the_filter() -> None:
    command = f'{sys.executable} -c \'import sys; print(sys.stdin.read().replace("dossier", "payment"))\''
    found, lines = filtered(parse(PEOPLE), command)
    assert found.names()[0] == ("Deployment", "payment")
    assert lines == 0


@pytest.mark.parametrize(
    "command", ["/nowhere/filter", f"{sys.executable} -c 'import sys; sys.exit(\"no\")'"]
)
def test_a_filter_that_fails_is_named(command: str) -> None:
    with pytest.raises(Problem, match="the filter "):
        filtered(parse(PEOPLE), command)


def live() -> dict[tuple[str, str], dict[str, Any]]:
    found = {(item["kind"], item["metadata"]["name"]): item for item in parse(PEOPLE).objects}
    del found["StatefulSet", "mongo"]["spec"]["template"]["spec"]["initContainers"]
    return {name: item for name, item in found.items() if name[0] in ("Deployment", "StatefulSet")}


def test_a_service_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(Problem, match=r"no dosier in namespace motcua: it has dossier$"):
        choose(live(), ["dossier", "dosier"], "motcua")


def test_in_an_empty_namespace_the_way_to_fill_it_is_told() -> None:
    with pytest.raises(Problem, match="make k8s-up"):
        choose({}, ["dossier"], "motcua")


def test_what_is_not_built_here_is_refused() -> None:
    with pytest.raises(Problem, match=r"mongo runs docker.io/library/mongo:8.0, which is not built here"):
        choose(live(), ["mongo"], "motcua")


def test_chosen_are_only_those_that_were_named() -> None:
    assert list(choose(live(), ["dossier"], "motcua")) == [("Deployment", "dossier")]


def use(monkeypatch: pytest.MonkeyPatch, folder: Path, context: str) -> None:
    path = folder / "kubeconfig"
    path.write_text(KUBECONFIG.format(context=context))
    monkeypatch.setenv("KUBECONFIG", str(path))


def test_the_current_context_is_not_touched_unless_it_is_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, tmp_path, "province-production")
    with pytest.raises(Problem) as refused:
        confirm(Options(), "install into")
    assert "namespace motcua of context province-production" in str(refused.value)
    assert "CONTEXT=province-production or CONFIRM=yes" in str(refused.value)
    assert confirm(Options(confirmed=True), "install into") == "province-production"
    assert confirm(Options(context="province-production"), "install into") == "province-production"


def test_a_kind_cluster_needs_no_confirmation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path, "kind-motcua")
    assert confirm(Options(), "install into") == "kind-motcua"


@pytest.mark.parametrize(
    "command", [["up"], ["down"], ["redeploy", "dossier"], ["secrets"], ["demo"], ["forward"]]
)
def test_without_a_cluster_every_command_ends_with_one_line(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"{command[0]}: kubectl has no current context: set KUBECONFIG or CONTEXT=<name>\n"
    )


def test_a_cluster_that_does_not_answer_is_told_without_the_log_of_kubectl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, tmp_path, "gone")
    with pytest.raises(Refused) as refused:
        Kubectl().get("pods")
    assert "127.0.0.1:1 was refused" in str(refused.value)
    assert "memcache" not in str(refused.value)


def test_nothing_is_built_for_a_cluster_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, tmp_path, "gone")
    monkeypatch.setattr(images, "build", lambda *_: pytest.fail("an image was built"))
    assert main(["up", "--context", "gone"]) == 2
    assert "127.0.0.1:1 was refused" in capsys.readouterr().err


def test_secrets_are_not_made_in_a_cluster_that_was_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, tmp_path, "province-production")
    assert main(["secrets"]) == 2
    assert "CONTEXT=province-production or CONFIRM=yes" in capsys.readouterr().err


def test_missing_programs_are_told_with_the_way_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Problem, match=r"kind is missing: .*kind\.sigs\.k8s\.io"):
        programs.run("kind", "get", "clusters")
    with pytest.raises(Problem, match="docker is missing: install a Docker engine"):
        programs.run("docker", "version")


def test_the_end_of_what_a_failing_program_says_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho 'Step 1/2'; echo 'no space left on device' >&2; exit 1\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Problem, match="docker build failed:\nStep 1/2\nno space left on device"):
        programs.run("docker", "build")


def test_the_demo_plays_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL", "/var/mail/root")  # what a login sets
    monkeypatch.delenv("GATEWAY", raising=False)
    assert demo.given([]) is None
    monkeypatch.setenv("GATEWAY", "https://dvc.example.vn/")
    where = demo.given(["--sandbox", "http://sandbox.example.vn"])
    assert where is not None
    assert where.graphql == "https://dvc.example.vn/graphql"
    assert (where.sandbox, where.mail) == ("http://sandbox.example.vn", "http://127.0.0.1:8025")


KIND = """#!/bin/sh
echo "$(basename $0) $@" >> {folder}/calls
case "$*" in
  "get clusters") cat {folder}/clusters 2>/dev/null || true ;;
  "create cluster"*) echo motcua >> {folder}/clusters ;;
esac
"""


def test_the_kind_cluster_is_made_once_as_its_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither kind nor its node image is on every machine, so a script stands in for it."""
    for name in ("kind", "docker"):
        (tmp_path / name).write_text(KIND.format(folder=tmp_path))
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    quiet = Console(quiet=True)
    kind.up(quiet)
    kind.up(quiet)
    images.load("motcua:1", kind.NAME)
    calls = (tmp_path / "calls").read_text().splitlines()
    (created,) = (call for call in calls if call.startswith("kind create cluster --name motcua --config "))
    assert Path(created.split()[6]).is_file()
    assert calls[-1] == "kind load docker-image motcua:1 --name motcua"
