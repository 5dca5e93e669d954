"""The documents: all collections of all services, read in an order that needs no stop, written back whole.

On a replica set everything is read at one instant of the cluster (a snapshot session), so the order does not
matter. Elsewhere each collection is read a little later than the one before. Then the order is what keeps the
copy sound: whoever refers is read before what it refers to, whoever reacts before whoever announces, and the
reservations (names, codes, numbers, request ids) after what was made with them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pymongo.errors
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from obstore.store import ObjectStore
from pymongo import AsyncMongoClient
from pymongo.asynchronous.client_session import AsyncClientSession

from kit.events import key_of
from kit.settings import CannotStart
from ops import place

Client = AsyncMongoClient[dict[str, Any]]
ORDER: dict[str, tuple[str, ...]] = {
    "notify": (),
    "payment": ("charges", "receipt_books", "receipts"),
    "dossier": ("dossiers", "dossiers_coded", "dossier_codes", "documents", "blobs"),
    "catalog": (),
    "identity": ("sessions", "delegations", "accounts", "agencies", "names"),
}
_LAST = ("counters", "requests")
_PAGE = 500
_SNAPSHOT_TOO_OLD = 239
_BATCH_BYTES = 8 * 2**20
RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


@dataclass(frozen=True)
class Collection:
    """One collection in a backup. `indexes` are as MongoDB lists them."""

    database: str  # without the prefix: the service
    name: str
    count: int
    file: place.File
    indexes: list[dict[str, Any]]

    @classmethod
    def from_manifest(cls, entry: dict[str, Any]) -> Collection:
        """What the manifest says of it."""
        return cls(**{**entry, "file": place.File(**entry["file"])})


class References:
    """The objects that documents rest on, by the first two letters of their SHA-256: 40 bytes each."""

    def __init__(self) -> None:
        self._by_prefix = [bytearray() for _ in range(256)]

    def add(self, document: RawBSONDocument) -> None:
        """Notes the versions of one document of the vault, and the pictures made of them."""
        for version in document["state"]["versions"]:
            for content in filter(None, (version, version.get("rendition"))):
                digest = bytes.fromhex(content["sha256"])
                self._by_prefix[digest[0]] += digest + int(content["size"]).to_bytes(8, "big")

    def groups(self) -> Iterator[tuple[str, dict[str, int]]]:
        """`ab` and the size of each object whose SHA-256 begins so."""
        for first, held in enumerate(self._by_prefix):
            pairs = (held[at : at + 40] for at in range(0, len(held), 40))
            sizes = {pair[:32].hex(): int.from_bytes(pair[32:], "big") for pair in pairs}
            yield f"{first:02x}", sizes


@dataclass
class Seen:
    """What the dump has read: objects referred to, and which aggregates changed since `since`."""

    since: str  # ISO instant
    references: References = field(default_factory=References)
    changed: dict[tuple[str, str], str] = field(default_factory=dict)
    _books: dict[str, int] = field(default_factory=dict)

    def note(self, service: str, collection: str, document: RawBSONDocument) -> None:
        """Notes one document that the dump contains."""
        if (service, collection) == ("dossier", "documents"):
            self.references.add(document)
        if (service, collection) == ("payment", "receipt_books"):
            self._books[document["_id"]] = document["state"]["last"]
        updated = document.get("updated", "")
        if updated >= self.since:
            key = service, key_of(document["_id"])
            self.changed[key] = max(updated, self.changed.get(key, ""))

    def has_event(self, service: str, aggregate: str, time: str) -> bool:
        """Whether the dump has the change that this event announces: both are one write, at one time."""
        return time < self.since or self.changed.get((service, aggregate), "") >= time

    def belongs(self, service: str, collection: str, document: RawBSONDocument) -> bool:
        """Not a receipt that was made after its book was read: the restored book gives that number anew."""
        if (service, collection) != ("payment", "receipts"):
            return True
        state = document["state"]
        book = f"{state['agency']}:{state['form']}:{state['series']}"
        return int(state["number"]) <= self._books.get(book, 0)


async def is_replica_set(client: Client) -> bool:
    """Whether reads at one instant can be had."""
    hello = await client.admin.command("hello")
    return bool(hello.get("setName") or hello.get("msg") == "isdbgrid")


async def dump(
    client: Client, prefix: str, store: ObjectStore, folder: str, seen: Seen
) -> AsyncIterator[Collection]:
    """Copies every collection to `folder` and yields what became of each."""
    async with AsyncExitStack() as open_things:
        session = None
        if await is_replica_set(client):
            session = await open_things.enter_async_context(client.start_session(snapshot=True))
        for service, first in ORDER.items():
            database = client[f"{prefix}{service}"]
            there = sorted(n for n in await database.list_collection_names() if not n.startswith("system."))
            rest = [name for name in there if name not in (*first, *_LAST)]
            for name in (*first, *rest, *_LAST):
                if name in there:
                    yield await _copy(client, prefix, service, name, store, folder, seen, session)


async def _copy(
    client: Client,
    prefix: str,
    service: str,
    name: str,
    store: ObjectStore,
    folder: str,
    seen: Seen,
    session: AsyncClientSession | None,
) -> Collection:
    database, count, path = client[f"{prefix}{service}"], 0, f"{folder}/{service}.{name}.bson.gz"
    async with place.writing(store, path, packed=True) as sink:
        async for page in _pages(client, f"{prefix}{service}", name, session):
            kept = [document for document in page if seen.belongs(service, name, document)]
            for document in kept:
                seen.note(service, name, document)
            count += len(kept)
            await sink.write(b"".join(document.raw for document in kept))
    # Named as kit.mongo names them: the stand-in answers names of its own.
    indexes = [
        {**index, "key": list(index["key"].items()), "name": "_".join(index["key"])}
        async for index in await database[name].list_indexes()
        if index["name"] != "_id_"
    ]
    return Collection(service, name, count, sink.file, indexes)


async def _pages(
    client: Client, database: str, name: str, session: AsyncClientSession | None
) -> AsyncIterator[list[RawBSONDocument]]:
    """By `_id`, page by page: nothing is held open, so an election in between costs a retried read."""
    collection: Any = client[database].get_collection(name, codec_options=RAW)
    after: dict[str, Any] = {}
    while True:
        try:
            page = await collection.find(after, session=session).sort("_id", 1).limit(_PAGE).to_list()
        except pymongo.errors.OperationFailure as error:
            if error.code == _SNAPSHOT_TOO_OLD:
                raise CannotStart(
                    "the dump took longer than MongoDB keeps history: set minSnapshotHistoryWindowInSeconds "
                    "to more than it takes, or use mongodump --oplog (docs/operations.md)"
                ) from error
            raise
        if page:
            yield page
        if len(page) < _PAGE:
            return
        after = {"_id": {"$gt": page[-1]["_id"]}}


async def stored(store: ObjectStore, collection: Collection) -> AsyncIterator[RawBSONDocument]:
    """The documents of a collection in a backup. Raises place.Damaged, or zlib.error."""
    held = bytearray()
    async for piece in place.reading(store, collection.file, packed=True):
        held += piece
        at = 0
        while at + 4 <= len(held):
            size = int.from_bytes(held[at : at + 4], "little")
            if at + size > len(held):
                break
            yield RawBSONDocument(bytes(held[at : at + size]))
            at += size
        del held[:at]
    if held:
        raise place.Damaged(f"{collection.file.path} is cut off")


async def filled(client: Client, prefix: str) -> list[str]:
    """Collections that have something in them."""
    found = []
    for service in ORDER:
        database = client[f"{prefix}{service}"]
        there = [it for it in sorted(await database.list_collection_names()) if not it.startswith("system.")]
        found += [f"{database.name}.{it}" for it in there if await database[it].find_one({}, {"_id": 1})]
    return found


async def load(client: Client, prefix: str, store: ObjectStore, collection: Collection) -> int:
    """Inserts what is not there yet, then makes the indexes; answers how many documents went in.

    An upload that was under way is left out: its parts are not in a backup, and a client that gets 404 begins
    it again.
    """
    target = client[f"{prefix}{collection.database}"].get_collection(collection.name, codec_options=RAW)
    batch: list[RawBSONDocument] = []
    size = inserted = 0
    async for document in stored(store, collection):
        if (collection.database, collection.name) == ("dossier", "uploads") and document["open"]:
            continue
        batch.append(document)
        size += len(document.raw)
        if size >= _BATCH_BYTES or len(batch) == 1000:
            inserted += await _insert(target, batch)
            batch, size = [], 0
    inserted += await _insert(target, batch)
    if collection.indexes:
        specs = [
            {**{k: v for k, v in index.items() if k not in ("v", "ns")}, "key": dict(index["key"])}
            for index in collection.indexes
        ]
        await client[f"{prefix}{collection.database}"].command(
            "createIndexes", collection.name, indexes=specs
        )
    return inserted


async def _insert(target: Any, batch: list[RawBSONDocument]) -> int:
    if not batch:
        return 0
    try:
        return len((await target.insert_many(batch, ordered=False)).inserted_ids)
    except pymongo.errors.BulkWriteError as error:
        failures = error.details["writeErrors"]
        if any(failure["code"] != 11000 for failure in failures):  # else an earlier try had come so far
            raise
        return len(batch) - len(failures)
