"""Procedures: search, one in full, and what filing costs."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

import strawberry

from gateway.binding import enum, reader, view
from gateway.execution import Resolver, never_waits
from gateway.ids import to_global
from gateway.relay import connect
from gateway.scalars import JSON, Date
from gateway.schema.base import (
    Amount,
    Edge,
    Info,
    Money,
    Node,
    PageInfo,
    absent_is_null,
    edges,
    one,
    plain,
    resolver,
)
from gateway.schema.refs import AgencyRef
from motcua.catalog.v1 import catalog_pb2 as pb

if TYPE_CHECKING:
    from gateway.context import Context


Listed = pb.ProcedureSummary | pb.Procedure


@enum(pb.Channel, "CHANNEL_")
class FilingChannel(IntEnum):
    """Ways of filing."""

    ONLINE = 1
    COUNTER = 2
    POST = 3


def _in_full(attribute: str, *, nullable: bool = True, description: str | None = None) -> Any:
    """A field that summaries lack: from the procedure itself, loaded if need be."""
    read: Resolver = reader(pb.Procedure, attribute, nullable=nullable)

    def resolve(self: Any, info: Info) -> Any:
        return read(self, info) if isinstance(self, pb.Procedure) else later(self, info)

    async def later(listed: pb.ProcedureSummary, info: Info) -> Any:
        full = info.context.procedures.load(f"{listed.code}@{listed.version}")
        return read(await full if hasattr(full, "__await__") else full, info)

    return strawberry.field(resolver=resolve, description=description)


@enum(pb.ProcedureLevel, "PROCEDURE_LEVEL_")
class ProcedureLevel(IntEnum):
    """Levels at which a procedure is settled."""

    MINISTRY = 1
    PROVINCE = 2
    COMMUNE = 3
    OTHER = 4


@enum(pb.TimeUnit, "TIME_UNIT_")
class TimeUnit(IntEnum):
    """Units of time limits."""

    WORKING_DAY = 1
    DAY = 2
    HOUR = 3


@enum(pb.FeeNeededBy, "FEE_NEEDED_BY_")
class FeeNeededBy(IntEnum):
    """From when on a dossier does not go on without its fee, also when that was paid and given back."""

    EXAMINATION = 1
    RESULT = 2
    NEVER = 3


@view(pb.QuoteFeeResponse)
class FeeQuote:
    lines: list[FeeLine]
    total: Money = plain(lambda quote: Amount(quote.total, quote.currency))
    refundable_on_rejection: bool
    known: bool = strawberry.field(description="False when an official must set the fee.")


@view(pb.FeeLine)
class FeeLine:
    name: str
    amount: Money = plain(lambda line: line)
    quantity: int


@view(pb.ListFieldsResponse.Field)
class ProcedureField:
    name: str
    procedures: int


def _procedure_id(self: Any, info: Info) -> Any:
    return to_global("Procedure", f"{self.code}@{self.version}")


never_waits(_procedure_id)


@view(pb.ProcedureSummary, pb.Procedure)
class Procedure(Node):
    """A version of an administrative procedure."""

    id: strawberry.ID = strawberry.field(resolver=_procedure_id)
    code: str = strawberry.field(description="Such as `1.001193`.")
    version: int
    name: str
    name_en: str | None = _in_full("name_en")
    field: str
    levels: list[ProcedureLevel]
    audience: list[str]
    curated: bool = strawberry.field(description="Whether it can be filed online here.")
    decision: str | None = _in_full("decision")
    kind: str | None = _in_full("kind")
    ministry: str | None = _in_full("ministry")
    competent_authority: str | None = _in_full("competent_authority")
    coordinating_agency: str | None = _in_full("coordinating_agency")
    steps_text: str | None = _in_full("steps_text")
    modes: list[FilingMode] = _in_full("modes")
    fees: list[FeeRule] = _in_full("fees")
    cases: list[ComponentCase] = _in_full("cases")
    steps: list[ProcessingStep] = _in_full("steps")
    results: list[ProcedureResult] = _in_full("results")
    legal_bases: list[str] = _in_full("legal_bases")
    conditions: str | None = _in_full("conditions")
    form: JSON | None = _in_full("form", description="JSON Schema (2020-12) of the form.")
    effective_from: Date | None = _in_full("effective_from")
    effective_to: Date | None = _in_full("effective_to")
    refundable_on_rejection: bool = _in_full("refundable_on_rejection")
    fee_needed_by: FeeNeededBy | None = _in_full("fee_needed_by", description="Null: as RESULT.")

    @resolver(
        FeeQuote,
        description="What filing it costs. `quantities` are what the fee counts, such as 12 of `page`.",
    )
    async def quote(
        self: Any,
        info: Info,
        channel: FilingChannel = FilingChannel.ONLINE,
        quantities: list[QuantityInput] | None = None,
    ) -> Any:
        context: Context = info.context
        request = pb.QuoteFeeRequest(
            code=self.code,
            version=self.version,
            channel=channel,  # type: ignore[arg-type]
            quantities={entry.unit: entry.count for entry in quantities or ()},
        )
        return await context.call(context.services.catalog.QuoteFee, request)


@view(pb.TimeLimit)
class TimeLimit:
    amount: int
    unit: TimeUnit


@view(pb.FilingMode)
class FilingMode:
    channel: FilingChannel | None
    time_limit: TimeLimit | None = strawberry.field(
        description="Null when the record's text could not be read; see rawTimeLimit."
    )
    raw_time_limit: str | None
    raw_fee: str | None
    note: str | None


@view(pb.FeeRule)
class FeeRule:
    name: str
    channel: FilingChannel | None
    amount: Money = plain(lambda rule: Amount(rule.amount))
    unit: str | None = strawberry.field(description="What is counted, such as `page`; null for a flat fee.")
    from_unit: int | None
    cap: Money | None = plain(lambda rule: Amount(rule.cap) if rule.cap else None)
    percent_of_counter: int | None = strawberry.field(
        description="Online fees as a share of the counter fee."
    )
    valid_from: Date | None
    valid_to: Date | None


@view(pb.ComponentCase)
class ComponentCase:
    id: str
    name: str
    components: list[Component]


@view(pb.Component)
class Component:
    id: str = strawberry.field(description="Stable inside the procedure; what an attachment names.")
    name: str
    originals: int
    copies: int
    required: bool
    code: str | None
    document_types: list[str]


@view(pb.ProcessingStep)
class ProcessingStep:
    id: str
    name: str
    name_en: str | None
    role: str
    agency: AgencyRef | None = one("agencies", "agency", description="Null: the receiving agency.")
    working_hours: int | None


@view(pb.ProcedureResult)
class ProcedureResult:
    name: str
    code: str | None
    document_type: str | None


@strawberry.input(description="How many of a unit, such as 12 of `page`.")
class QuantityInput:
    unit: str
    count: int


@view()
class ProcedureConnection:
    """A page of procedures, and how many there are in all."""

    edges: list[Edge[Procedure]] = plain(lambda page: edges(page))
    nodes: list[Procedure] = plain(lambda page: page.items)
    page_info: PageInfo = plain(lambda page: page)
    total_count: int = plain(lambda page: page.total, description="How many there are in all.")


@strawberry.type
class CatalogQuery:
    """Queries of the catalogue."""

    @resolver(
        ProcedureConnection,
        description="Procedures in force, best match first; accents and case do not matter.",
    )
    async def procedures(
        self,
        info: Info,
        query: str | None = None,
        field: str | None = None,
        level: ProcedureLevel | None = None,
        audience: str | None = None,
        first: int = 20,
        after: str | None = None,
    ) -> Any:
        context: Context = info.context

        async def fetch(size: int, token: str) -> Any:
            request = pb.SearchProceduresRequest(
                query=query or "",
                field=field or "",
                level=level or 0,  # type: ignore[arg-type]
                audience=audience or "",
                page_size=size,
                page_token=token,
            )
            reply = await context.call(context.services.catalog.SearchProcedures, request)
            return reply.procedures, reply.next_page_token, reply.total_size

        return await connect(first, after, fetch)

    @resolver(Procedure | None, description="One procedure: the version named, or the one in force.")
    async def procedure(self, info: Info, code: str, version: int | None = None) -> Any:
        context: Context = info.context
        request = pb.GetProcedureRequest(code=code, version=version or 0)
        reply = await absent_is_null(context.call(context.services.catalog.GetProcedure, request))
        return reply and reply.procedure

    @resolver(list[ProcedureField], description="Fields (lĩnh vực) and how many procedures each has.")
    async def procedure_fields(self, info: Info) -> Any:
        context: Context = info.context
        return (await context.call(context.services.catalog.ListFields, pb.ListFieldsRequest())).fields
