"""Every instant, date, number, list and text has bounds: beyond them the API and each service refuse it, name
the field, and keep nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gateway.ids import to_global

World = Any

CONTRACTS = (
    *("identity.v1.identity", "catalog.v1.catalog", "dossier.v1.dossier", "dossier.v1.vault"),
    *("payment.v1.payment", "notify.v1.notify"),
)
NO_INSTANTS = (
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-07:00",
    "2200-01-01T00:00:00Z",
    "2199-12-31T23:00:00-07:00",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "0000-01-01T00:00:00Z",
    "1799-12-31T23:59:59Z",
    "10000-01-01T00:00:00Z",
    "-0001-01-01T00:00:00Z",
    "2027-06-30T24:00:00Z",
    "2027-06-30T23:59:60Z",
    "2027-02-29T00:00:00Z",
    "2027-06-30T00:00:00",
    "2027-06-30",
    "2027-W26-3T00:00:00Z",
    "20270630T000000Z",
    "２０２７-06-30T00:00:00Z",
    "2027-06-30T00:00:00+25:00",
    "2027-06-30T00:00:00Z\n",
    "",
)
NO_DATES = (
    *("9999-12-31", "2200-01-01", "1799-12-31", "0001-01-01", "0000-00-00", "2027-02-29", "20270630"),
    *("2027-W26-3", "２０２７-06-30", "2027-06-30\n", "2027-6-30", "-001-01-01"),
)
RESULT = "__typename ... on ValidationProblem { reason violations { field reason message } }"


async def refused(world: World, document: str, variables: dict[str, Any], who: str) -> list[str]:
    """The fields that the API names as wrong, whether in a typed problem or in an error; both languages have
    words for the reason."""
    fields: list[str] = []
    for locale in ("vi", "en"):
        answer = (await world.graphql(document, variables, who=who, locale=locale)).json()
        found = answer.get("errors") or list(answer["data"].values())
        assert found[0].get("__typename", "ValidationProblem") == "ValidationProblem", answer
        violations = found[0].get("violations") or found[0].get("extensions", {}).get("violations")
        assert violations, answer
        assert all(violation["message"] for violation in violations), answer
        fields = [violation["field"] for violation in violations]
    return fields


def delegations(world: World) -> list[str]:
    return [name for name in world.stored() if "/delegations/" in name]


@pytest.mark.proof("9.12")
@pytest.mark.parametrize("instant", NO_INSTANTS)
async def test_no_delegation_ends_at_an_instant_that_nothing_behind_it_can_bear(
    world: World, instant: str
) -> None:
    before = delegations(world)
    document = f"mutation($i: GrantDelegationInput!) {{ grantDelegation(input: $i) {{ {RESULT} }} }}"
    input = {"delegateIdentifier": "001085000202", "scopes": ["READ"], "expireTime": instant}
    assert await refused(world, document, {"i": input}, "owner") == ["expireTime"]
    assert delegations(world) == before


@pytest.mark.proof("9.12")
async def test_no_deadline_is_moved_to_an_instant_that_nothing_behind_it_can_bear(world: World) -> None:
    dossier = to_global("Dossier", await world.received())
    document = f"mutation($i: ExtendDeadlineInput!) {{ extendDeadline(input: $i) {{ {RESULT} }} }}"
    for instant in NO_INSTANTS:
        input = {"dossierId": dossier, "newDueTime": instant, "reason": "thiếu người"}
        assert await refused(world, document, {"i": input}, "examiner") == ["newDueTime"]


@pytest.mark.proof("9.12")
@pytest.mark.parametrize("day", NO_DATES)
async def test_no_statistics_are_counted_of_days_outside_the_calendar(world: World, day: str) -> None:
    document = "query($from: Date!, $to: Date!) { statistics(from: $from, to: $to) { newlyReceived } }"
    for variables in ({"from": day, "to": "2027-01-01"}, {"from": "2027-01-01", "to": day}):
        wrong = "from" if variables["from"] == day else "to"
        assert await refused(world, document, variables, "leader") == [wrong]


def _places(descriptor: Any, level: int = 0) -> Iterator[tuple[list[Any], FieldDescriptor]]:
    """Where a request has scalars and instants, with the fields that lead there."""
    for field in descriptor.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        inner = field.message_type
        if inner is None or inner.full_name == "google.protobuf.Timestamp":
            yield [field], field
        elif level < 4 and not inner.full_name.startswith("google."):
            for path, last in _places(inner, level + 1):
                yield [field, *path], last


def _put(message: Message, path: list[Any], value: Any) -> None:
    field, *rest = path
    held = getattr(message, field.name)
    if rest:
        _put(held.add() if field.is_repeated else held, rest, value)
    elif field.message_type is not None:
        held.seconds = value
    elif field.is_repeated:
        held.extend(value if isinstance(value, list) else [value])
    else:
        setattr(message, field.name, value)


def _hostile(field: Any) -> list[Any]:
    if field.message_type is not None:
        return [253402300799, -62135596800, 2**63 - 1, -(2**63)]
    if field.type == FieldDescriptor.TYPE_STRING:
        return ["a\x00b", "\x1b[31m", "x" * 1_000_001, *([["x"] * 100_001] if field.is_repeated else [])]
    if field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64):
        wide = 31 if field.type == FieldDescriptor.TYPE_INT32 else 63
        return [-1, -(2**wide), 2**wide - 1]
    return []


def _rpcs() -> list[str]:
    modules = [import_module(f"motcua.{name}_pb2") for name in CONTRACTS]
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    return [f"{service.name}.{method.name}" for service in services for method in service.methods]


@pytest.mark.proof("9.12")
@pytest.mark.parametrize("rpc", _rpcs())
async def test_every_service_refuses_what_is_beyond_the_bounds_of_a_field(world: World, rpc: str) -> None:
    kind = GetMessageClass(world.rpcs[rpc].input_type)
    for path, field in _places(kind.DESCRIPTOR):
        for value in _hostile(field):
            request = kind()
            _put(request, path, value)
            outcome = await world.call(rpc, request, "service:importer")
            where = ".".join(each.name for each in path)
            assert outcome.code == "INVALID_ARGUMENT", (where, str(value)[:40], outcome)
            told = [violation.field for violation in getattr(outcome.error, "violations", [])]
            assert any(field.name in each for each in told), (where, str(value)[:40], told)
