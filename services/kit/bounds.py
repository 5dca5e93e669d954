"""Bounds of what a request may hold: every instant, date, number, list and text has some.

A field that says nothing in its contract has the bounds below; where a field needs others its contract says
so with the option `motcua.bounds.v1.bounds`. They keep what reaches a handler within what every store, event,
calendar and letter behind it can bear; what a value must be beyond that is the domain's business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from kit.clock import EARLIEST, FIRST_DAY, LAST_DAY, LATEST
from kit.errors import FieldViolation, InvalidInput
from motcua.bounds.v1 import bounds_pb2

LETTERS: Final = 10_000
"""Most letters of a text."""
JSON_LETTERS: Final = 300_000
"""Most letters of a text whose name ends in `_json`: it holds a JSON document."""
ITEMS: Final = 1_000
"""Most entries of a list or map."""
MOST_INT32: Final = 1_000_000
"""Largest of a 32-bit number; the smallest is 0."""
MOST_INT64: Final = 2**53
"""Largest of a 64-bit number, which every JSON reader holds exactly; the smallest is 0."""
DEPTH: Final = 32
"""Most levels of a JSON value."""

_TOLD: Final = 50  # violations told at once
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_INT32: Final = (
    *(FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32),
    *(FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32),
)
_INT64: Final = (
    *(FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64),
    *(FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64),
)
_REAL: Final = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)

_Wrong = tuple[str, str, str]  # what follows the field's path, the reason, the description
_Check = Callable[[Any], Iterator[_Wrong]]


def check(request: Message) -> None:
    """Raises InvalidInput with every field of the request, at any depth, that is beyond its bounds."""
    found: list[FieldViolation] = []
    for path, reason, description in _message(request):
        found.append(FieldViolation(path.removeprefix("."), reason, description))
        if len(found) >= _TOLD:
            break
    if found:
        raise InvalidInput(violations=found)


def text(value: str, most: int = LETTERS) -> tuple[str, str] | None:
    """Reason and description of what no text may be: longer than that, or with control characters other than
    tab and line break, halves of surrogate pairs or what is no character. None when it is fine."""
    if len(value) > most:
        return "TOO_LONG", f"at most {most} letters"
    if _CONTROL.search(value):
        return "CONTROL_CHARACTERS", "no control characters but tab and line break"
    return None


def day(value: str) -> tuple[str, str] | None:
    """Reason and description of what is no ISO date, or one outside FIRST_DAY to LAST_DAY; None when it is
    fine."""
    try:
        found = date.fromisoformat(value) if _DATE.fullmatch(value) else None
    except ValueError:
        found = None
    if found is None:
        return "DATE_SHAPE", "an ISO date such as 2026-07-01"
    if not FIRST_DAY <= found <= LAST_DAY:
        return "DATE_OUT_OF_RANGE", f"from {FIRST_DAY} to {LAST_DAY}"
    return None


@dataclass(frozen=True)
class _Field:
    name: str
    items: int  # most of them; 0: it is no list
    keys: _Check | None  # of a map
    value: _Check

    def wrong(self, value: Any) -> Iterator[_Wrong]:
        if not self.items:
            for path, reason, description in self.value(value):
                yield f".{self.name}{path}", reason, description
            return
        if len(value) > self.items:
            yield f".{self.name}", "TOO_MANY", f"at most {self.items}"
            return
        if self.keys is None:
            for index, item in enumerate(value):
                for path, reason, description in self.value(item):
                    yield f".{self.name}[{index}]{path}", reason, description
            return
        for key, item in value.items():
            for _, reason, description in self.keys(key):
                yield f".{self.name}", reason, description
            for path, reason, description in self.value(item):
                yield f".{self.name}.{str(key)[:100]}{path}", reason, description


_plans: dict[str, dict[str, _Field]] = {}  # by message, then by field


def _message(message: Message) -> Iterator[_Wrong]:
    descriptor: Any = message.DESCRIPTOR
    plan = _plans.get(descriptor.full_name)
    if plan is None:
        plan = _plans[descriptor.full_name] = _plan(descriptor)
    for field, value in message.ListFields():
        yield from plan[field.name].wrong(value)


def _plan(descriptor: Descriptor) -> dict[str, _Field]:
    plan = {}
    for field in descriptor.fields:
        own = field.GetOptions().Extensions[bounds_pb2.bounds]
        items = own.items if own.HasField("items") else ITEMS
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            plan[field.name] = _Field(field.name, items, _value(key, bounds_pb2.Bounds()), _value(value, own))
        else:
            plan[field.name] = _Field(field.name, items if field.is_repeated else 0, None, _value(field, own))
    return plan


def _value(field: FieldDescriptor, own: bounds_pb2.Bounds) -> _Check:
    if field.message_type is not None:
        return _OF_MESSAGES.get(field.message_type.full_name, _message)
    if field.type == FieldDescriptor.TYPE_STRING:
        if own.date:
            return _date
        usual = JSON_LETTERS if field.name.endswith("_json") else LETTERS
        return _text(own.length if own.HasField("length") else usual)
    if field.type == FieldDescriptor.TYPE_BYTES and own.HasField("length"):
        return _bytes(own.length)
    if field.type in _INT32 or field.type in _INT64:
        most = MOST_INT32 if field.type in _INT32 else MOST_INT64
        return _number(own.least if own.HasField("least") else 0, own.most if own.HasField("most") else most)
    if field.type in _REAL:
        return _number(-MOST_INT64, MOST_INT64)
    return _anything  # bool; enum: handlers know theirs; bytes: no message is larger than the server's limit


def _anything(value: Any) -> Iterator[_Wrong]:
    return iter(())


def _date(value: str) -> Iterator[_Wrong]:
    if value and (wrong := day(value)):
        yield "", *wrong


def _text(most: int) -> _Check:
    def check(value: str) -> Iterator[_Wrong]:
        if wrong := text(value, most):
            yield "", *wrong

    return check


def _bytes(most: int) -> _Check:
    def check(value: bytes) -> Iterator[_Wrong]:
        if len(value) > most:
            yield "", "TOO_LONG", f"at most {most} bytes"

    return check


def _number(least: int, most: int) -> _Check:
    def check(value: float) -> Iterator[_Wrong]:
        if not least <= value <= most:  # nor is NaN between them
            yield "", "OUT_OF_RANGE", f"from {least} to {most}"

    return check


def _instant(value: Any) -> Iterator[_Wrong]:
    inside = EARLIEST.timestamp() <= value.seconds < LATEST.timestamp()
    if not inside or not 0 <= value.nanos < 1_000_000_000:
        yield "", "TIME_OUT_OF_RANGE", f"from {EARLIEST:%Y-%m-%d} to before {LATEST:%Y-%m-%d}"


def _json(value: Any, level: int = 0) -> Iterator[_Wrong]:
    """What is wrong in a Struct, a Value or a ListValue. Its size is what a message may have."""
    if level > DEPTH:
        yield "", "FORM_TOO_DEEP", f"at most {DEPTH} levels"
    elif value.DESCRIPTOR.name == "Struct":
        for key, inner in value.fields.items():
            if wrong := text(key):
                yield "", *wrong
            yield from _json(inner, level + 1)
    elif value.DESCRIPTOR.name == "ListValue":
        for inner in value.values:
            yield from _json(inner, level + 1)
    else:
        kind = value.WhichOneof("kind")
        if kind == "number_value" and not math.isfinite(value.number_value):
            yield "", "OUT_OF_RANGE", "a number that JSON can write"
        elif kind == "string_value" and (wrong := text(value.string_value, JSON_LETTERS)):
            yield "", *wrong
        elif kind in ("struct_value", "list_value"):
            yield from _json(getattr(value, kind), level)


_OF_MESSAGES: Final[dict[str, _Check]] = {
    "google.protobuf.Timestamp": _instant,
    "google.protobuf.Struct": _json,
    "google.protobuf.Value": _json,
    "google.protobuf.ListValue": _json,
}
