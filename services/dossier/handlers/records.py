"""The need to know: rights that follow from where a dossier is, looks for a purpose, and their record."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial

from dossier.domain.document import Access, Act
from dossier.domain.dossier import Dossier
from dossier.domain.records import rules_on
from dossier.domain.sight import Sight, holders, sight_id, subjects
from dossier.domain.states import State
from dossier.handlers import WORKING_ROLES, Account, Ports, words
from dossier.handlers.sight import open_dossier, sights
from kit.auth import Caller, allow, official
from kit.clock import to_text
from kit.errors import FieldViolation, Forbidden, InvalidInput, NotFound
from kit.ids import derived

_BACKFILLED = "backfilled"  # the id that says that every dossier has its rights


async def keep_sights(ports: Ports, dossier: Dossier) -> None:
    """Writes who needs to know the dossier as it is now.

    Runs after each act and again from the dossier's own event. Until then a right that a crash kept from
    being written is missing, which denies; one that should have got its end gets it late, which does no harm
    as that end is days ahead.
    """
    if dossier.state is State.DRAFT:
        return
    until = holders(dossier)
    known: dict[str, Sight] = {}
    token = ""
    while True:
        page = await ports.sights.page({"dossier": dossier.id}, size=200, token=token)
        known |= {sight.id: sight for sight in page.items}
        if not (token := page.next_token):
            break
    for holder, end in until.items():
        for subject in subjects(dossier):
            id = sight_id(holder, subject, dossier.id)
            if id not in known:
                await ports.sights.create(partial(_right, holder, subject, dossier, end), id=id)
    for sight in known.values():  # also to what is no longer attached
        if sight.holder in until and sight.until != until[sight.holder]:
            end, as_of = until[sight.holder], dossier.revision
            await ports.sights.change(sight.id, partial(_follow, until=end, as_of=as_of))


def _follow(sight: Sight, until: datetime | None, as_of: int) -> None:
    sight.follow(until, as_of)


def _right(holder: str, subject: str, dossier: Dossier, until: datetime | None, id: str) -> Sight:
    return Sight(
        id=id,
        holder=holder,
        subject=subject,
        dossier=dossier.id,
        purpose=dossier.procedure_name,
        until=until,
        as_of=dossier.revision,
    )


async def backfill(ports: Ports) -> int:
    """Writes the rights of dossiers that were stored before rights were; once, and answers of how many."""
    if await ports.sights.find(_BACKFILLED) is not None:
        return 0
    done, at = 0, ports.clock()
    filed: Mapping[str, object] = {"status": {"$in": [s.value for s in State if s is not State.DRAFT]}}
    async for dossier in ports.dossiers.scan(filed):
        if any(until is None or until >= at for until in holders(dossier).values()):
            await keep_sights(ports, dossier)
            done += 1
    await ports.sights.create(lambda id: Sight(id, "", "", until=at), id=_BACKFILLED)
    return done


@allow(official(*WORKING_ROLES))
async def open_account_record(
    ports: Ports,
    caller: Caller,
    *,
    account: str,
    identifier: str,
    dossier: str,
    purpose: str,
    agency: str,
) -> tuple[Account, datetime | None]:
    """What identifies a person or an organisation, and until when the caller may see it; the look is recorded
    before it is answered, once an hour for the same official, account, dossier and purpose.

    Where the caller's agency needs to know, no purpose has to be said. Else it does, and the caller sees the
    account, and a dossier that their agency once had with its papers, for as long as the rule says. Without
    such a dossier only a reception may say a purpose. Raises InvalidInput, Forbidden NOT_YOUR_DESK or
    NOT_IN_DOSSIER, NotFound, RateLimited.
    """
    purpose = words("purpose", purpose, limit=500)
    if not (account or identifier or dossier) or (identifier and (account or dossier)):
        raise InvalidInput(violations=[FieldViolation("account_id", "REQUIRED", "say whose")])
    seen = await open_dossier(ports, caller, dossier) if dossier else None
    if seen is not None:
        account = account or seen.dossier.applicant
        if account not in subjects(seen.dossier):
            raise Forbidden("NOT_IN_DOSSIER", "the account is not named in this dossier")
    right = (await sights(ports, caller, [account])).get(account)
    if right is None and seen is not None and seen.whole:
        # The dossier itself says that the agency holds it: its right is still to be written.
        right = Sight("", seen.actor.agency, account, seen.dossier.id, seen.dossier.procedure_name)
    at = ports.clock()
    if right is not None:
        by = seen.actor.agency if seen else right.holder
        if by == caller.subject and right.dossier:  # a purpose said before
            by = (await open_dossier(ports, caller, right.dossier)).actor.agency
        elif by == caller.subject:
            by = _desk(caller, agency)
        found = await _person(ports, account=account)
        through = dossier or right.dossier
        await _note_look(ports, caller, found, by, purpose or right.purpose, through, at)
        return found, right.until
    if not purpose:
        raise InvalidInput(violations=[FieldViolation("purpose", "PURPOSE_REQUIRED", "say why")])
    by = seen.actor.agency if seen else _desk(caller, agency)
    ports.tracking.check(f"record:{caller.subject}")
    found = await _person(ports, account=account, identifier=words("identifier", identifier, limit=254))
    await _note_look(ports, caller, found, by, purpose, dossier, at)
    until = at + timedelta(minutes=rules_on(at).purpose_minutes)
    for subject in [found.id, *(subjects(seen.dossier) if seen else ())]:
        await _grant(ports, caller.subject, subject, dossier, purpose, until)
    return found, until


def _desk(caller: Caller, agency: str) -> str:
    """The agency at whose reception the caller looks. Raises Forbidden NOT_YOUR_DESK."""
    desks = [role.agency for role in caller.roles if role.name == "reception"]
    if agency in desks:
        return agency
    if agency or len(set(desks)) != 1:
        raise Forbidden("NOT_YOUR_DESK", "say at which reception of yours")
    return desks[0]


async def _person(ports: Ports, *, account: str = "", identifier: str = "") -> Account:
    found = await (
        ports.identity.account_named(identifier) if identifier else ports.identity.account(account)
    )
    if found is None or found.official:
        raise NotFound("ACCOUNT_NOT_FOUND", "no such person or organisation")
    return found


async def _grant(
    ports: Ports, holder: str, subject: str, dossier: str, purpose: str, until: datetime
) -> None:
    id = sight_id(holder, subject, dossier)
    await ports.sights.create(
        lambda known: Sight(known, holder, subject, dossier, purpose, until=until), id=id
    )
    await ports.sights.change(id, lambda sight: sight.extend(until, purpose))


async def _note_look(
    ports: Ports, caller: Caller, found: Account, agency: str, purpose: str, dossier: str, at: datetime
) -> None:
    hour = to_text(at)[:13]
    await ports.accesses.create(
        lambda id: Access(
            id=id,
            document="",
            version=0,
            owner=found.id,
            actor=caller.subject,
            agency=agency,
            act=Act.IDENTITY,
            purpose=purpose,
            dossier=dossier,
            at=at,
        ),
        id=derived("look", caller.subject, found.id, dossier, purpose, hour),
    )
