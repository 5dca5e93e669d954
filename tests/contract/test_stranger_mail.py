"""What a stranger types reaches nobody in official mail, and nobody learns from us whose a number is."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from motcua.identity.v1 import identity_pb2 as idp

World = Any
PASSWORD = "một mật khẩu dài"
_serial = itertools.count(1)


def _sign_up(name: str, **more: Any) -> idp.SignUpRequest:
    at = next(_serial)
    return idp.SignUpRequest(
        **{
            "kind": idp.ACCOUNT_KIND_PERSON,
            "name": name,
            "citizen_number": f"056087{at:06d}",
            "phone": f"0938{at:06d}",
            "password": PASSWORD,
            **more,
        }
    )


def _ask(identifier: str) -> idp.GrantDelegationRequest:
    made = idp.GrantDelegationRequest(delegate_identifier=identifier, scopes=[idp.DELEGATION_SCOPE_READ])
    made.expire_time.FromDatetime(datetime.now(UTC) + timedelta(days=3))
    return made


@pytest.mark.proof("9.4")
@pytest.mark.parametrize(
    "name",
    [
        "nhận 500.000đ tại http://vay.example",
        "Nhận quà tại evil.com",
        "t.me",
        "<b>An</b>",
        "Gọi 0901000101",
        "Gọi ٠٩٠١٠٠٠١٠١",
        "a@b.vn",
        "An " + "\u0301" * 20,
    ],
)
async def test_no_person_signs_up_with_a_message_for_a_name(world: World, name: str) -> None:
    answer = await world.call("IdentityService.SignUp", _sign_up(name), "nobody")
    assert answer.code == "INVALID_ARGUMENT"
    assert [violation.field for violation in answer.error.violations] == ["name"]


@pytest.mark.proof("9.4")
async def test_no_organisation_and_no_agency_is_called_after_an_address(world: World) -> None:
    company = _sign_up(
        "Công ty vay-tien.com", kind=idp.ACCOUNT_KIND_ORGANISATION, citizen_number="", tax_code="0302634683"
    )
    assert (await world.call("IdentityService.SignUp", company, "nobody")).code == "INVALID_ARGUMENT"
    agency = idp.Agency(
        code="H32.15.7X",
        name="UBND <a href=//evil.com>",
        level=idp.AGENCY_LEVEL_COMMUNE,
        parent="H32.15",
        valid_from="2025-07-01",
    )
    answer = await world.call("IdentityService.PutAgency", idp.PutAgencyRequest(agency=agency), "admin")
    assert answer.code == "INVALID_ARGUMENT"


async def test_an_organisation_may_have_a_number_for_a_name(world: World) -> None:
    company = _sign_up(
        "Công ty TNHH 36", kind=idp.ACCOUNT_KIND_ORGANISATION, citizen_number="", tax_code="0302634683"
    )
    assert (await world.call("IdentityService.SignUp", company, "nobody")).code == "OK"


@pytest.mark.proof("9.4")
async def test_asking_for_a_delegation_tells_nobody_whether_there_is_somebody(world: World) -> None:
    known = await world.call("IdentityService.GrantDelegation", _ask("079090000101"), "stranger")
    unknown = await world.call("IdentityService.GrantDelegation", _ask("079090999888"), "stranger")
    assert (known.code, known.reason) == (unknown.code, unknown.reason) == ("OK", "")
    assert known.reply.delegation.delegate_id == unknown.reply.delegation.delegate_id == ""


@pytest.mark.proof("9.4")
async def test_nothing_begins_before_the_delegate_accepts(world: World) -> None:
    await world.call("IdentityService.GrantDelegation", _ask("001085000202"), "owner")
    sides = {"principal_id": world.ids["owner"], "delegate_id": world.ids["stranger"]}
    check = idp.CheckDelegationRequest(**sides, scope=idp.DELEGATION_SCOPE_READ)
    assert not (await world.do("IdentityService.CheckDelegation", check, "service:dossier")).allowed
    account = idp.GetAccountRequest(id=world.ids["owner"])
    seen = await world.call("IdentityService.GetAccount", account, "stranger")
    assert seen.reply is None or not seen.reply.account.name


@pytest.mark.proof("9.4")
async def test_there_is_one_open_request_a_pair(world: World) -> None:
    answers = [
        await world.call("IdentityService.GrantDelegation", _ask("056087900001"), "owner") for _ in range(2)
    ]
    assert [answer.code for answer in answers] == ["OK", "ALREADY_EXISTS"]
