"""Whose an event is: the stream it was published to stands in its header `Nats-Expected-Stream`.

NATS checks who may publish on a subject, but not where it sends an answer: who asks JetStream with a subject
of another service as the reply address has the answer, or an event of its own stream with headers of its own
making, delivered there, and the other's stream stores it. What it cannot do is store an event that names
another's stream, because JetStream refuses that. So an event counts only when it names, in the very form that
JetStream reads, the stream that its subject belongs to. It also names the subject that it was published on,
so that a true event does not count on another one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from kit.events import published_subject
from kit.telemetry import EVENTS_FOREIGN

STREAM: Final = "Nats-Expected-Stream"
SUBJECT: Final = "ce-subject"
FOREIGN: Final = "FOREIGN"  # the reason with which a consumer sets such an event aside
# Exactly what JetStream finds when it looks for the header: no other spelling, not in another header's value.
_PLAIN = re.compile(rb"\r\nNats-Expected-Stream: ([A-Za-z0-9_-]+)\r\n")
_NAME = STREAM.lower().encode()


def named(raw: bytes) -> str:
    """The stream that a block of headers, as it arrived, names; "" for none, or one named in a way that
    JetStream and others might read differently."""
    found = _PLAIN.search(raw)
    return found[1].decode() if found and raw.lower().count(_NAME) == 1 else ""


def headers_of(raw: bytes) -> dict[str, str]:
    """A block of headers as a strict connection would give it."""
    found = {}
    for line in raw.split(b"\r\n")[1:]:
        name, colon, value = line.decode("utf-8", "replace").partition(":")
        if colon and name not in found:
            found[name] = value.strip()
    found.pop(STREAM, None)
    return {**found, STREAM: named(raw)} if named(raw) else found


def strict(client: Client) -> None:
    """Lets this connection hand on the header STREAM only if it is plain. nats-py takes it in more ways than
    JetStream does, and keeps no headers as they arrived, so this is put where it reads them. May be called
    again."""
    if "_process_headers" in vars(client):
        return
    read = client._process_headers

    async def checked(raw: bytes) -> dict[str, str] | None:
        found = await read(raw)
        if found is None or STREAM not in found:
            return found
        rest = {key: value for key, value in found.items() if key != STREAM}
        name = named(raw)
        return {**rest, STREAM: name} if name else rest

    setattr(client, "_process_headers", checked)  # noqa: B010 (mypy takes no assignment to a method)


def fault(stream: str, subject: str, headers: Mapping[str, Any] | None) -> str:
    """Why an event on this subject is not one of this stream, in words; "" when it is. `headers` are as a
    strict connection gives them."""
    told = headers or {}
    if not subject.startswith(f"motcua.{stream}."):
        return f"its subject is not of the stream {stream}"
    if told.get(STREAM) != stream:
        return f"it does not name the stream {stream}"
    if told.get(SUBJECT, published_subject(subject)) != published_subject(subject):
        return "it was published on another subject"
    return ""


def fault_heard(stream: str, message: Msg) -> str:
    """The same of a message heard without a consumer of the stream; what is not of it is counted."""
    why = fault(stream, message.subject, message.headers)
    if why:
        EVENTS_FOREIGN.inc()
    return why
