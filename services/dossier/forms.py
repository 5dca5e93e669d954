"""A dossier's form against the JSON Schema of its procedure's version."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from kit.errors import FailedPrecondition, FieldViolation

_CACHED = 256  # compiled schemas kept
_MOST = 50  # violations told at once


class Forms:
    """Validators by `code@version`, compiled once and kept within a bound. A version never changes."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[str, Draft202012Validator] = OrderedDict()

    def violations(
        self, procedure: str, schema: Mapping[str, Any], form: Mapping[str, Any]
    ) -> list[FieldViolation]:
        """What is wrong with the form, by JSON Pointer; at most 50. Reasons are the schema's keywords in
        UPPER_SNAKE. Raises FailedPrecondition BAD_SCHEMA when the schema itself is broken or refers to
        something outside itself."""
        validator = self._validator(procedure, schema)
        found: list[FieldViolation] = []
        try:
            for error in validator.iter_errors(form):
                found += _told(error)
                if len(found) >= _MOST:
                    break
        except Unresolvable as error:
            raise FailedPrecondition(
                "BAD_SCHEMA", "the form's schema refers to something outside itself", procedure=procedure
            ) from error
        return sorted(set(found), key=lambda v: (v.field, v.reason))[:_MOST]

    def _validator(self, procedure: str, schema: Mapping[str, Any]) -> Draft202012Validator:
        known = self._compiled.get(procedure)
        if known is not None:
            self._compiled.move_to_end(procedure)
            return known
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise FailedPrecondition(
                "BAD_SCHEMA", "the form's schema is not valid", procedure=procedure
            ) from error
        # An empty registry that retrieves nothing: a `$ref` out of the schema fails instead of being fetched.
        made = Draft202012Validator(schema, registry=Registry(), format_checker=FormatChecker())
        self._compiled[procedure] = made
        if len(self._compiled) > _CACHED:
            self._compiled.popitem(last=False)
        return made


def _told(error: ValidationError) -> Iterable[FieldViolation]:
    """Where and which rule, never the value: it is personal data and answers end up in logs."""
    path = list(error.absolute_path)
    keyword = str(error.validator)
    reason = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", keyword).upper()
    if keyword == "required" and isinstance(error.instance, dict):
        missing = [name for name in _names(error.validator_value) if name not in error.instance]
        return [FieldViolation(_pointer([*path, name]), reason) for name in missing]
    rule = error.validator_value
    described = f"{keyword}: {rule}"[:200] if isinstance(rule, str | int | float | list) else ""
    return [FieldViolation(_pointer(path), reason, described)]


def _names(rule: object) -> list[str]:
    return [str(name) for name in rule] if isinstance(rule, list) else []


def _pointer(path: Iterable[str | int]) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
