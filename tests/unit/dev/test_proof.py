import sys
from pathlib import Path

import pytest

from dev.proof import MARK, Outcome, by_function, compare, main, marked, play

TESTS = """
import pytest

@pytest.fixture
def broken():
    raise AssertionError("of a fixture")

@proof("9.1")
@pytest.mark.parametrize("number", [1, 2])
def test_one_case_fails(number): assert number == 1

@proof("9.1", )
def test_holds(): pass

@proof("9.2")
def test_misses_an_attribute(): object().nothing

@proof("9.2")
def test_needs_what_breaks(broken): pass

@proof("9.3")
def test_is_skipped(): pytest.skip("no clamd")

@proof("9.3")
def test_finds_two_failures():
    raise ExceptionGroup("several", [AssertionError("a"), AssertionError("b")])

def test_is_not_marked(): assert False
""".replace("@proof", f"@{MARK[:-1]}")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a checkout: its environment is this one, its tests are TESTS."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(TESTS)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return tmp_path


def _play(checkout: Path) -> dict[str, Outcome]:
    scratch = checkout / "scratch"
    scratch.mkdir()
    return by_function(play(checkout, Path("tests/test_it.py"), scratch))


def test_only_an_assertion_of_the_test_itself_proves_something(checkout: Path) -> None:
    outcomes = _play(checkout)
    assert {name.partition("::")[2]: one.outcome for name, one in outcomes.items()} == {
        "test_one_case_fails": "assertion",
        "test_holds": "passed",
        "test_misses_an_attribute": "error",
        "test_needs_what_breaks": "error",
        "test_is_skipped": "skipped",
        "test_finds_two_failures": "assertion",
    }
    assert outcomes["tests/test_it.py::test_one_case_fails"].numbers == ("9.1",)


def test_a_file_that_cannot_be_imported_proves_nothing(checkout: Path) -> None:
    (checkout / "tests" / "test_it.py").write_text(f"import nothing_such  # {MARK}")
    assert [one.outcome for one in _play(checkout).values()] == ["error"]


def test_a_proof_fails_before_and_passes_now() -> None:
    def outcome(name: str, how: str) -> Outcome:
        return Outcome(f"tests/a.py::{name}", ("9.1",), how, "line")

    before = by_function(
        [outcome("good", "assertion"), outcome("idle", "passed"), outcome("lost", "assertion")]
    )
    now = by_function(
        [
            outcome("good", "passed"),
            outcome("idle", "passed"),
            outcome("lost", "error"),
            outcome("new", "passed"),
        ]
    )
    table, wrong = compare(before, now)
    assert table.row_count == 4
    assert [line.split()[0].partition("::")[2] for line in wrong] == ["idle", "lost", "new"]


def test_the_marked_files_of_this_checkout_are_found(checkout: Path) -> None:
    (checkout / "tests" / "test_other.py").write_text("def test_it(): pass")
    assert marked(checkout / "tests") == [Path("tests/test_it.py")]


def test_a_commit_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-commit"]) == 2
    assert "no-such-commit" in capsys.readouterr().err
