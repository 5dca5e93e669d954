"""Delegations: granting, ending, listing, and asking whether one is in force."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final

from identity.domain.accounts import Status
from identity.domain.delegations import Delegation, Scope
from identity.domain.identifiers import identifiers_in
from identity.handlers.ports import Asked, Ports
from identity.handlers.sessions import account_named
from kit.auth import CITIZEN, Caller, allow, service
from kit.errors import Forbidden, InvalidInput, NotFound

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
    """The caller lets another person or organisation act for them.

    Raises InvalidInput, NotFound (DELEGATE_NOT_FOUND), RateLimited: it tells whether an identifier is known.
    """
    await ports.attempts.count("delegate", caller.subject)
    named = [await account_named(ports, meant) for meant in identifiers_in(delegate_identifier)]
    delegates = [it for it in named if it is not None and not it.official and it.status is Status.ACTIVE]
    if not delegates:
        raise NotFound("DELEGATE_NOT_FOUND", "no person or organisation has this identifier")
    now = ports.clock()
    return await ports.delegations.create(
        lambda new: Delegation.granted(
            new, principal=caller.subject, delegate=delegates[0].id, scopes=scopes, until=until, now=now
        ),
        request,
    )


@allow(CITIZEN)
async def revoke_delegation(ports: Ports, caller: Caller, *, delegation_id: str) -> Delegation:
    """Ends a delegation that the caller gave or received. Others learn nothing of it: NotFound."""
    now = ports.clock()
    try:
        return await ports.delegations.change(delegation_id, lambda it: it.revoke(caller.subject, now))
    except (Forbidden, NotFound):
        raise NotFound("DELEGATION_NOT_FOUND", "no such delegation", id=delegation_id) from None


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
    """The id of a delegation by which the delegate may do this for the principal now, or None."""
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
            return allowing
