"""What the owner of a mailbox or a phone may do by a secret sent there: set a new password, verify it."""

from __future__ import annotations

import hashlib
import logging
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from identity.domain.accounts import Account, check_reset_password
from identity.domain.identifiers import Identifier, identifiers_in
from identity.domain.one_time import (
    CODE_LASTS,
    CODE_TRIES,
    LINK_LASTS,
    REQUEST_LASTS,
    VERIFIES,
    OneTime,
    Purpose,
    code_key,
    request_key,
)
from identity.handlers.later import after_answer
from identity.handlers.ports import Ports
from identity.handlers.sessions import accounts_named, check_guesses, device_hash, end_sessions
from kit.auth import ANYONE, CITIZEN, OFFICIAL, Caller, allow, service
from kit.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    FieldViolation,
    InvalidInput,
    NotFound,
    RateLimited,
)

_CODE_DIGITS: Final = 6
_LONGEST_SECRET: Final = 100  # letters; ours have 43
CONTACTS: Final = ("email", "phone")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Issued:
    """A secret to be sent: where to, and until when it serves."""

    address: str
    secret: str
    expires: datetime


@allow(ANYONE)
async def request_password_reset(
    ports: Ports, _caller: Caller, *, identifier: str, client_address: str
) -> None:
    """Has a link sent with which the owner of the account sets a new password.

    It goes to the verified e-mail, else to the verified phone, of each account that the identifier names;
    nobody learns here whether there is one. Too many for one identifier are not told either, and those sent
    already go on to serve. Raises RateLimited for too many from one address.
    """
    if client_address:
        await ports.attempts.count("reset-address", client_address)
    meant = identifiers_in(identifier)
    after_answer(_send_resets(ports, meant))


async def _send_resets(ports: Ports, meant: tuple[Identifier, ...]) -> None:
    named = {account.id: account for one in meant for account in await accounts_named(ports, one)}
    for account in named.values():
        for contact in CONTACTS:
            if address := account.recovery_address(contact):
                try:
                    await ports.attempts.count("reset-account", account.id)
                except RateLimited:
                    break  # the links that were sent lately go on to serve
                await ask(ports, account.id, Purpose.RECOVER, address)
                await _announce(ports, account.id, Purpose.RECOVER)


async def ask(ports: Ports, account: str, purpose: Purpose, address: str) -> None:
    """Opens a request for a secret, which whoever sends it has to hand in (`issue_one_time_secret`)."""
    asked = OneTime(account, purpose, address, ports.clock() + REQUEST_LASTS)
    await ports.one_times.keep(request_key(account, purpose), asked)


async def _announce(ports: Ports, account: str, purpose: Purpose) -> Account:
    now = ports.clock()
    return await ports.accounts.change(account, lambda it: it.request_secret(purpose, now))


@allow(service("notify"))
async def issue_one_time_secret(
    ports: Ports, _caller: Caller, *, account_id: str, purpose: Purpose | None, contact: str
) -> Issued:
    """A new secret for an open request of the account, to be sent to its `email` or `phone`.

    A repeat makes another one: a link that may have been sent before goes on to serve, a code does not.
    Raises NotFound (NOTHING_ASKED) when nothing is to be sent there: nobody asked within REQUEST_LASTS, the
    account has another address by now, or the purpose is one of a newer release.
    """
    asked = await ports.one_times.find(request_key(account_id, purpose)) if purpose else None
    account = await ports.accounts.find(account_id) if asked else None
    if asked is None or account is None or asked.address != _address(account, asked.purpose, contact):
        raise NotFound("NOTHING_ASKED", "no secret is to be sent there")
    now = ports.clock()
    if asked.purpose is Purpose.VERIFY_PHONE:
        code = f"{secrets.randbelow(10**_CODE_DIGITS):0{_CODE_DIGITS}}"
        kept = OneTime(
            account.id,
            asked.purpose,
            asked.address,
            now + CODE_LASTS,
            await ports.passwords.hash(code),
            CODE_TRIES,
        )
        await ports.one_times.keep(code_key(account.id, asked.purpose), kept)
        return Issued(asked.address, code, kept.expires)
    token = secrets.token_urlsafe(32)
    kept = OneTime(account.id, asked.purpose, asked.address, now + LINK_LASTS)
    await ports.one_times.keep(_link_key(token), kept)
    return Issued(asked.address, token, kept.expires)


def _address(account: Account, purpose: Purpose, contact: str) -> str:
    if contact not in CONTACTS:
        return ""
    if purpose is Purpose.RECOVER:
        return account.recovery_address(contact)
    return str(getattr(account, contact)) if VERIFIES[purpose] == contact else ""


@allow(ANYONE)
async def reset_password(
    ports: Ports, _caller: Caller, *, token: str, new_password: str, client_address: str
) -> tuple[Account, str]:
    """Sets a new password with a link that was sent to the owner; answers the account and a device token.

    All sessions are over, all other links too, and no device is known any more but this one: it signs in at
    once, however many wrong tries others have made. It is no sign-in itself, so that it stands for nothing
    but the password. Raises InvalidInput (as changing a password), FailedPrecondition (RESET_LINK_INVALID),
    Forbidden (ACCOUNT_LOCKED), RateLimited.
    """
    if client_address:
        await ports.attempts.count("reset-try", client_address)
    key = _link_key(token)
    link = await ports.one_times.find(key)
    account = await ports.accounts.find(link.account) if link else None
    if link is None or account is None or not _still_leads_to(link, account):
        raise _link_invalid()
    check_reset_password(account, new_password)
    await check_guesses(ports, new_password, account.known_by, account.name, path="new_password")
    password_hash = await ports.passwords.hash(new_password)
    if await ports.one_times.take(key) is None:  # another one was faster
        raise _link_invalid()
    now = ports.clock()
    account = await ports.accounts.change(
        account.id, lambda it: it.reset_password(password_hash=password_hash, now=now)
    )
    log.info("account %s has a new password, by a link", account.id)
    await ports.one_times.forget(account.id, Purpose.RECOVER)
    await ports.devices.forget(account.id)
    device_token = secrets.token_urlsafe(32)
    await ports.devices.remember(account.id, device_hash(device_token))
    await ports.attempts.relax("sign-in", account.id)
    await end_sessions(ports, account, "PASSWORD_RESET")
    return account, device_token


def _still_leads_to(link: OneTime, account: Account) -> bool:
    addresses = [account.recovery_address(contact) for contact in CONTACTS]
    return link.purpose is Purpose.RECOVER and link.address in addresses


def _link_invalid() -> FailedPrecondition:
    return FailedPrecondition("RESET_LINK_INVALID", "the link was used, is too old or is none")


@allow(CITIZEN, OFFICIAL)
async def request_contact_verification(ports: Ports, caller: Caller, *, contact: str) -> Account:
    """Has a link sent to the caller's e-mail, or a code to their phone, that verifies it.

    Answers the account; nothing is sent when the contact is verified. Raises InvalidInput (REQUIRED),
    FailedPrecondition (CONTACT_MISSING), RateLimited.
    """
    _purpose_of(contact)
    account = await ports.accounts.get(caller.subject)
    address = str(getattr(account, contact))
    if not address:
        raise FailedPrecondition("CONTACT_MISSING", "the account has none")
    if address == getattr(account, f"verified_{contact}"):
        return account
    await ports.attempts.count("verify-contact", account.id)
    for purpose in await open_verifications(ports, account.id, {contact: address}):
        account = await _announce(ports, account.id, purpose)
    return account


async def open_verifications(ports: Ports, account: str, contacts: dict[str, str]) -> list[Purpose]:
    """Opens a request for each contact (`email` or `phone` to its address) that may be written to; answers
    their purposes, which the account then announces (`Account.request_secret`).

    To one address not too many are sent, whoever asks; nobody is told, for it is about somebody else.
    """
    purposes = []
    for contact, address in contacts.items():
        try:
            await ports.attempts.count("verify-address", Identifier(contact, address).key)
        except RateLimited:
            log.info("account %s: its %s is written to too often", account, contact)
            continue
        purposes.append(_purpose_of(contact))
        await ask(ports, account, purposes[-1], address)
    return purposes


@allow(CITIZEN, OFFICIAL)
async def verify_contact(ports: Ports, caller: Caller, *, contact: str, secret: str) -> Account:
    """The owner brings what was sent to their e-mail (the link's token) or phone (the code).

    From then on it names the account, unless the account is an official's. It must be the caller's own
    account that asked, so that nobody verifies for a stranger by opening a mail. A contact that is verified
    is answered as it is. Raises InvalidInput (REQUIRED), FailedPrecondition (CONTACT_CODE_WRONG), Conflict
    (CONTACT_TAKEN: another account has verified it), RateLimited.
    """
    purpose = _purpose_of(contact)
    account = await ports.accounts.get(caller.subject)
    if getattr(account, f"{contact}_verified"):
        return account
    key = code_key(account.id, purpose) if contact == "phone" else _link_key(secret)
    kept = await ports.one_times.find(key)
    if contact == "phone":
        kept = await _right_code(ports, key, kept, secret)
    if (
        kept is None
        or (kept.account, kept.purpose, kept.address) != (account.id, purpose, getattr(account, contact))
        or await ports.one_times.take(key) is None
    ):
        raise FailedPrecondition("CONTACT_CODE_WRONG", "it is wrong, was used or is too old")
    address = kept.address
    if not account.official:
        try:
            await ports.names.take([Identifier(contact, address)], account.id)
        except AlreadyExists:
            raise Conflict("CONTACT_TAKEN", "another account has verified it", contact=contact) from None
    account = await ports.accounts.change(account.id, lambda it: it.verify_contact(contact, address))
    await ports.one_times.forget(account.id, purpose)
    return account


async def _right_code(ports: Ports, key: str, kept: OneTime | None, code: str) -> OneTime | None:
    """The code's record if the code is right: a try is used up before it is compared."""
    if kept is None or kept.tries <= 0 or not await ports.one_times.swap(key, kept, kept.tried()):
        return None
    digits = "".join(letter for letter in code[:_LONGEST_SECRET] if letter.isdecimal())
    return kept if await ports.passwords.verify(kept.hash, digits) else None


def _purpose_of(contact: str) -> Purpose:
    purpose = next((one for one, verified in VERIFIES.items() if verified == contact), None)
    if purpose is None:
        raise InvalidInput(violations=[FieldViolation("contact", "REQUIRED", "the e-mail or the phone")])
    return purpose


def _link_key(token: str) -> str:
    return hashlib.sha256(token[:_LONGEST_SECRET].encode()).hexdigest()
