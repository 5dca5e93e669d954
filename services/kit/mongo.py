"""Aggregates in MongoDB: one document is one unit of work, state and announcement written together.

A document: `{_id, version, revision, created, updated, <scalars>, state, outbox, outbox_pending, requests,
handled, writes}`. `version` guards every write; `revision` is what clients hold as an etag; `created` is a
UUIDv7, so that it orders and never ties; `writes` names the last writes, so that after a broken connection a
writer can tell whether its own write had landed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as of
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

import orjson
from google.protobuf.message import Message
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.errors import (
    AutoReconnect,
    ConnectionFailure,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from kit import clock
from kit.auth import Caller
from kit.errors import AlreadyExists, Conflict, InvalidInput, NotFound, Unavailable
from kit.events import Entry, entry_of
from kit.ids import derived, uuid7
from kit.paging import make_token, narrowed, read_token
from kit.plain import from_plain as from_plain
from kit.plain import to_plain as to_plain
from kit.settings import CannotStart

Document = dict[str, Any]
Database = AsyncIOMotorDatabase[Document]
Collection = AsyncIOMotorCollection[Document]

log = logging.getLogger(__name__)
PATIENCE = 20.0  # seconds that an election or a restart of the database may cost a caller
_ATTEMPTS = 30  # lost races in a row before a change gives up
_REMEMBER = timedelta(hours=24)  # how long a request id is remembered
_WRITES = 16  # names of past writes kept in a document
LARGEST_EVENT = 512 * 1024
"""Bytes of an event as protobuf. NATS takes a message of 1 MiB, its headers included, and an event that is
set aside carries its reason and headers besides."""
LARGEST_STATE = 8 * 1024 * 1024
"""Bytes of an aggregate's state as JSON. MongoDB takes a document of 16 MiB, with what waits to be
announced."""
_AT_A_TURN = 10  # aggregates read from their documents before others have a turn
_MARKS = 1000  # requests and handled events kept in a document
# Codes of a server that steps down, starts, has forgotten a cursor or replicates slowly, and of a router that
# finds no primary: what became of the write is unknown.
_TRANSIENT = frozenset(
    (6, 7, 24, 43, 50, 64, 89, 91, 112, 133, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436)
)
_OWN = frozenset(("_id", "version", "revision", "created", "updated", "state", "outbox", "outbox_pending"))


class Aggregate(Protocol):
    """What a Store keeps: a dataclass with an id, a revision set by the store, and the events it raised."""

    id: str
    revision: int
    events: list[Any]


A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")

Refused = PyMongoError
"""What the database says that no waiting mends, such as that it does not let us in."""


def connect(url: str, database: str) -> Database:
    """A database handle; connects when first used. Majority reads and writes; bounded waits (ms).

    Raises CannotStart for a URL that is none.
    """
    try:
        client: AsyncIOMotorClient[Document] = AsyncIOMotorClient(
            url,
            retryWrites=True,
            retryReads=True,
            serverSelectionTimeoutMS=5_000,
            connectTimeoutMS=5_000,
            socketTimeoutMS=15_000,
            waitQueueTimeoutMS=10_000,
            maxPoolSize=50,
            appname="motcua",
        )
    except (PyMongoError, ValueError) as error:
        raise CannotStart(f"bad setting: MONGODB_URL: {error}") from error
    return client.get_database(
        database,
        write_concern=WriteConcern(w="majority", wtimeout=10_000),
        read_concern=ReadConcern("majority"),
    )


async def kind_of(database: Database) -> str:
    """What answers at the other end: `replica set`, `sharded`, `standalone` or `stand-in`.

    Production runs on the first two only. Raises Unavailable when nothing answers in time.
    """
    hello = await patiently(lambda: database.client.admin.command("hello"))
    if hello.get("msg") == "isdbgrid":
        return "sharded"
    if hello.get("setName"):
        return "replica set"
    build = await patiently(lambda: database.client.admin.command("buildInfo"))
    return "standalone" if "gitVersion" in build else "stand-in"


async def answers(database: Database, seconds: float) -> bool:
    """Whether it answers within that time."""
    try:
        async with asyncio.timeout(seconds):
            await database.client.admin.command("ping")
    except (PyMongoError, TimeoutError):
        return False
    return True


async def patiently(operation: Callable[[], Awaitable[T]]) -> T:
    """Runs an operation that may safely run twice, again and again while the database is away.

    Raises Unavailable after `PATIENCE` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    pause = 0.05
    while True:
        try:
            return await operation()
        except (ConnectionFailure, OperationFailure) as error:
            if not _transient(error):
                raise
            log.warning("database: %s, once more", type(error).__name__)
            if time.monotonic() + pause > deadline:
                raise Unavailable("DATABASE_UNAVAILABLE", "the database does not answer") from error
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
        pause = min(pause * 2, 1.0)


def _transient(error: ConnectionFailure | OperationFailure) -> bool:
    if isinstance(error, (ConnectionFailure, WriteConcernError)):
        return True
    return error.code in _TRANSIENT or error.has_error_label("RetryableWriteError")


async def reserve(collection: Collection, key: str, value: str) -> str:
    """The value that holds `key`: ours when we come first, else the one stored before. It never changes."""
    return str((await _reserve(collection, {"_id": key, "value": value}))["value"])


async def _reserve(collection: Collection, wanted: Document) -> Document:
    async def insert_or_find() -> Document:
        try:
            await collection.insert_one(dict(wanted))
        except DuplicateKeyError as error:
            stored = await collection.find_one({"_id": wanted["_id"]})
            if stored is None:  # there, but not committed by the majority yet (or expired just now)
                raise AutoReconnect("not settled yet") from error
            return stored
        return wanted

    return await patiently(insert_or_find)


async def counter(database: Database, name: str) -> int:
    """The next number of a sequence, from 1. Numbers rise; after a failure one may be missing."""

    async def step() -> int:
        try:
            stored = await database["counters"].find_one_and_update(
                {"_id": name}, {"$inc": {"value": 1}}, upsert=True, return_document=ReturnDocument.AFTER
            )
        except DuplicateKeyError as error:  # two first callers: the other one made it
            raise AutoReconnect("not settled yet") from error
        return int(stored["value"])

    return await patiently(step)


@dataclass(frozen=True)
class Request:
    """A client's request id, bound to its caller, and what was asked: repeats are told from reuse."""

    key: str
    fingerprint: str

    @classmethod
    def of(cls, caller: Caller, request_id: str, message: Message) -> Request | None:
        """The request to remember; None without an id. Neither the id nor the message can be read back.

        Strangers share no namespace: an anonymous caller's key depends on what is asked as well.
        """
        if not request_id:
            return None
        asked = type(message).__name__.encode() + b"\0" + message.SerializeToString(deterministic=True)
        fingerprint = hashlib.sha256(request_id.encode() + b"\0" + asked).hexdigest()
        return cls(derived(caller.kind, caller.subject or fingerprint, request_id), fingerprint)

    def repeats(self, remembered: Mapping[str, Any]) -> None:
        """Raises AlreadyExists when the remembered request with this id asked for something else."""
        if remembered["fingerprint"] != self.fingerprint:
            raise AlreadyExists("REQUEST_ID_REUSED", "this request id was used for another request")


class Index:
    """An index over scalars of the document, in this order: equality first, the order of the list last."""

    def __init__(self, *names: str, unique: bool = False) -> None:
        self.names = names
        self.unique = unique


@dataclass(frozen=True)
class Page(Generic[A]):
    """Some of a list; `next_token` is empty at its end. `tokens` are those of pages that would end after each
    of the items, for a page that has to be shorter."""

    items: list[A]
    next_token: str
    tokens: list[str] = of(default_factory=list)


class Store(Generic[A]):
    """One collection of aggregates.

    `announce(aggregate, event)` makes the protobuf message that tells others, or None for an event that stays
    inside; `scalars(aggregate)` are the values that lists filter and order by; `wake(store, id)` tells the
    relay (the Service sets it).
    """

    def __init__(
        self,
        database: Database,
        name: str,
        kind: type[A],
        *,
        announce: Callable[[A, Any], Message | None] | None = None,
        scalars: Callable[[A], Mapping[str, Any]] | None = None,
        indexes: Sequence[Index] = (),
        context: str = "",
        wake: Callable[[Store[Any], str], None] | None = None,
        now: clock.Clock = clock.now,
    ) -> None:
        self.database = database
        self.name = name
        self.context = context
        self.wake = wake
        self._collection: Collection = database[name]
        self._kind = kind
        self._announce = announce
        self._scalars = scalars
        self._indexes = (*indexes, Index("outbox_pending"))
        self._now = now
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def prepare(self) -> None:
        """Makes the indexes that are missing."""
        models = [
            IndexModel(
                [(name, DESCENDING if name == "created" else ASCENDING) for name in index.names],
                name="_".join(index.names),
                unique=index.unique,
            )
            for index in self._indexes
        ]
        if await kind_of(self.database) == "stand-in":  # it uses an index on one field only
            named = {model.document["name"] for model in models}
            first = dict.fromkeys(index.names[0] for index in self._indexes)
            models += [IndexModel([(name, ASCENDING)], name=name) for name in first if name not in named]
        expiry = IndexModel([("expires", ASCENDING)], name="expires", expireAfterSeconds=0)
        await patiently(lambda: self._collection.create_indexes(models))
        await patiently(lambda: self.database["requests"].create_indexes([expiry]))

    async def find(self, id: str) -> A | None:
        """The aggregate, or None."""
        document = await self._load(id)
        return None if document is None else self._aggregate(document)

    async def get(self, id: str) -> A:
        """The aggregate. Raises NotFound."""
        return self._aggregate(await self._existing(id))

    async def batch(self, ids: Sequence[str], *, without: Sequence[str] = ()) -> list[A]:
        """Those that exist, in the order asked, each once; `without` as for a page."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return []
        found = await patiently(
            lambda: self._collection.find({"_id": {"$in": wanted}}, _projection(without)).to_list(None)
        )
        by_id = {document["_id"]: document for document in found}
        return [self._aggregate(by_id[key]) for key in wanted if key in by_id]

    async def count(self, filter: Mapping[str, Any]) -> int:
        """How many match."""
        # Not count_documents: that is an aggregation, for which the stand-in reads the whole collection.
        command = {"count": self.name, "query": dict(filter)}
        return int((await patiently(lambda: self.database.command(command)))["n"])

    async def page(
        self,
        filter: Mapping[str, Any],
        *,
        size: int,
        token: str = "",
        order: str = "created",
        without: Sequence[str] = (),
    ) -> Page[A]:
        """A page of those that match: by falling `order` (newest first), or by rising order with `+due`.

        Equal values are told apart by `created`, newest first. `size` is held between 1 and 200. Fields of
        the state that are named in `without` are not read: they must have defaults, and such an aggregate is
        for showing only.
        Raises InvalidInput for a token that no page gave.
        """
        field, rising = order.lstrip("+"), order.startswith("+")
        size = min(max(size, 1), 200)
        direction = ASCENDING if rising else DESCENDING
        beyond = "$gt" if rising else "$lt"
        sort = [(field, direction)] if field == "created" else [(field, direction), ("created", DESCENDING)]
        steps = [dict(filter)]
        if token:
            value, created = read_token(token, order)
            steps = [narrowed(filter, field, beyond, value)]
            if field != "created":  # first the rest of those with an equal value
                steps.insert(0, narrowed({**filter, field: value}, "created", "$lt", created))
        found: list[Document] = []
        for step in steps:
            if (missing := size + 1 - len(found)) > 0:
                found += await self._some(step, sort, missing, without)
        shown = found[:size]
        tokens = [make_token(order, document[field], document["created"]) for document in shown]
        more = len(found) > size
        items = []
        for number, document in enumerate(shown):
            if number % _AT_A_TURN == _AT_A_TURN - 1:
                await asyncio.sleep(0)  # reading is work of the processor: let others have a turn
            items.append(self._aggregate(document))
        return Page(items, tokens[-1] if more else "", tokens)

    async def scan(self, filter: Mapping[str, Any]) -> AsyncIterator[A]:
        """All that match, in no order, in one pass: for what is rebuilt from a whole collection.

        Raises Unavailable when the database goes away on the way; begin again then.
        """
        try:
            async for document in self._collection.find(filter).batch_size(200):
                yield self._aggregate(document)
        except (ConnectionFailure, OperationFailure) as error:
            if not _transient(error):
                raise
            raise Unavailable("DATABASE_UNAVAILABLE", "the database does not answer") from error

    async def add(self, aggregate: A) -> A:
        """Stores a new aggregate. Raises Conflict (ALREADY_THERE) when its id is taken, AlreadyExists
        (NOT_UNIQUE) when another holds one of its unique values."""
        document = self._document(aggregate, None)
        if not await self._insert(document):
            raise Conflict("ALREADY_THERE", f"{self.name} has it already", id=aggregate.id)
        self._wrote(aggregate, document)
        return aggregate

    async def create(
        self,
        make: Callable[[str], A],
        request: Request | None = None,
        id: str | None = None,
    ) -> A:
        """Makes and stores a new aggregate once: `make(id)` gets the id reserved for the request, or `id`.

        A repeated request, or an `id` that is there already, answers what is stored. Raises AlreadyExists
        (REQUEST_ID_REUSED, NOT_UNIQUE).
        """
        known = await self.id_for(request, id)
        if (id or request) and (stored := await self.find(known)) is not None:
            return stored
        aggregate = make(known)
        try:
            return await self.add(aggregate)
        except Conflict:  # another one with the same reservation came first
            return await self.get(known)

    async def id_for(self, request: Request | None = None, id: str | None = None) -> str:
        """The id of what this request makes, the same when it is repeated; without a request `id`, or a new
        one. Raises AlreadyExists REQUEST_ID_REUSED."""
        known = id or uuid7()
        if request is None:
            return known
        expires = self._now() + _REMEMBER
        wanted = {"value": known, "fingerprint": request.fingerprint, "expires": expires}
        key = derived(self.name, request.key)
        reserved = await _reserve(self.database["requests"], {"_id": key, **wanted})
        request.repeats(reserved)
        return str(reserved["value"])

    async def change(
        self,
        id: str,
        fn: Callable[[A], None],
        *,
        request: Request | None = None,
        etag: str | None = None,
        handled: str | None = None,
    ) -> A:
        """Loads, lets `fn` change it, and writes state and events in one step; after a lost race once more
        from a fresh load, so `fn` must be pure.

        `request` and `handled` (an event's id) make it happen once: a repeat answers the aggregate as it is.
        Raises NotFound, Conflict (STALE when `etag` is not the revision, LOST_RACE), AlreadyExists
        (REQUEST_ID_REUSED, NOT_UNIQUE), and whatever `fn` raises, with nothing changed.
        """
        lock = self._locks.setdefault(id, asyncio.Lock())  # our own callers queue instead of racing
        async with lock:
            for attempt in range(_ATTEMPTS):
                document = await self._existing(id)
                aggregate = self._aggregate(document)
                if handled is not None and handled in document["handled"]:
                    return aggregate
                if request is not None:
                    for remembered in document["requests"]:
                        if remembered["key"] == request.key:
                            request.repeats(remembered)
                            return aggregate
                if etag and etag != str(aggregate.revision):
                    raise Conflict("STALE", "it was changed since it was read", revision=aggregate.revision)
                fn(aggregate)
                changed = self._document(aggregate, document, request, handled)
                if await self._replace(document["version"], changed):
                    self._wrote(aggregate, changed)
                    return aggregate
                await asyncio.sleep(random.uniform(0, min(0.01 * 2**attempt, 0.25)))  # noqa: S311
        raise Conflict("LOST_RACE", "too many others are changing it")

    async def pending(self, limit: int = 100) -> list[str]:
        """Ids of aggregates with something to announce, at most `limit`."""
        found = await patiently(
            lambda: self._collection.find({"outbox_pending": 1}, {"_id": 1}).limit(limit).to_list(None)
        )
        return [document["_id"] for document in found]

    async def outbox(self, id: str) -> list[Entry]:
        """What this aggregate has to announce, oldest first."""
        document = await self._load(id)
        return [] if document is None else [Entry(**entry) for entry in document["outbox"]]

    async def published(self, id: str, ids: set[str]) -> None:
        """Forgets announcements that have been published; what a writer adds meanwhile stays."""
        while ids and (document := await self._load(id)) is not None:
            rest = [entry for entry in document["outbox"] if entry["id"] not in ids]
            if len(rest) == len(document["outbox"]):
                return
            changed = {
                **document,
                "version": document["version"] + 1,
                "outbox": rest,
                "outbox_pending": int(bool(rest)),
                "writes": _named(document),
            }
            if await self._replace(document["version"], changed):
                return

    async def _some(
        self, filter: Document, sort: list[tuple[str, int]], limit: int, without: Sequence[str]
    ) -> list[Document]:
        found = self._collection.find(filter, _projection(without)).sort(sort).limit(limit)
        return await patiently(lambda: found.clone().to_list(None))

    async def _load(self, id: str) -> Document | None:
        return await patiently(lambda: self._collection.find_one({"_id": id}))

    async def _existing(self, id: str) -> Document:
        document = await self._load(id)
        if document is None:
            raise NotFound("NOT_FOUND", f"no such entry in {self.name}", id=id)
        return document

    async def _insert(self, document: Document) -> bool:
        """False when the id is taken. After a broken connection the same insert runs again, and a clash with
        a document that carries this very write is our own success."""

        async def insert() -> bool:
            try:
                await self._collection.insert_one(document)
            except DuplicateKeyError as error:
                stored = await self._collection.find_one({"_id": document["_id"]})
                if stored is not None:
                    return document["writes"][-1] in stored["writes"]
                if _clashes_by_id(error):  # there, but not committed by the majority yet
                    raise AutoReconnect("not settled yet") from error
                raise AlreadyExists("NOT_UNIQUE", f"another entry of {self.name} has this value") from error
            return True

        return await patiently(insert)

    async def _replace(self, version: int, document: Document) -> bool:
        """False after a lost race. After a broken connection the same replacement runs again: whichever of
        the two lands, the other finds the version gone and its own name among the writes."""
        sure = True

        async def replace() -> bool:
            nonlocal sure
            try:
                result = await self._collection.replace_one(
                    {"_id": document["_id"], "version": version}, document
                )
            except DuplicateKeyError as error:
                raise AlreadyExists("NOT_UNIQUE", f"another entry of {self.name} has this value") from error
            except (ConnectionFailure, OperationFailure):
                sure = False
                raise
            if result.matched_count or sure:
                return bool(result.matched_count)
            stored = await self._collection.find_one({"_id": document["_id"]})
            if (
                stored is not None and stored["version"] <= version
            ):  # the majority has not seen the winner yet
                raise AutoReconnect("not settled yet")
            return stored is not None and document["writes"][-1] in stored["writes"]

        return await patiently(replace)

    def _wrote(self, aggregate: A, document: Document) -> None:
        aggregate.revision = document["revision"]
        aggregate.events.clear()
        if document["outbox"] and self.wake is not None:
            self.wake(self, aggregate.id)

    def _aggregate(self, document: Document) -> A:
        state = {**document["state"], "id": document["_id"], "revision": document["revision"]}
        return from_plain(self._kind, state)

    def _bearable(self, state: Any, messages: Sequence[Message]) -> None:
        """Raises InvalidInput (EVENT_TOO_LARGE, ENTRY_TOO_LARGE) before anything is written that NATS or the
        database would refuse for ever."""
        for message in messages:
            if (size := message.ByteSize()) > LARGEST_EVENT:
                log.warning("%s of %d bytes refused", message.DESCRIPTOR.full_name, size)
                raise InvalidInput("EVENT_TOO_LARGE", "this says more at once than can be announced")
        if len(orjson.dumps(state)) > LARGEST_STATE:
            raise InvalidInput("ENTRY_TOO_LARGE", f"there is no room left in this entry of {self.name}")

    def _document(
        self,
        aggregate: A,
        before: Document | None,
        request: Request | None = None,
        handled: str | None = None,
    ) -> Document:
        now = clock.to_text(self._now())
        old = before or {
            "version": 0,
            "revision": 0,
            "created": uuid7(),
            "outbox": [],
            "requests": [],
            "handled": [],
            "writes": [],
        }
        state = to_plain(aggregate)
        for name in ("id", "revision", "events"):
            state.pop(name, None)
        scalars = to_plain(dict(self._scalars(aggregate))) if self._scalars else {}
        if clash := _OWN & scalars.keys():
            raise TypeError(f"{self.name}: the store keeps {sorted(clash)} itself")
        announced = (self._announce(aggregate, event) for event in aggregate.events) if self._announce else ()
        messages = [message for message in announced if message is not None]
        self._bearable(state, messages)
        outbox = old["outbox"] + [
            entry_of(self.context, aggregate.id, message, now).__dict__ for message in messages
        ]
        requests = old["requests"]
        if request is not None:
            oldest = clock.to_text(self._now() - _REMEMBER)
            mark = {"key": request.key, "fingerprint": request.fingerprint, "at": now}
            requests = [*(kept for kept in requests if kept["at"] >= oldest), mark][-_MARKS:]
        return {
            **scalars,
            "_id": aggregate.id,
            "version": old["version"] + 1,
            "revision": old["revision"] + 1,
            "created": old["created"],
            "updated": now,
            "state": state,
            "outbox": outbox,
            "outbox_pending": int(bool(outbox)),
            "requests": requests,
            "handled": old["handled"] if handled is None else [*old["handled"], handled][-_MARKS:],
            "writes": _named(old),
        }


def _projection(without: Sequence[str]) -> dict[str, int] | None:
    return {f"state.{name}": 0 for name in without} or None


def etag(aggregate: Aggregate) -> str:
    """What a client sends back to say which revision it saw."""
    return str(aggregate.revision)


def _clashes_by_id(error: DuplicateKeyError) -> bool:
    details = error.details or {}
    return details.get("keyPattern") == {"_id": 1} or str(details.get("errmsg", "")).endswith("._id")


def _named(before: Document) -> list[str]:
    return [*before["writes"], os.urandom(8).hex()][-_WRITES:]
