"""What a request may hold, field by field."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf.message import Message

from kit import bounds
from kit.errors import InvalidInput
from motcua.catalog.v1 import catalog_pb2
from motcua.dossier.v1 import dossier_pb2, vault_pb2
from motcua.identity.v1 import identity_pb2

FIRST, AFTER = -5364662400, 7258118400  # 1800-01-01 and 2200-01-01


def told(request: Message) -> dict[str, str]:
    try:
        bounds.check(request)
    except InvalidInput as error:
        return {violation.field: violation.reason for violation in error.violations}
    return {}


def request(kind: Any, /, **fields: Any) -> Message:
    message: Message = kind(**fields)
    return message


@pytest.mark.parametrize(
    ("seconds", "taken"), [(FIRST, True), (FIRST - 1, False), (AFTER - 1, True), (AFTER, False)]
)
def test_an_instant_is_within_four_centuries(seconds: int, taken: bool) -> None:
    message = identity_pb2.GrantDelegationRequest()
    message.expire_time.seconds = seconds
    assert told(message) == ({} if taken else {"expire_time": "TIME_OUT_OF_RANGE"})


@pytest.mark.parametrize("nanos", [-1, 1_000_000_000])
def test_the_parts_of_a_second_are_parts_of_a_second(nanos: int) -> None:
    message = dossier_pb2.ExtendDeadlineRequest()
    message.new_due_time.nanos = nanos
    assert told(message) == {"new_due_time": "TIME_OUT_OF_RANGE"}


@pytest.mark.parametrize(
    ("day", "reason"),
    [
        ("", ""),
        ("1800-01-01", ""),
        ("2199-12-31", ""),
        ("1799-12-31", "DATE_OUT_OF_RANGE"),
        ("2200-01-01", "DATE_OUT_OF_RANGE"),
        ("2026-02-29", "DATE_SHAPE"),
        ("20260101", "DATE_SHAPE"),
        ("2026-W01-1", "DATE_SHAPE"),
        ("2026-01-01\n", "DATE_SHAPE"),
        ("２０２６-01-01", "DATE_SHAPE"),
    ],
)
def test_a_date_is_an_iso_date_within_four_centuries(day: str, reason: str) -> None:
    message = identity_pb2.SetRolesRequest(
        roles=[identity_pb2.Role(agency="H32"), identity_pb2.Role(valid_to=day)]
    )
    assert told(message) == ({"roles[1].valid_to": reason} if reason else {})


@pytest.mark.parametrize("letter", ["\x00", "\x1b", "\x0b", "\x7f", "\x85", "\x9f", "\ufffe", "\uffff"])
def test_no_text_has_control_characters(letter: str) -> None:
    assert told(request(dossier_pb2.HandOffRequest, note=f"a{letter}b")) == {"note": "CONTROL_CHARACTERS"}


def test_a_text_may_have_lines_and_every_letter() -> None:
    assert told(request(dossier_pb2.HandOffRequest, note="dòng 1\r\n\tdòng 2 𠀋 e\u0301 👩‍👩‍👧")) == {}


def test_texts_numbers_lists_and_maps_are_not_endless() -> None:
    assert told(request(dossier_pb2.HandOffRequest, note="ệ" * bounds.LETTERS)) == {}
    assert told(request(dossier_pb2.HandOffRequest, note="ệ" * (bounds.LETTERS + 1))) == {"note": "TOO_LONG"}
    asked = dossier_pb2.RequestPaymentRequest(quantities={"page": 2_000_000, "copy": 3})
    asked.lines.add(amount=2**53)
    asked.lines.add(amount=2**53 + 1, quantity=-1)
    asked.lines.add(amount=-1)
    assert told(asked) == dict.fromkeys(
        ("quantities.page", "lines[1].amount", "lines[1].quantity", "lines[2].amount"), "OUT_OF_RANGE"
    )
    assert told(request(dossier_pb2.BatchGetDossiersRequest, ids=["a"] * 1_001)) == {"ids": "TOO_MANY"}
    many = dossier_pb2.RequestPaymentRequest(quantities={str(n): 1 for n in range(1_001)})
    assert told(many) == {"quantities": "TOO_MANY"}


def test_a_key_of_a_map_is_a_text_too() -> None:
    assert told(request(dossier_pb2.RequestPaymentRequest, quantities={"a\x00": 1})) == {
        "quantities": "CONTROL_CHARACTERS"
    }


def test_a_contract_may_say_other_bounds() -> None:
    procedure = catalog_pb2.Procedure(steps_text="a" * 200_000, name="a" * 200_000)
    assert told(catalog_pb2.PutProcedureRequest(procedure=procedure)) == {"procedure.name": "TOO_LONG"}
    assert told(request(vault_pb2.BeginUploadRequest, issue_date="hôm qua")) == {"issue_date": "DATE_SHAPE"}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_has_no_numbers_that_json_cannot_write(number: float) -> None:
    message = dossier_pb2.CreateDossierRequest()
    message.form.update({"a": [{"b": number}]})
    assert told(message) == {"form": "OUT_OF_RANGE"}


def test_json_does_not_nest_without_end() -> None:
    message = dossier_pb2.CreateDossierRequest()
    held = message.form
    for _ in range(bounds.DEPTH + 1):
        held = held.get_or_create_struct("a")
    assert told(message) == {"form": "FORM_TOO_DEEP"}


def test_json_has_no_control_characters_in_keys_or_texts() -> None:
    for form in ({"a": "\x00"}, {"\x00": "a"}, {"a": ["b", "\x9f"]}):
        message = dossier_pb2.CreateDossierRequest()
        message.form.update(form)
        assert told(message) == {"form": "CONTROL_CHARACTERS"}


def test_not_more_violations_are_told_than_can_be_read() -> None:
    assert len(told(request(dossier_pb2.BatchGetDossiersRequest, ids=["\x00"] * 1_000))) == 50
