"""A pytest plugin of `dev.proof`: writes how each marked test ended, a line of JSON each, to $PROOF_RECORD.

It is copied beside other code than ours, so it imports nothing but pytest.
"""

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

WORST = {"error": 3, "assertion": 2, "skipped": 1, "passed": 0}
_KEY: pytest.StashKey[tuple[str, str]] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Makes the mark known to code that has never heard of it."""
    config.addinivalue_line("markers", "proof(number): see dev.proof")


def _outcome(call: pytest.CallInfo[Any], result: pytest.TestReport) -> tuple[str, str]:
    if call.excinfo is None or result.passed:
        return "passed", ""
    line = next(iter(str(call.excinfo.value).splitlines()), "")
    if result.skipped:
        return "skipped", line
    asserted = call.when == "call" and _is_assertion(call.excinfo.value)
    return ("assertion" if asserted else "error"), f"{call.excinfo.typename}: {line}"


def _is_assertion(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):  # Hypothesis found several inputs that fail
        return all(_is_assertion(one) for one in error.exceptions)
    return isinstance(error, AssertionError | pytest.fail.Exception)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keeps the worst of a test's set-up, call and end, and writes it after the end."""
    result = yield
    told = _outcome(call, result)
    known = item.stash.setdefault(_KEY, ("passed", ""))
    if WORST[told[0]] > WORST[known[0]]:
        item.stash[_KEY] = told
    if call.when == "teardown":
        numbers = [str(mark.args[0]) for mark in item.iter_markers("proof")]
        outcome, line = item.stash[_KEY]
        row = {"function": item.name.partition("[")[0], "numbers": numbers, "outcome": outcome, "line": line}
        with Path(os.environ["PROOF_RECORD"]).open("a") as record:
            record.write(json.dumps(row) + "\n")
    return result
