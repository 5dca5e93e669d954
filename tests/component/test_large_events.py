"""What could never be announced or stored is refused before anything is written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from kit import mongo
from kit.errors import DomainError
from kit.ids import uuid7
from kit.mongo import Store


@dataclass
class Table:
    id: str
    words: str = ""
    revision: int = 0
    events: list[Any] = field(default_factory=list)


@pytest.fixture
async def tables(mongo_url: str) -> AsyncIterator[Store[Table]]:
    database = mongo.connect(mongo_url, f"test_{uuid7()[-12:]}")
    store = Store(
        database,
        "tables",
        Table,
        announce=lambda table, event: StringValue(value=event),
        context="test",
    )
    await store.prepare()
    yield store
    await database.client.drop_database(database.name)
    database.client.close()


def reason(error: Exception | None) -> str:
    return error.reason if isinstance(error, DomainError) else repr(error)


@pytest.mark.proof("9.14")
async def test_an_event_too_large_for_nats_is_refused_and_nothing_is_written(tables: Store[Table]) -> None:
    table = await tables.add(Table(uuid7()))

    def change(loaded: Table) -> None:
        loaded.words = "changed"
        loaded.events.append("ế" * 500_000)

    error: Exception | None = None
    try:
        await tables.change(table.id, change)
    except Exception as raised:
        error = raised
    assert reason(error) == "EVENT_TOO_LARGE"
    assert (await tables.get(table.id)).words == ""
    assert await tables.pending() == []


@pytest.mark.proof("9.14")
async def test_an_entry_too_large_for_the_database_is_refused_with_a_reason(tables: Store[Table]) -> None:
    error: Exception | None = None
    try:
        await tables.add(Table(uuid7(), words="a" * (9 * 1024 * 1024)))
    except Exception as raised:
        error = raised
    assert reason(error) == "ENTRY_TOO_LARGE"


async def test_what_fits_is_announced(tables: Store[Table]) -> None:
    table = await tables.add(Table(uuid7()))
    await tables.change(table.id, lambda loaded: loaded.events.append("a" * 500_000))
    assert len(await tables.outbox(table.id)) == 1
