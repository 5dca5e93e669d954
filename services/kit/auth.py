"""Who is calling, and who may call: access tokens, the caller they name, and the guard on every handler."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

import jwt

from kit.errors import Forbidden, Unauthenticated, Unavailable

TOKEN_SECONDS: Final = 300.0  # seconds that an access token of a session is good
REMEMBERED: Final = TOKEN_SECONDS + 60.0  # seconds after which the last token of a session has expired
ISSUER: Final = "motcua"
AUDIENCE: Final = "motcua"
_LEEWAY = 5  # seconds that clocks may differ
_REFETCH = 10.0  # seconds between two fetches of the keys for an unknown kid
_EARLY = 0.5  # seconds between two tries while there are no keys at all
_STALE = 300.0  # seconds after which the keys are fetched anew: one may have been withdrawn
_CACHED = 4096  # verified tokens remembered until they expire

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Role:
    """What an official may act as, and in which agency."""

    agency: str
    name: str


@dataclass(frozen=True)
class Caller:
    """Who calls: `kind` is citizen, official, service or anonymous; `session` is the sign-in it came from.

    `verified`: somebody proved that a citizen is who the account says; false where a token does not say so.
    """

    subject: str = ""
    kind: str = "anonymous"
    roles: tuple[Role, ...] = ()
    session: str = ""
    verified: bool = False

    def has(self, role: str, agency: str | None = None) -> bool:
        """Whether the caller holds the role, in that agency or, when none is given, in any."""
        return any(held.name == role and agency in (None, held.agency) for held in self.roles)


ANONYMOUS: Final = Caller()


@dataclass(frozen=True)
class Who:
    """One kind of caller that a handler lets in; empty `names` means all of that kind."""

    kind: str
    names: tuple[str, ...] = ()

    def admits(self, caller: Caller) -> bool:
        """Whether this caller is one of them."""
        if self.kind == "anyone":
            return True
        if caller.kind != self.kind:
            return False
        if not self.names:
            return True
        if self.kind == "service":
            return caller.subject in self.names
        return any(caller.has(name) for name in self.names)


ANYONE: Final = Who("anyone")
CITIZEN: Final = Who("citizen")
OFFICIAL: Final = Who("official")


def official(*roles: str) -> Who:
    """Officials who hold one of these roles in some agency; which agency is the handler's rule."""
    return Who("official", roles)


def service(*names: str) -> Who:
    """These of our own services, acting for themselves."""
    return Who("service", names)


def check(caller: Caller, allowed: Sequence[Who]) -> None:
    """Raises Unauthenticated for a stranger and Forbidden for anyone else who is not among the allowed."""
    if any(who.admits(caller) for who in allowed):
        return
    if caller.kind == "anonymous":
        raise Unauthenticated("SIGN_IN_REQUIRED", "this needs a signed-in caller")
    raise Forbidden("NOT_ALLOWED", "callers of this kind or role may not do this")


def allow(
    *allowed: Who,
) -> Callable[
    [Callable[Concatenate[Any, Caller, P], Awaitable[T]]], Callable[Concatenate[Any, Caller, P], Awaitable[T]]
]:
    """Guards `async def f(ports, caller, ...)`: the caller is checked before anything else happens.

    Whose thing it is stays a rule of the handler. `f.allowed` names them, so that a test can list the matrix.
    """
    if not allowed:
        raise TypeError("say who is allowed")

    def guard(
        handler: Callable[Concatenate[Any, Caller, P], Awaitable[T]],
    ) -> Callable[Concatenate[Any, Caller, P], Awaitable[T]]:
        @wraps(handler)
        async def guarded(ports: Any, caller: Caller, /, *args: P.args, **kwargs: P.kwargs) -> T:
            check(caller, allowed)
            return await handler(ports, caller, *args, **kwargs)

        guarded.allowed = allowed  # type: ignore[attr-defined]
        return guarded

    return guard


class Ended(Protocol):
    """The sessions that are over although their tokens are not: `kit.sessions.EndedSessions`."""

    def over(self, session: str, account: str, epoch: int) -> bool: ...


class TokenVerifier:
    """Turns an access token into a Caller: EdDSA only, with keys from identity's JWKS.

    `fetch_jwks` answers the JWKS as a dict (`{"keys": [...]}`). An unknown `kid` makes it fetch
    again, at most once in ten seconds, so that forged tokens cannot be used to flood identity.
    `ended` knows the sessions whose tokens are refused before they expire.
    """

    def __init__(
        self, fetch_jwks: Callable[[], Awaitable[Mapping[str, Any]]], ended: Ended | None = None
    ) -> None:
        self.ended = ended
        self._fetch = fetch_jwks
        self._keys: dict[str, Any] = {}
        self._fetched = self._tried = float("-inf")
        self._lock = asyncio.Lock()
        self._verified: dict[str, tuple[float, Caller, int]] = {}

    async def verify(self, token: str) -> Caller:
        """The caller that the token names. Raises Unauthenticated (TOKEN_EXPIRED, TOKEN_INVALID or
        SESSION_ENDED), or Unavailable while the keys cannot be fetched."""
        known = self._verified.get(token)
        if known is None or known[0] <= time.time():
            known = await self._read(token)
            if len(self._verified) >= _CACHED:
                self._verified.clear()
            self._verified[token] = known
        _, caller, epoch = known
        session, ended = caller.session, self.ended
        if session and ended is not None and ended.over(session, caller.subject, epoch):
            raise Unauthenticated("SESSION_ENDED", "the session of this access token has ended")
        return caller

    async def _read(self, token: str) -> tuple[float, Caller, int]:
        """When the token expires, whom it names, and the epoch of the account in which its session began."""
        try:
            header = jwt.get_unverified_header(token)
            key = await self._key(str(header.get("kid", "")))
            claims = jwt.decode(
                token,
                key,
                algorithms=["EdDSA"],
                issuer=ISSUER,
                audience=AUDIENCE,
                leeway=_LEEWAY,
                options={"require": ["sub", "kind", "exp", "iat", "iss", "aud"]},
            )
            caller = Caller(
                subject=str(claims["sub"]),
                kind=str(claims["kind"]),
                roles=tuple(Role(str(agency), str(name)) for agency, name in claims.get("roles", ())),
                session=str(claims.get("sid", "")),
                verified=claims.get("ver") is True,
            )
            epoch = int(claims.get("epoch", 0))
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("TOKEN_EXPIRED", "the access token has expired") from None
        except (jwt.PyJWTError, TypeError, ValueError) as error:
            raise Unauthenticated(
                "TOKEN_INVALID", f"not a valid access token ({type(error).__name__})"
            ) from None
        if caller.kind not in ("citizen", "official", "service") or not caller.subject:
            raise Unauthenticated("TOKEN_INVALID", "the access token names no known kind of caller")
        return float(claims["exp"]), caller, epoch

    async def _key(self, kid: str) -> Any:
        if self._due(kid):
            async with self._lock:
                if self._due(kid):
                    await self._refresh()
        if kid not in self._keys:
            if not self._keys:
                raise Unavailable("KEYS_UNAVAILABLE", "the keys of the access tokens cannot be fetched")
            raise jwt.InvalidKeyError("unknown kid")
        return self._keys[kid]

    def _due(self, kid: str) -> bool:
        now = time.monotonic()
        if now - self._tried < (_REFETCH if self._keys else _EARLY):
            return False
        return kid not in self._keys or now - self._fetched >= _STALE

    async def _refresh(self) -> None:
        try:
            answer = await self._fetch()
            keys = {
                str(key["kid"]): jwt.PyJWK(key, algorithm="EdDSA").key
                for key in answer["keys"]
                if key.get("kty") == "OKP" and key.get("kid")
            }
        except Exception as error:
            log.warning("keys not fetched: %s", error)
            if not self._keys:
                raise Unavailable(
                    "KEYS_UNAVAILABLE", "the keys of the access tokens cannot be fetched"
                ) from error
            return
        finally:  # not before: whoever comes meanwhile waits for this try
            self._tried = time.monotonic()
        self._keys = keys
        self._fetched = time.monotonic()
        self._verified.clear()  # a key that was withdrawn takes its tokens with it


class ServiceTokens:
    """A service's own short-lived access token, fetched when needed and renewed a minute before it expires.

    `fetch` answers (token, seconds it is valid).
    """

    def __init__(self, fetch: Callable[[], Awaitable[tuple[str, float]]], *, early: float = 60.0) -> None:
        self._fetch = fetch
        self._early = early
        self._token = ""
        self._until = float("-inf")
        self._lock = asyncio.Lock()

    async def __call__(self) -> str:
        """The current token. Raises what `fetch` raises."""
        if time.monotonic() >= self._until:
            async with self._lock:
                if time.monotonic() >= self._until:
                    token, seconds = await self._fetch()
                    self._token = token
                    self._until = time.monotonic() + max(seconds - self._early, seconds / 2)
        return self._token
