"""Procedures: search, versions, fees, forms."""

from __future__ import annotations

from typing import Any

from gateway.binding import Info, Part, camel, reader
from gateway.context import Context
from gateway.execution import Resolver, never_waits
from gateway.ids import to_global
from gateway.relay import Page, connect
from gateway.schema.base import Money, absent_is_null, connection
from motcua.catalog.v1 import catalog_pb2 as pb

part = Part('''
extend type Query {
  """Procedures in force, best match first; accents and case do not matter."""
  procedures(
    query: String, field: String, level: ProcedureLevel, audience: String, first: Int! = 20, after: String
  ): ProcedureConnection!
  """One procedure: the version named, or the one in force."""
  procedure(code: String!, version: Int): Procedure
  """Fields (lĩnh vực) and how many procedures each has."""
  procedureFields: [ProcedureField!]!
}

type ProcedureField { name: String! procedures: Int! }

"""A version of an administrative procedure."""
type Procedure implements Node {
  id: ID!
  """Such as `1.001193`."""
  code: String!
  version: Int!
  name: String!
  nameEn: String
  field: String!
  levels: [ProcedureLevel!]!
  audience: [String!]!
  """Whether it can be filed online here."""
  curated: Boolean!
  decision: String
  kind: String
  ministry: String
  competentAuthority: String
  coordinatingAgency: String
  stepsText: String
  modes: [FilingMode!]!
  fees: [FeeRule!]!
  cases: [ComponentCase!]!
  steps: [ProcessingStep!]!
  results: [ProcedureResult!]!
  legalBases: [String!]!
  conditions: String
  """JSON Schema (2020-12) of the form."""
  form: JSON
  effectiveFrom: Date
  effectiveTo: Date
  refundableOnRejection: Boolean!
  """What filing it costs. `quantities` are what the fee counts, such as 12 of `page`."""
  quote(channel: FilingChannel! = ONLINE, quantities: [QuantityInput!]): FeeQuote!
}

type TimeLimit { amount: Int! unit: TimeUnit! }
type FilingMode {
  channel: FilingChannel
  """Null when the record's text could not be read; see rawTimeLimit."""
  timeLimit: TimeLimit
  rawTimeLimit: String
  rawFee: String
  note: String
}
type FeeRule {
  name: String!
  channel: FilingChannel
  amount: Money!
  """What is counted, such as `page`; null for a flat fee."""
  unit: String
  fromUnit: Int
  cap: Money
  """Online fees as a share of the counter fee."""
  percentOfCounter: Int
  validFrom: Date
  validTo: Date
}
type ComponentCase { id: String! name: String! components: [Component!]! }
type Component {
  """Stable inside the procedure; what an attachment names."""
  id: String!
  name: String!
  originals: Int!
  copies: Int!
  required: Boolean!
  code: String
  documentTypes: [String!]!
}
type ProcessingStep {
  id: String!
  name: String!
  nameEn: String
  role: String!
  """Null: the receiving agency."""
  agency: Agency
  workingHours: Int
}
type ProcedureResult { name: String! code: String documentType: String }
type FeeQuote {
  lines: [FeeLine!]!
  total: Money!
  refundableOnRejection: Boolean!
  """False when an official must set the fee."""
  known: Boolean!
}
type FeeLine { name: String! amount: Money! quantity: Int! }
"""How many of a unit, such as 12 of `page`."""
input QuantityInput { unit: String! count: Int! }
''')
part.enum("ProcedureLevel", pb.ProcedureLevel, "Levels at which a procedure is settled.")
part.enum("TimeUnit", pb.TimeUnit, "Units of time limits.")
part.type("Procedure", pb.ProcedureSummary, pb.Procedure)
part.type("ProcedureField", pb.ListFieldsResponse.Field)
part.type("TimeLimit", pb.TimeLimit)
part.type("FilingMode", pb.FilingMode)
part.type("FeeRule", pb.FeeRule)
part.type("ComponentCase", pb.ComponentCase)
part.type("Component", pb.Component)
part.type("ProcessingStep", pb.ProcessingStep)
part.type("ProcedureResult", pb.ProcedureResult)
part.type("FeeQuote", pb.QuoteFeeResponse)
part.type("FeeLine", pb.FeeLine)
connection(part, "Procedure", counted=True)

Listed = pb.ProcedureSummary | pb.Procedure


@part.resolve("Query.procedures")
async def procedures(
    _root: None,
    info: Info,
    first: int,
    query: str | None = None,
    field: str | None = None,
    level: int | None = None,
    audience: str | None = None,
    after: str | None = None,
) -> Page:
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


@part.resolve("Query.procedure")
async def procedure(_root: None, info: Info, code: str, version: int | None = None) -> Any:
    context: Context = info.context
    request = pb.GetProcedureRequest(code=code, version=version or 0)
    reply = await absent_is_null(context.call(context.services.catalog.GetProcedure, request))
    return reply and reply.procedure


@part.resolve("Query.procedureFields")
async def procedure_fields(_root: None, info: Info) -> Any:
    context: Context = info.context
    return (await context.call(context.services.catalog.ListFields, pb.ListFieldsRequest())).fields


@part.resolve("Procedure.quote")
async def quote(
    listed: Listed, info: Info, channel: int, quantities: list[dict[str, Any]] | None = None
) -> Any:
    context: Context = info.context
    request = pb.QuoteFeeRequest(
        code=listed.code,
        version=listed.version,
        channel=channel,  # type: ignore[arg-type]
        quantities={entry["unit"]: entry["count"] for entry in quantities or ()},
    )
    return await context.call(context.services.catalog.QuoteFee, request)


def _in_full(attribute: str) -> Resolver:
    """Reads a field that summaries lack: from the procedure itself, loaded if need be."""
    read = reader(pb.Procedure, attribute, nullable=True)

    def resolver(listed: Listed, info: Info) -> Any:
        return read(listed, info) if isinstance(listed, pb.Procedure) else later(listed, info)

    async def later(listed: pb.ProcedureSummary, info: Info) -> Any:
        full = info.context.procedures.load(f"{listed.code}@{listed.version}")
        return read(await full if hasattr(full, "__await__") else full, info)

    return resolver


for _name in set(pb.Procedure.DESCRIPTOR.fields_by_name) - set(pb.ProcedureSummary.DESCRIPTOR.fields_by_name):
    if _name not in ("problems", "etag"):  # the importer's business
        part.resolve(f"Procedure.{camel(_name)}")(_in_full(_name))

part.resolve("Procedure.id")(
    never_waits(lambda listed, _info: to_global("Procedure", f"{listed.code}@{listed.version}"))
)
part.resolve("FeeRule.amount")(never_waits(lambda rule, _info: Money(rule.amount)))
part.resolve("FeeRule.cap")(never_waits(lambda rule, _info: Money(rule.cap) if rule.cap else None))
part.resolve("FeeLine.amount")(never_waits(lambda line, _info: line))
part.resolve("FeeQuote.total")(never_waits(lambda quote, _info: Money(quote.total, quote.currency)))
part.resolve("ProcessingStep.agency")(lambda step, info: info.context.agencies.load(step.agency))
