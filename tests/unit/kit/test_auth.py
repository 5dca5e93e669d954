"""Who may call, and what an access token is worth."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kit import auth
from kit.auth import ANONYMOUS, ANYONE, CITIZEN, OFFICIAL, Caller, Role, ServiceTokens, TokenVerifier, allow
from kit.errors import Forbidden, Unauthenticated, Unavailable

AN = Caller("an", "citizen")
CLERK = Caller("clerk", "official", (Role("H32.15", "clerk"), Role("H32.05", "examiner")))
PAYMENT = Caller("payment", "service")


class Keys:
    """A JWKS that can be rotated and can be away."""

    def __init__(self) -> None:
        self.keys: dict[str, Ed25519PrivateKey] = {"k1": Ed25519PrivateKey.generate()}
        self.fetched = 0
        self.away = False

    async def fetch(self) -> dict[str, Any]:
        self.fetched += 1
        if self.away:
            raise OSError("no route")
        algorithm = jwt.get_algorithm_by_name("EdDSA")
        return {
            "keys": [
                {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid}
                for kid, key in self.keys.items()
            ]
        }

    def token(self, kid: str = "k1", key: Any = None, algorithm: str = "EdDSA", **claims: Any) -> str:
        known = {
            "sub": "clerk",
            "kind": "official",
            "roles": [["H32.15", "clerk"]],
            "sid": "s1",
            "iss": "motcua",
            "aud": "motcua",
            "iat": int(time.time()),
            "exp": int(time.time()) + 60,
        }
        payload = {name: value for name, value in {**known, **claims}.items() if value is not None}
        return jwt.encode(
            payload, self.keys[kid] if key is None else key, algorithm=algorithm, headers={"kid": kid}
        )


@pytest.mark.parametrize(
    ("allowed", "caller", "outcome"),
    [
        ((ANYONE,), ANONYMOUS, None),
        ((CITIZEN,), AN, None),
        ((CITIZEN,), ANONYMOUS, Unauthenticated),
        ((CITIZEN,), CLERK, Forbidden),
        ((OFFICIAL,), CLERK, None),
        ((auth.official("clerk", "leader"),), CLERK, None),
        ((auth.official("leader"),), CLERK, Forbidden),
        ((auth.official("clerk"),), Caller("x", "citizen", CLERK.roles), Forbidden),
        ((auth.service("payment"),), PAYMENT, None),
        ((auth.service("notify"),), PAYMENT, Forbidden),
        ((auth.service("payment"),), Caller("payment", "citizen"), Forbidden),
        ((CITIZEN, auth.service("payment")), PAYMENT, None),
    ],
)
async def test_a_handler_lets_in_only_those_it_names(
    allowed: tuple[auth.Who, ...], caller: Caller, outcome: type[Exception] | None
) -> None:
    @allow(*allowed)
    async def handler(ports: object, caller: Caller, value: int) -> int:
        return value

    assert getattr(handler, "allowed") == allowed  # noqa: B009
    if outcome is None:
        assert await handler(None, caller, 7) == 7
    else:
        with pytest.raises(outcome):
            await handler(None, caller, 7)


def test_a_handler_must_say_who() -> None:
    with pytest.raises(TypeError):
        allow()


def test_a_role_is_held_in_an_agency() -> None:
    assert CLERK.has("clerk")
    assert CLERK.has("clerk", "H32.15")
    assert not CLERK.has("clerk", "H32.05")


async def test_a_token_names_its_caller_and_keys_are_fetched_once() -> None:
    keys = Keys()
    verifier = TokenVerifier(keys.fetch)
    for _ in range(3):
        caller = await verifier.verify(keys.token())
    assert caller == Caller("clerk", "official", (Role("H32.15", "clerk"),), "s1")
    assert keys.fetched == 1


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "other"},
        {"aud": "other"},
        {"sub": None},
        {"sub": ""},
        {"kind": "king"},
        {"kind": None},
        {"exp": None},
        {"roles": "all"},
        {"nbf": int(time.time()) + 86_400},
        {"exp": int(time.time()) - 60},
        {"algorithm": "HS256", "key": "public key as a secret, thirty-two bytes"},
        {"algorithm": "none", "key": ""},
        {"key": Ed25519PrivateKey.generate()},
    ],
    ids="-".join,
)
async def test_a_forged_expired_or_foreign_token_is_refused(claims: dict[str, Any]) -> None:
    keys = Keys()
    with pytest.raises(Unauthenticated):
        await TokenVerifier(keys.fetch).verify(keys.token(**claims))


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é" * 10])
async def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        await TokenVerifier(Keys().fetch).verify(token)


async def test_a_new_key_is_fetched_but_unknown_ones_do_not_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys()
    verifier = TokenVerifier(keys.fetch)
    await verifier.verify(keys.token())
    keys.keys["k2"] = Ed25519PrivateKey.generate()
    for _ in range(20):
        with pytest.raises(Unauthenticated):
            await verifier.verify(keys.token("k2"))
    assert keys.fetched == 1
    monkeypatch.setattr(auth, "_REFETCH", 0.0)
    await verifier.verify(keys.token("k2"))
    assert keys.fetched == 2


async def test_without_keys_the_answer_is_later_and_known_keys_outlive_identity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = Keys()
    keys.away = True
    verifier = TokenVerifier(keys.fetch)
    with pytest.raises(Unavailable):
        await verifier.verify(keys.token())
    for _ in range(20):
        with pytest.raises(Unavailable):
            await verifier.verify(keys.token())
    assert keys.fetched == 1
    keys.away = False
    monkeypatch.setattr(auth, "_EARLY", 0.0)
    await verifier.verify(keys.token())
    keys.away = True
    monkeypatch.setattr(auth, "_REFETCH", 0.0)
    assert (await verifier.verify(keys.token(sub="other"))).subject == "other"


async def test_a_withdrawn_key_is_not_trusted_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys()
    keys.keys["k2"] = Ed25519PrivateKey.generate()
    verifier = TokenVerifier(keys.fetch)
    token = keys.token("k2")
    await verifier.verify(token)
    del keys.keys["k2"]
    monkeypatch.setattr(auth, "_REFETCH", 0.0)
    monkeypatch.setattr(auth, "_STALE", 0.0)
    await verifier.verify(keys.token(sub="other"))
    with pytest.raises(Unauthenticated):
        await verifier.verify(token)


async def test_a_remembered_token_still_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys()
    verifier = TokenVerifier(keys.fetch)
    token = keys.token(exp=int(time.time()) - 3)  # within the leeway
    await verifier.verify(token)
    monkeypatch.setattr(auth, "_LEEWAY", 0)
    with pytest.raises(Unauthenticated, match="TOKEN_EXPIRED"):
        await verifier.verify(token)


async def test_a_services_own_token_is_kept_until_shortly_before_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched = 0
    now = 1000.0

    async def fetch() -> tuple[str, float]:
        nonlocal fetched
        fetched += 1
        return f"token {fetched}", 300.0

    monkeypatch.setattr(time, "monotonic", lambda: now)
    tokens = ServiceTokens(fetch)
    assert [await tokens(), await tokens()] == ["token 1", "token 1"]
    now += 239
    assert await tokens() == "token 1"
    now += 2
    assert await tokens() == "token 2"
