"""The gRPC API of dossiers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC
from typing import Any

from google.protobuf.json_format import MessageToDict

from dossier import wire
from dossier.domain.records import Attachment, Channel, FeeLine
from dossier.domain.states import State
from dossier.handlers import Ports, filing, office, overview
from dossier.handlers.sight import View
from kit.clock import to_ms
from kit.errors import FieldViolation, InvalidInput
from kit.grpc_server import current_caller
from kit.mongo import Request
from motcua.dossier.v1 import dossier_pb2 as pb
from motcua.dossier.v1.dossier_pb2_grpc import DossierServiceServicer

_AT_ONCE = 10  # dossiers read before it is looked at how large the answer has become
_MOST_BYTES = 2 * 1024 * 1024  # of a page or a batch


class DossierApi(DossierServiceServicer):
    """Turns requests into calls of handlers, and what they answer into messages."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    async def CreateDossier(self, request: pb.CreateDossierRequest, context: Any) -> pb.CreateDossierResponse:
        view = await filing.create_dossier(
            self._ports,
            current_caller(),
            procedure_code=request.procedure_code,
            case=request.case_id,
            form=_form(request),
            attachments=_attachments(request.attachments),
            receiving_agency=request.receiving_agency,
            channel=_channel(request.channel),
            applicant=request.applicant_id,
            support_point=request.support_point,
            request=_remember(request),
        )
        return pb.CreateDossierResponse(dossier=self._message(view))

    async def UpdateDossier(self, request: pb.UpdateDossierRequest, context: Any) -> pb.UpdateDossierResponse:
        view = await filing.update_dossier(
            self._ports,
            current_caller(),
            request.id,
            case=request.case_id,
            form=_form(request),
            attachments=_attachments(request.attachments),
            receiving_agency=request.receiving_agency,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.UpdateDossierResponse(dossier=self._message(view))

    async def SubmitDossier(self, request: pb.SubmitDossierRequest, context: Any) -> pb.SubmitDossierResponse:
        view = await filing.submit_dossier(
            self._ports, current_caller(), request.id, request=_remember(request), etag=request.etag
        )
        return pb.SubmitDossierResponse(dossier=self._message(view))

    async def SupplementDossier(
        self, request: pb.SupplementDossierRequest, context: Any
    ) -> pb.SupplementDossierResponse:
        view = await filing.supplement_dossier(
            self._ports,
            current_caller(),
            request.id,
            form=_form(request) if request.HasField("form") or request.HasField("form_json") else None,
            attachments=_attachments(request.attachments),
            note=request.note,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.SupplementDossierResponse(dossier=self._message(view))

    async def WithdrawDossier(
        self, request: pb.WithdrawDossierRequest, context: Any
    ) -> pb.WithdrawDossierResponse:
        view = await filing.withdraw_dossier(
            self._ports,
            current_caller(),
            request.id,
            reason=request.reason,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.WithdrawDossierResponse(dossier=self._message(view))

    async def RateDossier(self, request: pb.RateDossierRequest, context: Any) -> pb.RateDossierResponse:
        view = await filing.rate_dossier(
            self._ports,
            current_caller(),
            request.id,
            rating=request.rating,
            comment=request.comment,
            request=_remember(request),
        )
        return pb.RateDossierResponse(dossier=self._message(view))

    async def ReceiveDossier(
        self, request: pb.ReceiveDossierRequest, context: Any
    ) -> pb.ReceiveDossierResponse:
        view = await office.receive_dossier(
            self._ports,
            current_caller(),
            request.id,
            note=request.note,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.ReceiveDossierResponse(dossier=self._message(view))

    async def RejectDossier(self, request: pb.RejectDossierRequest, context: Any) -> pb.RejectDossierResponse:
        view = await office.reject_dossier(
            self._ports,
            current_caller(),
            request.id,
            reason=request.reason,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.RejectDossierResponse(dossier=self._message(view))

    async def RequestSupplement(
        self, request: pb.RequestSupplementRequest, context: Any
    ) -> pb.RequestSupplementResponse:
        view = await office.request_supplement(
            self._ports,
            current_caller(),
            request.id,
            defects=request.defects,
            reason=request.reason,
            guidance=request.guidance,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.RequestSupplementResponse(dossier=self._message(view))

    async def RequestPayment(
        self, request: pb.RequestPaymentRequest, context: Any
    ) -> pb.RequestPaymentResponse:
        view = await office.request_payment(
            self._ports,
            current_caller(),
            request.id,
            quantities=dict(request.quantities),
            lines=[FeeLine(line.name, line.amount, line.quantity, line.currency) for line in request.lines],
            request=_remember(request),
            etag=request.etag,
        )
        return pb.RequestPaymentResponse(dossier=self._message(view))

    async def HandOff(self, request: pb.HandOffRequest, context: Any) -> pb.HandOffResponse:
        view = await office.hand_off(
            self._ports,
            current_caller(),
            request.id,
            agency=request.to_agency,
            to_official=request.to_official_id,
            to_step=request.to_step_id,
            note=request.note,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.HandOffResponse(dossier=self._message(view))

    async def CompleteStep(self, request: pb.CompleteStepRequest, context: Any) -> pb.CompleteStepResponse:
        view = await office.complete_step(
            self._ports,
            current_caller(),
            request.id,
            step=request.step_id,
            note=request.note,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.CompleteStepResponse(dossier=self._message(view))

    async def ExtendDeadline(
        self, request: pb.ExtendDeadlineRequest, context: Any
    ) -> pb.ExtendDeadlineResponse:
        if not request.HasField("new_due_time"):
            raise _bad("new_due_time", "REQUIRED")
        try:
            due = to_ms(request.new_due_time.ToDatetime(UTC))
        except (ValueError, OverflowError):
            raise _bad("new_due_time", "BAD_TIME") from None
        view = await office.extend_deadline(
            self._ports,
            current_caller(),
            request.id,
            due=due,
            reason=request.reason,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.ExtendDeadlineResponse(dossier=self._message(view))

    async def StopDossier(self, request: pb.StopDossierRequest, context: Any) -> pb.StopDossierResponse:
        view = await office.stop_dossier(
            self._ports,
            current_caller(),
            request.id,
            reason=request.reason,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.StopDossierResponse(dossier=self._message(view))

    async def DeclineWithdrawal(
        self, request: pb.DeclineWithdrawalRequest, context: Any
    ) -> pb.DeclineWithdrawalResponse:
        view = await office.decline_withdrawal(
            self._ports,
            current_caller(),
            request.id,
            reason=request.reason,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.DeclineWithdrawalResponse(dossier=self._message(view))

    async def SignResult(self, request: pb.SignResultRequest, context: Any) -> pb.SignResultResponse:
        view = await office.sign_result(
            self._ports,
            current_caller(),
            request.id,
            document=request.document_id,
            note=request.note,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.SignResultResponse(dossier=self._message(view))

    async def HandOverResult(
        self, request: pb.HandOverResultRequest, context: Any
    ) -> pb.HandOverResultResponse:
        view = await office.hand_over_result(
            self._ports,
            current_caller(),
            request.id,
            note=request.note,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.HandOverResultResponse(dossier=self._message(view))

    async def GetDossier(self, request: pb.GetDossierRequest, context: Any) -> pb.GetDossierResponse:
        view = await overview.get_dossier(self._ports, current_caller(), request.id)
        return pb.GetDossierResponse(dossier=self._message(view))

    async def BatchGetDossiers(
        self, request: pb.BatchGetDossiersRequest, context: Any
    ) -> pb.BatchGetDossiersResponse:
        wanted, caller = list(dict.fromkeys(request.ids)), current_caller()
        answer, size = pb.BatchGetDossiersResponse(), 0
        if len(wanted) > 100:
            raise InvalidInput("TOO_MANY", "at most 100 at once")
        for start in range(0, len(wanted), _AT_ONCE):
            if size > _MOST_BYTES:
                answer.left_out_ids.extend(wanted[start:])
                break
            views = await overview.batch_get_dossiers(
                self._ports, caller, wanted[start : start + _AT_ONCE], forms=request.with_forms
            )
            for view in views:
                message = wire.dossier(view, self._ports.clock(), form=request.with_forms)
                size += message.ByteSize()
                answer.dossiers.append(message)
        return answer

    async def ListDossiers(self, request: pb.ListDossiersRequest, context: Any) -> pb.ListDossiersResponse:
        listed = await overview.list_dossiers(
            self._ports,
            current_caller(),
            applicant=request.applicant_id,
            states=_states(request.states),
            size=request.page_size,
            token=request.page_token,
        )
        messages, token = self._page(listed)
        return pb.ListDossiersResponse(dossiers=messages, next_page_token=token)

    async def ListWorklist(self, request: pb.ListWorklistRequest, context: Any) -> pb.ListWorklistResponse:
        try:
            due = overview.Due(request.due)
        except ValueError:
            raise _bad("due", "UNKNOWN_FILTER") from None
        listed = await overview.list_worklist(
            self._ports,
            current_caller(),
            agency=request.agency,
            states=_states(request.states),
            due=due,
            mine=request.mine,
            size=request.page_size,
            token=request.page_token,
        )
        messages, token = self._page(listed)
        return pb.ListWorklistResponse(dossiers=messages, next_page_token=token)

    async def TrackDossier(self, request: pb.TrackDossierRequest, context: Any) -> pb.TrackDossierResponse:
        found = await overview.track_dossier(
            self._ports, current_caller(), code=request.code, address=request.client_address
        )
        return wire.tracked(found)

    async def GetStatistics(self, request: pb.GetStatisticsRequest, context: Any) -> pb.GetStatisticsResponse:
        counted = await overview.get_statistics(
            self._ports,
            current_caller(),
            first=getattr(request, "from"),
            last=request.to,
            agency=request.agency,
        )
        return wire.statistics(counted)

    def _message(self, view: View) -> pb.Dossier:
        return wire.dossier(view, self._ports.clock())

    def _page(self, listed: overview.Listed) -> tuple[list[pb.Dossier], str]:
        """The messages of a list's page and the token of what follows; the page ends early where it would
        become too large."""
        messages: list[pb.Dossier] = []
        size, last = 0, ""
        for view, after in listed.views:
            message = wire.dossier(view, self._ports.clock(), form=False)
            size += message.ByteSize()
            if messages and size > _MOST_BYTES:
                return messages, last
            messages.append(message)
            last = after
        return messages, listed.next_token


def _remember(request: Any) -> Request | None:
    return Request.of(current_caller(), request.request_id, request)


def _form(request: Any) -> dict[str, Any]:
    """The form of a request: JSON text, or the Struct of those who write no text yet."""
    try:
        if request.HasField("form_json"):
            form = json.loads(request.form_json, parse_constant=_no_number)
        else:
            form = _whole(MessageToDict(request.form))
    except (ValueError, RecursionError):  # infinity and NaN too, which JSON does not know
        raise _bad("form", "NOT_JSON") from None
    if not isinstance(form, dict):
        raise _bad("form", "JSON_INVALID")
    return form


def _no_number(text: str) -> Any:
    raise ValueError(text)


def _whole(value: Any) -> Any:
    """Whole numbers as such: protobuf's Struct knows only doubles."""
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _attachments(messages: Iterable[pb.Attachment]) -> list[Attachment]:
    return [Attachment(m.component_id, m.document_id, m.document_version) for m in messages]


def _channel(number: int) -> Channel | None:
    try:
        return Channel(number) if number else None
    except ValueError:
        raise _bad("channel", "UNKNOWN_CHANNEL") from None


def _states(numbers: Iterable[int]) -> list[State]:
    try:
        return [State(number) for number in numbers]
    except ValueError:
        raise _bad("states", "UNKNOWN_STATE") from None


def _bad(field: str, reason: str) -> InvalidInput:
    return InvalidInput(violations=[FieldViolation(field, reason)])
