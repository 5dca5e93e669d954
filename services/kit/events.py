"""How an event is named and carried: subject, outbox entry, headers.

A stream stores `motcua.<context>.v1.<event>.<partition>.<aggregate id>`: JetStream itself puts the partition
in, so that who publishes and who listens without a stream knows nothing of it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from google.protobuf.message import Message

from kit.ids import uuid7
from kit.telemetry import traceparent

PARTITIONS = 4  # lines in which the events of a subscription are handled side by side; see kit.streams
_NUMBERS = tuple(str(number) for number in range(PARTITIONS))
_KEY = 4  # where the aggregate id is in a subject


@dataclass(frozen=True)
class Entry:
    """An announcement waiting in its aggregate's document. `data` is the message in base64."""

    id: str
    type: str
    subject: str
    source: str
    time: str
    traceparent: str
    data: str

    def payload(self) -> bytes:
        """The serialised protobuf message."""
        return base64.b64decode(self.data)


@cache
def snake(name: str) -> str:
    """`DossierSubmitted` as `dossier_submitted`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def subject(context: str, message_name: str, key: str) -> str:
    """`motcua.<context>.v1.<event>.<aggregate id>`; `key` is `>` for all of them."""
    return f"motcua.{context}.v1.{snake(message_name)}.{key}"


def plain_subject(text: str) -> str:
    """A subject whose aggregate id is one token, as streams take it: entries and dead events of before had
    ids with dots in them."""
    tokens = text.split(".")
    return ".".join([*tokens[:_KEY], "_".join(tokens[_KEY:])])


def stream_subjects(context: str) -> tuple[str, str, str]:
    """What a context's stream takes, and how it is stored: the pattern of its subjects, and source and
    destination of the transform that puts the partition of the aggregate id before it."""
    every = f"motcua.{context}.*.*.*"
    number = f"{{{{partition({PARTITIONS},3)}}}}"
    return (
        every,
        every,
        f"motcua.{context}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.{number}.{{{{wildcard(3)}}}}",
    )


def published_subject(stored: str) -> str:
    """The subject that was published, from the one in the stream: without the partition."""
    tokens = stored.split(".")
    if len(tokens) == _KEY + 2 and tokens[_KEY] in _NUMBERS:
        del tokens[_KEY]
    return ".".join(tokens)


def wire_size(headers: Mapping[str, str], data: bytes) -> int:
    """Bytes of a message as NATS counts them against `max_payload`. nats-py counts the data alone, and the
    server ends the connection of who sends more."""
    return 14 + sum(len(key) + len(value.encode()) + 4 for key, value in headers.items()) + len(data)


def key_of(aggregate_id: str) -> str:
    """An aggregate's id as it stands in the subjects of its events: one token."""
    return re.sub(r"[\s*>.]", "_", aggregate_id)


def entry_of(context: str, aggregate_id: str, message: Message, now: str) -> Entry:
    """The outbox entry of a message, with a new event id and the current trace."""
    return Entry(
        id=uuid7(),
        type=message.DESCRIPTOR.full_name,
        subject=subject(context, message.DESCRIPTOR.name, key_of(aggregate_id)),
        source=f"motcua/{context}",
        time=now,
        traceparent=traceparent(),
        data=base64.b64encode(message.SerializeToString()).decode(),
    )
