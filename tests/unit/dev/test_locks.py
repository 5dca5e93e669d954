"""The lock files and what the Dockerfiles take from them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from dev.options import ROOT

FULL, RUNTIME = "requirements.lock", "requirements-runtime.lock"
DOCKERFILES = [ROOT / "Dockerfile", *sorted(ROOT.glob("tests/cluster/images/*/Dockerfile"))]


def locked(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Package -> its version with its marker, and its hashes."""
    text = re.sub(r"\s*#.*", "", (ROOT / name).read_text()).replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line.strip():
            requirement, *hashes = line.split("--hash=")
            package, _, version = requirement.strip().partition("==")
            found[package] = (version, frozenset(one.strip() for one in hashes))
    return found


def wanted(requirements: list[str]) -> set[str]:
    """The names in a list of requirements."""
    return {re.split(r"[<>=!~;\[ ]", one)[0].lower() for one in requirements}


@pytest.mark.parametrize("name", [FULL, RUNTIME, "deploy/checkov.lock"])
def test_a_lock_pins_all_by_hash_and_names_no_address(name: str) -> None:
    for package, (version, hashes) in locked(name).items():
        assert re.fullmatch(r"[0-9][\w.+]*( ;.*)?", version), f"{package} is not pinned"
        assert hashes, f"{package} has no hash"
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in hashes), package
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert " @ " not in text
    assert not re.search(r"^-", text, re.MULTILINE), "an option, such as the address of an index"


def test_the_image_gets_the_very_versions_that_the_tests_run_with() -> None:
    full, runtime = locked(FULL), locked(RUNTIME)
    assert {name: full.get(name) for name in runtime} == runtime


def test_the_image_gets_what_the_services_need_and_no_tool() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    main, dev = wanted(project["dependencies"]), wanted(project["optional-dependencies"]["dev"])
    runtime = locked(RUNTIME).keys()
    assert main <= runtime
    assert not dev & runtime


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_what_a_dockerfile_cuts_out_of_the_lock_is_in_it(path: Path) -> None:
    text = path.read_text()
    cut = set(re.findall(r"/\^([\w-]+)==/", text))
    if names := re.search(r"for name in (.+?); do", text):
        cut |= set(names.group(1).split())
    assert cut
    assert cut <= locked(FULL).keys()


def test_the_image_has_all_our_packages_but_the_tools() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]} - {"dev"}
    copied = set(
        re.findall(
            r"^COPY (services|graphql/gateway|protos/gen/motcua) /app", DOCKERFILES[0].read_text(), re.M
        )
    )
    services = {f"services/{path.parent.name}" for path in ROOT.glob("services/*/__init__.py")}
    assert packages == (copied - {"services"}) | services


def test_nothing_enters_a_build_but_what_is_named() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    named = {rule[1:] for rule in rules if rule.startswith("!")}
    assert all((ROOT / path).exists() for path in named)
    for path in DOCKERFILES:
        for source in re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), re.MULTILINE):
            assert set(source.split()) <= named, path
