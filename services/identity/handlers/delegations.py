"""Delegations: asking for one, accepting and declining, ending, listing, and whether one is in force."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Final

from identity.domain.accounts import Account, Status
from identity.domain.delegations import QUIET, Delegation, Scope, State, check_terms
from identity.domain.identifiers import FieldCheck, Identifier, identifiers_in, masked
from identity.handlers.ports import Asked, Ports
from identity.handlers.sessions import account_named
from kit.auth import CITIZEN, Caller, allow, service
from kit.errors import (
    AlreadyExists,
    FailedPrecondition,
    Forbidden,
    InvalidInput,
    NotFound,
    RateLimited,
)
from kit.ids import derived, uuid7

_SIDES: Final = ("principal", "delegate")


@allow(CITIZEN)
async def grant_delegation(
    ports: Ports,
    caller: Caller,
    *,
    delegate_identifier: str,
    scopes: Collection[Scope],
    until: datetime | None,
    request: Asked | None,
) -> Delegation:
    """The caller asks another person or organisation to act for them.

    The answer is the same whether or not anybody has the identifier. Raises InvalidInput, Forbidden
    (NOT_VERIFIED), AlreadyExists (DELEGATION_REQUESTED: one open request a pair), RateLimited.
    """
    await ports.attempts.count("delegate", caller.subject)
    now = ports.clock()
    me = await _verified(ports, caller)
    meant = [it for it in identifiers_in(delegate_identifier) if it.type != "username"]
    check = FieldCheck()
    if not meant:
        check.wrong("delegate_identifier", "IDENTIFIER_SHAPE", "a citizen number, tax code, phone or e-mail")
    elif any(it in (*me.identifiers, *me.known_by) for it in meant):
        check.wrong("delegate_identifier", "DELEGATE_IS_SELF", "somebody else than oneself")
    until = check_terms(check, scopes, until, now)
    target = derived("target", *(it.key for it in meant))
    mark = request.fingerprint if request else uuid7()
    page = await ports.delegations.page({"principal": me.id, "target": target}, size=1)
    before = page.items[0] if page.items else None
    if before is not None and before.mark == mark:
        return before
    if before is not None and before.state(now) is State.REQUESTED:
        raise _requested()
    delegate = await _to_be_asked(ports, me, meant, now)
    made = await ports.delegations.create(
        lambda new: Delegation.requested(
            new,
            principal=me.id,
            principal_shown=masked(me.number.value) if me.number else "",
            delegate=delegate,
            target=target,
            target_shown=masked(meant[0].value),
            scopes=scopes,
            until=until,
            mark=mark,
            now=now,
        ),
        # Two requests at once follow the same one before, so they are one.
        id=derived("delegation", me.id, target, before.id if before is not None else ""),
    )
    if made.mark != mark:
        raise _requested()
    return made


async def _to_be_asked(ports: Ports, me: Account, meant: Sequence[Identifier], now: datetime) -> str:
    """The account to ask, or nobody: when none has the identifier, it is not proven to have it, it has an
    open request of the caller's or declined one lately, or it was asked by too many."""
    for identifier in meant:
        account = await account_named(ports, identifier)
        if account is None or account.official or not account.verified or account.status is not Status.ACTIVE:
            continue
        page = await ports.delegations.page({"principal": me.id, "delegate": account.id}, size=100)
        for earlier in page.items:
            state = earlier.state(now)
            if state is State.REQUESTED:
                return ""
            if state is State.DECLINED and earlier.revoked is not None and now < earlier.revoked + QUIET:
                return ""
        try:
            await ports.attempts.count("delegation-received", account.id)
        except RateLimited:
            return ""
        return account.id
    return ""


@allow(CITIZEN)
async def accept_delegation(ports: Ports, caller: Caller, *, delegation_id: str) -> Delegation:
    """The caller, who was asked, agrees: the delegation begins.

    Raises NotFound, Forbidden (NOT_VERIFIED), FailedPrecondition (NOT_REQUESTED).
    """
    await _verified(ports, caller)
    now = ports.clock()
    asked = await _own(ports, caller, delegation_id)
    principal = await ports.accounts.find(asked.principal)
    if principal is None or not principal.verified:  # lost the number since
        raise FailedPrecondition("NOT_REQUESTED", "the request is over")
    return await _decide(ports, delegation_id, lambda it: it.accept(caller.subject, now))


@allow(CITIZEN)
async def decline_delegation(ports: Ports, caller: Caller, *, delegation_id: str) -> Delegation:
    """The caller, who was asked, says no. Raises NotFound, FailedPrecondition (NOT_REQUESTED)."""
    now = ports.clock()
    return await _decide(ports, delegation_id, lambda it: it.decline(caller.subject, now))


@allow(CITIZEN)
async def revoke_delegation(ports: Ports, caller: Caller, *, delegation_id: str) -> Delegation:
    """Ends a delegation that the caller gave or received, or takes a request back. Others learn nothing of
    it: NotFound."""
    now = ports.clock()
    return await _decide(ports, delegation_id, lambda it: it.revoke(caller.subject, now))


@allow(CITIZEN)
async def list_delegations(
    ports: Ports, caller: Caller, *, size: int, token: str
) -> tuple[list[Delegation], str]:
    """A page of the delegations that the caller gave, then of those they received, each newest first.

    Answers them with the token of the next page, empty at the end.
    """
    if size < 0:
        raise InvalidInput("INVALID_PAGE_SIZE", "0 or more")
    size = min(size or 20, 100)
    side, _, inner = (token or "principal:").partition(":")
    if side not in _SIDES:
        raise InvalidInput("INVALID_PAGE_TOKEN", "no page of this list gave this token")
    page = await ports.delegations.page({side: caller.subject}, size=size, token=inner)
    found = list(page.items)
    if page.next_token:
        return found, f"{side}:{page.next_token}"
    if side == "delegate":
        return found, ""
    if len(found) == size:
        return found, "delegate:"
    rest = await ports.delegations.page({"delegate": caller.subject}, size=size - len(found))
    return found + list(rest.items), f"delegate:{rest.next_token}" if rest.next_token else ""


@allow(service())
async def check_delegation(
    ports: Ports, _caller: Caller, *, principal: str, delegate: str, scope: Scope | None
) -> str | None:
    """The id of a delegation by which the delegate may do this for the principal now, or None. It must be
    proven who both are."""
    if scope is None:
        raise InvalidInput("SCOPE_REQUIRED", "one of file, read, vault, pay")
    now = ports.clock()
    token = ""
    while True:
        page = await ports.delegations.page(
            {"principal": principal, "delegate": delegate, "revoked": 0}, size=100, token=token
        )
        allowing = next((it.id for it in page.items if it.allows(scope, now)), None)
        token = page.next_token
        if allowing is not None or not token:
            break
    if allowing is None:
        return None
    sides = await ports.accounts.batch([principal, delegate])
    return allowing if len(sides) == 2 and all(side.verified for side in sides) else None


async def _verified(ports: Ports, caller: Caller) -> Account:
    """The caller's account. Raises Forbidden (NOT_VERIFIED) unless it is proven who that is."""
    account = await ports.accounts.get(caller.subject)
    if not account.verified:
        raise Forbidden("NOT_VERIFIED", "nobody proved who the caller is")
    return account


async def _own(ports: Ports, caller: Caller, delegation_id: str) -> Delegation:
    found = await ports.delegations.find(delegation_id)
    if found is None or caller.subject not in (found.principal, found.delegate):
        raise _not_found(delegation_id)
    return found


async def _decide(ports: Ports, delegation_id: str, change: Callable[[Delegation], None]) -> Delegation:
    try:
        return await ports.delegations.change(delegation_id, change)
    except (Forbidden, NotFound):
        raise _not_found(delegation_id) from None


def _not_found(delegation_id: str) -> NotFound:
    return NotFound("DELEGATION_NOT_FOUND", "no such delegation", id=delegation_id)


def _requested() -> AlreadyExists:
    return AlreadyExists("DELEGATION_REQUESTED", "there is an open request for this one already")
