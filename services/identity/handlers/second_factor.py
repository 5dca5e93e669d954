"""Second factors: completing a sign-in with one, adding, removing and resetting them."""

from __future__ import annotations

import base64
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeVar

from identity.domain.accounts import Account, Status
from identity.domain.second_factor import (
    RECOVERY_CODES,
    TOTP_ID,
    Change,
    SecondFactorChanged,
    SecondFactors,
    Way,
    app_address,
    new_secret,
    recovery_hash,
    step_of,
    wrong,
)
from identity.handlers.agencies import check_administers_all
from identity.handlers.ports import Asked, Challenge, Ports, Sealer
from identity.handlers.sessions import (
    CHALLENGE_LASTS,
    FRESH,
    Challenged,
    SignedIn,
    challenge_hash,
    check_owner,
    device_hash,
    end_sessions,
    must_have_second,
    offered,
    open_session,
    with_second,
)
from kit.auth import ANYONE, OFFICIAL, Caller, allow, official
from kit.errors import (
    DomainError,
    FailedPrecondition,
    FieldViolation,
    Forbidden,
    InvalidInput,
    Unauthenticated,
    Unavailable,
)
from kit.text import line

T = TypeVar("T")
ISSUER: Final = "Một Cửa"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shown:
    """One second factor as its owner sees it."""

    id: str
    way: Way
    name: str
    created: datetime


@dataclass(frozen=True)
class Beginning:
    """What the owner needs to add a second factor: the secret of an app and its address."""

    challenge: str
    expires: datetime
    secret: str
    address: str


@dataclass(frozen=True)
class Added:
    """A second factor that was added; recovery codes with the first, a session if a sign-in waited."""

    factor: Shown
    account: Account
    recovery_codes: tuple[str, ...]
    signed_in: SignedIn | None


@allow(ANYONE)
async def complete_sign_in(
    ports: Ports,
    _caller: Caller,
    *,
    challenge: str,
    code: str,
    recovery_code: str,
    client_address: str,
    user_agent: str,
    device_token: str,
) -> SignedIn:
    """Opens the session that waits for a second factor.

    A challenge serves once, from the device that began it, and a few times after wrong tries. A try counts
    for the account before it is looked at, as in `sign_in`. Raises InvalidInput (SECOND_FACTOR_MISSING),
    Unauthenticated (CHALLENGE_UNKNOWN, SECOND_FACTOR_WRONG), Forbidden (ACCOUNT_LOCKED), RateLimited.
    """
    if sum(map(bool, (code, recovery_code))) != 1:
        missing = FieldViolation("code", "SECOND_FACTOR_MISSING", "a code, or a recovery code")
        raise InvalidInput(violations=[missing])
    waiting = await _taken(ports, challenge, device_token, enrol=False)
    account = await _account_of(ports, waiting)
    way = Way.TOTP if code else Way.RECOVERY_CODE

    async def show() -> Account:
        if way is Way.TOTP:
            return await _use_code(ports, account, code)
        return await _use_recovery(ports, account, recovery_code)

    account = await _tried(ports, challenge, waiting, client_address, show)
    log.info("account %s signed in with its second factor (%s)", account.id, way)
    methods = (*waiting.methods, way.value)
    return _opened(
        await open_session(ports, account, user_agent=user_agent, methods=methods, device_token=device_token)
    )


@allow(ANYONE)
async def begin_second_factor(
    ports: Ports,
    caller: Caller,
    *,
    way: Way | None,
    name: str,
    challenge: str,
    current_password: str,
    device_token: str,
) -> Beginning:
    """Begins to add a second factor, for a signed-in official or with the challenge of a sign-in.

    Raises InvalidInput (WAY_NOT_OFFERED, and what `check_owner` raises), Unauthenticated (SIGN_IN_REQUIRED,
    CHALLENGE_UNKNOWN), Forbidden (NOT_ALLOWED), FailedPrecondition (FRESH_SIGN_IN_REQUIRED), RateLimited.
    """
    if way not in offered(ports):
        refused = FieldViolation("way", "WAY_NOT_OFFERED", "not a second factor that can be added here")
        raise InvalidInput(violations=[refused])
    if challenge:
        waiting = await _taken(ports, challenge, device_token, enrol=True)
        account = await _account_of(ports, waiting)
    else:
        _check_official(caller)
        account = await ports.accounts.get(caller.subject)
        await _check_owner(ports, caller, account, current_password)
        device = device_hash(device_token)
        waiting = Challenge(
            account.id, account.epoch, ports.clock(), device=device, session=caller.session, enrol=True
        )
    await ports.attempts.count("second-factor-begin", account.id)
    secret, id = new_secret(), secrets.token_urlsafe(32)
    beginning = replace(
        waiting,
        expires=ports.clock() + CHALLENGE_LASTS,
        way=way,
        name=line(name),
        secret=_sealer(ports).seal(secret, account.id),
    )
    await ports.challenges.keep(challenge_hash(id), beginning)
    return Beginning(
        id, beginning.expires, secret, app_address(secret, username=account.username, issuer=ISSUER)
    )


@allow(ANYONE)
async def complete_second_factor(
    ports: Ports,
    caller: Caller,
    *,
    challenge: str,
    code: str,
    client_address: str,
    user_agent: str,
    device_token: str,
) -> Added:
    """Adds the second factor that was begun, once a code shows that it works.

    The first one ends the sessions that began without one, but for the one that asks. Raises Unauthenticated
    (CHALLENGE_UNKNOWN, SECOND_FACTOR_WRONG), Forbidden (ACCOUNT_LOCKED), RateLimited.
    """
    waiting = await _taken(ports, challenge, device_token, enrol=True)
    if waiting.way is None or waiting.session != (caller.session if waiting.session else ""):
        raise _unknown()
    account, now = await _account_of(ports, waiting), ports.clock()
    step = await _tried(ports, challenge, waiting, client_address, lambda: _step_shown(ports, waiting, code))
    codes = () if account.second.recovery else tuple(_recovery_code() for _ in range(RECOVERY_CODES))
    hashes = tuple(recovery_hash(account.id, each) for each in codes)
    told = SecondFactorChanged(Change.ADDED, now, waiting.way)

    def add(it: Account) -> None:
        if it.epoch != waiting.epoch:
            raise _unknown()
        second = it.second.with_app(waiting.secret, step, now)
        it.set_second(replace(second, recovery=hashes or second.recovery), told, session=waiting.session)

    account = await ports.accounts.change(account.id, add)
    log.info("account %s has a second factor more (%s)", account.id, waiting.way)
    if waiting.session:
        way = waiting.way
        await ports.sessions.change(waiting.session, lambda it: it.show(way))
    await end_sessions(ports, account, "SECOND_FACTOR_ADDED")
    signed_in = None
    if not waiting.session:
        methods = (*waiting.methods, waiting.way.value)
        signed_in = _opened(
            await open_session(
                ports, account, user_agent=user_agent, methods=methods, device_token=device_token
            )
        )
    newest = next(one for one in shown(account.second) if one.way is waiting.way)
    return Added(newest, account, codes, signed_in)


@allow(OFFICIAL)
async def list_second_factors(ports: Ports, caller: Caller) -> tuple[list[Shown], int, bool]:
    """The caller's second factors, how many recovery codes are left, and whether there must be one."""
    account = await ports.accounts.get(caller.subject)
    return shown(account.second), len(account.second.recovery), must_have_second(ports, account)


@allow(OFFICIAL)
async def remove_second_factor(ports: Ports, caller: Caller, *, id: str) -> list[Shown]:
    """Removes one of the caller's second factors; answers those that are left.

    Raises FailedPrecondition (FRESH_SIGN_IN_REQUIRED, SECOND_FACTOR_NEEDED), NotFound.
    """
    account = await ports.accounts.get(caller.subject)
    await _check_fresh(ports, caller)
    needed = must_have_second(ports, account)
    told = SecondFactorChanged(Change.REMOVED, ports.clock(), Way.TOTP if id == TOTP_ID else Way.WEBAUTHN)
    account = await ports.accounts.change(
        account.id, lambda it: it.set_second(it.second.without(id, needed=needed), told)
    )
    log.info("account %s has a second factor less", account.id)
    return shown(account.second)


@allow(OFFICIAL)
async def renew_recovery_codes(ports: Ports, caller: Caller) -> tuple[str, ...]:
    """New recovery codes in place of all that the caller has.

    Raises FailedPrecondition (FRESH_SIGN_IN_REQUIRED, NO_SECOND_FACTOR).
    """
    await _check_fresh(ports, caller)
    codes = tuple(_recovery_code() for _ in range(RECOVERY_CODES))
    hashes = tuple(recovery_hash(caller.subject, each) for each in codes)
    told = SecondFactorChanged(Change.CODES_RENEWED, ports.clock(), Way.RECOVERY_CODE)

    def renew(it: Account) -> None:
        if not it.second.there:
            raise FailedPrecondition("NO_SECOND_FACTOR", "the account has no second factor")
        it.set_second(replace(it.second, recovery=hashes), told)

    await ports.accounts.change(caller.subject, renew)
    return codes


@allow(official("admin"))
async def reset_second_factors(
    ports: Ports, caller: Caller, *, account_id: str, request: Asked | None
) -> Account:
    """Takes all second factors of an official away, by an admin of every agency where they hold a role; ends
    their sessions and forgets their devices. The next sign-in adds a new one where there must be one.

    Raises NotFound, Forbidden (NOT_YOUR_AGENCY, OWN_ACCOUNT), FailedPrecondition (ROLES_CHANGED).
    """
    account = await ports.accounts.get(account_id)
    await check_administers_all(ports, caller, {role.agency for role in account.roles})
    if account.id == caller.subject:
        raise Forbidden("OWN_ACCOUNT", "nobody resets their own second factors")
    before, now = account.roles, ports.clock()
    told = SecondFactorChanged(Change.RESET, now, by=caller.subject)

    def reset(it: Account) -> None:
        if it.roles != before:
            raise FailedPrecondition("ROLES_CHANGED", "somebody else changed the roles just now")
        if it.second.there:
            it.set_second(SecondFactors(reset=now, reset_by=caller.subject), told)

    account = await ports.accounts.change(account_id, reset, request=request)
    log.info("second factors of account %s were reset by %s", account_id, caller.subject)
    await ports.devices.forget(account_id)
    await ports.devices.forget(with_second(account_id))
    await end_sessions(ports, account, "SECOND_FACTOR_RESET")
    return account


def shown(second: SecondFactors) -> list[Shown]:
    """The second factors as their owner sees them, without what is secret."""
    app = [Shown(TOTP_ID, Way.TOTP, "", second.app.created)] if second.app else []
    return app + [Shown(key.id, Way.WEBAUTHN, key.name, key.created) for key in second.keys]


async def _taken(ports: Ports, id: str, device_token: str, *, enrol: bool) -> Challenge:
    """The challenge of that id, which nobody else gets any more."""
    waiting = await ports.challenges.take(challenge_hash(id)) if id else None
    if (
        waiting is None
        or ports.clock() >= waiting.expires
        or waiting.enrol is not enrol
        or not hmac.compare_digest(waiting.device, device_hash(device_token))
    ):
        raise _unknown()
    return waiting


async def _account_of(ports: Ports, waiting: Challenge) -> Account:
    """The challenge's account, if nothing that ends sessions has happened to it since."""
    account = await ports.accounts.get(waiting.account)
    if account.status is not Status.ACTIVE:
        raise Forbidden("ACCOUNT_LOCKED", "the account is locked")
    if account.epoch != waiting.epoch:
        raise _unknown()
    return account


async def _tried(
    ports: Ports, id: str, waiting: Challenge, client_address: str, show: Callable[[], Awaitable[T]]
) -> T:
    """What `show` answers, as a try that counts before. A wrong one costs the challenge one of its tries;
    what was no try gives it back whole."""
    known = await ports.devices.known(with_second(waiting.account), waiting.device)
    who = f"{waiting.account}|{waiting.device}" if known else waiting.account
    left = waiting
    try:
        if client_address and not known:
            await ports.attempts.count("sign-in-address", client_address)
        await ports.attempts.slow("second-factor", who)
        left = replace(waiting, tries_left=waiting.tries_left - 1)
        answer = await show()
    except DomainError as error:
        if not isinstance(error, Unauthenticated):
            left = waiting
        if left.tries_left > 0:
            await ports.challenges.keep(challenge_hash(id), left)
        raise
    await ports.attempts.relax("second-factor", who)
    if client_address and not known:
        await ports.attempts.forgive("sign-in-address", client_address)
    return answer


async def _use_code(ports: Ports, account: Account, code: str) -> Account:
    app, sealer = account.second.app, _sealer(ports)
    if app is None:
        raise wrong()
    secret = _secret(sealer, app.sealed, account.id)
    step = step_of(secret, code, ports.clock())
    if step is None:
        raise wrong()
    sealed = sealer.seal(secret, account.id) if sealer.outdated(app.sealed) else app.sealed
    return await ports.accounts.change(
        account.id, lambda it: it.set_second(it.second.after_code(app.sealed, step, sealed))
    )


async def _use_recovery(ports: Ports, account: Account, code: str) -> Account:
    hashed = recovery_hash(account.id, code)
    told = SecondFactorChanged(Change.CODE_USED, ports.clock(), Way.RECOVERY_CODE)
    return await ports.accounts.change(
        account.id, lambda it: it.set_second(it.second.after_recovery(hashed), told)
    )


async def _step_shown(ports: Ports, waiting: Challenge, code: str) -> int:
    """The step of the first code of an app that is to be added."""
    secret = _secret(_sealer(ports), waiting.secret, waiting.account)
    step = step_of(secret, code, ports.clock())
    if step is None:
        raise wrong()
    return step


async def _check_owner(ports: Ports, caller: Caller, account: Account, current: str) -> None:
    """Makes sure that the owner adds a second factor: by one they have, else by the password."""
    if account.second.there:
        await _check_fresh(ports, caller)
    else:
        await check_owner(ports, caller, account, current)


async def _check_fresh(ports: Ports, caller: Caller) -> None:
    """Raises FailedPrecondition unless the session began lately, with a second factor."""
    session = await ports.sessions.find(caller.session)
    if session is None or not session.second or ports.clock() >= session.created + FRESH:
        raise FailedPrecondition("FRESH_SIGN_IN_REQUIRED", "sign in again first")


def _check_official(caller: Caller) -> None:
    if caller.kind == "anonymous":
        raise Unauthenticated("SIGN_IN_REQUIRED", "neither a challenge nor a signed-in caller")
    if caller.kind != "official":
        raise Forbidden("NOT_ALLOWED", "officials only")


def _opened(outcome: SignedIn | Challenged) -> SignedIn:
    if not isinstance(outcome, SignedIn):
        raise TypeError("a second factor was shown, and is asked for again")
    return outcome


def _sealer(ports: Ports) -> Sealer:
    if ports.sealer is None:
        raise Unavailable("SECOND_FACTOR_UNREADABLE", "SECOND_FACTOR_KEYS is not set any more")
    return ports.sealer


def _secret(sealer: Sealer, sealed: str, account: str) -> str:
    try:
        return sealer.open(sealed, account)
    except ValueError:
        log.exception("the secret of account %s cannot be opened", account)
        raise Unavailable("SECOND_FACTOR_UNREADABLE", "SECOND_FACTOR_KEYS lacks its key") from None


def _recovery_code() -> str:
    letters = base64.b32encode(secrets.token_bytes(10)).decode()
    return "-".join(letters[at : at + 4] for at in range(0, len(letters), 4))


def _unknown() -> Unauthenticated:
    return Unauthenticated(
        "CHALLENGE_UNKNOWN", "this device has not begun this, or it is over: sign in again"
    )
