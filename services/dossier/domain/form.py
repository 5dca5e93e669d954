"""What a form may hold, whatever the schema of its procedure says."""

from __future__ import annotations

import json
import re
from typing import Any

from kit.errors import FieldViolation, InvalidInput
from kit.text import typed

_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
MOST_FORM = 256 * 1024  # bytes of JSON
DEEPEST_FORM = 16
MOST_VALUES = 5_000  # in a form: its fields, and the items of its lists


def checked_form(form: dict[str, Any]) -> dict[str, Any]:
    """The form as it is kept: its texts cleaned, its numbers the ones that were sent, within the limits that
    protect us, whatever its schema. Raises InvalidInput FORM_TOO_LARGE, FORM_TOO_DEEP, BAD_FIELD_NAME or,
    with the place, NUMBER_OUT_OF_RANGE."""
    _limited(form)
    if len(json.dumps(form, ensure_ascii=False).encode("utf-8", "replace")) > MOST_FORM:
        raise InvalidInput("FORM_TOO_LARGE", f"at most {MOST_FORM} bytes of JSON")
    return {str(name): item for name, item in _cleaned(form).items()}


def _limited(form: dict[str, Any]) -> None:
    left: list[tuple[Any, int, str]] = [(form, 0, "/form")]
    values = 0
    while left:
        value, depth, place = left.pop()
        values += 1
        if depth > DEEPEST_FORM:
            raise InvalidInput("FORM_TOO_DEEP", f"at most {DEEPEST_FORM} levels")
        if values > MOST_VALUES:
            raise InvalidInput("FORM_TOO_LARGE", f"at most {MOST_VALUES} values")
        if isinstance(value, dict):
            if not all(_FIELD.fullmatch(name) for name in value):
                raise InvalidInput("BAD_FIELD_NAME", "names are letters, digits and _, 64 at most")
            left += [(item, depth + 1, f"{place}/{name}") for name, item in value.items()]
        elif isinstance(value, list):
            left += [(item, depth + 1, f"{place}/{index}") for index, item in enumerate(value)]
        elif not _exact(value):
            message = "a whole number of at most 63 bits, or one with a point of a double's precision"
            raise InvalidInput(violations=[FieldViolation(place, "NUMBER_OUT_OF_RANGE", message)])


def _exact(value: Any) -> bool:
    """Whether every store and reader keeps it: a whole number beyond 63 bits is rounded by somebody, and one
    that is a double already may have been."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return not isinstance(value, float) or abs(value) <= 2**53


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _cleaned(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return typed(value) if isinstance(value, str) else value
