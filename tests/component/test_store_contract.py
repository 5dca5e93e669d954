"""What a Store promises, on whatever answers at `mongo_url`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from pymongo.errors import AutoReconnect

from kit import mongo
from kit.auth import Caller
from kit.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from kit.ids import uuid7
from kit.mongo import Index, Request, Store

AN = Caller("an", "citizen")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Leg:
    length: int
    made: date


@dataclass
class Table:
    id: str
    code: str
    colour: Colour = Colour.RED
    size: int = 0
    legs: tuple[Leg, ...] = ()
    painted: datetime | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    def grow(self) -> None:
        self.size += 1
        self.events.append(f"size {self.size}")


class Tables(Store[Table]):
    """The store under test, with a list of whom it woke."""

    def __init__(self, database: mongo.Database) -> None:
        self.woken: list[str] = []
        super().__init__(
            database,
            "tables",
            Table,
            announce=lambda table, event: None if event == "inner" else StringValue(value=event),
            scalars=lambda table: {"code": table.code, "colour": table.colour, "size": table.size},
            indexes=[
                Index("code", unique=True),
                Index("colour", "created"),
                Index("colour", "size", "created"),
            ],
            context="test",
            wake=lambda store, id: self.woken.append(id),
        )

    def make(self, **values: Any) -> Table:
        return Table(id=uuid7(), **{"code": uuid7(), **values})


@pytest.fixture
async def tables(mongo_url: str) -> AsyncIterator[Tables]:
    database = mongo.connect(mongo_url, f"test_{uuid7()[-12:]}")
    store = Tables(database)
    await store.prepare()
    await store.prepare()
    yield store
    await database.client.drop_database(database.name)
    database.client.close()


def asked(text: str, request_id: str = "r1", caller: Caller = AN) -> Request:
    request = Request.of(caller, request_id, StringValue(value=text))
    assert request is not None
    return request


async def test_what_is_stored_comes_back_the_same(tables: Tables) -> None:
    table = tables.make(
        colour=Colour.BLUE,
        legs=(Leg(70, date(2026, 11, 23)), Leg(71, date(2026, 11, 24))),
        painted=datetime(2026, 11, 23, 5, 0, 0, 123000, tzinfo=UTC),
        notes={"bàn": ["gỗ", 1, 2.5, None, {"a.b": True}]},
    )
    await tables.add(table)
    assert table.revision == 1
    assert await tables.get(table.id) == table
    assert await tables.find("nobody") is None
    with pytest.raises(NotFound):
        await tables.get("nobody")


async def test_a_batch_leaves_out_what_is_missing_and_keeps_the_order(tables: Tables) -> None:
    made = [await tables.add(tables.make()) for _ in range(3)]
    ids = [made[2].id, "nobody", made[0].id, made[2].id]
    assert [table.id for table in await tables.batch(ids)] == [made[2].id, made[0].id]
    assert await tables.batch([]) == []


async def test_an_id_is_added_once(tables: Tables) -> None:
    table = await tables.add(tables.make())
    with pytest.raises(Conflict) as raised:
        await tables.add(Table(id=table.id, code="other"))
    assert raised.value.reason == "ALREADY_THERE"


async def test_a_unique_value_is_taken_once_by_adding_and_by_changing(tables: Tables) -> None:
    first, second = await tables.add(tables.make()), await tables.add(tables.make())
    with pytest.raises(AlreadyExists, match="NOT_UNIQUE"):
        await tables.add(tables.make(code=first.code))
    with pytest.raises(AlreadyExists, match="NOT_UNIQUE"):
        await tables.change(second.id, lambda table: setattr(table, "code", first.code))
    assert (await tables.get(second.id)).code == second.code


async def test_a_creation_repeated_with_its_request_id_is_the_same_aggregate(tables: Tables) -> None:
    made = await asyncio.gather(
        *(tables.create(lambda id: Table(id, code=uuid7()), asked("oak")) for _ in range(8))
    )
    assert len({table.id for table in made}) == 1
    assert await tables.count({}) == 1
    with pytest.raises(AlreadyExists, match="REQUEST_ID_REUSED"):
        await tables.create(lambda id: Table(id, code="x"), asked("pine"))
    other = await tables.create(
        lambda id: Table(id, code="y"), asked("pine", caller=Caller("binh", "citizen"))
    )
    assert other.id != made[0].id


async def test_a_creation_that_died_after_its_reservation_goes_on_with_the_same_id(tables: Tables) -> None:
    seen: list[str] = []

    def dies(id: str) -> Table:
        seen.append(id)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        await tables.create(dies, asked("oak"))
    made = await tables.create(lambda id: Table(id, code="x"), asked("oak"))
    assert made.id == seen[0]


async def test_a_creation_with_an_id_answers_what_is_there(tables: Tables) -> None:
    first = await tables.create(lambda id: Table(id, code="a"), id="fixed")
    again = await tables.create(lambda id: Table(id, code="b"), id="fixed")
    assert first.id == again.id == "fixed"
    assert again.code == "a"


async def test_many_changers_at_once_lose_nothing(tables: Tables, mongo_url: str) -> None:
    table = await tables.add(tables.make())
    others = [Tables(mongo.connect(mongo_url, tables.database.name)) for _ in range(4)]
    await asyncio.gather(*(store.change(table.id, Table.grow) for store in others for _ in range(10)))
    stored = await tables.get(table.id)
    assert stored.size == 40
    assert stored.revision == 41
    entries = await tables.outbox(table.id)
    assert [StringValue.FromString(e.payload()).value for e in entries] == [f"size {n}" for n in range(1, 41)]
    for store in others:
        store.database.client.close()


async def test_a_stale_etag_changes_nothing(tables: Tables) -> None:
    table = await tables.add(tables.make())
    seen = mongo.etag(table)
    await tables.change(table.id, Table.grow, etag=seen)
    with pytest.raises(Conflict) as raised:
        await tables.change(table.id, Table.grow, etag=seen)
    assert raised.value.reason == "STALE"
    assert (await tables.get(table.id)).size == 1


async def test_a_rule_that_refuses_changes_nothing(tables: Tables) -> None:
    table = await tables.add(tables.make())

    def refuse(table: Table) -> None:
        table.grow()
        raise Conflict("NO", "not this one")

    with pytest.raises(Conflict):
        await tables.change(table.id, refuse)
    stored = await tables.get(table.id)
    assert (stored.size, stored.revision) == (0, 1)
    assert await tables.outbox(table.id) == []


async def test_a_repeated_request_and_a_repeated_event_change_once(tables: Tables) -> None:
    table = await tables.add(tables.make())
    for _ in range(3):
        await tables.change(table.id, Table.grow, request=asked("grow", "r2"))
        await tables.change(table.id, Table.grow, handled="event-1")
    assert (await tables.get(table.id)).size == 2
    with pytest.raises(AlreadyExists, match="REQUEST_ID_REUSED"):
        await tables.change(table.id, Table.grow, request=asked("shrink", "r2"))


async def test_pages_are_newest_first_and_complete(tables: Tables) -> None:
    made = [await tables.add(tables.make()) for _ in range(5)]
    await tables.add(tables.make(colour=Colour.BLUE))
    seen: list[str] = []
    token = ""
    while True:
        page = await tables.page({"colour": "red"}, size=2, token=token)
        seen += [table.id for table in page.items]
        token = page.next_token
        if not token:
            break
        await tables.add(tables.make())  # what comes meanwhile disturbs nobody
    assert seen == [table.id for table in reversed(made)]


@pytest.mark.parametrize("order", ["size", "+size"])
async def test_pages_by_a_value_with_ties_miss_nothing(tables: Tables, order: str) -> None:
    for size in (1, 2, 2, 2, 3, 3):
        await tables.add(tables.make(size=size))
    sizes: list[int] = []
    ids: set[str] = set()
    token = ""
    while True:
        page = await tables.page({"colour": "red"}, size=2, token=token, order=order)
        sizes += [table.size for table in page.items]
        ids |= {table.id for table in page.items}
        token = page.next_token
        if not token:
            break
    assert len(ids) == 6
    assert sizes == sorted((1, 2, 2, 2, 3, 3), reverse=order == "size")


async def test_a_page_keeps_the_range_of_its_filter(tables: Tables) -> None:
    for size in range(6):
        await tables.add(tables.make(size=size))
    filter = {"size": {"$gte": 2, "$lt": 5}}
    first = await tables.page(filter, size=2, order="size")
    second = await tables.page(filter, size=2, order="size", token=first.next_token)
    assert [table.size for table in (*first.items, *second.items)] == [4, 3, 2]
    assert second.next_token == ""


@pytest.mark.parametrize("token", ["x", "bm9uc2Vuc2U", "W10", "ééé"])
async def test_a_token_of_nobody_is_refused(tables: Tables, token: str) -> None:
    with pytest.raises(InvalidInput, match="INVALID_PAGE_TOKEN"):
        await tables.page({}, size=2, token=token)


async def test_an_event_that_stays_inside_wakes_nobody(tables: Tables) -> None:
    table = await tables.add(tables.make())
    await tables.change(table.id, lambda table: table.events.append("inner"))
    assert tables.woken == []
    assert await tables.pending() == []
    await tables.change(table.id, Table.grow)
    assert tables.woken == [table.id]
    assert await tables.pending() == [table.id]


async def test_taking_out_what_was_published_races_with_writers_and_loses_nothing(tables: Tables) -> None:
    table = await tables.add(tables.make())
    published: list[str] = []

    async def publish() -> None:
        while len(published) < 20:
            entries = await tables.outbox(table.id)
            await asyncio.sleep(0)
            published.extend(entry.id for entry in entries)
            await tables.published(table.id, {entry.id for entry in entries})

    async def grow() -> None:
        for _ in range(20):
            await tables.change(table.id, Table.grow)

    await asyncio.gather(publish(), grow())
    stored = await tables.get(table.id)
    assert (stored.size, stored.revision) == (20, 21)  # the relay raises no revision
    assert len(set(published)) == 20
    assert await tables.outbox(table.id) == []
    assert await tables.pending() == []


async def test_a_write_whose_answer_was_lost_is_not_done_twice(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = tables._collection
    lost = {"replace_one": 0, "insert_one": 0}

    class Flaky:
        """Does the write, then loses the answer; the first time something else is written in between."""

        def __getattr__(self, name: str) -> Any:
            return getattr(collection, name)

        async def insert_one(self, document: Any) -> None:
            await collection.insert_one(document)
            lost["insert_one"] += 1
            raise AutoReconnect("connection closed")

        async def replace_one(self, filter: Any, document: Any) -> Any:
            result = await collection.replace_one(filter, document)
            lost["replace_one"] += 1
            if lost["replace_one"] == 1:
                tables_again = Tables(tables.database)
                await tables_again.change(document["_id"], Table.grow)
            if lost["replace_one"] % 2:
                raise AutoReconnect("connection closed")
            return result

    monkeypatch.setattr(tables, "_collection", Flaky())
    table = await tables.add(tables.make())
    await tables.change(table.id, Table.grow)
    monkeypatch.setattr(tables, "_collection", collection)
    assert lost["insert_one"] >= 1
    assert lost["replace_one"] >= 1
    stored = await tables.get(table.id)
    assert (stored.size, stored.revision) == (2, 3)


async def test_a_new_primary_that_lags_behind_does_not_make_a_write_happen_twice(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = tables._collection
    table = await tables.add(tables.make())
    before = await collection.find_one({"_id": table.id})
    lost, stale = [1], [1, 1]

    class Lagging:
        """The write lands, its answer is lost, and the next reads do not show it yet."""

        async def replace_one(self, filter: Any, document: Any) -> Any:
            result = await collection.replace_one(filter, document)
            if lost:
                lost.pop()
                raise AutoReconnect("connection closed")
            return result

        async def find_one(self, filter: Any) -> Any:
            if not lost and stale:
                stale.pop()
                return before
            return await collection.find_one(filter)

    monkeypatch.setattr(tables, "_collection", Lagging())
    changed = await tables.change(table.id, Table.grow)
    monkeypatch.setattr(tables, "_collection", collection)
    assert not stale
    stored = await tables.get(table.id)
    assert (stored.size, stored.revision) == (changed.size, changed.revision) == (1, 2)


async def test_a_reserved_value_stays_with_the_first(tables: Tables) -> None:
    names = tables.database["names"]
    held = await asyncio.gather(*(mongo.reserve(names, "an@example.vn", f"account-{n}") for n in range(10)))
    assert len(set(held)) == 1


async def test_a_counter_gives_every_number_once(tables: Tables) -> None:
    numbers = await asyncio.gather(*(mongo.counter(tables.database, "day") for _ in range(30)))
    assert sorted(numbers) == list(range(1, 31))


async def test_what_the_store_keeps_itself_cannot_be_a_scalar(tables: Tables) -> None:
    wrong = Store(tables.database, "tables", Table, scalars=lambda table: {"version": 1})
    with pytest.raises(TypeError, match="version"):
        await wrong.add(tables.make())


async def test_bytes_and_naive_times_are_not_stored(tables: Tables) -> None:
    with pytest.raises(TypeError):
        await tables.add(tables.make(notes={"photo": b"..."}))
    with pytest.raises(ValueError, match="zone"):
        await tables.add(tables.make(painted=datetime(2026, 1, 1)))
