"""What the use cases of dossiers share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from dossier.domain.document import Access, Act
from dossier.domain.dossier import (
    Dossier,
)
from dossier.domain.records import (
    Actor,
    Attachment,
    Limit,
    Step,
    TimeUnit,
)
from dossier.domain.states import Party, State
from dossier.handlers import Ports
from dossier.handlers.records import keep_sights
from dossier.handlers.sight import View, actor
from kit.auth import Caller
from kit.errors import (
    FailedPrecondition,
    FieldViolation,
    InvalidInput,
)
from kit.ids import derived

Change = Callable[[Dossier, Actor, datetime], None]


async def act(
    ports: Ports, caller: Caller, seen: View, change: Change, *, request: Any = None, etag: str = ""
) -> View:
    """Does it to the dossier as it is now, in the capacities that the caller has towards it then, and answers
    what the caller sees afterwards. A repeated request changes nothing."""
    speaks = Party.APPLICANT in seen.actor.parties
    at = ports.clock()
    changed = await ports.dossiers.change(
        seen.dossier.id,
        lambda d: change(d, actor(caller, d, speaks=speaks), at),
        request=request,
        etag=etag or None,
    )
    await keep_sights(ports, changed)
    return View(changed, actor(caller, changed, speaks=speaks))


async def due_of(ports: Ports, at: datetime, limit: Limit | None) -> datetime | None:
    """When a limit that begins now is over; None without a limit."""
    return None if limit is None else await ports.catalog.due(at, limit)


async def step_due_of(ports: Ports, at: datetime, step: Step | None) -> datetime | None:
    """When a step that begins now should be done; None where that is not fixed."""
    if step is None or step.working_hours <= 0:
        return None
    return await ports.catalog.due(at, Limit(step.working_hours, TimeUnit.HOUR))


async def settle(ports: Ports, dossier: Dossier) -> None:
    """What a stored dossier implies for the vault: a record of each use, and the result with its new owner.

    Runs after the act itself and again from the dossier's own event, so that a crash between loses nothing;
    everything here happens once. An applicant whom nobody proved gets no result: it stays with the agency
    until it is handed over.
    """
    if dossier.state is State.DRAFT:
        return
    await keep_sights(ports, dossier)
    at = dossier.updated
    owners = {d.id: d.owner for d in await ports.documents.batch([a.document for a in dossier.attachments])}
    for attachment in dossier.attachments:
        if attachment.document in owners:
            await _note_use(ports, dossier, attachment, owners[attachment.document], at)
    if not dossier.results or not await applicant_verified(ports, dossier):
        return
    for document in dossier.results:
        await ports.documents.change(
            document,
            lambda d: d.deposit(
                owner=dossier.applicant, by=dossier.signed_by, agency=dossier.deciding_agency, at=at
            ),
            handled=derived("deposit", dossier.id),
        )


async def applicant_verified(ports: Ports, dossier: Dossier) -> bool:
    """Whether it is proven now who the applicant is."""
    account = await ports.identity.account(dossier.applicant)
    return account is not None and account.verified


def not_verified() -> FailedPrecondition:
    """The applicant has to prove who they are first."""
    return FailedPrecondition("APPLICANT_NOT_VERIFIED", "nobody proved who the applicant is")


async def _note_use(ports: Ports, dossier: Dossier, attachment: Attachment, owner: str, at: datetime) -> None:
    await ports.accesses.create(
        lambda id: Access(
            id=id,
            document=attachment.document,
            version=attachment.version,
            owner=owner,
            actor=dossier.filed_by,
            agency=dossier.receiving_agency,
            act=Act.USE,
            purpose=dossier.procedure_name,
            dossier=dossier.id,
            at=at,
        ),
        id=derived("use", dossier.id, attachment.document, str(attachment.version)),
    )


def wrong(field: str, reason: str, description: str) -> InvalidInput:
    """One field that is wrong."""
    return InvalidInput(reason, description, violations=[FieldViolation(field, reason, description)])
