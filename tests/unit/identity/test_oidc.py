"""ID tokens and answers of an identity provider that are not to be believed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

from identity.oidc import Client, OpenIdProvider
from kit.errors import DomainError, Unauthenticated, Unavailable

ISSUER = "https://id.example.vn"
KEY, OTHER = generate_private_key(65537, 2048), generate_private_key(65537, 2048)


def _jwk(key: RSAPrivateKey, kid: str) -> dict[str, Any]:
    return {**json.loads(RSAAlgorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"}


@dataclass
class Site:
    """What the provider answers by path; `claims` change those of a token that is good."""

    claims: dict[str, Any] = field(default_factory=dict)
    token: Callable[[dict[str, Any]], str] = lambda claims: jwt.encode(
        claims, KEY, algorithm="RS256", headers={"kid": "k1"}
    )
    metadata: dict[str, Any] = field(default_factory=dict)
    userinfo: Any = None
    status: int = 200

    def answer(self, request: httpx.Request) -> httpx.Response:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": "s1",
            "aud": "motcua",
            "iat": now,
            "exp": now + 300,
            "nonce": "n",
            "acr": "high",
            **self.claims,
        }
        token = self.token({name: value for name, value in claims.items() if value is not None})
        found: Any = {
            "/.well-known/openid-configuration": {
                "issuer": ISSUER,
                "authorization_endpoint": f"{ISSUER}/auth",
                "token_endpoint": f"{ISSUER}/token",
                "jwks_uri": f"{ISSUER}/jwks",
                "userinfo_endpoint": f"{ISSUER}/me",
                **self.metadata,
            },
            "/jwks": {"keys": [_jwk(KEY, "k1"), {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}]},
            "/token": {"id_token": token, "access_token": "a"},
            "/me": self.userinfo or {"sub": "s1", "citizen_number": "056090000001", "name": "Đỗ Thị Điện"},
        }[request.url.path]
        status = self.status if request.url.path == "/token" else 200
        return httpx.Response(status, json=found)

    async def redeem(self, **more: str) -> Any:
        client = Client(
            ISSUER, "motcua", "secret", "https://x/", "openid", "citizen_number", "name", ("high",)
        )
        async with httpx.AsyncClient(transport=httpx.MockTransport(self.answer)) as http:
            provider = OpenIdProvider(client, http)
            return await provider.redeem(
                **{"code": "c", "issuer": ISSUER, "nonce": "n", "verifier": "v", **more}
            )


async def test_a_good_token_is_believed() -> None:
    stated = await Site().redeem()
    assert (stated.subject, stated.number, stated.proven) == ("s1", "056090000001", True)
    assert not (await Site(claims={"acr": "low"}).redeem()).proven
    assert not (await Site(claims={"acr": ["high"]}).redeem()).proven
    late = int(time.time()) - 40  # clocks differ
    assert await Site(claims={"exp": late, "iat": late - 300}).redeem()


def _with(key: Any, algorithm: str, **headers: str) -> Callable[[dict[str, Any]], str]:
    return lambda claims: jwt.encode(claims, key, algorithm=algorithm, headers=headers)


@pytest.mark.parametrize(
    "site",
    [
        Site(token=_with(OTHER, "RS256", kid="k1")),
        Site(token=_with(KEY, "RS256", kid="unknown")),
        Site(token=_with(None, "none", kid="k1")),
        Site(token=_with("secret" * 8, "HS256", kid="shared")),
        Site(token=_with("secret" * 8, "HS256", kid="k1")),
        Site(token=lambda claims: "no token"),
        Site(token=lambda claims: ""),
        Site(claims={"iss": "https://evil.example"}),
        Site(claims={"iss": ISSUER + "/"}),
        Site(claims={"aud": "another"}),
        Site(claims={"aud": ["motcua", "another"]}),
        Site(claims={"azp": "another"}),
        Site(claims={"exp": 1}),
        Site(claims={"iat": int(time.time()) + 3600}),
        Site(claims={"nonce": "another"}),
        Site(claims={"nonce": None}),
        Site(claims={"sub": None}),
        Site(claims={"sub": ""}),
        Site(claims={"exp": None}),
        Site(userinfo={"sub": "s2", "citizen_number": "056090000001"}),
        Site(status=400),
    ],
)
async def test_a_token_that_is_not_for_us_from_them_now_is_refused(site: Site) -> None:
    with pytest.raises(Unauthenticated, match="OIDC_REFUSED"):
        await site.redeem()


@pytest.mark.parametrize(
    "site",
    [
        Site(metadata={"issuer": "https://evil.example"}),
        Site(metadata={"token_endpoint": "http://id.example.vn/token"}),
        Site(metadata={"userinfo_endpoint": "http://id.example.vn/me"}),
        Site(metadata={"jwks_uri": "file:///etc/passwd"}),
        Site(metadata={"padding": "x" * 300_000}),
        Site(status=500),
        Site(status=302),
    ],
)
async def test_a_provider_that_is_not_what_it_says_counts_as_away(site: Site) -> None:
    with pytest.raises(Unavailable, match="OIDC_UNAVAILABLE"):
        await site.redeem()


@pytest.mark.parametrize("issuer", ["", "https://evil.example"])
async def test_an_answer_of_another_issuer_is_refused_before_the_code_is_sent(issuer: str) -> None:
    site = Site(metadata={"authorization_response_iss_parameter_supported": True}, status=500)
    with pytest.raises(DomainError, match="OIDC_REFUSED"):
        await site.redeem(issuer=issuer)
