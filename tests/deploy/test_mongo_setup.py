"""The script that makes MongoDB's replica set and its users, against members that a test plays.

What they answer is written after MongoDB's manual (localhost exception, replSetInitiate, replSetReconfig); no
real member has been asked here.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.options import ROOT
from tests.needs import missing

SETUP = ROOT / "deploy/k8s/base/mongo/setup.js"
HOSTS = [f"mongo-{n}.mongo:27017" for n in range(3)]
USERS = ("root", "backup", "identity", "catalog", "dossier", "payment", "notify")
WRITES = 1 + len(USERS) + 2  # the set, its users, two members more

State = dict[str, Any]
EMPTY: State = {"config": None, "users": {}, "up": HOSTS, "lost": [], "initiated": 0}


@dataclass(frozen=True)
class Ran:
    code: int
    writes: int
    told: str
    state: State


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    node = shutil.which("node")
    if node is None:
        missing("node is not on the path")
    for user in USERS:
        (tmp_path / f"{user}-password").write_text(f"pass of {user}/@:\n")

    def once(state: State, limit: int = 0, landed: bool = False, members: list[str] = HOSTS) -> Ran:
        file = tmp_path / "state.json"
        file.write_text(json.dumps(state))
        cut = "landed" if landed else "lost"
        done = subprocess.run(
            [node, str(Path(__file__).with_name("mongosh.js")), str(SETUP), str(file), str(limit), cut],
            env={**os.environ, "MEMBERS": ",".join(members), "SECRETS": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.stderr.strip().isdigit(), done.stderr
        return Ran(done.returncode, int(done.stderr), done.stdout, json.loads(file.read_text()))

    return once


def test_a_set_of_three_and_all_users_are_made_in_one_go(run: Run) -> None:
    made = run(EMPTY)
    assert (made.code, made.writes) == (0, WRITES), made.told
    assert [member["host"] for member in made.state["config"]["members"]] == HOSTS
    assert {name: user["pwd"] for name, user in made.state["users"].items()} == {
        name: f"pass of {name}/@:" for name in USERS
    }
    assert made.state["users"]["dossier"]["roles"] == [{"role": "readWrite", "db": "motcua_dossier"}]
    assert "pass of" not in made.told


def test_run_again_it_leaves_all_as_it_is(run: Run) -> None:
    made = run(EMPTY).state
    again = run(made)
    assert (again.code, again.state) == (0, made)


@pytest.mark.parametrize("landed", [False, True], ids=["lost", "landed"])
@pytest.mark.parametrize("limit", range(1, WRITES + 1))
def test_cut_off_at_any_write_it_goes_on_where_it_was(run: Run, limit: int, landed: bool) -> None:
    whole = run(EMPTY).state
    broken = run(EMPTY, limit, landed)
    assert broken.code == 1
    mended = run(broken.state)
    assert (mended.code, mended.state) == (0, whole), mended.told


def test_it_begins_no_set_before_every_member_answers(run: Run) -> None:
    waiting = run({**EMPTY, "up": HOSTS[:2]})
    assert (waiting.code, waiting.writes) == (1, 0)


def test_a_first_member_that_lost_its_volume_begins_no_second_set(run: Run) -> None:
    made = run(EMPTY).state
    waiting = run({**made, "lost": HOSTS[:1]})
    assert (waiting.code, waiting.state["initiated"]) == (1, 1)
    assert "takes this member back" in waiting.told


def test_one_member_away_hinders_nothing(run: Run) -> None:
    made = run(EMPTY).state
    assert run({**made, "up": HOSTS[:2]}).code == 0


def test_a_new_password_of_a_service_is_taken_over(run: Run) -> None:
    state = copy.deepcopy(run(EMPTY).state)
    state["users"]["payment"]["pwd"] = "the old one"
    assert run(state).state["users"]["payment"]["pwd"] == "pass of payment/@:"


def test_another_password_of_root_is_told_and_changes_nothing(run: Run) -> None:
    state = copy.deepcopy(run(EMPTY).state)
    state["users"]["root"]["pwd"] = "the old one"
    refused = run(state)
    assert (refused.code, refused.state) == (1, state)


def test_a_set_of_one_grows_to_three(run: Run) -> None:
    small = run(EMPTY, members=HOSTS[:1]).state
    assert len(small["config"]["members"]) == 1
    assert len(run(small).state["config"]["members"]) == 3


def test_the_set_has_as_many_members_as_the_statefulset_has_pods() -> None:
    spec = yaml.safe_load((SETUP.parent / "statefulset.yaml").read_text())["spec"]
    setup = next(one for one in spec["template"]["spec"]["containers"] if one["name"] == "setup")
    members = next(one["value"] for one in setup["env"] if one["name"] == "MEMBERS").split(",")
    assert members == HOSTS[: spec["replicas"]]
    asked = [
        item["path"]
        for volume in spec["template"]["spec"]["volumes"]
        if volume["name"] == "passwords"
        for item in volume["secret"]["items"]
    ]
    assert sorted(asked) == sorted(f"{user}-password" for user in USERS)


def test_the_cache_leaves_half_of_the_memory_to_the_rest() -> None:
    spec = yaml.safe_load((SETUP.parent / "statefulset.yaml").read_text())["spec"]
    mongod = next(one for one in spec["template"]["spec"]["containers"] if one["name"] == "mongo")
    cache = float(next(one["value"] for one in mongod["env"] if one["name"] == "CACHE_GB"))
    assert mongod["resources"]["limits"]["memory"] == "1Gi"
    assert cache <= 0.5
