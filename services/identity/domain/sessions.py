"""Sessions: a sign-in and the family of refresh tokens that carries it on.

A refresh token is `<session>.<generation>.<secret>.<proof>`. Each use rotates it: the next generation
is good, this one is spent. Only the SHA-256 of the newest two is stored. What holds:

* A spent token that comes back ends the whole session: either the owner or a thief holds the newer one,
  and nobody can tell who (RFC 9700, section 4.14.2).
* The answer to a refresh may be lost, and a browser's tabs may refresh at once. So for GRACE after a
  rotation the token just spent is answered again, with *the same* successor, for as long as that one is
  unused. The successor is derived from the spent token and a key of the session, so nothing secret is
  stored and the family never forks: a thief within the grace period gets the token that the owner has,
  and the first of them to rotate it exposes the other.
* `proof` is an HMAC under the session's key over the rest, so that only a token that was really given
  out can end a session; knowing its id is not enough.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from identity.domain.second_factor import Way
from kit.errors import Unauthenticated

GRACE: Final = timedelta(seconds=20)


@dataclass(frozen=True)
class Limits:
    """How long a session lasts without use, and at most."""

    idle: timedelta
    absolute: timedelta


@dataclass(frozen=True)
class SessionRevoked:
    """A session ended early: `reason` is SIGNED_OUT, REUSED, EXPIRED, PASSWORD_CHANGED, PASSWORD_RESET,
    LOCKED, DETACHED, SECOND_FACTOR_ADDED, SECOND_FACTOR_RESET or SECOND_FACTOR_REQUIRED."""

    reason: str


@dataclass
class Session:
    """One sign-in of one account.

    `key` signs and derives the refresh tokens and gives nobody one; `current` and `spent` are hashes of
    the newest token and the one before; `idle_until` moves with each rotation, `until` never. `epoch` is
    the account's when the session began: `Account.admits` says whether it may go on. `methods` tell how its
    owner showed who they are: `password` or `oidc`, and the way of the second factor.
    """

    id: str
    account: str
    key: str
    current: str
    created: datetime
    idle_until: datetime
    until: datetime
    rotated: datetime
    user_agent: str = ""
    spent: str = ""
    generation: int = 1
    epoch: int = 0
    methods: tuple[str, ...] = ()
    revoked: datetime | None = None
    revoked_reason: str = ""
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    @classmethod
    def begun(
        cls,
        session_id: str,
        account: str,
        *,
        key: str,
        seed: str,
        limits: Limits,
        user_agent: str,
        now: datetime,
        epoch: int = 0,
        methods: tuple[str, ...] = (),
    ) -> tuple[Session, str]:
        """A new session and its first refresh token. `key` and `seed` are 32 random bytes as text each."""
        token = _token(session_id, 1, key, seed)
        session = cls(
            id=session_id,
            account=account,
            key=key,
            current=_hash(token),
            created=now,
            idle_until=min(now + limits.idle, now + limits.absolute),
            until=now + limits.absolute,
            rotated=now,
            user_agent=user_agent[:200],
            epoch=epoch,
            methods=methods,
        )
        return session, token

    @property
    def expires(self) -> datetime:
        """When the session ends if nobody uses it."""
        return min(self.idle_until, self.until)

    @property
    def live(self) -> bool:
        """Whether nobody has ended it; it may have run out all the same."""
        return self.revoked is None

    @property
    def second(self) -> bool:
        """Whether its owner showed a second factor."""
        return any(way in self.methods for way in Way)

    def show(self, way: Way) -> None:
        """Its owner has shown a second factor in this way, too."""
        if way not in self.methods:
            self.methods = (*self.methods, way.value)

    def check_token(self, token: str) -> None:
        """Raises Unauthenticated unless this token was given out in this session, newest or spent."""
        rest, _, proof = token.rpartition(".")
        if not hmac.compare_digest(proof.encode(), _proof(self.key, rest).encode()):
            raise Unauthenticated("REFRESH_TOKEN_INVALID", "not a refresh token of ours")

    def rotate(self, token: str, *, limits: Limits, now: datetime) -> str | None:
        """The next refresh token, or None when this use ended the session; its reason says why.

        Raises Unauthenticated for a token that was never given out, and for a session ended before.
        """
        self.check_token(token)
        if self.revoked is not None:
            raise Unauthenticated("SESSION_ENDED", "this session has ended", cause=self.revoked_reason)
        if now >= self.expires:
            self.revoke("EXPIRED", now)
            return None
        given = _hash(token)
        successor = _token(self.id, self.generation + 1, self.key, token)
        if hmac.compare_digest(given, self.current):
            self.spent, self.current = given, _hash(successor)
            self.generation += 1
            self.rotated = now
            self.idle_until = min(now + limits.idle, self.until)
            return successor
        if hmac.compare_digest(given, self.spent) and now < self.rotated + GRACE:
            return _token(self.id, self.generation, self.key, token)
        self.revoke("REUSED", now)
        return None

    def revoke(self, reason: str, now: datetime) -> None:
        """Ends the session; ending it again changes nothing."""
        if self.revoked is None:
            self.revoked = now
            self.revoked_reason = reason
            self.events.append(SessionRevoked(reason))


def session_in(token: str) -> str:
    """The id of the session that a refresh token claims to belong to; `""` when it is not shaped like one."""
    parts = token.split(".")
    return parts[0] if len(parts) == 4 and len(token) <= 200 and token.isascii() else ""


def _token(session: str, generation: int, key: str, source: str) -> str:
    secret = _mac(key, f"secret|{generation}|{source}")
    rest = f"{session}.{generation}.{secret}"
    return f"{rest}.{_proof(key, rest)}"


def _proof(key: str, rest: str) -> str:
    return _mac(key, f"proof|{rest}")[:22]


def _mac(key: str, text: str) -> str:
    digest = hmac.new(key.encode(), text.encode(), hashlib.sha256).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
