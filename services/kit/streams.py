"""Streams and durable consumers of JetStream: made when they are not there, corrected when they differ.

A subscription has a durable consumer for each partition of the aggregate ids. The events of a partition are
handled one after the other, over all replicas and across crashes (`max_ack_pending` 1), so an aggregate's
events arrive in order; different partitions are handled side by side, by whichever replica asks first.
Between aggregates there is no order. A subscription that says `ordered=False` has one consumer, and handles
several events at once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import nats.js.errors
from google.protobuf.message import Message
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    StorageType,
    StreamConfig,
    SubjectTransform,
)

from kit.events import PARTITIONS, stream_subjects, subject

DEAD = "DEAD"
ACK_WAIT = 10.0  # seconds of silence after which an event is given to another
PARALLEL = 8  # events handled at once when their order does not matter
_HELD = ("ack_policy", "ack_wait", "max_deliver", "filter_subjects", "max_ack_pending")
log = logging.getLogger(__name__)


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

    `attempts` bounds the tries of one event; after that it goes to the DEAD stream. Handlers may rely on the
    order of one aggregate's events, and on none between aggregates.
    """

    durable: str
    stream: str
    types: Mapping[type[Message], Handler]
    attempts: int = 8
    ordered: bool = True

    @property
    def durables(self) -> tuple[str, ...]:
        """Its durable consumers, by partition."""
        more = range(1, PARTITIONS if self.ordered else 1)
        return (self.durable, *(f"{self.durable}-{number}" for number in more))


async def provision_stream(
    jetstream: JetStreamContext, context: str, replicas: int = 1, *, correct: bool = True
) -> None:
    """Makes a context's stream (or DEAD), or corrects what differs from what we want. With `correct` False it
    makes what is missing and changes nothing: only its owner may."""
    wanted: dict[str, Any] = {"num_replicas": replicas, "duplicate_window": 120.0}
    if context == DEAD:
        wanted["subjects"] = ["dead.>"]
    else:
        taken, source, stored = stream_subjects(context)
        wanted |= {"subjects": [taken], "subject_transform": SubjectTransform(source, stored)}
    try:
        known = (await jetstream.stream_info(context)).config
    except nats.js.errors.NotFoundError:
        await jetstream.add_stream(StreamConfig(name=context, storage=StorageType.FILE, **wanted))
        return
    if correct and any(getattr(known, name) != value for name, value in wanted.items()):
        log.warning("stream %s differs and is corrected", context)
        await jetstream.update_stream(replace(known, **wanted))


async def provision_consumer(
    jetstream: JetStreamContext,
    subscription: Subscription,
    legacy: int | None = None,
    *,
    correct: bool = True,
) -> list[ConsumerInfo]:
    """Makes the durable pull consumers of a subscription, or corrects what differs; one that JetStream cannot
    change is made anew, from after the last event that it had acknowledged. Answers those to fetch from.
    With `correct` False it makes only what is missing: a newer replica may want them otherwise.

    A consumer of before there were partitions stays as it is until its stream has them and all events that
    were stored without one are handled: until it is idle, or past the stream's sequence number `legacy`. Then
    the partitions begin where it is.
    """
    stream, names = subscription.stream, subscription.durables
    start = None
    if subscription.ordered:
        base, divided = await _known(jetstream, stream, subscription.durable), False
        if base is not None and _undivided(base.config):
            # In this order: what the stream took in before it had partitions then shows in the consumer.
            divided = (await jetstream.stream_info(stream)).config.subject_transform is not None
            base = await _known(jetstream, stream, subscription.durable)
        if base is not None and _undivided(base.config):
            after = _handled(base)
            idle = divided and not (base.num_pending or base.num_ack_pending)
            if not idle and (legacy is None or after < legacy):
                return [await _provision(jetstream, stream, _wanted(subscription, None), None, correct)]
            log.warning("consumer %s is divided after event %d", subscription.durable, after)
            start = after + 1
    # The first partition last: as long as the others are not there, it is what says where they begin.
    made = [
        await _provision(jetstream, stream, _wanted(subscription, number), start, correct)
        for number in reversed(range(len(names)))
    ]
    return made[::-1]


def _undivided(config: ConsumerConfig) -> bool:
    filters = config.filter_subjects or [config.filter_subject or ">"]
    return any(name.endswith(">") for name in filters)


def _handled(info: ConsumerInfo) -> int:
    return info.ack_floor.stream_seq if info.ack_floor else 0


def _wanted(subscription: Subscription, partition: int | None) -> ConsumerConfig:
    """How the consumer of a partition should be; None for what was before there were any."""
    keys = [">"] if partition is None or not subscription.ordered else [f"{partition}.*"]
    if partition == 0 and subscription.ordered:
        keys.append("*")  # what a stream took in without its transform
    names = [kind.DESCRIPTOR.name for kind in subscription.types]
    return ConsumerConfig(
        durable_name=subscription.durables[partition or 0],
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT,
        # We count attempts: the server would drop an event whose last attempt died with its process.
        max_deliver=-1,
        filter_subjects=sorted(subject(subscription.stream, name, key) for name in names for key in keys),
        max_ack_pending=1 if subscription.ordered else PARALLEL,
    )


async def _known(jetstream: JetStreamContext, stream: str, name: str) -> ConsumerInfo | None:
    try:
        info: ConsumerInfo = await jetstream.consumer_info(stream, name)
        return info
    except nats.js.errors.NotFoundError:
        return None


async def _provision(
    jetstream: JetStreamContext, stream: str, wanted: ConsumerConfig, start: int | None, correct: bool
) -> ConsumerInfo:
    name = wanted.durable_name or ""
    known = await _known(jetstream, stream, name)
    if known is None:
        try:
            return await jetstream.add_consumer(stream, _from(wanted, start))
        except nats.js.errors.APIError:
            if (known := await _known(jetstream, stream, name)) is None:
                raise  # else another replica was faster
    if not correct and start is None:
        return known
    config = known.config
    single = [config.filter_subject] if config.filter_subject else []
    config = replace(config, filter_subjects=sorted(config.filter_subjects or single), filter_subject=None)
    wishes = {field: getattr(wanted, field) for field in _HELD}
    if config.deliver_subject is None and all(getattr(config, field) == wishes[field] for field in wishes):
        return known
    log.warning("consumer %s differs and is corrected", name)
    try:
        if config.deliver_subject is not None:
            raise nats.js.errors.BadRequestError(description="a push consumer")
        return await jetstream.add_consumer(stream, replace(config, **wishes))
    except nats.js.errors.ServiceUnavailableError:  # a cluster without a leader just now
        raise
    except nats.js.errors.APIError as error:
        after = _handled(known)
        log.warning("consumer %s is made anew after event %d: %s", name, after, error.description)
        await jetstream.delete_consumer(stream, name)
        return await jetstream.add_consumer(stream, _from(wanted, after + 1))


def _from(wanted: ConsumerConfig, start: int | None) -> ConsumerConfig:
    if start is None:
        return wanted
    return replace(wanted, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=start)
