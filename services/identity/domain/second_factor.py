"""Second factors: what an official has beside the password, and which officials must have one.

Codes of an authenticator app are those of RFC 6238: six digits, a new one every 30 seconds. A code is taken
within one step of our clock, and a step no earlier than the newest one taken, so that a code that was read
over a shoulder is worth nothing. A recovery code has 80 random bits: nobody tries them all, so a fast hash
keeps it, and it serves once.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

import pyotp

from kit.errors import FailedPrecondition, NotFound, Unauthenticated
from kit.text import identifier

STEP: Final = 30  # seconds
DRIFT: Final = 1  # steps that the clock of a phone may be ahead or behind
DIGITS: Final = 6
RECOVERY_CODES: Final = 10
MOST_KEYS: Final = 10
TOTP_ID: Final = "totp"
_LONGEST: Final = 64  # letters of a typed code that are looked at


class Way(StrEnum):
    """How somebody shows that they have the second factor."""

    TOTP = "totp"
    WEBAUTHN = "webauthn"
    RECOVERY_CODE = "recovery_code"


class Change(StrEnum):
    """What happened to an account's second factors, of which the owner is told."""

    ADDED = "added"
    REMOVED = "removed"
    RESET = "reset"
    CODE_USED = "code_used"
    CODES_RENEWED = "codes_renewed"


@dataclass(frozen=True)
class SecondFactorChanged:
    """The owner, or for a reset the admin `by`, changed what is asked for after the password."""

    change: Change
    at: datetime
    way: Way | None = None
    by: str = ""


@dataclass(frozen=True)
class App:
    """An authenticator app: its secret, sealed, and the newest step of which a code was taken."""

    sealed: str
    created: datetime
    step: int


@dataclass(frozen=True)
class SecurityKey:
    """A security key or passkey: `id` is the credential's and `public_key` a COSE key, both as base64url;
    `count` is the number of signatures that it last told of."""

    id: str
    public_key: str
    name: str
    created: datetime
    count: int = 0


@dataclass(frozen=True)
class SecondFactors:
    """What an account has. `recovery` are hashes; `reset` and `reset_by` tell of the last reset."""

    app: App | None = None
    keys: tuple[SecurityKey, ...] = ()
    recovery: tuple[str, ...] = ()
    reset: datetime | None = None
    reset_by: str = ""

    @property
    def there(self) -> bool:
        """Whether there is one, so that a password alone signs nobody in."""
        return self.app is not None or bool(self.keys)

    @property
    def ways(self) -> tuple[Way, ...]:
        """How the owner can sign in."""
        has = {
            Way.WEBAUTHN: bool(self.keys),
            Way.TOTP: self.app is not None,
            Way.RECOVERY_CODE: bool(self.recovery),
        }
        return tuple(way for way, there in has.items() if there)

    def with_app(self, sealed: str, step: int, now: datetime) -> SecondFactors:
        """With this app, in place of an earlier one; the code of that step was its first."""
        return replace(self, app=App(sealed, now, step))

    def with_key(self, key: SecurityKey) -> SecondFactors:
        """With one key more. Raises FailedPrecondition (TOO_MANY_KEYS, KEY_KNOWN)."""
        if any(known.id == key.id for known in self.keys):
            raise FailedPrecondition("KEY_KNOWN", "the account has this key already")
        if len(self.keys) >= MOST_KEYS:
            raise FailedPrecondition("TOO_MANY_KEYS", f"at most {MOST_KEYS} keys", most=MOST_KEYS)
        return replace(self, keys=(*self.keys, key))

    def key(self, id: str) -> SecurityKey:
        """The key of that credential. Raises Unauthenticated (SECOND_FACTOR_WRONG)."""
        for key in self.keys:
            if hmac.compare_digest(key.id.encode(), id.encode()):
                return key
        raise wrong()

    def after_code(self, verified: str, step: int, sealed: str) -> SecondFactors:
        """After a code of that step of the app with the sealed secret `verified`, which is then kept as
        `sealed`. Raises Unauthenticated (SECOND_FACTOR_WRONG) for a step that was taken before."""
        if self.app is None or self.app.sealed != verified or step <= self.app.step:
            raise wrong()
        return replace(self, app=replace(self.app, sealed=sealed, step=step))

    def after_key(self, id: str, count: int) -> SecondFactors:
        """After an assertion of that key. Raises Unauthenticated (SECOND_FACTOR_WRONG) when it counts
        backwards: somebody has a copy of it."""
        used = self.key(id)
        if (count or used.count) and count <= used.count:
            raise wrong()
        return replace(
            self, keys=tuple(replace(key, count=count) if key is used else key for key in self.keys)
        )

    def after_recovery(self, hashed: str) -> SecondFactors:
        """Without the recovery code of that hash. Raises Unauthenticated (SECOND_FACTOR_WRONG)."""
        left = tuple(code for code in self.recovery if not hmac.compare_digest(code, hashed))
        if len(left) == len(self.recovery):
            raise wrong()
        return replace(self, recovery=left)

    def without(self, id: str, *, needed: bool) -> SecondFactors:
        """Without the app or the key of that id; without the last of them no recovery code serves either.

        Raises NotFound (SECOND_FACTOR_NOT_FOUND), and FailedPrecondition (SECOND_FACTOR_NEEDED) for the last
        one of an official who must have one.
        """
        left = replace(
            self,
            app=None if id == TOTP_ID else self.app,
            keys=tuple(key for key in self.keys if key.id != id),
        )
        if (left.app, left.keys) == (self.app, self.keys):
            raise NotFound("SECOND_FACTOR_NOT_FOUND", "the account has no such second factor")
        if left.there:
            return left
        if needed:
            raise FailedPrecondition("SECOND_FACTOR_NEEDED", "this account must have a second factor")
        return replace(left, recovery=())


def wrong() -> Unauthenticated:
    """The one answer to every code, key and signature that does not fit."""
    return Unauthenticated("SECOND_FACTOR_WRONG", "not the second factor of this account")


def new_secret() -> str:
    """The secret of an authenticator app: 160 random bits as base32."""
    return pyotp.random_base32(32)


def app_address(secret: str, *, username: str, issuer: str) -> str:
    """What the app reads as a QR code: an `otpauth:` address."""
    return pyotp.TOTP(secret).provisioning_uri(name=username, issuer_name=issuer)


def step_of(secret: str, typed: str, now: datetime) -> int | None:
    """The step whose code was typed, within DRIFT of now; None for a wrong code. All are compared, so that
    the time tells nothing."""
    code = re.sub(r"[\s-]", "", identifier(typed)) if len(typed) <= _LONGEST else ""
    if not re.fullmatch(f"[0-9]{{{DIGITS}}}", code):
        return None
    app, current = pyotp.TOTP(secret), int(now.timestamp()) // STEP
    steps = range(current - DRIFT, current + DRIFT + 1)
    fitting = [step for step in steps if hmac.compare_digest(app.generate_otp(step), code)]
    return max(fitting, default=None)


def recovery_hash(account: str, typed: str) -> str:
    """What is stored of a recovery code; capitals, spaces and dashes are of no account."""
    code = re.sub(r"[\s-]", "", identifier(typed)).upper() if len(typed) <= _LONGEST else ""
    return hashlib.sha256(f"{account}|{code}".encode()).hexdigest()


def must_have(rules: Mapping[str, datetime], held: Iterable[tuple[str, str]], now: datetime) -> bool:
    """Whether an official with these roles, as (agency, role), must have a second factor.

    A rule names whom it is for, and the instant from which it holds: `*` every official, `leader` those with
    that role anywhere, `@H32` those with any role in that agency or one whose code begins with `H32.`,
    `leader@H32` both.
    """
    roles = list(held)
    return any(since <= now and _meets(whom, roles) for whom, since in rules.items())


def _meets(whom: str, roles: Sequence[tuple[str, str]]) -> bool:
    role, _, agency = whom.partition("@")
    return whom == "*" or any(
        role in ("", name) and (not agency or code == agency or code.startswith(f"{agency}."))
        for code, name in roles
    )
