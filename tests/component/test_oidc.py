"""Signing in with an identity provider: a real one, oidc-provider as a process of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import grpc
import httpx
import pytest
from pydantic import SecretStr

from identity.bootstrap import IdentitySettings, build
from kit.errors import DomainError
from kit.ids import uuid7
from kit.service import CannotStart
from kit.status import from_rpc
from motcua.identity.v1 import identity_pb2 as pb
from motcua.identity.v1 import identity_pb2_grpc as grpc_pb
from tests.needs import node

HOME = Path(__file__).parents[1] / "clients/oidc"
BACK = "https://dichvucong.example.vn/dang-nhap"
PROVEN, WEAK = "urn:level:2", "urn:level:1"
SEED = Path(__file__).parents[2] / "services/identity/seed.json"
_serial = itertools.count(1)


@dataclass
class Provider:
    """The provider's process."""

    issuer: str
    http: httpx.AsyncClient

    async def next(self, **more: Any) -> None:
        """Who signs in next, and how it behaves."""
        answer = await self.http.post(f"{self.issuer}/control", json=more)
        assert answer.status_code == 200, answer.text

    async def visit(self, url: str) -> dict[str, str]:
        """A browser that goes there, and what is in the address to which it is sent back."""
        async with httpx.AsyncClient() as browser:
            while not url.startswith(BACK):
                answer = await browser.get(url)
                assert answer.status_code in (302, 303), answer.text
                url = str(httpx.URL(url).join(answer.headers["location"]))
        return dict(parse_qsl(urlsplit(url).query))


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[Provider]:
    program = node(HOME)
    process = await asyncio.create_subprocess_exec(
        program,
        "provider.mjs",
        cwd=HOME,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    issuer = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
    assert issuer.startswith("http://")
    async with httpx.AsyncClient() as http:
        yield Provider(issuer, http)
    process.terminate()
    await process.wait()


@dataclass
class Identity:
    """A running identity that knows the provider."""

    stub: grpc_pb.IdentityServiceStub
    service: Any

    async def call(self, method: str, message: Any, token: str = "") -> Any:
        """The answer of an RPC. Raises the DomainError that the service meant."""
        metadata = [("authorization", f"Bearer {token}")] if token else None
        try:
            return await getattr(self.stub, method)(message, metadata=metadata, timeout=20)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None

    async def refused(self, method: str, message: Any, token: str = "") -> str:
        """The reason that an RPC answers."""
        with pytest.raises(DomainError) as caught:
            await self.call(method, message, token)
        return caught.value.reason

    async def begin(self, token: str = "", **more: Any) -> pb.BeginOidcSignInResponse:
        answer = await self.call("BeginOidcSignIn", pb.BeginOidcSignInRequest(**more), token)
        assert isinstance(answer, pb.BeginOidcSignInResponse)
        return answer

    async def back(
        self, provider: Provider, token: str = "", **more: Any
    ) -> tuple[pb.CompleteOidcSignInRequest, str]:
        """What a browser brings back that went to the provider."""
        begun = await self.begin(token, **more)
        given = await provider.visit(begun.url)
        assert "code" in given, given
        return pb.CompleteOidcSignInRequest(binding=begun.binding, **given), token

    async def sign_in(
        self, provider: Provider, token: str = "", **more: Any
    ) -> pb.CompleteOidcSignInResponse:
        request, token = await self.back(provider, token, **more)
        answer = await self.call("CompleteOidcSignIn", request, token)
        assert isinstance(answer, pb.CompleteOidcSignInResponse)
        return answer

    async def password_token(self, identifier: str, password: str) -> str:
        request = pb.SignInRequest(identifier=identifier, password=password)
        return str((await self.call("SignIn", request)).tokens.access_token)


@pytest.fixture(scope="module")
def settings(mongo_url: str, nats_url: str, provider: Provider) -> IdentitySettings:
    return IdentitySettings(
        environment="test",
        mongodb_url=mongo_url,
        mongodb_database=f"oidc_{uuid7()[-12:]}",
        nats_url=nats_url,
        grace=0.5,
        identity_seed=str(SEED),
        argon2_memory_kib=64,
        argon2_passes=1,
        oidc_issuer=provider.issuer,
        oidc_client_id="motcua",
        oidc_client_secret=SecretStr("a secret: of/ours+%"),
        oidc_redirect_uri=BACK,
        oidc_proven_acr=[PROVEN],
    )


@pytest.fixture(scope="module")
async def identity(settings: IdentitySettings) -> AsyncIterator[Identity]:
    service = build(settings)
    await service.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        yield Identity(grpc_pb.IdentityServiceStub(channel), service)
    await service.stop()


def somebody(name: str = "Đỗ Thị Điện Tử") -> dict[str, str]:
    """A person as the provider knows them."""
    at = next(_serial)
    return {"sub": f"person-{at}", "name": name, "citizen_number": f"056085{at:06d}"}


async def test_somebody_whom_the_provider_has_proven_gets_a_verified_account_and_the_same_again(
    identity: Identity, provider: Provider
) -> None:
    person = somebody()
    for in_token in (False, True):  # the number comes with the user information, or in the token
        await provider.next(account=person, acr=PROVEN, claimsInToken=in_token)
        answer = await identity.sign_in(provider)
        account = answer.account
        assert (account.verified, account.name) == (True, person["name"])
        assert (account.citizen_number, account.proof.kind) == (
            person["citizen_number"],
            pb.PROOF_KIND_PROVIDER,
        )
        own = await identity.call("GetAccount", pb.GetAccountRequest(), answer.tokens.access_token)
        assert own.account.id == account.id
    again = await identity.sign_in(provider)
    assert again.account.id == account.id
    assert again.account.proof.issuer == provider.issuer


async def test_a_weak_sign_in_makes_and_proves_nothing(identity: Identity, provider: Provider) -> None:
    for account, acr in (
        (somebody(), WEAK),
        (somebody(), None),
        ({"sub": "no-number", "name": "Đỗ Thị Không"}, PROVEN),
        ({**somebody(), "citizen_number": "123"}, PROVEN),
        (somebody("http://evil.com"), PROVEN),
    ):
        await provider.next(account=account, acr=acr)
        request, _ = await identity.back(provider)
        assert await identity.refused("CompleteOidcSignIn", request) == "OIDC_NOT_PROVEN"


async def test_a_state_serves_once_and_in_the_browser_that_began_it(
    identity: Identity, provider: Provider
) -> None:
    await provider.next(account=somebody(), acr=PROVEN)
    request, _ = await identity.back(provider)
    other = await identity.begin()
    for field, value in (("binding", other.binding), ("state", "x" * 43), ("state", "")):
        forged = pb.CompleteOidcSignInRequest()
        forged.CopyFrom((await identity.back(provider))[0])
        setattr(forged, field, value)
        assert await identity.refused("CompleteOidcSignIn", forged) == "OIDC_STATE_UNKNOWN"
    attempts = await asyncio.gather(
        *(identity.call("CompleteOidcSignIn", request) for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(answer, pb.CompleteOidcSignInResponse) for answer in attempts) == 1
    assert await identity.refused("CompleteOidcSignIn", request) == "OIDC_STATE_UNKNOWN"
    # What somebody else began is not completed as one's own: it would link their account with ours.
    an = await identity.password_token("079090000101", "Motcua@2026")
    begun, _ = await identity.back(provider)
    assert await identity.refused("CompleteOidcSignIn", begun, an) == "OIDC_STATE_UNKNOWN"


async def test_a_code_or_an_issuer_that_is_not_of_this_sign_in_is_refused(
    identity: Identity, provider: Provider
) -> None:
    await provider.next(account=somebody(), acr=PROVEN)
    stolen, _ = await identity.back(provider)
    for change in ({"code": stolen.code}, {"code": "nonsense"}, {"iss": "https://evil.example"}, {"iss": ""}):
        request, _ = await identity.back(provider)
        for field, value in change.items():
            setattr(request, field, value)
        assert await identity.refused("CompleteOidcSignIn", request) == "OIDC_REFUSED"


async def test_the_request_says_who_asks_for_what_with_a_challenge(
    identity: Identity, provider: Provider
) -> None:
    first, second = [parse_qs(urlsplit((await identity.begin()).url).query) for _ in range(2)]
    assert first["code_challenge_method"] == ["S256"]
    assert first["redirect_uri"] == [BACK]
    assert first["acr_values"] == [PROVEN]
    for secret in ("state", "nonce", "code_challenge"):
        assert first[secret] != second[secret]
        assert len(first[secret][0]) >= 43


async def test_a_changed_key_of_the_provider_is_fetched(
    identity: Identity, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("identity.oidc._REFETCH", 0.0)
    person = somebody()
    await provider.next(account=person, acr=PROVEN)
    first = (await identity.sign_in(provider)).account
    await provider.next(rotate=True)
    assert (await identity.sign_in(provider)).account.id == first.id


async def test_a_provider_that_is_away_is_said_to_be(
    identity: Identity, provider: Provider, settings: IdentitySettings
) -> None:
    await provider.next(account=somebody(), acr=PROVEN)
    request, _ = await identity.back(provider)
    await provider.next(away=True)
    try:
        assert await identity.refused("CompleteOidcSignIn", request) == "OIDC_UNAVAILABLE"
        fresh = build(settings)
        await fresh.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{fresh.port}") as channel:
            other = Identity(grpc_pb.IdentityServiceStub(channel), fresh)
            assert await other.refused("BeginOidcSignIn", pb.BeginOidcSignInRequest()) == "OIDC_UNAVAILABLE"
        await fresh.stop()
    finally:
        await provider.next(away=False)


async def test_the_provider_leads_to_the_account_that_a_counter_has_proven(
    identity: Identity, provider: Provider
) -> None:
    person = somebody()
    reception = await identity.password_token("nt.tiepnhan", "Motcua@2026")
    opening = pb.OpenAccountRequest(
        kind=pb.ACCOUNT_KIND_PERSON,
        name=person["name"].upper(),
        citizen_number=person["citizen_number"],
        agency="H32.15",
        papers=[pb.Paper(kind=pb.PAPER_KIND_CITIZEN_CARD, number=person["citizen_number"])],
    )
    opened = await identity.call("OpenAccount", opening, reception)
    await provider.next(account={**person, "name": "Lê Văn Khác"}, acr=PROVEN)
    request, _ = await identity.back(provider)
    assert await identity.refused("CompleteOidcSignIn", request) == "IDENTITY_DISPUTED"
    await provider.next(account=person, acr=PROVEN)
    account = (await identity.sign_in(provider)).account
    assert (account.id, account.status) == (opened.account.id, pb.ACCOUNT_STATUS_ACTIVE)


async def test_an_account_of_ones_own_is_linked_and_proven_and_an_impostors_loses_the_number(
    identity: Identity, provider: Provider
) -> None:
    person = somebody()
    accounts = []
    for phone in (f"0936{next(_serial):06d}", f"0936{next(_serial):06d}"):
        request = pb.SignUpRequest(
            kind=pb.ACCOUNT_KIND_PERSON,
            name="Ai Đó",
            citizen_number=person["citizen_number"],
            phone=phone,
            password=f"một mật khẩu dài {phone[-3:]}",
        )
        accounts.append((await identity.call("SignUp", request)).account)
    await provider.next(account=person, acr=PROVEN)
    mine = await _token_of(identity, accounts[1])
    answer, _ = await identity.back(provider)
    assert await identity.refused("CompleteOidcSignIn", answer) == "IDENTITY_DISPUTED"
    linked = (await identity.sign_in(provider, mine)).account
    assert (linked.id, linked.verified, linked.name) == (accounts[1].id, True, person["name"])
    staff = await identity.password_token("nt.tiepnhan", "Motcua@2026")
    lost = (await identity.call("GetAccount", pb.GetAccountRequest(id=accounts[0].id), staff)).account
    assert (lost.citizen_number, lost.verified) == ("", False)
    assert (await identity.sign_in(provider)).account.id == accounts[1].id
    # Another account is not linked with somebody else's sign-in, nor with another number.
    an = await identity.password_token("079090000101", "Motcua@2026")
    answer, token = await identity.back(provider, an)
    assert await identity.refused("CompleteOidcSignIn", answer, token) == "OIDC_LINKED"
    await provider.next(account=somebody(), acr=PROVEN)
    answer, token = await identity.back(provider, an)
    assert await identity.refused("CompleteOidcSignIn", answer, token) == "NUMBER_DIFFERS"


async def test_whoever_says_so_takes_their_number_from_accounts_that_nobody_proved(
    identity: Identity, provider: Provider
) -> None:
    person = somebody()
    request = pb.SignUpRequest(
        kind=pb.ACCOUNT_KIND_PERSON,
        name="Kẻ Mạo Danh",
        citizen_number=person["citizen_number"],
        phone=f"0936{next(_serial):06d}",
        password="một mật khẩu dài",
    )
    false = (await identity.call("SignUp", request)).account
    await provider.next(account=person, acr=PROVEN)
    account = (await identity.sign_in(provider, take_over=True)).account
    assert account.id != false.id
    assert account.verified


def test_production_reaches_the_provider_by_tls_only(settings: IdentitySettings, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    wrong = settings.model_copy(
        update={"environment": "production", "identity_seed": "", "identity_signing_keys": str(keys)}
    )
    with pytest.raises(CannotStart):
        build(wrong)


async def _token_of(identity: Identity, account: pb.Account) -> str:
    password = f"một mật khẩu dài {account.phone[-3:]}"
    request = pb.SignInRequest(identifier=account.citizen_number, password=password)
    answer = await identity.call("SignIn", request)
    assert answer.account.id == account.id
    return str(answer.tokens.access_token)
