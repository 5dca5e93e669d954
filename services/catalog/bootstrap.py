"""Wires the catalogue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files

from pydantic import Field

from catalog import calendar
from catalog.grpc_api import CatalogApi
from catalog.handlers import Ports
from catalog.search import Index
from catalog.store import Freshness, MongoProcedures, store_of
from kit import clock, schemas
from kit.auth import TokenVerifier
from kit.bounded import Workers
from kit.clock import Clock
from kit.grpc_client import connect
from kit.mongo import connect as connect_mongo
from kit.service import Service
from kit.sessions import verifier_of
from kit.settings import Settings
from motcua.catalog.v1 import catalog_pb2_grpc


class CatalogSettings(Settings):
    """What the catalogue can be told."""

    index_seconds: float = Field(
        default=10.0, gt=0, description="seconds between two looks for what other replicas have changed"
    )


def build(
    settings: CatalogSettings, *, verifier: TokenVerifier | None = None, now: Clock = clock.now
) -> Service:
    """The service. `verifier` and `now` replace identity's keys and the time in tests."""
    channel = connect(settings.identity_target, tls=settings.tls)
    database = connect_mongo(settings.mongodb_url, settings.mongodb_database or "motcua_catalog")
    store = store_of(database)
    index = Index()
    # A schema is an official's word, and may still take for ever to be looked at.
    workers = Workers(
        cpu_seconds=2.0, memory_bytes=128 << 20, wall_seconds=15.0, waiting=8, modules=["kit.schemas"]
    )

    async def form_faults(schema: str) -> Sequence[str]:
        return await workers.run(schemas.faults, schema)

    freshness = Freshness(store, index, seconds=settings.index_seconds, now=now)
    ports = Ports(
        procedures=MongoProcedures(store),
        index=index,
        calendar=shipped_calendar(),
        clock=now,
        form_faults=form_faults,
    )

    async def fill() -> None:
        await freshness.catch_up()

    return Service(
        "catalog",
        settings,
        servicers=[(catalog_pb2_grpc.add_CatalogServiceServicer_to_server, CatalogApi(ports))],
        database=database,
        stores=[store],
        tasks=[freshness.run],
        opening=[fill],
        closing=[workers.close, channel.close],
        verifier=verifier or verifier_of(channel),
    )


def shipped_calendar() -> calendar.Calendar:
    """The working calendar in `data/calendar.json`."""
    return calendar.parse(json.loads(files("catalog").joinpath("data/calendar.json").read_text("utf-8")))
