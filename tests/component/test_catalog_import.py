"""Loading procedures from the command line into a catalogue that runs."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import sys
from collections.abc import AsyncIterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from catalog import load
from catalog.bootstrap import CatalogSettings, build
from catalog.load import LoadSettings, Outcome
from kit.auth import Caller, TokenVerifier
from kit.ids import uuid7
from kit.service import Service
from motcua.catalog.v1 import catalog_pb2 as pb
from motcua.catalog.v1.catalog_pb2_grpc import CatalogServiceStub
from motcua.identity.v1 import identity_pb2, identity_pb2_grpc
from tests.needs import missing

REAL = Path(__file__).parents[3] / "shared/data/procedures.jsonl.gz"
MODE = {"channel": "online", "time_limit": "3 Ngày làm việc", "fee": "8,000 VNĐ", "note": None}


class Trusting(TokenVerifier):
    """Believes what the token says of its service."""

    def __init__(self) -> None:
        super().__init__(self._none)

    async def _none(self) -> Mapping[str, Any]:
        return {"keys": []}

    async def verify(self, token: str) -> Caller:
        return Caller(token, "service")


class Identity(identity_pb2_grpc.IdentityServiceServicer):
    """Issues tokens to whoever knows the secret."""

    async def IssueServiceToken(
        self, request: identity_pb2.IssueServiceTokenRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> identity_pb2.IssueServiceTokenResponse:
        if request.secret != "s3cret":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong secret")
        until = Timestamp()
        until.GetCurrentTime()
        until.seconds += 600
        return identity_pb2.IssueServiceTokenResponse(access_token=request.service, expire_time=until)


@pytest.fixture(scope="module")
async def identity_target() -> AsyncIterator[str]:
    server = grpc.aio.server(futures.ThreadPoolExecutor(1))
    identity_pb2_grpc.add_IdentityServiceServicer_to_server(Identity(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def service(mongo_url: str, nats_url: str) -> AsyncIterator[Service]:
    settings = CatalogSettings.model_validate(
        {
            "environment": "test",
            "mongodb_url": mongo_url,
            "mongodb_database": f"import_{uuid7()[-12:]}",
            "nats_url": nats_url,
            "grace": 0.5,
        }
    )
    service = build(settings, verifier=Trusting())
    await service.start()
    yield service
    await service.stop()


@pytest.fixture
def settings(service: Service, identity_target: str) -> LoadSettings:
    return LoadSettings.model_validate(
        {
            "catalog_target": f"127.0.0.1:{service.port}",
            "identity_target": identity_target,
            "service_secret": "s3cret",
        }
    )


def record(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "code": f"5.{number:06}",
        "name": f"Thủ tục thứ {number}",
        "field": "Hải quan",
        "levels": ["Cấp bộ"],
        "modes": [MODE],
        **changes,
    }


def written(path: Path, records: list[dict[str, Any]], *more: str) -> Path:
    text = "\n".join([*(json.dumps(each, ensure_ascii=False) for each in records), *more]) + "\n\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


async def run(settings: LoadSettings, file: Path | None = None) -> Outcome:
    return await load.run(argparse.Namespace(file=file, target=""), settings, Console(file=io.StringIO()))


def counts(outcome: Outcome) -> dict[str, int]:
    return {name: count for name, count in outcome.counts.items() if count}


async def everything(settings: LoadSettings) -> list[tuple[str, int]]:
    async with grpc.aio.insecure_channel(settings.catalog_target) as channel:
        stub = CatalogServiceStub(channel)
        found = await stub.SearchProcedures(pb.SearchProceduresRequest(page_size=100))
        return sorted((procedure.code, procedure.version) for procedure in found.procedures)


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
async def test_a_file_loaded_twice_has_the_same_outcome(
    settings: LoadSettings, tmp_path: Path, name: str
) -> None:
    file = written(tmp_path / name, [record(n) for n in range(250)])
    assert counts(await run(settings, file)) == {"created": 250}
    before = await everything(settings)
    second = await run(settings, file)
    assert counts(second) == {"unchanged": 250}
    assert second.flagged == 0
    assert await everything(settings) == before
    assert second.line() == (
        "250 procedures: 0 created, 0 updated, 250 unchanged, 0 kept curated, 0 refused; 0 flagged"
    )


async def test_a_changed_record_becomes_a_new_version(settings: LoadSettings, tmp_path: Path) -> None:
    await run(settings, written(tmp_path / "a.jsonl", [record(1), record(2)]))
    outcome = await run(settings, written(tmp_path / "b.jsonl", [record(1, name="Tên mới"), record(2)]))
    assert counts(outcome) == {"updated": 1, "unchanged": 1}
    assert await everything(settings) == [("5.000001", 2), ("5.000002", 1)]


async def test_what_cannot_be_read_is_told_kept_raw_and_stops_nothing(
    settings: LoadSettings, tmp_path: Path
) -> None:
    odd = record(2, modes=[{**MODE, "time_limit": "1", "fee": "100 VNĐ"}])
    outcome = await run(settings, written(tmp_path / "p.jsonl", [record(1), odd], "{not json"))
    assert counts(outcome) == {"created": 2, "refused": 1}
    assert {(p.code, p.field, p.raw, p.reason) for p in outcome.problems} == {
        ("5.000002", "modes[0].time_limit", "1", "UNIT_MISSING"),
        ("5.000002", "modes[0].fee", "100 VNĐ", "FEE_TOO_SMALL"),
        ("", "", "{not json", "NOT_JSON"),
    }
    async with grpc.aio.insecure_channel(settings.catalog_target) as channel:
        stub = CatalogServiceStub(channel)
        kept = (await stub.GetProcedure(pb.GetProcedureRequest(code="5.000002"))).procedure
        assert (kept.modes[0].raw_time_limit, kept.modes[0].raw_fee) == ("1", "100 VNĐ")
        assert not kept.modes[0].HasField("time_limit")
        assert len(kept.problems) == 2
        assert not kept.curated
        quote = await stub.QuoteFee(pb.QuoteFeeRequest(code="5.000002", channel=pb.CHANNEL_ONLINE))
        assert not quote.known
    table = Console(file=io.StringIO(), width=120)
    table.print(load.table_of(outcome.problems))
    assert "UNIT_MISSING" in table.file.getvalue()  # type: ignore[attr-defined]


async def test_the_curated_set_loads_once_and_wins_over_a_crawl_in_any_order(
    settings: LoadSettings, tmp_path: Path
) -> None:
    file = written(tmp_path / "p.jsonl", [record(1), record(2, code="1.001193", name="Bản cào")])
    assert counts(await run(settings, file)) == {"created": 2}
    shipped = len(load.curated())
    assert counts(await run(settings)) == {"created": shipped - 1, "updated": 1}
    assert counts(await run(settings, file)) == {"unchanged": 1, "kept_curated": 1}
    assert counts(await run(settings)) == {"unchanged": shipped}
    async with grpc.aio.insecure_channel(settings.catalog_target) as channel:
        stub = CatalogServiceStub(channel)
        current = (await stub.GetProcedure(pb.GetProcedureRequest(code="1.001193"))).procedure
        assert (current.name, current.curated) == ("Thủ tục đăng ký khai sinh", True)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["catalog.load", *arguments])
    with pytest.raises(SystemExit) as ended:
        load.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_missing_file_gets_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command(monkeypatch, str(tmp_path / "nowhere.jsonl")) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert "nowhere.jsonl" in told[0]


@pytest.mark.parametrize(
    "content", [b"plain", gzip.compress(bytes(1000), mtime=0)[:-9], gzip.compress(b"", mtime=0)[:10] + b"?"]
)
def test_a_file_that_is_no_whole_gzip_gets_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "p.jsonl.gz").write_bytes(content)
    assert command(monkeypatch, str(tmp_path / "p.jsonl.gz")) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


async def test_a_wrong_secret_loads_nothing(settings: LoadSettings, tmp_path: Path) -> None:
    file = written(tmp_path / "p.jsonl", [record(1)])
    wrong = LoadSettings.model_validate({**settings.model_dump(), "service_secret": "guess"})
    with pytest.raises(BaseExceptionGroup) as refused:
        await run(wrong, file)
    assert refused.group_contains(grpc.aio.AioRpcError)
    assert await everything(settings) == []


async def test_another_service_may_not_load(settings: LoadSettings, tmp_path: Path) -> None:
    file = written(tmp_path / "p.jsonl", [record(1)])
    payment = LoadSettings.model_validate({**settings.model_dump(), "service_name": "payment"})
    with pytest.raises(BaseExceptionGroup) as refused:
        await run(payment, file)
    assert refused.group_contains(grpc.aio.AioRpcError, match="may not do this")
    assert await everything(settings) == []


async def test_a_record_of_megabytes_is_refused_and_the_rest_is_loaded(
    settings: LoadSettings, tmp_path: Path
) -> None:
    huge = record(2, steps="x" * 5_000_000)
    outcome = await run(settings, written(tmp_path / "p.jsonl", [record(1), huge, record(3)]))
    assert counts(outcome) == {"created": 2, "refused": 1}
    assert [problem.reason for problem in outcome.problems] == ["TOO_LARGE"]


async def test_the_whole_crawl_loads_twice_with_the_same_outcome_and_birth_registration_is_found(
    settings: LoadSettings,
) -> None:
    if not REAL.exists():
        missing("the crawl of the national database is not beside this checkout")
    await run(settings)
    for expected in ("created", "unchanged"):
        outcome = await run(settings, REAL)
        assert outcome.counts.total() == 2642
        assert outcome.counts["refused"] == 0
        assert outcome.counts[expected] + outcome.counts["kept_curated"] == 2642
    async with grpc.aio.insecure_channel(settings.catalog_target) as channel:
        stub = CatalogServiceStub(channel)
        for query in ("khai sinh", "KHAI SINH", "dang ky khai sinh"):
            found = await stub.SearchProcedures(pb.SearchProceduresRequest(query=query, page_size=3))
            assert "1.001193" in [procedure.code for procedure in found.procedures]


def test_batches_are_bounded_in_number_and_size(tmp_path: Path) -> None:
    many = written(tmp_path / "many.jsonl", [record(n) for n in range(205)])
    assert [len(piece) for piece in load.batches(many)] == [100, 100, 5]
    large = written(tmp_path / "large.jsonl", [record(n, steps="x" * 300_000) for n in range(7)])
    assert [len(piece) for piece in load.batches(large)] == [3, 3, 1]
    assert list(load.batches(written(tmp_path / "empty.jsonl", []))) == []
