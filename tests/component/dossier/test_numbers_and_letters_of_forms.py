"""What a form says comes back as it was sent: its numbers exact, its texts without what nobody can see."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kit.errors import InvalidInput
from motcua.catalog.v1 import catalog_pb2 as cat
from motcua.dossier.v1 import dossier_pb2 as pb

WARD = "H32.15"
CODE = "1.001616"


@pytest.fixture(autouse=True)
def numbers(world: Any) -> None:
    """A procedure that asks for numbers and names."""
    made = cat.Procedure()
    made.CopyFrom(world.catalog.procedures["1.001193"])
    made.code = CODE
    made.form.Clear()
    properties: dict[str, Any] = {
        "a": {},
        "b": {},
        "name": {"type": "string"},
        "citizen": {"type": "string", "pattern": "^[0-9]{12}$"},
    }
    made.form.update({"type": "object", "properties": properties, "required": ["name"]})
    world.catalog.procedures[CODE] = made


async def draft(world: Any, who: str, form: str) -> pb.Dossier:
    request = pb.CreateDossierRequest(procedure_code=CODE, receiving_agency=WARD)
    assert "form_json" in pb.CreateDossierRequest.DESCRIPTOR.fields_by_name
    request.form_json = form
    made = (await world.call("CreateDossier", who, request)).dossier
    assert isinstance(made, pb.Dossier)
    return made


@pytest.mark.proof("9.16")
async def test_every_number_is_the_one_that_was_sent(world: Any, anh: str) -> None:
    form = '{"a": [9007199254740993, 5, 5.5, -9223372036854775808], "b": {}, "name": "An"}'
    made = await draft(world, anh, form)
    assert made.form_json == form
    assert (await world.get(anh, made.id)).form_json == form


@pytest.mark.proof("9.16")
async def test_a_number_that_somebody_would_round_is_refused(world: Any, anh: str) -> None:
    assert "form_json" in pb.CreateDossierRequest.DESCRIPTOR.fields_by_name
    for number in ("9223372036854775808", "1e30", "1e400", "NaN", "9" * 5000):
        request = pb.CreateDossierRequest(
            procedure_code=CODE, receiving_agency=WARD, form_json=f'{{"a": {number}}}'
        )
        error = await world.refused("CreateDossier", anh, request)
        assert next(v.reason for v in error.violations) in ("NUMBER_OUT_OF_RANGE", "NOT_JSON")


@pytest.mark.proof("9.16")
async def test_letters_that_nobody_sees_neither_fill_a_field_nor_spoil_a_number(world: Any, anh: str) -> None:
    request = pb.CreateDossierRequest(procedure_code=CODE, receiving_agency=WARD)
    request.form.update({"name": "\u3164\u2800\u200b", "citizen": "\u200b079123456789\n"})
    made = (await world.call("CreateDossier", anh, request)).dossier
    error = await world.refused("SubmitDossier", anh, pb.SubmitDossierRequest(id=made.id))
    told = [(v.field, v.reason) for v in error.violations if v.field.startswith("/form")]
    assert told == [("/form/name", "REQUIRED")]


async def test_a_form_is_an_object_of_json_within_limits(world: Any, anh: str) -> None:
    for form, reason in (
        ("[1]", "JSON_INVALID"),
        ("{", "NOT_JSON"),
        ("[" * 100_000, "NOT_JSON"),
        (json.dumps({"a": list(range(6_000))}), "FORM_TOO_LARGE"),
        (json.dumps({"a": "ế" * 90_000}, ensure_ascii=False), "FORM_TOO_LARGE"),
        ('{"a":' * 20 + "1" + "}" * 20, "FORM_TOO_DEEP"),
    ):
        request = pb.CreateDossierRequest(procedure_code=CODE, receiving_agency=WARD, form_json=form)
        error = await world.refused("CreateDossier", anh, request)
        assert reason in (error.reason, *(v.reason for v in error.violations)), form[:50]


@pytest.mark.proof("9.15")
async def test_a_key_that_the_form_does_not_know_is_refused_at_the_draft(world: Any, anh: str) -> None:
    request = pb.CreateDossierRequest(procedure_code=CODE, receiving_agency=WARD)
    request.form.update({"name": "An", "ballast": "x" * 1000})
    with pytest.raises(InvalidInput) as refused:
        await world.call("CreateDossier", anh, request)
    assert [(v.field, v.reason) for v in refused.value.violations] == [("/form/ballast", "UNKNOWN_KEY")]


@pytest.mark.proof("9.15")
async def test_a_list_of_large_drafts_carries_no_forms_and_a_batch_is_bounded(world: Any, anh: str) -> None:
    made = []
    for _ in range(12):
        request = pb.CreateDossierRequest(procedure_code=CODE, receiving_agency=WARD)
        request.form.update({"name": "x" * 240_000})
        made.append((await world.call("CreateDossier", anh, request)).dossier.id)
    listed = await world.call("ListDossiers", anh, pb.ListDossiersRequest(page_size=80))
    assert {dossier.id for dossier in listed.dossiers} >= set(made)
    assert listed.ByteSize() < 100_000
    asked = pb.BatchGetDossiersRequest(ids=made, with_forms=True)
    answer = await world.call("BatchGetDossiers", anh, asked)
    assert [d.id for d in answer.dossiers] + list(answer.left_out_ids) == made
    assert answer.left_out_ids
    assert answer.ByteSize() < 4_000_000
    assert all(len(d.form_json) > 240_000 for d in answer.dossiers)
