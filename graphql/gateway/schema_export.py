"""`python -m gateway.schema_export [FILE]` writes the schema as SDL; `--check` compares instead and names
what breaks."""

from __future__ import annotations

import sys
from pathlib import Path

from graphql import build_schema, find_schema_changes, print_schema
from graphql.utilities import BreakingChange

from gateway.schema import schema

FILE = Path(__file__).parents[1] / "schema.graphql"


def main(arguments: list[str]) -> int:
    """0; 1 when the file is not the schema's."""
    check = "--check" in arguments
    names = [argument for argument in arguments if not argument.startswith("-")]
    file = Path(names[0]) if names else FILE
    text = print_schema(schema()) + "\n"
    if not check:
        file.write_text(text)
        return 0
    kept = file.read_text()
    for change in find_schema_changes(build_schema(kept), schema()):
        if isinstance(change, BreakingChange):
            print(f"breaking: {change.description}", file=sys.stderr)
    if kept != text:
        print(f"{file} is not the schema's: run make schema", file=sys.stderr)
    return int(kept != text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
