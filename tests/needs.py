"""What a test needs of the machine it runs on, and what happens where that is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skips the test and says why. With FULL=1 in the environment it fails instead, so that nothing is left
    out unseen where everything has to be shown."""
    if os.environ.get("FULL") == "1":
        pytest.fail(f"FULL=1, and {reason}")
    pytest.skip(reason)


def node(folder: Path) -> str:
    """The node that runs the programs of `folder`, whose packages are installed as its lock file says."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if not found or not npm:
        missing("there is no node and npm on the path")
    if not (folder / "node_modules/.package-lock.json").exists():
        command = [npm, "ci", "--no-audit", "--no-fund"]
        made = subprocess.run(command, cwd=folder, capture_output=True, timeout=180, check=False)
        if made.returncode:
            missing(f"npm ci failed: {made.stderr.decode()[-300:]}")
    return found
