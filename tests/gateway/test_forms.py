"""The form of a dossier: its numbers are what they were, and a list loads it only where it is asked for."""

from __future__ import annotations

from typing import Any

import pytest

FORM = {"number": 9007199254740993, "whole": 5}


@pytest.mark.parametrize("spare", [" ", ","])
async def test_a_query_has_no_more_letters_than_can_be_read_at_once(gateway: Any, spare: str) -> None:
    answer = (await gateway.ask("{ viewer { id } }" + spare * 64_000)).json()
    assert answer["errors"][0]["extensions"]["reason"] == "TOO_MANY_TOKENS"
    assert "errors" not in (await gateway.ask("{ viewer { id } }" + spare * 60_000)).json()


async def test_a_list_loads_forms_only_where_they_are_asked_for(gateway: Any, fakes: Any) -> None:
    await gateway.data("{ viewer { dossiers(first: 7) { nodes { id } } } }")
    assert fakes.calls["BatchGetDossiers"] == 0
    data = await gateway.data("{ viewer { dossiers(first: 7) { nodes { form } } } }")
    assert [node["form"] for node in data["viewer"]["dossiers"]["nodes"]] == [FORM] * 7
    assert fakes.calls["BatchGetDossiers"] == 3  # what had no room was asked for again


async def test_an_answer_with_too_many_forms_says_so_and_keeps_the_rest(gateway: Any, fakes: Any) -> None:
    fakes.form_json = '{"a": "' + "x" * 250_000 + '"}'
    fakes.dossiers = 60
    answer = (await gateway.ask("{ viewer { dossiers(first: 60) { nodes { id form } } } }")).json()
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"INVALID_INPUT"}
    assert {error["extensions"]["reason"] for error in answer["errors"]} == {"ANSWER_TOO_LARGE"}
    assert len(answer["data"]["viewer"]["dossiers"]["nodes"]) == 60
