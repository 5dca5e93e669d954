"""Dossiers: from draft to result, the officials' worklist, tracking by code, statistics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import Message

from gateway.binding import Info, Part
from gateway.context import Context
from gateway.execution import never_waits
from gateway.ids import from_global
from gateway.relay import Page, connect
from gateway.schema.base import absent_is_null, connection, rpc
from gateway.schema.vault import other
from motcua.dossier.v1 import dossier_pb2 as pb
from motcua.identity.v1 import identity_pb2 as identity

part = Part('''
extend type Query {
  """What anyone with the code may know of a dossier; no personal data. Null when there is none."""
  track(code: String!): Tracking
  """What the caller's agencies have before them, by due time."""
  worklist(
    states: [DossierState!], due: DueFilter, agency: String, mine: Boolean! = false, first: Int! = 20, after: String
  ): DossierConnection!
  """Counts of a period, both dates included. Absent agency: all that the caller may see."""
  statistics(from: Date!, to: Date!, agency: String): Statistics!
}
extend type Account {
  """Newest first."""
  dossiers(states: [DossierState!], first: Int! = 20, after: String): DossierConnection!
}
extend type Subscription {
  """The dossier as it is now, and again after each change."""
  dossierChanged(id: ID!): Dossier!
}

type Dossier implements Node {
  id: ID!
  """Given at reception, such as `H32.15-261121-0001`."""
  code: String
  state: DossierState!
  """The version under which it was filed."""
  procedure: Procedure
  procedureCode: String!
  procedureVersion: Int!
  procedureName: String!
  applicant: Account
  filedBy: Account
  channel: FilingChannel
  caseId: String
  form: JSON
  attachments: [Attachment!]!
  supportPoint: String
  receivingAgency: Agency
  decidingAgency: Agency
  """Where it is now."""
  currentAgency: Agency
  currentStepId: String
  currentStepName: String
  assignee: Account
  receipt: DossierReceipt
  submitTime: DateTime
  dueTime: DateTime
  finishTime: DateTime
  timeliness: Timeliness
  supplement: SupplementRequest
  apology: Apology
  """Why it was rejected, stopped or withdrawn."""
  closingReason: String
  """The process control sheet."""
  handOvers: [HandOver!]!
  """Oldest first."""
  transitions: [Transition!]!
  charges: [Charge!]!
  paid: Boolean!
  resultDocuments: [Document!]!
  rating: Int
  ratingComment: String
  createTime: DateTime
  updateTime: DateTime
  """Send it back with a change; a stale one is a Conflict."""
  etag: String!
  """Names of what the caller may do now, such as `receive`."""
  allowedActions: [String!]!
}
type Attachment { componentId: String! document: Document documentVersion: Int }
"""Form 01: receipt and appointment."""
type DossierReceipt {
  code: String!
  receiveTime: DateTime
  dueTime: DateTime
  agency: Agency
  official: Account
}
"""Form 02."""
type SupplementRequest {
  defects: [String!]!
  reason: String
  guidance: String
  requestTime: DateTime
  answerTime: DateTime
  official: Account
  agency: Agency
}
"""Form 04."""
type Apology {
  originalDueTime: DateTime
  newDueTime: DateTime
  reason: String
  time: DateTime
  official: Account
}
"""A line of form 06."""
type HandOver {
  stepId: String
  stepName: String
  fromAgency: Agency
  fromOfficial: Account
  toAgency: Agency
  """Null: whoever has the step's role there."""
  toOfficial: Account
  time: DateTime!
  timeliness: Timeliness
  note: String
}
type Transition {
  from: DossierState
  to: DossierState!
  """Such as `receive`."""
  event: String!
  time: DateTime!
  agency: Agency
  actor: Account
  note: String
}

type Tracking {
  code: String!
  state: DossierState!
  procedureCode: String!
  procedureName: String!
  receivingAgency: Agency
  currentAgency: Agency
  receiveTime: DateTime
  dueTime: DateTime
  finishTime: DateTime
  timeliness: Timeliness
  steps: [TrackingStep!]!
}
type TrackingStep { state: DossierState! time: DateTime! agency: Agency }

type Statistics {
  carriedOver: Long!
  newlyReceived: Long!
  handledEarly: Long!
  handledOnTime: Long!
  handledOverdue: Long!
  inProcessInTime: Long!
  inProcessOverdue: Long!
  paused: Long!
  online: Long!
  paidOnline: Long!
  rated: Long!
  """Sum of the ratings, 1 to 5 each."""
  ratingTotal: Long!
}

"""A document of the vault for a component of the procedure. Absent version: the newest."""
input AttachmentInput { componentId: String! documentId: ID! documentVersion: Int }
input FeeLineInput { name: String! amount: Long! currency: String! = "VND" quantity: Int! = 1 }

input CreateDossierInput {
  requestId: String
  procedureCode: String!
  caseId: String
  form: JSON
  attachments: [AttachmentInput!]
  """Code of the agency that shall receive it."""
  receivingAgency: String!
  channel: FilingChannel! = ONLINE
  """For whom a delegate or an official files; absent: the caller."""
  applicantId: ID
  supportPoint: String
}
input UpdateDossierInput {
  requestId: String
  dossierId: ID!
  caseId: String
  form: JSON
  attachments: [AttachmentInput!]
  receivingAgency: String
  etag: String
}
input SubmitDossierInput { requestId: String dossierId: ID! etag: String }
input SupplementDossierInput {
  requestId: String
  dossierId: ID!
  """Absent: the form stays."""
  form: JSON
  attachments: [AttachmentInput!]
  note: String
  etag: String
}
input WithdrawDossierInput { requestId: String dossierId: ID! reason: String! etag: String }
input RateDossierInput { requestId: String dossierId: ID! rating: Int! comment: String }
input ReceiveDossierInput { requestId: String dossierId: ID! note: String etag: String }
input RejectDossierInput { requestId: String dossierId: ID! reason: String! etag: String }
input RequestSupplementInput {
  requestId: String
  dossierId: ID!
  defects: [String!]!
  reason: String!
  guidance: String
  etag: String
}
input RequestPaymentInput {
  requestId: String
  dossierId: ID!
  """What the procedure's fee counts, such as 12 of `page`."""
  quantities: [QuantityInput!]
  """Only where the catalogue does not know the fee."""
  lines: [FeeLineInput!]
  etag: String
}
input HandOffInput {
  requestId: String
  dossierId: ID!
  toAgency: String!
  toOfficialId: ID
  note: String
  etag: String
}
input CompleteStepInput {
  requestId: String
  dossierId: ID!
  """Must be the current one, so that no step is completed twice."""
  stepId: String!
  note: String
  etag: String
}
input ExtendDeadlineInput {
  requestId: String
  dossierId: ID!
  newDueTime: DateTime!
  reason: String!
  etag: String
}
input StopDossierInput { requestId: String dossierId: ID! reason: String! etag: String }
input DeclineWithdrawalInput { requestId: String dossierId: ID! reason: String! etag: String }
input SignResultInput {
  requestId: String
  dossierId: ID!
  """A document uploaded with purpose RESULT."""
  documentId: ID!
  note: String
  etag: String
}
input HandOverResultInput { requestId: String dossierId: ID! note: String etag: String }
''')
part.enum(
    "DossierState", pb.DossierState, "The ten national states, and our DRAFT and WITHDRAWN beside them."
)
part.enum("FilingChannel", pb.FilingChannel, "Ways of filing.")
part.enum("Timeliness", pb.Timeliness, "Against the due time.")
part.enum("DueFilter", pb.DueFilter, "SOON is within two working days.")
part.type("Dossier", pb.Dossier, key="id")
part.type("Attachment", pb.Attachment)
part.type("DossierReceipt", pb.Receipt)
part.type("SupplementRequest", pb.SupplementRequest)
part.type("Apology", pb.Apology)
part.type("HandOver", pb.HandOver)
part.type("Transition", pb.Transition)
part.type("Tracking", pb.TrackDossierResponse)
part.type("TrackingStep", pb.TrackDossierResponse.Step)
part.type("Statistics", pb.GetStatisticsResponse)
connection(part, "Dossier")


@part.resolve("Query.track")
async def track(_root: None, info: Info, code: str) -> Any:
    context: Context = info.context
    request = pb.TrackDossierRequest(code=code, client_address=context.client_address)
    return await absent_is_null(context.call(context.services.dossier.TrackDossier, request))


@part.resolve("Query.worklist")
async def worklist(
    _root: None,
    info: Info,
    first: int,
    mine: bool,
    states: list[Any] | None = None,
    due: Any = None,
    agency: str | None = None,
    after: str | None = None,
) -> Page:
    context: Context = info.context

    async def fetch(size: int, token: str) -> Any:
        request = pb.ListWorklistRequest(
            agency=agency or "", states=states, due=due, mine=mine, page_size=size, page_token=token
        )
        reply = await context.call(context.services.dossier.ListWorklist, request)
        return reply.dossiers, reply.next_page_token, None

    return await connect(first, after, fetch)


@part.resolve("Query.statistics")
async def statistics(_root: None, info: Info, from_: str, to: str, agency: str | None = None) -> Any:
    context: Context = info.context
    request = pb.GetStatisticsRequest(**{"from": from_, "to": to, "agency": agency or ""})
    return await context.call(context.services.dossier.GetStatistics, request)


@part.resolve("Account.dossiers")
async def dossiers(
    account: identity.Account,
    info: Info,
    first: int,
    states: list[Any] | None = None,
    after: str | None = None,
) -> Page:
    context: Context = info.context

    async def fetch(size: int, token: str) -> Any:
        request = pb.ListDossiersRequest(
            applicant_id=other(context, account), states=states, page_size=size, page_token=token
        )
        reply = await context.call(context.services.dossier.ListDossiers, request)
        return reply.dossiers, reply.next_page_token, None

    return await connect(first, after, fetch)


async def dossier_changed(context: Context, id: str) -> AsyncIterator[pb.Dossier]:
    """The source of `dossierChanged`: the dossier is read as the caller each time, so the right to see it is checked
    at the start and at every event. Ends with the NotFound or Forbidden of the first reading that fails."""
    key = from_global(id, "Dossier")
    async with context.live.watch_dossier(key) as changes:
        request = pb.GetDossierRequest(id=key)
        yield (await context.call(context.services.dossier.GetDossier, request)).dossier
        async for _ in changes:
            yield (await context.call(context.services.dossier.GetDossier, request)).dossier


def account(attribute: str) -> Any:
    """A resolver of the account whose id the message has in that field."""
    return lambda message, info: info.context.accounts.load(getattr(message, attribute))


def agency(attribute: str) -> Any:
    """A resolver of the agency whose code the message has in that field."""
    return lambda message, info: info.context.agencies.load(getattr(message, attribute))


part.resolve("Dossier.procedure")(
    lambda dossier, info: info.context.procedure_summaries.load(
        f"{dossier.procedure_code}@{dossier.procedure_version}"
    )
)
part.resolve("Dossier.charges")(lambda dossier, info: info.context.charges.many(dossier.charge_ids))
part.resolve("Dossier.resultDocuments")(
    lambda dossier, info: info.context.documents.many(dossier.result_document_ids)
)
part.resolve("Attachment.document")(
    lambda attachment, info: info.context.documents.load(attachment.document_id)
)
for _type in ("DossierReceipt", "SupplementRequest", "Apology"):
    part.resolve(f"{_type}.official")(account("official_id"))
for _field in ("applicant", "filedBy", "assignee"):
    part.resolve(f"Dossier.{_field}")(account({"filedBy": "filed_by_id"}.get(_field, f"{_field}_id")))
for _field, _attribute in (
    ("receivingAgency", "receiving_agency"),
    ("decidingAgency", "deciding_agency"),
    ("currentAgency", "current_agency"),
):
    part.resolve(f"Dossier.{_field}")(agency(_attribute))
part.resolve("Tracking.receivingAgency")(agency("receiving_agency"))
part.resolve("Tracking.currentAgency")(agency("current_agency"))
for _type in ("DossierReceipt", "SupplementRequest", "Transition", "TrackingStep"):
    part.resolve(f"{_type}.agency")(agency("agency"))
part.resolve("HandOver.fromAgency")(agency("from_agency"))
part.resolve("HandOver.toAgency")(agency("to_agency"))
part.resolve("HandOver.fromOfficial")(account("from_official_id"))
part.resolve("HandOver.toOfficial")(account("to_official_id"))
part.resolve("Transition.actor")(account("actor_id"))
part.resolve("Transition.from")(never_waits(lambda transition, _info: getattr(transition, "from") or None))


def _act(name: str, request: type[Message], description: str, *, subject: str = "dossierId") -> None:
    """A mutation that is the RPC of its name and answers the dossier."""
    method = name[0].upper() + name[1:]
    rpc(
        part,
        name,
        "Dossier",
        description,
        method=lambda context: getattr(context.services.dossier, method),
        request=request,
        answer=lambda reply: reply.dossier,
        subject=subject,
    )


_act("createDossier", pb.CreateDossierRequest, "Starts a draft.", subject="")
_act("updateDossier", pb.UpdateDossierRequest, "Changes a draft.")
_act("submitDossier", pb.SubmitDossierRequest, "Files a draft.")
_act("supplementDossier", pb.SupplementDossierRequest, "Answers a supplement request.")
_act(
    "withdrawDossier",
    pb.WithdrawDossierRequest,
    "Takes a dossier back, or asks the agency for it once received.",
)
_act("rateDossier", pb.RateDossierRequest, "Rates a finished dossier, 1 to 5.")
_act("receiveDossier", pb.ReceiveDossierRequest, "Receives a dossier: code and receipt.")
_act("rejectDossier", pb.RejectDossierRequest, "Refuses a newly filed dossier.")
_act("requestSupplement", pb.RequestSupplementRequest, "Asks the applicant for what is missing.")
_act("requestPayment", pb.RequestPaymentRequest, "Asks for the procedure's fee.")
_act("handOff", pb.HandOffRequest, "Hands the dossier to another official or agency.")
_act("completeStep", pb.CompleteStepRequest, "Completes the current step.")
_act("extendDeadline", pb.ExtendDeadlineRequest, "Apologises once, with a new due time.")
_act("stopDossier", pb.StopDossierRequest, "Stops processing, or accepts a withdrawal.")
_act("declineWithdrawal", pb.DeclineWithdrawalRequest, "Refuses a withdrawal.")
_act("signResult", pb.SignResultRequest, "Approves the result; it goes into the applicant's vault.")
_act("handOverResult", pb.HandOverResultRequest, "Hands the result over.")
