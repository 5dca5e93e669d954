"""Schemas within limits, and what is checked against them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from kit import schemas
from kit.errors import FailedPrecondition


def faults(**schema: Any) -> list[str]:
    return schemas.faults(json.dumps({"type": "object", **schema}))


def wrong(value: Any, **schema: Any) -> list[tuple[str, str]]:
    return [(v.field, v.reason) for v in schemas.violations(json.dumps(schema), value)]


def strange(value: Any, **schema: Any) -> list[str]:
    return [v.field for v in schemas.strangers(json.dumps(schema), value)]


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"properties": {"a": {"pattern": r"(a)\1"}}}, "back references"),
        ({"properties": {"a": {"pattern": "a(?=b)"}}}, "looking ahead"),
        ({"patternProperties": {"(?<=a)b": {}}}, "looking ahead or behind"),
        ({"$defs": {"x": {"items": {"anyOf": [{"pattern": "("}]}}}}, "pattern '('"),
        ({"properties": {"a": {"format": "iri-reference"}}}, "format"),
        ({"properties": {"a": {"$ref": "https://example.com/x"}}}, "$ref"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}, "required": ["a"]}, ""),
        ({"$ref": "#"}, "leads back to itself"),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/allOf/0"}}}, "leads back to itself"),
        ({"allOf": [{"$ref": "#/nowhere"}]}, "leads nowhere"),
        ({"$dynamicRef": "#x"}, "$dynamicRef"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "2020-12"),
        ({"properties": {"a": {"type": "nonsense"}}}, "$.properties.a.type"),
        ({"type": "array"}, "describes an object"),
        ({"properties": {"a": {"enum": list(range(10_001))}}}, "enum"),
        ({"properties": {f"p{n}": {} for n in range(5_001)}}, "at most 5000"),
    ],
)
def test_a_schema_that_could_not_be_checked_is_refused_with_a_reason(
    schema: dict[str, Any], where: str
) -> None:
    found = faults(**schema)
    assert (where == "" and not found) or any(where in fault for fault in found)


def test_deep_and_large_schemas_are_refused() -> None:
    deep = '{"items":' * 40 + "{}" + "}" * 40
    assert "32 levels" in schemas.faults('{"type":"object","not":' + deep + "}")[0]
    assert "32 levels" in schemas.faults('{"items":' * 20_000 + "{}" + "}" * 20_000)[0]
    assert "bytes" in schemas.faults('{"description":"' + "ế" * 90_000 + '"}')[0]


def test_text_that_cannot_be_seen_is_missing_text() -> None:
    rule: dict[str, Any] = {"required": ["name"], "properties": {"name": {"type": "string", "minLength": 2}}}
    for nothing in ("", "  ", "\u3164\u3164", "\u2800 \u115f", "\u200b\u200d\ufeff", "\n\t\u00a0"):
        assert wrong({"name": nothing}, **rule) == [("/name", "MIN_LENGTH"), ("/name", "REQUIRED")]
    assert wrong({"name": "A\u200b"}, **rule) == [("/name", "MIN_LENGTH")]
    assert wrong({"name": "An"}, **rule) == []
    assert wrong({}, **rule) == [("/name", "REQUIRED")]


@pytest.mark.parametrize(
    ("name", "right", "not_right"),
    [
        ("date", ["2026-02-28", "2024-02-29"],
         ["2026-02-29", "2026-2-1", "20260228", "2026-02-28\n", "२०२६-०२-२८"]),
        ("date-time", ["2026-11-29T10:00:00Z", "2026-11-29T10:00:00.123456789+07:00"],
         ["2026-11-29", "2026-11-29T25:00:00Z", "2026-11-29T10:00:00"]),
        ("time", ["10:00:00Z", "23:59:59.5+07:00"], ["10:00", "24:00:01Z"]),
        ("email", ["an@motcua.vn", "nguyễn.an@thư.vn"],
         ["an", "an@", "@b.vn", "a b@c.vn", "a@b", "a@b.vn\n", "a@" + "." * 60_000 + " "]),
        ("uri", ["https://motcua.vn/a?b=1", "urn:x:y"],
         ["motcua.vn", "https://a b", "http://[", "x" * 3000 + ":"]),
        ("uuid", ["0190163d-8694-739b-aea5-966c26f8ad91"], ["0190163d8694739baea5966c26f8ad91"]),
        ("ipv4", ["203.0.113.1"], ["1.2.3", "1.2.3.4.5"]),
        ("ipv6", ["::1"], [":::", "fe80::1%eth0"]),
        ("hostname", ["motcua.vn"], ["-a.vn", "a..vn"]),
        ("regex", ["^[a-z]+$"], ["(", r"(a)\1"]),
    ],
)  # fmt: skip
def test_formats_are_checked_in_linear_time_and_lengths_first(
    name: str, right: list[str], not_right: list[str]
) -> None:
    began = time.thread_time()
    assert [text for text in right if wrong(text, format=name)] == []
    assert [text for text in not_right if not wrong(text, format=name)] == []
    assert [
        text for text in ("1" * 200_000, "." * 200_000, "a@" * 100_000) if not wrong(text, format=name)
    ] == []
    assert time.thread_time() - began < 0.5


def test_keywords_that_were_quadratic_are_linear() -> None:
    began = time.thread_time()
    assert wrong([[n, "x"] for n in range(5_000)], uniqueItems=True) == []
    assert wrong([*range(5_000), 7.0], uniqueItems=True) == [("", "UNIQUE_ITEMS")]
    assert wrong([1, True, "1", None, 0, False], uniqueItems=True) == []
    assert wrong([{"a": 1, "b": [1]}, {"b": [1.0], "a": 1}], uniqueItems=True) == [("", "UNIQUE_ITEMS")]
    assert time.thread_time() - began < 0.5


def test_an_enum_knows_numbers_from_booleans() -> None:
    assert wrong(True, enum=[1]) == [("", "ENUM")]
    assert wrong(1.0, enum=[1]) == []
    assert wrong({"a": [1]}, enum=["x", {"a": [1]}]) == []
    assert wrong("y", enum=["x", 1]) == [("", "ENUM")]


def test_whole_numbers_are_as_large_as_they_are() -> None:
    assert wrong(9007199254740993, maximum=9007199254740992) == [("", "MAXIMUM")]
    assert wrong(9007199254740993, type="integer", const=9007199254740993) == []


def test_keys_by_pattern_and_others() -> None:
    rule: dict[str, Any] = {
        "properties": {"a": {}},
        "patternProperties": {"^x_": {"type": "integer"}},
        "additionalProperties": {"type": "string"},
    }
    assert wrong({"a": 1, "x_1": 2, "b": "c"}, **rule) == []
    assert wrong({"x_1": "2", "b": 3}, **rule) == [("/b", "TYPE"), ("/x_1", "TYPE")]
    assert wrong({"b": 1}, properties={"a": {}}, additionalProperties=False) == [
        ("", "ADDITIONAL_PROPERTIES")
    ]


def test_strangers_are_keys_that_no_part_of_the_schema_names() -> None:
    person: dict[str, Any] = {"properties": {"name": {}}}
    rule: dict[str, Any] = {
        "properties": {"people": {"type": "array", "items": {"$ref": "#/$defs/person"}}, "kind": {}},
        "$defs": {"person": person},
        "allOf": [{"if": {"properties": {"kind": {"const": 1}}}, "then": {"properties": {"more": {}}}}],
        "patternProperties": {"^x_": {}},
    }
    assert strange({"people": [{"name": 1}], "kind": 1, "more": 1, "x_1": 1}, **rule) == []
    assert strange({"people": [{"name": 1}, {"nme": 1}], "b": 1, "a/b": 2}, **rule) == [
        "/a~1b",
        "/b",
        "/people/1/nme",
    ]
    assert strange({"b": 1}, **rule, additionalProperties=True) == []
    assert strange({"b": 1}, **rule, additionalProperties={"type": "integer"}) == []
    assert strange({"b": 1}, type="object") == []
    assert len(strange({f"b{n}": 1 for n in range(500)}, **rule)) == 50
    assert strange({"b": {"c": 1}}, **{"$ref": "#", "properties": {"b": {"$ref": "#"}}}) == ["/b/c"]


def test_a_stored_schema_that_never_ends_is_a_bad_schema() -> None:
    for schema in ({"$ref": "#"}, {"pattern": "(?=a)"}, {"type": "nonsense"}, {"$ref": "file:///etc/passwd"}):
        with pytest.raises(FailedPrecondition, match="BAD_SCHEMA"):
            schemas.violations(json.dumps(schema), "a")
