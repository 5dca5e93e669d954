"""The use cases of dossiers. Each states who may call it; whose it is and what its state allows follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from dossier.domain.document import Access, Act
from dossier.domain.dossier import (
    Dossier,
    checked_form,
    deciding_agency,
    draft,
    merged,
)
from dossier.domain.records import (
    Actor,
    Attachment,
    Channel,
    FeeLine,
    Limit,
    Procedure,
    Step,
    TimeUnit,
    rules_on,
    vietnam_day,
    vietnam_midnight,
)
from dossier.domain.states import Action, Party, State
from dossier.handlers import Ports, words
from dossier.handlers.sight import View, actor, look, open_dossier, speaks_for
from kit.auth import CITIZEN, OFFICIAL, Caller, allow, official, service
from kit.errors import (
    FailedPrecondition,
    FieldViolation,
    Forbidden,
    InvalidInput,
)
from kit.ids import derived

Act_ = Callable[[Dossier, Actor, datetime], None]
_MORNING = timedelta(hours=8)  # a moment of a working day before which nothing is late
MOST_ATTACHMENTS = 100


# -- the applicant's side


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
    assisted = caller.kind == "official"
    applicant = applicant or ("" if assisted else caller.subject)
    await _may_file_for(ports, caller, applicant, (receiving_agency, support_point))
    channel = channel or (Channel.COUNTER if assisted else Channel.ONLINE)
    if channel is Channel.COUNTER and not assisted:
        raise _wrong("channel", "NOT_YOUR_CHANNEL", "at the counter an official files")
    if procedure.channels and channel not in procedure.channels:
        raise _wrong("channel", "NOT_OFFERED", "this procedure is not filed that way")
    form = checked_form(form)
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
    form = checked_form(form)
    _known_case(procedure, case)
    attached = await _attachments(ports, caller, dossier.applicant, attachments)

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

    return await _act(ports, caller, seen, update, request=request, etag=etag)


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
    if Action.SUBMIT in seen.dossier.allowed(seen.actor, ports.clock()):
        await _complete(ports, caller, seen.dossier, seen.dossier.form, seen.dossier.attachments)
        etag = etag or str(seen.dossier.revision)  # what was checked is what is filed
    done = await _act(ports, caller, seen, Dossier.submit, request=request, etag=etag)
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
        new_form = dossier.form if form is None else checked_form(form)
        added = await _attachments(ports, caller, dossier.applicant, attachments)
        attached = merged(dossier.attachments, added)
        await _complete(ports, caller, dossier, new_form, attached)
        due = await _due(ports, ports.clock(), dossier.limit)
        step_due = await _step_due(ports, ports.clock(), dossier.step)
        etag = etag or str(dossier.revision)

    def supplement(d: Dossier, who: Actor, at: datetime) -> None:
        d.answer_supplement(
            who, at, form=new_form, attachments=attached, due=due, step_due=step_due, note=note
        )

    done = await _act(ports, caller, seen, supplement, request=request, etag=etag)
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
    return await _act(
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
    return await _act(
        ports,
        caller,
        seen,
        lambda d, who, at: d.rate(who, at, rating=rating, comment=comment),
        request=request,
    )


# -- the agencies' side


@allow(official("reception"))
async def receive_dossier(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    note: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Form 01: code and due time."""
    seen = await open_dossier(ports, caller, id)
    dossier, at = seen.dossier, ports.clock()
    note = words("note", note)
    code, due, window, step_due = dossier.code, dossier.due, at, dossier.step_due
    if Action.RECEIVE in dossier.allowed(seen.actor, at):
        due = await _due(ports, at, dossier.limit)
        window = await ports.catalog.due(at, Limit(rules_on(at).supplement_days, TimeUnit.WORKING_DAY))
        step_due = await _step_due(ports, at, dossier.step)
        code = await ports.codes.assign(dossier.id, dossier.receiving_agency, at)

    def receive(d: Dossier, who: Actor, _: datetime) -> None:
        d.receive(who, at, code=code, due=due, supplement_until=window, step_due=step_due, note=note)

    return await _act(ports, caller, seen, receive, request=request, etag=etag)


@allow(official("reception", "examiner", "leader"))
async def reject_dossier(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    reason: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Form 03: not received, or refused on examination."""
    seen = await open_dossier(ports, caller, id)
    reason = words("reason", reason, required=True)
    return await _act(
        ports, caller, seen, lambda d, who, at: d.reject(who, at, reason=reason), request=request, etag=etag
    )


@allow(official("reception", "examiner", "leader"))
async def request_supplement(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    defects: Sequence[str],
    reason: str,
    guidance: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Form 02."""
    seen = await open_dossier(ports, caller, id)
    if len(defects) > 50:
        raise _wrong("defects", "TOO_MANY", "at most 50")
    listed = [clean for defect in defects if (clean := words("defects", defect, limit=500))]
    reason = words("reason", reason, required=not listed)
    guidance = words("guidance", guidance)

    def ask(d: Dossier, who: Actor, at: datetime) -> None:
        d.ask_supplement(who, at, defects=listed, reason=reason, guidance=guidance)

    return await _act(ports, caller, seen, ask, request=request, etag=etag)


@allow(official("reception", "examiner", "leader"))
async def request_payment(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    quantities: Mapping[str, int],
    lines: Sequence[FeeLine],
    request: Any = None,
    etag: str = "",
) -> View:
    """Asks for the procedure's fee; lines of one's own only where the catalogue does not know the fee."""
    seen = await open_dossier(ports, caller, id)
    dossier = seen.dossier
    asked, refundable = list(lines), dossier.refundable
    if Action.REQUEST_PAYMENT in dossier.allowed(seen.actor, ports.clock()):
        quote = await ports.catalog.quote(dossier.procedure, dossier.version, dossier.channel, quantities)
        if quote.known and lines:
            raise _wrong("lines", "FEE_IS_KNOWN", "the catalogue says what this costs")
        if not quote.known and not lines:
            raise FailedPrecondition("FEE_UNKNOWN", "the catalogue does not know this fee: say the lines")
        asked = quote.lines if quote.known else [_checked_line(line) for line in lines]
        refundable = quote.refundable

    def ask(d: Dossier, who: Actor, at: datetime) -> None:
        charge = derived("charge", d.id, str(len(d.charges) + 1))
        d.ask_payment(who, at, charge=charge, lines=asked, refundable=refundable)

    return await _act(ports, caller, seen, ask, request=request, etag=etag)


@allow(official("reception", "examiner", "leader"))
async def hand_off(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    agency: str,
    to_official: str,
    note: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Hands the dossier to another agency, or to an official who works there."""
    seen = await open_dossier(ports, caller, id)
    note = words("note", note)
    agency = agency or seen.dossier.current_agency
    if agency != seen.dossier.current_agency and not await ports.identity.exists(agency):
        raise _wrong("to_agency", "UNKNOWN_AGENCY", "no such agency today")
    if to_official:
        account = await ports.identity.account(to_official)
        if account is None or not any(held == agency for held, _ in account.roles):
            raise _wrong("to_official_id", "NOT_OF_THIS_AGENCY", "no official of that agency")
    step_due = await _step_due(ports, ports.clock(), seen.dossier.next_step())

    def hand(d: Dossier, who: Actor, at: datetime) -> None:
        d.hand_off(who, at, agency=agency, official=to_official, note=note, step_due=step_due)

    return await _act(ports, caller, seen, hand, request=request, etag=etag)


@allow(official("reception", "examiner", "leader", "clerk"))
async def complete_step(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    step: str,
    note: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Goes on to the next step."""
    seen = await open_dossier(ports, caller, id)
    note = words("note", note)
    step_due = await _step_due(ports, ports.clock(), seen.dossier.next_step())

    def complete(d: Dossier, who: Actor, at: datetime) -> None:
        d.complete_step(who, at, expected=step, note=note, step_due=step_due)

    return await _act(ports, caller, seen, complete, request=request, etag=etag)


@allow(official("reception", "examiner", "leader"))
async def extend_deadline(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    due: datetime,
    reason: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Form 04: an apology with a new due time."""
    seen = await open_dossier(ports, caller, id)
    reason = words("reason", reason, required=True)

    def extend(d: Dossier, who: Actor, at: datetime) -> None:
        d.extend_deadline(who, at, due=due, reason=reason)

    return await _act(ports, caller, seen, extend, request=request, etag=etag)


@allow(official("reception", "examiner", "leader"))
async def stop_dossier(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    reason: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Form 05, or the acceptance of a withdrawal."""
    seen = await open_dossier(ports, caller, id)
    reason = words("reason", reason)
    return await _act(
        ports, caller, seen, lambda d, who, at: d.stop(who, at, reason=reason), request=request, etag=etag
    )


@allow(official("reception", "leader"))
async def decline_withdrawal(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    reason: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """The dossier stays where it was before the withdrawal was asked for."""
    seen = await open_dossier(ports, caller, id)
    reason = words("reason", reason, required=True)

    def decline(d: Dossier, who: Actor, at: datetime) -> None:
        d.decline_withdrawal(who, at, reason=reason)

    return await _act(ports, caller, seen, decline, request=request, etag=etag)


@allow(official("leader"))
async def sign_result(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    document: str,
    note: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """Makes an uploaded file of the agency the result, and the applicant its owner."""
    seen = await open_dossier(ports, caller, id)
    note = words("note", note)
    found = await ports.documents.find(document) if document else None
    if found is None or found.dossier != id:
        raise FailedPrecondition("RESULT_MISSING", "the result of this dossier has to be uploaded first")

    def sign(d: Dossier, who: Actor, at: datetime) -> None:
        d.sign_result(who, at, document=document, note=note)

    done = await _act(ports, caller, seen, sign, request=request, etag=etag)
    await settle(ports, done.dossier)
    return done


@allow(official("reception", "clerk"))
async def hand_over_result(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    note: str,
    request: Any = None,
    etag: str = "",
) -> View:
    """The applicant has the result; the dossier is closed."""
    seen = await open_dossier(ports, caller, id)
    note = words("note", note)
    return await _act(
        ports,
        caller,
        seen,
        lambda d, who, at: d.hand_over_result(who, at, note=note),
        request=request,
        etag=etag,
    )


# -- what events bring about


@allow(service("payment"))
async def charge_paid(
    ports: Ports, caller: Caller, *, dossier: str, charge: str, event: str, at: datetime
) -> None:
    """A charge was paid: the dossier goes on and the working days of the pause are added to its due time.

    The pause counts in whole working days, as the limit does; one that begins and ends on the same day
    moves nothing. `event` is handled once, in the same write.
    """
    found = await ports.dossiers.get(dossier)
    due, step_due = found.due, found.step_due
    if found.paused is not None and found.due is not None:
        days = await ports.catalog.working_days(found.paused, at)
        if days:
            morning = vietnam_midnight(vietnam_day(found.due)) + _MORNING
            due = await ports.catalog.due(morning, Limit(days, TimeUnit.WORKING_DAY))
            step_due = await _step_due(ports, at, found.step)
    who = Actor(caller.subject, frozenset({Party.PAYMENT}))

    def pay(d: Dossier) -> None:
        d.charge_paid(who, at, charge=charge, due=due, step_due=step_due)

    await ports.dossiers.change(dossier, pay, handled=event)


async def settle(ports: Ports, dossier: Dossier) -> None:
    """What a stored dossier implies for the vault: a record of each use, and the result with its new owner.

    Runs after the act itself and again from the dossier's own event, so that a crash between loses nothing;
    everything here happens once.
    """
    if dossier.state is State.DRAFT:
        return
    at = dossier.updated
    owners = {d.id: d.owner for d in await ports.documents.batch([a.document for a in dossier.attachments])}
    for attachment in dossier.attachments:
        if attachment.document in owners:
            await _note_use(ports, dossier, attachment, owners[attachment.document], at)
    for document in dossier.results:
        await ports.documents.change(
            document,
            lambda d: d.deposit(
                owner=dossier.applicant, by=dossier.signed_by, agency=dossier.deciding_agency, at=at
            ),
            handled=derived("deposit", dossier.id),
        )


@allow(service("dossier"))
async def settle_again(ports: Ports, caller: Caller, *, dossier: str) -> None:
    """From the dossier's own event."""
    await settle(ports, await ports.dossiers.get(dossier))


# -- reading


@allow(CITIZEN, OFFICIAL, service("payment", "notify", "gateway"))
async def get_dossier(ports: Ports, caller: Caller, id: str) -> View:
    """One dossier."""
    return await open_dossier(ports, caller, id)


@allow(CITIZEN, OFFICIAL, service("payment", "notify", "gateway"))
async def batch_get_dossiers(ports: Ports, caller: Caller, ids: Sequence[str]) -> list[View]:
    """Those that exist and that the caller may see."""
    if len(ids) > 100:
        raise InvalidInput("TOO_MANY", "at most 100 at once")
    views = [await look(ports, caller, dossier) for dossier in await ports.dossiers.batch(list(ids))]
    return [view for view in views if view is not None]


@allow(CITIZEN)
async def list_dossiers(
    ports: Ports, caller: Caller, *, applicant: str, states: Sequence[State], size: int, token: str
) -> tuple[list[View], str]:
    """An applicant's dossiers, newest first."""
    applicant = applicant or caller.subject
    files = await speaks_for(ports, caller, applicant, "FILE")
    if not files and not await speaks_for(ports, caller, applicant, "READ"):
        raise Forbidden("NOT_DELEGATED", "you do not act for this account")
    wanted: dict[str, Any] = {"applicant": applicant}
    if states:
        wanted["status"] = {"$in": sorted({state.value for state in states})}
    page = await ports.dossiers.page(wanted, size=min(size or 20, 100), token=token)
    return [View(d, actor(caller, d, speaks=files)) for d in page.items], page.next_token


# -- the common part


async def _act(
    ports: Ports, caller: Caller, seen: View, act: Act_, *, request: Any = None, etag: str = ""
) -> View:
    speaks = Party.APPLICANT in seen.actor.parties
    at = ports.clock()
    changed = await ports.dossiers.change(
        seen.dossier.id,
        lambda d: act(d, actor(caller, d, speaks=speaks), at),
        request=request,
        etag=etag or None,
    )
    return View(changed, actor(caller, changed, speaks=speaks))


async def _may_file_for(ports: Ports, caller: Caller, applicant: str, desks: Sequence[str]) -> None:
    if caller.kind == "official":
        if not any(caller.has("reception", desk) for desk in desks if desk):
            raise Forbidden("NOT_YOUR_DESK", "file at a desk of your own agency")
        account = await ports.identity.account(applicant) if applicant else None
        if account is None or account.official:
            raise _wrong("applicant_id", "UNKNOWN_APPLICANT", "say for whom: a person or an organisation")
    elif not await speaks_for(ports, caller, applicant, "FILE"):
        raise Forbidden("NOT_DELEGATED", "you do not act for this account")


async def _receiver(ports: Ports, procedure: Procedure, agency: str) -> str:
    fixed = procedure.steps[0].agency if procedure.steps and not agency else ""
    agency = agency or fixed
    if not agency:
        raise _wrong("receiving_agency", "REQUIRED", "say which agency shall receive it")
    if not await ports.identity.receives(agency):
        raise _wrong("receiving_agency", "UNKNOWN_AGENCY", "no agency with a reception has this code today")
    return agency


def _known_case(procedure: Procedure, case: str) -> None:
    if case and procedure.components(case) is None:
        raise _wrong("case_id", "UNKNOWN_CASE", "the procedure has no such case")


async def _attachments(
    ports: Ports, caller: Caller, applicant: str, wanted: Sequence[Attachment]
) -> list[Attachment]:
    """The attachments with their version pinned. Raises Forbidden NOT_YOUR_DOCUMENT for a document that
    neither the applicant nor the caller may use, the same for one that is not there."""
    if len(wanted) > MOST_ATTACHMENTS:
        raise _wrong("attachments", "TOO_MANY", f"at most {MOST_ATTACHMENTS}")
    documents = {d.id: d for d in await ports.documents.batch([a.document for a in wanted])}
    usable: dict[str, bool] = {}
    pinned = []
    for attachment in wanted:
        document = documents.get(attachment.document)
        if document is not None and document.owner not in usable:
            usable[document.owner] = await _may_use(ports, caller, applicant, document.owner)
        desk = document is not None and bool(document.desk) and caller.has("reception", document.desk)
        owned_by_applicant = document is not None and document.owner == applicant
        if document is None or not (usable[document.owner] or (desk and owned_by_applicant)):
            raise Forbidden(
                "NOT_YOUR_DOCUMENT", "no document of yours has this id", document=attachment.document
            )
        version = document.version(attachment.version)
        if version is None:
            raise _wrong("attachments", "UNKNOWN_VERSION", "the document has no such version")
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


async def _complete(
    ports: Ports, caller: Caller, dossier: Dossier, form: dict[str, Any], attached: Sequence[Attachment]
) -> None:
    """Raises InvalidInput with all that is wrong, by JSON Pointer into the request."""
    procedure = await ports.catalog.procedure(dossier.procedure, dossier.version)
    wrong = [
        FieldViolation(f"/form{violation.field}", violation.reason, violation.description)
        for violation in ports.forms.violations(procedure.key, procedure.schema, form)
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
    there = {attachment.component for attachment in attached}
    wrong += [
        FieldViolation(f"/attachments/{component.id}", "COMPONENT_REQUIRED", component.name[:200])
        for component in components.values()
        if component.required and component.id not in there
    ]
    if wrong:
        raise InvalidInput("DOSSIER_INCOMPLETE", "the dossier is not complete", violations=wrong)
    # Rights may have ended since the draft was made.
    await _attachments(ports, caller, dossier.applicant, list(attached))


async def _due(ports: Ports, at: datetime, limit: Limit | None) -> datetime | None:
    return None if limit is None else await ports.catalog.due(at, limit)


async def _step_due(ports: Ports, at: datetime, step: Step | None) -> datetime | None:
    if step is None or step.working_hours <= 0:
        return None
    return await ports.catalog.due(at, Limit(step.working_hours, TimeUnit.HOUR))


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


def _checked_line(line: FeeLine) -> FeeLine:
    if line.currency not in ("", "VND"):
        raise _wrong("lines", "BAD_CURRENCY", "fees are in VND")
    if line.amount <= 0 or line.quantity < 0:
        raise _wrong("lines", "BAD_AMOUNT", "an amount is a positive number of đồng")
    return FeeLine(words("lines.name", line.name, required=True, limit=200), line.amount, line.quantity or 1)


def _wrong(field: str, reason: str, description: str) -> InvalidInput:
    return InvalidInput(reason, description, violations=[FieldViolation(field, reason, description)])
