"""`make crawl FILE=…`: what the import reads out of a crawl and what it flags, without loading anything.

With `--sample N --seed S` it also shows the readings of N procedures drawn by that seed beside their texts,
to be checked by hand, and with `--out` writes their records to a file (JSON Lines, gzipped).
"""

import argparse
import gzip
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from catalog.domain import Content
from catalog.importer import Record, read


@dataclass(frozen=True)
class Reading:
    """A record as it was given and what was read in it."""

    line: str
    code: str
    content: Content


def readings(path: Path) -> Iterator[Reading]:
    """Every record of a file, plain or .gz, that is one. Raises OSError and UnicodeError."""
    with (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8") as file
    ):
        for line in file:
            if isinstance(found := read(line), Record):
                yield Reading(line, found.code, found.content)


def told(content: Content) -> dict[str, dict[str, Any]]:
    """What was read: limits and fees by channel, in words that a person compares with the texts."""
    limits = {
        str(mode.channel): f"{mode.time_limit.amount} {mode.time_limit.unit}"
        for mode in content.modes
        if mode.time_limit
    }
    return {"limits": limits, "fees": {str(fee.channel): fee.amount for fee in content.fees}}


def draw(found: list[Reading], count: int, seed: int) -> list[Reading]:
    """So many of those in which something was read, sorted by code. The order of a hash of seed and code
    decides, so that a rule that reads one record more or less hardly changes the sample."""
    with_something = [one for one in found if any(told(one.content).values())]
    with_something.sort(key=lambda one: hashlib.sha256(f"{seed}:{one.code}".encode()).digest())
    return sorted(with_something[:count], key=lambda one: one.code)


def overview(found: list[Reading]) -> Table:
    """How many procedures and texts were read, and how many flagged for which reason."""
    table = Table("texts of", "outcome", "texts", "procedures", "such as", title=f"{len(found)} procedures")
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in found:
        for mode in one.content.modes:
            if mode.time_limit:
                groups["time limits", "read"].append(one.code)
        for fee in one.content.fees:
            groups["fees", "read: free" if fee.amount == 0 else "read: an amount"].append(one.code)
        for problem in one.content.problems:
            name = problem.field.rpartition(".")[2]
            kind = {"time_limit": "time limits", "fee": "fees"}.get(name, "other")
            groups[kind, problem.reason].append(one.code)
    for (kind, outcome), codes in sorted(groups.items(), key=lambda row: (row[0][0], -len(row[1]))):
        table.add_row(kind, outcome, str(len(codes)), str(len(set(codes))), ", ".join(sorted(set(codes))[:3]))
    return table


def show(console: Console, one: Reading) -> None:
    """One reading beside the texts that it came from."""
    console.print(f"[bold]{one.code}[/] {one.content.name}", highlight=False)
    for mode in one.content.modes:
        texts = f"{mode.channel}: {mode.raw_time_limit!r}, {mode.raw_fee!r}, {mode.note!r}"
        console.print(f"  {texts}", highlight=False, markup=False)
    console.print(f"  read: {json.dumps(told(one.content))}", highlight=False, markup=False)


def main(argv: list[str]) -> int:
    """Entry. Exit code 2 when the file cannot be read."""
    parser = argparse.ArgumentParser(prog="crawl", description="what the import reads out of a crawl")
    parser.add_argument("file", type=Path)
    parser.add_argument("--sample", type=int, default=0, help="show so many readings for a check by hand")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the records of the sample to this file, gzipped")
    asked = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        found = list(readings(asked.file))
        sample = draw(found, asked.sample, asked.seed)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        print(f"crawl: {f'there is no file {asked.file}' if missing else error}", file=sys.stderr)
        return 2
    console.print(overview(found))
    if sample:
        console.print(f"a sample of {asked.sample}, drawn by the seed {asked.seed}")
    for one in sample:
        show(console, one)
    if asked.out:
        with gzip.GzipFile(asked.out, "wb", mtime=0) as file:
            file.write("".join(one.line for one in sample).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
