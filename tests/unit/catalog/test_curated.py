"""The procedures that ship with the project."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from catalog.domain import Channel, check
from catalog.grpc_api import from_message
from catalog.handlers import Draft
from catalog.load import curated
from kit import schemas

DRAFTS = {message.code: from_message(message) for message in curated()}
EVERY = pytest.mark.parametrize("draft", DRAFTS.values(), ids=DRAFTS)


def schema(draft: Draft) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(draft.content.form)
    return made


def example(draft: Draft) -> dict[str, Any]:
    return {name: spec["examples"][0] for name, spec in schema(draft)["properties"].items()}


def test_there_are_at_least_25_and_the_ones_that_people_use_most() -> None:
    assert len(DRAFTS) >= 25
    assert {
        *("1.001193", "1.000894", "1.000656", "1.004873", "2.000635", "2.000815", "2.000884", "2.001035"),
        *("1.004222", "1.004194", "1.014063", "3.000333", "3.000347", "1.001612", "2.001199", "1.013225"),
        *("1.012784", "1.001776"),
    } <= DRAFTS.keys()


@EVERY
def test_each_can_be_filed(draft: Draft) -> None:
    check(draft.code, draft.content, curated=draft.curated, form_faults=schemas.faults(draft.content.form))
    assert draft.curated
    assert draft.content.steps[-1].role == "leader"
    assert draft.content.results
    assert draft.content.legal_bases
    assert draft.content.name_en


@EVERY
def test_each_form_takes_its_examples_and_nothing_unknown(draft: Draft) -> None:
    validator = Draft202012Validator(schema(draft), format_checker=FormatChecker())
    assert [error.message for error in validator.iter_errors(example(draft))] == []
    assert not validator.is_valid({})
    assert not validator.is_valid({**example(draft), "unknown": 1})


@EVERY
def test_each_field_of_a_form_has_a_vietnamese_title_and_a_place(draft: Draft) -> None:
    fields = schema(draft)["properties"].values()
    assert all(spec["title"] and spec["x-title-en"] for spec in fields)
    assert sorted(spec["x-order"] for spec in fields) == list(range(1, len(fields) + 1))


def test_some_go_through_several_agencies() -> None:
    between = {
        code: [step.agency for step in draft.content.steps if step.agency] for code, draft in DRAFTS.items()
    }
    assert between["2.000635"] == ["H32.05"]
    assert sum(bool(agencies) for agencies in between.values()) >= 5
    assert len(DRAFTS["2.000635"].content.steps) == 3


def test_refunds_follow_the_rule_of_the_procedure() -> None:
    assert DRAFTS["2.000635"].content.refundable_on_rejection
    assert not DRAFTS["1.001612"].content.refundable_on_rejection


@pytest.mark.parametrize(
    ("code", "amount", "unit"),
    [
        ("1.001193", 1, "day"),
        ("1.004222", 7, "working_day"),
        ("1.004194", 3, "working_day"),
        ("1.014063", 7, "working_day"),
        ("3.000333", 10, "day"),
        ("3.000347", 5, "working_day"),
        ("1.001612", 3, "working_day"),
        ("1.013225", 20, "day"),
        ("1.012784", 12, "working_day"),
        ("1.001776", 7, "working_day"),
    ],
)
def test_the_limits_are_the_real_ones(code: str, amount: int, unit: str) -> None:
    online = next(mode for mode in DRAFTS[code].content.modes if mode.channel is Channel.ONLINE)
    assert online.time_limit is not None
    assert (online.time_limit.amount, online.time_limit.unit) == (amount, unit)
