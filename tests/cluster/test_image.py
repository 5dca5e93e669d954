"""The image of the services, built here and run as Kubernetes runs it. Needs an engine, no cluster."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from rich.console import Console

from dev.cluster import images
from dev.options import ROOT, SERVICES
from tests.needs import missing

DOCKER = shutil.which("docker") or ""
TMP = "/tmp"  # noqa: S108 (a container's own)
CONFINED = ("--read-only", "--tmpfs", TMP, "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
OURS = sorted(
    path.parent.name for path in [*ROOT.glob("services/*/__init__.py"), *ROOT.glob("graphql/*/app.py")]
)
LARGEST = 400 * 10**6
SECONDS = 300  # a busy machine is slow, not wrong


def docker(*arguments: str) -> str:
    """What a docker command prints; its failure is the test's."""
    return subprocess.run(
        [DOCKER, *arguments], check=True, text=True, stdout=subprocess.PIPE, timeout=SECONDS
    ).stdout.strip()


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """Skips where no container engine answers."""
    if not DOCKER:
        missing("no container engine: docker is not on the path")
    asked = subprocess.run([DOCKER, "version"], capture_output=True, text=True, timeout=SECONDS)
    if asked.returncode:
        missing(f"no container engine: {asked.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="session")
def image(engine: None) -> str:
    """The image of the services, built."""
    return images.build("motcua", Console())


@contextmanager
def running(image: str, *command: str, options: Sequence[str] = ()) -> Iterator[str]:
    """A confined container without a network, by its id; it is gone afterwards."""
    container = docker("run", "--detach", "--network", "none", *CONFINED, *options, image, *command)
    try:
        yield container
    finally:
        docker("rm", "--force", "--volumes", container)


def python(image: str, program: str, *arguments: str) -> str:
    """What a Python program prints in a confined container."""
    return docker(
        "run",
        "--rm",
        "--network",
        "none",
        *CONFINED,
        "--entrypoint",
        "python",
        image,
        "-c",
        program,
        *arguments,
    )


def answers(container: str, url: str) -> Callable[[], bool]:
    """Asks a URL from within a container."""
    program = "import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)"

    def ask() -> bool:
        asked = [DOCKER, "exec", container, "python", "-c", program, url]
        return subprocess.run(asked, capture_output=True, timeout=SECONDS).returncode == 0

    return ask


def wait(condition: Callable[[], bool], container: str) -> None:
    """Waits until it holds; the container's log tells why it never did."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, docker("logs", container)


def test_it_is_small(image: str, figures: list[str]) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image))
    figures.append(f"{image}: {size / 10**6:.0f} MB")
    print(figures[-1])
    assert size < LARGEST


def test_it_says_what_it_is_and_runs_as_nobody_in_particular(image: str) -> None:
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", image))
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["python", "-m"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    assert labels.keys() >= {"title", "description", "version", "revision"}
    assert labels["revision"] == image.rpartition(":")[2]
    names = {entry.partition("=")[0] for entry in config["Env"]}
    assert not {
        name
        for name in names
        if any(word in name for word in ("SECRET", "PASSWORD", "TOKEN", "KEY", "INDEX"))
    } - {
        "GPG_KEY"  # of the base image: a public key's fingerprint
    }


def test_every_module_of_ours_finds_what_it_imports(image: str) -> None:
    program = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
print(len([name for name in sys.modules if name.partition(".")[0] in sys.argv]))
"""
    assert int(python(image, program, *OURS, "motcua")) > 100


def test_every_command_is_in_it(image: str) -> None:
    guarded = [
        ".".join(path.relative_to(ROOT / top).with_suffix("").parts)
        for top in ("services", "graphql")
        for path in (ROOT / top).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text() or path.name == "__main__.py"
    ]
    assert {"catalog.load", "kit.dead", "identity.first_admin", "gateway.__main__"} <= {*guarded}
    program = """
import sys, importlib.util
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
"""
    assert python(image, program, *guarded) == ""


def test_nothing_is_compiled_at_the_start(image: str) -> None:
    program = """
import importlib, os, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
specs = [module.__spec__ for module in sys.modules.values() if getattr(module, "__spec__", None)]
print(*(spec.origin for spec in specs if spec.cached and not os.path.exists(spec.cached)))
"""
    assert python(image, program, *(f"{name}.bootstrap" for name in SERVICES), "gateway.app") == ""


def test_it_brings_no_tools_and_no_tests(image: str) -> None:
    program = """
import shutil, importlib.util, sys
programs = ["pip", "pip3", "uv", "gcc", "cc", "g++", "make", "git", "curl", "wget", "nats-server", "weed"]
modules = ["pip", "setuptools", "wheel", "ensurepip", "hatchling", "dev", "tests", "pytest", "aiosmtpd"]
print(*filter(shutil.which, programs), *filter(importlib.util.find_spec, modules))
"""
    assert python(image, program) == ""


def test_what_it_has_of_ours_is_code_and_its_data_and_no_secret(image: str) -> None:
    program = """
import os
print(*(os.path.join(folder, name) for folder, _, names in os.walk("/app") for name in names), sep="\\n")
for top in ("/", "/root", "/tmp", "/opt", "/home", "/build"):
    for name in os.listdir(top) if os.access(top, os.R_OK) and os.path.isdir(top) else ():
        print(os.path.join(top, name))
"""
    paths = python(image, program).splitlines()
    ours = [path for path in paths if path.startswith("/app/")]
    tops = {path.split("/")[2] for path in ours}
    assert tops == {*OURS, "motcua"}
    endings = {path.rpartition(".")[2] for path in ours if not path.endswith(".gitignore")}
    assert endings <= {"py", "pyc", "json", "toml"}, endings
    words = (
        ".git",
        ".env",
        ".data",
        ".pem",
        ".key",
        "signing-keys",
        "services.json",
        "secret",
        "requirements",
    )
    assert [path for path in paths if any(word in path.rpartition("/")[2] for word in words)] == []
    assert (
        python(image, "import os; print(*(p for p in ('/app', '/opt/venv', '/') if os.access(p, os.W_OK)))")
        == ""
    )


@pytest.mark.parametrize("command", [["catalog.load", "--help"], ["kit.dead", "--help"]], ids=" ".join)
def test_a_command_tells_its_use(image: str, command: list[str]) -> None:
    assert "usage: " in docker("run", "--rm", "--network", "none", *CONFINED, image, *command)


def test_a_service_that_reaches_nothing_says_so_in_a_line(image: str) -> None:
    """All at once: each tries for a while."""
    options = ["--env", "OBJECT_STORE_URL=file:///tmp/objects"]
    commands = [*SERVICES, "identity.first_admin"]
    started = {
        name: subprocess.Popen(
            [DOCKER, "run", "--rm", "--network", "none", *CONFINED, *options, image, name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in commands
    }
    for name, process in started.items():
        said, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 2, said
        assert "Traceback" not in said
        assert said.strip().splitlines()[-1].startswith(f"{name}: "), said


def test_a_wrong_setting_is_told_in_a_line(image: str) -> None:
    refused = subprocess.run(
        [DOCKER, "run", "--rm", "--network", "none", *CONFINED, "--env", "GRACE=soon", image, "notify"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "GRACE" in refused.stderr


def test_the_gateway_serves_without_a_place_to_write_and_stops_when_told(image: str) -> None:
    with running(image, "gateway") as gateway:
        wait(answers(gateway, "http://127.0.0.1:8000/livez"), gateway)
        docker("stop", "--time", "60", gateway)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", gateway) == "0"


def test_the_mail_catcher_serves_from_the_image_with_the_tools(engine: None) -> None:
    tools = images.build("motcua-tools", Console())
    with running(tools, "dev.mailbox", f"{TMP}/mail", "1025", "8025") as mail:
        wait(answers(mail, "http://127.0.0.1:8025/mails"), mail)


@pytest.mark.parametrize(
    ("name", "command"),
    [("nats", ["nats-server", "--version"]), ("objects", ["weed", "version"])],
)
def test_an_image_of_the_lab_has_its_program_on_the_path(engine: None, name: str, command: list[str]) -> None:
    lab = images.build(f"motcua-lab-{name}", Console())
    said = docker("run", "--rm", "--network", "none", *CONFINED, lab, *command)
    assert re.search(r"\d+\.\d+", said)
    assert docker("image", "inspect", "--format", "{{.Config.User}}", lab) == "10001:10001"


def test_the_store_of_the_lab_starts_again_after_it_was_killed(engine: None) -> None:
    """Its volumes stay, /tmp among them, as a pod's do, and its process has the same number again."""
    lab = images.build("motcua-lab-store", Console())
    ping = "import pymongo; pymongo.MongoClient(serverSelectionTimeoutMS=1000).{}"

    def does(what: str) -> Callable[[], bool]:
        asked = [DOCKER, "exec", store, "python", "-c", ping.format(what)]
        return lambda: subprocess.run(asked, capture_output=True, timeout=SECONDS).returncode == 0

    volumes = [part for path in ("/data", TMP) for part in ("--volume", path)]
    confined = [part for part in CONFINED if part not in ("--tmpfs", TMP)]
    store = docker("run", "--detach", "--network", "none", *confined, *volumes, lab)
    try:
        wait(does("a.b.insert_one({'_id': 'kept'})"), store)
        docker("kill", store)
        docker("start", store)
        wait(does("a.b.find_one({'_id': 'kept'})['_id']"), store)
    finally:
        docker("rm", "--force", "--volumes", store)
