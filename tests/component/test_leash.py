import subprocess
import sys
import time

import pytest

from dev.options import ROOT

PARENT = """
import os, subprocess
from dev.leash import leashed
child = subprocess.Popen(leashed(["sleep", "60"]), start_new_session=True)
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return (
                stat.read().rpartition(")")[2].split()[0] == "Z"
            )  # dead, and its new parent has yet to notice
    except FileNotFoundError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child with its parent")
def test_a_part_dies_with_the_runner_however_the_runner_died() -> None:
    parent = subprocess.run(
        [sys.executable, "-c", PARENT], cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    assert parent.returncode == -9
    child = int(parent.stdout)
    deadline = time.monotonic() + 10
    while not gone(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
