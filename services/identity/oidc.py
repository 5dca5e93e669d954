"""An identity provider that citizens can sign in with: OpenID Connect, authorization code with PKCE.

The provider is found by discovery and its word is believed for the signature of the ID token alone, under
keys that are fetched anew when a token names one that we do not know. PyJWT verifies and httpx asks; both are
here already, and what is left is two requests and a few comparisons (OpenID Connect Core 3.1, RFC 9207).
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx
import jwt

from identity.handlers.ports import Stated
from kit.errors import Unauthenticated, Unavailable

_ALGORITHMS: Final = (
    "RS256",
    "PS256",
    "ES256",
    "EdDSA",
    "RS384",
    "RS512",
    "PS384",
    "PS512",
    "ES384",
    "ES512",
)
_LEEWAY: Final = 60  # seconds that clocks may differ
_TIMEOUT: Final = 5.0  # seconds for an answer of the provider
_MOST: Final = 256 * 1024  # bytes of an answer
_FRESH: Final = 3600.0  # seconds for which what was discovered is believed
_REFETCH: Final = 10.0  # seconds between two fetches of the keys for an unknown kid

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Client:
    """What we are to the provider, and how we read it.

    `number_claim` and `name_claim` name the claims with the citizen number and the full name; `proven_acr`
    are the values of `acr` that mean that the provider has proven who somebody is.
    """

    issuer: str
    client_id: str
    client_secret: str
    redirect_uri: str
    scopes: str
    number_claim: str
    name_claim: str
    proven_acr: tuple[str, ...]


@dataclass
class OpenIdProvider:
    """The provider. `insecure` lets it be reached without TLS, in development only."""

    client: Client
    http: httpx.AsyncClient
    insecure: bool = False
    _metadata: Mapping[str, Any] = field(default_factory=dict)
    _discovered: float = float("-inf")
    _keys: dict[str, jwt.PyJWK] = field(default_factory=dict)
    _fetched: float = float("-inf")

    @property
    def issuer(self) -> str:
        """Its name, exactly as it is written in its tokens."""
        return self.client.issuer

    async def url(self, *, state: str, nonce: str, verifier: str) -> str:
        """Where the browser goes to sign in. Raises Unavailable."""
        metadata = await self._discover()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self.client.client_id,
            "redirect_uri": self.client.redirect_uri,
            "scope": self.client.scopes,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        if self.client.proven_acr:
            asked["acr_values"] = " ".join(self.client.proven_acr)
        there = str(metadata["authorization_endpoint"])
        return f"{there}{'&' if '?' in there else '?'}{urlencode(asked)}"

    async def redeem(self, *, code: str, issuer: str, nonce: str, verifier: str) -> Stated:
        """What the provider states of whoever brought the code; `issuer` is the answer's `iss`, if any.

        Raises Unauthenticated (OIDC_REFUSED) for a code or an answer that is not good, Unavailable.
        """
        metadata = await self._discover()
        if issuer != self.issuer and (
            issuer or metadata.get("authorization_response_iss_parameter_supported") is True
        ):
            raise _refused("the answer is of another issuer")
        tokens = await self._exchange(metadata, code, verifier)
        claims = await self._claims(str(tokens.get("id_token", "")), nonce)
        subject = str(claims["sub"])
        acr = claims.get("acr")
        if self.client.number_claim not in claims and "userinfo_endpoint" in metadata:
            told = await self._ask(
                "GET",
                str(metadata["userinfo_endpoint"]),
                headers={"Authorization": f"Bearer {tokens.get('access_token', '')}"},
            )
            if told.get("sub") != subject:
                raise _refused("the user information is of somebody else")
            claims = {**told, **claims}
        return Stated(
            issuer=self.issuer,
            subject=subject,
            number=_text(claims.get(self.client.number_claim)),
            name=_text(claims.get(self.client.name_claim)),
            proven=isinstance(acr, str) and acr in self.client.proven_acr,
        )

    async def _exchange(self, metadata: Mapping[str, Any], code: str, verifier: str) -> Mapping[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.client.redirect_uri,
            "code_verifier": verifier,
        }
        headers = {}
        known, secret = quote(self.client.client_id, safe=""), quote(self.client.client_secret, safe="")
        methods = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if not self.client.client_secret:
            form["client_id"] = self.client.client_id
        elif "client_secret_basic" in methods:
            basic = base64.b64encode(f"{known}:{secret}".encode()).decode()
            headers["Authorization"] = f"Basic {basic}"
        else:
            form |= {"client_id": self.client.client_id, "client_secret": self.client.client_secret}
        return await self._ask("POST", str(metadata["token_endpoint"]), data=form, headers=headers)

    async def _claims(self, token: str, nonce: str) -> Mapping[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            key = await self._key(str(header.get("kid", "")))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[*_ALGORITHMS],
                issuer=self.issuer,
                audience=self.client.client_id,
                leeway=_LEEWAY,
                options={"require": ["iss", "sub", "aud", "exp", "iat"]},
            )
        except (jwt.PyJWTError, TypeError, ValueError) as error:
            raise _refused(f"the ID token is not good: {type(error).__name__}") from None
        audience, party = claims["aud"], claims.get("azp")
        if party not in (None, self.client.client_id) or (
            isinstance(audience, list) and len(audience) > 1 and party is None
        ):
            raise _refused("the ID token is for another client")
        if not nonce or claims.get("nonce") != nonce:
            raise _refused("the ID token answers another request")
        if not isinstance(claims["sub"], str) or not 0 < len(claims["sub"]) <= 255:
            raise _refused("the ID token names nobody")
        return claims

    async def _key(self, kid: str) -> Any:
        metadata = await self._discover()
        age = time.monotonic() - self._fetched
        if age >= _FRESH or (kid not in self._keys and age >= _REFETCH):  # one may have been withdrawn
            answer = await self._ask("GET", str(metadata["jwks_uri"]))
            self._fetched = time.monotonic()
            keys = answer.get("keys")
            self._keys = {}
            for entry in keys if isinstance(keys, list) else []:
                if entry.get("use", "sig") == "sig" and entry.get("kty") in ("RSA", "EC", "OKP"):
                    try:
                        self._keys[str(entry.get("kid", ""))] = jwt.PyJWK(entry)
                    except (jwt.PyJWTError, ValueError):
                        continue  # of a kind that we do not know
        if kid not in self._keys:
            raise jwt.InvalidKeyError("unknown kid")
        return self._keys[kid]

    async def _discover(self) -> Mapping[str, Any]:
        if self._metadata and time.monotonic() - self._discovered < _FRESH:
            return self._metadata
        where = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
        found = await self._ask("GET", where)
        wanted = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        reached = [str(found.get(name, "")) for name in wanted]
        reached += [str(found["userinfo_endpoint"])] if "userinfo_endpoint" in found else []
        if found.get("issuer") != self.issuer or not all(map(self._reachable, reached)):
            log.error("the identity provider's configuration is not that of %s", self.issuer)
            raise _away()
        self._metadata, self._discovered = found, time.monotonic()
        return found

    def _reachable(self, address: str) -> bool:
        return address.startswith("https://") or (self.insecure and address.startswith("http://"))

    async def _ask(self, method: str, address: str, **more: Any) -> Mapping[str, Any]:
        """The JSON object that the provider answers. Raises Unauthenticated when it refuses, Unavailable."""
        if not self._reachable(address):
            raise _away()
        try:
            async with self.http.stream(method, address, timeout=_TIMEOUT, **more) as answer:
                body = b""
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > _MOST:
                        raise httpx.DecodingError("too long")
            if answer.status_code in (400, 401, 403):
                log.info("the identity provider refused a request with HTTP %d", answer.status_code)
                raise _refused("the provider refused the code")
            answer.raise_for_status()
            found = json.loads(body)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
            log.warning("the identity provider did not answer: %s", type(error).__name__)
            raise _away() from None
        if answer.status_code != 200 or not isinstance(found, dict):
            raise _away()
        return found


def _text(value: object) -> str:
    return value[:500] if isinstance(value, str) else ""


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated("OIDC_REFUSED", why)


def _away() -> Unavailable:
    return Unavailable("OIDC_UNAVAILABLE", "the identity provider does not answer")
