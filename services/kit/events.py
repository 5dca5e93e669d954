"""How an event is named and carried: subject, outbox entry, headers."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from functools import cache

from google.protobuf.message import Message

from kit.ids import uuid7
from kit.telemetry import traceparent


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


def entry_of(context: str, aggregate_id: str, message: Message, now: str) -> Entry:
    """The outbox entry of a message, with a new event id and the current trace."""
    key = re.sub(r"[\s*>]", "_", aggregate_id)
    return Entry(
        id=uuid7(),
        type=message.DESCRIPTOR.full_name,
        subject=subject(context, message.DESCRIPTOR.name, key),
        source=f"motcua/{context}",
        time=now,
        traceparent=traceparent(),
        data=base64.b64encode(message.SerializeToString()).decode(),
    )
