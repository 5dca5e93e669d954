"""Page tokens and stored values."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import clock
from kit.errors import InvalidInput
from kit.paging import make_token, narrowed, read_token
from kit.plain import from_plain, to_plain


@given(st.one_of(st.text(max_size=100), st.integers(-(2**63) + 1, 2**63 - 1)), st.uuids().map(str))
def test_a_token_says_where_its_page_ended(value: Any, created: str) -> None:
    assert read_token(make_token("due", value, created), "due") == (value, created)


@given(st.one_of(st.text(), st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode())))
def test_any_other_text_is_refused(token: str) -> None:
    with pytest.raises(InvalidInput, match="INVALID_PAGE_TOKEN"):
        read_token(token, "due")


@pytest.mark.parametrize(
    "inside",
    [
        *(5, None, {}, [], "abc"),
        ["due", 1],
        ["due", None, "x"],
        ["due", 2**70, "x"],
        ["size", 1, "x"],
        ["due", "\ud800", "x"],
        ["due", 1, "\ud800"],
    ],
)
def test_a_forged_token_is_refused(inside: Any) -> None:
    with pytest.raises(InvalidInput):
        read_token(base64.urlsafe_b64encode(json.dumps(inside).encode()).decode(), "due")


def test_going_on_keeps_the_narrower_limit() -> None:
    assert narrowed({"a": 1}, "due", "$lt", 5) == {"a": 1, "due": {"$lt": 5}}
    assert narrowed({"due": {"$gte": 1, "$lt": 3}}, "due", "$lt", 5) == {"due": {"$gte": 1, "$lt": 3}}
    assert narrowed({"due": {"$gt": 3}}, "due", "$gt", 5) == {"due": {"$gt": 5}}
    assert narrowed({"due": 4}, "due", "$lt", 5) == {"due": {"$in": [4], "$lt": 5}}


def test_what_does_not_fit_is_told_without_its_value() -> None:
    with pytest.raises(ValueError, match=r"Line: amount: int_parsing; at: \w+$") as caught:
        from_plain(Line, {"amount": "079190000001a", "at": "Nguyễn Văn An"})
    assert caught.value.__context__ is None, "a log would show it as well"


class State(Enum):
    NEW = 1
    DONE = 9


@dataclass(frozen=True)
class Line:
    amount: int
    at: datetime
    on: date | None = None


@dataclass
class Whole:
    state: State
    lines: tuple[Line, ...]
    by_state: dict[State, Line] = field(default_factory=dict)
    marks: frozenset[str] = frozenset()
    free: dict[str, Any] = field(default_factory=dict)


LINES = st.builds(
    Line,
    st.integers(-(2**62), 2**62),
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)).map(clock.to_ms),
    st.none() | st.dates(),
)


@given(
    st.builds(
        Whole,
        st.sampled_from(State),
        st.lists(LINES, max_size=3).map(tuple),
        st.just({}),
        st.frozensets(st.text(max_size=5), max_size=3),
        st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.text() | st.lists(st.integers())),
    )
)
def test_what_is_stored_is_plain_and_comes_back_the_same(whole: Whole) -> None:
    stored = to_plain(whole)
    assert json.loads(json.dumps(stored)) == stored
    assert from_plain(Whole, stored) == whole


@pytest.mark.parametrize("value", [b"x", Decimal(1), object(), {1, b"x"}])
def test_what_must_not_be_stored_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        to_plain({"value": value})


def test_a_number_as_mongodb_gives_it_back_is_a_number() -> None:
    class Int64(int):
        pass

    stored = to_plain({"copies": Int64(2**40), "pages": [Int64(2)]})
    assert stored == {"copies": 2**40, "pages": [2]}
    assert [type(stored["copies"]), type(stored["pages"][0])] == [int, int]
