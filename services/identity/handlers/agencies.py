"""Agencies: creating and changing them, reading them with their successors."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from typing import Final

from identity.domain.agencies import Agency, Level, agency_details, check_no_cycle
from identity.domain.identifiers import FieldCheck
from identity.handlers.ports import Asked, Listed, Ports
from kit.auth import ANYONE, Caller, allow, official
from kit.clock import VIETNAM
from kit.errors import Conflict, Forbidden, InvalidInput

MOST_AT_ONCE: Final = 100
_DEEPEST: Final = 8  # parents above an agency, and successors after one


@allow(official("admin"))
async def put_agency(
    ports: Ports,
    caller: Caller,
    *,
    code: str,
    name: str,
    name_en: str,
    level: Level | None,
    parent: str,
    valid_from: str,
    valid_to: str,
    successor: str,
    address: str,
    phone: str,
    reception: bool,
    etag: str,
    request: Asked | None,
) -> Agency:
    """Creates an agency or replaces what is known of it, by an admin of it or of an agency above it.

    Raises InvalidInput, Forbidden (NOT_YOUR_AGENCY), Conflict (STALE), FailedPrecondition (AGENCY_CYCLE).
    """
    details = agency_details(
        code,
        name=name,
        name_en=name_en,
        level=level,
        parent=parent,
        valid_from=valid_from,
        valid_to=valid_to,
        successor=successor,
        address=address,
        phone=phone,
        reception=reception,
    )
    others = [other for other in (parent, successor) if other]
    known = {agency.id for agency in await ports.agencies.batch(others)}
    check = FieldCheck()
    for path, other in (("agency.parent", parent), ("agency.successor", successor)):
        if other and other not in known:
            check.wrong(path, "AGENCY_UNKNOWN", f"there is no agency {other}")
    check.done()
    existing = await ports.agencies.find(code)
    if existing is not None:
        await check_administers(ports, caller, code)
    if existing is None or existing.details.parent != parent:
        await check_administers(ports, caller, parent)
    check_no_cycle(code, await _above(ports, parent))
    after = await ports.agencies.batch([successor])
    check_no_cycle(code, after + await _after(ports, after))
    if existing is None:
        try:
            return await ports.agencies.add(Agency.new(code, details))
        except Conflict:
            pass  # somebody, or our own earlier try, made it just now
    return await ports.agencies.change(
        code, lambda it: it.change(details), request=request, etag=etag or None
    )


@allow(ANYONE)
async def batch_get_agencies(ports: Ports, _caller: Caller, *, codes: Sequence[str]) -> list[Agency]:
    """The agencies that exist, then all that took over from any of them and were not asked for.

    So an old code leads to the agency of today without another call.
    """
    if len(codes) > MOST_AT_ONCE:
        raise InvalidInput("TOO_MANY", f"at most {MOST_AT_ONCE} at once", most=MOST_AT_ONCE)
    asked = await ports.agencies.batch(codes)
    return asked + await _after(ports, asked)


@allow(ANYONE)
async def list_agencies(
    ports: Ports, _caller: Caller, *, level: Level | None, on_date: str, size: int, token: str
) -> Listed[Agency]:
    """The agencies of a level, or of all, that exist on an ISO date, today when it is empty; newest first."""
    check = FieldCheck()
    day: date = check.day("on_date", on_date) or ports.clock().astimezone(VIETNAM).date()
    if size < 0:
        check.wrong("page_size", "NEGATIVE", "0 or more")
    check.done()
    wanted: dict[str, object] = {"valid_from": {"$lte": str(day)}, "valid_until": {"$gte": str(day)}}
    if level is not None:
        wanted["level"] = level.value
    return await ports.agencies.page(wanted, size=min(size or 50, MOST_AT_ONCE), token=token)


async def check_administers(ports: Ports, caller: Caller, agency: str) -> None:
    """Raises Forbidden unless the caller is an admin of the agency or of one above it."""
    if caller.has("admin", agency):
        return
    if any(caller.has("admin", above.id) for above in await _above(ports, agency)):
        return
    raise Forbidden("NOT_YOUR_AGENCY", "not an admin of this agency or of one above it", agency=agency)


async def check_administers_all(ports: Ports, caller: Caller, agencies: Collection[str]) -> None:
    """Raises Forbidden unless the caller administers every one of them.

    Who has none, as a citizen, is the business of admins of an agency with none above it.
    """
    for agency in sorted(agencies):
        await check_administers(ports, caller, agency)
    if not agencies:
        own = await ports.agencies.batch([role.agency for role in caller.roles if role.name == "admin"])
        if all(agency.details.parent for agency in own):
            raise Forbidden("NOT_YOUR_AGENCY", "not an admin of an agency with none above it")


async def _above(ports: Ports, agency: str) -> list[Agency]:
    """The agency itself and those above it, nearest first."""
    found: list[Agency] = []
    while agency and len(found) < _DEEPEST:
        above = await ports.agencies.find(agency)
        if above is None or above in found:
            break
        found.append(above)
        agency = above.details.parent
    return found


async def _after(ports: Ports, agencies: Sequence[Agency]) -> list[Agency]:
    """The agencies that took over from these, and from those in turn; none of these themselves."""
    seen = {agency.id for agency in agencies}
    found: list[Agency] = []
    for _ in range(_DEEPEST):
        wanted = [agency.details.successor for agency in agencies if agency.details.successor not in seen]
        agencies = await ports.agencies.batch([code for code in wanted if code])
        if not agencies:
            break
        seen |= {agency.id for agency in agencies}
        found += agencies
    return found
