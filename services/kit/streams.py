"""Streams and durable consumers of JetStream: what a service expects, and how `ops.prepare` makes it so.

A subscription has a durable consumer for each partition of the aggregate ids. The events of a partition are
given to one replica at a time, which JetStream pins until it is silent for `PIN` seconds; that replica
handles many aggregates side by side and each in order (kit.lines). Different partitions may be with different
replicas. Between aggregates there is no order. A subscription that says `ordered=False` has one consumer,
whose events go to whoever asks.

Only `ops.prepare` and tests make, change or delete here: no service has the right to (deploy/k8s/base/nats).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

import nats.js.errors
from google.protobuf.message import Message
from nats.js import JetStreamContext

from kit.events import PARTITIONS, stream_subjects, subject

DEAD = "DEAD"
ACK_WAIT = 10.0  # seconds of silence after which an event is given to another
PARALLEL = 8  # events handled at once when their order does not matter
GROUP = "one"  # the priority group of whose members one is pinned; its name says nothing
PIN = 2.0  # seconds of silence after which another replica is given a partition
_API = 10.0  # seconds for an answer of the JetStream API
_SECOND = 1_000_000_000  # JetStream counts nanoseconds
_NO_CONSUMER, _NO_STREAM = 10014, 10059  # JetStream's codes
log = logging.getLogger(__name__)

Configuration = dict[str, Any]  # as JetStream's API has it: nats-py's classes know no priority groups


@dataclass(frozen=True)
class Event:
    """Something that happened elsewhere. `id` is the same at every delivery."""

    id: str
    type: str
    subject: str
    time: datetime
    message: Any


Handler = Callable[[Event], Awaitable[None]]


@dataclass(frozen=True)
class Subscription:
    """What a service wants to hear: `durable` is `<service>-<purpose>`, `stream` the announcing context.

    `types` says what is done with each kind of message: a Handler; in a service's `SUBSCRIPTIONS` a function
    of its ports and the event, which `bound` makes a Handler. `attempts` bounds the tries of an event whose
    failure may pass; after that it goes to the DEAD stream. Handlers may rely on the order of one aggregate's
    events, and on none between aggregates.
    """

    durable: str
    stream: str
    types: Mapping[type[Message], Callable[..., Awaitable[None]]]
    attempts: int = 12
    ordered: bool = True

    @property
    def durables(self) -> tuple[str, ...]:
        """Its durable consumers, by partition."""
        more = range(1, PARTITIONS if self.ordered else 1)
        return (self.durable, *(f"{self.durable}-{number}" for number in more))

    def bound(self, ports: Any) -> Subscription:
        """The same, with handlers that have these ports."""
        return replace(self, types={kind: partial(do, ports) for kind, do in self.types.items()})


class Absent(nats.js.errors.NotFoundError):
    """A stream or consumer is not there; the description names it."""


async def ask(jetstream: JetStreamContext, name: str, request: Configuration | None = None) -> dict[str, Any]:
    """One call of JetStream's API. Raises nats.js.errors.APIError; Absent for a stream or consumer that does
    not exist."""
    body = b"" if request is None else json.dumps(request).encode()
    answer = await jetstream._nc.request(f"$JS.API.{name}", body, timeout=_API)
    found: dict[str, Any] = json.loads(answer.data)
    if error := found.get("error"):
        if error.get("err_code") in (_NO_CONSUMER, _NO_STREAM):
            raise Absent(**error)
        nats.js.errors.APIError.from_error(error)
    return found


async def consumer_info(jetstream: JetStreamContext, stream: str, name: str) -> dict[str, Any] | None:
    """What JetStream says of a consumer, None when it does not exist. Raises Absent without the stream."""
    try:
        return await ask(jetstream, f"CONSUMER.INFO.{stream}.{name}")
    except Absent as error:
        if error.err_code == _NO_STREAM:
            raise
        return None


async def stream_info(jetstream: JetStreamContext, name: str) -> dict[str, Any] | None:
    """What JetStream says of a stream, None when it does not exist."""
    try:
        return await ask(jetstream, f"STREAM.INFO.{name}")
    except Absent:
        return None


async def provision_stream(
    jetstream: JetStreamContext, context: str, replicas: int = 1, *, correct: bool = True
) -> str:
    """Makes a context's stream (or DEAD), or corrects what differs from what we want. With `correct` False it
    makes what is missing and changes nothing. Answers what it did, in words."""
    wanted: Configuration = {
        "num_replicas": replicas,
        "duplicate_window": 120 * _SECOND,
        "retention": "limits",
        "max_age": 0,
        "max_msgs": -1,
        # What would let a stream take or give events that nobody announced.
        "sources": None,
        "mirror": None,
        "republish": None,
    }
    if context == DEAD:
        wanted |= {"subjects": ["dead.>"], "subject_transform": None}
    else:
        taken, source, stored = stream_subjects(context)
        wanted |= {"subjects": [taken], "subject_transform": {"src": source, "dest": stored}}
    found = await stream_info(jetstream, context)
    if found is None:
        made = {"name": context, "storage": "file", **{k: v for k, v in wanted.items() if v is not None}}
        try:
            await ask(jetstream, f"STREAM.CREATE.{context}", made)
            return "made"
        except nats.js.errors.BadRequestError:
            if (found := await stream_info(jetstream, context)) is None:
                raise  # else another was faster
    known = found["config"]
    wrong = sorted(name for name, value in wanted.items() if known.get(name) != value)
    if not wrong or not correct:
        return ""
    log.warning("stream %s differs and is corrected: %s", context, ", ".join(wrong))
    config = {name: value for name, value in {**known, **wanted}.items() if value is not None}
    await ask(jetstream, f"STREAM.UPDATE.{context}", config)
    return f"corrected ({', '.join(wrong)})"


async def provision_consumer(
    jetstream: JetStreamContext,
    subscription: Subscription,
    legacy: int | None = None,
    *,
    correct: bool = True,
) -> tuple[list[str], str]:
    """Makes the durable pull consumers of a subscription, or corrects what differs; one that JetStream cannot
    change is made anew, from after the last event that it had acknowledged. Answers the names of those to
    fetch from, and what it did in words. With `correct` False it makes only what is missing.

    A consumer of before there were partitions stays as it is until its stream has them and all events that
    were stored without one are handled: until it is idle, or past the stream's sequence number `legacy`. Then
    the partitions begin where it is.
    """
    stream, names = subscription.stream, subscription.durables
    start = None
    if subscription.ordered:
        base, divided = await consumer_info(jetstream, stream, subscription.durable), False
        if base is not None and undivided(base["config"]):
            # In this order: what the stream took in before it had partitions then shows in the consumer.
            config = (await ask(jetstream, f"STREAM.INFO.{stream}"))["config"]
            divided = config.get("subject_transform") is not None
            base = await consumer_info(jetstream, stream, subscription.durable)
        if base is not None and undivided(base["config"]):
            after = _handled(base)
            idle = divided and not (base["num_pending"] or base["num_ack_pending"])
            if not idle and (legacy is None or after < legacy):
                done = await _provision(jetstream, stream, _wanted(subscription, None), None, correct)
                return [subscription.durable], done
            log.warning("consumer %s is divided after event %d", subscription.durable, after)
            start = after + 1
    # The first partition last: as long as the others are not there, it is what says where they begin.
    did = {
        await _provision(jetstream, stream, _wanted(subscription, number), start, correct)
        for number in reversed(range(len(names)))
    }
    return list(names), ", ".join(sorted(did - {""}))


def undivided(config: Configuration) -> bool:
    """Whether a consumer of an ordered subscription is one of before there were partitions."""
    return any(name.endswith(">") for name in _filters(config) or [">"])


def pinned(config: Configuration) -> bool:
    """Whether a consumer gives its events to one replica at a time."""
    return config.get("priority_policy") == "pinned_client"


def _filters(config: Configuration) -> list[str]:
    single = config.get("filter_subject")
    return sorted(config.get("filter_subjects") or ([single] if single else []))


def _handled(info: dict[str, Any]) -> int:
    return int(info["ack_floor"]["stream_seq"])


def _wanted(subscription: Subscription, partition: int | None) -> Configuration:
    """How the consumer of a partition should be; None for what was before there were any."""
    divided = subscription.ordered and partition is not None
    keys = [f"{partition}.*"] if divided else [">"]
    if divided and partition == 0:
        keys.append("*")  # what a stream took in without its transform
    names = [kind.DESCRIPTOR.name for kind in subscription.types]
    common = {
        "durable_name": subscription.durables[partition or 0],
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(ACK_WAIT * _SECOND),
        # We count attempts: the server would drop an event whose last attempt died with its process.
        "max_deliver": -1,
        "filter_subjects": sorted(subject(subscription.stream, name, key) for name in names for key in keys),
    }
    if divided:
        # Without a bound: who is pinned asks for no more than it has room for, and what was given back for
        # later must not keep others from coming.
        return common | {
            "max_ack_pending": -1,
            "priority_policy": "pinned_client",
            "priority_groups": [GROUP],
            "priority_timeout": int(PIN * _SECOND),
        }
    return common | {"max_ack_pending": 1 if subscription.ordered else -1}


async def _provision(
    jetstream: JetStreamContext, stream: str, wanted: Configuration, start: int | None, correct: bool
) -> str:
    name = wanted["durable_name"]
    known = await consumer_info(jetstream, stream, name)
    if known is None:
        try:
            await _create(jetstream, stream, _from(wanted, start))
            return "made"
        except nats.js.errors.BadRequestError:
            if (known := await consumer_info(jetstream, stream, name)) is None:
                raise  # else another was faster
    if not correct and start is None:
        return ""
    config = {key: value for key, value in known["config"].items() if key != "filter_subject"}
    config |= {"filter_subjects": _filters(known["config"])}
    wishes = {key: value for key, value in wanted.items() if key not in ("durable_name", "deliver_policy")}
    wishes = {"priority_policy": None, "priority_groups": None, "priority_timeout": None, **wishes}
    different = sorted(key for key, value in wishes.items() if config.get(key) != value)
    push = config.get("deliver_subject") is not None
    if not different and not push:
        return ""
    log.warning("consumer %s differs and is corrected: %s", name, ", ".join(different))
    try:
        if push:
            raise nats.js.errors.BadRequestError(code=400, description="a push consumer")
        merged = {key: value for key, value in {**config, **wishes}.items() if value is not None}
        await _create(jetstream, stream, merged)
        return f"corrected ({', '.join(different)})"
    except nats.js.errors.ServiceUnavailableError:  # a cluster without a leader just now
        raise
    except nats.js.errors.APIError as error:
        after = _handled(known)
        log.warning("consumer %s is made anew after event %d: %s", name, after, error.description)
        try:
            await ask(jetstream, f"CONSUMER.DELETE.{stream}.{name}")
        except Absent:  # another was faster
            log.info("consumer %s was gone already", name)
        await _create(jetstream, stream, _from(wanted, after + 1))
        return f"made anew after event {after}"


async def _create(jetstream: JetStreamContext, stream: str, config: Configuration) -> None:
    request = {"stream_name": stream, "config": config}
    await ask(jetstream, f"CONSUMER.CREATE.{stream}.{config['durable_name']}", request)


def _from(wanted: Configuration, start: int | None) -> Configuration:
    if start is None:
        return wanted
    return wanted | {"deliver_policy": "by_start_sequence", "opt_start_seq": start}
