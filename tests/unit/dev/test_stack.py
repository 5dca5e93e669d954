import subprocess
import sys
from pathlib import Path

import pytest

from dev.options import ROOT, Problem, private
from dev.stack import Stack, refuse_second


@pytest.mark.parametrize("below", ["file", "file/folder"])
def test_a_data_folder_that_cannot_be_is_one_clear_line(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Problem, match=r"cannot hold data \(.+\); DATA_DIR=… names another folder") as told:
        Stack(private(tmp_path / below, {}))
    assert "\n" not in str(told.value)
    refuse_second(tmp_path / below)  # no stack runs there, and this is no place to say more


async def test_of_two_starts_at_once_one_is_refused_at_once(tmp_path: Path) -> None:
    hold = (
        "import pathlib, sys; from dev import stack; kept = stack._take(pathlib.Path(sys.argv[1])); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE
    ) as first:
        while not (tmp_path / "lock").exists() or not (tmp_path / "lock").read_text():
            assert first.poll() is None
        with pytest.raises(Problem, match=f"already runs on .+process {first.pid}"):
            await Stack(private(tmp_path, {})).start()
        first.communicate(b"\n")
