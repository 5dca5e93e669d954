"""Another e-mail or phone needs the password, and whoever was reached by the old one learns of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kit.ids import uuid7
from motcua.identity.v1 import identity_pb2 as idp
from tests.contract.conftest import World

Eventually = Callable[..., Awaitable[Any]]
PASSWORD = "một mật khẩu dài"


async def official(world: World) -> tuple[str, str]:
    """A new official's id and old address; `world.tokens["changing"]` is theirs."""
    username, email = f"doi.email.{uuid7()[-12:]}", f"cu.{uuid7()}@example.vn"
    made = idp.CreateOfficialRequest(name="Cán Bộ", username=username, password=PASSWORD, email=email)
    account = (await world.do("IdentityService.CreateOfficial", made, "admin")).account
    sign_in = idp.SignInRequest(identifier=username, password=PASSWORD)
    tokens = (await world.do("IdentityService.SignIn", sign_in, "nobody")).tokens
    world.tokens["changing"] = tokens.access_token
    return account.id, email


@pytest.mark.proof("9.7")
@pytest.mark.parametrize("field", ["email", "phone"])
async def test_a_session_alone_changes_no_contact(world: World, field: str) -> None:
    await official(world)
    change = idp.UpdateProfileRequest(
        **{field: {"email": "ke.gian@example.vn", "phone": "0909000999"}[field]}
    )
    outcome = await world.call("IdentityService.UpdateProfile", change, "changing")
    assert outcome.code == "INVALID_ARGUMENT"
    assert [wrong.reason for wrong in outcome.error.violations] == ["CURRENT_PASSWORD_REQUIRED"]  # type: ignore[union-attr]
    change.current_password = "not the password"
    outcome = await world.call("IdentityService.UpdateProfile", change, "changing")
    assert [wrong.reason for wrong in outcome.error.violations] == ["CURRENT_PASSWORD_WRONG"]  # type: ignore[union-attr]
    language = idp.UpdateProfileRequest(locale="en")
    assert (await world.call("IdentityService.UpdateProfile", language, "changing")).code == "OK"


@pytest.mark.proof("9.7")
async def test_the_old_address_learns_of_a_new_one(world: World, eventually: Eventually) -> None:
    assert "current_password" in idp.UpdateProfileRequest.DESCRIPTOR.fields_by_name, (
        "no password is asked for"
    )
    account, old = await official(world)
    change = idp.UpdateProfileRequest(email=f"moi.{uuid7()}@example.vn", current_password=PASSWORD)
    await world.do("IdentityService.UpdateProfile", change, "changing")
    database = next(world.mongo[name] for name in world.databases if name.startswith("contract_notify"))

    def told() -> Any:
        return next(
            (
                one["state"]
                for one in database["notices"].find({"recipient": account})
                if "contact_changed" in str(one)
            ),
            None,
        )

    notice = await eventually(told)
    assert notice["kind"] == "contact_changed"
    assert notice["addresses"]["email"] == old
