"""Accounts: registering, opening at the counter and claiming, officials, roles, locks, profiles, reading."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Final

from identity.domain.accounts import (
    NUMBERS,
    Account,
    Kind,
    RoleGrant,
    Status,
    contact,
    official_details,
    registration,
    role_grants,
)
from identity.domain.identifiers import Identifier, identifiers_in
from identity.handlers.agencies import check_administers, check_administers_all
from identity.handlers.later import after_answer
from identity.handlers.ports import Asked, Ports
from identity.handlers.proving import typed_code
from identity.handlers.recovery import CONTACTS, open_verifications
from identity.handlers.sessions import account_named, accounts_named, check_guesses, check_owner, end_sessions
from kit.auth import ANYONE, CITIZEN, OFFICIAL, Caller, allow, official, service
from kit.errors import (
    AlreadyExists,
    DomainError,
    FailedPrecondition,
    FieldViolation,
    Forbidden,
    InvalidInput,
    NotFound,
)
from kit.ids import derived, uuid7

MOST_AT_ONCE: Final = 100

log = logging.getLogger(__name__)


@allow(ANYONE)
async def sign_up(
    ports: Ports,
    caller: Caller,
    *,
    kind: Kind | None,
    name: str,
    citizen_number: str,
    tax_code: str,
    phone: str,
    email: str,
    password: str,
    locale: str,
    activation_code: str,
    client_address: str,
    request: Asked | None,
) -> Account:
    """Registers a person or an organisation, or claims the account that was opened at the counter.

    Nobody has proven that the number is theirs: the account is unverified, others may claim the same
    number, and it is of no account whether one is known. An organisation registered by a signed-in and
    verified citizen has that citizen as its representative.

    Nor does it tell whether a phone or e-mail is known: it serves for nothing before it is verified, for
    which something is sent there; the account that has verified it before is told, once a day. Raises
    InvalidInput, FailedPrecondition (what claiming raises), RateLimited.
    """
    if client_address:
        await ports.attempts.count("sign-up", client_address)
    now = ports.clock()
    who = registration(
        kind=kind,
        name=name,
        citizen_number=citizen_number,
        tax_code=tax_code,
        phone=phone,
        email=email,
        locale=locale,
        now=now,
        contact_required=not activation_code.strip(),
        password=password,
    )
    await check_guesses(ports, password, who.identifiers, who.name)
    if activation_code.strip():
        return await _claim(
            ports, who.identifiers, code=activation_code, password=password, locale=locale, request=request
        )
    mark = request.fingerprint if request else uuid7()
    account_id = derived("sign-up", mark)
    existing = await ports.accounts.find(account_id)
    if existing is not None:
        return existing
    password_hash = await ports.passwords.hash(password)
    contacts = [name for name in who.identifiers if name.type not in NUMBERS]
    after_answer(_tell_holders(ports, contacts))
    purposes = await open_verifications(ports, account_id, {name.type: name.value for name in contacts})
    represented = who.kind is Kind.ORGANISATION and caller.kind == "citizen" and caller.verified

    def make(new: str) -> Account:
        account = Account.signed_up(
            new,
            who,
            password_hash=password_hash,
            representative=caller.subject if represented else "",
            mark=mark,
            now=now,
        )
        for purpose in purposes:
            account.request_secret(purpose, now)
        return account

    return await ports.accounts.create(make, id=account_id)


async def _tell_holders(ports: Ports, used: Sequence[Identifier]) -> None:
    """Tells those whose phone or e-mail somebody signed up with."""
    for name in used:
        holder = await account_named(ports, name)
        if holder is None:
            continue
        try:
            await ports.attempts.count("contact-used", holder.id)
            now = ports.clock()
            await ports.accounts.change(holder.id, lambda it, now=now: it.note_use(now))  # type: ignore[misc]
        except DomainError as error:
            log.info("account %s is not told of a use of its contact: %s", holder.id, error)


async def _claim(
    ports: Ports,
    names: tuple[Identifier, ...],
    *,
    code: str,
    password: str,
    locale: str,
    request: Asked | None,
) -> Account:
    """Raises FailedPrecondition (ACTIVATION_CODE_WRONG), the same and in the same time when no account waits
    for a code, when it is used up or too old, and when it is wrong: nobody learns who came to a counter."""
    account = await account_named(ports, names[0])
    if account is not None and request is not None and account.claimed_by == request.fingerprint:
        return account
    now, waiting = ports.clock(), None
    if account is not None:
        with contextlib.suppress(FailedPrecondition):
            waiting = (await ports.accounts.change(account.id, lambda it: it.try_code(now))).activation
    right = await ports.passwords.verify(waiting.code_hash if waiting else "", typed_code(code))
    if account is None or waiting is None or not right:
        raise FailedPrecondition("ACTIVATION_CODE_WRONG", "the code is wrong, used up or too old")
    password_hash = await ports.passwords.hash(password)
    given = {name.type: name.value for name in names}
    contacts = {type: given.get(type) or getattr(account, type) for type in CONTACTS}
    purposes = await open_verifications(ports, account.id, {type: it for type, it in contacts.items() if it})

    def claim(it: Account) -> None:
        it.claim(
            password_hash=password_hash,
            phone=given.get("phone", ""),
            email=given.get("email", ""),
            locale=locale.strip().lower(),
            mark=request.fingerprint if request else "",
        )
        for purpose in purposes:
            it.request_secret(purpose, now)

    return await ports.accounts.change(account.id, claim)


@allow(official("admin"))
async def create_official(
    ports: Ports,
    caller: Caller,
    *,
    name: str,
    username: str,
    email: str,
    phone: str,
    password: str,
    roles: Sequence[tuple[str, str, str, str]],
    request: Asked | None,
) -> Account:
    """Makes an official's account with roles, each (agency, name, first day, last day).

    Raises InvalidInput, Forbidden (NOT_YOUR_AGENCY), AlreadyExists (ACCOUNT_EXISTS).
    """
    name, username, phone, email = official_details(
        name=name, username=username, phone=phone, email=email, password=password
    )
    await check_guesses(ports, password, [Identifier("username", username)], name)
    grants = role_grants(roles)
    await _check_roles(ports, caller, grants)
    mark = request.fingerprint if request else uuid7()
    account_id = await ports.names.propose(Identifier("username", username), uuid7())
    existing = await ports.accounts.find(account_id)
    if existing is not None:
        return _made_by(existing, mark)
    password_hash = await ports.passwords.hash(password)
    now = ports.clock()
    stored = await ports.accounts.create(
        lambda new: Account.of_official(
            new,
            name=name,
            username=username,
            email=email,
            phone=phone,
            roles=grants,
            password_hash=password_hash,
            mark=mark,
            now=now,
        ),
        id=account_id,
    )
    return _made_by(stored, mark)


@allow(official("admin"))
async def set_roles(
    ports: Ports,
    caller: Caller,
    *,
    account_id: str,
    roles: Sequence[tuple[str, str, str, str]],
    etag: str,
    request: Asked | None,
) -> Account:
    """Replaces an official's roles; sessions get them with their next refresh, minutes later at most.

    The admin must administer the agency of every role that is given or taken away.
    """
    grants = role_grants(roles)
    account = await ports.accounts.get(account_id)
    await _check_roles(ports, caller, set(grants) ^ set(account.roles))
    before = account.roles

    def change(it: Account) -> None:
        if it.roles != before:
            raise FailedPrecondition("ROLES_CHANGED", "somebody else changed the roles just now")
        it.set_roles(grants)

    return await ports.accounts.change(account_id, change, request=request, etag=etag or None)


@allow(official("admin"))
async def set_account_status(
    ports: Ports,
    caller: Caller,
    *,
    account_id: str,
    status: Status | None,
    etag: str,
    request: Asked | None,
) -> Account:
    """Locks an account and ends its sessions, or unlocks it, by an admin of every agency where it has a role.

    Access tokens already given out are refused from then on. Raises InvalidInput, NotFound, Forbidden
    (NOT_YOUR_AGENCY, OWN_ACCOUNT: so nobody locks the last admin out), FailedPrecondition
    (ACTIVATION_REQUIRED, ROLES_CHANGED), Conflict (STALE).
    """
    if status not in (Status.ACTIVE, Status.LOCKED):
        wrong = FieldViolation("status", "STATUS_NOT_SETTABLE", "active or locked")
        raise InvalidInput(violations=[wrong])
    account = await ports.accounts.get(account_id)
    await check_administers_all(ports, caller, {role.agency for role in account.roles})
    if account.id == caller.subject:
        raise Forbidden("OWN_ACCOUNT", "nobody locks their own account")
    before, now = account.roles, ports.clock()

    def change(it: Account) -> None:
        if it.roles != before:
            raise FailedPrecondition("ROLES_CHANGED", "somebody else changed the roles just now")
        if status is Status.LOCKED:
            it.lock(now)
        else:
            it.unlock()

    account = await ports.accounts.change(account_id, change, request=request, etag=etag or None)
    log.info("account %s is %s, by %s", account_id, account.status.value, caller.subject)
    await end_sessions(ports, account, "LOCKED")
    return account


async def _check_roles(ports: Ports, caller: Caller, touched: Sequence[RoleGrant] | set[RoleGrant]) -> None:
    agencies = sorted({role.agency for role in touched})
    known = {agency.id for agency in await ports.agencies.batch(agencies)}
    if missing := [agency for agency in agencies if agency not in known]:
        wrong = [
            FieldViolation("roles", "AGENCY_UNKNOWN", f"there is no agency {agency}") for agency in missing
        ]
        raise InvalidInput(violations=wrong)
    for agency in agencies:
        await check_administers(ports, caller, agency)


@allow(CITIZEN, OFFICIAL)
async def update_profile(
    ports: Ports,
    caller: Caller,
    *,
    email: str,
    phone: str,
    locale: str,
    etag: str,
    request: Asked | None,
    current_password: str = "",
) -> Account:
    """Changes the caller's own contact data and language; an empty field stays as it is.

    Another e-mail or phone needs the password, and the old ones are told: a session that somebody left open,
    or stole, is not enough to keep the owner out. Raises InvalidInput (also CURRENT_PASSWORD_REQUIRED and
    CURRENT_PASSWORD_WRONG), FailedPrecondition (FRESH_SIGN_IN_REQUIRED), RateLimited, Conflict (STALE).

    The new one names nobody before it is verified, for which something is sent there; the old one no more.
    """
    phone, email, locale = contact(phone=phone, email=email, locale=locale)
    before, now = await ports.accounts.get(caller.subject), ports.clock()
    if before.changes_contact(phone=phone, email=email):
        await check_owner(ports, caller, before, current_password)
        await ports.attempts.count("change-contact", before.id)
    given = {"phone": phone, "email": email}
    changed = {type: it for type, it in given.items() if it not in ("", getattr(before, type))}
    purposes = await open_verifications(ports, before.id, changed)

    def change(it: Account) -> None:
        it.update_profile(phone=phone, email=email, locale=locale, now=now)
        for purpose in purposes:
            it.request_secret(purpose, now)

    after = await ports.accounts.change(caller.subject, change, request=request, etag=etag or None)
    dropped = [name for name in before.identifiers if name not in after.identifiers]
    await ports.names.release(dropped, caller.subject)
    return after


def seen_by(caller: Caller, account: Account) -> Account:
    """The account as the caller may see it. What identifies a person or an organisation reaches officials
    only through the dossier service, which knows who needs to know it and records that they looked."""
    if caller.kind == "official" and account.id != caller.subject:
        return account.for_office(admin=caller.has("admin"))
    return account


@allow(CITIZEN, OFFICIAL, service())
async def get_account(ports: Ports, caller: Caller, *, account_id: str) -> Account:
    """One account, the caller's own without an id. Raises NotFound also for what the caller may not see."""
    found = await batch_get_accounts(ports, caller, ids=[account_id or caller.subject])
    if not found:
        raise NotFound("ACCOUNT_NOT_FOUND", "no such account", id=account_id)
    return found[0]


@allow(CITIZEN, OFFICIAL, service())
async def batch_get_accounts(ports: Ports, caller: Caller, *, ids: Sequence[str]) -> list[Account]:
    """The accounts that exist and that the caller may see.

    Services see all, officials what `seen_by` leaves. A citizen sees their own; of officials, and of those
    with whom a delegation is in force, the name and nothing that reaches or identifies them; of nobody else
    anything.
    """
    if len(ids) > MOST_AT_ONCE:
        raise InvalidInput("TOO_MANY", f"at most {MOST_AT_ONCE} at once", most=MOST_AT_ONCE)
    found = await ports.accounts.batch([wanted for wanted in ids if wanted])
    if caller.kind != "citizen":
        return [seen_by(caller, account) for account in found]
    strangers = [account for account in found if account.id != caller.subject and not account.official]
    linked = await _linked_to(ports, caller.subject) if strangers else frozenset()
    return [
        account if account.id == caller.subject else account.for_others()
        for account in found
        if account.id == caller.subject or account.official or account.id in linked
    ]


async def _linked_to(ports: Ports, account: str) -> frozenset[str]:
    now = ports.clock()
    linked: set[str] = set()
    for side in ("principal", "delegate"):
        page = await ports.delegations.page({side: account}, size=200)
        linked |= {
            party
            for delegation in page.items
            if delegation.in_force(now)
            for party in (delegation.principal, delegation.delegate)
        }
    return frozenset(linked)


@allow(service())
async def find_account(ports: Ports, _caller: Caller, *, identifier: str) -> Account:
    """The account with this citizen number, tax code, phone, e-mail or username; one that only claims the
    number, the newest first, when none is proven to have it. Raises NotFound."""
    for meant in identifiers_in(identifier):
        for account in await accounts_named(ports, meant):
            return account
    raise NotFound("ACCOUNT_NOT_FOUND", "no account has this identifier")


def _made_by(account: Account, mark: str) -> Account:
    if account.mark == mark:
        return account
    raise AlreadyExists("ACCOUNT_EXISTS", "there is an account of this name")
