"""Second factors on a running identity: asked for, added, used once, lost and reset."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import pyotp
import pytest
import pytest_asyncio
from pydantic import SecretStr
from pymongo import MongoClient

from identity.bootstrap import IdentitySettings, build
from kit import clock
from kit.errors import DomainError
from kit.ids import uuid7
from kit.service import CannotStart
from kit.status import from_rpc
from motcua.identity.v1 import identity_pb2 as pb
from motcua.identity.v1 import identity_pb2_grpc as grpc_pb

SEED = Path(__file__).parents[2] / "services/identity/seed.json"
PASSWORD = "một mật khẩu dài"
TRIES = 5


class Identity:
    """A running identity, its time, and a client of it."""

    ahead = timedelta()

    def __init__(self, settings: IdentitySettings) -> None:
        self.settings = settings
        self.stub: grpc_pb.IdentityServiceAsyncStub
        self.admin = ""

    def now(self) -> datetime:
        return clock.to_ms(datetime.now(UTC) + self.ahead)

    async def said(self, call: Awaitable[Any]) -> Any:
        """The answer, or the reason of the refusal: of the field, where it is one."""
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            meant = from_rpc(error)
            assert isinstance(meant, DomainError)
            fields = getattr(meant, "violations", ())
            return fields[0].reason if fields else meant.reason

    def rpc(self, name: str, token: str = "", /, **fields: Any) -> Awaitable[Any]:
        """Calls the RPC; answers what `said` does."""
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        request = getattr(pb, f"{name}Request")(**fields)
        return self.said(getattr(self.stub, name)(request, timeout=20, metadata=metadata))

    async def official(self, role: str = "leader", agency: str = "H32.15") -> tuple[str, str]:
        """A new official's username and id."""
        username = f"moi.{uuid7()[-12:]}"
        roles = [pb.Role(agency=agency, name=role)]
        made = await self.rpc(
            "CreateOfficial", self.admin, name="Cán Bộ", username=username, password=PASSWORD, roles=roles
        )
        return username, made.account.id

    def sign_in(self, username: str, device: str = "") -> Awaitable[Any]:
        return self.rpc("SignIn", identifier=username, password=PASSWORD, device_token=device)

    def code(self, secret: str, steps: int = 0) -> str:
        return pyotp.TOTP(secret).at(self.now() + timedelta(seconds=30 * steps))

    async def enrolled(self, role: str = "leader") -> Owner:
        """A new official who has just added an app, led there by the sign-in."""
        username, id = await self.official(role)
        asked = await self.sign_in(username)
        device = asked.device_token
        begun = await self.rpc(
            "BeginSecondFactor",
            way=pb.SECOND_FACTOR_WAY_TOTP,
            challenge=asked.second_factor.challenge,
            device_token=device,
        )
        added = await self.rpc(
            "CompleteSecondFactor",
            challenge=begun.challenge,
            code=self.code(begun.secret, -1),
            device_token=device,
        )
        return Owner(self, username, id, begun.secret, added, device)


class Owner:
    """An official with an authenticator app."""

    def __init__(
        self, identity: Identity, username: str, id: str, secret: str, added: Any, device: str
    ) -> None:
        self.identity, self.username, self.id, self.secret = identity, username, id, secret
        self.added, self.tokens = added, added.tokens
        self.recovery_codes = list(added.recovery_codes)
        self.device = device

    async def asked(self, device: str = "") -> Any:
        return await self.identity.sign_in(self.username, device)

    async def complete(self, asked: Any, **shown: str) -> Any:
        device = shown.pop("device", asked.device_token)
        return await self.identity.rpc(
            "CompleteSignIn", challenge=asked.second_factor.challenge, device_token=device, **shown
        )


def _settings(mongo_url: str, nats_url: str, **more: Any) -> IdentitySettings:
    return IdentitySettings(
        environment="test",
        mongodb_url=mongo_url,
        mongodb_database=f"identity_{uuid7()[-12:]}",
        nats_url=nats_url,
        grace=0.5,
        identity_seed=str(SEED),
        sign_in_tries=TRIES,
        argon2_memory_kib=64,
        argon2_passes=1,
        **more,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def identity(mongo_url: str, nats_url: str) -> AsyncIterator[Identity]:
    settings = _settings(
        mongo_url,
        nats_url,
        second_factor_keys=[SecretStr("k" * 32)],
        second_factor_required={"leader": datetime(2026, 1, 1, tzinfo=UTC)},
    )
    running = Identity(settings)
    service = build(settings, running.now)
    await service.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        running.stub = grpc_pb.IdentityServiceStub(channel)
        signed_in = await running.rpc("SignIn", identifier="quantri", password="Motcua@2026")
        running.admin = signed_in.tokens.access_token
        yield running
    await service.stop()


@pytest.fixture(autouse=True)
def _present(identity: Identity) -> None:
    identity.ahead = timedelta()


async def test_who_must_have_a_second_factor_is_led_to_add_one(identity: Identity) -> None:
    username, _ = await identity.official()
    asked = await identity.sign_in(username)
    assert not asked.HasField("tokens")
    assert not asked.HasField("account")
    assert asked.second_factor.enrol
    assert list(asked.second_factor.ways) == [pb.SECOND_FACTOR_WAY_TOTP]
    # What it got signs nobody in and is no access token.
    challenge = asked.second_factor.challenge
    assert await identity.rpc("GetAccount", challenge) == "TOKEN_INVALID"
    wrong = await identity.rpc(
        "CompleteSignIn", challenge=challenge, code="123456", device_token=asked.device_token
    )
    assert wrong == "CHALLENGE_UNKNOWN"

    owner = await identity.enrolled()
    assert len(set(owner.recovery_codes)) == 10
    claims = jwt.decode(owner.tokens.access_token, options={"verify_signature": False})
    assert claims["amr"] == ["pwd", "otp"]
    own = await identity.rpc("GetAccount", owner.tokens.access_token)
    assert own.account.id == owner.id
    listed = await identity.rpc("ListSecondFactors", owner.tokens.access_token)
    assert [one.way for one in listed.second_factors] == [pb.SECOND_FACTOR_WAY_TOTP]
    assert (listed.recovery_codes_left, listed.required) == (10, True)


async def test_the_same_code_is_refused_twice_and_the_next_one_is_taken(identity: Identity) -> None:
    owner = await identity.enrolled()
    code = identity.code(owner.secret)
    first = await owner.complete(await owner.asked(), code=code)
    assert first.tokens.access_token
    assert first.account.username == owner.username
    assert await owner.complete(await owner.asked(), code=code) == "SECOND_FACTOR_WRONG"
    asked = await owner.asked()
    assert await owner.complete(asked, code=identity.code(owner.secret, -1)) == "SECOND_FACTOR_WRONG"
    assert (await owner.complete(asked, code=identity.code(owner.secret, 1))).tokens.access_token


async def test_of_parallel_sign_ins_with_one_code_one_gets_in(identity: Identity) -> None:
    owner = await identity.enrolled()
    asked = [await owner.asked() for _ in range(4)]
    code = identity.code(owner.secret)
    answers = await asyncio.gather(*(owner.complete(each, code=code) for each in asked))
    assert sorted(isinstance(answer, str) for answer in answers) == [False, True, True, True]


async def test_a_challenge_serves_once_from_its_device_and_not_for_long(identity: Identity) -> None:
    owner, other = await identity.enrolled(), await identity.enrolled()
    asked = await owner.asked()
    assert (await owner.complete(asked, code=identity.code(owner.secret))).tokens.access_token
    assert await owner.complete(asked, code=identity.code(owner.secret, 1)) == "CHALLENGE_UNKNOWN"
    asked, code = await owner.asked(), identity.code(owner.secret, 1)
    assert await owner.complete(asked, code=code, device="x" * 43) == "CHALLENGE_UNKNOWN"
    assert await owner.complete(asked, code=code) == "CHALLENGE_UNKNOWN"  # it is burnt
    asked = await owner.asked()
    assert await owner.complete(asked, code=identity.code(other.secret)) == "SECOND_FACTOR_WRONG"
    identity.ahead += timedelta(minutes=10)
    assert await owner.complete(asked, code=identity.code(owner.secret)) == "CHALLENGE_UNKNOWN"
    for challenge in ("", "x", "x" * 43, "🙂" * 20, "../../etc"):
        answer = await identity.rpc("CompleteSignIn", challenge=challenge, code="123456")
        assert answer == "CHALLENGE_UNKNOWN", challenge


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"challenge": "c"}, "SECOND_FACTOR_MISSING"),
        ({"challenge": "c", "code": "1", "recovery_code": "2"}, "SECOND_FACTOR_MISSING"),
        ({"challenge": "c", "code": "1" * 65}, "TOO_LONG"),
        ({"challenge": "c" * 101, "code": "1"}, "TOO_LONG"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_else(
    identity: Identity, fields: dict[str, str], reason: str
) -> None:
    assert await identity.rpc("CompleteSignIn", **fields) == reason


async def test_wrong_codes_count_for_the_account_with_growing_delays(identity: Identity) -> None:
    owner = await identity.enrolled()
    # Each from a device of its own.
    answers = [await owner.complete(await owner.asked(), code="000000") for _ in range(TRIES + 1)]
    assert answers == ["SECOND_FACTOR_WRONG"] * TRIES + ["TOO_MANY_ATTEMPTS"]
    # A device that signed in before has tries of its own: nobody can keep the owner out.
    asked = await owner.asked(owner.device)
    assert (await owner.complete(asked, code=identity.code(owner.secret))).tokens.access_token


async def test_a_challenge_bears_a_few_wrong_tries(identity: Identity) -> None:
    owner = await identity.enrolled()
    asked = await owner.asked(owner.device)
    answers = [await owner.complete(asked, code="000000") for _ in range(6)]
    assert answers[:5] == ["SECOND_FACTOR_WRONG"] * 5
    assert answers[5] == "CHALLENGE_UNKNOWN"


async def test_a_recovery_code_signs_in_once(identity: Identity) -> None:
    owner = await identity.enrolled()
    code = owner.recovery_codes[3]
    signed_in = await owner.complete(await owner.asked(), recovery_code=code.lower())
    claims = jwt.decode(signed_in.tokens.access_token, options={"verify_signature": False})
    assert claims["amr"] == ["pwd", "recovery"]
    assert await owner.complete(await owner.asked(), recovery_code=code) == "SECOND_FACTOR_WRONG"
    listed = await identity.rpc("ListSecondFactors", signed_in.tokens.access_token)
    assert listed.recovery_codes_left == 9
    renewed = await identity.rpc("RenewRecoveryCodes", signed_in.tokens.access_token)
    assert len(renewed.recovery_codes) == 10
    old = await owner.complete(await owner.asked(), recovery_code=owner.recovery_codes[0])
    assert old == "SECOND_FACTOR_WRONG"
    new = await owner.complete(await owner.asked(), recovery_code=renewed.recovery_codes[0])
    assert new.tokens.access_token


async def test_another_password_or_a_lock_ends_what_waits(identity: Identity) -> None:
    owner = await identity.enrolled()
    asked = await owner.asked()
    changed = await identity.rpc(
        "ChangePassword",
        owner.tokens.access_token,
        current_password=PASSWORD,
        new_password="mật khẩu khác hẳn",
    )
    assert changed.account.id == owner.id
    assert await owner.complete(asked, code=identity.code(owner.secret)) == "CHALLENGE_UNKNOWN"
    again = await identity.enrolled()
    asked = await again.asked()
    await identity.rpc(
        "SetAccountStatus", identity.admin, account_id=again.id, status=pb.ACCOUNT_STATUS_LOCKED
    )
    assert await again.complete(asked, code=identity.code(again.secret)) == "ACCOUNT_LOCKED"


async def test_who_need_not_may_add_one_and_other_sessions_end(identity: Identity) -> None:
    username, _ = await identity.official("clerk")
    mine, other = (await identity.sign_in(username)).tokens, (await identity.sign_in(username)).tokens
    way = pb.SECOND_FACTOR_WAY_TOTP
    assert await identity.rpc("BeginSecondFactor", way=way) == "SIGN_IN_REQUIRED"
    assert await identity.rpc("BeginSecondFactor", mine.access_token, way=way) == "CURRENT_PASSWORD_REQUIRED"
    begun = await identity.rpc("BeginSecondFactor", mine.access_token, way=way, current_password=PASSWORD)
    shown = {"challenge": begun.challenge, "code": identity.code(begun.secret)}
    assert await identity.rpc("CompleteSecondFactor", other.access_token, **shown) == "CHALLENGE_UNKNOWN"
    begun = await identity.rpc("BeginSecondFactor", mine.access_token, way=way, current_password=PASSWORD)
    wrong = await identity.rpc(
        "CompleteSecondFactor", mine.access_token, challenge=begun.challenge, code="000000"
    )
    assert wrong == "SECOND_FACTOR_WRONG"
    added = await identity.rpc(
        "CompleteSecondFactor",
        mine.access_token,
        challenge=begun.challenge,
        code=identity.code(begun.secret),
    )
    assert not added.HasField("tokens")
    assert await identity.rpc("RefreshSession", refresh_token=other.refresh_token) == "SESSION_ENDED"
    assert (await identity.rpc("RefreshSession", refresh_token=mine.refresh_token)).tokens.access_token
    asked = await identity.sign_in(username)
    assert not asked.HasField("tokens")
    assert not asked.second_factor.enrol


async def test_changing_factors_needs_a_fresh_sign_in_with_one(identity: Identity) -> None:
    identity.ahead = timedelta(minutes=-10)
    owner = await identity.enrolled()
    identity.ahead = timedelta()
    late = (await identity.rpc("RefreshSession", refresh_token=owner.tokens.refresh_token)).tokens
    for rpc, fields in (
        ("RemoveSecondFactor", {"id": "totp"}),
        ("RenewRecoveryCodes", {}),
        ("BeginSecondFactor", {"way": pb.SECOND_FACTOR_WAY_TOTP, "current_password": PASSWORD}),
    ):
        assert await identity.rpc(rpc, late.access_token, **fields) == "FRESH_SIGN_IN_REQUIRED", rpc
    claims = jwt.decode(late.access_token, options={"verify_signature": False})
    assert claims["amr"] == ["pwd", "otp"]  # a refresh keeps the level
    fresh = await owner.complete(await owner.asked(), code=identity.code(owner.secret))
    begun = await identity.rpc("BeginSecondFactor", fresh.tokens.access_token, way=pb.SECOND_FACTOR_WAY_TOTP)
    assert begun.secret not in ("", owner.secret)
    moved = await identity.rpc(
        "CompleteSecondFactor",
        fresh.tokens.access_token,
        challenge=begun.challenge,
        code=identity.code(begun.secret),
    )
    assert list(moved.recovery_codes) == []
    assert await owner.complete(await owner.asked(), code=identity.code(owner.secret, 1)) == (
        "SECOND_FACTOR_WRONG"
    )


async def test_an_admin_resets_what_was_lost_and_never_their_own(identity: Identity) -> None:
    owner = await identity.enrolled()
    elsewhere, _ = await identity.official("admin", "H32.05")
    theirs = (await identity.sign_in(elsewhere)).tokens.access_token
    assert await identity.rpc("ResetSecondFactors", theirs, account_id=owner.id) == "NOT_YOUR_AGENCY"
    admin = (await identity.rpc("GetAccount", identity.admin)).account.id
    assert await identity.rpc("ResetSecondFactors", identity.admin, account_id=admin) == "OWN_ACCOUNT"
    reset = await identity.rpc("ResetSecondFactors", identity.admin, account_id=owner.id)
    assert reset.account.id == owner.id
    assert await identity.rpc("RefreshSession", refresh_token=owner.tokens.refresh_token) == "SESSION_ENDED"
    asked = await owner.asked()
    assert asked.second_factor.enrol
    code = owner.recovery_codes[0]
    assert await owner.complete(asked, recovery_code=code) == "CHALLENGE_UNKNOWN"
    with MongoClient[dict[str, Any]](identity.settings.mongodb_url) as mongo:
        stored = mongo[identity.settings.mongodb_database]["accounts"].find_one({"_id": owner.id})
    assert stored is not None
    assert stored["state"]["second"]["reset_by"] == admin


async def test_a_session_without_a_second_factor_ends_when_the_rule_begins(identity: Identity) -> None:
    username, id = await identity.official("clerk")
    tokens = (await identity.sign_in(username)).tokens
    roles = [pb.Role(agency="H32.15", name="leader")]
    await identity.rpc("SetRoles", identity.admin, account_id=id, roles=roles)
    assert await identity.rpc("RefreshSession", refresh_token=tokens.refresh_token) == "SESSION_ENDED"


async def test_no_secret_is_stored_as_it_is(identity: Identity) -> None:
    owner = await identity.enrolled()
    asked = await owner.asked()
    with MongoClient[dict[str, Any]](identity.settings.mongodb_url) as mongo:
        database = mongo[identity.settings.mongodb_database]
        stored = "".join(
            str(one) for name in database.list_collection_names() for one in database[name].find()
        )
    for secret in (owner.secret, *owner.recovery_codes, asked.second_factor.challenge, asked.device_token):
        assert secret not in stored


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"second_factor_required": {"*": datetime.now(UTC)}}, "needs SECOND_FACTOR_KEYS"),
        ({"second_factor_keys": [SecretStr("short")]}, "32 letters"),
        (
            {
                "second_factor_keys": [SecretStr("k" * 32)],
                "second_factor_required": {"chief": datetime.now(UTC)},
            },
            "'chief' is neither",
        ),
    ],
)
def test_settings_that_cannot_be_are_told(more: dict[str, Any], said: str) -> None:
    with pytest.raises(CannotStart, match=said):
        build(_settings("mongodb://127.0.0.1:1", "nats://127.0.0.1:1", **more))
