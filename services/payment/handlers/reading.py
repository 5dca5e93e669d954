"""Who sees which charges and receipts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kit.auth import CITIZEN, OFFICIAL, Caller, allow, service
from kit.errors import FieldViolation, Forbidden, InvalidInput, NotFound
from payment.domain.charge import Charge
from payment.domain.lifecycle import ChargeState
from payment.domain.receipts import Receipt
from payment.handlers import Ports

SEES = ("cashier", "reception", "examiner", "leader", "clerk", "admin")
READERS = (CITIZEN, OFFICIAL, service("dossier", "notify", "gateway"))


def _may_see(caller: Caller, charge: Charge) -> bool:
    if caller.kind == "service":
        return True
    if caller.kind == "official":
        return any(role.name in SEES and role.agency in charge.agencies for role in caller.roles)
    return caller.subject == charge.payer


@allow(*READERS)
async def get_charge(ports: Ports, caller: Caller, *, id: str) -> Charge:
    """The charge, for its payer, officials of its agencies and services; NotFound for all others."""
    charge = await ports.charges.find(id)
    if charge is None or not _may_see(caller, charge):
        raise NotFound("CHARGE_NOT_FOUND", "no such charge", charge=id)
    return charge


@allow(*READERS)
async def batch_get_charges(ports: Ports, caller: Caller, *, ids: Sequence[str]) -> list[Charge]:
    """Those of the charges that exist and that the caller may see. At most 100 ids."""
    return [c for c in await ports.charges.batch(_at_most_100(ids)) if _may_see(caller, c)]


@allow(*READERS)
async def list_charges(
    ports: Ports,
    caller: Caller,
    *,
    payer: str,
    states: Sequence[ChargeState],
    size: int,
    token: str,
    under_review: bool = False,
) -> tuple[list[Charge], str]:
    """A payer's charges, newest first, and where the next page begins. Officials: of their agencies.

    `under_review`: those with a payment that a person has to look at; of any payer for cashiers.
    """
    which: dict[str, Any]
    if under_review and not payer and caller.kind == "official":
        agencies = sorted({role.agency for role in caller.roles if role.name == "cashier"})
        if not agencies:
            raise Forbidden("NOT_YOUR_CHARGES", "cashiers look at payments under review")
        which = {"agency": {"$in": agencies}}
    else:
        which = _of_payer(caller, payer)
    if under_review:
        which["review"] = 1
    if states:
        which["status"] = {"$in": sorted({s.value for s in states})}
    page = await ports.charges.page(which, size=_size(size), token=token)
    return page.items, page.next_token


@allow(*READERS)
async def batch_get_receipts(ports: Ports, caller: Caller, *, ids: Sequence[str]) -> list[Receipt]:
    """Those of the receipts that exist and that the caller may see. At most 100 ids."""
    return [
        receipt
        for receipt in await ports.receipts.batch(_at_most_100(ids))
        if caller.kind == "service"
        or (caller.kind == "citizen" and caller.subject == receipt.payer)
        or (caller.kind == "official" and any(caller.has(role, receipt.agency) for role in SEES))
    ]


@allow(*READERS)
async def list_receipts(
    ports: Ports, caller: Caller, *, payer: str, size: int, token: str
) -> tuple[list[Receipt], str]:
    """A payer's receipts, newest first, and where the next page begins. Officials: of their agencies."""
    page = await ports.receipts.page(_of_payer(caller, payer), size=_size(size), token=token)
    return page.items, page.next_token


def _of_payer(caller: Caller, payer: str) -> dict[str, Any]:
    if caller.kind == "citizen":
        if payer not in ("", caller.subject):
            raise Forbidden("NOT_YOUR_CHARGES", "these are somebody else's")
        return {"payer": caller.subject}
    if not payer:
        raise InvalidInput(violations=[FieldViolation("payer_id", "REQUIRED", "say whose")])
    if caller.kind == "official":
        agencies = sorted({role.agency for role in caller.roles if role.name in SEES})
        return {"payer": payer, "agency": {"$in": agencies}}
    return {"payer": payer}


def _at_most_100(ids: Sequence[str]) -> Sequence[str]:
    if len(ids) > 100:
        raise InvalidInput(violations=[FieldViolation("ids", "TOO_MANY", "at most 100")])
    return ids


def _size(size: int) -> int:
    if size < 0:
        raise InvalidInput(violations=[FieldViolation("page_size", "NEGATIVE", "0 to 100")])
    return min(size or 20, 100)
