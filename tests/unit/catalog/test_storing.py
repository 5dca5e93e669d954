"""What is stored and sent comes back equal."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.calendar import TimeLimit, TimeUnit
from catalog.domain import (
    Case,
    Channel,
    Component,
    Content,
    FeeRule,
    Level,
    Mode,
    Problem,
    Procedure,
    Result,
    Source,
    Step,
)
from catalog.grpc_api import from_message, to_message
from kit.plain import from_plain, to_plain
from kit.text import typed

TEXT = st.text("aăâđê ơư.1/@", max_size=12).map(typed)
NAME = TEXT.map(lambda text: " ".join(f"x {text}".split()))
DATES = st.none() | st.dates(date(2020, 1, 1), date(2030, 1, 1))
LIMITS = st.builds(TimeLimit, st.integers(0, 3660), st.sampled_from(TimeUnit))
FORMS = st.just("") | st.dictionaries(
    TEXT,
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | TEXT | st.lists(TEXT, max_size=2),
    min_size=1,
).map(lambda form: json.dumps(form, ensure_ascii=False, sort_keys=True))


def some(element: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(element, max_size=3).map(tuple)


FEES = st.builds(
    FeeRule,
    NAME,
    st.sampled_from(Channel),
    st.integers(0, 10**9),
    TEXT,
    st.integers(1, 9),
    st.integers(0, 10**9),
    st.integers(0, 100),
    DATES,
    DATES,
)
COUNTS = st.integers(0, 9)
COMPONENTS = st.builds(Component, TEXT, TEXT, COUNTS, COUNTS, st.booleans(), TEXT, some(TEXT))
CONTENTS = st.builds(
    Content,
    name=NAME,
    field=NAME,
    levels=st.lists(st.sampled_from(Level), unique=True, max_size=4).map(tuple),
    modes=some(st.builds(Mode, st.sampled_from(Channel), st.none() | LIMITS, TEXT, TEXT, TEXT)),
    audience=some(TEXT),
    fees=some(FEES),
    cases=some(st.builds(Case, TEXT, TEXT, some(COMPONENTS))),
    steps=some(st.builds(Step, TEXT, TEXT, TEXT, TEXT, TEXT, COUNTS)),
    results=some(st.builds(Result, TEXT, TEXT, TEXT)),
    legal_bases=some(TEXT),
    form=FORMS,
    refundable_on_rejection=st.booleans(),
)
NOW = datetime(2026, 11, 23, 5, tzinfo=UTC)


@given(CONTENTS, st.sampled_from(Source), st.dates(date(2020, 1, 1), date(2030, 1, 1)), st.booleans())
def test_a_procedure_is_stored_and_read_back_equal(
    content: Content, source: Source, begin: date, flagged: bool
) -> None:
    procedure = Procedure("1.001193")
    procedure.put(content, source=source, effective_from=begin, effective_to=None, at=NOW)
    procedure.events.clear()
    stored = json.loads(json.dumps(to_plain(procedure)))
    assert from_plain(Procedure, stored) == procedure


@given(CONTENTS, st.dates(date(2020, 1, 1), date(2030, 1, 1)))
def test_a_version_sent_to_a_client_and_back_says_the_same(content: Content, begin: date) -> None:
    procedure = Procedure("1.001193")
    procedure.put(content, source=Source.CURATED, effective_from=begin, effective_to=begin, at=NOW)
    draft = from_message(to_message("1.001193", procedure.versions[0]))
    assert draft.content.fingerprint == content.fingerprint
    assert (draft.effective_from, draft.effective_to, draft.curated) == (begin, begin, True)


@pytest.mark.parametrize("source", Source)
def test_only_curated_versions_can_be_filed(source: Source) -> None:
    procedure = Procedure("1.001193")
    content = Content(
        "x", "y", (), (), problems=(Problem("modes[0].fee", "Miễn phí", "FEE_FREE_UNCONFIRMED"),)
    )
    procedure.put(content, source=source, effective_from=NOW.date(), effective_to=None, at=NOW)
    message = to_message("1.001193", procedure.versions[0])
    assert message.curated is (source is Source.CURATED)
    assert [(p.code, p.raw) for p in message.problems] == [("1.001193", "Miễn phí")]
