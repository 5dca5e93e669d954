"""A session that has ended writes nothing more anywhere: its access token is refused within two seconds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kit.ids import uuid7
from motcua.catalog.v1 import catalog_pb2 as cat
from motcua.dossier.v1 import dossier_pb2 as dos
from motcua.dossier.v1 import vault_pb2 as vlt
from motcua.identity.v1 import identity_pb2 as idp
from motcua.notify.v1 import notify_pb2 as ntf
from motcua.payment.v1 import payment_pb2 as pay
from tests.contract.conftest import World

Eventually = Callable[..., Awaitable[Any]]
SOON = 2.0  # seconds
PASSWORD = "một mật khẩu dài"
WRITES = {
    "IdentityService.UpdateProfile": idp.UpdateProfileRequest(locale="en"),
    "CatalogService.PutProcedure": cat.PutProcedureRequest(),
    "DossierService.CreateDossier": dos.CreateDossierRequest(),
    "VaultService.BeginUpload": vlt.BeginUploadRequest(),
    "PaymentService.RefundPayment": pay.RefundPaymentRequest(),
    "NotifyService.MarkNoticesRead": ntf.MarkNoticesReadRequest(),
}
PROFILE = 'mutation { updateProfile(input: {locale: "en"}) { __typename } }'


class Person:
    """An official of the test's own, with sessions that go by names."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.username = f"het.phien.{uuid7()[-12:]}"
        self.refresh: dict[str, str] = {}

    async def open(self) -> None:
        request = idp.CreateOfficialRequest(name="Cán Bộ", username=self.username, password=PASSWORD)
        self.id = (await self.world.do("IdentityService.CreateOfficial", request, "admin")).account.id

    async def sign_in(self, name: str) -> None:
        request = idp.SignInRequest(identifier=self.username, password=PASSWORD)
        tokens = (await self.world.do("IdentityService.SignIn", request, "nobody")).tokens
        self.world.tokens[name], self.refresh[name] = tokens.access_token, tokens.refresh_token

    async def ends(self, how: str) -> None:
        do = self.world.do
        if how == "sign-out":
            await do("IdentityService.SignOut", idp.SignOutRequest(), "ending")
        elif how == "sign-out everywhere":
            await do("IdentityService.SignOut", idp.SignOutRequest(everywhere=True), "other")
        elif how == "lock":
            lock = idp.SetAccountStatusRequest(account_id=self.id, status=idp.ACCOUNT_STATUS_LOCKED)
            await do("IdentityService.SetAccountStatus", lock, "admin")
        elif how == "new password":
            change = idp.ChangePasswordRequest(current_password=PASSWORD, new_password=PASSWORD + " mới")
            await do("IdentityService.ChangePassword", change, "other")
        else:
            refresh = idp.RefreshSessionRequest(refresh_token=self.refresh["ending"])
            first = (await do("IdentityService.RefreshSession", refresh, "nobody")).tokens
            again = idp.RefreshSessionRequest(refresh_token=first.refresh_token)
            await do("IdentityService.RefreshSession", again, "nobody")
            outcome = await self.world.call("IdentityService.RefreshSession", refresh, "nobody")
            assert outcome.reason == "SESSION_ENDED"


@pytest.mark.proof("9.7")
@pytest.mark.parametrize("how", ["sign-out", "sign-out everywhere", "lock", "new password", "token reuse"])
async def test_an_ended_session_writes_nowhere(world: World, eventually: Eventually, how: str) -> None:
    person = Person(world)
    await person.open()
    await person.sign_in("ending")
    await person.sign_in("other")
    for rpc, message in WRITES.items():
        assert (await world.call(rpc, message, "ending")).code != "UNAUTHENTICATED", rpc
    await person.ends(how)

    async def refused_everywhere() -> bool:
        outcomes = [await world.call(rpc, message, "ending") for rpc, message in WRITES.items()]
        told = await world.graphql(PROFILE, who="ending")
        return {(one.code, one.reason) for one in outcomes} == {
            ("UNAUTHENTICATED", "SESSION_ENDED")
        } and told.status_code == 401

    await eventually(refused_everywhere, within=SOON, message=f"after {how} it still writes")
    kept = how in ("sign-out", "new password", "token reuse")
    outcome = await world.call(
        "IdentityService.UpdateProfile", WRITES["IdentityService.UpdateProfile"], "other"
    )
    assert outcome.code == ("OK" if kept else "UNAUTHENTICATED")
