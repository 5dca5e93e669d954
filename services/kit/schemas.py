"""JSON Schemas (2020-12) that what strangers send is checked against.

A schema is limited when it is written (`faults`): its size and depth, patterns and formats that can be
checked in linear time, references inside itself. What is checked against it (`violations`, `strangers`) may
still take long, so all three run in a worker process (`kit.bounded`); they take JSON text and values and keep
what they compiled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema import validators as _validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from kit import patterns
from kit.errors import FailedPrecondition, FieldViolation
from kit.text import visible

LARGEST: Final = 256 * 1024  # bytes of a schema
DEEPEST: Final = 32
_MOST_PARTS: Final = 5_000  # schemas in a schema
_MOST_CHOICES: Final = 10_000  # of an enum: the country has 3,321 communes
_MOST_VIOLATIONS: Final = 50  # told at once
_LONGEST_TEXT: Final = 20_000  # letters that a pattern looks at where the schema says no maxLength
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_ONE: Final = ("items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else")
_MANY: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED: Final = ("properties", "patternProperties", "$defs", "dependentSchemas")
# A reference that depends on the way to it, or what would need to know what other branches looked at.
_NOT_HERE: Final = (
    "$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "definitions",
    "unevaluatedProperties", "unevaluatedItems", "contentSchema", "dependencies",
)  # fmt: skip

_EMAIL: Final = re.compile(r"[^@\s,;:<>()\[\]\\\"]{1,64}@(?:[\w-]{1,63}\.){1,10}[\w-]{2,63}")
_TIME: Final = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_HOST: Final = re.compile(r"(?:[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?\.){0,20}[0-9A-Za-z-]{1,63}")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:[!#-;=?-\[\]_a-z~]*")


def _fits(read: Callable[[str], object]) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        try:
            read(text)
        except ValueError:
            return False
        return True

    return fits


def _instant(text: str) -> bool:
    day, mark, rest = text[:10], text[10:11], text[11:]
    shaped = mark in ("T", "t") and _DATE.fullmatch(day) and _TIME.fullmatch(rest.upper())
    return bool(shaped) and _fits(datetime.fromisoformat)(f"{day}T{_seconds(rest.upper())}")


def _seconds(text: str) -> str:
    return re.sub(r"(\.[0-9]{1,6})[0-9]*", r"\1", text)  # nanoseconds are right, but not Python's


def _uri(text: str) -> bool:
    return bool(_URI.fullmatch(text)) and _fits(urlsplit)(text)


# What each format may have at most, in letters, and its rule; every rule is linear in the text.
FORMATS: Final[Mapping[str, tuple[int, Callable[[str], object]]]] = {
    "date": (10, lambda text: _DATE.fullmatch(text) and _fits(date.fromisoformat)(text)),
    "date-time": (40, _instant),
    "time": (24, lambda text: _TIME.fullmatch(text) and _fits(time.fromisoformat)(_seconds(text))),
    "email": (254, _EMAIL.fullmatch),
    "idn-email": (254, _EMAIL.fullmatch),
    "hostname": (253, _HOST.fullmatch),
    "ipv4": (15, _fits(IPv4Address)),
    "ipv6": (45, lambda text: "%" not in text and _fits(IPv6Address)(text)),
    "uri": (2048, _uri),
    "uuid": (36, _UUID.fullmatch),
    "regex": (patterns.LONGEST, _fits(patterns.compiled)),
}


def faults(schema: str) -> list[str]:
    """What keeps a schema (JSON text of an object) from being used, as `path: reason`; at most 20."""
    if len(schema.encode("utf-8", "replace")) > LARGEST:
        return [f"$: at most {LARGEST} bytes"]
    try:
        read = json.loads(schema)
        found = _limits(read) or _meaning(read)
    except RecursionError:
        found = [f"$: at most {DEEPEST} levels"]
    return found[:20]


def violations(schema: str, value: Any) -> list[FieldViolation]:
    """What is wrong with a value, by JSON Pointer; at most 50. Reasons are the schema's keywords in
    UPPER_SNAKE. Text that nobody can see is missing text. Raises FailedPrecondition BAD_SCHEMA when the
    schema itself is broken, refers to something outside itself or never ends."""
    found: list[FieldViolation] = []
    try:
        for error in _validator(schema).iter_errors(value):
            found += _told(error)
            if len(found) >= _MOST_VIOLATIONS:
                break
    except (Unresolvable, RecursionError, patterns.Unsupported, SchemaError) as error:
        raise FailedPrecondition("BAD_SCHEMA", f"the schema cannot be used: {type(error).__name__}") from None
    return sorted(set(found), key=lambda v: (v.field, v.reason))[:_MOST_VIOLATIONS]


def strangers(schema: str, value: Any) -> list[FieldViolation]:
    """The keys that the schema does not name, by JSON Pointer; at most 50. An object takes any key where its
    schema says so (`additionalProperties`) or names none."""
    root = json.loads(schema)
    found = (FieldViolation(_pointer(path), "UNKNOWN_KEY", "") for path in _strange(root, [root], value, ()))
    return sorted({violation for violation, _ in zip(found, range(_MOST_VIOLATIONS), strict=False)}, key=str)


def _limits(schema: Any) -> list[str]:
    found: list[str] = []
    parts = 0
    for path, part, depth in _parts(schema):
        parts += 1
        if parts > _MOST_PARTS or depth > DEEPEST:
            return [*found, f"{path}: at most {_MOST_PARTS} schemas, {DEEPEST} levels deep"]
        if not isinstance(part, dict):
            continue
        found += [f"{path}.{name}: not supported" for name in _NOT_HERE if name in part]
        if part.get("$schema", _DIALECT).rstrip("#") != _DIALECT:
            found.append(f"{path}.$schema: only 2020-12")
        reference = part.get("$ref", "#")
        if not (isinstance(reference, str) and reference.startswith("#") and len(reference) <= 500):
            found.append(f"{path}.$ref: only into the schema itself")
        if (name := part.get("format")) is not None and name not in FORMATS:
            found.append(f"{path}.format: one of {', '.join(FORMATS)}")
        if isinstance(choices := part.get("enum"), list) and len(choices) > _MOST_CHOICES:
            found.append(f"{path}.enum: at most {_MOST_CHOICES}")
        named = part.get("patternProperties")
        for pattern in [part.get("pattern"), *(named if isinstance(named, dict) else ())]:
            try:
                if isinstance(pattern, str):
                    patterns.compiled(pattern)
            except patterns.Unsupported as error:
                found.append(f"{path}: pattern {pattern[:80]!r}: {error}")
        if len(found) >= 20:
            break
    return found


def _parts(schema: Any) -> Iterator[tuple[str, Any, int]]:
    """Every schema in a schema with its path and depth; references are not followed."""
    left = [("$", schema, 0)]
    while left:
        path, part, depth = left.pop()
        yield path, part, depth
        if isinstance(part, dict):
            left += [(f"{path}.{name}", inner, depth + 1) for name, inner in _inner(part)]


def _inner(part: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for keyword in _ONE:
        if keyword in part:
            yield keyword, part[keyword]
    for keyword in _MANY:
        if isinstance(part.get(keyword), list):
            yield from ((f"{keyword}[{index}]", inner) for index, inner in enumerate(part[keyword]))
    for keyword in _NAMED:
        if isinstance(part.get(keyword), dict):
            yield from ((f"{keyword}.{name}", inner) for name, inner in part[keyword].items())


def _meaning(schema: Any) -> list[str]:
    try:
        Draft202012Validator.check_schema(schema, format_checker=FormatChecker(formats=()))
    except SchemaError as error:
        return [f"{error.json_path}: {error.message[:200]}"]
    if schema.get("type") != "object":
        return ["$.type: it describes an object"]
    try:
        for _ in _made(schema).iter_errors({}):
            pass
    except Unresolvable as error:
        return [f"$.$ref: leads nowhere: {str(error)[:200]}"]
    except RecursionError:
        return ["$.$ref: leads back to itself"]
    return []


def _text_length(validator: Any, least: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and visible(instance) < least:
        yield ValidationError("too short")


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    # A text that is too long is told so and not looked at.
    if isinstance(instance, str) and (len(instance) > _LONGEST_TEXT or not patterns.found(pattern, instance)):
        yield ValidationError("no match")


def _format(validator: Any, name: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and name in FORMATS:
        longest, rule = FORMATS[name]
        if len(instance) > longest or not rule(instance):
            yield ValidationError("not of this format")


def _required(validator: Any, names: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, dict) and any(_missing(instance, name) for name in names):
        yield ValidationError("missing")


def _missing(instance: Mapping[str, Any], name: str) -> bool:
    value = instance.get(name)
    return name not in instance or (isinstance(value, str) and not visible(value))


def _by_pattern(validator: Any, rules: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, rule in rules.items():
            for name, value in instance.items():
                if patterns.found(pattern, name):
                    yield from validator.descend(value, rule, path=name, schema_path=pattern)


def _additional(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    extra = [name for name in instance if not _named(schema, name)]
    if isinstance(rule, dict):
        for name in extra:
            yield from validator.descend(instance[name], rule, path=name)
    elif not rule and extra:
        yield ValidationError("unknown keys")


def _named(schema: Mapping[str, Any], name: str) -> bool:
    return name in schema.get("properties", {}) or any(
        patterns.found(pattern, name) for pattern in schema.get("patternProperties", {})
    )


def _unique(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if wanted and isinstance(instance, list) and len({_key(item) for item in instance}) < len(instance):
        yield ValidationError("not unique")


def _enum(validator: Any, choices: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    wanted = _key(instance)
    if not any(type(choice) is type(instance) and choice == instance for choice in choices) and not any(
        _key(choice) == wanted for choice in choices if not isinstance(choice, str)
    ):
        yield ValidationError("no such choice")


def _key(value: Any) -> Any:
    """Equal for values that JSON Schema calls equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool) or value is None:
        return (type(value), value)
    if isinstance(value, dict):
        return frozenset((name, _key(item)) for name, item in value.items())
    return tuple(map(_key, value)) if isinstance(value, list) else value


_Validator: Final[Any] = _validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        "minLength": _text_length,
        "pattern": _pattern,
        "format": _format,
        "required": _required,
        "patternProperties": _by_pattern,
        "additionalProperties": _additional,
        "uniqueItems": _unique,
        "enum": _enum,
    },
)


def _made(schema: Any) -> Any:
    # An empty registry that retrieves nothing: a `$ref` out of the schema fails instead of being fetched.
    return _Validator(schema, registry=Registry())


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    read = json.loads(schema)
    Draft202012Validator.check_schema(read, format_checker=FormatChecker(formats=()))
    return _made(read)


def _told(error: ValidationError) -> Iterable[FieldViolation]:
    """Where and which rule, never the value: it is personal data and answers end up in logs."""
    path = list(error.absolute_path)
    keyword, rule = str(error.validator), error.validator_value
    reason = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", keyword).upper()
    if keyword == "required" and isinstance(error.instance, dict) and isinstance(rule, list):
        return [
            FieldViolation(_pointer([*path, str(name)]), reason)
            for name in rule
            if _missing(error.instance, name)
        ]
    described = f"{keyword}: {rule}"[:200] if isinstance(rule, str | int | float | list) else ""
    return [FieldViolation(_pointer(path), reason, described)]


def _pointer(path: Iterable[str | int]) -> str:
    return "".join("/" + str(step)[:200].replace("~", "~0").replace("/", "~1") for step in path)


def _strange(
    root: Any, rules: list[Any], value: Any, path: tuple[str | int, ...]
) -> Iterator[tuple[str | int, ...]]:
    """Paths of the keys that none of the rules for this value names."""
    known = _together(root, rules)
    if isinstance(value, dict):
        named = any(rule.get("properties") for rule in known)
        anything = any(rule.get("additionalProperties") not in (None, False) for rule in known)
        for name, item in value.items():
            inner = [rule["properties"][name] for rule in known if name in rule.get("properties", {})]
            inner += [
                inside
                for rule in known
                for pattern, inside in rule.get("patternProperties", {}).items()
                if patterns.found(pattern, name)
            ]
            if inner:
                yield from _strange(root, inner, item, (*path, name))
            elif named and not anything:
                yield (*path, name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            inner = [rule["prefixItems"][index] for rule in known if index < len(rule.get("prefixItems", ()))]
            inner += [rule["items"] for rule in known if "items" in rule]
            yield from _strange(root, inner, item, (*path, index))


def _together(root: Any, rules: list[Any]) -> list[dict[str, Any]]:
    """The rules with all that stand beside or behind them and hold, or may hold, for the same value."""
    found: list[dict[str, Any]] = []
    left, seen = list(rules), set[int]()
    while left:
        rule = left.pop()
        if not isinstance(rule, dict) or id(rule) in seen:
            continue
        seen.add(id(rule))
        found.append(rule)
        left += [rule[name] for name in ("if", "then", "else") if name in rule]
        left += [inner for name in ("allOf", "anyOf", "oneOf") for inner in rule.get(name, ())]
        left += rule.get("dependentSchemas", {}).values()
        if "$ref" in rule:
            left.append(_at(root, rule["$ref"]))
    return found


def _at(root: Any, reference: str) -> Any:
    part = root
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        try:
            part = part[int(name)] if isinstance(part, list) else part[name]
        except (LookupError, TypeError, ValueError):
            return None
    return part
