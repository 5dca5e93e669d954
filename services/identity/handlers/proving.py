"""Proof of who somebody is: opening accounts at the counter, proving those that are there, taking over."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Final

from identity.domain.accounts import Account, Kind, Registration, Status, name_rule, registration
from identity.domain.identifiers import FieldCheck, Identifier
from identity.domain.proof import CODE, Paper, Proof, papers_seen, same_name
from identity.handlers.agencies import check_administers
from identity.handlers.ports import Asked, Ports
from identity.handlers.sessions import account_named, claimants, end_sessions
from kit.auth import CITIZEN, Caller, allow, official
from kit.errors import AlreadyExists, Conflict, FailedPrecondition, Forbidden
from kit.ids import uuid7
from kit.text import identifier

_CODE_LETTERS: Final = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # none that are mistaken for another on paper
_CODE_LENGTH: Final = 10

log = logging.getLogger(__name__)


@allow(official("reception"))
async def open_account(
    ports: Ports,
    caller: Caller,
    *,
    kind: Kind | None,
    name: str,
    citizen_number: str,
    tax_code: str,
    phone: str,
    email: str,
    locale: str,
    agency: str,
    papers: Sequence[tuple[str, str]],
    take_over: bool,
) -> tuple[Account, str]:
    """Opens a proven account for somebody at the counter; answers it with the activation code to hand over.

    The same account everywhere: one proven in the same name is answered as it is, without a code. One that
    nobody has claimed yet gets a new code, so that a lost code, or a lost answer, is asked for in the same
    way. Another account with the number is in the way, whatever its name: somebody may have signed up in
    the name of the person at the counter. The official then either proves that one (`prove_account`) or,
    with `take_over`, takes the number from it and opens a new one; nothing else moves from one to the other.

    Raises InvalidInput, Forbidden (NOT_YOUR_AGENCY, also when a proven account is to lose its number and the
    official is no admin), Conflict (ACCOUNT_UNPROVEN, IDENTITY_DISPUTED). The phone and
    the e-mail are where the person says that they are reached: they name nobody before they are verified.
    """
    _check_desk(caller, agency)
    now = ports.clock()
    check = FieldCheck()
    seen = papers_seen(check, papers)
    who = registration(
        kind=kind,
        name=name,
        citizen_number=citizen_number,
        tax_code=tax_code,
        phone=phone,
        email=email,
        locale=locale,
        now=now,
        contact_required=False,
        password=None,
        check=check,
    )
    number = who.identifiers[0]
    account = await account_named(ports, number)
    if account is not None and account.verified and same_name(account.name, who.name):
        return await _open_again(ports, caller, account)
    await make_way(ports, who, account, agency=agency, take_over=take_over, official=caller)
    return await _open(ports, caller, who, seen, agency)


async def _open(
    ports: Ports, caller: Caller, who: Registration, papers: tuple[Paper, ...], agency: str
) -> tuple[Account, str]:
    number, mark, code = who.identifiers[0], uuid7(), _new_code()
    code_hash = await ports.passwords.hash(code)
    account_id = await ports.names.propose(number, uuid7())
    reserved = await ports.accounts.find(account_id)
    if reserved is not None and number not in reserved.identifiers:  # it lost the number, and then we died
        account_id = uuid7()
    await ports.names.take([number], account_id)
    now = ports.clock()
    stored = await ports.accounts.create(
        lambda new: Account.opened_at_counter(
            new,
            who,
            code_hash=code_hash,
            official=caller.subject,
            agency=agency,
            mark=mark,
            now=now,
            papers=papers,
        ),
        id=account_id,
    )
    if stored.mark == mark:
        return stored, _printed(code)
    if stored.verified and same_name(stored.name, who.name):  # another counter, in this very moment
        return await _open_again(ports, caller, stored)
    raise _in_the_way(who, [stored])


async def _open_again(ports: Ports, caller: Caller, account: Account) -> tuple[Account, str]:
    if account.status is not Status.UNCLAIMED:
        return account, ""
    code = _new_code()
    code_hash, now = await ports.passwords.hash(code), ports.clock()
    renewed = await ports.accounts.change(
        account.id, lambda it: it.renew_activation(code_hash=code_hash, now=now)
    )
    log.info("a new activation code for account %s, by %s", account.id, caller.subject)
    return renewed, _printed(code)


async def make_way(
    ports: Ports,
    who: Registration,
    holder: Account | None,
    *,
    agency: str,
    take_over: bool,
    official: Caller | None = None,
) -> None:
    """Nothing when no account has the number; else Conflict, or with `take_over` it is taken from them."""
    if holder is not None and holder.verified:
        others = [holder]
    else:
        others = await claimants(ports, who.identifiers[0])
    if not others:
        return
    if not take_over:
        raise _in_the_way(who, others)
    if any(other.verified for other in others):
        if official is None:
            raise _in_the_way(who, others)
        await check_administers(ports, official, agency)
    while others:
        for other in others:
            await _detach(ports, other, agency=agency, proven_too=other.verified)
            log.info("account %s lost its number, by %s", other.id, official.subject if official else "proof")
        others = await claimants(ports, who.identifiers[0])


def _in_the_way(who: Registration, others: Sequence[Account]) -> Conflict:
    ids = " ".join(other.id for other in others)
    if all(not other.verified and same_name(other.name, who.name) for other in others):
        return Conflict("ACCOUNT_UNPROVEN", "nobody proved the account with this number", accounts=ids)
    return Conflict("IDENTITY_DISPUTED", "an account with this number has another name", accounts=ids)


async def _detach(ports: Ports, account: Account, *, agency: str, proven_too: bool = False) -> None:
    """Takes its number from an account and ends its sessions; all else stays with it."""
    now = ports.clock()
    changed = await ports.accounts.change(
        account.id, lambda it: it.detach(agency=agency, proven_too=proven_too, now=now)
    )
    lost = [name for name in account.identifiers if name not in changed.identifiers]
    await ports.names.release(lost, account.id)
    await end_sessions(ports, changed, "DETACHED")


@allow(official("reception"))
async def prove_account(
    ports: Ports,
    caller: Caller,
    *,
    account_id: str,
    name: str,
    number: str,
    papers: Sequence[tuple[str, str]],
    agency: str,
) -> tuple[Account, str]:
    """Records the papers seen for an account in use; answers the code that its owner then enters.

    Asking again replaces the code. An account proven in this name already is answered without one. Raises
    InvalidInput (also NUMBER_DIFFERS), NotFound, Forbidden (NOT_YOUR_AGENCY), FailedPrecondition
    (NOT_PROVABLE), Conflict (NUMBER_PROVEN: another account is proven to have the number).
    """
    _check_desk(caller, agency)
    check = FieldCheck()
    seen = papers_seen(check, papers)
    account = await ports.accounts.get(account_id)
    stated = check.read("name", name, name_rule(account.kind), required=True)
    its = account.number
    if its is None or bare(number) != its.value.replace("-", ""):
        check.wrong("number", "NUMBER_DIFFERS", "the papers have another number than the account")
    check.done()
    if its is None:
        raise AssertionError("`done` raised")
    if account.verified and same_name(account.name, stated):
        return account, ""
    await _check_free(ports, its, account)
    code = _new_code()
    code_hash = await ports.passwords.hash(code)
    proof = Proof(CODE, ports.clock(), caller.subject, agency, seen)
    account = await ports.accounts.change(
        account.id, lambda it: it.await_proof(name=stated, proof=proof, code_hash=code_hash)
    )
    return account, _printed(code)


@allow(CITIZEN)
async def confirm_identity(ports: Ports, caller: Caller, *, code: str, request: Asked | None) -> Account:
    """The owner enters the code from the counter: the account is proven, and no other keeps its number.

    Raises FailedPrecondition (NO_PROOF_AWAITED, ACTIVATION_EXPIRED, ACTIVATION_CODE_WRONG), Conflict
    (NUMBER_PROVEN).
    """
    now = ports.clock()
    account = await ports.accounts.get(caller.subject)
    mark = request.fingerprint if request else ""
    if mark and account.proven_by == mark:
        return account
    account.check_awaits_proof(now)
    counted = await ports.accounts.change(account.id, lambda it: it.try_proof(now))
    waiting = counted.awaited
    if waiting is None or not await ports.passwords.verify(waiting.code.code_hash, typed_code(code)):
        raise FailedPrecondition("ACTIVATION_CODE_WRONG", "the activation code is wrong")
    return await settle_proof(ports, counted, waiting.proof, waiting.name, mark)


async def settle_proof(ports: Ports, account: Account, proof: Proof, name: str, mark: str) -> Account:
    """The account is the one that has its number; others that claimed it lose it. Safe to repeat.

    Raises Conflict (NUMBER_PROVEN).
    """
    number = account.number
    if number is None:
        raise FailedPrecondition("NUMBER_LOST", "the number was proven to be somebody else's")
    await _check_free(ports, number, account)
    while others := [it for it in await claimants(ports, number) if it.id != account.id]:
        for other in others:
            await _detach(ports, other, agency=proof.agency)
    try:
        await ports.names.take([number], account.id)
    except AlreadyExists:
        raise _number_proven() from None
    return await ports.accounts.change(account.id, lambda it: it.prove(proof, name, mark))


async def _check_free(ports: Ports, number: Identifier, account: Account) -> None:
    holder = await account_named(ports, number)
    if holder is not None and holder.id != account.id and holder.verified:
        raise _number_proven()


def _number_proven() -> Conflict:
    return Conflict("NUMBER_PROVEN", "another account is proven to have this number")


def _check_desk(caller: Caller, agency: str) -> None:
    if not caller.has("reception", agency):
        raise Forbidden("NOT_YOUR_AGENCY", "not at the reception of this agency", agency=agency)


def typed_code(text: str) -> str:
    """A code as it was made, from what somebody typed: dashes, spaces and case do not matter."""
    return bare(text[:50]).upper()


def bare(text: str) -> str:
    """The letters and digits of a number or code that somebody typed, read as `identifier` reads them."""
    return "".join(letter for letter in identifier(text) if letter.isalnum())


def _new_code() -> str:
    return "".join(secrets.choice(_CODE_LETTERS) for _ in range(_CODE_LENGTH))


def _printed(code: str) -> str:
    return f"{code[:5]}-{code[5:]}"
