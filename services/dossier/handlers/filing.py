"""The applicant's side: drafting, filing, supplementing, taking back, rating."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dossier.domain.document import Check
from dossier.domain.dossier import (
    Dossier,
    deciding_agency,
    draft,
    merged,
)
from dossier.domain.form import checked_form
from dossier.domain.records import (
    Actor,
    Attachment,
    Channel,
    Limit,
    Procedure,
    TimeUnit,
    rules_on,
)
from dossier.domain.states import Action
from dossier.handlers import Ports, words
from dossier.handlers.common import act, due_of, not_verified, settle, step_due_of, wrong
from dossier.handlers.sight import View, actor, open_dossier, speaks_for
from kit.auth import CITIZEN, Caller, allow, official
from kit.clock import vietnam_day
from kit.errors import (
    FailedPrecondition,
    FieldViolation,
    Forbidden,
    InvalidInput,
)

MOST_ATTACHMENTS = 100


@allow(CITIZEN, official("reception"))
async def create_dossier(
    ports: Ports,
    caller: Caller,
    *,
    procedure_code: str,
    case: str,
    form: dict[str, Any],
    attachments: Sequence[Attachment],
    receiving_agency: str,
    channel: Channel | None,
    applicant: str,
    support_point: str,
    request: Any = None,
) -> View:
    """A draft under the version in force: for oneself, as a delegate, or at the desk for somebody."""
    procedure = await ports.catalog.procedure(procedure_code)
    if not procedure.fileable:
        raise FailedPrecondition("NOT_FILEABLE", "this procedure cannot be filed here", code=procedure.code)
    receiving_agency = await _receiver(ports, procedure, receiving_agency)
    if support_point and not await ports.identity.exists(support_point):
        raise wrong("support_point", "UNKNOWN_AGENCY", "no such agency today")
    assisted = caller.kind == "official"
    applicant = applicant or ("" if assisted else caller.subject)
    await _may_file_for(ports, caller, applicant, (receiving_agency, support_point))
    channel = channel or (Channel.COUNTER if assisted else Channel.ONLINE)
    if channel is Channel.COUNTER and not assisted:
        raise wrong("channel", "NOT_YOUR_CHANNEL", "at the counter an official files")
    if procedure.channels and channel not in procedure.channels:
        raise wrong("channel", "NOT_OFFERED", "this procedure is not filed that way")
    form = await _draft_form(ports, procedure, form)
    _known_case(procedure, case)
    attached = await _attachments(ports, caller, applicant, attachments)
    at = ports.clock()
    made = await ports.dossiers.create(
        lambda id: draft(
            id,
            procedure,
            at,
            applicant=applicant,
            filed_by=caller.subject,
            assisted=assisted,
            channel=channel,
            case=case,
            form=form,
            attachments=attached,
            receiving_agency=receiving_agency,
            support_point=support_point,
        ),
        request,
    )
    return View(made, actor(caller, made, speaks=not assisted))


@allow(CITIZEN, official("reception"))
async def update_dossier(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    case: str,
    form: dict[str, Any],
    attachments: Sequence[Attachment],
    receiving_agency: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Replaces what the draft says."""
    seen = await open_dossier(ports, caller, id)
    dossier = seen.dossier
    procedure = await ports.catalog.procedure(dossier.procedure, dossier.version)
    agency = await _receiver(ports, procedure, receiving_agency or dossier.receiving_agency)
    form = await _draft_form(ports, procedure, form)
    _known_case(procedure, case)
    attached = await _attachments(ports, caller, dossier.applicant, attachments, dossier.attachments)

    def update(d: Dossier, who: Actor, at: datetime) -> None:
        d.update(
            who,
            at,
            case=case,
            form=form,
            attachments=attached,
            receiving_agency=agency,
            deciding_agency=deciding_agency(procedure, agency),
        )

    return await act(ports, caller, seen, update, request=request, etag=etag)


@allow(CITIZEN, official("reception"))
async def submit_dossier(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    request: Any = None,
    etag: str = "",
) -> View:
    """Files the draft when its form fits the schema and all that the case requires is attached."""
    seen = await open_dossier(ports, caller, id)
    reception_due = None
    if Action.SUBMIT in seen.dossier.allowed(seen.actor, ports.clock()):
        await _complete(ports, caller, seen.dossier, seen.dossier.form, seen.dossier.attachments)
        reception_due = await _reception_due(ports, ports.clock())
        etag = etag or str(seen.dossier.revision)  # what was checked is what is filed

    def submit(d: Dossier, who: Actor, at: datetime) -> None:
        d.submit(who, at, reception_due=reception_due)

    done = await act(ports, caller, seen, submit, request=request, etag=etag)
    await settle(ports, done.dossier)
    return done


@allow(CITIZEN, official("reception"))
async def supplement_dossier(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    form: dict[str, Any] | None,
    attachments: Sequence[Attachment],
    note: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Answers the supplement request; the whole limit begins again."""
    seen = await open_dossier(ports, caller, id)
    dossier = seen.dossier
    note = words("note", note)
    new_form, attached, due, step_due = dossier.form, dossier.attachments, dossier.due, dossier.step_due
    if Action.SUPPLEMENT in dossier.allowed(seen.actor, ports.clock()):
        if form is not None:
            procedure = await ports.catalog.procedure(dossier.procedure, dossier.version)
            new_form = await _draft_form(ports, procedure, form)
        added = await _attachments(ports, caller, dossier.applicant, attachments, dossier.attachments)
        attached = merged(dossier.attachments, added)
        if len(attached) > MOST_ATTACHMENTS:
            raise wrong("attachments", "TOO_MANY", f"at most {MOST_ATTACHMENTS}")
        await _complete(ports, caller, dossier, new_form, attached)
        due = await due_of(ports, ports.clock(), dossier.limit)
        step_due = await step_due_of(ports, ports.clock(), dossier.step)
        etag = etag or str(dossier.revision)

    def supplement(d: Dossier, who: Actor, at: datetime) -> None:
        d.answer_supplement(
            who, at, form=new_form, attachments=attached, due=due, step_due=step_due, note=note
        )

    done = await act(ports, caller, seen, supplement, request=request, etag=etag)
    await settle(ports, done.dossier)
    return done


@allow(CITIZEN, official("reception"))
async def withdraw_dossier(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    reason: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Takes it back at once while nobody received it, else asks the agency for it."""
    seen = await open_dossier(ports, caller, id)
    reason = words("reason", reason)
    return await act(
        ports, caller, seen, lambda d, who, at: d.withdraw(who, at, reason=reason), request=request, etag=etag
    )


@allow(CITIZEN)
async def rate_dossier(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    rating: int,
    comment: str,
    request: Any = None,
) -> View:
    """How satisfied the applicant is, once there is a result."""
    seen = await open_dossier(ports, caller, id)
    comment = words("comment", comment)
    return await act(
        ports,
        caller,
        seen,
        lambda d, who, at: d.rate(who, at, rating=rating, comment=comment),
        request=request,
    )


async def _reception_due(ports: Ports, at: datetime) -> datetime | None:
    """By when what is filed now is to be received or refused. None for days that the calendar does not know
    yet: nobody is kept from filing by that."""
    try:
        return await ports.catalog.due(at, Limit(rules_on(at).reception_hours, TimeUnit.HOUR))
    except FailedPrecondition:
        return None


async def _may_file_for(ports: Ports, caller: Caller, applicant: str, desks: Sequence[str]) -> None:
    if caller.kind == "official":
        if not any(caller.has("reception", desk) for desk in desks if desk):
            raise Forbidden("NOT_YOUR_DESK", "file at a desk of your own agency")
        account = await ports.identity.account(applicant) if applicant else None
        if account is None or account.official:
            raise wrong("applicant_id", "UNKNOWN_APPLICANT", "say for whom: a person or an organisation")
        if not account.verified:  # else whoever registered in somebody's name reads what the desk files
            raise not_verified()
    elif not await speaks_for(ports, caller, applicant, "FILE"):
        raise Forbidden("NOT_DELEGATED", "you do not act for this account")


async def _receiver(ports: Ports, procedure: Procedure, agency: str) -> str:
    fixed = procedure.steps[0].agency if procedure.steps and not agency else ""
    agency = agency or fixed
    if not agency:
        raise wrong("receiving_agency", "REQUIRED", "say which agency shall receive it")
    if not await ports.identity.receives(agency):
        raise wrong("receiving_agency", "UNKNOWN_AGENCY", "no agency with a reception has this code today")
    return agency


def _known_case(procedure: Procedure, case: str) -> None:
    if case and procedure.components(case) is None:
        raise wrong("case_id", "UNKNOWN_CASE", "the procedure has no such case")


async def _attachments(
    ports: Ports,
    caller: Caller,
    applicant: str,
    wanted: Sequence[Attachment],
    attached: Sequence[Attachment] = (),
) -> list[Attachment]:
    """The attachments with their version pinned. Raises Forbidden NOT_YOUR_DOCUMENT for a document that
    neither the applicant nor the caller may use, the same for one that is not there. A desk may use what it
    scanned itself for the applicant. What is `attached` already had its rights checked when it was: a desk
    may leave it, and whoever files what is the applicant's own."""
    if len(wanted) > MOST_ATTACHMENTS:
        raise wrong("attachments", "TOO_MANY", f"at most {MOST_ATTACHMENTS}")
    documents = {d.id: d for d in await ports.documents.batch([a.document for a in wanted])}
    usable: dict[str, bool] = {}
    left = {a.document for a in attached}
    pinned = []
    for attachment in wanted:
        document = documents.get(attachment.document)
        if document is not None and document.owner not in usable:
            usable[document.owner] = await _may_use(ports, caller, applicant, document.owner)
        if document is None or not (
            usable[document.owner]
            or (document.id in left and (caller.kind == "official" or document.owner == applicant))
            or (document.owner == applicant and document.desk and caller.has("reception", document.desk))
        ):
            raise Forbidden(
                "NOT_YOUR_DOCUMENT", "no document of yours has this id", document=attachment.document
            )
        version = document.version(attachment.version)
        if version is None:
            raise wrong("attachments", "UNKNOWN_VERSION", "the document has no such version")
        kept = Attachment(attachment.component, document.id, version.number)
        if kept not in pinned:
            pinned.append(kept)
    return pinned


async def _may_use(ports: Ports, caller: Caller, applicant: str, owner: str) -> bool:
    """A citizen's own documents, or those of an account that let the citizen or the applicant use them."""
    if caller.kind != "citizen":
        return False
    if await speaks_for(ports, caller, owner, "VAULT"):
        return True
    # Lent to the applicant, for whom the caller files: the lender's word covers whoever speaks for them.
    return owner != applicant and await ports.identity.may_act(owner, applicant, "VAULT")


async def _draft_form(ports: Ports, procedure: Procedure, form: dict[str, Any]) -> dict[str, Any]:
    """The form as it is kept in a draft, which may miss a lot but holds nothing that nobody asked for. Raises
    InvalidInput for a form beyond all limits, FORM_KEYS_UNKNOWN for keys that the schema does not know."""
    checked = checked_form(form)
    strange = await ports.forms.unknown(procedure.key, procedure.schema, checked)
    if strange:
        raise InvalidInput(
            "FORM_KEYS_UNKNOWN",
            "the form of this procedure has no such fields",
            violations=[FieldViolation(f"/form{v.field}", v.reason, v.description) for v in strange],
        )
    return checked


async def _complete(
    ports: Ports, caller: Caller, dossier: Dossier, form: dict[str, Any], attached: Sequence[Attachment]
) -> None:
    """Raises InvalidInput with all that is wrong, by JSON Pointer into the request."""
    procedure = await ports.catalog.procedure(dossier.procedure, dossier.version)
    wrong = [
        FieldViolation(f"/form{violation.field}", violation.reason, violation.description)
        for violation in await ports.forms.violations(procedure.key, procedure.schema, form)
    ]
    components = procedure.components(dossier.case)
    if components is None:
        wrong.append(FieldViolation("/caseId", "CASE_REQUIRED", "say which case it is"))
        components = {}
    today = vietnam_day(ports.clock()).isoformat()
    documents = {d.id: d for d in await ports.documents.batch([a.document for a in attached])}
    for attachment in attached:
        place = f"/attachments/{attachment.component}"
        component, document = components.get(attachment.component), documents.get(attachment.document)
        if component is None:
            wrong.append(FieldViolation(place, "UNKNOWN_COMPONENT", "the case asks for no such thing"))
        elif document is None:
            wrong.append(FieldViolation(place, "DOCUMENT_MISSING", "the document is not there"))
        elif component.document_types and document.details.type not in component.document_types:
            wrong.append(FieldViolation(place, "WRONG_DOCUMENT_TYPE", ", ".join(component.document_types)))
        elif document.details.expires and document.details.expires < today:
            wrong.append(FieldViolation(place, "DOCUMENT_EXPIRED", "the document has expired"))
        elif (version := document.version(attachment.version)) and version.check == Check.REFUSED:
            wrong.append(FieldViolation(place, "FILE_REFUSED", "the antivirus found something in it"))
    there = {attachment.component for attachment in attached}
    wrong += [
        FieldViolation(f"/attachments/{component.id}", "COMPONENT_REQUIRED", component.name[:200])
        for component in components.values()
        if component.required and component.id not in there
    ]
    if wrong:
        raise InvalidInput("DOSSIER_INCOMPLETE", "the dossier is not complete", violations=wrong)
    # Rights may have ended since the draft was made.
    await _attachments(ports, caller, dossier.applicant, attached, attached)
