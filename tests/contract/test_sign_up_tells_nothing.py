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
    outcome = await world.call("IdentityService.SignUp", second, "nobody")
    assert outcome.code == "OK", outcome.reason
    after = outcome.reply.account
    assert (after.email, after.phone, after.status) == (before.email, before.phone, before.status)
    [known_as] = contact.values()
    for password, account in ((PASSWORD, before), (OTHER, after)):
        sign_in = idp.SignInRequest(identifier=known_as, password=password)
        reply = await world.do("IdentityService.SignIn", sign_in, "nobody")
        assert reply.account.id == account.id
    notices = next(world.mongo[name]["notices"] for name in world.databases if "notify" in name)
    await eventually(
        lambda: [one for one in notices.find({"recipient": before.id}) if "contact_used" in str(one)]
    )
