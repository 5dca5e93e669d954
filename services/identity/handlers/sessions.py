"""Signing in and out, carrying a session on, changing the password, and the tokens of services."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from identity.domain.accounts import NUMBERS, Account, Kind, Status, check_new_password
from identity.domain.identifiers import Identifier, identifiers_in
from identity.domain.passwords import guessed_first, guessed_texts
from identity.domain.second_factor import Way, must_have
from identity.domain.sessions import Session, session_in
from identity.handlers.ports import Asked, Challenge, Ended, Ports
from kit.auth import ANYONE, CITIZEN, OFFICIAL, REMEMBERED, Caller, Role, allow
from kit.clock import VIETNAM
from kit.errors import (
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    Forbidden,
    InvalidInput,
    NotFound,
    RateLimited,
    Unauthenticated,
)
from kit.ids import derived, uuid7
from kit.text import fold

FRESH: Final = timedelta(minutes=10)  # how long a sign-in stands for the password
CHALLENGE_LASTS: Final = timedelta(minutes=10)  # an app may have to be installed
_DEVICE_LETTERS: Final = 43  # of a token: 32 random bytes
MOST_CLAIMANTS: Final = 3  # accounts that sign in by a number that nobody proved to be theirs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SignedIn:
    """What a client holds after signing in or refreshing."""

    account: Account
    session: str
    access_token: str
    access_expires: datetime
    refresh_token: str
    refresh_expires: datetime
    device_token: str = ""


@dataclass(frozen=True)
class Challenged:
    """The password was right, and a second factor is asked for; with `enrol` one is to be added first."""

    account: Account
    challenge: str
    expires: datetime
    ways: tuple[Way, ...]
    enrol: bool
    device_token: str


@allow(ANYONE)
async def sign_in(
    ports: Ports,
    _caller: Caller,
    *,
    identifier: str,
    password: str,
    client_address: str,
    user_agent: str,
    device_token: str = "",
) -> SignedIn | Challenged:
    """Opens a session, or asks for a second factor where the account has one or must have one. An unknown
    identifier and a wrong password get the same answer in the same time.

    A try counts for the account, whatever names it, before the password is looked at, so that parallel
    guesses count too; it is taken back when it was right. After a few each waits longer than the one before,
    but for a device that signed in to the account before: it has tries of its own, so that nobody can keep
    the owner out. Raises Unauthenticated (INVALID_CREDENTIALS), RateLimited (TOO_MANY_ATTEMPTS), Forbidden
    (ACCOUNT_LOCKED).
    """
    meant = identifiers_in(identifier)
    device = device_hash(device_token)
    named = [account for one in meant for account in await accounts_named(ports, one)]
    # Whoever claims the same number later pushes nobody out who signs in on a device of theirs.
    own = await ports.accounts.batch(await ports.devices.accounts(device))
    held = {account.id for account in named}
    named += [it for it in own if it.id not in held and not set(meant).isdisjoint(it.identifiers)]
    known = {account.id for account in named if await ports.devices.known(account.id, device)}
    if client_address and not known:
        await ports.attempts.count("sign-in-address", client_address)
    tried = {account.id: f"{account.id}|{device}" if account.id in known else account.id for account in named}
    if not named:
        tried[""] = meant[0].key if meant else derived("unreadable", fold(identifier))
    open_to = await _slowed(ports, tried)
    candidates = [account for account in named if account.id in open_to]
    account = await _opened_by(ports, meant, candidates, password)
    if account is None:
        raise Unauthenticated("INVALID_CREDENTIALS", "no account has this identifier and this password")
    if client_address and not known:
        await ports.attempts.forgive("sign-in-address", client_address)
    for id in open_to:
        await ports.attempts.relax("sign-in", tried[id])
    if account.status is Status.LOCKED:
        raise Forbidden("ACCOUNT_LOCKED", "the account is locked")
    if ports.passwords.outdated(account.password_hash):
        verified, fresh = account.password_hash, await ports.passwords.hash(password)
        await ports.accounts.change(
            account.id, lambda it: it.renew_hash(verified=verified, password_hash=fresh)
        )
    kept = device_token if account.id in known else secrets.token_urlsafe(32)
    return await open_session(ports, account, user_agent=user_agent, methods=("password",), device_token=kept)


async def open_session(
    ports: Ports, account: Account, *, user_agent: str, methods: Sequence[str], device_token: str = ""
) -> SignedIn | Challenged:
    """A new session of an account whose owner has just shown who they are, by these methods, on a device that
    is remembered by its token, if it has one. Every way to sign in ends here.

    It is a challenge instead where a second factor is missing. Raises Unauthenticated when the account was
    locked, or got another password, in this very moment.
    """
    if must_show_second(ports, account) and not any(way in methods for way in Way):
        return await _challenge(ports, account, methods=methods, device_token=device_token)
    session, refresh_token = Session.begun(
        uuid7(),
        account.id,
        key=secrets.token_urlsafe(32),
        seed=secrets.token_urlsafe(32),
        limits=ports.limits[account.kind],
        user_agent=user_agent,
        now=ports.clock(),
        epoch=account.epoch,
        methods=tuple(methods),
    )
    await ports.sessions.add(session)
    if device_token:
        await ports.devices.remember(account.id, device_hash(device_token))
        if session.second:
            await ports.devices.remember(with_second(account.id), device_hash(device_token))
    account = await ports.accounts.get(account.id)
    if not account.admits(session.id, session.epoch):  # locked, or another password, in this very moment
        await end_sessions(
            ports, account, "LOCKED" if account.status is Status.LOCKED else "PASSWORD_CHANGED"
        )
        raise Unauthenticated("INVALID_CREDENTIALS", "no account has this identifier and this password")
    return replace(_signed_in(ports, account, session, refresh_token), device_token=device_token)


def must_have_second(ports: Ports, account: Account) -> bool:
    """Whether the rules say that this account has a second factor."""
    now = ports.clock()
    held = account.roles_on(now.astimezone(VIETNAM).date())
    return account.official and must_have(ports.must_have, [(it.agency, it.name) for it in held], now)


def must_show_second(ports: Ports, account: Account) -> bool:
    """Whether its owner signs in with a second factor: because there is one, or must be."""
    return account.second.there or must_have_second(ports, account)


async def _challenge(
    ports: Ports, account: Account, *, methods: Sequence[str], device_token: str
) -> Challenged:
    id, expires = secrets.token_urlsafe(32), ports.clock() + CHALLENGE_LASTS
    enrol = not account.second.there
    waiting = Challenge(
        account=account.id,
        epoch=account.epoch,
        expires=expires,
        device=device_hash(device_token),
        methods=tuple(methods),
        enrol=enrol,
    )
    await ports.challenges.keep(challenge_hash(id), waiting)
    ways = offered(ports) if enrol else account.second.ways
    return Challenged(account, id, expires, ways, enrol, device_token)


def offered(ports: Ports) -> tuple[Way, ...]:
    """The second factors that can be added here."""
    return (Way.TOTP,) if ports.sealer is not None else ()


def with_second(account: str) -> str:
    """Under which the devices are known on which the account's second factor was shown: one on which only
    the password was set anew is not among them."""
    return f"{account}|second"


def challenge_hash(id: str) -> str:
    """What is stored of the id of a challenge."""
    return hashlib.sha256(id.encode()).hexdigest()


@allow(ANYONE)
async def refresh_session(ports: Ports, _caller: Caller, *, refresh_token: str) -> SignedIn:
    """Rotates the refresh token and reads the account's roles afresh.

    Raises Unauthenticated: REFRESH_TOKEN_INVALID, or SESSION_ENDED with the cause, which may be this call.
    """
    session = await _session_of(ports, refresh_token)
    account = await ports.accounts.get(session.account)
    if account.status is not Status.ACTIVE:
        raise Unauthenticated("SESSION_ENDED", "the account is locked", cause="LOCKED")
    if session.live and not account.admits(session.id, session.epoch):  # its end was not written any more
        await end_sessions(ports, account, "PASSWORD_CHANGED")
        raise Unauthenticated("SESSION_ENDED", "the password was changed", cause="PASSWORD_CHANGED")
    now = ports.clock()
    if session.live and not session.second and must_show_second(ports, account):
        await ports.sessions.change(session.id, lambda it: it.revoke("SECOND_FACTOR_REQUIRED", now))
        raise Unauthenticated(
            "SESSION_ENDED", "a second factor is asked for now", cause="SECOND_FACTOR_REQUIRED"
        )
    next_token: str | None = None

    def rotate(it: Session) -> None:
        nonlocal next_token
        next_token = it.rotate(refresh_token, limits=ports.limits[account.kind], now=now)

    session = await ports.sessions.change(session.id, rotate)
    if next_token is None:
        if session.revoked_reason == "REUSED":
            log.warning("a spent refresh token came back; session %s ended", session.id)
        raise Unauthenticated("SESSION_ENDED", "this session has ended", cause=session.revoked_reason)
    return _signed_in(ports, account, session, next_token)


@allow(ANYONE)
async def sign_out(ports: Ports, caller: Caller, *, refresh_token: str, everywhere: bool) -> None:
    """Ends the session of the refresh token, else the caller's own; or all of that account. Their access
    tokens are refused from then on."""
    if refresh_token:
        session = await _session_of(ports, refresh_token)
        account, ending = session.account, session.id
    elif caller.session:
        account, ending = caller.subject, caller.session
    else:
        raise Unauthenticated("SIGN_IN_REQUIRED", "neither a refresh token nor a signed-in caller")
    now = ports.clock()

    def end(it: Session) -> None:
        if it.account == account:
            it.revoke("SIGNED_OUT", now)

    if not everywhere:
        with contextlib.suppress(NotFound):  # over so long that it is forgotten
            await ports.sessions.change(ending, end)
        return
    owner = await ports.accounts.change(account, lambda it: it.end_sessions("SIGNED_OUT", now))
    await end_sessions(ports, owner, "SIGNED_OUT")


@allow(CITIZEN, OFFICIAL)
async def change_password(
    ports: Ports, caller: Caller, *, current: str, new: str, request: Asked | None
) -> Account:
    """Replaces the caller's own password and ends all their sessions but the one that asks.

    A try counts before the present password is looked at, as in `sign_in`. Access tokens of the
    ended sessions are refused from then on. Raises InvalidInput (also CURRENT_PASSWORD_WRONG), Forbidden
    (ACCOUNT_LOCKED), Conflict (LOST_RACE), AlreadyExists (REQUEST_ID_REUSED), RateLimited.
    """
    account = await ports.accounts.get(caller.subject)
    check_new_password(account, current=current, new=new)
    await check_guesses(ports, new, account.known_by, account.name, path="new_password")
    await ports.attempts.count("change-password", account.id)
    if request is not None and account.password_mark == request.fingerprint:
        # A repeat, and fingerprints know no passwords; perhaps the first time died before the sessions ended.
        if not await ports.passwords.verify(account.password_hash, new):
            raise AlreadyExists("REQUEST_ID_REUSED", "this request id was used for another password")
    else:
        verified, mark = account.password_hash, request.fingerprint if request else ""
        if not await ports.passwords.verify(verified, current):
            wrong = FieldViolation("current_password", "CURRENT_PASSWORD_WRONG", "not the present password")
            raise InvalidInput(violations=[wrong])
        password_hash = await ports.passwords.hash(new)
        account = await ports.accounts.change(
            account.id,
            lambda it: it.change_password(
                verified=verified,
                password_hash=password_hash,
                session=caller.session,
                mark=mark,
                now=ports.clock(),
            ),
        )
        log.info("account %s has a new password", account.id)
    await ports.attempts.forgive("change-password", account.id)
    await end_sessions(ports, account, "PASSWORD_CHANGED")
    return account


@allow(ANYONE)
async def list_ended_sessions(ports: Ports, _caller: Caller) -> list[Ended]:
    """The sessions, and accounts, whose access tokens may not have expired although they ended."""
    return await ports.ended(ports.clock() - timedelta(seconds=REMEMBERED))


@allow(ANYONE)
async def get_jwks(ports: Ports, _caller: Caller) -> Mapping[str, Any]:
    """The public keys of access tokens, as a JWK set."""
    return ports.tokens.jwks


@allow(ANYONE)
async def issue_service_token(
    ports: Ports, _caller: Caller, *, service: str, secret: str
) -> tuple[str, datetime]:
    """A token for a service that acts for itself. Raises Unauthenticated for a wrong name or secret alike."""
    given = hashlib.sha256(secret.encode()).digest()
    if not any(hmac.compare_digest(given, known) for known in ports.service_secrets.get(service, ())):
        log.warning("a service token was refused")
        raise Unauthenticated("INVALID_CREDENTIALS", "no service has this name and this secret")
    return ports.tokens.issue(Caller(subject=service, kind="service"), ports.clock())


async def check_owner(ports: Ports, caller: Caller, account: Account, current: str) -> None:
    """Makes sure that the account's owner asks, and not somebody with a session of theirs.

    By the password, each try counted before it is looked at; an account without one needs a session that
    began within FRESH. Raises InvalidInput (CURRENT_PASSWORD_REQUIRED, CURRENT_PASSWORD_WRONG),
    FailedPrecondition (FRESH_SIGN_IN_REQUIRED), RateLimited.
    """
    if not account.password_hash:
        session = await ports.sessions.find(caller.session)
        if session is None or ports.clock() >= session.created + FRESH:
            raise FailedPrecondition("FRESH_SIGN_IN_REQUIRED", "sign in again first")
        return
    reason = "CURRENT_PASSWORD_REQUIRED"
    if current:
        await ports.attempts.count("change-password", account.id)
        if await ports.passwords.verify(account.password_hash, current):
            await ports.attempts.forgive("change-password", account.id)
            return
        reason = "CURRENT_PASSWORD_WRONG"
    raise InvalidInput(violations=[FieldViolation("current_password", reason, "the present password")])


async def check_guesses(
    ports: Ports, password: str, identifiers: Sequence[Identifier], name: str, *, path: str = "password"
) -> None:
    """Raises InvalidInput (PASSWORD_COMMON) for a new password that a guesser finds early."""
    if await ports.passwords.guessable(guessed_texts(password), guessed_first(identifiers, name)):
        wrong = FieldViolation(path, "PASSWORD_COMMON", "one of the passwords that are tried first")
        raise InvalidInput(violations=[wrong])


async def end_sessions(ports: Ports, account: Account, reason: str) -> None:
    """Ends and announces the open sessions that the account does not admit any more."""
    now = ports.clock()
    for session in await _open_sessions(ports, account.id):
        if not account.admits(session.id, session.epoch):
            with contextlib.suppress(NotFound):  # over so long that it is forgotten
                await ports.sessions.change(session.id, lambda it: it.revoke(reason, now))


async def _open_sessions(ports: Ports, account: str) -> list[Session]:
    token = ""
    found: list[Session] = []
    while True:
        page = await ports.sessions.page({"account": account, "live": 1}, size=100, token=token)
        found += page.items
        token = page.next_token
        if not token:
            return found


async def account_named(ports: Ports, meant: Identifier) -> Account | None:
    """The account that really has the identifier; a reservation alone, left by a crash, is none."""
    holder = await ports.names.holder(meant)
    account = await ports.accounts.find(holder or "nobody")  # a name that nobody has takes as long
    return account if account is not None and meant in account.identifiers else None


async def accounts_named(ports: Ports, meant: Identifier) -> list[Account]:
    """The accounts that have the identifier: several when nobody proved whose the number is, or when
    somebody claims one that is proven to be another's. The proven one first, then the newest."""
    holder = await account_named(ports, meant)
    found = [holder] if holder is not None else []
    return found + [it for it in await claimants(ports, meant) if holder is None or it.id != holder.id]


async def claimants(ports: Ports, number: Identifier) -> list[Account]:
    """The newest of the accounts that have the number by their own word only; MOST_CLAIMANTS of them, and
    the one it is reserved for by a release that let nobody else claim it."""
    if number.type not in NUMBERS:
        return []
    page = await ports.accounts.page({"claim": number.key}, size=MOST_CLAIMANTS)
    found = list(page.items)
    holder = await account_named(ports, number)
    if holder is not None and not holder.verified and all(it.id != holder.id for it in found):
        found.append(holder)
    return found


async def _slowed(ports: Ports, tried: Mapping[str, str]) -> list[str]:
    """Counts a try under each name; answers those that need not wait. Raises RateLimited for none."""
    open_to, refused = [], None
    for id, who in tried.items():
        try:
            await ports.attempts.slow("sign-in", who)
            open_to.append(id)
        except RateLimited as error:
            refused = error
    if refused is not None and not open_to:
        raise refused
    return open_to


def device_hash(token: str) -> str:
    """What is stored of a device's token; empty for what is none."""
    return hashlib.sha256(token.encode()).hexdigest() if len(token) == _DEVICE_LETTERS else ""


async def _opened_by(
    ports: Ports, meant: tuple[Identifier, ...], named: list[Account], password: str
) -> Account | None:
    """The account of those named that the password opens.

    A wrong password is compared as often for a number that nobody has as for one that many claim, so that
    the time does not tell them apart.
    """
    least = 1 if all(one.type == "username" for one in meant) else MOST_CLAIMANTS
    named = sorted(
        named, key=lambda it: it.verified
    )  # nor how long it takes to get into one's own new account
    tried: list[Account | None] = [*named, *[None] * (least - len(named))]
    for account in tried:
        if await ports.passwords.verify(account.password_hash if account else "", password):
            return account
    return None


async def _session_of(ports: Ports, refresh_token: str) -> Session:
    session = await ports.sessions.find(session_in(refresh_token))
    if session is None:
        raise Unauthenticated("REFRESH_TOKEN_INVALID", "not a refresh token of ours")
    session.check_token(refresh_token)
    return session


def _signed_in(ports: Ports, account: Account, session: Session, refresh_token: str) -> SignedIn:
    now = ports.clock()
    roles = account.roles_on(now.astimezone(VIETNAM).date())
    caller = Caller(
        subject=account.id,
        kind="official" if account.kind is Kind.OFFICIAL else "citizen",
        roles=tuple(Role(role.agency, role.name) for role in roles),
        session=session.id,
        verified=account.verified,
    )
    access_token, access_expires = ports.tokens.issue(caller, now, session.epoch, session.methods)
    return SignedIn(account, session.id, access_token, access_expires, refresh_token, session.expires)
