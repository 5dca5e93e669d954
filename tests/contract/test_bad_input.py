"""Each kind of bad input gets its own typed answer in both languages, changes nothing and leaks nothing."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from gateway.errors import api_field
from gateway.ids import to_global
from gateway.messages import MESSAGES
from kit.ids import uuid7

World = Any

PROBLEM = (
    "__typename ... on Problem { reason message } "
    "... on ValidationProblem { violations { field reason message } }"
)
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
ENCODED = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")
PERSONAL = ("Nguyễn Thị An", "Trần Văn Bình", "079090000101", "0901000101", "an@example.vn", "contract_")
INNARDS = ("Traceback", 'File "', ".py", "Exception", "mongodb", "grpc", "AioRpcError", "127.0.0.1:")


@dataclass(frozen=True)
class Bad:
    """One bad request: who sends what, and what it is told."""

    told: str  # type of the answer, or the code of an error
    reason: str
    who: str = "owner"
    mutation: str = ""
    input: Mapping[str, Any] = field(default_factory=dict)
    query: str = ""
    violations: tuple[tuple[str, str], ...] = ()
    status: int = 200


def _ids(text: str) -> set[str]:
    """The ids in a text, also those inside of node ids and cursors."""
    found = set(UUID.findall(text))
    for piece in ENCODED.findall(text):
        try:
            found |= set(UUID.findall(base64.b64decode(piece, validate=True).decode()))
        except (binascii.Error, ValueError):
            continue
    return found


def leaks_nothing(answer: httpx.Response, asked: str) -> None:
    """No id that was not sent, nothing personal, nothing of the inside."""
    assert _ids(answer.text) <= _ids(asked), answer.text
    assert not [word for word in (*PERSONAL, *INNARDS) if word in answer.text and word not in asked], (
        answer.text
    )


async def draft(world: World, **more: Any) -> dict[str, Any]:
    """A new draft of the owner's: id and etag."""
    input = {"procedureCode": "9.900001", "receivingAgency": "H32.15", "form": {"name": "Lan"}, **more}
    made = "createDossier(input: $input) { ... on Dossier { id etag } }"
    document = f"mutation($input: CreateDossierInput!) {{ {made} }}"
    answer = (await world.graphql(document, {"input": input}, who="owner")).json()
    return dict(answer["data"]["createDossier"])


# --- each bad thing ----------------------------------------------------------------------------------------


async def an_unknown_procedure(world: World) -> Bad:
    input = {"procedureCode": "0.000000", "receivingAgency": "H32.15"}
    return Bad("NotFound", "PROCEDURE_NOT_FOUND", mutation="createDossier", input=input)


async def an_unknown_agency(world: World) -> Bad:
    input = {"procedureCode": "9.900001", "receivingAgency": "H99.99"}
    wrong = (("receivingAgency", "UNKNOWN_AGENCY"),)
    return Bad("ValidationProblem", "UNKNOWN_AGENCY", mutation="createDossier", input=input, violations=wrong)


async def a_form_that_breaks_its_schema(world: World) -> Bad:
    made = await draft(world, form={"name": "", "copies": 0})
    return Bad(
        "ValidationProblem",
        "DOSSIER_INCOMPLETE",
        mutation="submitDossier",
        input={"dossierId": made["id"]},
        violations=(
            ("/form/copies", "MINIMUM"),
            ("/form/name", "MIN_LENGTH"),
            ("/form/name", "REQUIRED"),
        ),
    )


async def a_document_of_someone_else(world: World) -> Bad:
    attached = [{"componentId": "proof", "documentId": to_global("Document", await world.document())}]
    input = {"procedureCode": "9.900001", "receivingAgency": "H32.15", "attachments": attached}
    return Bad("Forbidden", "NOT_YOUR_DOCUMENT", who="stranger", mutation="createDossier", input=input)


async def a_document_that_is_not_there(world: World) -> Bad:
    attached = [{"componentId": "proof", "documentId": to_global("Document", uuid7())}]
    input = {"procedureCode": "9.900001", "receivingAgency": "H32.15", "attachments": attached}
    return Bad("Forbidden", "NOT_YOUR_DOCUMENT", who="stranger", mutation="createDossier", input=input)


async def a_dossier_of_someone_else(world: World) -> Bad:
    input = {"dossierId": (await draft(world))["id"]}
    return Bad("NotFound", "DOSSIER_NOT_FOUND", who="stranger", mutation="submitDossier", input=input)


async def an_edit_of_a_lost_race(world: World) -> Bad:
    made = await draft(world)
    document = "mutation($input: UpdateDossierInput!) { updateDossier(input: $input) { __typename } }"
    input = {"dossierId": made["id"], "form": {"name": "Hoa"}, "etag": made["etag"]}
    assert "Dossier" in (await world.graphql(document, {"input": input}, who="owner")).text
    return Bad("Conflict", "STALE", mutation="updateDossier", input=input | {"form": {"name": "Huệ"}})


async def a_request_id_used_for_another_request(world: World) -> Bad:
    key = uuid7()
    await draft(world, requestId=key)
    input = {
        "requestId": key,
        "procedureCode": "9.900001",
        "receivingAgency": "H32.15",
        "form": {"name": "Cúc"},
    }
    return Bad("Conflict", "REQUEST_ID_REUSED", mutation="createDossier", input=input)


async def an_id_of_another_type(world: World) -> Bad:
    input = {"dossierId": to_global("Document", uuid7())}
    wrong = (("dossierId", "ID_INVALID"),)
    return Bad("ValidationProblem", "INVALID_INPUT", mutation="submitDossier", input=input, violations=wrong)


async def a_delegation_that_ended_before_it_began(world: World) -> Bad:
    input = {"delegateIdentifier": "001085000202", "scopes": ["READ"], "expireTime": "2020-01-01T00:00:00Z"}
    return Bad(
        "ValidationProblem",
        "INVALID_INPUT",
        mutation="grantDelegation",
        input=input,
        violations=(("expireTime", "IN_THE_PAST"),),
    )


async def a_sign_up_with_everything_wrong(world: World) -> Bad:
    input = {"name": "7", "citizenNumber": "12345", "phone": "1", "password": "x"}
    wrong = (
        ("citizenNumber", "CITIZEN_NUMBER_SHAPE"),
        ("name", "NAME_LENGTH"),
        ("password", "PASSWORD_LENGTH"),
        ("phone", "PHONE_SHAPE"),
    )
    return Bad(
        "ValidationProblem", "INVALID_INPUT", who="nobody", mutation="signUp", input=input, violations=wrong
    )


async def a_wrong_password(world: World) -> Bad:
    input = {"identifier": "079090000101", "password": "sai mật khẩu"}
    return Bad("Unauthenticated", "INVALID_CREDENTIALS", who="nobody", mutation="signIn", input=input)


async def a_forged_refresh_token(world: World) -> Bad:
    input = {"refreshToken": "không.phải.nó"}
    return Bad(
        "Unauthenticated", "REFRESH_TOKEN_INVALID", who="nobody", mutation="refreshSession", input=input
    )


async def an_expired_token(world: World) -> Bad:
    return Bad("UNAUTHENTICATED", "TOKEN_EXPIRED", who="expired", query="{ viewer { id } }", status=401)


async def a_forged_token(world: World) -> Bad:
    return Bad("UNAUTHENTICATED", "TOKEN_INVALID", who="forged", query="{ viewer { id } }", status=401)


async def an_unsigned_token(world: World) -> Bad:
    return Bad("UNAUTHENTICATED", "TOKEN_INVALID", who="unsigned", query="{ viewer { id } }", status=401)


async def a_query_that_nests_too_deeply(world: World) -> Bad:
    path = ["viewer", "dossiers", "nodes", *["receivingAgency", "parent"] + ["parent"] * 14, "code"]
    query = "{ " + " { ".join(path) + " }" * len(path)
    return Bad("BAD_REQUEST", "TOO_DEEP", query=query)


async def a_query_with_too_many_aliases(world: World) -> Bad:
    query = "{ " + " ".join(f"a{n}: __typename" for n in range(31)) + " }"
    return Bad("BAD_REQUEST", "TOO_MANY_ALIASES", query=query)


async def a_query_with_too_many_tokens(world: World) -> Bad:
    return Bad("BAD_REQUEST", "TOO_MANY_TOKENS", query="{ " + "__typename " * 2001 + "}")


async def a_query_that_asks_for_too_much(world: World) -> Bad:
    vault = "applicant { documents(first: 100) { nodes { id title } } }"
    lists = f"dossiers(first: 100) {{ nodes {{ charges {{ id }} {vault} }} }}"
    query = f"{{ viewer {{ {lists} }} }}"
    return Bad("BAD_REQUEST", "TOO_COSTLY", query=query)


async def too_large_a_body(world: World) -> Bad:
    return Bad("BAD_REQUEST", "BODY_TOO_LARGE", query="{ __typename }" + " " * 262_144, status=413)


async def too_large_a_page(world: World) -> Bad:
    wrong = (("first", "PAGE_SIZE_OUT_OF_RANGE"),)
    return Bad(
        "INVALID_INPUT",
        "INVALID_INPUT",
        violations=wrong,
        query="{ viewer { dossiers(first: 101) { nodes { id } } } }",
    )


async def a_page_of_no_size(world: World) -> Bad:
    wrong = (("first", "PAGE_SIZE_OUT_OF_RANGE"),)
    return Bad(
        "INVALID_INPUT",
        "INVALID_INPUT",
        violations=wrong,
        query="{ procedures(first: -1) { nodes { code } } }",
    )


async def a_cursor_that_no_page_gave(world: World) -> Bad:
    wrong = (("after", "CURSOR_INVALID"),)
    return Bad(
        "INVALID_INPUT",
        "INVALID_INPUT",
        violations=wrong,
        query='{ viewer { dossiers(after: "x") { nodes { id } } } }',
    )


BAD: tuple[Callable[[World], Awaitable[Bad]], ...] = (
    an_unknown_procedure,
    an_unknown_agency,
    a_form_that_breaks_its_schema,
    a_document_of_someone_else,
    a_document_that_is_not_there,
    a_dossier_of_someone_else,
    an_edit_of_a_lost_race,
    a_request_id_used_for_another_request,
    an_id_of_another_type,
    a_delegation_that_ended_before_it_began,
    a_sign_up_with_everything_wrong,
    a_wrong_password,
    a_forged_refresh_token,
    an_expired_token,
    a_forged_token,
    an_unsigned_token,
    a_query_that_nests_too_deeply,
    a_query_with_too_many_aliases,
    a_query_with_too_many_tokens,
    a_query_that_asks_for_too_much,
    too_large_a_body,
    too_large_a_page,
    a_page_of_no_size,
    a_cursor_that_no_page_gave,
)


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
async def test_bad_input_is_told_in_both_languages_changes_nothing_and_leaks_nothing(
    world: World, make: Callable[[World], Awaitable[Bad]]
) -> None:
    bad = await make(world)
    await world.quiet()
    before = world.stored()
    query, variables = bad.query, None
    if bad.mutation:
        kind = bad.mutation[0].upper() + bad.mutation[1:]
        query = f"mutation($input: {kind}Input!) {{ {bad.mutation}(input: $input) {{ {PROBLEM} }} }}"
        variables = {"input": bad.input}
    for at, locale in enumerate(("vi", "en")):
        answer = await world.graphql(query, variables, who=bad.who, locale=locale)
        leaks_nothing(answer, json.dumps([query, variables], ensure_ascii=False))
        told = _told(answer.json(), bad.mutation)
        assert (answer.status_code, told["type"], told["reason"]) == (bad.status, bad.told, bad.reason), told
        assert told["message"] == MESSAGES[bad.reason][at]
        found = tuple(sorted((each["field"], each["reason"]) for each in told["violations"]))
        assert found == bad.violations
        for each in told["violations"]:
            assert each["message"] == MESSAGES[each["reason"]][at]
    assert world.stored() == before


def _told(body: dict[str, Any], mutation: str) -> dict[str, Any]:
    """Type, reason, message and violations of a problem, or of the one error."""
    if mutation:
        assert "errors" not in body, body
        problem = dict(body["data"][mutation])
        return {"violations": [], **problem, "type": problem["__typename"]}
    (error,) = body["errors"]
    extensions = error["extensions"]
    return {"violations": [], **extensions, "message": error["message"], "type": extensions["code"]}


@pytest.mark.parametrize(
    ("content", "filename", "content_type", "reason"),
    [
        (b"MZ" + bytes(200), "a.pdf", "application/pdf", "UNSUPPORTED_TYPE"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "a.pdf", "application/pdf", "FILE_DAMAGED"),
        (b"<script>alert(1)</script>" * 9, "a.png", "image/png", "UNSUPPORTED_TYPE"),
    ],
)
async def test_a_file_that_lies_about_its_type_becomes_no_document(
    world: World, content: bytes, filename: str, content_type: str, reason: str
) -> None:
    for at, locale in enumerate(("vi", "en")):
        input = {"size": len(content), "filename": filename, "contentType": content_type}
        document = (
            "mutation($input: BeginUploadInput!) { beginUpload(input: $input) { ... on Upload { url } } }"
        )
        url = (await world.graphql(document, {"input": input}, who="owner")).json()["data"]["beginUpload"][
            "url"
        ]
        await world.quiet()
        before = _without_uploads(world)
        headers = {
            "authorization": f"Bearer {world.tokens['owner']}",
            "tus-resumable": "1.0.0",
            "upload-offset": "0",
            "content-type": "application/offset+octet-stream",
            "accept-language": locale,
        }
        answer = await world.http.patch(url, content=content, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["reason"] == reason
        assert answer.json()["message"].startswith(MESSAGES[reason][at].partition("{")[0])
        assert "{" not in answer.json()["message"]
        leaks_nothing(answer, "")
        assert _without_uploads(world) == before


def _without_uploads(world: World) -> dict[str, Any]:
    """All that is stored but the upload itself and the room that it has reserved."""
    stored = world.stored().items()
    return {key: value for key, value in stored if "/uploads/" not in key and "/storages/" not in key}


async def test_the_same_request_id_and_request_give_the_same_answer(world: World) -> None:
    key = uuid7()
    first = await draft(world, requestId=key)
    await world.quiet()
    before = world.stored()
    assert await draft(world, requestId=key) == first
    assert world.stored() == before


@pytest.mark.parametrize(
    "forgery", ["no signature", "another secret", "another amount under the same signature"]
)
async def test_a_forged_ipn_is_turned_away_and_pays_nothing(world: World, forgery: str) -> None:
    charge = await world.charged()
    document = (
        "mutation($input: PayChargeInput!) { payCharge(input: $input) "
        "{ ... on PaymentStart { payment { reference amount { amount } } } } }"
    )
    input = {"chargeId": to_global("Charge", charge)}
    begun = (await world.graphql(document, {"input": input}, who="owner")).json()["data"]["payCharge"][
        "payment"
    ]
    parameters = world.notice(begun["reference"], begun["amount"]["amount"])
    if forgery == "no signature":
        del parameters["vnp_SecureHash"]
    elif forgery == "another secret":
        parameters["vnp_SecureHash"] = "0" * 128
    else:
        parameters["vnp_Amount"] = "100"
    await world.quiet()
    before = world.stored()
    answer = await world.http.get("/payments/vnpay/ipn", params=parameters)
    assert answer.json()["RspCode"] == "97"
    leaks_nothing(answer, "")
    shown = await world.http.get("/payments/vnpay/return", params=parameters)
    assert (shown.status_code, shown.json()["valid"]) == (400, False)
    leaks_nothing(shown, "")
    assert world.stored() == before


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ("expire_time", "expireTime"),
        ("procedure.fees[0].valid_to", "procedure.fees[0].validTo"),
        ("name", "name"),
        ("quantities.sổ_gốc", "quantities.sổ_gốc"),
        ("quantities.first_page", "quantities.first_page"),
        ("/form/full_name", "/form/full_name"),
        ("/attachments/birth_proof", "/attachments/birth_proof"),
    ],
)
def test_violations_name_fields_as_the_api_does(told: str, named: str) -> None:
    assert api_field(told) == named
