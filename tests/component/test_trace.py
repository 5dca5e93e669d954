"""One trace from a citizen's call to the mail it causes: two real services, NATS between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from dossier import bootstrap as dossier_bootstrap
from dossier.domain.records import Channel, Limit, Procedure
from dossier.handlers import Account, Quote
from kit.auth import Caller, TokenVerifier
from kit.grpc_client import connect
from kit.ids import uuid7
from kit.telemetry import tracer
from motcua.dossier.v1 import dossier_pb2
from motcua.dossier.v1.dossier_pb2_grpc import DossierServiceStub
from notify import bootstrap as notify_bootstrap
from notify.domain import kinds
from notify.domain.people import Agency, Contact

Eventually = Callable[..., Awaitable[Any]]
APPLICANT = uuid7()


class OneProcedure:
    """A catalogue with one procedure that asks for nothing."""

    async def procedure(self, code: str, version: int = 0) -> Procedure:
        return Procedure(
            code=code,
            version=1,
            name="Đăng ký khai sinh",
            fileable=True,
            schema={"type": "object"},
            cases={},
            steps=(),
            limits={},
            channels=frozenset(),
        )

    async def due(self, start: datetime, limit: Limit) -> datetime:
        return start

    async def working_days(self, start: datetime, end: datetime) -> int:
        return 1

    async def quote(
        self, procedure: str, version: int, channel: Channel, quantities: Mapping[str, int]
    ) -> Quote:
        return Quote([], known=True, refundable=False)


class OneAgency:
    """An identity in which nobody acts for others."""

    async def may_act(self, principal: str, delegate: str, scope: str) -> bool:
        return False

    async def receives(self, agency: str) -> bool:
        return True

    async def exists(self, agency: str) -> bool:
        return True

    async def account_named(self, identifier: str) -> Account | None:
        return None

    async def account(self, id: str) -> Account | None:
        return Account(id, official=False)


class OnePerson:
    """What notify asks identity for."""

    async def accounts(self, ids: Collection[str]) -> list[Contact]:
        return [Contact(id, name="An", email=f"{id}@example.vn", locale="vi") for id in ids]

    async def agencies(self, codes: Collection[str]) -> list[Agency]:
        return [Agency(code, name="UBND phường Nha Trang") for code in codes]

    async def secret(self, account: str, purpose: str, channel: kinds.Channel) -> tuple[str, str] | None:
        return None


class Applicant(TokenVerifier):
    """Takes every token for the applicant's."""

    def __init__(self) -> None:
        """Has no keys."""
        self.ended = None

    async def verify(self, token: str) -> Caller:
        return Caller(APPLICANT, "citizen")


@pytest.fixture(scope="module")
def spans() -> InMemorySpanExporter:
    """What every part of this process records."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


class Catcher:
    """Takes mail and forgets it."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        return "250 kept"


@pytest.fixture(scope="module")
async def dossiers(mongo_url: str, nats_url: str, tmp_path_factory: Any) -> AsyncIterator[Any]:
    """A stub of a real dossier, with a real notify behind it."""
    loop = asyncio.get_running_loop()
    smtp = await loop.create_server(lambda: SMTP(Catcher()), "127.0.0.1", 0)
    folder: Path = tmp_path_factory.mktemp("objects")
    shared: dict[str, Any] = {
        "environment": "test",
        "mongodb_url": mongo_url,
        "nats_url": nats_url,
        "grace": 0,
    }
    dossier = dossier_bootstrap.build(
        dossier_bootstrap.DossierSettings(
            **shared, mongodb_database=f"dossier_{uuid7()}", object_store_url=folder.as_uri()
        ),
        catalog=OneProcedure(),
        identity=OneAgency(),
        verifier=Applicant(),
    )
    notify = notify_bootstrap.build(
        notify_bootstrap.NotifySettings(
            **shared,
            mongodb_database=f"notify_{uuid7()}",
            smtp_host="127.0.0.1",
            smtp_port=smtp.sockets[0].getsockname()[1],
        ),
        directory=OnePerson(),
        verifier=Applicant(),
    )
    await dossier.start()
    await notify.start()
    async with connect(f"127.0.0.1:{dossier.port}") as channel:
        yield DossierServiceStub(channel)
    await dossier.stop()
    await notify.stop()
    smtp.close()


async def test_one_trace_goes_from_the_call_through_outbox_and_nats_to_the_other_services_mail(
    dossiers: Any, spans: InMemorySpanExporter, eventually: Eventually
) -> None:
    signed_in = (("authorization", "Bearer an"),)
    create = dossier_pb2.CreateDossierRequest(procedure_code="1.001193", receiving_agency="H32.15")
    made = await dossiers.CreateDossier(create, metadata=signed_in)
    with tracer.start_as_current_span("a citizen submits") as root:
        submit = dossier_pb2.SubmitDossierRequest(id=made.dossier.id)
        await dossiers.SubmitDossier(submit, metadata=signed_in)

    def in_trace() -> dict[tuple[str, SpanKind], ReadableSpan]:
        return {
            (span.name, span.kind): span
            for span in spans.get_finished_spans()
            if span.context is not None and span.context.trace_id == root.get_span_context().trace_id
        }

    method = "/motcua.dossier.v1.DossierService/SubmitDossier"
    way = [
        ("a citizen submits", SpanKind.INTERNAL),
        (method, SpanKind.CLIENT),
        (method, SpanKind.SERVER),
        ("publish motcua.dossier.v1.DossierSubmitted", SpanKind.PRODUCER),
        ("handle motcua.dossier.v1.DossierSubmitted notify-dossier", SpanKind.CONSUMER),
    ]
    ends = [
        ("publish motcua.notify.v1.NoticeCreated", SpanKind.PRODUCER),
        ("deliver email", SpanKind.PRODUCER),
    ]
    await eventually(lambda: in_trace().keys() >= {*way, *ends}, message=f"only {in_trace().keys()}")
    found = in_trace()
    for before, after in [*pairwise(way), *((way[-1], end) for end in ends)]:
        parent, context = found[after].parent, found[before].context
        assert parent is not None
        assert context is not None
        assert parent.span_id == context.span_id, f"{after[0]} hangs from {before[0]}"
    assert (found[ends[1]].attributes or {})["delivery.outcome"] == "accept"


async def test_no_personal_data_is_in_a_span(dossiers: Any, spans: InMemorySpanExporter) -> None:
    recorded = " ".join(span.to_json() for span in spans.get_finished_spans())
    assert recorded
    for private in (f"{APPLICANT}@example.vn", "Đăng ký khai sinh", "Bearer"):
        assert private not in recorded
