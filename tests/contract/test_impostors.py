"""Whoever signs up in somebody else's name gets nothing of theirs, and keeps nobody from their own."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from gateway.ids import to_global
from motcua.dossier.v1 import dossier_pb2 as dos
from motcua.identity.v1 import identity_pb2 as idp

World = Any
PASSWORD = "một mật khẩu dài"
_serial = itertools.count(1)


def _number() -> tuple[str, str]:
    at = next(_serial)
    return f"056088{at:06d}", f"0937{at:06d}"


async def _sign_up(world: World, number: str, phone: str, name: str = "Kẻ Mạo Danh") -> Any:
    request = idp.SignUpRequest(
        kind=idp.ACCOUNT_KIND_PERSON, name=name, citizen_number=number, phone=phone, password=PASSWORD
    )
    return await world.call("IdentityService.SignUp", request, "nobody")


async def _token(world: World, identifier: str, who: str) -> str:
    request = idp.SignInRequest(identifier=identifier, password=PASSWORD)
    world.tokens[who] = (await world.do("IdentityService.SignIn", request, "nobody")).tokens.access_token
    return who


def _opening(number: str, name: str, **more: Any) -> idp.OpenAccountRequest:
    request = idp.OpenAccountRequest(
        kind=idp.ACCOUNT_KIND_PERSON, name=name, citizen_number=number, agency="H32.15"
    )
    if "papers" in request.DESCRIPTOR.fields_by_name:
        request.papers.add(kind=1, number=number)
    for field, value in more.items():
        setattr(request, field, value)
    return request


@pytest.mark.proof("9.2")
async def test_the_counter_gives_nobody_the_account_of_whoever_signed_up_in_their_name(world: World) -> None:
    number, phone = _number()
    false = (await _sign_up(world, number, phone)).reply.account
    for name in ("Trần Thị Thật", false.name):  # the impostor knows the name, too
        answer = await world.call("IdentityService.OpenAccount", _opening(number, name), "reception")
        assert answer.reply is None or answer.reply.account.id != false.id
        assert answer.code == "ABORTED"


@pytest.mark.proof("9.2")
async def test_whoever_comes_first_does_not_keep_the_real_person_from_signing_up(world: World) -> None:
    number, phone = _number()
    first = await _sign_up(world, number, phone)
    second = await _sign_up(world, number, _number()[1], "Trần Thị Thật")
    assert (first.code, second.code) == ("OK", "OK")
    assert first.reply.account.id != second.reply.account.id


@pytest.mark.proof("9.2")
async def test_nobody_acts_for_others_before_it_is_proven_who_they_are(world: World) -> None:
    number, phone = _number()
    await _sign_up(world, number, phone)
    who = await _token(world, number, "unproven")
    company = idp.SignUpRequest(
        kind=idp.ACCOUNT_KIND_ORGANISATION,
        name="Công ty TNHH Biển",
        tax_code="0300588569",
        email=f"{number}@bien.vn",
        password=PASSWORD,
    )
    account = (await world.do("IdentityService.SignUp", company, who)).account
    assert account.representative_id == ""
    asked = idp.GrantDelegationRequest(delegate_identifier=number, scopes=[idp.DELEGATION_SCOPE_READ])
    asked.expire_time.FromJsonString("2030-01-01T00:00:00Z")
    await world.call("IdentityService.GrantDelegation", asked, "owner")
    check = idp.CheckDelegationRequest(
        principal_id=world.ids["owner"],
        delegate_id=(await world.do("IdentityService.GetAccount", idp.GetAccountRequest(), who)).account.id,
        scope=idp.DELEGATION_SCOPE_READ,
    )
    assert not (await world.do("IdentityService.CheckDelegation", check, "service:dossier")).allowed


@pytest.mark.proof("9.2")
async def test_a_desk_sees_who_is_not_verified_and_files_nothing_for_them(world: World) -> None:
    number, phone = _number()
    account = (await _sign_up(world, number, phone)).reply.account
    query = "query($id: ID!) { node(id: $id) { ... on Account { verified proof { kind } } } }"
    shown = (await world.graphql(query, {"id": to_global("Account", account.id)}, who="reception")).json()
    assert "errors" not in shown
    assert shown["data"]["node"] == {"verified": False, "proof": None}
    request = dos.CreateDossierRequest(
        procedure_code="9.900001", receiving_agency="H32.15", applicant_id=account.id
    )
    answer = await world.call("DossierService.CreateDossier", request, "reception")
    assert (answer.code, answer.reason) == ("FAILED_PRECONDITION", "APPLICANT_NOT_VERIFIED")


@pytest.mark.proof("9.2")
async def test_an_identity_provider_is_asked_where_one_is_set(world: World) -> None:
    methods = idp.DESCRIPTOR.services_by_name["IdentityService"].methods_by_name
    assert {"BeginOidcSignIn", "CompleteOidcSignIn"} <= set(methods)
    answer = await world.call("IdentityService.BeginOidcSignIn", idp.BeginOidcSignInRequest(), "nobody")
    assert (
        answer.reason == "OIDC_NOT_OFFERED"
    )  # here none is set; tests/component/test_oidc.py has a real one


async def test_proof_at_the_counter_lifts_it_once_the_owner_enters_the_code(world: World) -> None:
    number, phone = _number()
    account = (await _sign_up(world, number, phone, "tran thi that")).reply.account
    who = await _token(world, number, "proving")
    impostor = (await _sign_up(world, number, _number()[1])).reply.account
    prove = idp.ProveAccountRequest(
        account_id=account.id,
        name="Trần Thị Thật",
        number=number,
        papers=[idp.Paper(kind=idp.PAPER_KIND_CITIZEN_CARD, number=number)],
        agency="H32.15",
    )
    answer = await world.do("IdentityService.ProveAccount", prove, "reception")
    assert not answer.account.verified
    wrong = idp.ConfirmIdentityRequest(activation_code="AAAAA-AAAAA")
    assert (await world.call("IdentityService.ConfirmIdentity", wrong, who)).reason == "ACTIVATION_CODE_WRONG"
    code = idp.ConfirmIdentityRequest(activation_code=answer.activation_code.lower())
    proven = (await world.do("IdentityService.ConfirmIdentity", code, who)).account
    assert (proven.verified, proven.name) == (True, "Trần Thị Thật")
    assert (proven.proof.kind, list(proven.proof.papers)) == (idp.PROOF_KIND_CODE, [1])
    again = await world.call("IdentityService.ConfirmIdentity", code, who)
    assert again.reason == "NO_PROOF_AWAITED"

    lost = await _account(world, impostor.id)
    assert (lost.citizen_number, lost.verified, lost.HasField("detach_time")) == ("", False, True)
    opened = await world.do("IdentityService.OpenAccount", _opening(number, "TRẦN THỊ THẬT"), "reception")
    assert (opened.account.id, opened.activation_code) == (account.id, "")


async def test_a_number_is_taken_over_and_nothing_else_moves(world: World) -> None:
    number, phone = _number()
    false = (await _sign_up(world, number, phone)).reply.account
    who = await _token(world, number, "impostor")
    sign_in = idp.SignInRequest(identifier=number, password=PASSWORD)
    session = (await world.do("IdentityService.SignIn", sign_in, "nobody")).tokens
    conflict = await world.call("IdentityService.OpenAccount", _opening(number, "Trần Thị Thật"), "reception")
    assert (conflict.reason, conflict.error.metadata["accounts"]) == ("IDENTITY_DISPUTED", false.id)
    opened = await world.do(
        "IdentityService.OpenAccount", _opening(number, "Trần Thị Thật", take_over=True), "reception"
    )
    assert opened.account.id != false.id
    assert opened.account.verified
    assert opened.activation_code
    assert (await _account(world, false.id)).citizen_number == ""
    refresh = idp.RefreshSessionRequest(refresh_token=session.refresh_token)
    assert (await world.call("IdentityService.RefreshSession", refresh, "nobody")).code == "UNAUTHENTICATED"
    assert (await world.call("IdentityService.SignIn", sign_in, "nobody")).code == "UNAUTHENTICATED"
    confirm = idp.ConfirmIdentityRequest(activation_code=opened.activation_code)
    assert (await world.call("IdentityService.ConfirmIdentity", confirm, who)).reason == "SESSION_ENDED"


async def test_only_an_admin_takes_a_number_from_a_proven_account(world: World) -> None:
    number, _ = _number()
    await world.do("IdentityService.OpenAccount", _opening(number, "Trần Thị Thật"), "reception")
    answer = await world.call("IdentityService.OpenAccount", _opening(number, "Lê Văn Khác"), "reception")
    assert answer.reason == "IDENTITY_DISPUTED"
    request = _opening(number, "Lê Văn Khác", take_over=True)
    assert (await world.call("IdentityService.OpenAccount", request, "reception")).code == "PERMISSION_DENIED"


async def _account(world: World, id: str) -> idp.Account:
    answer = await world.do("IdentityService.GetAccount", idp.GetAccountRequest(id=id), "service:gateway")
    assert isinstance(answer.account, idp.Account)
    return answer.account


@pytest.mark.proof("9.2")
async def test_an_activation_code_tells_nobody_who_came_to_a_counter(world: World) -> None:
    known, unknown = _number()[0], _number()[0]
    await world.do("IdentityService.OpenAccount", _opening(known, "Trần Thị Thật"), "reception")
    reasons = set()
    for number in (known, unknown, "079090000101"):  # waits for its code, nobody's, in use
        request = idp.SignUpRequest(
            kind=idp.ACCOUNT_KIND_PERSON,
            name="Ai Đó",
            citizen_number=number,
            password=PASSWORD,
            activation_code="AAAAA-AAAAA",
        )
        answer = await world.call("IdentityService.SignUp", request, "nobody")
        reasons.add((answer.code, answer.reason))
    assert reasons == {("FAILED_PRECONDITION", "ACTIVATION_CODE_WRONG")}
