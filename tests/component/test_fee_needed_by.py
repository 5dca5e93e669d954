"""From when on a dossier needs its fee: what the catalogue is told is stored, told, and read by dossier."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import pytest

from catalog.bootstrap import CatalogSettings, build
from catalog.load import curated
from dossier.domain.records import FeeNeededBy
from dossier.peers import GrpcCatalog
from kit.auth import Caller, TokenVerifier
from kit.grpc_client import connect
from kit.ids import uuid7
from motcua.catalog.v1 import catalog_pb2 as pb
from motcua.catalog.v1.catalog_pb2_grpc import CatalogServiceStub

CODE = "1.001193"


class Importer(TokenVerifier):
    """Everybody is the importer, whose procedures have been in force before."""

    def __init__(self) -> None:
        super().__init__(self._none)

    async def _none(self) -> Mapping[str, Any]:
        return {"keys": []}

    async def verify(self, token: str) -> Caller:
        return Caller("importer", "service")


@pytest.fixture
async def channel(mongo_url: str, nats_url: str) -> AsyncIterator[grpc.aio.Channel]:
    """To a catalogue of its own."""
    settings = CatalogSettings(
        environment="test",
        mongodb_url=mongo_url,
        mongodb_database=f"catalog_{uuid7()[-12:]}",
        nats_url=nats_url,
        grace=0.5,
    )
    service = build(settings, verifier=Importer())
    await service.start()

    async def bearer() -> str:
        return "importer"

    async with connect(f"127.0.0.1:{service.port}", bearer=bearer) as made:
        yield made
    await service.stop()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (pb.FEE_NEEDED_BY_UNSPECIFIED, FeeNeededBy.RESULT),
        (pb.FEE_NEEDED_BY_EXAMINATION, FeeNeededBy.EXAMINATION),
        (pb.FEE_NEEDED_BY_RESULT, FeeNeededBy.RESULT),
        (pb.FEE_NEEDED_BY_NEVER, FeeNeededBy.NEVER),
    ],
)
async def test_the_rule_comes_back_as_it_was_said_and_dossier_reads_what_was_meant(
    channel: grpc.aio.Channel, said: Any, meant: FeeNeededBy
) -> None:
    stub = CatalogServiceStub(channel)
    procedure = pb.Procedure()
    procedure.CopyFrom(next(found for found in curated() if found.code == CODE))
    procedure.fee_needed_by = said
    put = await stub.PutProcedure(pb.PutProcedureRequest(procedure=procedure))
    assert put.procedure.fee_needed_by == said
    for version in (0, put.procedure.version):
        read = await stub.GetProcedure(pb.GetProcedureRequest(code=CODE, version=version))
        assert read.procedure.fee_needed_by == said
        assert (await GrpcCatalog(channel).procedure(CODE, version)).fee_needed_by is meant


async def test_a_rule_that_is_none_is_refused_and_nothing_is_stored(channel: grpc.aio.Channel) -> None:
    stub = CatalogServiceStub(channel)
    procedure = pb.Procedure()
    procedure.CopyFrom(next(found for found in curated() if found.code == CODE))
    procedure.fee_needed_by = 99  # type: ignore[assignment]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.PutProcedure(pb.PutProcedureRequest(procedure=procedure))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetProcedure(pb.GetProcedureRequest(code=CODE))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
