"""`make proof BASE=<commit>`: shows that the tests of a change fail on the code before it and pass now.

Tests carry `@pytest.mark.proof("9.12")`, the number of what they prove. Each file that has the mark is copied
into a worktree of BASE and runs there with the fixtures and helpers of that code. A test proves its number
when it fails there by an assertion: an error on import, a missing attribute or a fixture that breaks proves
nothing. A function with parameters proves it when one of its cases does.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from dev.options import ROOT, tool

MARK = "pytest.mark.proof("
PLUGIN = Path(__file__).with_name("proof_recorder.py")
LONGEST = 900  # seconds that one file of tests may take


@dataclass(frozen=True)
class Outcome:
    """How one test ended: `passed`, `skipped`, `assertion` (it failed as a proof must) or `error`."""

    function: str
    numbers: tuple[str, ...]
    outcome: str
    line: str


def marked(tests: Path) -> list[Path]:
    """The files of tests that carry the mark, relative to the folder that holds `tests`."""
    found = (path for path in tests.rglob("test_*.py") if MARK in path.read_text())
    return sorted(path.relative_to(tests.parent) for path in found)


def play(root: Path, file: Path, scratch: Path) -> list[Outcome]:
    """Runs the marked tests of one file in the checkout `root`, which has an environment of its own."""
    shutil.copy(PLUGIN, scratch)
    record = scratch / "record.jsonl"
    record.unlink(missing_ok=True)
    command = [".venv/bin/python", "-m", "pytest", str(file), "-p", PLUGIN.stem, "-m", "proof"]
    environment = {**os.environ, "PYTHONPATH": str(scratch), "PROOF_RECORD": str(record)}
    with (scratch / "output").open("w") as output:
        try:
            subprocess.run(
                [*command, "-o", "addopts=--import-mode=importlib -q --tb=no"],
                cwd=root,
                env=environment,
                stdout=output,
                stderr=output,
                timeout=LONGEST,
            )
        except subprocess.TimeoutExpired:
            print(f"{file}: not ended after {LONGEST} s", file=output)
    lines = record.read_text().splitlines() if record.exists() else []
    if not lines:
        tail = (scratch / "output").read_text().strip().splitlines()[-1:]
        return [Outcome(str(file), (), "error", "".join(tail))]
    return [
        Outcome(f"{file}::{one['function']}", tuple(one["numbers"]), one["outcome"], one["line"])
        for one in map(json.loads, lines)
    ]


def by_function(outcomes: list[Outcome]) -> dict[str, Outcome]:
    """One outcome for each function: that of its case which says most (an assertion, then an error)."""
    order = ("assertion", "error", "skipped", "passed")
    best: dict[str, Outcome] = {}
    for one in outcomes:
        known = best.get(one.function)
        if known is None or order.index(one.outcome) < order.index(known.outcome):
            best[one.function] = one
    return best


def compare(before: dict[str, Outcome], now: dict[str, Outcome]) -> tuple[Table, list[str]]:
    """The table of all proofs, and what is wrong with them: one line each."""
    wrong: list[str] = []
    rows: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for function, present in now.items():
        past = before.get(
            function, Outcome(function, (), "error", "did not run: the file could not be collected")
        )
        if present.outcome != "passed":
            wrong.append(f"{function} now: {present.outcome}: {present.line}")
        if past.outcome != "assertion":
            wrong.append(f"{function} before: {past.outcome}: {past.line}")
        for number in present.numbers:
            told = past.line if past.outcome == "assertion" else f"{past.outcome}: {past.line}"
            rows[number].append((function.partition("tests/")[2], told, present.outcome))
    table = Table("number", "test", "failed before with", "now", show_lines=True)
    for number in sorted(rows, key=lambda text: [int(part) for part in text.split(".")]):
        for at, row in enumerate(rows[number]):
            table.add_row("" if at else number, *row)
    return table, wrong


def prepare(base: str, scratch: Path) -> Path:
    """A worktree of the commit `base` with its own environment."""
    there = scratch / "before"
    subprocess.run(
        [tool("git"), "worktree", "add", "--quiet", "--detach", str(there), base], cwd=ROOT, check=True
    )
    subprocess.run([tool("make"), "-s", "setup"], cwd=there, check=True)
    return there


def main(argv: list[str]) -> int:
    """Entry. Exit code 1 when a proof does not hold, 2 when it cannot be tried."""
    parser = argparse.ArgumentParser(prog="proof", description="Tests that fail on BASE and pass now.")
    parser.add_argument("base", help="the commit before the change")
    parser.add_argument("--only", default="", help="numbers that begin so, such as 9. or 9.12")
    asked = parser.parse_args(argv)
    files = [file for file in marked(ROOT / "tests") if f'"{asked.only}' in (ROOT / file).read_text()]
    if not files:
        print(f'proof: no test has the mark {MARK}"{asked.only}…")', file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="proof-") as folder:
        scratch = Path(folder)
        try:
            there = prepare(asked.base, scratch)
        except subprocess.CalledProcessError as error:
            print(f"proof: {shlex.join(map(str, error.cmd))} failed, see above", file=sys.stderr)
            return 2
        try:
            before: list[Outcome] = []
            now: list[Outcome] = []
            for file in track(files, "proving"):
                target = there / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, target)
                before += play(there, file, scratch)
                now += play(ROOT, file, scratch)
        finally:
            subprocess.run([tool("git"), "worktree", "remove", "--force", str(there)], cwd=ROOT, check=False)
    present = {
        function: one
        for function, one in by_function(now).items()
        if not one.numbers or any(number.startswith(asked.only) for number in one.numbers)
    }
    table, wrong = compare(by_function(before), present)
    Console(width=160).print(table)
    for line in wrong:
        print(f"proof: {line}", file=sys.stderr)
    numbers = {number for one in present.values() for number in one.numbers}
    print(f"{len(present)} tests for {len(numbers)} numbers, {len(wrong)} that prove nothing")
    return 1 if wrong or not present else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
