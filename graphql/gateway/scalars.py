"""Scalars of the API and how they are read and written."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import Any, NewType, cast

import strawberry
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from graphql import GraphQLError
from strawberry.schema.config import StrawberryConfig

from kit import bounds
from kit.clock import EARLIEST, FIRST_DAY, LAST_DAY, LATEST

_LONG = 2**53  # what a JSON reader with doubles holds exactly
_SPAN = f"from {FIRST_DAY} to {LAST_DAY}"

DateTime = Timestamp
Date = NewType("Date", str)
Long = NewType("Long", int)
JSON = NewType("JSON", object)


def _timestamp_out(value: Any) -> str:
    instant = datetime.fromtimestamp(value.seconds, UTC)
    return f"{instant.strftime('%Y-%m-%dT%H:%M:%S')}.{value.nanos // 1_000_000:03}Z"


_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _wrong(reason: str, message: str) -> GraphQLError:
    return GraphQLError(message, extensions={"code": "INVALID_INPUT", "reason": reason})


def _timestamp_in(value: Any) -> Timestamp:
    if isinstance(value, str) and _INSTANT.fullmatch(value) and value[11:13] != "24":
        try:
            instant = datetime.fromisoformat(value.upper())
        except ValueError:  # no such day, hour, minute or zone; no leap second either
            instant = None
        if instant is not None:
            if not EARLIEST <= instant < LATEST:
                raise _wrong("TIME_OUT_OF_RANGE", f"DateTime must be {_SPAN}.")
            made = Timestamp()
            made.FromDatetime(instant)
            return made
    raise _wrong("BAD_TIME", "DateTime must be an instant with its zone, such as 2026-11-23T05:00:00Z.")


def _date_in(value: Any) -> str:
    reason, _ = (bounds.day(value) or ("", "")) if isinstance(value, str) else ("DATE_SHAPE", "")
    if reason == "DATE_OUT_OF_RANGE":
        raise _wrong(reason, f"Date must be {_SPAN}.")
    if reason:
        raise _wrong(reason, "Date must be an ISO date, such as 2026-11-23.")
    return cast(str, value)


def _long_in(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LONG:
        return value
    raise _wrong("OUT_OF_RANGE", "Long must be an integer of at most 53 bits.")


def _json_in(value: Any) -> Any:
    """The value as it is. Raises GraphQLError for one that nests too deeply, has numbers that JSON cannot
    write or is not text that can be stored."""
    beyond = _beyond(value, 0)
    if beyond:
        raise _wrong(
            beyond, "JSON must nest at most 32 levels, of finite numbers and of text without controls."
        )
    return value


def _beyond(value: Any, level: int) -> str:
    """The reason why a JSON value is not taken, or nothing."""
    if isinstance(value, str):
        return (bounds.text(value, bounds.JSON_LETTERS) or ("",))[0]
    if isinstance(value, (int, float)):
        return "" if abs(value) <= sys.float_info.max else "OUT_OF_RANGE"  # nor is NaN
    if isinstance(value, (list, dict)):
        if level == bounds.DEPTH:
            return "FORM_TOO_DEEP"
        inner = value if isinstance(value, list) else [*value.keys(), *value.values()]
        return next(filter(None, (_beyond(each, level + 1) for each in inner)), "")
    return ""


def _json_out(value: Any) -> Any:
    return MessageToDict(value) if isinstance(value, Message) else value


CONFIG = StrawberryConfig(
    scalar_map={
        Timestamp: strawberry.scalar(
            name="DateTime",
            description=f"An instant, such as `2026-11-23T05:00:00.000Z`, {_SPAN}.",
            serialize=_timestamp_out,
            parse_value=_timestamp_in,
        ),
        Date: strawberry.scalar(
            name="Date",
            description=f"An ISO date in Vietnam, such as `2026-11-23`, {_SPAN}.",
            serialize=str,
            parse_value=_date_in,
        ),
        Long: strawberry.scalar(
            name="Long",
            description="An integer of at most 53 bits.",
            serialize=_long_in,
            parse_value=_long_in,
        ),
        JSON: strawberry.scalar(
            name="JSON",
            description=f"Any JSON value of at most {bounds.DEPTH} levels.",
            serialize=_json_out,
            parse_value=_json_in,
        ),
    }
)
"""How Strawberry shows the types above."""
