"""GraphQL over HTTP: media types, status codes, limits, trusted documents, tokens."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.needs import node

AUDIT = Path(__file__).parents[1] / "clients/audit"

JSON = "application/json"
GRAPHQL = "application/graphql-response+json"


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        ("", JSON),
        ("*/*", JSON),
        (JSON, JSON),
        (GRAPHQL, GRAPHQL),
        (f"{GRAPHQL}, {JSON};q=0.9", GRAPHQL),
        (f"{JSON};q=0.5, {GRAPHQL};q=0.4", JSON),
    ],
)
async def test_the_answer_has_the_type_that_was_asked_for(gateway: Any, accept: str, answered: str) -> None:
    response = await gateway.ask("{ __typename }", headers={"accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"] == f"{answered}; charset=utf-8"
    assert response.json() == {"data": {"__typename": "Query"}}


async def test_what_cannot_be_answered_in_an_accepted_type_is_406(gateway: Any) -> None:
    assert (await gateway.ask("{ __typename }", headers={"accept": "image/png"})).status_code == 406


@pytest.mark.parametrize(
    "query", ["{", "{ nothing }", "query ($x: Int!) { procedures(first: $x) { totalCount } }"]
)
async def test_a_bad_request_is_400_in_the_new_type_and_200_in_the_old(gateway: Any, query: str) -> None:
    for accept, status in ((GRAPHQL, 400), (JSON, 200)):
        response = await gateway.ask(query, headers={"accept": accept})
        assert response.status_code == status
        assert "data" not in response.json()
        assert response.json()["errors"][0]["extensions"]["code"] == "BAD_REQUEST"


async def test_get_answers_queries_and_refuses_mutations(gateway: Any, fakes: Any) -> None:
    asked = await gateway.http.get(
        "/graphql",
        params={"query": "query ($c: String!) { track(code: $c) { code } }", "variables": '{"c": "x"}'},
    )
    assert asked.json() == {"data": {"track": None}}
    fakes.calls.clear()
    mutation = 'mutation { signOut(input: {refreshToken: "x"}) { __typename } }'
    refused = await gateway.http.get("/graphql", params={"query": mutation})
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert fakes.calls.total() == 0


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD"])
async def test_other_methods_are_405(gateway: Any, method: str) -> None:
    response = await gateway.http.request(method, "/graphql")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, POST")


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        ("{}", JSON, 400),
        ("not json", JSON, 400),
        ('"text"', JSON, 400),
        ('[{"query": "{ __typename }"}]', JSON, 400),
        ('{"query": 1}', JSON, 400),
        ('{"query": "{ __typename }", "variables": "{}"}', JSON, 400),
        ('{"query": "{ __typename }", "operationName": 1}', JSON, 400),
        ('{"query": "{ __typename }", "extensions": []}', JSON, 400),
        ('{"query": "{ __typename }"}', "text/plain", 415),
        ("query=%7B__typename%7D", "application/x-www-form-urlencoded", 415),
        ('{"query": "{ __typename }"}', "application/json; charset=utf-16", 415),
        ('{"query": "{ __typename }"}', "", 415),
        ('{"query": "{ __typename }"}', "application/json; charset=UTF-8", 200),
        ('{"query": "{ __typename }", "variables": null, "operationName": null}', JSON, 200),
    ],
)
async def test_bodies(gateway: Any, content: str, content_type: str, status: int) -> None:
    response = await gateway.http.post(
        "/graphql", content=content.encode(), headers={"content-type": content_type}
    )
    assert response.status_code == status, response.text


async def test_a_body_over_the_limit_is_refused_whether_or_not_it_says_its_length(gateway: Any) -> None:
    large = json.dumps({"query": "{ __typename }", "variables": {"x": "y" * 300_000}}).encode()

    async def chunks() -> Any:
        for start in range(0, len(large), 10_000):
            yield large[start : start + 10_000]

    for content in (large, chunks()):
        response = await gateway.http.post("/graphql", content=content, headers={"content-type": JSON})
        assert response.status_code == 413


# Tokens


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"seconds": -60}, "TOKEN_EXPIRED"),
        ({"key": Ed25519PrivateKey.generate()}, "TOKEN_INVALID"),
        ({"kind": "emperor"}, "TOKEN_INVALID"),
        (None, "TOKEN_INVALID"),
    ],
)
async def test_a_token_that_is_no_good_is_401_and_nothing_runs(
    gateway: Any, fakes: Any, issue: Callable[..., str], claims: dict[str, Any] | None, reason: str
) -> None:
    bearer = "nonsense" if claims is None else issue(**claims)
    response = await gateway.ask("{ viewer { id } }", bearer=bearer)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert response.json()["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED", "reason": reason}
    assert fakes.calls.total() == 0


SESSIONS = {
    "signUp": '{kind: PERSON, name: "An", citizenNumber: "079090000101", password: "Motcua@2026"}',
    "signIn": '{identifier: "079090000101", password: "Motcua@2026"}',
    "refreshSession": '{refreshToken: "r"}',
    "signOut": '{refreshToken: "r"}',
}


@pytest.mark.parametrize("name", SESSIONS)
async def test_a_token_that_is_no_good_does_not_stand_in_the_way_of_a_better_one(
    gateway: Any, fakes: Any, issue: Callable[..., str], name: str
) -> None:
    """Clients attach the token they have to every request."""
    query = (
        f"mutation {{ ...S }} fragment S on Mutation {{ {name}(input: {SESSIONS[name]}) {{ __typename }} }}"
    )
    rpc = name[0].upper() + name[1:]
    for bearer in (issue(seconds=-60), "nonsense"):
        assert await gateway.data(query, bearer=bearer) in (
            {name: {"__typename": kind}} for kind in ("Account", "Session", "SignedOut")
        )
        assert "authorization" not in fakes.metadata[rpc]
    await gateway.data(query)
    assert fakes.metadata[rpc]["authorization"].startswith("Bearer ")


@pytest.mark.parametrize(
    "query",
    [
        "mutation { signOut(input: {}) { __typename }"
        ' markNoticesRead(input: {noticeIds: ["x"]}) { __typename } }',
        'query signOut { signOut: node(id: "x") { id } }',
        "query A { viewer { id } } mutation B { signOut(input: {}) { __typename } }",
    ],
)
async def test_nothing_else_travels_with_it(
    gateway: Any, fakes: Any, issue: Callable[..., str], query: str
) -> None:
    body = {"query": query, "operationName": "A" if "query A" in query else None}
    response = await gateway.http.post(
        "/graphql", json=body, headers={"authorization": f"Bearer {issue(seconds=-60)}"}
    )
    assert response.status_code == 401
    assert fakes.calls.total() == 0


# Limits


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("{ " + " ".join(f"a{i}: __typename" for i in range(31)) + " }", "TOO_MANY_ALIASES"),
        (
            "{ viewer { representative " + "{ representative " * 15 + "{ id }" + " }" * 16 + " }",
            "TOO_DEEP",
        ),
        ("{ viewer " + "{ representative " * 300 + "{ id }" + " }" * 300 + " }", None),
        ("{ " + "__typename " * 2001 + "}", None),
        (
            "{ viewer { dossiers(first: 100) { nodes { applicant { dossiers(first: 100) { nodes { applicant {"
            " dossiers(first: 100) { nodes { id } } } } } } } } } }",
            "TOO_COSTLY",
        ),
        (
            "query ($n: Int! = 100) { viewer { dossiers(first: $n) { nodes { applicant {"
            " dossiers(first: 99) { nodes { applicant { charges(first: 99) { nodes { id } } } } } } } } } }",
            "TOO_COSTLY",
        ),
    ],
)
async def test_a_document_beyond_the_limits_is_refused(
    gateway: Any, fakes: Any, query: str, reason: str | None
) -> None:
    for variables in ({"n": 100}, {"n": 100.0}, {}) if "$n" in query else (None,):
        response = await gateway.ask(query, variables, headers={"accept": GRAPHQL})
        assert response.status_code == 400
        if reason is not None:
            assert response.json()["errors"][0]["extensions"]["reason"] == reason
    assert fakes.calls.total() == 0


REPEATED = "viewer { dossiers { nodes { id } } } "


@pytest.mark.parametrize(
    "query",
    [
        "{ " + "__typename " * 1900 + "}",
        "{ " + "... { __typename } " * 400 + "}",
        "{ " + REPEATED * 180 + "}",
        "{ viewer { ...F } } fragment F on Account { dossiers { nodes { ...G } } } fragment G on Dossier { "
        + "code " * 100
        + "}",
        " ".join(f"fragment F{i} on Query {{ {REPEATED} }}" for i in range(100))
        + "{ "
        + " ".join(f"...F{i}" for i in range(100))
        + " }",
        "{ ...F } fragment F on Query { " + "... { " * 50 + "a: node { ...F } b: node { ...F }" + " }" * 51,
        "{ "
        + " ".join(f"a{i}: __schema {{ types {{ fields {{ type {{ name }} }} }} }}" for i in range(30))
        + " }",
    ],
)
async def test_a_document_that_is_short_but_slow_is_refused(gateway: Any, query: str) -> None:
    """Validation compares repeated fields pair by pair, and the schema itself is a large answer."""
    response = await gateway.ask(query, headers={"accept": GRAPHQL})
    assert response.json()["errors"][0]["extensions"]["reason"] in ("TOO_COSTLY", "TOO_DEEP")


async def test_fragments_that_multiply_are_refused(gateway: Any) -> None:
    bombs = " ".join(f"fragment F{i} on Account {{ ...F{i + 1} ...F{i + 1} }}" for i in range(25))
    query = "{ viewer { ...F0 } } " + bombs + " fragment F25 on Account { id }"
    response = await gateway.ask(query, headers={"accept": GRAPHQL})
    assert response.json()["errors"][0]["extensions"]["reason"] == "TOO_COSTLY"


# Trusted documents


async def test_production_runs_trusted_documents_only(
    settings_for: Any, serving: Any, fakes: Any, tmp_path: Path
) -> None:
    known = "query Known { __typename }"
    key = hashlib.sha256(known.encode()).hexdigest()
    file = tmp_path / "documents.json"
    file.write_text(json.dumps({key: known}))
    settings = settings_for(
        environment="production", public_url="https://motcua.example.vn", trusted_documents=str(file)
    )
    async with serving(settings) as gateway:
        for body in (
            {"documentId": f"sha256:{key}"},
            {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": key}}},
            {"query": known},
        ):
            response = await gateway.http.post("/graphql", json=body)
            assert response.json() == {"data": {"__typename": "Query"}}
        for body in ({"query": "{ __typename }"}, {"documentId": "sha256:" + "0" * 64}):
            response = await gateway.http.post("/graphql", json=body, headers={"accept": GRAPHQL})
            assert response.status_code == 400
            assert response.json()["errors"][0]["extensions"]["reason"] == "DOCUMENT_NOT_TRUSTED"
        assert "strict-transport-security" in response.headers
        page = await gateway.http.get("/graphql", headers={"accept": "text/html"})
        assert "GraphiQL" not in page.text


def test_production_does_not_start_without_address_documents_and_secure_cookies(
    settings_for: Any, tmp_path: Path
) -> None:
    for given in (
        {"public_url": "https://x.vn"},
        {"trusted_documents": "x"},
        {"public_url": "http://x.vn", "trusted_documents": "x"},
        {"public_url": "https://x.vn", "trusted_documents": "x", "cookie_secure": False},
    ):
        with pytest.raises(ValueError, match="production needs"):
            settings_for(environment="production", **given)


async def test_graphiql_is_there_in_development_only_with_a_policy_of_its_own(
    gateway: Any, serving: Any, settings_for: Any
) -> None:
    assert "GraphiQL" not in (await gateway.http.get("/graphql", headers={"accept": "text/html"})).text
    async with serving(settings_for(environment="development")) as development:
        page = await development.http.get("/graphql", headers={"accept": "text/html,*/*;q=0.8"})
        assert "GraphiQL" in page.text
        assert "unpkg.com" in page.headers["content-security-policy"]
        assert page.headers.get_list("cross-origin-opener-policy") == ["same-origin"]
        other = await development.ask("{ __typename }")
        assert other.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


# Around it


async def test_alive_and_ready_without_asking_anybody(gateway: Any) -> None:
    assert (await gateway.http.get("/livez")).text == "live"
    assert (await gateway.http.get("/readyz")).text == "ready"
    assert (await gateway.http.get("/status")).status_code == 503  # there is no NATS


async def test_the_keys_are_public(gateway: Any) -> None:
    keys = (await gateway.http.get("/.well-known/jwks.json")).json()["keys"]
    assert keys[0]["kid"] == "k1"
    assert "d" not in keys[0]


async def test_the_status_tells_that_events_do_not_arrive(gateway: Any) -> None:
    response = await gateway.http.get("/status")
    assert response.status_code == 503
    parts = response.json()["parts"]
    assert parts.pop("nats") != "ok"
    assert set(parts.values()) == {"ok"}


async def test_the_status_tells_which_service_is_away(serving: Any, settings_for: Any, nats_url: str) -> None:
    async with serving(settings_for(nats_url=nats_url, notify_target="127.0.0.1:1")) as gateway:
        response = await gateway.http.get("/status")
        assert response.status_code == 503
        assert response.json()["parts"]["notify"] != "ok"


async def test_payment_notices_are_forwarded_as_received(gateway: Any, fakes: Any) -> None:
    response = await gateway.http.get(
        "/payments/vnpay/ipn", params={"vnp_TxnRef": "a b&c", "vnp_Amount": "1"}
    )
    assert response.json() == {"RspCode": "00", "Message": "Confirm Success"}
    assert dict(fakes.requests["HandleVnpayIpn"].parameters) == {"vnp_TxnRef": "a b&c", "vnp_Amount": "1"}
    shown = (await gateway.http.get("/payments/vnpay/return", params={"vnp_TxnRef": "1"})).json()
    assert (shown["valid"], shown["state"]) == (True, "PAID")
    await gateway.http.post("/payments/transfer/notice", content=b'{"a":1}', headers={"x-signature": "ab"})
    assert fakes.requests["HandleTransferNotice"].body == b'{"a":1}'
    fakes.fail["HandleVnpayIpn"] = RuntimeError("down")
    assert (await gateway.http.get("/payments/vnpay/ipn")).json()["RspCode"] == "99"


async def test_the_audit_of_graphql_over_http_has_no_failing_must(gateway: Any) -> None:
    command = [node(AUDIT), str(AUDIT / "audit.mjs"), f"{gateway.url}/graphql"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
