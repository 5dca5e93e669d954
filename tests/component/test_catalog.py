"""The catalogue as it runs: gRPC over a socket, MongoDB wire, JetStream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import grpc
import nats
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from catalog.bootstrap import CatalogSettings, build
from catalog.load import curated
from kit.auth import Caller, Role, TokenVerifier
from kit.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    Forbidden,
    InvalidInput,
    NotFound,
    Unauthenticated,
)
from kit.grpc_client import Channel, connect
from kit.ids import uuid7
from kit.service import Service
from kit.status import from_rpc
from motcua.catalog.v1 import catalog_pb2 as pb
from motcua.catalog.v1 import catalog_pb2_grpc, events_pb2
from motcua.catalog.v1.catalog_pb2_grpc import CatalogServiceStub

Eventually = Callable[..., Awaitable[Any]]
Stub: TypeAlias = "catalog_pb2_grpc.CatalogServiceAsyncStub"
CURATED = {procedure.code: procedure for procedure in curated()}
NOW = datetime(2026, 11, 16, 3, tzinfo=UTC)  # Monday 10:00 in Vietnam


class Tokens(TokenVerifier):
    """Tokens that name their caller."""

    def __init__(self) -> None:
        super().__init__(self._none)

    async def _none(self) -> Mapping[str, Any]:
        return {"keys": []}

    async def verify(self, token: str) -> Caller:
        if token == "citizen":
            return Caller("an", "citizen")
        if token == "admin":
            return Caller("quantri", "official", (Role("H32", "admin"),))
        return Caller(token, "service")


def started(mongo_url: str, nats_url: str, database: str) -> Service:
    settings = CatalogSettings.model_validate(
        {
            "environment": "test",
            "mongodb_url": mongo_url,
            "mongodb_database": database,
            "nats_url": nats_url,
            "index_seconds": 0.1,
            "grace": 0.5,
        }
    )
    return build(settings, verifier=Tokens(), now=lambda: NOW)


def channel_as(service: Service, token: str = "") -> Channel:
    async def bearer() -> str:
        return token

    return connect(f"127.0.0.1:{service.port}", bearer=bearer if token else None)


@pytest.fixture(scope="module")
def database() -> str:
    return f"catalog_{uuid7()[-12:]}"


@pytest.fixture(scope="module")
async def service(mongo_url: str, nats_url: str, database: str) -> AsyncIterator[Service]:
    service = started(mongo_url, nats_url, database)
    await service.start()
    async with channel_as(service, "importer") as channel:
        stub = CatalogServiceStub(channel)
        for procedure in CURATED.values():
            await stub.PutProcedure(pb.PutProcedureRequest(procedure=procedure))
    yield service
    await service.stop()


@pytest.fixture(scope="module")
async def anyone(service: Service) -> AsyncIterator[Stub]:
    async with channel_as(service) as channel:
        yield CatalogServiceStub(channel)


@pytest.fixture(scope="module")
async def admin(service: Service) -> AsyncIterator[Stub]:
    async with channel_as(service, "admin") as channel:
        yield CatalogServiceStub(channel)


async def failure(call: Awaitable[Any]) -> Exception:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return from_rpc(raised.value)


def draft(code: str, name: str = "Thủ tục thử", **changes: Any) -> pb.Procedure:
    made = pb.Procedure()
    made.CopyFrom(CURATED["1.001193"])
    made.MergeFrom(pb.Procedure(code=code, name=name, **changes))
    made.effective_from = changes.get("effective_from", "")
    return made


@pytest.mark.parametrize("query", ["khai sinh", "KHAI SINH", "dang ky khai sinh"])
async def test_birth_registration_is_among_the_first_three(anyone: Stub, query: str) -> None:
    found = await anyone.SearchProcedures(pb.SearchProceduresRequest(query=query, page_size=3))
    assert "1.001193" in [procedure.code for procedure in found.procedures]
    assert found.total_size >= 2


async def test_search_filters_and_pages(anyone: Stub) -> None:
    request = pb.SearchProceduresRequest(field="Hộ tịch", level=pb.PROCEDURE_LEVEL_COMMUNE, page_size=4)
    codes: list[str] = []
    while True:
        page = await anyone.SearchProcedures(request)
        codes += [procedure.code for procedure in page.procedures]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert len(codes) == len(set(codes)) == page.total_size
    assert all(CURATED[code].field == "Hộ tịch" for code in codes)
    fields = await anyone.ListFields(pb.ListFieldsRequest())
    assert {field.name: field.procedures for field in fields.fields}["Hộ tịch"] == len(codes)


async def test_what_was_put_comes_back_as_it_was(anyone: Stub) -> None:
    for code, sent in CURATED.items():
        got = (await anyone.GetProcedure(pb.GetProcedureRequest(code=code))).procedure
        assert got.version == 1
        assert got.etag
        expected = pb.Procedure()
        expected.CopyFrom(sent)
        expected.version, expected.etag = got.version, got.etag
        for rule in expected.fees:
            rule.from_unit = rule.from_unit or 1
        assert got == expected


async def test_a_batch_answers_versions_by_name_and_omits_missing_ones(anyone: Stub) -> None:
    names = ["1.001193@1", "2.000635", "1.001193@9", "9.999999"]
    full = await anyone.BatchGetProcedures(pb.BatchGetProceduresRequest(names=names))
    brief = await anyone.BatchGetProcedures(pb.BatchGetProceduresRequest(names=names, summary_only=True))
    assert [(p.code, p.version) for p in full.procedures] == [("1.001193", 1), ("2.000635", 1)]
    assert full.procedures[0].form["type"] == "object"
    assert [p.name for p in brief.procedures] == [p.name for p in full.procedures]
    assert not brief.procedures[0].HasField("form")


async def test_an_edit_makes_a_version_announces_it_and_is_found_by_another_replica(
    admin: Stub,
    anyone: Stub,
    mongo_url: str,
    nats_url: str,
    database: str,
    eventually: Eventually,
) -> None:
    other = started(mongo_url, nats_url, database)
    await other.start()
    client = await nats.connect(nats_url)
    heard = await client.subscribe("motcua.catalog.v1.procedure_published.>")
    try:
        first = (await admin.PutProcedure(pb.PutProcedureRequest(procedure=draft("7.000001")))).procedure
        changed = draft("7.000001", "Thủ tục thử đã sửa", etag=first.etag)
        second = (await admin.PutProcedure(pb.PutProcedureRequest(procedure=changed))).procedure
        assert (first.version, second.version) == (1, 2)
        assert second.effective_from == "2026-11-16"
        old = await anyone.GetProcedure(pb.GetProcedureRequest(code="7.000001", version=1))
        assert old.procedure.name == "Thủ tục thử"
        announced: set[tuple[int, str, str]] = set()
        while len(announced) < 2:
            event = events_pb2.ProcedurePublished.FromString((await heard.next_msg(10)).data)
            if event.code == "7.000001":
                announced.add((event.version, event.name, event.effective_from))
        assert announced == {(1, "Thủ tục thử", "2026-11-16"), (2, "Thủ tục thử đã sửa", "2026-11-16")}
        async with channel_as(other) as channel:
            stub = CatalogServiceStub(channel)

            async def seen() -> bool:
                found = await stub.SearchProcedures(pb.SearchProceduresRequest(query="thu tuc thu da sua"))
                return [p.version for p in found.procedures[:1]] == [2]

            await eventually(seen)
    finally:
        await client.close()
        await other.stop()


async def test_the_same_put_again_makes_no_version(admin: Stub) -> None:
    for _ in range(3):
        answer = await admin.PutProcedure(pb.PutProcedureRequest(procedure=draft("7.000002")))
        assert answer.procedure.version == 1


async def test_a_repeated_request_id_answers_the_same_and_reuse_is_told(admin: Stub) -> None:
    request = pb.PutProcedureRequest(request_id=uuid7(), procedure=draft("7.000003"))
    first = await admin.PutProcedure(request)
    await admin.PutProcedure(pb.PutProcedureRequest(procedure=draft("7.000003", "Khác")))
    assert (await admin.PutProcedure(request)).procedure.version == first.procedure.version == 1
    request.procedure.name = "Khác nữa"
    assert isinstance(await failure(admin.PutProcedure(request)), AlreadyExists)


async def test_an_edit_of_a_lost_race_is_a_conflict_and_changes_nothing(admin: Stub, anyone: Stub) -> None:
    first = (await admin.PutProcedure(pb.PutProcedureRequest(procedure=draft("7.000004")))).procedure
    await admin.PutProcedure(pb.PutProcedureRequest(procedure=draft("7.000004", "A", etag=first.etag)))
    stale = pb.PutProcedureRequest(procedure=draft("7.000004", "B", etag=first.etag))
    error = await failure(admin.PutProcedure(stale))
    assert isinstance(error, Conflict)
    assert error.reason == "STALE"
    kept = await anyone.GetProcedure(pb.GetProcedureRequest(code="7.000004"))
    assert kept.procedure.name == "A"


async def test_bad_content_is_refused_field_by_field(admin: Stub) -> None:
    bad = draft("nonsense")
    bad.name, bad.form["type"] = " ", "nonsense"
    error = await failure(admin.PutProcedure(pb.PutProcedureRequest(procedure=bad)))
    assert isinstance(error, InvalidInput)
    assert {v.field for v in error.violations} == {"procedure.code", "procedure.name", "procedure.form"}
    bad = draft("7.000005", effective_from="mai")
    error = await failure(admin.PutProcedure(pb.PutProcedureRequest(procedure=bad)))
    assert isinstance(error, InvalidInput)
    assert [v.reason for v in error.violations] == ["DATE_SHAPE"]


async def test_only_admins_and_the_importer_change_anything(service: Service, anyone: Stub) -> None:
    request = pb.PutProcedureRequest(procedure=draft("7.000006"))
    assert isinstance(await failure(anyone.PutProcedure(request)), Unauthenticated)
    for token in ("citizen", "payment"):
        async with channel_as(service, token) as channel:
            stub = CatalogServiceStub(channel)
            assert isinstance(await failure(stub.PutProcedure(request)), Forbidden)
            stream = iter([pb.ImportProceduresRequest(records=["{}"])])
            assert isinstance(await failure(stub.ImportProcedures(stream)), Forbidden)
    assert isinstance(await failure(anyone.GetProcedure(pb.GetProcedureRequest(code="7.000006"))), NotFound)


async def test_fees_are_quoted_by_channel_and_quantity(anyone: Stub) -> None:
    quote = await anyone.QuoteFee(
        pb.QuoteFeeRequest(code="2.000815", channel=pb.CHANNEL_COUNTER, quantities={"page": 12})
    )
    assert [(line.amount, line.quantity, line.currency) for line in quote.lines] == [(14_000, 12, "VND")]
    assert (quote.total, quote.known) == (14_000, True)
    flat = await anyone.QuoteFee(pb.QuoteFeeRequest(code="2.000635", version=1, channel=pb.CHANNEL_ONLINE))
    assert (flat.total, flat.refundable_on_rejection) == (8_000, True)
    unknown = await anyone.QuoteFee(pb.QuoteFeeRequest(code="1.001612", channel=pb.CHANNEL_ONLINE))
    assert (unknown.known, unknown.total, unknown.refundable_on_rejection) == (False, 0, False)
    dated = pb.QuoteFeeRequest(code="1.014063", channel=pb.CHANNEL_ONLINE, on_date="2025-10-01")
    assert (await anyone.QuoteFee(dated)).total == 25_000
    error = await failure(anyone.QuoteFee(pb.QuoteFeeRequest(code="2.000815", channel=pb.CHANNEL_COUNTER)))
    assert isinstance(error, InvalidInput)
    assert [(v.field, v.reason) for v in error.violations] == [("quantities.page", "REQUIRED")]


def stamp(text: str) -> Timestamp:
    made = Timestamp()
    made.FromJsonString(text)
    return made


async def test_due_times_follow_the_working_calendar(anyone: Stub) -> None:
    limit = pb.TimeLimit(amount=3, unit=pb.TIME_UNIT_WORKING_DAY)
    start = stamp("2026-11-20T08:30:00Z")  # Friday 15:30: counts from Monday; Tuesday 24 is a holiday
    due = await anyone.ComputeDue(pb.ComputeDueRequest(start_time=start, limit=limit))
    assert due.due_time == stamp("2026-11-27T10:00:00Z")
    assert due.counted_from == "2026-11-25"
    counted = await anyone.CountWorkingDays(
        pb.CountWorkingDaysRequest(start_time=start, end_time=due.due_time)
    )
    assert counted.days == 3
    late = pb.ComputeDueRequest(start_time=stamp("2028-01-03T03:00:00Z"), limit=limit)
    error = await failure(anyone.ComputeDue(late))
    assert isinstance(error, FailedPrecondition)
    assert error.metadata["year"] == "2028"
    for bad in (pb.ComputeDueRequest(start_time=start), pb.ComputeDueRequest(limit=limit)):
        assert isinstance(await failure(anyone.ComputeDue(bad)), InvalidInput)


async def test_the_calendar_of_a_year_is_shown(anyone: Stub) -> None:
    year = await anyone.GetCalendar(pb.GetCalendarRequest(year=2026))
    days = {holiday.date: holiday for holiday in year.holidays}
    assert days["2026-04-27"].compensation
    assert days["2026-11-24"].name_en == "Vietnamese Culture Day"
    assert list(year.working_rest_days) == ["2026-01-10", "2026-08-22"]
    assert isinstance(await failure(anyone.GetCalendar(pb.GetCalendarRequest(year=1999))), FailedPrecondition)


async def test_a_restart_finds_everything_again(
    mongo_url: str, nats_url: str, service: Service, database: str
) -> None:
    again = started(mongo_url, nats_url, database)
    await again.start()
    try:
        async with channel_as(again) as channel:
            found = await CatalogServiceStub(channel).SearchProcedures(
                pb.SearchProceduresRequest(query="tach thua", page_size=1)
            )
            assert [procedure.code for procedure in found.procedures] == ["1.012784"]
    finally:
        await again.stop()


async def test_forms_survive_the_wire_as_they_were_written(anyone: Stub) -> None:
    from google.protobuf import json_format

    got = (await anyone.GetProcedure(pb.GetProcedureRequest(code="2.001199"))).procedure
    form = json_format.MessageToDict(got.form)
    assert form["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert form["properties"]["members"]["minItems"] == 2
    assert json.dumps(form)
