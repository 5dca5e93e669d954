"""Guessing passwords: tries count for the account, whatever names it, and nobody is kept out of their own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

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
        await self.stub.SignUp(request, timeout=20)
        return request

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
