"""Mutations: inputs become requests, expected failures become members of the result union."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from graphql import GraphQLUnionType, print_schema

from kit.errors import (
    AlreadyExists,
    Conflict,
    DomainError,
    FailedPrecondition,
    FieldViolation,
    Forbidden,
    InvalidInput,
    NotFound,
    RateLimited,
    Unauthenticated,
    Unavailable,
)

SUBMIT = """mutation ($input: SubmitDossierInput!) { submitDossier(input: $input) {
  __typename
  ... on Dossier { id state }
  ... on Problem { reason message }
  ... on ValidationProblem { violations { field reason message } }
  ... on RateLimited { retryAfter }
} }"""
ID = b64encode(b"Dossier:dossier-1").decode()
JOURNEY = [
    "signUp",
    "signIn",
    "refreshSession",
    "signOut",
    "beginUpload",
    "createDossier",
    "submitDossier",
    "supplementDossier",
    "withdrawDossier",
    "payCharge",
    "markNoticesRead",
    "setNoticePreferences",
    "rateDossier",
    "grantDelegation",
    "revokeDelegation",
    "openAccount",
    "receiveDossier",
    "rejectDossier",
    "requestSupplement",
    "requestPayment",
    "handOff",
    "completeStep",
    "extendDeadline",
    "stopDossier",
    "signResult",
    "handOverResult",
    "verifyDocument",
    "refundPayment",
]


async def test_an_input_becomes_the_request_and_the_reply_the_answer(gateway: Any, fakes: Any) -> None:
    data = await gateway.data(SUBMIT, {"input": {"requestId": "r1", "dossierId": ID, "etag": "2"}})
    assert data["submitDossier"] == {"__typename": "Dossier", "id": ID, "state": "IN_PROCESS"}
    request = fakes.requests["SubmitDossier"]
    assert (request.request_id, request.id, request.etag) == ("r1", "dossier-1", "2")


async def test_nested_inputs_forms_and_ids_arrive(gateway: Any, fakes: Any) -> None:
    query = "mutation ($i: CreateDossierInput!) { createDossier(input: $i) { __typename } }"
    document = b64encode(b"Document:document-1").decode()
    given = {
        "procedureCode": "1.001193",
        "receivingAgency": "H32.15",
        "form": {"child": {"name": "Bé", "weights": [1, 2.5, 9007199254740993]}, "twin": False},
        "attachments": [{"componentId": "c1", "documentId": document}],
    }
    assert await gateway.data(query, {"i": given}) == {"createDossier": {"__typename": "Dossier"}}
    request = fakes.requests["CreateDossier"]
    assert json.loads(request.form_json) == given["form"]
    assert "2.0" not in request.form_json
    assert request.attachments[0].document_id == "document-1"
    assert request.channel == 1


@pytest.mark.parametrize(
    ("error", "member"),
    [
        (InvalidInput(violations=[FieldViolation("form", "REQUIRED")]), "ValidationProblem"),
        (Conflict("STALE"), "Conflict"),
        (AlreadyExists("REQUEST_ID_REUSED"), "Conflict"),
        (Forbidden("NOT_YOUR_DOSSIER"), "Forbidden"),
        (NotFound("NOT_FOUND"), "NotFound"),
        (FailedPrecondition("WRONG_STATE"), "WrongState"),
        (Unauthenticated("SIGN_IN_REQUIRED"), "Unauthenticated"),
        (RateLimited("TOO_MANY_ATTEMPTS", retry_after=30), "RateLimited"),
    ],
)
async def test_an_expected_failure_is_a_member_of_the_result(
    gateway: Any, fakes: Any, error: DomainError, member: str
) -> None:
    fakes.fail["SubmitDossier"] = error
    answer = (await gateway.data(SUBMIT, {"input": {"dossierId": ID}}))["submitDossier"]
    assert answer["__typename"] == member
    assert answer["reason"] == error.reason
    if member == "ValidationProblem":
        assert answer["violations"] == [
            {"field": "form", "reason": "REQUIRED", "message": "Không được để trống."}
        ]
    if member == "RateLimited":
        assert answer["retryAfter"] == 30


@pytest.mark.parametrize(
    ("accept", "message"),
    [
        ("", "Nội dung đã được người khác thay đổi; hãy tải lại."),
        ("vi-VN,vi;q=0.9,en;q=0.8", "Nội dung đã được người khác thay đổi; hãy tải lại."),
        ("fr, en;q=0.5", "It was changed since you read it; load it again."),
    ],
)
async def test_a_problem_speaks_the_language_of_the_caller(
    gateway: Any, fakes: Any, accept: str, message: str
) -> None:
    fakes.fail["SubmitDossier"] = Conflict("STALE")
    headers = {"accept-language": accept}
    answer = (await gateway.data(SUBMIT, {"input": {"dossierId": ID}}, headers=headers))["submitDossier"]
    assert answer["message"] == message


async def test_an_id_of_another_type_is_a_validation_problem_and_calls_nobody(
    gateway: Any, fakes: Any
) -> None:
    for id in (b64encode(b"Charge:1").decode(), "dossier-1", ""):
        answer = (await gateway.data(SUBMIT, {"input": {"dossierId": id}}))["submitDossier"]
        assert answer["__typename"] == "ValidationProblem"
        assert answer["violations"][0]["field"] == "dossierId"
    assert fakes.calls["SubmitDossier"] == 0


async def test_a_form_that_is_no_object_is_a_validation_problem(gateway: Any, fakes: Any) -> None:
    query = """mutation ($i: CreateDossierInput!) { createDossier(input: $i) {
      __typename ... on ValidationProblem { violations { field reason } } } }"""
    given = {"procedureCode": "x", "receivingAgency": "x", "form": [1]}
    answer = (await gateway.data(query, {"i": given}))["createDossier"]
    assert answer["violations"] == [{"field": "form", "reason": "JSON_INVALID"}]
    assert fakes.calls["CreateDossier"] == 0


async def test_a_password_is_changed_and_a_wrong_one_is_told_by_its_field(gateway: Any, fakes: Any) -> None:
    query = """mutation ($i: ChangePasswordInput!) { changePassword(input: $i) {
      __typename ... on Account { name } ... on ValidationProblem { violations { reason message } } } }"""
    given = {"requestId": "r1", "currentPassword": "bây giờ", "newPassword": "sau này"}
    assert (await gateway.data(query, {"i": given}))["changePassword"]["__typename"] == "Account"
    request = fakes.requests["ChangePassword"]
    assert (request.request_id, request.current_password, request.new_password) == tuple(given.values())

    fakes.fail["ChangePassword"] = InvalidInput(
        violations=[FieldViolation("current_password", "CURRENT_PASSWORD_WRONG")]
    )
    answer = (await gateway.data(query, {"i": given}))["changePassword"]
    assert answer["violations"] == [
        {"reason": "CURRENT_PASSWORD_WRONG", "message": "Mật khẩu hiện tại không đúng."}
    ]


async def test_an_account_is_locked_by_its_id_and_by_no_other(gateway: Any, fakes: Any) -> None:
    query = """mutation ($i: SetAccountStatusInput!) { setAccountStatus(input: $i) {
      __typename ... on Account { id } ... on Problem { message } } }"""
    id = b64encode(b"Account:account-1").decode()
    given = {"accountId": id, "status": "LOCKED", "etag": "3"}
    answer = (await gateway.data(query, {"i": given}))["setAccountStatus"]
    assert answer == {"__typename": "Account", "id": id}
    request = fakes.requests["SetAccountStatus"]
    assert (request.account_id, request.status, request.etag) == ("account-1", 3, "3")

    answer = (await gateway.data(query, {"i": {**given, "accountId": ID}}))["setAccountStatus"]
    assert answer["__typename"] == "ValidationProblem"
    fakes.fail["SetAccountStatus"] = Forbidden("OWN_ACCOUNT")
    answer = (await gateway.data(query, {"i": given}))["setAccountStatus"]
    assert answer == {"__typename": "Forbidden", "message": "Không thể tự khóa tài khoản của mình."}


async def test_a_service_that_is_away_is_an_error_not_a_member(gateway: Any, fakes: Any) -> None:
    fakes.fail["TrackDossier"] = Unavailable("DOWN", "gone")
    answer = (await gateway.ask('{ track(code: "x") { code } }', bearer="")).json()
    assert answer["errors"][0]["extensions"] == {"code": "UNAVAILABLE", "reason": "DOWN"}


def test_the_journey_has_its_operations_with_problems_in_every_result() -> None:
    from graphql import build_schema

    from gateway.schema import schema

    made: Any = schema
    text = made.as_str() if hasattr(made, "as_str") else print_schema(made())
    built = build_schema(text)
    mutation = built.mutation_type
    assert mutation is not None
    assert set(JOURNEY) <= set(mutation.fields)
    for name, field in mutation.fields.items():
        result: Any = field.type
        union = result.of_type
        assert isinstance(union, GraphQLUnionType), name
        members = {member.name for member in union.types}
        assert {"ValidationProblem", "Conflict", "Forbidden", "NotFound", "WrongState"} <= members, name
        given: Any = field.args["input"].type
        assert "requestId" in given.of_type.fields, name
    query = built.query_type
    assert query is not None
    assert {
        "viewer",
        "node",
        "procedures",
        "procedure",
        "track",
        "worklist",
        "statistics",
    } <= set(query.fields)
