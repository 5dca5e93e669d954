"""No official has what identifies a person from identity itself, whatever their role."""

from __future__ import annotations

from typing import Any

import pytest

from motcua.identity.v1 import identity_pb2 as idp

OFFICIALS = ("roleless", "elsewhere", "reception", "examiner", "leader", "clerk", "cashier", "admin")


@pytest.mark.proof("9.6")
@pytest.mark.parametrize("who", OFFICIALS)
async def test_an_official_sees_the_name_of_a_person_and_masked_identifiers(world: Any, who: str) -> None:
    owner = world.ids["owner"]
    own = (await world.do("IdentityService.GetAccount", idp.GetAccountRequest(id=owner), "owner")).account
    one = (await world.do("IdentityService.GetAccount", idp.GetAccountRequest(id=owner), who)).account
    request = idp.BatchGetAccountsRequest(ids=[owner])
    [listed] = (await world.do("IdentityService.BatchGetAccounts", request, who)).accounts
    for seen in (one, listed):
        assert seen.name == own.name
        assert seen.citizen_number == own.citizen_number[:4] + "*" * 6 + own.citizen_number[-2:]
        for field in ("phone", "email"):
            value = getattr(own, field)
            assert not value or (getattr(seen, field) != value and "***" in getattr(seen, field))


@pytest.mark.proof("9.6")
async def test_an_official_finds_nobody_by_a_number_without_a_record(world: Any) -> None:
    request = idp.GetAccountRequest(id=world.ids["owner"])
    number = (await world.do("IdentityService.GetAccount", request, "owner")).account.citizen_number
    find = idp.FindAccountRequest(identifier=number)
    for who in OFFICIALS:
        assert (await world.call("IdentityService.FindAccount", find, who)).reason == "NOT_ALLOWED"
