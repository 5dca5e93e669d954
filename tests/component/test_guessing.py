"""Guessing passwords: tries count for the account, whatever names it, and nobody is kept out of their own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from pydantic import SecretStr

from identity.bootstrap import IdentitySettings, build
from kit import clock
from kit.errors import DomainError
from kit.ids import uuid7
from kit.status import from_rpc
from motcua.identity.v1 import identity_pb2 as pb
from motcua.identity.v1 import identity_pb2_grpc as grpc_pb

SEED = Path(__file__).parents[2] / "services/identity/seed.json"
PASSWORD = "một mật khẩu dài"
WRONG = "not the password"
TRIES = 5


class Identity:
    """A running identity, its time, and a client of it."""

    ahead = timedelta()

    _notify = ""

    def __init__(self) -> None:
        self.stub: grpc_pb.IdentityServiceAsyncStub
        self._serial = int(time.time() * 1000) % 900_000

    def now(self) -> datetime:
        return clock.to_ms(datetime.now(UTC) + self.ahead)

    async def citizen(self, **more: str) -> pb.SignUpRequest:
        """Somebody new, with every identifier there is."""
        self._serial += 1
        request = pb.SignUpRequest(
            kind=pb.ACCOUNT_KIND_PERSON,
            name="Lê Văn Mới",
            citizen_number=f"056095{self._serial:06d}",
            phone=f"090{self._serial:07d}",
            email=f"moi{self._serial}@example.vn",
            password=PASSWORD,
        )
        for field, value in more.items():
            setattr(request, field, value)
        account = (await self.stub.SignUp(request, timeout=20)).account
        await self.verify(account.id, request)
        return request

    async def verify(self, account: str, person: pb.SignUpRequest) -> None:
        """They verify their contacts, which before there was that served without."""
        if not hasattr(pb, "VerifyContactRequest"):
            return
        sign_in = pb.SignInRequest(identifier=person.citizen_number, password=person.password)
        theirs = (await self.stub.SignIn(sign_in, timeout=20)).tokens.access_token
        for contact, purpose in (
            (pb.CONTACT_KIND_PHONE, pb.ONE_TIME_PURPOSE_VERIFY_PHONE),
            (pb.CONTACT_KIND_EMAIL, pb.ONE_TIME_PURPOSE_VERIFY_EMAIL),
        ):
            secret = await self.secret(account, purpose, contact)
            request = pb.VerifyContactRequest(contact=contact, secret=secret)
            await self.stub.VerifyContact(request, timeout=20, metadata=_bearer(theirs))

    async def secret(
        self, account: str, purpose: pb.OneTimePurpose.ValueType, contact: pb.ContactKind.ValueType
    ) -> str:
        """What notify would send there."""
        if not self._notify:
            asked = pb.IssueServiceTokenRequest(service="notify", secret="secret of notify")
            self._notify = (await self.stub.IssueServiceToken(asked, timeout=20)).access_token
        request = pb.IssueOneTimeSecretRequest(account_id=account, purpose=purpose, contact=contact)
        return (
            await self.stub.IssueOneTimeSecret(request, timeout=20, metadata=_bearer(self._notify))
        ).secret

    async def try_in(self, identifier: str, password: str = WRONG, device: str = "") -> str:
        """OK, or the reason of the refusal."""
        request = pb.SignInRequest(identifier=identifier, password=password)
        if device:
            request.device_token = device
        try:
            await self.stub.SignIn(request, timeout=20)
        except grpc.aio.AioRpcError as error:
            meant = from_rpc(error)
            assert isinstance(meant, DomainError)
            self.waits = int(meant.metadata.get("retry_after", 0))
            return meant.reason
        return "OK"

    async def refused_password(self, **given: str) -> list[str]:
        """The reasons for which a sign-up is refused."""
        try:
            await self.citizen(**given)
        except grpc.aio.AioRpcError as error:
            return [wrong.reason for wrong in getattr(from_rpc(error), "violations", ())]
        return []


def _bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def identity(
    mongo_url: str, nats_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Identity]:
    running = Identity()
    settings = IdentitySettings(
        environment="test",
        mongodb_url=mongo_url,
        mongodb_database=f"identity_{uuid7()[-12:]}",
        nats_url=nats_url,
        grace=0.5,
        identity_seed=str(SEED),
        identity_signing_keys=str(tmp_path_factory.mktemp("keys") / "keys.json"),
        sign_in_tries=TRIES,
        service_secrets={"notify": SecretStr("secret of notify")},
        argon2_memory_kib=64,
        argon2_passes=1,
    )
    service = build(settings, running.now)
    await service.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        running.stub = grpc_pb.IdentityServiceStub(channel)
        yield running
    await service.stop()


@pytest.fixture(autouse=True)
def _present(identity: Identity) -> None:
    identity.ahead = timedelta()


@pytest.mark.proof("9.8")
async def test_tries_count_for_the_account_whatever_names_it(identity: Identity) -> None:
    who = await identity.citizen()
    names = [who.phone, who.email, who.citizen_number, "+84" + who.phone[1:], who.email.upper()]
    assert [await identity.try_in(name) for name in names] == ["INVALID_CREDENTIALS"] * TRIES
    assert [await identity.try_in(name) for name in names] == ["TOO_MANY_ATTEMPTS"] * TRIES


@pytest.mark.proof("9.8")
async def test_each_further_try_waits_longer_and_a_right_password_ends_the_waiting(
    identity: Identity,
) -> None:
    who = await identity.citizen()
    waits = []
    for _ in range(TRIES):
        await identity.try_in(who.phone)
    for _ in range(14):
        assert await identity.try_in(who.phone) == "TOO_MANY_ATTEMPTS"
        waits.append(identity.waits)
        identity.ahead += timedelta(seconds=identity.waits)
        assert await identity.try_in(who.phone) == "INVALID_CREDENTIALS"
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1, 900)
    identity.ahead += timedelta(seconds=900)
    assert await identity.try_in(who.phone, PASSWORD) == "OK"
    assert await identity.try_in(who.phone) == "INVALID_CREDENTIALS"


@pytest.mark.proof("9.8")
async def test_a_known_device_gets_in_while_others_guess(identity: Identity) -> None:
    assert "device_token" in pb.SignInResponse.DESCRIPTOR.fields_by_name, "no device is known"
    who, other = await identity.citizen(), await identity.citizen()
    request = pb.SignInRequest(identifier=who.phone, password=PASSWORD)
    device = (await identity.stub.SignIn(request, timeout=20)).device_token
    for _ in range(TRIES + 1):
        await identity.try_in(who.email)
    assert await identity.try_in(who.phone, PASSWORD) == "TOO_MANY_ATTEMPTS"
    assert await identity.try_in(who.phone, PASSWORD, "x" * 43) == "TOO_MANY_ATTEMPTS"
    assert await identity.try_in(who.phone, PASSWORD, device) == "OK"
    # It is a device of that account only, and guesses on it count as well.
    for _ in range(TRIES):
        assert await identity.try_in(other.phone, device=device) == "INVALID_CREDENTIALS"
        assert await identity.try_in(who.phone, device=device) == "INVALID_CREDENTIALS"
    assert await identity.try_in(other.phone, PASSWORD, device) == "TOO_MANY_ATTEMPTS"
    assert await identity.try_in(who.phone, PASSWORD, device) == "TOO_MANY_ATTEMPTS"


async def test_later_claims_of_the_number_push_no_known_device_out(identity: Identity) -> None:
    person = await identity.citizen()
    request = pb.SignInRequest(identifier=person.citizen_number, password=PASSWORD)
    device = (await identity.stub.SignIn(request, timeout=20)).device_token
    for number in range(4):
        await identity.citizen(citizen_number=person.citizen_number, password=f"kẻ đến sau thứ {number} nhé")
    request.device_token = device
    signed_in = await identity.stub.SignIn(request, timeout=20)
    assert signed_in.tokens.access_token


@pytest.mark.proof("9.8")
async def test_a_link_gets_in_however_many_wrong_tries_others_make(
    identity: Identity, eventually: Callable[..., Awaitable[Any]]
) -> None:
    assert hasattr(pb, "ResetPasswordRequest"), "a forgotten password is lost"
    who, new = await identity.citizen(), "một mật khẩu mới tinh"
    sign_in = pb.SignInRequest(identifier=who.citizen_number, password=PASSWORD)
    account = (await identity.stub.SignIn(sign_in, timeout=20)).account.id

    async def guess() -> None:
        for _ in range(TRIES + 1):
            await identity.try_in(who.citizen_number)

    async def link() -> str:
        """What the owner gets when they have asked, by whatever names the account."""
        asked = pb.RequestPasswordResetRequest(identifier=who.phone)
        await identity.stub.RequestPasswordReset(asked, timeout=20)
        with contextlib.suppress(grpc.aio.AioRpcError):  # it is asked for after the answer
            return await identity.secret(account, pb.ONE_TIME_PURPOSE_RESET_PASSWORD, pb.CONTACT_KIND_EMAIL)
        return ""

    await guess()
    assert await identity.try_in(who.email, PASSWORD) == "TOO_MANY_ATTEMPTS"
    first = await eventually(link)
    for _ in range(10):  # somebody asks on and on, so that the owner's link should not work
        await link()
    reset = pb.ResetPasswordRequest(token=first, new_password=new)
    device = (await identity.stub.ResetPassword(reset, timeout=20)).device_token
    await guess()
    assert await identity.try_in(who.email, new) == "TOO_MANY_ATTEMPTS"
    assert await identity.try_in(who.email, new, device) == "OK"
    with pytest.raises(grpc.aio.AioRpcError) as used:
        await identity.stub.ResetPassword(reset, timeout=20)
    assert "RESET_LINK_INVALID" in str(from_rpc(used.value))
    later = await identity.citizen()
    assert await identity.try_in(later.phone, PASSWORD) == "OK"


@pytest.mark.proof("9.8")
async def test_a_link_runs_out(identity: Identity, eventually: Callable[..., Awaitable[Any]]) -> None:
    assert hasattr(pb, "ResetPasswordRequest"), "a forgotten password is lost"
    who = await identity.citizen()
    sign_in = pb.SignInRequest(identifier=who.citizen_number, password=PASSWORD)
    account = (await identity.stub.SignIn(sign_in, timeout=20)).account.id
    asked = pb.RequestPasswordResetRequest(identifier=who.email)
    await identity.stub.RequestPasswordReset(asked, timeout=20)

    async def link() -> str:
        try:
            return await identity.secret(account, pb.ONE_TIME_PURPOSE_RESET_PASSWORD, pb.CONTACT_KIND_EMAIL)
        except grpc.aio.AioRpcError as error:
            if "NOTHING_ASKED" not in str(from_rpc(error)):
                raise
            return ""

    reset = pb.ResetPasswordRequest(token=await eventually(link), new_password="một mật khẩu mới tinh")
    identity.ahead = timedelta(minutes=30)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await identity.stub.ResetPassword(reset, timeout=20)
    assert "RESET_LINK_INVALID" in str(from_rpc(late.value))
    assert await link() == "", "the request has run out, too"


async def test_an_unknown_identifier_is_slowed_in_the_same_way(identity: Identity) -> None:
    reasons = [await identity.try_in("0388000222") for _ in range(TRIES + 1)]
    assert reasons == ["INVALID_CREDENTIALS"] * TRIES + ["TOO_MANY_ATTEMPTS"]
    assert identity.waits == 1


@pytest.mark.proof("9.8")
@pytest.mark.parametrize(
    "password",
    [
        "P@ssw0rd2026!",
        "Iloveyou2026",
        "qwertyuiop[]",
        "Matkhau@2026",
        "Vietnam2026@",
        "LêVănMới1995",
        "abcd1234!@#$",
    ],
)
async def test_common_and_derived_passwords_are_refused(identity: Identity, password: str) -> None:
    reasons = await identity.refused_password(password=password)
    assert set(reasons) & {"PASSWORD_COMMON", "PASSWORD_IS_IDENTIFIER"}, password


@pytest.mark.parametrize(
    "password", ["một mật khẩu dài", "x7#kQ9!pLm2", "biển xanh cát trắng", "4@8({<369|!1" * 10]
)
async def test_a_password_that_is_hard_to_guess_is_taken(identity: Identity, password: str) -> None:
    assert await identity.refused_password(password=password) == []
