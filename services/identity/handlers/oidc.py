"""Signing in with an identity provider, which may prove who somebody is."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from identity.domain.accounts import Account, Kind, Registration, Status
from identity.domain.identifiers import Identifier, Malformed, citizen_number_of
from identity.domain.names import person_name_of
from identity.domain.proof import PROVIDER, Proof, same_name
from identity.handlers.ports import IdentityProvider, PendingSignIn, Ports, Stated
from identity.handlers.proving import make_way, settle_proof
from identity.handlers.sessions import SignedIn, account_named, open_session
from kit.auth import ANYONE, Caller, allow
from kit.clock import VIETNAM
from kit.errors import Conflict, FailedPrecondition, Forbidden, Unauthenticated
from kit.ids import uuid7

LASTS: Final = timedelta(minutes=10)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Begun:
    """Where the browser goes, and the secret that it keeps and brings back: not in any address."""

    url: str
    binding: str
    expires: datetime


@allow(ANYONE)
async def begin_oidc_sign_in(ports: Ports, caller: Caller, *, take_over: bool, client_address: str) -> Begun:
    """Begins to sign in with the provider; a signed-in citizen begins to link their account with it.

    `take_over` says that accounts which somebody registered with the caller's number are not theirs. Raises
    FailedPrecondition (OIDC_NOT_OFFERED), RateLimited, Unavailable (OIDC_UNAVAILABLE).
    """
    provider = _provider(ports)
    if client_address:
        await ports.attempts.count("oidc", client_address)
    state, binding = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    url = await provider.url(
        state=state, nonce=_made(binding, state, "nonce"), verifier=_made(binding, state, "verifier")
    )
    expires = ports.clock() + LASTS
    account = caller.subject if caller.kind == "citizen" else ""
    pending = PendingSignIn(_digest(binding), account, take_over, expires)
    await ports.sign_ins.keep(_digest(state), pending)
    return Begun(url, binding, expires)


@allow(ANYONE)
async def complete_oidc_sign_in(
    ports: Ports,
    caller: Caller,
    *,
    code: str,
    state: str,
    issuer: str,
    binding: str,
    user_agent: str,
) -> SignedIn:
    """Opens a session for whoever the provider states.

    Each state serves once, and only the browser that began it. An account is known by the provider's name
    for somebody; e-mail addresses link nothing. Where the provider has proven who it is, the account that is
    proven to have the number is theirs, else a new one. Raises Unauthenticated (OIDC_STATE_UNKNOWN,
    OIDC_REFUSED), Forbidden (OIDC_NOT_PROVEN, ACCOUNT_LOCKED), Conflict (ACCOUNT_UNPROVEN: somebody
    registered with the number; IDENTITY_DISPUTED; NUMBER_DIFFERS; OIDC_LINKED), Unavailable.
    """
    provider = _provider(ports)
    pending = await ports.sign_ins.take(_digest(state))
    if (
        pending is None
        or ports.clock() >= pending.expires
        or not hmac.compare_digest(pending.binding, _digest(binding))
        or pending.account != (caller.subject if caller.kind == "citizen" else "")
    ):
        raise Unauthenticated("OIDC_STATE_UNKNOWN", "this browser has not begun this sign-in")
    stated = await provider.redeem(
        code=code,
        issuer=issuer,
        nonce=_made(binding, state, "nonce"),
        verifier=_made(binding, state, "verifier"),
    )
    account = await _account_of(ports, caller, stated, pending)
    if account.status is not Status.ACTIVE:
        raise Forbidden("ACCOUNT_LOCKED", "the account is locked")
    opened = await open_session(ports, account, user_agent=user_agent, methods=("oidc",))
    if not isinstance(opened, SignedIn):  # only officials have second factors, and no provider signs them in
        raise Forbidden("SECOND_FACTOR_REQUIRED", "this account signs in with its second factor")
    return opened


async def _account_of(ports: Ports, caller: Caller, stated: Stated, pending: PendingSignIn) -> Account:
    link = Identifier("oidc", f"{stated.issuer}|{stated.subject}")
    linked = await account_named(ports, link)
    if pending.account:
        if linked is not None and linked.id != pending.account:
            raise Conflict("OIDC_LINKED", "another account is linked with this one of the provider")
        return await _link(ports, await ports.accounts.get(pending.account), link, stated)
    if linked is not None:
        return await _link(ports, linked, link, stated)
    if not stated.proven:
        raise Forbidden("OIDC_NOT_PROVEN", "the provider has not proven who this is")
    number, name = _who(ports, stated)
    holder = await account_named(ports, number)
    if holder is not None and holder.verified:
        if not same_name(holder.name, name):
            raise Conflict("IDENTITY_DISPUTED", "the account with this number has another name")
        return await _link(ports, holder, link, stated)
    who = Registration(Kind.PERSON, name, citizen_number=number.value)
    await make_way(ports, who, holder, agency="", take_over=pending.take_over)
    return await _new(ports, who, link, stated)


async def _link(ports: Ports, account: Account, link: Identifier, stated: Stated) -> Account:
    """The account with the link, proven where the provider says so and nobody did before."""
    if stated.proven:
        number, name = _who(ports, stated)
        if account.number != number:
            raise Conflict("NUMBER_DIFFERS", "the provider states another number than the account has")
        await ports.names.take([link], account.id)
        account = await ports.accounts.change(account.id, lambda it: it.link(link.value))
        if not account.verified:
            proof = Proof(PROVIDER, ports.clock(), stated.issuer)
            account = await settle_proof(ports, account, proof, name, "")
        return account
    if link not in account.identifiers:
        raise Forbidden("OIDC_NOT_PROVEN", "the provider has not proven who this is")
    return account


async def _new(ports: Ports, who: Registration, link: Identifier, stated: Stated) -> Account:
    account_id = await ports.names.propose(link, uuid7())
    await ports.names.take([link], account_id)
    now = ports.clock()
    account = await ports.accounts.create(
        lambda new: Account.signed_up(
            new,
            who,
            password_hash="",
            representative="",
            mark=uuid7(),
            now=now,
            link=link.value,
        ),
        id=account_id,
    )
    log.info("account %s came from the identity provider", account.id)
    if account.verified:
        return account
    return await settle_proof(ports, account, Proof(PROVIDER, now, stated.issuer), who.name, "")


def _who(ports: Ports, stated: Stated) -> tuple[Identifier, str]:
    year = ports.clock().astimezone(VIETNAM).year
    try:
        number = citizen_number_of(stated.number, year=year)
        return Identifier("citizen_number", number), person_name_of(stated.name)
    except Malformed:
        raise Forbidden("OIDC_NOT_PROVEN", "the provider states no citizen number and name") from None


def _provider(ports: Ports) -> IdentityProvider:
    if ports.provider is None:
        raise FailedPrecondition("OIDC_NOT_OFFERED", "there is no identity provider here")
    return ports.provider


def _made(binding: str, state: str, what: str) -> str:
    """A secret of this sign-in that only the browser that began it can make again: none is stored."""
    digest = hmac.new(binding.encode(), f"{what}|{state}".encode(), hashlib.sha256).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
