"""The worst CPU time of one turn of a loop, for work whose input a caller chooses.

    python -m tests.load.turns

Each row is a piece of work that runs on an event loop, with the worst input known that its edge still takes.
It ends with 1 when one takes more than 50 ms. Work that has no such bound is not here: it runs in a process
of its own (`kit.bounded`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from graphql import GraphQLError, parse
from rich.console import Console
from rich.table import Table

from dossier.domain.form import MOST_FORM, checked_form
from identity.domain.identifiers import identifiers_in
from identity.domain.names import organisation_name_of
from kit import bounds, text
from kit.errors import DomainError
from motcua.dossier.v1 import dossier_pb2 as pb
from notify.texts import shown

MOST = 50.0  # ms of CPU
_TRIES = 5  # the best of them is what the work costs; the others were disturbed
LETTERS = {
    "spaces": " ",
    "vowels": "ế",
    "CJK": "中",
    "marks": "\u0301\u0316",
    "marks beyond the BMP": "\U0001d165\U0001d16d",
    "Tibetan double marks": "\u0f73",
    "emoji": "😀",
    "nothing seen": "a\u200b",
    "dots and at": "a@.",
}


def cost(work: Callable[[], object]) -> float:
    """CPU time in ms."""
    best = float("inf")
    for _ in range(_TRIES):
        began = time.thread_time()
        with suppress(DomainError, GraphQLError, ValueError):  # a refusal costs too
            work()
        best = min(best, (time.thread_time() - began) * 1000)
    return best


def filled(letters: str, size: int) -> str:
    """As much of the letters as fits into that many bytes of UTF-8."""
    return letters * (size // len(letters.encode()))


def works() -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Name of the work, of the input, and the work."""
    for name, letters in LETTERS.items():
        long = (letters * bounds.LETTERS)[: bounds.LETTERS]
        form = {"a": filled(letters, MOST_FORM - 100)}
        request = pb.CreateDossierRequest(
            form_json=json.dumps(form, ensure_ascii=False)[: bounds.JSON_LETTERS]
        )
        yield "a form is cleaned", name, partial(checked_form, form)
        yield "a request's bounds", name, partial(bounds.check, request)
        yield "a query is folded", name, partial(text.fold, long)
        yield "a note is cleaned", name, partial(text.typed, long)
        yield "an identifier is read", name, partial(identifiers_in, long)
        yield "a name is read", name, partial(organisation_name_of, long)
        yield "a text is shown in mail", name, partial(shown, long)
    many: dict[str, Any] = {f"f{n}": n for n in range(4_999)}
    yield "a form is cleaned", "4,999 fields", partial(checked_form, many)
    deep = "[" * 140_000
    yield "JSON is read", "140,000 brackets", partial(_read, deep)
    yield "JSON is read", "a number of 250,000 digits", partial(_read, "9" * 250_000)
    for name, query in (
        ("2,000 fields", "{" + " a" * 1_990 + "}"),
        ("1,900 levels", "{a" * 660 + "}" * 660),
        ("a long string", '{a(b:"' + "\\u0041" * 10_600 + '")}'),
        ("a block string", '{a(b:"""' + "\n  a" * 15_900 + '""")}'),
        ("commas", "{a" + "," * 63_900 + "}"),
    ):
        yield "a query is parsed", name, partial(parse, query, max_tokens=2_000, no_location=False)


def _read(document: str) -> object:
    try:
        return json.loads(document)
    except RecursionError:
        return None


def main() -> int:
    """Prints the table; 1 when a piece of work takes longer than it may."""
    table = Table("work", "input", "CPU ms of one turn")
    worst = 0.0
    for name, given, work in works():
        took = cost(work)
        worst = max(worst, took)
        table.add_row(name, given, f"{took:.1f}", style="red" if took > MOST else None)
    Console(width=100).print(table)
    print(f"worst: {worst:.1f} ms, at most {MOST:.0f}")
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main())
