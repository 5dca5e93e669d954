"""Dossiers: from draft to result, the officials' worklist, tracking by code, statistics."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, cast

import strawberry
from google.protobuf.message import Message

from gateway.binding import enum, view
from gateway.ids import from_global
from gateway.relay import connect
from gateway.scalars import JSON, Date, DateTime, Long
from gateway.schema.base import (
    Amount,
    Connection,
    Info,
    Money,
    Node,
    absent_is_null,
    many,
    one,
    other,
    plain,
    resolver,
    rpc,
    subscription,
)
from gateway.schema.catalog import FilingChannel, QuantityInput
from gateway.schema.refs import AccountRef, AgencyRef, ChargeRef, DocumentRef, ProcedureRef
from motcua.dossier.v1 import dossier_pb2 as pb

if TYPE_CHECKING:
    from gateway.context import Context


def version_of(dossier: pb.Dossier) -> str:
    """The name of the procedure's version under which it was filed."""
    return f"{dossier.procedure_code}@{dossier.procedure_version}"


@enum(pb.DossierState, "DOSSIER_STATE_")
class DossierState(IntEnum):
    """The ten national states, and our DRAFT and WITHDRAWN beside them."""

    NEWLY_FILED = 1
    RECEIVED = 2
    NOT_RECEIVED = 3
    IN_PROCESS = 4
    SUPPLEMENT_REQUESTED = 5
    PAYMENT_REQUESTED = 6
    WITHDRAWAL_REQUESTED = 7
    STOPPED = 8
    DONE = 9
    HANDED_OVER = 10
    DRAFT = 20
    WITHDRAWN = 21


@enum(pb.Timeliness, "TIMELINESS_")
class Timeliness(IntEnum):
    """Against the due time."""

    EARLY = 1
    ON_TIME = 2
    OVERDUE = 3


@enum(pb.DueFilter, "DUE_FILTER_")
class DueFilter(IntEnum):
    """SOON is within two working days."""

    OVERDUE = 1
    SOON = 2
    LATER = 3


@view(pb.TrackDossierResponse)
class Tracking:
    code: str
    state: DossierState
    procedure_code: str
    procedure_name: str
    receiving_agency: AgencyRef | None = one("agencies", "receiving_agency")
    current_agency: AgencyRef | None = one("agencies", "current_agency")
    receive_time: DateTime | None
    due_time: DateTime | None
    finish_time: DateTime | None
    timeliness: Timeliness | None
    steps: list[TrackingStep]


async def _form(self: Any, info: Info) -> JSON | None:
    """The form that came with the dossier, else loaded: lists come without."""
    if self.HasField("form_json"):
        text: str | None = self.form_json
    elif self.HasField("form"):  # of a service that writes no text yet
        return cast(JSON, self.form)
    elif self.form_withheld:
        return None
    else:
        found = info.context.forms.load(self.id)
        text = await found if hasattr(found, "__await__") else found
    return None if text is None else cast(JSON, json.loads(text))


@view(pb.Dossier, key="id")
class Dossier(Node):
    code: str | None = strawberry.field(description="Given at reception, such as `H32.15-261121-0001`.")
    state: DossierState
    procedure: ProcedureRef | None = one(
        "procedure_summaries", version_of, description="The version under which it was filed."
    )
    procedure_code: str
    procedure_version: int
    procedure_name: str
    applicant: AccountRef | None = one("accounts", "applicant_id")
    filed_by: AccountRef | None = one("accounts", "filed_by_id")
    channel: FilingChannel | None
    case_id: str | None
    form: JSON | None = strawberry.field(
        resolver=_form, description="In a list it costs a call of its own; ask for it only where it is shown."
    )
    form_withheld: bool = strawberry.field(
        description="The form is left out: the official's agency let the dossier go too long ago. "
        "`openAccountRecord` for a purpose shows it again."
    )
    attachments: list[Attachment]
    support_point: str | None
    receiving_agency: AgencyRef | None = one("agencies", "receiving_agency")
    deciding_agency: AgencyRef | None = one("agencies", "deciding_agency")
    current_agency: AgencyRef | None = one("agencies", "current_agency", description="Where it is now.")
    current_step_id: str | None
    current_step_name: str | None
    assignee: AccountRef | None = one("accounts", "assignee_id")
    receipt: DossierReceipt | None
    submit_time: DateTime | None
    due_time: DateTime | None = strawberry.field(description="The appointment: when the result is due.")
    deadline_time: DateTime | None = strawberry.field(
        description="By when the agency that has it must have acted: received it while it is new, come to a "
        "result later. Null while the clock stands still for the applicant, and once there is an end."
    )
    overdue: bool = strawberry.field(description="Whether the deadline has passed.")
    finish_time: DateTime | None
    timeliness: Timeliness | None
    supplement: SupplementRequest | None
    apology: Apology | None
    closing_reason: str | None = strawberry.field(description="Why it was rejected, stopped or withdrawn.")
    hand_overs: list[HandOver] = strawberry.field(description="The process control sheet.")
    transitions: list[Transition] = strawberry.field(description="Oldest first.")
    charges: list[ChargeRef] = many("charges", "charge_ids")
    paid: bool = strawberry.field(
        description="Something was charged, and all of it is paid and has not been given back."
    )
    fees: list[DossierFee] = strawberry.field(description="What became of each fee that was asked for.")
    result_documents: list[DocumentRef] = many("documents", "result_document_ids")
    rating: int | None
    rating_comment: str | None
    create_time: DateTime | None
    update_time: DateTime | None
    etag: str = strawberry.field(description="Send it back with a change; a stale one is a Conflict.")
    allowed_actions: list[str] = strawberry.field(
        description="Names of what the caller may do now, such as `receive`."
    )


@view(pb.Attachment)
class Attachment:
    component_id: str
    document: DocumentRef | None = one("documents", "document_id")
    document_version: int | None


@view(pb.Receipt)
class DossierReceipt:
    """Form 01: receipt and appointment."""

    code: str
    receive_time: DateTime | None
    due_time: DateTime | None
    agency: AgencyRef | None = one("agencies", "agency")
    official: AccountRef | None = one("accounts", "official_id")


@view(pb.SupplementRequest)
class SupplementRequest:
    """Form 02."""

    defects: list[str]
    reason: str | None
    guidance: str | None
    request_time: DateTime | None
    answer_time: DateTime | None
    official: AccountRef | None = one("accounts", "official_id")
    agency: AgencyRef | None = one("agencies", "agency")


@view(pb.Apology)
class Apology:
    """Form 04."""

    original_due_time: DateTime | None
    new_due_time: DateTime | None
    reason: str | None
    time: DateTime | None
    official: AccountRef | None = one("accounts", "official_id")


@view(pb.HandOver)
class HandOver:
    """A line of form 06."""

    step_id: str | None
    step_name: str | None
    from_agency: AgencyRef | None = one("agencies", "from_agency")
    from_official: AccountRef | None = one("accounts", "from_official_id")
    to_agency: AgencyRef | None = one("agencies", "to_agency")
    to_official: AccountRef | None = one(
        "accounts", "to_official_id", description="Null: whoever has the step's role there."
    )
    time: DateTime
    timeliness: Timeliness | None
    note: str | None
    refunded_amount: Long | None = strawberry.field(
        description="Đồng; then it is no hand-over, but a fee that went back while the dossier was here."
    )


@view(pb.DossierFee)
class DossierFee:
    charge: ChargeRef | None = one("charges", "charge_id")
    amount: Money = plain(lambda fee: Amount(fee.amount))
    request_time: DateTime | None
    pay_time: DateTime | None
    refund_request_time: DateTime | None = strawberry.field(
        description="From then on the money is not with the agency."
    )
    refund_time: DateTime | None
    refund_amount: Long | None


def _from_state(self: Any, info: Info) -> Any:
    return getattr(self, "from") or None


@view(pb.Transition)
class Transition:
    from_: DossierState | None = strawberry.field(name="from", resolver=_from_state)
    to: DossierState
    event: str = strawberry.field(description="Such as `receive`.")
    time: DateTime
    agency: AgencyRef | None = one("agencies", "agency")
    actor: AccountRef | None = one("accounts", "actor_id")
    note: str | None


@view(pb.TrackDossierResponse.Step)
class TrackingStep:
    state: DossierState
    time: DateTime
    agency: AgencyRef | None = one("agencies", "agency")


@view(pb.GetStatisticsResponse)
class Statistics:
    carried_over: Long
    newly_received: Long
    handled_early: Long
    handled_on_time: Long
    handled_overdue: Long
    in_process_in_time: Long
    in_process_overdue: Long
    paused: Long
    online: Long
    paid_online: Long
    rated: Long
    rating_total: Long = strawberry.field(description="Sum of the ratings, 1 to 5 each.")


@strawberry.input(
    description="A document of the vault for a component of the procedure. Absent version: the newest."
)
class AttachmentInput:
    component_id: str
    document_id: strawberry.ID
    document_version: int | None = None


@strawberry.input
class FeeLineInput:
    name: str
    amount: Long
    currency: str = "VND"
    quantity: int = 1


@strawberry.input
class CreateDossierInput:
    request_id: str | None = None
    procedure_code: str
    case_id: str | None = None
    form: JSON | None = None
    attachments: list[AttachmentInput] | None = None
    receiving_agency: str = strawberry.field(description="Code of the agency that shall receive it.")
    channel: FilingChannel = FilingChannel.ONLINE
    applicant_id: strawberry.ID | None = strawberry.field(
        default=None, description="For whom a delegate or an official files; absent: the caller."
    )
    support_point: str | None = None


@strawberry.input
class UpdateDossierInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    case_id: str | None = None
    form: JSON | None = None
    attachments: list[AttachmentInput] | None = None
    receiving_agency: str | None = None
    etag: str | None = None


@strawberry.input
class SubmitDossierInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    etag: str | None = None


@strawberry.input
class SupplementDossierInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    form: JSON | None = strawberry.field(default=None, description="Absent: the form stays.")
    attachments: list[AttachmentInput] | None = None
    note: str | None = None
    etag: str | None = None


@strawberry.input
class WithdrawDossierInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    reason: str
    etag: str | None = None


@strawberry.input
class RateDossierInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    rating: int
    comment: str | None = None


@strawberry.input
class ReceiveDossierInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    note: str | None = None
    etag: str | None = None


@strawberry.input
class RejectDossierInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    reason: str
    etag: str | None = None


@strawberry.input
class RequestSupplementInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    defects: list[str]
    reason: str
    guidance: str | None = None
    etag: str | None = None


@strawberry.input
class RequestPaymentInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    quantities: list[QuantityInput] | None = strawberry.field(
        default=None, description="What the procedure's fee counts, such as 12 of `page`."
    )
    lines: list[FeeLineInput] | None = strawberry.field(
        default=None, description="Only where the catalogue does not know the fee."
    )
    etag: str | None = None


@strawberry.input
class HandOffInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    to_agency: str | None = strawberry.field(
        default=None,
        description="Absent: it stays, or the step says whose it is. The agency of the next step completes "
        "the current one, which must be the caller's to complete; any other is asked for its opinion and "
        "gives the dossier back, or the agency whose step it is takes it back by naming itself.",
    )
    to_official_id: strawberry.ID | None = None
    to_step_id: str | None = strawberry.field(
        default=None,
        description="The current step, the next or an earlier one; to go back, `note` says why.",
    )
    note: str | None = None
    etag: str | None = None


@strawberry.input
class CompleteStepInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    step_id: str = strawberry.field(
        description="Must be the current one, so that no step is completed twice."
    )
    note: str | None = None
    etag: str | None = None


@strawberry.input
class ExtendDeadlineInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    new_due_time: DateTime
    reason: str
    etag: str | None = None


@strawberry.input
class StopDossierInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    reason: str
    etag: str | None = None


@strawberry.input
class DeclineWithdrawalInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    reason: str
    etag: str | None = None


@strawberry.input
class SignResultInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    document_id: strawberry.ID = strawberry.field(description="A document uploaded with purpose RESULT.")
    note: str | None = None
    etag: str | None = None


@strawberry.input
class HandOverResultInput:
    request_id: str | None = None
    dossier_id: strawberry.ID
    note: str | None = None
    etag: str | None = None


@strawberry.type
class DossierQuery:
    """Queries of dossiers."""

    @resolver(
        Tracking | None,
        description=(
            "What anyone with the code may know of a dossier; no personal data. Null when there is none."
        ),
    )
    async def track(self, info: Info, code: str) -> Any:
        context: Context = info.context
        request = pb.TrackDossierRequest(code=code, client_address=context.client_address)
        return await absent_is_null(context.call(context.services.dossier.TrackDossier, request))

    @resolver(
        Connection[Dossier],
        description="What the caller's agencies have before them, by due time.",
    )
    async def worklist(
        self,
        info: Info,
        states: list[DossierState] | None = None,
        due: DueFilter | None = None,
        agency: str | None = None,
        mine: bool = False,
        first: int = 20,
        after: str | None = None,
    ) -> Any:
        context: Context = info.context

        async def fetch(size: int, token: str) -> Any:
            request = pb.ListWorklistRequest(
                agency=agency or "",
                states=states,  # type: ignore[arg-type]
                due=due,  # type: ignore[arg-type]
                mine=mine,
                page_size=size,
                page_token=token,
            )
            reply = await context.call(context.services.dossier.ListWorklist, request)
            return reply.dossiers, reply.next_page_token, None

        return await connect(first, after, fetch)

    @resolver(
        Statistics,
        description="Counts of a period, both dates included. Absent agency: all that the caller may see.",
    )
    async def statistics(
        self,
        info: Info,
        from_: Annotated[Date, strawberry.argument(name="from")],
        to: Date,
        agency: str | None = None,
    ) -> Any:
        context: Context = info.context
        request = pb.GetStatisticsRequest(**{"from": from_, "to": to, "agency": agency or ""})
        return await context.call(context.services.dossier.GetStatistics, request)


@strawberry.type
class AccountDossiers:
    """The dossiers of an account."""

    @resolver(Connection[Dossier], description="Newest first.")
    async def dossiers(
        self: Any,
        info: Info,
        states: list[DossierState] | None = None,
        first: int = 20,
        after: str | None = None,
    ) -> Any:
        context: Context = info.context

        async def fetch(size: int, token: str) -> Any:
            request = pb.ListDossiersRequest(
                applicant_id=other(context, self),
                states=states,  # type: ignore[arg-type]
                page_size=size,
                page_token=token,
            )
            reply = await context.call(context.services.dossier.ListDossiers, request)
            return reply.dossiers, reply.next_page_token, None

        return await connect(first, after, fetch)


async def dossier_changed(context: Context, id: str) -> AsyncIterator[pb.Dossier]:
    """The source of `dossierChanged`: the dossier is read as the caller each time, so the right to see it
    is checked at the start and at every event. Ends with the NotFound or Forbidden of the first reading
    that fails."""
    key = from_global(id, "Dossier")
    async with context.live.watch_dossier(key) as changes:
        request = pb.GetDossierRequest(id=key)
        yield (await context.call(context.services.dossier.GetDossier, request)).dossier
        async for _ in changes:
            yield (await context.call(context.services.dossier.GetDossier, request)).dossier


@strawberry.type
class DossierSubscription:
    """Subscriptions to dossiers."""

    @subscription(Dossier, description="The dossier as it is now, and again after each change.")
    async def dossier_changed(self, info: Info, id: strawberry.ID) -> AsyncIterator[Any]:
        async for dossier in dossier_changed(info.context, id):
            yield dossier


def _act(request: type[Message], input_type: type, description: str, *, subject: str = "dossier_id") -> Any:
    """A mutation that is the RPC of its request's name and answers the dossier."""
    return rpc("dossier", request, input_type, Dossier, description, answer="dossier", subject=subject)


@strawberry.type
class DossierMutation:
    """Mutations of dossiers."""

    create_dossier = _act(pb.CreateDossierRequest, CreateDossierInput, "Starts a draft.", subject="")
    update_dossier = _act(pb.UpdateDossierRequest, UpdateDossierInput, "Changes a draft.")
    submit_dossier = _act(pb.SubmitDossierRequest, SubmitDossierInput, "Files a draft.")
    supplement_dossier = _act(
        pb.SupplementDossierRequest, SupplementDossierInput, "Answers a supplement request."
    )
    withdraw_dossier = _act(
        pb.WithdrawDossierRequest,
        WithdrawDossierInput,
        "Takes a dossier back, or asks the agency for it once received.",
    )
    rate_dossier = _act(pb.RateDossierRequest, RateDossierInput, "Rates a finished dossier, 1 to 5.")
    receive_dossier = _act(
        pb.ReceiveDossierRequest, ReceiveDossierInput, "Receives a dossier: code and receipt."
    )
    reject_dossier = _act(pb.RejectDossierRequest, RejectDossierInput, "Refuses a newly filed dossier.")
    request_supplement = _act(
        pb.RequestSupplementRequest, RequestSupplementInput, "Asks the applicant for what is missing."
    )
    request_payment = _act(pb.RequestPaymentRequest, RequestPaymentInput, "Asks for the procedure's fee.")
    hand_off = _act(pb.HandOffRequest, HandOffInput, "Hands the dossier to another official or agency.")
    complete_step = _act(pb.CompleteStepRequest, CompleteStepInput, "Completes the current step.")
    extend_deadline = _act(
        pb.ExtendDeadlineRequest, ExtendDeadlineInput, "Apologises once, with a new due time."
    )
    stop_dossier = _act(pb.StopDossierRequest, StopDossierInput, "Stops processing, or accepts a withdrawal.")
    decline_withdrawal = _act(pb.DeclineWithdrawalRequest, DeclineWithdrawalInput, "Refuses a withdrawal.")
    sign_result = _act(
        pb.SignResultRequest, SignResultInput, "Approves the result; it goes into the applicant's vault."
    )
    hand_over_result = _act(pb.HandOverResultRequest, HandOverResultInput, "Hands the result over.")
