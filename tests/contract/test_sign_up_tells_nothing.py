"""Sign-up tells nobody whether a phone or an e-mail is known; the one that has it is told instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kit.ids import uuid7
from motcua.identity.v1 import identity_pb2 as idp
from tests.contract.conftest import World

Eventually = Callable[..., Awaitable[Any]]
PASSWORD, OTHER = "một mật khẩu dài", "một mật khẩu khác"


def person(**contact: str) -> idp.SignUpRequest:
    number = f"0560{uuid7().replace('-', '')[-16:]}"
    digits = "".join(str(int(letter, 16) % 10) for letter in number)
    return idp.SignUpRequest(
        kind=idp.ACCOUNT_KIND_PERSON,
        name="Lê Văn Mới",
        citizen_number=f"056095{digits[-6:]}",
        password=PASSWORD,
        **contact,
    )


async def verify(world: World, account: str, person: idp.SignUpRequest, field: str) -> None:
    """They verify it, which before there was that served without."""
    if not hasattr(idp, "VerifyContactRequest"):
        return
    contact = idp.ContactKind.Value(f"CONTACT_KIND_{field.upper()}")
    purpose = idp.OneTimePurpose.Value(f"ONE_TIME_PURPOSE_VERIFY_{field.upper()}")
    wanted = idp.IssueOneTimeSecretRequest(account_id=account, purpose=purpose, contact=contact)
    secret = (await world.do("IdentityService.IssueOneTimeSecret", wanted, "service:notify")).secret
    sign_in = idp.SignInRequest(identifier=person.citizen_number, password=person.password)
    tokens = (await world.do("IdentityService.SignIn", sign_in, "nobody")).tokens
    world.tokens["verifying"] = tokens.access_token
    brought = idp.VerifyContactRequest(contact=contact, secret=secret)
    await world.do("IdentityService.VerifyContact", brought, "verifying")


@pytest.mark.proof("9.8")
@pytest.mark.parametrize("field", ["email", "phone"])
async def test_a_known_contact_gets_the_answer_of_a_new_one(
    world: World, eventually: Eventually, field: str
) -> None:
    digits = "".join(str(int(letter, 16) % 10) for letter in uuid7().replace("-", "")[-7:])
    contact = {"email": f"ai.do.{uuid7()}@example.vn"} if field == "email" else {"phone": f"093{digits}"}
    first, second = person(**contact), person(**contact)
    second.password = OTHER
    before = (await world.do("IdentityService.SignUp", first, "nobody")).account
    await verify(world, before.id, first, field)
    outcome = await world.call("IdentityService.SignUp", second, "nobody")
    assert outcome.code == "OK", outcome.reason
    after = outcome.reply.account
    assert (after.email, after.phone, after.status) == (before.email, before.phone, before.status)
    for request, account in ((first, before), (second, after)):
        sign_in = idp.SignInRequest(identifier=request.citizen_number, password=request.password)
        reply = await world.do("IdentityService.SignIn", sign_in, "nobody")
        assert reply.account.id == account.id
    notices = next(world.mongo[name]["notices"] for name in world.databases if "notify" in name)
    await eventually(
        lambda: [one for one in notices.find({"recipient": before.id}) if "contact_used" in str(one)]
    )
