"""Scalars of the API and how they are read and written."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, NewType

import strawberry
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from graphql import GraphQLError
from strawberry.schema.config import StrawberryConfig

_LONG = 2**53  # what a JSON reader with doubles holds exactly

DateTime = Timestamp
Date = NewType("Date", str)
Long = NewType("Long", int)
JSON = NewType("JSON", object)


def _timestamp_out(value: Any) -> str:
    instant = datetime.fromtimestamp(value.seconds, UTC)
    return f"{instant.strftime('%Y-%m-%dT%H:%M:%S')}.{value.nanos // 1_000_000:03}Z"


def _timestamp_in(value: Any) -> Timestamp:
    if isinstance(value, str):
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            instant = None
        if instant is not None and instant.tzinfo is not None:
            made = Timestamp()
            made.FromDatetime(instant)
            return made
    raise GraphQLError("DateTime must be an instant with its zone, such as 2026-11-23T05:00:00Z.")


def _date_in(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        try:
            return datetime.strptime(value, "%Y-%m-%d").date().isoformat()
        except ValueError:
            pass
    raise GraphQLError("Date must be an ISO date, such as 2026-11-23.")


def _long_in(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LONG:
        return value
    raise GraphQLError("Long must be an integer of at most 53 bits.")


def _json_out(value: Any) -> Any:
    return MessageToDict(value) if isinstance(value, Message) else value


CONFIG = StrawberryConfig(
    scalar_map={
        Timestamp: strawberry.scalar(
            name="DateTime",
            description="An instant, such as `2026-11-23T05:00:00.000Z`.",
            serialize=_timestamp_out,
            parse_value=_timestamp_in,
        ),
        Date: strawberry.scalar(
            name="Date",
            description="An ISO date in Vietnam, such as `2026-11-23`.",
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
            name="JSON", description="Any JSON value.", serialize=_json_out, parse_value=lambda value: value
        ),
    }
)
"""How Strawberry shows the types above."""
