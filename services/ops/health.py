"""What must hold of an installation that has come to rest, such as one that was just restored."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Any

from nats.aio.client import Client as Nats
from nats.js.errors import NotFoundError
from obstore.store import ObjectStore

from kit.consumer import DEAD
from ops import objects, streams
from ops.documents import ORDER, RAW, Client, References

_PAGE = 500


async def problems(
    mongo: Client, prefix: str, nats: Nats, store: ObjectStore, *, deep: bool, patience: float
) -> list[str]:
    """What is wrong, in sentences; nothing when all is well. Waits up to `patience` seconds for events,
    outboxes and receipts that are still on their way."""
    deadline = time.monotonic() + patience
    while True:
        found = await _on_their_way(mongo, prefix, nats) or await _receipts(mongo, prefix)
        if not found or time.monotonic() > deadline:
            break
        await asyncio.sleep(1)
    return [
        *found,
        *await _codes(mongo, prefix),
        *await _objects(mongo, prefix, store, deep),
        *await _dead(nats),
    ]


async def _on_their_way(mongo: Client, prefix: str, nats: Nats) -> list[str]:
    found = []
    for service in ORDER:
        database = mongo[f"{prefix}{service}"]
        for name in sorted(await database.list_collection_names()):
            if not name.startswith("system."):
                answer = await database.command({"count": name, "query": {"outbox_pending": 1}})
                if number := int(answer["n"]):
                    found.append(f"{database.name}.{name}: {number} aggregates have something to announce")
    work = await streams.open_work(nats)
    return found + [f"consumer {name}: {number} events to handle" for name, number in work.items()]


async def _receipts(mongo: Client, prefix: str) -> list[str]:
    """Receipts are numbered from 1 without a gap, and the book has no number without its receipt."""
    database = mongo[f"{prefix}payment"]
    series: dict[str, set[int]] = defaultdict(set)
    found = []
    async for receipt in _all(database, "receipts"):
        state = receipt["state"]
        book, number = f"{state['agency']}:{state['form']}:{state['series']}", int(state["number"])
        if number in series[book]:
            found.append(f"receipts of {book}: number {number} twice")
        series[book].add(number)
    async for stored in database["receipt_books"].find({}):
        numbers, last = series.pop(stored["_id"], set()), int(stored["state"]["last"])
        if numbers != set(range(1, last + 1)):
            wrong = sorted(numbers ^ set(range(1, last + 1)))[:5]
            found.append(f"receipts of {stored['_id']}: missing, or not in the book: {wrong}")
    return found + [f"receipts of {book}: there is no such book" for book in series]


async def _codes(mongo: Client, prefix: str) -> list[str]:
    """A dossier's code is reserved for it and for no other."""
    database = mongo[f"{prefix}dossier"]
    found: list[str] = []
    page: dict[str, str] = {}  # dossier -> code; all of them at once would not fit into memory

    async def look() -> None:
        reserved = database["dossier_codes"].find({"_id": {"$in": list(page.values())}})
        holders = {entry["_id"]: entry["value"] async for entry in reserved}
        wrong = [dossier for dossier, code in page.items() if holders.get(code) != dossier]
        found.extend(f"dossier {dossier}: its code is not reserved for it" for dossier in wrong)
        page.clear()

    async for dossier in _all(database, "dossiers"):
        if code := dossier["state"]["code"]:
            page[dossier["_id"]] = code
        if len(page) == _PAGE:
            await look()
    await look()
    return found


async def _objects(mongo: Client, prefix: str, store: ObjectStore, deep: bool) -> list[str]:
    wanted = References()
    async for document in _all(mongo[f"{prefix}dossier"], "documents"):
        wanted.add(document)
    tally = await objects.compare(store, wanted, deep=deep)
    return [f"object {digest} is missing or not what its name says" for digest in tally.wrong]


def _all(database: Any, name: str) -> Any:
    # Whole and undecoded: what the stand-in makes of a projection is wrong for nested fields.
    return database.get_collection(name, codec_options=RAW).find({})


async def _dead(nats: Nats) -> list[str]:
    try:
        state: dict[str, Any] = (await streams.ask(nats, f"STREAM.INFO.{DEAD}"))["state"]
    except NotFoundError:
        return []
    number = state["messages"]
    return [f"{number} events are set aside: python -m kit.dead list"] if number else []
