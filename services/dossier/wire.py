"""Aggregates as protobuf messages, for answers and for events."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from dossier.domain.document import Access, Check, Document, Rendition, Upload, Version
from dossier.domain.dossier import Dossier
from dossier.domain.kinds import named
from dossier.domain.records import (
    Apology,
    Attachment,
    Charge,
    FeeLine,
    HandOver,
    Receipt,
    Supplement,
    Timeliness,
    Transition,
)
from dossier.domain.states import Party, State
from dossier.domain.storage import Allowance, Storage
from dossier.handlers import Account
from dossier.handlers.overview import Statistics
from dossier.handlers.sight import View
from motcua.dossier.v1 import dossier_pb2 as pb
from motcua.dossier.v1 import vault_pb2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMELINESS = {
    Timeliness.NONE: pb.TIMELINESS_UNSPECIFIED,
    Timeliness.EARLY: pb.TIMELINESS_EARLY,
    Timeliness.ON_TIME: pb.TIMELINESS_ON_TIME,
    Timeliness.OVERDUE: pb.TIMELINESS_OVERDUE,
}


_CHECKS: dict[str, vault_pb2.FileCheck.ValueType] = {
    Check.NONE: vault_pb2.FILE_CHECK_NONE,
    Check.CHECKING: vault_pb2.FILE_CHECK_CHECKING,
    Check.CLEAN: vault_pb2.FILE_CHECK_CLEAN,
    Check.REFUSED: vault_pb2.FILE_CHECK_REFUSED,
}


def check(v: Version) -> vault_pb2.FileCheck.ValueType:
    """What is known of a version's content. What a newer release says there is none that we may show."""
    return _CHECKS.get(v.check, vault_pb2.FILE_CHECK_CHECKING)


def stamp(at: datetime | None) -> Timestamp | None:
    """A Timestamp; None stays None, which leaves a field absent."""
    if at is None:
        return None
    since = at - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def state(value: State) -> pb.DossierState.ValueType:
    """Our states have the numbers of the contract."""
    return pb.DossierState.ValueType(value.value)


def dossier(view: View, now: datetime, *, form: bool = True) -> pb.Dossier:
    """A dossier as one who looks at it may see it: who acted for the applicant is told to their side only."""
    d, own = view.dossier, Party.APPLICANT in view.actor.parties
    message = pb.Dossier(
        id=d.id,
        code=d.code,
        state=state(d.state),
        procedure_code=d.procedure,
        procedure_version=d.version,
        procedure_name=d.procedure_name,
        applicant_id=d.applicant,
        filed_by_id=d.filed_by,
        channel=d.channel.value,  # type: ignore[arg-type]
        case_id=d.case,
        attachments=[attachment(a) for a in d.attachments],
        support_point=d.support_point,
        receiving_agency=d.receiving_agency,
        deciding_agency=d.deciding_agency,
        current_agency=d.current_agency,
        current_step_id=d.step.id if d.step else "",
        current_step_name=d.step.name if d.step else "",
        assignee_id=d.assignee,
        receipt=receipt(d.receipt) if d.receipt else None,
        submit_time=stamp(d.submitted),
        due_time=stamp(d.due),
        finish_time=stamp(d.finished),
        timeliness=_TIMELINESS[d.timeliness],
        supplement=supplement(d.supplement) if d.supplement else None,
        apology=apology(d.apology) if d.apology else None,
        closing_reason=d.closing_reason,
        hand_overs=[hand_over(h) for h in d.hand_overs],
        transitions=[transition(t, own=own) for t in d.transitions],
        charge_ids=[charge.id for charge in d.charges],
        paid=d.paid,
        fees=[fee(c) for c in d.charges],
        result_document_ids=d.results,
        rating=d.rating,
        rating_comment=d.rating_comment,
        create_time=stamp(d.created),
        update_time=stamp(d.updated),
        etag=str(d.revision),
        deadline_time=stamp(d.deadline),
        form_withheld=not view.whole,
        overdue=d.deadline is not None and now > d.deadline,
        allowed_actions=[action.value for action in d.allowed(view.actor, now)],
    )
    if form and view.whole:
        message.form_json = json.dumps(d.form, ensure_ascii=False)
    return message


def tracked(d: Dossier) -> pb.TrackDossierResponse:
    """What anyone with the code sees: state, agencies and times; no person, form or note."""
    return pb.TrackDossierResponse(
        code=d.code,
        state=state(d.state),
        procedure_code=d.procedure,
        procedure_name=d.procedure_name,
        receiving_agency=d.receiving_agency,
        current_agency=d.current_agency,
        receive_time=stamp(d.receipt.received) if d.receipt else None,
        due_time=stamp(d.due),
        finish_time=stamp(d.finished),
        timeliness=_TIMELINESS[d.timeliness],
        steps=[
            pb.TrackDossierResponse.Step(state=state(t.target), time=stamp(t.at), agency=t.agency)
            for t in d.transitions
        ],
    )


def statistics(s: Statistics) -> pb.GetStatisticsResponse:
    """The counts have the same names in both."""
    return pb.GetStatisticsResponse(**vars(s))


def attachment(a: Attachment) -> pb.Attachment:
    """A component's document."""
    return pb.Attachment(component_id=a.component, document_id=a.document, document_version=a.version)


def receipt(r: Receipt) -> pb.Receipt:
    """Form 01."""
    return pb.Receipt(
        code=r.code,
        receive_time=stamp(r.received),
        due_time=stamp(r.due),
        agency=r.agency,
        official_id=r.official,
    )


def supplement(s: Supplement) -> pb.SupplementRequest:
    """Form 02."""
    return pb.SupplementRequest(
        defects=s.defects,
        reason=s.reason,
        guidance=s.guidance,
        request_time=stamp(s.asked),
        answer_time=stamp(s.answered),
        official_id=s.official,
        agency=s.agency,
    )


def apology(a: Apology) -> pb.Apology:
    """Form 04."""
    return pb.Apology(
        original_due_time=stamp(a.original_due),
        new_due_time=stamp(a.new_due),
        reason=a.reason,
        time=stamp(a.at),
        official_id=a.official,
    )


def hand_over(h: HandOver) -> pb.HandOver:
    """A line of form 06."""
    return pb.HandOver(
        step_id=h.step,
        step_name=h.step_name,
        from_agency=h.from_agency,
        from_official_id=h.from_official,
        to_agency=h.to_agency,
        to_official_id=h.to_official,
        time=stamp(h.at),
        timeliness=_TIMELINESS[h.timeliness],
        note=h.note,
        to_role=h.to_role,
        refunded_amount=h.refunded,
    )


def transition(t: Transition, *, own: bool) -> pb.Transition:
    """One change of state."""
    made = pb.Transition(
        to=state(t.target),
        event=t.action.value,
        time=stamp(t.at),
        agency=t.agency,
        actor_id=t.actor if own or t.agency else "",
        note=t.note,
    )
    setattr(made, "from", state(t.source))
    return made


def fee(c: Charge) -> pb.DossierFee:
    """What became of a fee."""
    return pb.DossierFee(
        charge_id=c.id,
        amount=c.total,
        request_time=stamp(c.asked),
        pay_time=stamp(c.paid),
        refund_request_time=stamp(c.refund_asked),
        refund_time=stamp(c.refunded),
        refund_amount=c.refunded_amount,
    )


def fee_line(line: FeeLine) -> pb.FeeLine:
    """A line of a charge."""
    return pb.FeeLine(name=line.name, amount=line.amount, currency=line.currency, quantity=line.quantity)


def upload(u: Upload) -> vault_pb2.Upload:
    """How far an upload has come."""
    return vault_pb2.Upload(
        id=u.id,
        size=u.size,
        offset=u.offset,
        expire_time=stamp(u.expires),
        document_id=u.document,
        filename=u.filename,
        content_type=u.content_type,
    )


def version(v: Version) -> vault_pb2.DocumentVersion:
    """A version of a document."""
    return vault_pb2.DocumentVersion(
        version=v.number,
        sha256=v.sha256,
        size=v.size,
        content_type=v.content_type,
        filename=named(v.filename, v.content_type),  # also that of a version from before the rule
        create_time=stamp(v.created),
        signed=v.signed,
        attachments=v.attachments,
        rendition=rendition(v.rendition) if v.rendition else None,
        check=check(v),
        found=v.found,
    )


def rendition(r: Rendition) -> vault_pb2.Rendition:
    """A picture that every browser draws."""
    return vault_pb2.Rendition(sha256=r.sha256, size=r.size, content_type=r.content_type)


def document(d: Document) -> vault_pb2.Document:
    """A document without its bytes."""
    return vault_pb2.Document(
        id=d.id,
        owner_id=d.owner,
        type=d.details.type,
        title=d.details.title,
        issuer=d.details.issuer,
        issue_date=d.details.issued,
        expiry_date=d.details.expires,
        trust=d.trust.value,  # type: ignore[arg-type]
        verified_by_id=d.verified_by,
        verified_by_agency=d.verified_agency,
        verify_time=stamp(d.verified),
        superseded_by_id=d.superseded_by,
        versions=[version(v) for v in d.versions],
        dossier_id=d.dossier,
        create_time=stamp(d.created),
        etag=str(d.revision),
    )


def access(a: Access) -> vault_pb2.Access:
    """A line of the access log."""
    return vault_pb2.Access(
        id=a.id,
        document_id=a.document,
        document_version=a.version,
        actor_id=a.actor,
        agency=a.agency,
        act=a.act.value,
        purpose=a.purpose,
        dossier_id=a.dossier,
        time=stamp(a.at),
    )


def storage(s: Storage, allowance: Allowance) -> vault_pb2.Storage:
    """What a vault holds and may hold."""
    size, documents = s.taken
    return vault_pb2.Storage(
        used_bytes=size,
        limit_bytes=allowance.size,
        documents=documents,
        document_limit=allowance.documents,
    )


def account_record(account: Account, until: datetime | None) -> vault_pb2.AccountRecord:
    """What identifies a person or an organisation, and until when the official may look."""
    return vault_pb2.AccountRecord(
        account_id=account.id,
        name=account.name,
        citizen_number=account.citizen_number,
        tax_code=account.tax_code,
        phone=account.phone,
        email=account.email,
        expire_time=stamp(until),
    )
