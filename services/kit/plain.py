"""Dataclasses as stored values and back: only text, numbers, booleans, None, lists and dicts are stored."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from kit import clock

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """The value as it is stored: dataclasses as dicts, enums by value, instants and dates as text.

    Raises TypeError for what must not be stored (bytes, Decimal, naive times …).
    """
    kind = type(value)
    if value is None or kind in (str, int, float, bool):
        return value
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, int):  # MongoDB gives numbers of more than 32 bits back as a class of its own
        return int(value)
    if isinstance(value, datetime):
        return clock.to_text(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(to_plain(key)): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item) for item in value]
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"{kind.__name__} cannot be stored")


def from_plain(kind: type[T], value: Any) -> T:
    """The stored value as `kind` again, checked. Raises ValueError when it does not fit; it says where, but
    not what is there: that may be personal data, and errors end up in logs."""
    adapter = cast("TypeAdapter[T]", _adapter(cast(Hashable, kind)))
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['type']}" for e in error.errors())
    raise ValueError(f"what is stored is no {kind.__name__}: {wrong}")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
