"""The GraphQL schema that the gateway serves, as `graphql/schema.graphql`.

python -m dev.schema                     exports it
python -m dev.schema --check             exits 1 when the file is not what the code says
python -m dev.schema --against COMMIT    exits 1 when it breaks clients of that commit's schema
"""

import argparse
import difflib
import subprocess
import sys
from collections.abc import Sequence

from graphql import build_schema, print_schema
from graphql.utilities import find_breaking_changes, find_dangerous_changes

from dev.options import ROOT
from gateway.schema import schema

FILE = ROOT / "graphql" / "schema.graphql"


def export() -> str:
    """The schema in the definition language, as checked in."""
    return print_schema(schema()).strip() + "\n"


def stale() -> list[str]:
    """The lines by which the file differs from the code; empty when they agree."""
    have = FILE.read_text() if FILE.exists() else ""
    return list(
        difflib.unified_diff(have.splitlines(), export().splitlines(), "checked in", "code", lineterm="")
    )


def breaks(before: str, after: str) -> tuple[list[str], list[str]]:
    """What stops clients of `before` from working with `after`, and what may surprise them."""
    old, new = build_schema(before), build_schema(after)
    return (
        [change.description for change in find_breaking_changes(old, new)],
        [change.description for change in find_dangerous_changes(old, new)],
    )


def of_commit(commit: str) -> str:
    """The schema file of a commit, or nothing when it had none."""
    name = FILE.relative_to(ROOT).as_posix()
    shown = subprocess.run(["git", "show", f"{commit}:{name}"], cwd=ROOT, capture_output=True, text=True)  # noqa: S607
    return shown.stdout if shown.returncode == 0 else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of `make schema`, `make schema-check` and CI's check for breaking changes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="only compare with what is checked in")
    choice.add_argument("--against", metavar="COMMIT", help="find changes that break clients of that commit")
    arguments = parser.parse_args(argv)
    if arguments.check:
        if lines := stale():
            print("\n".join(lines))
            print("graphql/schema.graphql is not what the code says: run `make schema`", file=sys.stderr)
        return 1 if lines else 0
    if arguments.against:
        before = of_commit(arguments.against)
        if not before:
            print(f"no schema at {arguments.against}: nothing can be broken")
            return 0
        breaking, dangerous = breaks(before, export())
        for line in dangerous:
            print(f"may surprise clients: {line}")
        for line in breaking:
            print(f"breaks clients: {line}", file=sys.stderr)
        return 1 if breaking else 0
    FILE.write_text(export())
    print(f"{FILE.relative_to(ROOT)}: {len(schema().type_map)} types")
    return 0


if __name__ == "__main__":
    sys.exit(main())
