"""Identity as a whole: the real service over a real socket, on real NATS and MongoDB wire."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import nats
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr

from identity.bootstrap import IdentitySettings, build
from identity.store import forget_sessions
from kit import clock
from kit.errors import Conflict, DomainError, InvalidInput
from kit.ids import uuid7
from kit.service import CannotStart, Service
from kit.status import from_rpc
from motcua.identity.v1 import events_pb2 as events
from motcua.identity.v1 import identity_pb2 as pb
from motcua.identity.v1 import identity_pb2_grpc as grpc_pb

SEED = Path(__file__).parents[2] / "services/identity/seed.json"
PASSWORD = "Motcua@2026"
AN, BINH = "079090000101", "001085000202"

Eventually = Callable[..., Awaitable[Any]]


@dataclass
class Time:
    """The real time, put forward at will."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return clock.to_ms(datetime.now(UTC) + self.ahead)


@dataclass
class Identity:
    """A running identity and a client of it."""

    service: Service
    time: Time
    settings: IdentitySettings
    channel: grpc.aio.Channel
    _serial: int = field(default_factory=lambda: int(time.time() * 1000) % 900_000)

    async def call(self, method: str, message: Any, token: str = "") -> Any:
        """The answer of an RPC. Raises the DomainError that the service meant."""
        stub = grpc_pb.IdentityServiceStub(self.channel)
        metadata = [("authorization", f"Bearer {token}")] if token else None
        try:
            return await getattr(stub, method)(message, metadata=metadata, timeout=20)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None

    async def refused(self, method: str, message: Any, token: str = "") -> DomainError:
        """The failure that an RPC answers."""
        with pytest.raises(DomainError) as caught:
            await self.call(method, message, token)
        return caught.value

    def citizen(self, **more: Any) -> pb.SignUpRequest:
        """A sign-up of somebody new."""
        self._serial += 1
        return pb.SignUpRequest(
            **{
                "kind": pb.ACCOUNT_KIND_PERSON,
                "name": "Lê Văn Mới",
                "citizen_number": f"056095{self._serial:06d}",
                "phone": f"090{self._serial:07d}",
                "password": "một mật khẩu dài",
                **more,
            }
        )

    async def sign_in(self, identifier: str, password: str = PASSWORD, address: str = "") -> pb.SessionTokens:
        """The tokens of a new session."""
        request = pb.SignInRequest(identifier=identifier, password=password, client_address=address)
        answer = await self.call("SignIn", request)
        assert isinstance(answer, pb.SignInResponse)
        return answer.tokens

    async def token(self, identifier: str, password: str = PASSWORD) -> str:
        """An access token."""
        return (await self.sign_in(identifier, password)).access_token

    async def verify(self, person: pb.SignUpRequest) -> None:
        """The person verifies their phone and e-mail by what was sent there."""
        ahead, self.time.ahead = self.time.ahead, timedelta()  # a token of the future is not valid yet
        token, notify = (
            await self.token(person.citizen_number, person.password),
            await self.service_token("notify"),
        )
        self.time.ahead = ahead
        for contact, purpose, address in (
            (pb.CONTACT_KIND_PHONE, pb.ONE_TIME_PURPOSE_VERIFY_PHONE, person.phone),
            (pb.CONTACT_KIND_EMAIL, pb.ONE_TIME_PURPOSE_VERIFY_EMAIL, person.email),
        ):
            if address:
                me = (await self.call("GetAccount", pb.GetAccountRequest(), token)).account.id
                wanted = pb.IssueOneTimeSecretRequest(account_id=me, purpose=purpose, contact=contact)
                secret = (await self.call("IssueOneTimeSecret", wanted, notify)).secret
                await self.call(
                    "VerifyContact", pb.VerifyContactRequest(contact=contact, secret=secret), token
                )

    async def service_token(self, name: str = "dossier") -> str:
        """An access token of a service."""
        request = pb.IssueServiceTokenRequest(service=name, secret=f"secret of {name}")
        return str((await self.call("IssueServiceToken", request)).access_token)


@pytest.fixture(scope="module")
def settings(mongo_url: str, nats_url: str, tmp_path_factory: pytest.TempPathFactory) -> IdentitySettings:
    return IdentitySettings(
        environment="test",
        mongodb_url=mongo_url,
        mongodb_database=f"identity_{uuid7()[-12:]}",
        nats_url=nats_url,
        grace=0.5,
        identity_seed=str(SEED),
        identity_signing_keys=str(tmp_path_factory.mktemp("keys") / "keys.json"),
        service_secrets={name: SecretStr(f"secret of {name}") for name in ("dossier", "notify")},
        sign_in_tries=5,
        sign_in_tries_address=6,
        sign_up_tries_address=3,
        argon2_memory_kib=64,
        argon2_passes=1,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def identity(settings: IdentitySettings) -> AsyncIterator[Identity]:
    the_time = Time()
    service = build(settings, the_time)
    await service.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        yield Identity(service, the_time, settings, channel)
    await service.stop()


@pytest.fixture(autouse=True)
def _present(identity: Identity) -> None:
    identity.time.ahead = timedelta()


Heard = Callable[[Any], Awaitable[Callable[[Callable[[Any], bool]], Any]]]


@pytest_asyncio.fixture(loop_scope="session")
async def listen(identity: Identity) -> AsyncIterator[Heard]:
    """`heard = await listen(EventType)`; `heard(test)` is the first such event that passes, or None."""
    client = await nats.connect(identity.settings.nats_url)

    async def listening(kind: Any) -> Callable[[Callable[[Any], bool]], Any]:
        found: list[Any] = []

        async def hear(message: Any) -> None:
            if message.headers["ce-type"] == kind.DESCRIPTOR.full_name:
                found.append(kind.FromString(message.data))

        await client.subscribe("motcua.identity.v1.>", cb=hear)
        await client.flush()
        return lambda passes: next((event for event in found if passes(event)), None)

    yield listening
    await client.close()


# --- registering and signing in ------------------------------------------------------------------------


async def test_a_person_signs_up_and_signs_in_by_every_identifier(identity: Identity) -> None:
    wanted = identity.citizen(name="  Nguyễn  Thị Hoa ", email="Hoa.Nguyen@Example.vn", locale="en")
    account = (await identity.call("SignUp", wanted)).account

    assert account.name == "Nguyễn Thị Hoa"
    assert account.status == pb.ACCOUNT_STATUS_ACTIVE
    assert account.email == "hoa.nguyen@example.vn"
    await identity.verify(wanted)
    for identifier in (
        wanted.citizen_number,
        wanted.phone,
        "+84" + wanted.phone[1:],
        "hoa.nguyen@EXAMPLE.vn",
    ):
        answer = await identity.call(
            "SignIn", pb.SignInRequest(identifier=identifier, password=wanted.password)
        )
        assert answer.account.id == account.id
        assert answer.account.locale == "en"


async def test_an_organisation_signs_up_under_its_representative(identity: Identity) -> None:
    an = await _account(identity, AN)
    company = pb.SignUpRequest(
        kind=pb.ACCOUNT_KIND_ORGANISATION,
        name="Công ty TNHH Biển Xanh",
        tax_code="0100109106",
        email="lienhe@bienxanh.vn",
        password="biển xanh cát trắng",
    )
    account = (await identity.call("SignUp", company, await identity.token(AN))).account
    assert account.representative_id == an.id
    assert await identity.token("0100109106", "biển xanh cát trắng")


async def test_a_sign_up_says_everything_that_is_wrong_at_once(identity: Identity) -> None:
    wrong = pb.SignUpRequest(
        kind=pb.ACCOUNT_KIND_PERSON,
        name="7",
        citizen_number="003490000001",
        tax_code="0100109106",
        phone="0123456789",
        email="nobody@",
        locale="fr",
        password="short",
    )
    error = await identity.refused("SignUp", wrong)
    assert isinstance(error, InvalidInput)
    assert {violation.field: violation.reason for violation in error.violations} == {
        "name": "NAME_LENGTH",
        "citizen_number": "CITIZEN_NUMBER_CENTURY",
        "tax_code": "NOT_FOR_PERSONS",
        "phone": "PHONE_SHAPE",
        "email": "EMAIL_SHAPE",
        "locale": "LOCALE_UNKNOWN",
        "password": "PASSWORD_LENGTH",
    }


async def test_several_may_claim_a_number_or_a_phone_and_one_verifies_it(identity: Identity) -> None:
    first = identity.citizen()
    one = (await identity.call("SignUp", first)).account
    second = identity.citizen(citizen_number=first.citizen_number, password="một mật khẩu khác")
    other = (await identity.call("SignUp", second)).account
    assert one.id != other.id
    assert not one.verified
    assert not other.verified
    for person, account in ((first, one), (second, other)):
        request = pb.SignInRequest(identifier=first.citizen_number, password=person.password)
        assert (await identity.call("SignIn", request)).account.id == account.id
    third = identity.citizen(phone=first.phone, password="một mật khẩu riêng")
    another = (await identity.call("SignUp", third)).account
    find, service = pb.FindAccountRequest(identifier=first.phone), await identity.service_token()
    assert (await identity.refused("FindAccount", find, service)).reason == "ACCOUNT_NOT_FOUND"
    await identity.verify(third)
    assert (await identity.call("FindAccount", find, service)).account.id == another.id
    with pytest.raises(Conflict, match="CONTACT_TAKEN"):
        await identity.verify(first)
    wrong = pb.SignInRequest(identifier=first.phone, password=first.password)
    assert (await identity.refused("SignIn", wrong)).reason == "INVALID_CREDENTIALS"


async def test_a_repeated_sign_up_answers_the_same_account(identity: Identity) -> None:
    wanted = identity.citizen(request_id=uuid7())
    first = await identity.call("SignUp", wanted)
    again = await identity.call("SignUp", wanted)
    assert again.account.id == first.account.id


async def test_of_many_who_verify_an_address_at_once_one_has_it(identity: Identity) -> None:
    everybody = [identity.citizen(phone="", email="dong.thoi@example.vn") for _ in range(6)]
    opened = [(await identity.call("SignUp", one)).account.id for one in everybody]
    answers = await asyncio.gather(*(identity.verify(one) for one in everybody), return_exceptions=True)
    [winner] = [id for id, answer in zip(opened, answers, strict=True) if answer is None]
    assert {str(answer) for answer in answers if answer} == {"CONTACT_TAKEN: another account has verified it"}
    find = pb.FindAccountRequest(identifier="dong.thoi@example.vn")
    found = await identity.call("FindAccount", find, await identity.service_token())
    assert found.account.id == winner


async def test_nobody_learns_whether_an_identifier_or_a_password_was_wrong(identity: Identity) -> None:
    unknown = await identity.refused("SignIn", pb.SignInRequest(identifier="0399999999", password=PASSWORD))
    wrong = await identity.refused("SignIn", pb.SignInRequest(identifier=BINH, password="not the password"))
    nonsense = await identity.refused("SignIn", pb.SignInRequest(identifier="????", password=PASSWORD))
    assert (unknown.reason, unknown.message) == (wrong.reason, wrong.message)
    assert (nonsense.reason, nonsense.message) == (wrong.reason, wrong.message)
    assert wrong.reason == "INVALID_CREDENTIALS"


async def test_sign_in_is_limited_by_identifier_until_the_window_ends(identity: Identity) -> None:
    wanted = identity.citizen()
    await identity.call("SignUp", wanted)
    await identity.verify(wanted)
    wrong = pb.SignInRequest(identifier=wanted.citizen_number, password="not the password")
    tries = [await identity.refused("SignIn", wrong) for _ in range(6)]
    assert [error.reason for error in tries] == ["INVALID_CREDENTIALS"] * 5 + ["TOO_MANY_ATTEMPTS"]
    assert 0 < int(tries[-1].metadata["retry_after"]) <= 900
    right = pb.SignInRequest(identifier="+84" + wanted.phone[1:], password=wanted.password)
    assert (await identity.refused("SignIn", right)).reason == "TOO_MANY_ATTEMPTS"

    identity.time.ahead = timedelta(minutes=15)
    assert await identity.call("SignIn", right)


async def test_sign_in_is_limited_by_address_and_right_passwords_do_not_count(identity: Identity) -> None:
    for _ in range(8):
        await identity.sign_in(AN, address="203.0.113.7")
    for at in range(6):
        wrong = pb.SignInRequest(
            identifier=f"03988877{at:02d}", password="any password", client_address="203.0.113.7"
        )
        assert (await identity.refused("SignIn", wrong)).reason == "INVALID_CREDENTIALS"
    right = pb.SignInRequest(identifier=AN, password=PASSWORD, client_address="203.0.113.7")
    assert (await identity.refused("SignIn", right)).reason == "TOO_MANY_ATTEMPTS"
    assert await identity.sign_in(AN, address="203.0.113.8")


async def test_parallel_guesses_pass_the_limit_no_more_often_than_one_after_the_other(
    identity: Identity,
) -> None:
    guesses = await asyncio.gather(
        *(
            identity.refused(
                "SignIn", pb.SignInRequest(identifier="0388000111", password=f"guess number {n}")
            )
            for n in range(20)
        )
    )
    assert sum(error.reason == "INVALID_CREDENTIALS" for error in guesses) == 5


async def test_sign_up_is_limited_by_address(identity: Identity) -> None:
    for _ in range(3):
        await identity.call("SignUp", identity.citizen(client_address="203.0.113.9"))
    over = identity.citizen(client_address="203.0.113.9")
    assert (await identity.refused("SignUp", over)).reason == "TOO_MANY_ATTEMPTS"


# --- sessions ------------------------------------------------------------------------------------------


async def test_a_refresh_token_rotates_and_the_roles_come_along(identity: Identity) -> None:
    tokens = await identity.sign_in("nt.tiepnhan")
    refreshed = await identity.call(
        "RefreshSession", pb.RefreshSessionRequest(refresh_token=tokens.refresh_token)
    )
    assert refreshed.tokens.refresh_token != tokens.refresh_token
    assert refreshed.tokens.session_id == tokens.session_id
    claims = jwt.decode(refreshed.tokens.access_token, options={"verify_signature": False})
    assert claims["kind"] == "official"
    assert claims["roles"] == [["H32.15", "reception"], ["H32.15", "clerk"], ["H32.15", "cashier"]]
    assert claims["exp"] - claims["iat"] == 300
    assert (claims["iss"], claims["aud"], claims["sid"]) == ("motcua", "motcua", tokens.session_id)
    assert claims["sub"] == refreshed.account.id
    assert claims["jti"]


async def test_a_refresh_token_used_twice_ends_the_session_and_says_so(
    identity: Identity, listen: Heard, eventually: Eventually
) -> None:
    heard = await listen(events.SessionRevoked)
    first = await identity.sign_in(AN)
    second = (await _refresh(identity, first.refresh_token)).tokens
    third = (await _refresh(identity, second.refresh_token)).tokens

    error = await _not_refreshed(identity, first.refresh_token)
    assert (error.reason, error.metadata["cause"]) == ("SESSION_ENDED", "REUSED")
    error = await _not_refreshed(identity, third.refresh_token)
    assert (error.reason, error.metadata["cause"]) == ("SESSION_ENDED", "REUSED")
    revoked = await eventually(lambda: heard(lambda event: event.session_id == first.session_id))
    assert revoked.reason == "REUSED"


async def test_a_lost_answer_to_a_refresh_is_asked_for_again_within_the_grace_time(
    identity: Identity,
) -> None:
    first = await identity.sign_in(AN)
    lost = (await _refresh(identity, first.refresh_token)).tokens
    again = (await _refresh(identity, first.refresh_token)).tokens
    assert again.refresh_token == lost.refresh_token
    assert (await _refresh(identity, again.refresh_token)).tokens

    other = await identity.sign_in(AN)
    await _refresh(identity, other.refresh_token)
    identity.time.ahead = timedelta(seconds=21)
    error = await _not_refreshed(identity, other.refresh_token)
    assert error.metadata["cause"] == "REUSED"


async def test_tabs_that_refresh_at_once_all_get_the_same_next_token(identity: Identity) -> None:
    first = await identity.sign_in(AN)
    answers = await asyncio.gather(*(_refresh(identity, first.refresh_token) for _ in range(8)))
    assert len({answer.tokens.refresh_token for answer in answers}) == 1


async def test_a_token_that_was_never_given_out_ends_no_session(identity: Identity) -> None:
    tokens = await identity.sign_in(AN)
    session, generation, secret, proof = tokens.refresh_token.split(".")
    forged = [
        f"{session}.{generation}.{secret[::-1]}.{proof}",
        f"{session}.0.{secret}.{proof}",
        f"{uuid7()}.{generation}.{secret}.{proof}",
        "a.b.c.d",
        "",
        "x" * 5000,
    ]
    for token in forged:
        error = await _not_refreshed(identity, token)
        assert error.reason == "REFRESH_TOKEN_INVALID"
    assert await _refresh(identity, tokens.refresh_token)


async def test_a_session_ends_when_nobody_uses_it_and_at_the_latest_after_its_time(
    identity: Identity,
) -> None:
    idle = await identity.sign_in("nt.thuly")
    identity.time.ahead = timedelta(hours=2, seconds=1)
    error = await _not_refreshed(identity, idle.refresh_token)
    assert (error.reason, error.metadata["cause"]) == ("SESSION_ENDED", "EXPIRED")

    identity.time.ahead = timedelta()
    token = (await identity.sign_in("nt.thuly")).refresh_token
    for hours in (1.5, 3, 4.5, 6, 7.5, 9, 10.5, 11.9):
        identity.time.ahead = timedelta(hours=hours)
        tokens = (await _refresh(identity, token)).tokens
        token = tokens.refresh_token
    assert tokens.refresh_expire_time.ToDatetime(UTC) < datetime.now(UTC) + timedelta(hours=12, seconds=1)
    identity.time.ahead = timedelta(hours=12, seconds=1)
    error = await _not_refreshed(identity, token)
    assert error.metadata["cause"] == "EXPIRED"


async def test_signing_out_ends_one_session_or_all_of_them(identity: Identity) -> None:
    here, there = await identity.sign_in(BINH), await identity.sign_in(BINH)
    others = await identity.sign_in(AN)
    await identity.call("SignOut", pb.SignOutRequest(refresh_token=here.refresh_token))
    error = await _not_refreshed(identity, here.refresh_token)
    assert (error.reason, error.metadata["cause"]) == ("SESSION_ENDED", "SIGNED_OUT")

    there = (await _refresh(identity, there.refresh_token)).tokens
    third = await identity.sign_in(BINH)
    await identity.call("SignOut", pb.SignOutRequest(everywhere=True), there.access_token)
    for tokens in (there, third):
        error = await _not_refreshed(identity, tokens.refresh_token)
        assert error.metadata["cause"] == "SIGNED_OUT"
    assert await _refresh(identity, others.refresh_token)
    assert (await identity.refused("SignOut", pb.SignOutRequest())).reason == "SIGN_IN_REQUIRED"


async def test_the_database_holds_no_token_and_no_password(identity: Identity) -> None:
    wanted = identity.citizen(password="bí mật của riêng tôi", request_id=uuid7())
    await identity.call("SignUp", wanted)
    tokens = await identity.sign_in(wanted.citizen_number, wanted.password)
    tokens = (await _refresh(identity, tokens.refresh_token)).tokens
    database = identity.service.stores[0].database
    everything = ""
    for name in ("accounts", "sessions", "names", "attempts", "requests"):
        everything += str(await database[name].find({}).to_list(None))
    assert tokens.session_id in everything
    _session, _generation, secret, _proof = tokens.refresh_token.split(".")
    for hidden in (secret, tokens.access_token, "bí mật của riêng tôi", PASSWORD, "secret of"):
        assert hidden not in everything
    keys = [document["_id"] for document in await database["names"].find({}).to_list(None)]
    assert not any(wanted.phone in key or wanted.citizen_number in key for key in keys)


async def test_sessions_that_are_over_are_forgotten(identity: Identity) -> None:
    database = identity.service.stores[0].database
    over, going_on = await identity.sign_in("nt.lanhdao"), await identity.sign_in(AN)
    await forget_sessions(database, identity.time() + timedelta(hours=13))
    left = [document["_id"] for document in await database["sessions"].find({}).to_list(None)]
    assert going_on.session_id in left
    assert over.session_id not in left
    assert (await _not_refreshed(identity, over.refresh_token)).reason == "REFRESH_TOKEN_INVALID"


async def test_counters_of_tries_say_when_they_expire(identity: Identity) -> None:
    await identity.refused("SignIn", pb.SignInRequest(identifier="0388123123", password="any password"))
    counters = await identity.service.stores[0].database["attempts"].find({}).to_list(None)
    assert counters
    assert all(isinstance(counter["expires"], datetime) for counter in counters)


# --- access tokens -------------------------------------------------------------------------------------


async def test_access_tokens_are_verified_by_the_published_keys(identity: Identity) -> None:
    token = await identity.token(AN)
    keys = json.loads((await identity.call("GetJwks", pb.GetJwksRequest())).jwks)
    assert [sorted(key) for key in keys["keys"]] == [["alg", "crv", "kid", "kty", "use", "x"]]
    header = jwt.get_unverified_header(token)
    (key,) = [jwt.PyJWK(key) for key in keys["keys"] if key["kid"] == header["kid"]]
    assert jwt.decode(token, key.key, algorithms=["EdDSA"], audience="motcua", issuer="motcua")


async def test_forged_expired_and_unsigned_tokens_are_refused(identity: Identity) -> None:
    good = await identity.token("quantri")
    claims = jwt.decode(good, options={"verify_signature": False})
    kid = jwt.get_unverified_header(good)["kid"]
    stranger = Ed25519PrivateKey.generate()
    own = _signing_key(identity)
    jwks = json.loads((await identity.call("GetJwks", pb.GetJwksRequest())).jwks)
    header, body, signature = good.split(".")
    other_body = _b64(json.dumps({**claims, "sub": uuid7()}).encode())
    unsigned = _b64(json.dumps({"alg": "none", "kid": kid}).encode())
    past = {**claims, "iat": claims["iat"] - 900, "exp": claims["exp"] - 900}
    bad = {
        "another key": jwt.encode(claims, stranger, "EdDSA", headers={"kid": kid}),
        "an unknown kid": jwt.encode(claims, own, "EdDSA", headers={"kid": "nobody's"}),
        "no kid": jwt.encode(claims, own, "EdDSA"),
        "alg none": jwt.encode(claims, "", "none", headers={"kid": kid}),
        "alg none, signature kept": f"{unsigned}.{body}.{signature}",
        "the public key as an HMAC secret": jwt.encode(
            claims, base64.urlsafe_b64decode(jwks["keys"][0]["x"] + "="), "HS256", headers={"kid": kid}
        ),
        "changed claims": f"{header}.{other_body}.{signature}",
        "another audience": jwt.encode({**claims, "aud": "x"}, own, "EdDSA", headers={"kid": kid}),
        "another issuer": jwt.encode({**claims, "iss": "x"}, own, "EdDSA", headers={"kid": kid}),
        "another kind": jwt.encode({**claims, "kind": "root"}, own, "EdDSA", headers={"kid": kid}),
        "expired": jwt.encode(past, own, "EdDSA", headers={"kid": kid}),
        "no end": jwt.encode(
            {k: v for k, v in claims.items() if k != "exp"}, own, "EdDSA", headers={"kid": kid}
        ),
        "not a token": "nonsense",
    }
    assert await identity.call("GetAccount", pb.GetAccountRequest(), good)
    for what, token in bad.items():
        error = await identity.refused("GetAccount", pb.GetAccountRequest(), token)
        wanted = "TOKEN_EXPIRED" if what == "expired" else "TOKEN_INVALID"
        assert (what, error.code, error.reason) == (what, "UNAUTHENTICATED", wanted)


async def test_services_get_tokens_for_their_secret_only(identity: Identity) -> None:
    claims = jwt.decode(await identity.service_token(), options={"verify_signature": False})
    assert (claims["sub"], claims["kind"], claims["roles"]) == ("dossier", "service", [])
    for name, secret in (("dossier", "secret of notify"), ("root", ""), ("", ""), ("dossier", "")):
        request = pb.IssueServiceTokenRequest(service=name, secret=secret)
        assert (await identity.refused("IssueServiceToken", request)).reason == "INVALID_CREDENTIALS"


async def test_keys_are_changed_while_old_tokens_stay_good(
    identity: Identity, settings: IdentitySettings, tmp_path: Path
) -> None:
    old = _stored_keys(settings)
    new_file = tmp_path / "new.json"
    first = build(settings.model_copy(update={"identity_signing_keys": str(new_file)}))
    await first.stop()
    new = json.loads(new_file.read_text())["keys"]
    assert new_file.stat().st_mode & 0o777 == 0o600
    retired = [{name: value for name, value in key.items() if name != "d"} for key in old]
    new_file.write_text(json.dumps({"keys": new + retired}))
    token = await identity.token(AN)

    service = build(settings.model_copy(update={"identity_signing_keys": str(new_file)}))
    await service.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        rotated = Identity(service, identity.time, settings, channel)
        assert await rotated.call("GetAccount", pb.GetAccountRequest(), token)
        fresh = await rotated.token(AN)
        assert jwt.get_unverified_header(fresh)["kid"] == new[0]["kid"]
    await service.stop()


# --- the counter ---------------------------------------------------------------------------------------


async def test_an_account_opened_at_the_counter_is_claimed_with_its_code(
    identity: Identity, listen: Heard, eventually: Eventually
) -> None:
    opened, claimed = (
        await listen(events.AccountOpened),
        await listen(events.AccountClaimed),
    )
    reception = await identity.token("nt.tiepnhan")
    person = identity.citizen(phone="")
    answer = await identity.call("OpenAccount", _at_counter(person), reception)
    assert answer.account.status == pb.ACCOUNT_STATUS_UNCLAIMED
    event = await eventually(lambda: opened(lambda event: event.account_id == answer.account.id))
    assert (event.at_counter, event.agency) == (True, "H32.15")

    person.phone = identity.citizen().phone
    person.activation_code = "AAAAA-AAAAA"
    assert (await identity.refused("SignUp", person)).reason == "ACTIVATION_CODE_WRONG"
    person.activation_code = answer.activation_code.lower().replace("-", " ")
    person.request_id = uuid7()
    account = (await identity.call("SignUp", person)).account
    assert (account.id, account.status) == (answer.account.id, pb.ACCOUNT_STATUS_ACTIVE)
    assert (await identity.call("SignUp", person)).account.id == account.id
    assert await eventually(lambda: claimed(lambda event: event.account_id == account.id))
    assert await identity.token(person.citizen_number, person.password)

    person.request_id = uuid7()
    assert (await identity.refused("SignUp", person)).reason == "ACTIVATION_CODE_WRONG"
    again = await identity.call("OpenAccount", _at_counter(person), reception)
    assert (again.account.id, again.activation_code) == (account.id, "")


async def test_an_activation_code_stands_five_tries_and_thirty_days(identity: Identity) -> None:
    reception = await identity.token("nt.tiepnhan")
    person = identity.citizen()
    code = (await identity.call("OpenAccount", _at_counter(person), reception)).activation_code
    person.activation_code = "wrong"
    reasons = [(await identity.refused("SignUp", person)).reason for _ in range(6)]
    nobody = identity.citizen(activation_code="wrong")
    reasons.append((await identity.refused("SignUp", nobody)).reason)
    assert reasons == ["ACTIVATION_CODE_WRONG"] * 7  # and nothing of whether somebody waits for a code
    person.activation_code = code
    assert (await identity.refused("SignUp", person)).reason == "ACTIVATION_CODE_WRONG"

    renewed = await identity.call("OpenAccount", _at_counter(person), reception)
    person.activation_code = renewed.activation_code
    identity.time.ahead = timedelta(days=30)
    assert (await identity.refused("SignUp", person)).reason == "ACTIVATION_CODE_WRONG"
    identity.time.ahead = timedelta()
    assert (await identity.call("SignUp", person)).account.id == renewed.account.id


async def test_only_the_reception_of_that_agency_opens_accounts(identity: Identity) -> None:
    person = _at_counter(identity.citizen())
    for who in ("nt.thuly", AN):
        assert (
            await identity.refused("OpenAccount", person, await identity.token(who))
        ).reason == "NOT_ALLOWED"
    person.agency = "H32.05"
    error = await identity.refused("OpenAccount", person, await identity.token("nt.tiepnhan"))
    assert error.reason == "NOT_YOUR_AGENCY"
    assert (await identity.refused("OpenAccount", person)).reason == "SIGN_IN_REQUIRED"


# --- a crash between two writes ------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", ["", "the same"])
async def test_a_sign_up_that_died_between_its_writes_goes_on_when_tried_again(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, request_id: str
) -> None:
    wanted = identity.citizen(request_id=request_id and uuid7())
    accounts = identity.service.stores[0]
    with monkeypatch.context() as fault:
        fault.setattr(accounts, "create", _dies)
        await _breaks(identity, "SignUp", wanted)
    assert (await identity.refused("SignIn", _by(wanted))).reason == "INVALID_CREDENTIALS"
    account = (await identity.call("SignUp", wanted)).account
    answer = await identity.call("SignIn", _by(wanted))
    assert answer.account.id == account.id


async def test_what_a_dead_verification_had_reserved_is_free_for_others_after_a_while(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = identity.citizen()
    other = identity.citizen(phone=dead.phone)
    for one in (dead, other):
        await identity.call("SignUp", one)
    with monkeypatch.context() as fault:
        fault.setattr("identity.domain.accounts.Account.verify_contact", _raises)
        with pytest.raises(grpc.aio.AioRpcError):
            await identity.verify(dead)
    with pytest.raises(Conflict, match="CONTACT_TAKEN"):
        await identity.verify(other)
    again = pb.RequestContactVerificationRequest(contact=pb.CONTACT_KIND_PHONE)
    theirs = await identity.token(other.citizen_number, other.password)
    identity.time.ahead = timedelta(minutes=3)
    await identity.call("RequestContactVerification", again, theirs)
    await identity.verify(other)
    assert await identity.sign_in(dead.phone, other.password)


async def test_a_claim_that_died_before_its_last_write_goes_on_with_the_same_code(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = identity.citizen(phone="", request_id=uuid7())
    opened = await identity.call("OpenAccount", _at_counter(person), await identity.token("nt.tiepnhan"))
    person.activation_code = opened.activation_code
    person.phone = identity.citizen().phone
    with monkeypatch.context() as fault:
        fault.setattr("identity.domain.accounts.Account.claim", _raises)
        await _breaks(identity, "SignUp", person)
    assert (await identity.call("SignUp", person)).account.id == opened.account.id
    assert (await identity.call("SignIn", _by(person))).account.id == opened.account.id


async def test_an_account_half_opened_at_the_counter_is_opened_by_asking_again(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    reception = await identity.token("nt.tiepnhan")
    person = identity.citizen()
    with monkeypatch.context() as fault:
        fault.setattr(identity.service.stores[0], "create", _dies)
        with pytest.raises(grpc.aio.AioRpcError):
            await identity.call("OpenAccount", _at_counter(person), reception)
    lost = await identity.call("OpenAccount", _at_counter(person), reception)
    again = await identity.call("OpenAccount", _at_counter(person), reception)
    assert again.account.id == lost.account.id
    assert again.activation_code != lost.activation_code
    person.activation_code = lost.activation_code
    assert (await identity.refused("SignUp", person)).reason == "ACTIVATION_CODE_WRONG"
    person.activation_code = again.activation_code
    assert await identity.call("SignUp", person)


async def test_a_profile_change_that_died_between_its_writes_goes_on_when_tried_again(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = identity.citizen()
    account = (await identity.call("SignUp", wanted)).account
    await identity.verify(wanted)
    token = await identity.token(wanted.citizen_number, wanted.password)
    account = (await identity.call("GetAccount", pb.GetAccountRequest(), token)).account
    change = pb.UpdateProfileRequest(
        phone=identity.citizen().phone,
        etag=account.etag,
        request_id=uuid7(),
        current_password=wanted.password,
    )
    with monkeypatch.context() as fault:
        fault.setattr(identity.service.stores[0], "change", _dies)
        with pytest.raises(grpc.aio.AioRpcError):
            await identity.call("UpdateProfile", change, token)
    with monkeypatch.context() as fault:
        fault.setattr("identity.store.Names.release", _dies)
        with pytest.raises(grpc.aio.AioRpcError):
            await identity.call("UpdateProfile", change, token)
    assert (await identity.call("UpdateProfile", change, token)).account.phone == change.phone
    gone = pb.SignInRequest(identifier=wanted.phone, password=wanted.password)
    assert (await identity.refused("SignIn", gone)).reason == "INVALID_CREDENTIALS"
    identity.time.ahead = timedelta(minutes=3)
    other = identity.citizen(phone=wanted.phone)
    assert await identity.call("SignUp", other)
    await identity.verify(other)


async def test_the_seed_is_loaded_once_however_often_it_is_read(
    identity: Identity, settings: IdentitySettings
) -> None:
    database = identity.service.stores[0].database
    before = await database["accounts"].count_documents({})
    second = build(settings)
    await second.start()
    await second.stop()
    assert await database["accounts"].count_documents({}) == before


async def test_replicas_share_limits_sessions_and_keys(
    identity: Identity, settings: IdentitySettings
) -> None:
    service = build(settings, identity.time)
    await service.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        other = Identity(service, identity.time, settings, channel)
        tokens = await identity.sign_in(AN)
        assert await other.call("GetAccount", pb.GetAccountRequest(), tokens.access_token)
        turns = [identity, other] * 4
        answers = await asyncio.gather(*(_refresh(turn, tokens.refresh_token) for turn in turns))
        assert len({answer.tokens.refresh_token for answer in answers}) == 1
        wrong = pb.SignInRequest(identifier="0388000222", password="any password")
        guesses = await asyncio.gather(*(turn.refused("SignIn", wrong) for turn in turns))
        assert sum(error.reason == "INVALID_CREDENTIALS" for error in guesses) == 5
        wanted = identity.citizen()
        signed_up = await asyncio.gather(
            *(turn.call("SignUp", wanted) for turn in turns), return_exceptions=True
        )
        assert sum(isinstance(answer, pb.SignUpResponse) for answer in signed_up) == 8  # nobody is told
    await service.stop()


async def test_the_log_names_nobody(identity: Identity, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "identity")
    caplog.set_level("DEBUG", "kit")
    reception = await identity.token("nt.tiepnhan")
    person = identity.citizen(email="ten.rieng@example.vn", password="một mật khẩu riêng")
    opened = await identity.call("OpenAccount", _at_counter(person), reception)
    opened = await identity.call("OpenAccount", _at_counter(person), reception)
    person.activation_code = opened.activation_code
    await identity.call("SignUp", person)
    tokens = await identity.sign_in(person.citizen_number, person.password)
    await identity.refused(
        "SignIn", pb.SignInRequest(identifier=person.citizen_number, password="sai mật khẩu rồi")
    )
    await identity.call("SignUp", identity.citizen(phone=person.phone))
    await _refresh(identity, tokens.refresh_token)
    identity.time.ahead = timedelta(minutes=1)
    assert (await _not_refreshed(identity, tokens.refresh_token)).metadata["cause"] == "REUSED"
    assert "a spent refresh token came back" in caplog.text
    for hidden in (
        person.citizen_number,
        person.phone,
        person.email,
        person.name,
        person.password,
        "sai mật khẩu rồi",
        opened.activation_code,
        tokens.access_token,
        tokens.refresh_token,
    ):
        assert hidden not in caplog.text


async def test_production_refuses_the_seed_and_needs_its_keys(settings: IdentitySettings) -> None:
    production = settings.model_copy(update={"environment": "production"})
    with pytest.raises(CannotStart, match="IDENTITY_SEED"):
        build(production)
    unseeded = production.model_copy(update={"identity_seed": ""})
    with pytest.raises(CannotStart, match="IDENTITY_SIGNING_KEYS"):
        build(unseeded.model_copy(update={"identity_signing_keys": ""}))
    with pytest.raises(CannotStart, match="there is no file"):
        build(unseeded.model_copy(update={"identity_signing_keys": "/nowhere/keys.json"}))


# --- officials, agencies, reading ----------------------------------------------------------------------


async def test_an_admin_makes_officials_and_gives_and_takes_their_roles(
    identity: Identity, listen: Heard, eventually: Eventually
) -> None:
    heard = await listen(events.RolesChanged)
    admin = await identity.token("quantri")
    username = f"nt.moi{int(time.time() * 1000)}"
    wanted = pb.CreateOfficialRequest(
        request_id=uuid7(),
        name="Bùi Thị Mới",
        username=username,
        phone="0901000101",
        password="khởi đầu mới 2026",
        roles=[pb.Role(agency="H32.15", name="examiner", valid_to="2020-01-01")],
    )
    made = (await identity.call("CreateOfficial", wanted, admin)).account
    assert (await identity.call("CreateOfficial", wanted, admin)).account.id == made.id
    tokens = await identity.sign_in(username, "khởi đầu mới 2026")
    assert jwt.decode(tokens.access_token, options={"verify_signature": False})["roles"] == []

    roles = [pb.Role(agency="H32.05", name="leader", valid_from="2026-01-01")]
    change = pb.SetRolesRequest(account_id=made.id, roles=roles, etag=made.etag)
    changed = (await identity.call("SetRoles", change, admin)).account
    assert list(changed.roles) == roles
    assert (await identity.refused("SetRoles", change, admin)).reason == "STALE"
    refreshed = await _refresh(identity, tokens.refresh_token)
    claims = jwt.decode(refreshed.tokens.access_token, options={"verify_signature": False})
    assert claims["roles"] == [["H32.05", "leader"]]
    event = await eventually(
        lambda: heard(lambda event: event.account_id == made.id and event.roles[0].agency == "H32.05")
    )
    assert event.roles[0].name == "leader"

    unknown = pb.SetRolesRequest(account_id=made.id, roles=[pb.Role(agency="H99", name="leader")])
    error = await identity.refused("SetRoles", unknown, admin)
    assert isinstance(error, InvalidInput)
    assert error.violations[0].reason == "AGENCY_UNKNOWN"
    assert (
        await identity.refused("SetRoles", change, await identity.token("nt.lanhdao"))
    ).reason == "NOT_ALLOWED"


async def test_an_admin_of_one_agency_rules_it_and_those_below_only(identity: Identity) -> None:
    root = await identity.token("quantri")
    username = f"stp.quantri{int(time.time() * 1000)}"
    wanted = pb.CreateOfficialRequest(
        name="Trịnh Quản Trị",
        username=username,
        password="chỉ một cơ quan",
        roles=[pb.Role(agency="H32.05", name="admin")],
    )
    await identity.call("CreateOfficial", wanted, root)
    admin = await identity.token(username, "chỉ một cơ quan")
    for agency, name in (("H32.15", "reception"), ("H32", "admin")):
        intruder = pb.CreateOfficialRequest(
            name="Kẻ Lạ", username=f"la{agency.lower()}", password="không được phép đâu"
        )
        intruder.roles.add(agency=agency, name=name)
        assert (await identity.refused("CreateOfficial", intruder, admin)).reason == "NOT_YOUR_AGENCY"
    foreign = pb.PutAgencyRequest(agency=_agency("H32.05.09", parent="H32.15"))
    assert (await identity.refused("PutAgency", foreign, admin)).reason == "NOT_YOUR_AGENCY"
    below = pb.PutAgencyRequest(agency=_agency("H32.05.09", parent="H32.05"))
    assert (await identity.call("PutAgency", below, admin)).agency.code == "H32.05.09"
    top = pb.PutAgencyRequest(agency=_agency("H99", parent=""))
    assert (await identity.refused("PutAgency", top, root)).reason == "NOT_YOUR_AGENCY"


async def test_an_old_agency_leads_to_the_one_that_took_over(
    identity: Identity, listen: Heard, eventually: Eventually
) -> None:
    heard = await listen(events.AgencyChanged)
    admin = await identity.token("quantri")
    for code, successor in (("H32.71", "H32.15"), ("H32.70", "H32.71")):
        old = _agency(code, valid_from="2010-01-01", valid_to="2025-06-30", successor=successor)
        await identity.call("PutAgency", pb.PutAgencyRequest(request_id=uuid7(), agency=old), admin)
    request = pb.BatchGetAgenciesRequest(codes=["H32.70", "H32.05", "nowhere"])
    found = (await identity.call("BatchGetAgencies", request)).agencies
    assert [agency.code for agency in found] == ["H32.70", "H32.05", "H32.71", "H32.15"]
    assert await eventually(lambda: heard(lambda event: event.agency.code == "H32.70"))

    back = _agency("H32.15", name="UBND phường Nha Trang", valid_to="2030-01-01", successor="H32.70")
    error = await identity.refused("PutAgency", pb.PutAgencyRequest(agency=back), admin)
    assert error.reason == "AGENCY_CYCLE"

    listed = await identity.call("ListAgencies", pb.ListAgenciesRequest(level=pb.AGENCY_LEVEL_COMMUNE))
    assert "H32.70" not in [agency.code for agency in listed.agencies]
    before = pb.ListAgenciesRequest(level=pb.AGENCY_LEVEL_COMMUNE, on_date="2020-01-01", page_size=1)
    first = await identity.call("ListAgencies", before)
    before.page_token = first.next_page_token
    second = await identity.call("ListAgencies", before)
    assert {first.agencies[0].code, second.agencies[0].code} == {"H32.70", "H32.71"}
    assert second.next_page_token == ""


async def test_a_household_business_has_its_owners_number_and_the_counter_is_told_of_an_unknown_place(
    identity: Identity,
) -> None:
    desk = await identity.token("nt.tiepnhan")
    person = identity.citizen()
    number = f"003{person.citizen_number[3:]}"
    for kind, given in (
        (pb.ACCOUNT_KIND_PERSON, "citizen_number"),
        (pb.ACCOUNT_KIND_ORGANISATION, "tax_code"),
    ):
        request = pb.OpenAccountRequest(
            kind=kind,
            name="Hộ kinh doanh Bình Minh" if given == "tax_code" else "Nguyễn Thị An",
            agency="H32.15",
            papers=[pb.Paper(kind=pb.PAPER_KIND_CITIZEN_CARD, number=number)],
        )
        setattr(request, given, number)
        opened = await identity.call("OpenAccount", request, desk)
        assert list(opened.hints) == ["CITIZEN_NUMBER_PLACE"]
        assert number not in str(opened), "the counter knows it from the papers"
        whole = pb.GetAccountRequest(id=opened.account.id)
        account = (await identity.call("GetAccount", whole, await identity.service_token())).account
        assert account.tax_code == number, "the receipts of both carry it"
    known = identity.citizen()
    request = _at_counter(known)
    assert list((await identity.call("OpenAccount", request, desk)).hints) == []


async def test_an_agency_is_not_overwritten_from_a_stale_copy(identity: Identity) -> None:
    admin = await identity.token("quantri")
    agency = (await identity.call("PutAgency", pb.PutAgencyRequest(agency=_agency("H32.77")), admin)).agency
    agency.address = "1 Trần Phú"
    changed = (await identity.call("PutAgency", pb.PutAgencyRequest(agency=agency), admin)).agency
    assert changed.address == "1 Trần Phú"
    assert (await identity.refused("PutAgency", pb.PutAgencyRequest(agency=agency), admin)).reason == "STALE"


async def test_everybody_sees_of_others_only_what_they_may(identity: Identity) -> None:
    an = await _account(identity, AN)
    binh = await _account(identity, BINH)
    officer = (
        await identity.call("SignIn", pb.SignInRequest(identifier="nt.thuly", password=PASSWORD))
    ).account
    request = pb.BatchGetAccountsRequest(ids=[an.id, binh.id, officer.id, uuid7(), ""])

    mine = (await identity.call("BatchGetAccounts", request, await identity.token(AN))).accounts
    assert [account.id for account in mine] == [an.id, officer.id]
    assert mine[0].citizen_number == AN
    assert (mine[1].name, mine[1].username, mine[1].phone) == ("Phạm Văn Lý", "", "")
    assert mine[1].roles[0].agency == "H32.15"
    seen = (await identity.call("BatchGetAccounts", request, await identity.service_token())).accounts
    assert [account.citizen_number for account in seen] == [AN, BINH, ""]
    seen = (await identity.call("BatchGetAccounts", request, await identity.token("nt.thuly"))).accounts
    masked = [number[:4] + "******" + number[-2:] for number in (AN, BINH)]
    assert [account.citizen_number for account in seen] == [*masked, ""]
    assert (seen[0].name, seen[0].phone, seen[0].email) == ("Nguyễn Thị An", "090*****01", "a***@example.vn")
    assert seen[2].username == "nt.thuly", "one's own account is whole"
    colleague = pb.GetAccountRequest(id=officer.id)
    for who, username in (("nt.tiepnhan", ""), ("quantri", "nt.thuly")):
        found = (await identity.call("GetAccount", colleague, await identity.token(who))).account
        assert (found.name, found.username) == ("Phạm Văn Lý", username)
    assert (await identity.refused("BatchGetAccounts", request)).reason == "SIGN_IN_REQUIRED"
    other = pb.GetAccountRequest(id=binh.id)
    assert (
        await identity.refused("GetAccount", other, await identity.token(AN))
    ).reason == "ACCOUNT_NOT_FOUND"
    many = pb.BatchGetAccountsRequest(ids=[uuid7() for _ in range(101)])
    assert (await identity.refused("BatchGetAccounts", many, await identity.token(AN))).reason == "TOO_MANY"


async def test_services_find_an_account_by_any_identifier(identity: Identity) -> None:
    service = await identity.service_token()
    for identifier in (AN, "0901 000 101", "AN@example.vn"):
        request = pb.FindAccountRequest(identifier=identifier)
        assert (await identity.call("FindAccount", request, service)).account.name == "Nguyễn Thị An"
    nobody = pb.FindAccountRequest(identifier="001085000999")
    assert (await identity.refused("FindAccount", nobody, service)).reason == "ACCOUNT_NOT_FOUND"
    for who in (AN, "nt.tiepnhan", "quantri"):
        assert (
            await identity.refused("FindAccount", nobody, await identity.token(who))
        ).reason == "NOT_ALLOWED"


async def test_a_profile_changes_its_phone_and_the_old_one_is_free_again(
    identity: Identity, listen: Heard, eventually: Eventually
) -> None:
    heard = await listen(events.ProfileChanged)
    wanted = identity.citizen(email=f"a{uuid7()}@example.vn")
    await identity.call("SignUp", wanted)
    await identity.verify(wanted)
    token = await identity.token(wanted.citizen_number, wanted.password)
    account = (await identity.call("GetAccount", pb.GetAccountRequest(), token)).account
    new_phone = identity.citizen().phone
    change = pb.UpdateProfileRequest(
        phone=new_phone,
        locale="en",
        etag=account.etag,
        request_id=uuid7(),
        current_password=wanted.password,
    )
    changed = (await identity.call("UpdateProfile", change, token)).account
    assert (changed.phone, changed.locale, changed.email) == (new_phone, "en", wanted.email)
    assert (await identity.call("UpdateProfile", change, token)).account.etag == changed.etag
    change.request_id = uuid7()
    assert (await identity.refused("UpdateProfile", change, token)).reason == "STALE"
    assert (changed.phone_verified, changed.email_verified) == (False, True)
    for phone in (new_phone, wanted.phone):
        gone = pb.SignInRequest(identifier=phone, password=wanted.password)
        assert (await identity.refused("SignIn", gone)).reason == "INVALID_CREDENTIALS"
    other = identity.citizen(phone=wanted.phone)
    await identity.call("SignUp", other)
    await identity.verify(other)
    known = pb.UpdateProfileRequest(phone="0901000101", current_password=wanted.password)
    assert (await identity.call("UpdateProfile", known, token)).account.phone == known.phone
    assert (await _account(identity, "0901000101")).name == "Nguyễn Thị An"
    assert await eventually(lambda: heard(lambda event: event.account_id == account.id))


# --- passwords and locks -------------------------------------------------------------------------------


async def test_a_new_password_ends_all_sessions_but_the_one_that_asks(
    identity: Identity, listen: Heard, eventually: Eventually
) -> None:
    heard = await listen(events.SessionRevoked)
    wanted = identity.citizen()
    account = (await identity.call("SignUp", wanted)).account
    here, there = [await identity.sign_in(wanted.citizen_number, wanted.password) for _ in range(2)]
    others = await identity.sign_in(AN)
    change = pb.ChangePasswordRequest(
        request_id=uuid7(), current_password=wanted.password, new_password="một mật khẩu khác"
    )
    changed = (await identity.call("ChangePassword", change, here.access_token)).account
    assert (changed.id, changed.etag != account.etag) == (account.id, True)

    assert (await identity.refused("SignIn", _by(wanted))).reason == "INVALID_CREDENTIALS"
    assert await identity.sign_in(wanted.citizen_number, "một mật khẩu khác")
    assert await _refresh(identity, here.refresh_token)
    assert await _refresh(identity, others.refresh_token)
    error = await _not_refreshed(identity, there.refresh_token)
    assert (error.reason, error.metadata["cause"]) == ("SESSION_ENDED", "PASSWORD_CHANGED")
    revoked = await eventually(lambda: heard(lambda event: event.account_id == account.id))
    assert (revoked.session_id, revoked.reason) == (there.session_id, "PASSWORD_CHANGED")

    again = (await identity.call("ChangePassword", change, here.access_token)).account
    assert again.etag == changed.etag
    change.new_password = "một mật khẩu thứ ba"
    assert (await identity.refused("ChangePassword", change, here.access_token)).reason == "REQUEST_ID_REUSED"


async def test_a_session_that_outlived_one_new_password_does_not_outlive_the_next(identity: Identity) -> None:
    wanted = identity.citizen()
    await identity.call("SignUp", wanted)
    first = await identity.sign_in(wanted.citizen_number, wanted.password)
    await _change(identity, first, wanted.password, "mật khẩu thứ hai")
    second = await identity.sign_in(wanted.citizen_number, "mật khẩu thứ hai")
    await _change(identity, second, "mật khẩu thứ hai", "mật khẩu thứ ba")
    assert (await _not_refreshed(identity, first.refresh_token)).metadata["cause"] == "PASSWORD_CHANGED"
    assert await _refresh(identity, second.refresh_token)


async def test_a_new_password_needs_the_present_one_and_obeys_the_rules(identity: Identity) -> None:
    wanted = identity.citizen()
    await identity.call("SignUp", wanted)
    tokens = await identity.sign_in(wanted.citizen_number, wanted.password)
    for current, new, where, reason in (
        (wanted.password, "ngắn", "new_password", "PASSWORD_LENGTH"),
        (wanted.password, "matkhau123", "new_password", "PASSWORD_COMMON"),
        (wanted.password, f"xx{wanted.phone}xx", "new_password", "PASSWORD_IS_IDENTIFIER"),
        (wanted.password, wanted.password, "new_password", "PASSWORD_UNCHANGED"),
        ("not the password", "một mật khẩu khác", "current_password", "CURRENT_PASSWORD_WRONG"),
    ):
        change = pb.ChangePasswordRequest(current_password=current, new_password=new)
        error = await identity.refused("ChangePassword", change, tokens.access_token)
        assert isinstance(error, InvalidInput)
        assert [(it.field, it.reason) for it in error.violations] == [(where, reason)]
    assert await identity.token(wanted.citizen_number, wanted.password)


async def test_whoever_holds_a_stolen_token_cannot_guess_the_password(identity: Identity) -> None:
    wanted = identity.citizen()
    await identity.call("SignUp", wanted)
    tokens = await identity.sign_in(wanted.citizen_number, wanted.password)
    guesses = await asyncio.gather(
        *(
            identity.refused(
                "ChangePassword",
                pb.ChangePasswordRequest(
                    current_password=f"guess number {n}", new_password="một mật khẩu khác"
                ),
                tokens.access_token,
            )
            for n in range(12)
        )
    )
    assert sum(error.reason == "TOO_MANY_ATTEMPTS" for error in guesses) == 7
    right = pb.ChangePasswordRequest(current_password=wanted.password, new_password="một mật khẩu khác")
    error = await identity.refused("ChangePassword", right, tokens.access_token)
    assert 0 < int(error.metadata["retry_after"]) <= 900
    identity.time.ahead = timedelta(minutes=15)
    assert await identity.call("ChangePassword", right, tokens.access_token)


async def test_a_new_password_that_died_before_the_sessions_ended_has_ended_them_all_the_same(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, listen: Heard, eventually: Eventually
) -> None:
    heard = await listen(events.SessionRevoked)
    wanted = identity.citizen()
    await identity.call("SignUp", wanted)
    here, there, idle = [await identity.sign_in(wanted.citizen_number, wanted.password) for _ in range(3)]
    change = pb.ChangePasswordRequest(
        request_id=uuid7(), current_password=wanted.password, new_password="một mật khẩu khác"
    )
    with monkeypatch.context() as fault:
        fault.setattr(identity.service.stores[2], "page", _dies)
        await _breaks(identity, "ChangePassword", change, here.access_token)
    error = await _not_refreshed(identity, there.refresh_token)
    assert (error.reason, error.metadata["cause"]) == ("SESSION_ENDED", "PASSWORD_CHANGED")
    assert await identity.call("ChangePassword", change, here.access_token)
    for tokens in (there, idle):
        assert await eventually(lambda tokens=tokens: heard(lambda it: it.session_id == tokens.session_id))
    assert await _refresh(identity, here.refresh_token)


async def test_a_locked_account_is_signed_out_everywhere_and_stays_out_until_unlocked(
    identity: Identity, listen: Heard, eventually: Eventually
) -> None:
    heard = await listen(events.SessionRevoked)
    admin = await identity.token("quantri")
    wanted = identity.citizen()
    account = (await identity.call("SignUp", wanted)).account
    tokens = await identity.sign_in(wanted.citizen_number, wanted.password)
    lock = pb.SetAccountStatusRequest(
        request_id=uuid7(), account_id=account.id, status=pb.ACCOUNT_STATUS_LOCKED, etag=account.etag
    )
    locked = (await identity.call("SetAccountStatus", lock, admin)).account
    assert locked.status == pb.ACCOUNT_STATUS_LOCKED
    assert (await identity.call("SetAccountStatus", lock, admin)).account.etag == locked.etag
    revoked = await eventually(lambda: heard(lambda event: event.session_id == tokens.session_id))
    assert revoked.reason == "LOCKED"
    assert (await identity.refused("SignIn", _by(wanted))).reason == "ACCOUNT_LOCKED"
    assert (await _not_refreshed(identity, tokens.refresh_token)).metadata["cause"] == "LOCKED"
    change = pb.ChangePasswordRequest(current_password=wanted.password, new_password="một mật khẩu khác")
    assert (await identity.refused("ChangePassword", change, tokens.access_token)).reason == "SESSION_ENDED"

    lock.request_id = uuid7()
    assert (await identity.refused("SetAccountStatus", lock, admin)).reason == "STALE"
    unlock = pb.SetAccountStatusRequest(account_id=account.id, status=pb.ACCOUNT_STATUS_ACTIVE)
    assert (await identity.call("SetAccountStatus", unlock, admin)).account.status == pb.ACCOUNT_STATUS_ACTIVE
    assert (await _not_refreshed(identity, tokens.refresh_token)).metadata["cause"] == "LOCKED"
    assert await identity.sign_in(wanted.citizen_number, wanted.password)


async def test_a_lock_that_died_before_the_sessions_ended_is_finished_by_repeating_it(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, listen: Heard, eventually: Eventually
) -> None:
    heard = await listen(events.SessionRevoked)
    admin = await identity.token("quantri")
    wanted = identity.citizen()
    account = (await identity.call("SignUp", wanted)).account
    tokens = await identity.sign_in(wanted.citizen_number, wanted.password)
    lock = pb.SetAccountStatusRequest(
        request_id=uuid7(), account_id=account.id, status=pb.ACCOUNT_STATUS_LOCKED
    )
    with monkeypatch.context() as fault:
        fault.setattr(identity.service.stores[2], "page", _dies)
        await _breaks(identity, "SetAccountStatus", lock, admin)
    assert (await _not_refreshed(identity, tokens.refresh_token)).metadata["cause"] == "LOCKED"
    await identity.call("SetAccountStatus", lock, admin)
    assert await eventually(lambda: heard(lambda event: event.session_id == tokens.session_id))


async def test_an_unclaimed_account_can_be_locked_and_then_waits_for_its_code_again(
    identity: Identity,
) -> None:
    admin, reception = await identity.token("quantri"), await identity.token("nt.tiepnhan")
    person = identity.citizen()
    opened = await identity.call("OpenAccount", _at_counter(person), reception)
    person.activation_code = opened.activation_code
    lock = pb.SetAccountStatusRequest(account_id=opened.account.id, status=pb.ACCOUNT_STATUS_LOCKED)
    unlock = pb.SetAccountStatusRequest(account_id=opened.account.id, status=pb.ACCOUNT_STATUS_ACTIVE)
    assert (await identity.refused("SetAccountStatus", unlock, admin)).reason == "ACTIVATION_REQUIRED"
    await identity.call("SetAccountStatus", lock, admin)
    assert (await identity.refused("SignUp", person)).reason == "ACTIVATION_CODE_WRONG"
    assert (await identity.call("OpenAccount", _at_counter(person), reception)).activation_code == ""
    unlocked = (await identity.call("SetAccountStatus", unlock, admin)).account
    assert unlocked.status == pb.ACCOUNT_STATUS_UNCLAIMED
    assert (await identity.call("SignUp", person)).account.status == pb.ACCOUNT_STATUS_ACTIVE


async def test_an_admin_locks_officials_of_their_agencies_and_the_topmost_admin_everybody_else(
    identity: Identity,
) -> None:
    root = await identity.token("quantri")
    serial = int(time.time() * 1000)

    async def official(name: str, *roles: pb.Role) -> pb.Account:
        wanted = pb.CreateOfficialRequest(
            name="Cán Bộ", username=f"{name}{serial}", password="một mật khẩu dài", roles=roles
        )
        answer = await identity.call("CreateOfficial", wanted, root)
        assert isinstance(answer, pb.CreateOfficialResponse)
        return answer.account

    own = await official("khoa.admin", pb.Role(agency="H32.05", name="admin"))
    admin = await identity.token(own.username, "một mật khẩu dài")
    theirs = await official("khoa.a", pb.Role(agency="H32.05", name="clerk"))
    both = await official(
        "khoa.b", pb.Role(agency="H32.05", name="clerk"), pb.Role(agency="H32.15", name="clerk")
    )
    nowhere = await official("khoa.c")
    citizen = (await identity.call("SignUp", identity.citizen())).account

    def lock(account: pb.Account) -> pb.SetAccountStatusRequest:
        return pb.SetAccountStatusRequest(account_id=account.id, status=pb.ACCOUNT_STATUS_LOCKED)

    for account in (both, nowhere, citizen):
        assert (await identity.refused("SetAccountStatus", lock(account), admin)).reason == "NOT_YOUR_AGENCY"
    assert (await identity.refused("SetAccountStatus", lock(own), admin)).reason == "OWN_ACCOUNT"
    assert await identity.call("SetAccountStatus", lock(theirs), admin)
    for account in (both, nowhere, citizen, own):
        assert await identity.call("SetAccountStatus", lock(account), root)
    unknown = pb.SetAccountStatusRequest(account_id=uuid7(), status=pb.ACCOUNT_STATUS_LOCKED)
    assert (await identity.refused("SetAccountStatus", unknown, root)).reason == "NOT_FOUND"
    for status in (pb.ACCOUNT_STATUS_UNSPECIFIED, pb.ACCOUNT_STATUS_UNCLAIMED):
        wrong = pb.SetAccountStatusRequest(account_id=citizen.id, status=status)
        error = await identity.refused("SetAccountStatus", wrong, root)
        assert isinstance(error, InvalidInput)
        assert error.violations[0].reason == "STATUS_NOT_SETTABLE"


# --- delegations ---------------------------------------------------------------------------------------


async def test_a_delegation_lets_one_account_act_for_another_until_it_ends(
    identity: Identity, listen: Heard, eventually: Eventually
) -> None:
    requested, granted, ended = (
        await listen(events.DelegationRequested),
        await listen(events.DelegationGranted),
        await listen(events.DelegationRevoked),
    )
    an, binh = await identity.token(AN), await identity.token(BINH)
    service = await identity.service_token()
    until = Timestamp()
    until.FromDatetime(datetime.now(UTC) + timedelta(days=10))
    grant = pb.GrantDelegationRequest(
        request_id=uuid7(),
        delegate_identifier=BINH,
        scopes=[pb.DELEGATION_SCOPE_PAY, pb.DELEGATION_SCOPE_FILE],
        expire_time=until,
    )
    given = (await identity.call("GrantDelegation", grant, an)).delegation
    assert (await identity.call("GrantDelegation", grant, an)).delegation.id == given.id
    assert list(given.scopes) == [pb.DELEGATION_SCOPE_FILE, pb.DELEGATION_SCOPE_PAY]

    async def allowed(scope: pb.DelegationScope.ValueType, principal: str, delegate: str) -> str:
        check = pb.CheckDelegationRequest(principal_id=principal, delegate_id=delegate, scope=scope)
        answer = await identity.call("CheckDelegation", check, service)
        assert answer.allowed == bool(answer.delegation_id)
        return str(answer.delegation_id)

    assert (given.state, given.delegate_id) == (pb.DELEGATION_STATE_REQUESTED, "")
    sides = ((await _account(identity, AN)).id, (await _account(identity, BINH)).id)
    assert await allowed(pb.DELEGATION_SCOPE_FILE, *sides) == ""
    assert await eventually(lambda: requested(lambda event: event.delegation.id == given.id))
    accept = pb.AcceptDelegationRequest(id=given.id)
    for token in (an, await identity.token(await _somebody(identity), "một mật khẩu dài")):
        assert (await identity.refused("AcceptDelegation", accept, token)).reason in (
            "DELEGATION_NOT_FOUND",
            "NOT_VERIFIED",
        )
    agreed = (await identity.call("AcceptDelegation", accept, binh)).delegation
    assert (agreed.principal_id, agreed.delegate_id) == sides
    assert await identity.call("AcceptDelegation", accept, binh)
    assert await allowed(pb.DELEGATION_SCOPE_FILE, *sides) == given.id
    assert await allowed(pb.DELEGATION_SCOPE_VAULT, *sides) == ""
    assert await allowed(pb.DELEGATION_SCOPE_FILE, *reversed(sides)) == ""
    for token in (an, binh):
        listed = (await identity.call("ListDelegations", pb.ListDelegationsRequest(), token)).delegations
        assert given.id in [delegation.id for delegation in listed]
    seen = (await identity.call("GetAccount", pb.GetAccountRequest(id=sides[0]), binh)).account
    assert (seen.name, seen.citizen_number, seen.phone) == ("Nguyễn Thị An", "•••••••••101", "")

    stranger = await identity.token(await _somebody(identity), "một mật khẩu dài")
    revoke = pb.RevokeDelegationRequest(id=given.id)
    assert (await identity.refused("RevokeDelegation", revoke, stranger)).reason == "DELEGATION_NOT_FOUND"
    assert (await identity.call("RevokeDelegation", revoke, binh)).delegation.HasField("revoke_time")
    assert await identity.call("RevokeDelegation", revoke, an)
    assert await allowed(pb.DELEGATION_SCOPE_FILE, *sides) == ""
    assert await eventually(lambda: granted(lambda event: event.delegation.id == given.id))
    assert await eventually(lambda: ended(lambda event: event.delegation.id == given.id))


async def test_a_delegation_runs_out(identity: Identity) -> None:
    an = await identity.token(AN)
    until = Timestamp()
    until.FromDatetime(datetime.now(UTC) + timedelta(minutes=1))
    grant = pb.GrantDelegationRequest(
        delegate_identifier=BINH, scopes=[pb.DELEGATION_SCOPE_VAULT], expire_time=until
    )
    given = (await identity.call("GrantDelegation", grant, an)).delegation
    accept = pb.AcceptDelegationRequest(id=given.id)
    given = (await identity.call("AcceptDelegation", accept, await identity.token(BINH))).delegation
    check = pb.CheckDelegationRequest(
        principal_id=given.principal_id, delegate_id=given.delegate_id, scope=pb.DELEGATION_SCOPE_VAULT
    )
    token = await identity.service_token()
    assert (await identity.call("CheckDelegation", check, token)).allowed
    identity.time.ahead = timedelta(minutes=1)
    assert not (await identity.call("CheckDelegation", check, token)).allowed


async def test_a_wrong_delegation_is_refused_with_its_reasons(identity: Identity) -> None:
    an = await identity.token(AN)
    error = await identity.refused("GrantDelegation", pb.GrantDelegationRequest(delegate_identifier=AN), an)
    assert isinstance(error, InvalidInput)
    assert [(v.field, v.reason) for v in error.violations] == [
        ("delegate_identifier", "DELEGATE_IS_SELF"),
        ("scopes", "REQUIRED"),
        ("expire_time", "REQUIRED"),
    ]
    for nobody in ("quantri", "!"):
        request = pb.GrantDelegationRequest(delegate_identifier=nobody)
        error = await identity.refused("GrantDelegation", request, an)
        assert isinstance(error, InvalidInput)
        assert error.violations[0].reason == "IDENTIFIER_SHAPE"


async def test_a_request_tells_neither_side_who_the_other_is_nor_whether_there_is_one(
    identity: Identity,
) -> None:
    me = await identity.token(await _proven(identity), "một mật khẩu dài")
    until = Timestamp()
    until.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    answers = []
    for known in (BINH, "079090777888", "0377000111"):
        grant = pb.GrantDelegationRequest(
            delegate_identifier=known, scopes=[pb.DELEGATION_SCOPE_READ], expire_time=until
        )
        given = (await identity.call("GrantDelegation", grant, me)).delegation
        again = await identity.refused("GrantDelegation", grant, me)
        answers.append((given.state, given.delegate_id, given.etag, again.reason))
        assert given.delegate_hint.endswith(known[-3:])
    assert set(answers) == {(pb.DELEGATION_STATE_REQUESTED, "", given.etag, "DELEGATION_REQUESTED")}
    token = await identity.token(BINH)
    listed = (await identity.call("ListDelegations", pb.ListDelegationsRequest(), token)).delegations
    asked = next(it for it in listed if it.state == pb.DELEGATION_STATE_REQUESTED)
    assert (asked.principal_id, len(asked.principal_hint.strip("•"))) == ("", 3)
    decline = pb.DeclineDelegationRequest(id=asked.id)
    declined = (await identity.call("DeclineDelegation", decline, token)).delegation
    assert (declined.state, declined.principal_id) == (pb.DELEGATION_STATE_DECLINED, "")
    accept = pb.AcceptDelegationRequest(id=asked.id)
    assert (await identity.refused("AcceptDelegation", accept, token)).reason == "NOT_REQUESTED"
    # Asked once more, whoever declined is left in peace.
    grant = pb.GrantDelegationRequest(
        delegate_identifier=BINH, scopes=[pb.DELEGATION_SCOPE_READ], expire_time=until
    )
    given = (await identity.call("GrantDelegation", grant, me)).delegation
    listed = (await identity.call("ListDelegations", pb.ListDelegationsRequest(), token)).delegations
    assert given.id not in [it.id for it in listed]


async def test_a_request_lapses_and_is_taken_back(identity: Identity) -> None:
    me = await identity.token(await _proven(identity), "một mật khẩu dài")
    until = Timestamp()
    until.FromDatetime(datetime.now(UTC) + timedelta(days=60))
    grant = pb.GrantDelegationRequest(
        delegate_identifier=BINH, scopes=[pb.DELEGATION_SCOPE_READ], expire_time=until
    )
    given = (await identity.call("GrantDelegation", grant, me)).delegation
    back = (await identity.call("RevokeDelegation", pb.RevokeDelegationRequest(id=given.id), me)).delegation
    assert back.state == pb.DELEGATION_STATE_WITHDRAWN
    second = (await identity.call("GrantDelegation", grant, me)).delegation
    assert second.id != given.id
    binh = await identity.token(BINH)
    identity.time.ahead = timedelta(days=15)
    error = await identity.refused("AcceptDelegation", pb.AcceptDelegationRequest(id=second.id), binh)
    assert (error.reason, error.metadata["state"]) == ("NOT_REQUESTED", "lapsed")


async def test_nobody_unverified_asks_or_is_asked(identity: Identity) -> None:
    unproven = identity.citizen()
    await identity.call("SignUp", unproven)
    until = Timestamp()
    until.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    grant = pb.GrantDelegationRequest(
        delegate_identifier=BINH, scopes=[pb.DELEGATION_SCOPE_READ], expire_time=until
    )
    token = await identity.token(unproven.citizen_number, unproven.password)
    assert (await identity.refused("GrantDelegation", grant, token)).reason == "NOT_VERIFIED"
    grant.delegate_identifier = unproven.citizen_number
    given = (await identity.call("GrantDelegation", grant, await identity.token(AN))).delegation
    assert given.state == pb.DELEGATION_STATE_REQUESTED
    assert not (await identity.call("ListDelegations", pb.ListDelegationsRequest(), token)).delegations


async def test_the_list_of_delegations_goes_on_from_those_given_to_those_received(identity: Identity) -> None:
    phones = [await _proven(identity) for _ in range(2)]
    me, other = [await identity.token(phone, "một mật khẩu dài") for phone in phones]
    until = Timestamp()
    until.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    made = []
    for token, to in ((me, BINH), (me, phones[1]), (other, phones[0])):
        grant = pb.GrantDelegationRequest(
            delegate_identifier=to, scopes=[pb.DELEGATION_SCOPE_READ], expire_time=until
        )
        made.append((await identity.call("GrantDelegation", grant, token)).delegation.id)
    for size in (1, 2, 3, 20):
        seen, request = [], pb.ListDelegationsRequest(page_size=size)
        while True:
            page = await identity.call("ListDelegations", request, me)
            seen += [delegation.id for delegation in page.delegations]
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        assert seen == [made[1], made[0], made[2]]
    request = pb.ListDelegationsRequest(page_token="nonsense")
    assert (await identity.refused("ListDelegations", request, me)).reason == "INVALID_PAGE_TOKEN"


# --- who may do what -----------------------------------------------------------------------------------

EVERYBODY = {"nobody", "citizen", "examiner", "reception", "admin", "service"}
OFFICIALS = {"examiner", "reception", "admin"}
MAY = {
    "SignUp": EVERYBODY,
    "SignIn": EVERYBODY,
    "BeginOidcSignIn": EVERYBODY,
    "CompleteOidcSignIn": EVERYBODY,
    "RefreshSession": EVERYBODY,
    "SignOut": EVERYBODY - {"nobody", "service"},
    "ListEndedSessions": EVERYBODY,
    "GetJwks": EVERYBODY,
    "IssueServiceToken": EVERYBODY,
    "OpenAccount": {"reception"},
    "CompleteSignIn": EVERYBODY,
    "BeginSecondFactor": EVERYBODY,
    "CompleteSecondFactor": EVERYBODY,
    "ListSecondFactors": OFFICIALS,
    "RemoveSecondFactor": OFFICIALS,
    "RenewRecoveryCodes": OFFICIALS,
    "ResetSecondFactors": {"admin"},
    "ProveAccount": {"reception"},
    "ConfirmIdentity": {"citizen"},
    "CreateOfficial": {"admin"},
    "SetRoles": {"admin"},
    "UpdateProfile": {"citizen", *OFFICIALS},
    "ChangePassword": {"citizen", *OFFICIALS},
    "SetAccountStatus": {"admin"},
    "RequestPasswordReset": EVERYBODY,
    "ResetPassword": EVERYBODY,
    "RequestContactVerification": {"citizen", *OFFICIALS},
    "VerifyContact": {"citizen", *OFFICIALS},
    "IssueOneTimeSecret": set(),
    "GetAccount": EVERYBODY - {"nobody"},
    "BatchGetAccounts": EVERYBODY - {"nobody"},
    "FindAccount": {"service"},
    "PutAgency": {"admin"},
    "BatchGetAgencies": EVERYBODY,
    "ListAgencies": EVERYBODY,
    "GrantDelegation": {"citizen"},
    "AcceptDelegation": {"citizen"},
    "DeclineDelegation": {"citizen"},
    "RevokeDelegation": {"citizen"},
    "ListDelegations": {"citizen"},
    "CheckDelegation": {"service"},
}


async def test_every_operation_lets_in_exactly_those_who_may(identity: Identity) -> None:
    tokens = {
        "nobody": "",
        "citizen": await identity.token(AN),
        "examiner": await identity.token("nt.thuly"),
        "reception": await identity.token("nt.tiepnhan"),
        "admin": await identity.token("quantri"),
        "service": await identity.service_token(),
    }
    methods = pb.DESCRIPTOR.services_by_name["IdentityService"].methods_by_name
    assert set(methods.keys()) == MAY.keys()
    for name in sorted(methods, key=lambda name: name == "SignOut"):  # nobody is let in after it
        request = getattr(pb, methods[name].input_type.name)
        for who, token in tokens.items():
            try:
                await identity.call(name, request(), token)
                refused = False
            except DomainError as error:
                refused = error.reason in ("SIGN_IN_REQUIRED", "NOT_ALLOWED")
            assert (name, who, refused) == (name, who, who not in MAY[name])


# --- helpers -------------------------------------------------------------------------------------------


async def _refresh(identity: Identity, token: str) -> pb.RefreshSessionResponse:
    answer = await identity.call("RefreshSession", pb.RefreshSessionRequest(refresh_token=token))
    assert isinstance(answer, pb.RefreshSessionResponse)
    return answer


async def _not_refreshed(identity: Identity, token: str) -> DomainError:
    return await identity.refused("RefreshSession", pb.RefreshSessionRequest(refresh_token=token))


async def _change(identity: Identity, tokens: pb.SessionTokens, current: str, new: str) -> None:
    change = pb.ChangePasswordRequest(current_password=current, new_password=new)
    await identity.call("ChangePassword", change, tokens.access_token)


async def _account(identity: Identity, identifier: str) -> pb.Account:
    answer = await identity.call("SignIn", pb.SignInRequest(identifier=identifier, password=PASSWORD))
    assert isinstance(answer, pb.SignInResponse)
    return answer.account


async def _proven(identity: Identity) -> str:
    """The citizen number of somebody who opened an account at the counter and claimed it."""
    person = identity.citizen()
    opened = await identity.call("OpenAccount", _at_counter(person), await identity.token("nt.tiepnhan"))
    person.activation_code = opened.activation_code
    await identity.call("SignUp", person)
    return str(person.citizen_number)


async def _somebody(identity: Identity) -> str:
    wanted = identity.citizen()
    await identity.call("SignUp", wanted)
    return wanted.citizen_number


async def _dies(*_args: Any, **_keywords: Any) -> None:
    raise RuntimeError("the process dies here")


def _raises(*_args: Any, **_keywords: Any) -> None:
    raise RuntimeError("the process dies here")


async def _breaks(identity: Identity, method: str, message: Any, token: str = "") -> None:
    """Calls an RPC that fails in the middle, and is masked."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await identity.call(method, message, token)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "dies" not in str(caught.value.details())


def _at_counter(person: pb.SignUpRequest) -> pb.OpenAccountRequest:
    return pb.OpenAccountRequest(
        kind=person.kind,
        name=person.name,
        citizen_number=person.citizen_number,
        phone=person.phone,
        agency="H32.15",
        papers=[pb.Paper(kind=pb.PAPER_KIND_CITIZEN_CARD, number=person.citizen_number)],
    )


def _agency(code: str, **more: Any) -> pb.Agency:
    return pb.Agency(
        **{
            "code": code,
            "name": f"Cơ quan {code}",
            "level": pb.AGENCY_LEVEL_COMMUNE,
            "parent": "H32",
            "valid_from": "2025-07-01",
            **more,
        }
    )


def _by(person: pb.SignUpRequest) -> pb.SignInRequest:
    return pb.SignInRequest(identifier=person.citizen_number, password=person.password)


def _stored_keys(settings: IdentitySettings) -> list[dict[str, str]]:
    keys: list[dict[str, str]] = json.loads(Path(settings.identity_signing_keys).read_text())["keys"]
    return keys


def _signing_key(identity: Identity) -> Ed25519PrivateKey:
    stored = _stored_keys(identity.settings)[0]
    return Ed25519PrivateKey.from_private_bytes(base64.urlsafe_b64decode(stored["d"] + "="))


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
