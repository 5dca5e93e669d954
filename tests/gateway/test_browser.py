"""Browsers: cross-site requests, CORS, the refresh cookie, security headers."""

from __future__ import annotations

from http.cookies import SimpleCookie
from typing import Any

import pytest

from kit.errors import Unauthenticated

SIGN_IN = """mutation ($input: SignInInput!) { signIn(input: $input) {
  __typename
  ... on Session { accessToken refreshToken account { name } }
  ... on Problem { reason message }
} }"""
REFRESH = """mutation ($input: RefreshSessionInput!) { refreshSession(input: $input) {
  __typename ... on Session { refreshToken } ... on Problem { reason } } }"""
WHO = {"identifier": "079090000101", "password": "Motcua@2026"}
APP = "https://app.example.vn"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": APP}, 200),
        ({"origin": APP, "sec-fetch-site": "cross-site"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": f"{APP}.evil.example"}, 403),
        ({"origin": "http://[broken"}, 403),
        ({"origin": "http://"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
async def test_only_our_pages_and_allowed_ones_may_post(
    gateway: Any, headers: dict[str, str], status: int
) -> None:
    response = await gateway.ask("{ __typename }", headers=headers)
    assert response.status_code == status


async def test_a_page_of_our_own_may_post(gateway: Any) -> None:
    response = await gateway.ask("{ __typename }", headers={"origin": gateway.url})
    assert response.status_code == 200


async def test_a_form_cannot_reach_a_mutation(gateway: Any, fakes: Any) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        response = await gateway.http.post(
            "/graphql", content=b'{"query": "mutation { x }"}', headers={"content-type": kind}
        )
        assert response.status_code == 415
    assert fakes.calls.total() == 0


async def test_preflights_are_answered_for_allowed_origins_only(gateway: Any) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    allowed = await gateway.http.options("/graphql", headers={"origin": APP} | asked)
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == APP
    assert allowed.headers["access-control-allow-credentials"] == "true"
    refused = await gateway.http.options("/graphql", headers={"origin": "https://evil.example"} | asked)
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/files"), ("PATCH", "/files/upload-1"), ("DELETE", "/files/upload-1"), ("POST", "/graphql")],
)
@pytest.mark.parametrize("override", [None, "PATCH", "DELETE"])
async def test_a_foreign_page_changes_nothing_even_with_a_token(
    gateway: Any, fakes: Any, issue: Any, method: str, path: str, override: str | None
) -> None:
    """As a browser would send it if its preflight had been answered."""
    sent = {
        "origin": "https://evil.example",
        "sec-fetch-site": "cross-site",
        "authorization": f"Bearer {issue()}",
        "tus-resumable": "1.0.0",
        "upload-length": "1",
        "upload-offset": "0",
        "content-type": "application/offset+octet-stream",
    } | ({"x-http-method-override": override} if override else {})
    response = await gateway.http.request(method, path, headers=sent, content=b"x")
    assert response.status_code == 403
    assert fakes.calls.total() == 0


async def test_a_foreign_page_cannot_read_an_answer(gateway: Any, fakes: Any) -> None:
    fakes.document = b"secret"
    for path in ("/graphql?query={__typename}", "/files/d/token-1"):
        foreign = await gateway.http.get(path, headers={"origin": "https://evil.example"})
        assert not [name for name in foreign.headers if name.startswith("access-control-")]
        ours = await gateway.http.get(path, headers={"origin": APP})
        assert ours.headers["access-control-allow-origin"] == APP
        assert {"Upload-Offset", "Location"} <= set(ours.headers["access-control-expose-headers"].split(", "))
        assert "Origin" in foreign.headers["vary"]


async def test_an_override_works_on_a_post_only(gateway: Any, fakes: Any, issue: Any) -> None:
    """A GET is not checked for its origin, so it must stay one."""
    sent = {
        "origin": "https://evil.example",
        "authorization": f"Bearer {issue()}",
        "tus-resumable": "1.0.0",
        "x-http-method-override": "DELETE",
    }
    assert (await gateway.http.get("/files/upload-1", headers=sent)).status_code == 405
    assert fakes.calls.total() == 0


async def test_every_answer_has_the_security_headers(gateway: Any) -> None:
    for path in ("/graphql?query={__typename}", "/livez", "/nothing", "/files/d/x"):
        headers = (await gateway.http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]


async def test_a_program_gets_its_refresh_token_in_the_answer(gateway: Any, fakes: Any) -> None:
    response = await gateway.ask(SIGN_IN, {"input": WHO}, bearer="")
    session = response.json()["data"]["signIn"]
    assert session["__typename"] == "Session"
    assert session["refreshToken"] == "refresh-1"
    assert session["account"]["name"] == "Nguyễn Thị An"
    assert "set-cookie" not in response.headers
    assert fakes.requests["SignIn"].client_address == "127.0.0.1"


async def test_a_browser_gets_it_in_a_cookie_that_scripts_and_other_sites_cannot_use(gateway: Any) -> None:
    response = await gateway.ask(SIGN_IN, {"input": WHO | {"delivery": "COOKIE"}}, bearer="")
    session = response.json()["data"]["signIn"]
    assert session["refreshToken"] is None
    assert "refresh-1" not in response.text
    cookie = SimpleCookie(response.headers.get_list("set-cookie")[0])["__Secure-motcua-refresh"]
    assert cookie.value == "refresh-1"
    assert cookie["httponly"]
    assert cookie["secure"]
    assert (cookie["samesite"], cookie["path"]) == ("Strict", "/graphql")
    assert 86_000 < int(cookie["max-age"]) <= 86_400


async def test_a_device_is_known_by_a_cookie_or_by_what_a_program_keeps(gateway: Any, fakes: Any) -> None:
    document = SIGN_IN.replace("refreshToken", "refreshToken deviceToken")
    response = await gateway.ask(document, {"input": WHO | {"delivery": "COOKIE"}}, bearer="")
    assert response.json()["data"]["signIn"]["deviceToken"] is None
    _refresh, told = response.headers.get_list("set-cookie")
    cookie = SimpleCookie(told)["__Secure-motcua-device"]
    assert (cookie.value, int(cookie["max-age"])) == ("device-1", 180 * 86_400)
    assert (cookie["httponly"], cookie["secure"], cookie["samesite"]) == (True, True, "Strict")
    sent = {"cookie": "__Secure-motcua-device=device-0"}
    response = await gateway.ask(document, {"input": WHO}, bearer="", headers=sent)
    assert response.json()["data"]["signIn"]["deviceToken"] == "device-1"
    assert fakes.requests["SignIn"].device_token == "device-0"
    await gateway.ask(document, {"input": WHO | {"deviceToken": "device-2"}}, bearer="", headers=sent)
    assert fakes.requests["SignIn"].device_token == "device-2"


async def test_the_cookie_renews_the_session_and_is_replaced(gateway: Any, fakes: Any) -> None:
    sent = {"cookie": "__Secure-motcua-refresh=refresh-0"}
    response = await gateway.ask(REFRESH, {"input": {}}, bearer="", headers=sent)
    assert response.json()["data"]["refreshSession"] == {"__typename": "Session", "refreshToken": None}
    assert fakes.requests["RefreshSession"].refresh_token == "refresh-0"
    assert "refresh-1" in response.headers["set-cookie"]


async def test_a_cookie_that_is_no_good_is_taken_away(gateway: Any, fakes: Any) -> None:
    fakes.fail["RefreshSession"] = Unauthenticated("SESSION_ENDED", "used twice")
    sent = {"cookie": "__Secure-motcua-refresh=refresh-0"}
    response = await gateway.ask(REFRESH, {"input": {}}, bearer="", headers=sent)
    assert response.json()["data"]["refreshSession"]["reason"] == "SESSION_ENDED"
    assert SimpleCookie(response.headers["set-cookie"])["__Secure-motcua-refresh"]["max-age"] == "0"


async def test_a_session_is_not_renewed_by_cookie_where_the_new_one_cannot_be_set(
    gateway: Any, fakes: Any
) -> None:
    """A stream's headers are gone already: the new token would be lost, and the old one is used up."""
    sent = {"cookie": "__Secure-motcua-refresh=refresh-0", "accept": "text/event-stream"}
    response = await gateway.ask(REFRESH, {"input": {}}, bearer="", headers=sent)
    assert '"__typename":"ValidationProblem"' in response.text
    assert fakes.calls["RefreshSession"] == 0
    response = await gateway.ask(REFRESH, {"input": {"refreshToken": "mine"}}, bearer="", headers=sent)
    assert '"refreshToken":"refresh-1"' in response.text


async def test_no_refresh_token_at_all_is_unauthenticated(gateway: Any, fakes: Any) -> None:
    data = await gateway.data(REFRESH, {"input": {}}, bearer="")
    assert data["refreshSession"] == {"__typename": "Unauthenticated", "reason": "SIGN_IN_REQUIRED"}
    assert fakes.calls["RefreshSession"] == 0


async def test_signing_out_takes_the_cookie_away(gateway: Any, fakes: Any) -> None:
    query = "mutation { signOut(input: {}) { __typename ... on SignedOut { signedOut } } }"
    response = await gateway.ask(query, headers={"cookie": "__Secure-motcua-refresh=refresh-0"})
    assert response.json()["data"]["signOut"] == {"__typename": "SignedOut", "signedOut": True}
    assert fakes.requests["SignOut"].refresh_token == "refresh-0"
    assert SimpleCookie(response.headers["set-cookie"])["__Secure-motcua-refresh"]["max-age"] == "0"
