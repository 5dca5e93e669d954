"""Versions of a procedure: which is in force, what an edit and an import do, what is refused."""

from __future__ import annotations

from dataclasses import replace
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
    ImportOutcome,
    Level,
    Mode,
    Procedure,
    Published,
    Source,
    Step,
    check,
    split_name,
)
from kit import schemas
from kit.errors import FailedPrecondition, InvalidInput, NotFound

NOW = datetime(2026, 11, 23, 5, tzinfo=UTC)
TODAY = date(2026, 11, 23)
FORM = '{"type": "object"}'
CONTENT = Content(
    name="Đăng ký khai sinh",
    field="Hộ tịch",
    levels=(Level.COMMUNE,),
    modes=(Mode(Channel.ONLINE, TimeLimit(1, TimeUnit.WORKING_DAY)),),
    steps=(Step("sign", "Ký", "Sign", "leader"),),
    form=FORM,
)


def put(
    procedure: Procedure,
    content: Content,
    begin: date,
    end: date | None = None,
    source: Source = Source.CURATED,
    shipped: bool = False,
) -> bool:
    return procedure.put(
        content, source=source, effective_from=begin, effective_to=end, at=NOW, shipped=shipped
    )


def named(name: str) -> Content:
    return replace(CONTENT, name=name)


def test_an_edit_is_a_new_version_from_its_date_and_the_old_one_stays() -> None:
    procedure = Procedure("1.001193")
    put(procedure, named("cũ"), date(2026, 1, 1))
    put(procedure, named("mới"), date(2027, 1, 1))
    before, after = procedure.in_force(date(2026, 12, 31)), procedure.in_force(date(2027, 1, 1))
    assert before is not None
    assert after is not None
    assert (before.number, after.number) == (1, 2)
    assert procedure.version(1).content.name == "cũ"
    assert procedure.events == [
        Published("1.001193", 1, "cũ", date(2026, 1, 1)),
        Published("1.001193", 2, "mới", date(2027, 1, 1)),
    ]


def test_a_version_that_has_ended_does_not_bring_the_one_before_it_back() -> None:
    procedure = Procedure("1.001193")
    put(procedure, named("cũ"), date(2026, 1, 1))
    put(procedure, named("bãi bỏ"), date(2026, 6, 1), date(2026, 12, 31))
    assert procedure.in_force(date(2027, 1, 1)) is None
    assert procedure.in_force(date(2025, 1, 1)) is None


def test_the_same_content_again_adds_nothing() -> None:
    procedure = Procedure("1.001193")
    assert put(procedure, CONTENT, TODAY)
    assert not put(procedure, CONTENT, TODAY)
    assert put(procedure, CONTENT, date(2027, 1, 1))  # other dates are another version


def test_a_shipped_file_does_not_undo_an_officials_later_edit() -> None:
    procedure = Procedure("1.001193")
    put(procedure, CONTENT, date(2025, 7, 1), shipped=True)
    put(procedure, named("sửa"), TODAY)
    for content in (CONTENT, named("bản mới của dự án")):
        assert not put(procedure, content, date(2025, 7, 1), shipped=True)
    current = procedure.in_force(TODAY)
    assert current is not None
    assert current.content.name == "sửa"


def test_a_new_release_updates_what_only_earlier_releases_have_put() -> None:
    procedure = Procedure("1.001193")
    put(procedure, CONTENT, date(2025, 7, 1), shipped=True)
    assert put(procedure, named("bản mới của dự án"), date(2025, 7, 1), shipped=True)
    assert not put(procedure, CONTENT, date(2025, 7, 1), shipped=True)


def test_versions_that_do_not_exist_are_not_found() -> None:
    for number in (0, -1, 2):
        with pytest.raises(NotFound):
            Procedure("1.001193").version(number)


def test_versions_are_bounded() -> None:
    procedure = Procedure("1.001193")
    for number in range(200):
        put(procedure, named(str(number)), TODAY)
    with pytest.raises(FailedPrecondition, match="TOO_MANY_VERSIONS"):
        put(procedure, CONTENT, TODAY)


def test_a_version_cannot_end_before_it_begins() -> None:
    with pytest.raises(InvalidInput, match="BEFORE_EFFECTIVE_FROM"):
        put(Procedure("1.001193"), CONTENT, TODAY, date(2026, 1, 1))


def take(procedure: Procedure, content: Content) -> ImportOutcome:
    return procedure.take_import(content, on=TODAY, at=NOW)


def test_an_import_creates_then_updates_then_leaves_alone() -> None:
    procedure = Procedure("1.001193")
    assert take(procedure, named("a")) is ImportOutcome.CREATED
    assert take(procedure, named("a")) is ImportOutcome.UNCHANGED
    assert take(procedure, named("b")) is ImportOutcome.UPDATED
    assert len(procedure.versions) == 2


@pytest.mark.parametrize("source", [Source.CURATED, Source.EDITED])
@pytest.mark.parametrize("begin", [date(2025, 7, 1), TODAY, date(2027, 1, 1)])
def test_an_import_never_replaces_what_people_keep_now_or_have_planned(source: Source, begin: date) -> None:
    procedure = Procedure("1.001193")
    put(procedure, CONTENT, begin, source=source)
    assert take(procedure, named("crawl")) is ImportOutcome.KEPT_CURATED
    assert len(procedure.versions) == 1


def test_curated_content_wins_over_an_import_that_came_first() -> None:
    procedure = Procedure("1.001193")
    take(procedure, named("crawl"))
    put(procedure, CONTENT, date(2025, 7, 1), shipped=True)
    current = procedure.in_force(TODAY)
    assert current is not None
    assert current.source is Source.CURATED
    assert take(procedure, named("crawl")) is ImportOutcome.KEPT_CURATED


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 28), st.booleans()), max_size=8))
def test_in_force_is_always_the_latest_begun_version_or_none(edits: list[tuple[str, int, bool]]) -> None:
    procedure = Procedure("1.001193")
    for name, day, ends in edits:
        begin = date(2026, 12, day)
        put(procedure, named(name), begin, begin if ends else None)
    for day in range(1, 29):
        on = date(2026, 12, day)
        begun = [v for v in procedure.versions if v.effective_from <= on]
        current = procedure.in_force(on)
        if current is None:
            assert not begun or begun[-1].effective_to is not None
        else:
            assert current == begun[-1]
    assert [v.number for v in procedure.versions] == list(range(1, len(procedure.versions) + 1))


def reasons(content: Content, code: str = "1.001193", curated: bool = True) -> set[str]:
    try:
        check(
            code, content, curated=curated, form_faults=schemas.faults(content.form) if content.form else ()
        )
    except InvalidInput as error:
        return {f"{v.field.removeprefix('procedure.')}:{v.reason}" for v in error.violations}
    return set()


def test_content_that_can_be_served_passes() -> None:
    assert reasons(CONTENT) == set()
    assert reasons(CONTENT, "1.001193.000.00.00.H32") == set()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (replace(CONTENT, name=" "), "name:REQUIRED"),
        (replace(CONTENT, name="x" * 2001), "name:TOO_LONG"),
        (replace(CONTENT, levels=()), "levels:REQUIRED"),
        (replace(CONTENT, steps=()), "steps:REQUIRED"),
        (replace(CONTENT, form=""), "form:REQUIRED"),
        (replace(CONTENT, form='{"type": "nonsense"}'), "form:NOT_A_SCHEMA"),
        (replace(CONTENT, form='{"type": "array"}'), "form:NOT_A_SCHEMA"),
        (replace(CONTENT, form=f'{{"type": "object", "title": "{"x" * 300_000}"}}'), "form:TOO_LONG"),
        (replace(CONTENT, modes=(Mode(Channel.ANY),)), "modes[0].channel:REQUIRED"),
        (replace(CONTENT, modes=(Mode(Channel.POST),)), "modes[0].time_limit:REQUIRED"),
        (
            replace(CONTENT, modes=(Mode(Channel.POST, TimeLimit(-1, TimeUnit.DAY)),)),
            "modes[0].time_limit.amount:OUT_OF_RANGE",
        ),
        (replace(CONTENT, steps=(Step("a", "", "", "king"),)), "steps[0].role:UNKNOWN"),
        (replace(CONTENT, steps=(Step("a", "", "", "leader"),) * 2), "steps:IDS_NOT_UNIQUE"),
        (
            replace(CONTENT, cases=(Case("", "", (Component("c", "x"), Component("c", "y"))),)),
            "components:IDS_NOT_UNIQUE",
        ),
        (replace(CONTENT, fees=(FeeRule("", Channel.ANY),)), "fees[0]:NAME_REQUIRED"),
        (replace(CONTENT, fees=(FeeRule("f", Channel.ANY, -1),)), "fees[0]:OUT_OF_RANGE"),
        (
            replace(CONTENT, fees=(FeeRule("f", Channel.ONLINE, percent_of_counter=50),)),
            "fees[0]:NO_COUNTER_FEE",
        ),
        (
            replace(
                CONTENT, fees=(FeeRule("f", Channel.ANY, 1, valid_from=TODAY, valid_to=date(2026, 1, 1)),)
            ),
            "fees[0]:ENDS_BEFORE_IT_BEGINS",
        ),
        (
            replace(CONTENT, fees=(FeeRule("f", Channel.ANY, 1), FeeRule("f", Channel.ANY, 2))),
            "fees[1]:TIERS_OVERLAP",
        ),
        (
            replace(
                CONTENT, fees=(FeeRule("f", Channel.ANY, 1, "page"), FeeRule("f", Channel.ANY, 2, "set", 3))
            ),
            "fees[1]:UNITS_DIFFER",
        ),
    ],
)
def test_content_that_cannot_be_served_is_refused(content: Content, reason: str) -> None:
    assert reason in reasons(content)


@pytest.mark.parametrize("code", ["", "1.1193", "x.001193", "1.001193@1", "1.001193 ", "../1.001193"])
def test_a_code_must_look_like_one(code: str) -> None:
    assert "code:MALFORMED" in reasons(CONTENT, code)


def test_names_of_versions_are_read_strictly() -> None:
    assert split_name("1.001193") == ("1.001193", 0)
    assert split_name("1.001193@12") == ("1.001193", 12)
    for name in ("", "@1", "1.001193@", "1.001193@0", "1.001193@-1", "1.001193@x", "1.001193@999999", "nope"):
        with pytest.raises(InvalidInput):
            split_name(name)
