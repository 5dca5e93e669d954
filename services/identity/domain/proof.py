"""Who somebody was proven to be: how, when, by whom and with which papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from identity.domain.identifiers import FieldCheck
from kit.text import fold, identifier

COUNTER: Final = "counter"
CODE: Final = "code"
PROVIDER: Final = "provider"
DEMO: Final = "demo"
PAPER_KINDS: Final = (
    "citizen_card",
    "electronic_identity",
    "passport",
    "birth_certificate",
    "business_registration",
    "establishment_decision",
    "authorisation",
    "other",
)
MOST_PAPERS: Final = 10
_NUMBER = re.compile(r"[0-9A-Za-zĐđ][0-9A-Za-zĐđ ./-]{0,38}[0-9A-Za-zĐđ]")


@dataclass(frozen=True)
class Paper:
    """A paper that an official saw: one of PAPER_KINDS, and the number that is printed on it."""

    kind: str
    number: str


@dataclass(frozen=True)
class Proof:
    """That an account belongs to whom it names.

    `kind` is COUNTER (opened by an official who saw the papers), CODE (an official saw the papers, and the
    owner of an account that was there already entered the code given out for it), PROVIDER (an identity
    provider stated the same number) or DEMO (a seeded account). `by` is the official's account or the
    provider's issuer, `agency` the official's counter. A newer release may know more kinds.
    """

    kind: str
    at: datetime
    by: str = ""
    agency: str = ""
    papers: tuple[Paper, ...] = ()


def papers_seen(check: FieldCheck, given: Sequence[tuple[str, str]]) -> tuple[Paper, ...]:
    """The papers, given as (kind, number): at least one, each with its number. Notes what is wrong."""
    if not given:
        check.wrong("papers", "REQUIRED", "the papers that were seen")
    if len(given) > MOST_PAPERS:
        check.wrong("papers", "TOO_MANY", f"at most {MOST_PAPERS}")
        return ()
    papers: dict[Paper, None] = {}
    for at, (kind, number) in enumerate(given):
        if kind not in PAPER_KINDS:
            check.wrong(f"papers[{at}].kind", "PAPER_UNKNOWN", "one of " + ", ".join(PAPER_KINDS))
        stored = identifier(number[:200])
        if not _NUMBER.fullmatch(stored):
            check.wrong(
                f"papers[{at}].number",
                "PAPER_NUMBER",
                "2 to 40 letters, digits, spaces, dots, dashes or slashes",
            )
        papers[Paper(kind, stored)] = None
    return tuple(papers)


def same_name(one: str, other: str) -> bool:
    """Whether two spellings can be one name: case, accents and spaces do not tell persons with one number
    apart."""
    return fold(one) == fold(other)
