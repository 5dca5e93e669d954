"""The gRPC API of the catalogue: protobuf to handlers and back."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import grpc
from google.protobuf import json_format, struct_pb2, timestamp_pb2

from catalog import handlers
from catalog.calendar import TimeLimit, TimeUnit
from catalog.domain import (
    Case,
    Channel,
    Component,
    Content,
    FeeNeededBy,
    FeeRule,
    ImportOutcome,
    Level,
    Mode,
    Problem,
    Result,
    Source,
    Step,
    Version,
)
from catalog.handlers import Draft, Found, Ports, Tally
from catalog.search import Entry
from kit.clock import to_ms
from kit.errors import FieldViolation, InvalidInput
from kit.grpc_server import current_caller
from kit.money import CURRENCY
from kit.mongo import Request
from kit.text import nfc, typed
from motcua.catalog.v1 import catalog_pb2 as pb
from motcua.catalog.v1 import catalog_pb2_grpc

_KEPT = 512  # messages
_LEVELS = {
    pb.PROCEDURE_LEVEL_MINISTRY: Level.MINISTRY,
    pb.PROCEDURE_LEVEL_PROVINCE: Level.PROVINCE,
    pb.PROCEDURE_LEVEL_COMMUNE: Level.COMMUNE,
    pb.PROCEDURE_LEVEL_OTHER: Level.OTHER,
}
_CHANNELS = {
    pb.CHANNEL_UNSPECIFIED: Channel.ANY,
    pb.CHANNEL_ONLINE: Channel.ONLINE,
    pb.CHANNEL_COUNTER: Channel.COUNTER,
    pb.CHANNEL_POST: Channel.POST,
}
_UNITS = {
    pb.TIME_UNIT_WORKING_DAY: TimeUnit.WORKING_DAY,
    pb.TIME_UNIT_DAY: TimeUnit.DAY,
    pb.TIME_UNIT_HOUR: TimeUnit.HOUR,
}
_FEE_NEEDED_BY = {
    pb.FEE_NEEDED_BY_UNSPECIFIED: FeeNeededBy.UNSAID,
    pb.FEE_NEEDED_BY_EXAMINATION: FeeNeededBy.EXAMINATION,
    pb.FEE_NEEDED_BY_RESULT: FeeNeededBy.RESULT,
    pb.FEE_NEEDED_BY_NEVER: FeeNeededBy.NEVER,
}
_LEVEL_OUT = {level: number for number, level in _LEVELS.items()}
_CHANNEL_OUT = {channel: number for number, channel in _CHANNELS.items()}
_UNIT_OUT = {unit: number for number, unit in _UNITS.items()}
_FEE_NEEDED_BY_OUT = {value: number for number, value in _FEE_NEEDED_BY.items()}


class CatalogApi(catalog_pb2_grpc.CatalogServiceServicer):
    """The servicer."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._messages: OrderedDict[tuple[str, int], pb.Procedure] = OrderedDict()

    def _message(self, found: Found) -> pb.Procedure:
        """The message of a version, which never changes: made once and kept within a bound, since a form
        takes
        a millisecond to make."""
        key = found.code, found.version.number
        message = self._messages.get(key)
        if message is None:
            message = self._messages[key] = to_message(found.code, found.version)
            if len(self._messages) > _KEPT:
                self._messages.popitem(last=False)
        self._messages.move_to_end(key)
        if not found.etag:
            return message
        own = pb.Procedure(etag=found.etag)
        own.MergeFrom(message)
        return own

    async def SearchProcedures(
        self, request: pb.SearchProceduresRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.SearchProceduresResponse:
        hits = await handlers.search(
            self._ports,
            current_caller(),
            request.query,
            field=request.field,
            level=_level(request.level, "level") if request.level else None,
            audience=request.audience,
            size=request.page_size,
            token=request.page_token,
        )
        return pb.SearchProceduresResponse(
            procedures=[_summary(entry) for entry in hits.entries],
            next_page_token=hits.next_token,
            total_size=hits.total,
        )

    async def GetProcedure(
        self, request: pb.GetProcedureRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetProcedureResponse:
        found = await handlers.get(self._ports, current_caller(), request.code, request.version)
        return pb.GetProcedureResponse(procedure=self._message(found))

    async def BatchGetProcedures(
        self, request: pb.BatchGetProceduresRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.BatchGetProceduresResponse:
        found = await handlers.batch(self._ports, current_caller(), list(request.names))
        make = _brief if request.summary_only else self._message
        return pb.BatchGetProceduresResponse(procedures=[make(each) for each in found])

    async def ListFields(
        self, request: pb.ListFieldsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListFieldsResponse:
        counted = await handlers.fields(self._ports, current_caller())
        return pb.ListFieldsResponse(
            fields=[pb.ListFieldsResponse.Field(name=name, procedures=count) for name, count in counted]
        )

    async def PutProcedure(
        self, request: pb.PutProcedureRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PutProcedureResponse:
        caller = current_caller()
        found = await handlers.put(
            self._ports,
            caller,
            from_message(request.procedure),
            request=Request.of(caller, request.request_id, request),
        )
        return pb.PutProcedureResponse(procedure=self._message(found))

    async def ImportProcedures(
        self,
        request_iterator: AsyncIterator[pb.ImportProceduresRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.ImportProceduresResponse:
        whole = Tally()
        async for request in request_iterator:
            tally = await handlers.import_records(self._ports, current_caller(), list(request.records))
            whole.outcomes.update(tally.outcomes)
            whole.problems += tally.problems
        return pb.ImportProceduresResponse(
            created=whole.outcomes[ImportOutcome.CREATED],
            updated=whole.outcomes[ImportOutcome.UPDATED],
            unchanged=whole.outcomes[ImportOutcome.UNCHANGED],
            kept_curated=whole.outcomes[ImportOutcome.KEPT_CURATED],
            refused=whole.outcomes[ImportOutcome.REFUSED],
            problems=[_problem(code, problem) for code, problem in whole.problems],
        )

    async def QuoteFee(
        self, request: pb.QuoteFeeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.QuoteFeeResponse:
        priced = await handlers.quote_fee(
            self._ports,
            current_caller(),
            request.code,
            request.version,
            _channel(request.channel, "channel"),
            dict(request.quantities),
            _date(request.on_date, "on_date"),
        )
        return pb.QuoteFeeResponse(
            lines=[
                pb.FeeLine(name=line.name, amount=line.amount, currency=CURRENCY, quantity=line.quantity)
                for line in priced.quote.lines
            ],
            total=priced.quote.total,
            currency=CURRENCY,
            refundable_on_rejection=priced.refundable,
            known=priced.quote.known,
        )

    async def ComputeDue(
        self, request: pb.ComputeDueRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ComputeDueResponse:
        if not request.HasField("limit"):
            raise InvalidInput(violations=[FieldViolation("limit", "REQUIRED")])
        due = await handlers.compute_due(
            self._ports,
            current_caller(),
            _instant(request, "start_time"),
            _limit(request.limit, "limit"),
        )
        return pb.ComputeDueResponse(due_time=_timestamp(due.at), counted_from=due.counted_from.isoformat())

    async def CountWorkingDays(
        self, request: pb.CountWorkingDaysRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CountWorkingDaysResponse:
        days = await handlers.count_working_days(
            self._ports, current_caller(), _instant(request, "start_time"), _instant(request, "end_time")
        )
        return pb.CountWorkingDaysResponse(days=days)

    async def GetCalendar(
        self, request: pb.GetCalendarRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetCalendarResponse:
        year = await handlers.calendar_of(self._ports, current_caller(), request.year)
        return pb.GetCalendarResponse(
            holidays=[
                pb.GetCalendarResponse.Holiday(
                    date=holiday.date.isoformat(),
                    name=holiday.name,
                    name_en=holiday.name_en,
                    compensation=holiday.compensation,
                )
                for holiday in year.holidays
            ],
            working_rest_days=[day.isoformat() for day in year.working_rest_days],
        )


def to_message(code: str, version: Version) -> pb.Procedure:
    """A version as the API shows it, without an etag."""
    content = version.content
    message = pb.Procedure(
        code=code,
        version=version.number,
        name=content.name,
        name_en=content.name_en,
        field=content.field,
        decision=content.decision,
        levels=[_LEVEL_OUT[level] for level in content.levels],
        kind=content.kind,
        audience=content.audience,
        ministry=content.ministry,
        competent_authority=content.competent_authority,
        coordinating_agency=content.coordinating_agency,
        steps_text=content.steps_text,
        modes=[_mode(mode) for mode in content.modes],
        fees=[_fee(rule) for rule in content.fees],
        cases=[_case(case) for case in content.cases],
        steps=[
            pb.ProcessingStep(
                id=step.id,
                name=step.name,
                name_en=step.name_en,
                role=step.role,
                agency=step.agency,
                working_hours=step.working_hours,
            )
            for step in content.steps
        ],
        results=[
            pb.ProcedureResult(name=result.name, code=result.code, document_type=result.document_type)
            for result in content.results
        ],
        legal_bases=content.legal_bases,
        conditions=content.conditions,
        effective_from=version.effective_from.isoformat(),
        effective_to=version.effective_to.isoformat() if version.effective_to else "",
        refundable_on_rejection=content.refundable_on_rejection,
        fee_needed_by=_FEE_NEEDED_BY_OUT[content.fee_needed_by],
        curated=version.source is Source.CURATED,
        problems=[_problem(code, problem) for problem in content.problems],
    )
    if content.form:
        message.form.update(json.loads(content.form))
    return message


def _brief(found: Found) -> pb.Procedure:
    content = found.version.content
    return pb.Procedure(
        code=found.code,
        version=found.version.number,
        name=content.name,
        field=content.field,
        levels=[_LEVEL_OUT[level] for level in content.levels],
        audience=content.audience,
    )


def _summary(entry: Entry) -> pb.ProcedureSummary:
    return pb.ProcedureSummary(
        code=entry.code,
        version=entry.version,
        name=entry.name,
        field=entry.field,
        levels=[_LEVEL_OUT[level] for level in entry.levels],
        audience=entry.audience,
        curated=entry.curated,
    )


def _mode(mode: Mode) -> pb.FilingMode:
    limit = mode.time_limit
    return pb.FilingMode(
        channel=_CHANNEL_OUT[mode.channel],
        time_limit=pb.TimeLimit(amount=limit.amount, unit=_UNIT_OUT[limit.unit]) if limit else None,
        raw_time_limit=mode.raw_time_limit,
        raw_fee=mode.raw_fee,
        note=mode.note,
    )


def _fee(rule: FeeRule) -> pb.FeeRule:
    return pb.FeeRule(
        name=rule.name,
        channel=_CHANNEL_OUT[rule.channel],
        amount=rule.amount,
        unit=rule.unit,
        from_unit=rule.from_unit,
        cap=rule.cap,
        percent_of_counter=rule.percent_of_counter,
        valid_from=rule.valid_from.isoformat() if rule.valid_from else "",
        valid_to=rule.valid_to.isoformat() if rule.valid_to else "",
    )


def _case(case: Case) -> pb.ComponentCase:
    return pb.ComponentCase(
        id=case.id,
        name=case.name,
        components=[
            pb.Component(
                id=component.id,
                name=component.name,
                originals=component.originals,
                copies=component.copies,
                required=component.required,
                code=component.code,
                document_types=component.document_types,
            )
            for component in case.components
        ],
    )


def _problem(code: str, problem: Problem) -> pb.ImportProblem:
    return pb.ImportProblem(code=code, field=problem.field, raw=problem.raw, reason=problem.reason)


def from_message(message: pb.Procedure) -> Draft:
    """A version that someone wants to put. Raises InvalidInput for enums and dates that are none."""
    path = "procedure"
    content = Content(
        name=" ".join(message.name.split()),
        name_en=message.name_en.strip(),
        field=" ".join(message.field.split()),
        levels=tuple(dict.fromkeys(_level(level, f"{path}.levels") for level in message.levels)),
        modes=tuple(
            Mode(
                channel=_channel(mode.channel, f"{path}.modes[{index}].channel"),
                time_limit=(
                    _limit(mode.time_limit, f"{path}.modes[{index}].time_limit")
                    if mode.HasField("time_limit")
                    else None
                ),
                raw_time_limit=mode.raw_time_limit,
                raw_fee=mode.raw_fee,
                note=mode.note,
            )
            for index, mode in enumerate(message.modes)
        ),
        decision=message.decision,
        kind=message.kind,
        audience=tuple(message.audience),
        ministry=message.ministry,
        competent_authority=message.competent_authority,
        coordinating_agency=message.coordinating_agency,
        steps_text=message.steps_text,
        fees=tuple(
            FeeRule(
                name=rule.name,
                channel=_channel(rule.channel, f"{path}.fees[{index}].channel"),
                amount=rule.amount,
                unit=rule.unit,
                from_unit=rule.from_unit or 1,
                cap=rule.cap,
                percent_of_counter=rule.percent_of_counter,
                valid_from=_date(rule.valid_from, f"{path}.fees[{index}].valid_from"),
                valid_to=_date(rule.valid_to, f"{path}.fees[{index}].valid_to"),
            )
            for index, rule in enumerate(message.fees)
        ),
        cases=tuple(
            Case(
                id=case.id,
                name=case.name,
                components=tuple(
                    Component(
                        id=component.id,
                        name=component.name,
                        originals=component.originals,
                        copies=component.copies,
                        required=component.required,
                        code=component.code,
                        document_types=tuple(component.document_types),
                    )
                    for component in case.components
                ),
            )
            for case in message.cases
        ),
        steps=tuple(
            Step(step.id, step.name, step.name_en, step.role, step.agency, step.working_hours)
            for step in message.steps
        ),
        results=tuple(Result(result.name, result.code, result.document_type) for result in message.results),
        legal_bases=tuple(message.legal_bases),
        conditions=message.conditions,
        form=canonical(message.form) if message.form.fields else "",
        refundable_on_rejection=message.refundable_on_rejection,
        fee_needed_by=_fee_needed_by(message.fee_needed_by),
    )
    return Draft(
        code=message.code,
        content=replace(_composed(content), form=nfc(content.form)),  # whose patterns are no words
        curated=message.curated,
        effective_from=_date(message.effective_from, f"{path}.effective_from"),
        effective_to=_date(message.effective_to, f"{path}.effective_to"),
        etag=message.etag,
    )


def _composed(value: Any) -> Any:
    """The same with all of its text cleaned."""
    if type(value) is str:
        return typed(value)
    if isinstance(value, tuple):
        return tuple(_composed(inner) for inner in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _composed(getattr(value, each.name)) for each in fields(value)})
    return value


def canonical(form: struct_pb2.Struct) -> str:
    """A form as JSON text: sorted keys, and whole numbers as integers, since a Struct knows only doubles."""
    return json.dumps(_whole(json_format.MessageToDict(form)), ensure_ascii=False, sort_keys=True)


def _whole(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _level(number: int, path: str) -> Level:
    if number not in _LEVELS:
        raise InvalidInput(violations=[FieldViolation(path, "UNKNOWN")])
    return _LEVELS[number]  # type: ignore[index]


def _channel(number: int, path: str) -> Channel:
    if number not in _CHANNELS:
        raise InvalidInput(violations=[FieldViolation(path, "UNKNOWN")])
    return _CHANNELS[number]  # type: ignore[index]


def _limit(limit: pb.TimeLimit, path: str) -> TimeLimit:
    if limit.unit not in _UNITS:
        raise InvalidInput(violations=[FieldViolation(f"{path}.unit", "REQUIRED")])
    return TimeLimit(limit.amount, _UNITS[limit.unit])


def _date(text: str, path: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise InvalidInput(violations=[FieldViolation(path, "NOT_A_DATE", "YYYY-MM-DD")]) from None


def _instant(request: pb.ComputeDueRequest | pb.CountWorkingDaysRequest, name: str) -> datetime:
    if not request.HasField(name):  # type: ignore[arg-type]
        raise InvalidInput(violations=[FieldViolation(name, "REQUIRED")])
    try:
        return to_ms(getattr(request, name).ToDatetime(UTC))
    except (ValueError, OverflowError):
        raise InvalidInput(violations=[FieldViolation(name, "OUT_OF_RANGE")]) from None


def _timestamp(instant: datetime) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(instant)
    return stamp


def _fee_needed_by(number: int) -> FeeNeededBy:
    if number not in _FEE_NEEDED_BY:
        raise InvalidInput(violations=[FieldViolation("procedure.fee_needed_by", "UNKNOWN_VALUE")])
    return _FEE_NEEDED_BY[number]  # type: ignore[index]
