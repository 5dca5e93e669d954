"""What a test needs of the machine it runs on, and what happens where that is missing."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skips the test and says why. With FULL=1 in the environment it fails instead, so that nothing is left
    out unseen where everything has to be shown."""
    if os.environ.get("FULL") == "1":
        pytest.fail(f"FULL=1, and {reason}")
    pytest.skip(reason)
