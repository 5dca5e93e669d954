"""The event streams, by JetStream's own snapshot protocol: messages keep their numbers and times.

A snapshot has the consumers' positions of the moment at which it is taken. Those are too new: what was
handled after the documents had been read is not in the documents. So positions are read before the documents,
messages after them, and a restored consumer begins at its older position. Handlers know what they did.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError
from obstore.store import ObjectStore

from kit.settings import Settings
from kit.tls import nats_context
from ops import place

_WAIT = 30.0  # seconds for an answer or the next piece
_CHUNK = 128 * 1024  # bytes


class StreamError(Exception):
    """JetStream refuses; the message is what it says."""


@dataclass(frozen=True)
class Position:
    """Where the consumers of a stream were: `last` is the stream's last number, `consumers` by name."""

    last: int
    consumers: list[dict[str, Any]]  # {"name", "config", "start"}: the first number not acknowledged


@dataclass(frozen=True)
class Snapshot:
    """A stream's messages in a backup. `drop`: numbers of messages that a restore deletes again."""

    name: str
    config: dict[str, Any]
    state: dict[str, Any]
    file: place.File
    drop: list[int]
    consumers: list[dict[str, Any]]

    @classmethod
    def from_manifest(cls, entry: dict[str, Any]) -> Snapshot:
        """What the manifest says of it."""
        return cls(**{**entry, "file": place.File(**entry["file"])})


async def ask(client: Client, subject: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call of the JetStream API. Raises StreamError, or NotFoundError for what does not exist."""
    body = b"" if request is None else json.dumps(request).encode()
    answer = json.loads((await client.request(f"$JS.API.{subject}", body, timeout=_WAIT)).data)
    _raise(answer)
    return dict(answer)


def _raise(answer: dict[str, Any]) -> None:
    if error := answer.get("error"):
        if error.get("code") == 404:
            raise NotFoundError(description=error.get("description"))
        raise StreamError(error.get("description", "JetStream refuses"))


async def names(client: Client) -> list[str]:
    """All streams, by name."""
    return sorted(await _listed(client, "STREAM.NAMES", "streams"))


async def _listed(client: Client, subject: str, key: str) -> list[Any]:
    found: list[Any] = []
    while True:
        answer = await ask(client, subject, {"offset": len(found)})
        page = answer.get(key) or []
        found += page
        if not page or len(found) >= answer.get("total", 0):
            return found


async def positions(client: Client) -> dict[str, Position]:
    """Where every durable consumer of every stream is."""
    found = {}
    for name in await names(client):
        consumers = [
            {"name": it["name"], "config": _plain(it["config"]), "start": _start(it)}
            for it in await _listed(client, f"CONSUMER.LIST.{name}", "consumers")
            if it["config"].get("durable_name")
        ]
        # After the consumers: what was set aside before its consumer went on is below this number.
        state = (await ask(client, f"STREAM.INFO.{name}"))["state"]
        found[name] = Position(state["last_seq"], consumers)
    return found


def _start(consumer: dict[str, Any]) -> int:
    return max(int(consumer["ack_floor"]["stream_seq"]) + 1, consumer["config"].get("opt_start_seq") or 1)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Without what the server adds by itself."""
    own = {
        key: value for key, value in (config.get("metadata") or {}).items() if not key.startswith("_nats.")
    }
    rest = {key: value for key, value in config.items() if key != "metadata"}
    return {**rest, "metadata": own} if own else rest


async def snapshot(client: Client, name: str, store: ObjectStore, path: str) -> tuple[Any, Any, place.File]:
    """Copies a stream's messages to a file; answers its configuration, its state and the file."""
    inbox = client.new_inbox()
    pieces = await client.subscribe(inbox)
    try:
        wanted = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": _CHUNK}
        begun = await ask(client, f"STREAM.SNAPSHOT.{name}", wanted)
        async with place.writing(store, path) as sink:
            while (piece := await pieces.next_msg(_WAIT)).data:
                await sink.write(piece.data)
                if piece.reply:
                    await piece.respond(b"")
            status = (piece.headers or {}).get("Status", "204")
            if status != "204":
                raise StreamError(f"the snapshot of {name} broke off: {status}")
    finally:
        await pieces.unsubscribe()
    return _plain(begun["config"]), begun["state"], sink.file


async def messages(client: Client, name: str, first: int, last: int) -> AsyncIterator[RawStreamMsg]:
    """Those between two numbers that are there."""
    jetstream = client.jetstream()
    for number in range(first, last + 1):
        try:
            yield await jetstream.get_msg(name, number)
        except NotFoundError:
            continue


async def restore(client: Client, saved: Snapshot, store: ObjectStore, replicas: int) -> None:
    """Brings a stream back with its numbers, without what is to be dropped, its consumers where they were."""
    config = {**saved.config, "num_replicas": replicas}
    begun = await ask(client, f"STREAM.RESTORE.{saved.name}", {"config": config, "state": saved.state})
    target = begun["deliver_subject"]
    async for piece in place.reading(store, saved.file):
        for at in range(0, len(piece), _CHUNK):
            answer = await client.request(target, piece[at : at + _CHUNK], timeout=_WAIT)
            if answer.data:
                _raise(json.loads(answer.data))
    _raise(json.loads((await client.request(target, b"", timeout=10 * _WAIT)).data))
    for number in saved.drop:
        await ask(client, f"STREAM.MSG.DELETE.{saved.name}", {"seq": number})
    for consumer in saved.consumers:
        begin = {"deliver_policy": "by_start_sequence", "opt_start_seq": consumer["start"]}
        await add_consumer(client, saved.name, consumer["config"], begin)


async def add_consumer(client: Client, stream: str, config: dict[str, Any], begin: dict[str, Any]) -> None:
    """Makes a durable consumer that begins where `begin` says."""
    kept = {k: v for k, v in config.items() if k not in ("deliver_policy", "opt_start_seq", "opt_start_time")}
    if "num_replicas" in kept:  # as many as the stream has
        kept["num_replicas"] = 0
    name = kept["durable_name"]
    wanted = {"stream_name": stream, "config": {**kept, **begin}}
    await ask(client, f"CONSUMER.DURABLE.CREATE.{stream}.{name}", wanted)


async def rewind(client: Client, to: datetime) -> list[str]:
    """Makes every durable consumer anew so that it begins with the events of that instant; answers names."""
    done = []
    for stream in await names(client):
        for consumer in await _listed(client, f"CONSUMER.LIST.{stream}", "consumers"):
            config = _plain(consumer["config"])
            if config.get("durable_name"):
                await ask(client, f"CONSUMER.DELETE.{stream}.{consumer['name']}")
                begin = {"deliver_policy": "by_start_time", "opt_start_time": to.isoformat()}
                await add_consumer(client, stream, config, begin)
                done.append(str(consumer["name"]))
    return done


async def open_work(client: Client) -> dict[str, int]:
    """By consumer: events that it has not acknowledged yet, when there are any."""
    found = {}
    for stream in await names(client):
        for consumer in await _listed(client, f"CONSUMER.LIST.{stream}", "consumers"):
            if number := consumer["num_pending"] + consumer["num_ack_pending"]:
                found[str(consumer["name"])] = number
    return found


async def connect(settings: Settings) -> Client:
    """A connection that gives up after some seconds. Raises nats.errors.Error or OSError."""
    return await nats.connect(
        settings.nats_url.split(","),
        name="backup",
        connect_timeout=3,
        max_reconnect_attempts=3,
        error_cb=_quiet,
        tls=nats_context(settings.nats_url, settings.tls),
    )


async def _quiet(error: Exception) -> None:
    """What matters is raised."""
