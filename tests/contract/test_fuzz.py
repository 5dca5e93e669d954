"""Whatever a request holds, a service answers it or says why not: never INTERNAL, never UNKNOWN."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

World = Any

EXAMPLES = 8  # of each RPC
CALLERS = (
    "nobody",
    "owner",
    "reception",
    "leader",
    "cashier",
    "admin",
    "service:importer",
    "service:gateway",
)
STRANGE = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "\x1b[31m\r\n",
    "\u202e\u200b\ufeff",
    "A" * 5000,
    "ế" * 3000,
    "$where",
    '{"$gt": ""}',
    "../../etc/passwd",
    "-1",
    "9" * 40,
    "2026-02-30",
    "9999-12-31",
    "0000-00-00",
    "9.900001",
    "9.900001@1",
    "9.900001@99999999999999999999",
    "H32.15",
    "079090000101",
    "+84901000101",
    "application/pdf",
    "%PDF-1.7",
    "vi",
    "=?utf-8?q?x?=",
)
EDGES = (0, 1, -1, 2, 100, 101, 2**31 - 1, -(2**31))
WIDE = (*EDGES, 2**63 - 1, -(2**63), 2**53)
INT64 = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64)


def _scalars(field: Any, ids: list[str]) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_STRING:
        known = st.sampled_from(ids) if field.name.endswith(("id", "ids")) else st.sampled_from(STRANGE)
        # A string of protobuf holds no lone surrogates; everything else it does.
        return (
            known | st.sampled_from(STRANGE) | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
        )
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=200)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return st.floats()
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values] + [99, -1, 2**31 - 1])
    return st.sampled_from(WIDE if field.type in INT64 else EDGES)


def _fill(draw: Any, message: Message, ids: list[str], level: int = 0) -> Message:
    """Sets some of the fields to something."""
    for field in message.DESCRIPTOR.fields:
        if level > 3 or draw(st.integers(0, 3)) == 0:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            if value.message_type is None:
                entries = draw(st.dictionaries(_scalars(key, ids), _scalars(value, ids), max_size=4))
                getattr(message, field.name).update(entries)
            else:  # the fields of a Struct
                for name in draw(st.lists(_scalars(key, ids), max_size=4)):
                    _fill(draw, getattr(message, field.name)[name], ids, level + 1)
        elif field.is_repeated:
            size = draw(st.sampled_from((0, 1, 1, 2, 101, 300)))
            if field.message_type is not None:
                for _ in range(min(size, 3)):
                    _fill(draw, getattr(message, field.name).add(), ids, level + 1)
            else:
                some = draw(st.lists(_scalars(field, ids), min_size=1, max_size=3))
                getattr(message, field.name).extend((some * size)[:size])
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            _fill(draw, getattr(message, field.name), ids, level + 1)
        else:
            setattr(message, field.name, draw(_scalars(field, ids)))
    return message


def _rpcs() -> list[str]:
    names = ("identity", "catalog", "dossier", "payment", "notify")
    files = [*((name, name) for name in names), ("dossier", "vault")]
    modules = [import_module(f"motcua.{context}.v1.{file}_pb2") for context, file in files]
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    return [f"{service.name}.{method.name}" for service in services for method in service.methods]


@pytest.mark.parametrize("rpc", _rpcs())
async def test_no_request_however_strange_breaks_a_service(world: World, rpc: str) -> None:
    dossier, document = await world.used()
    ids = [dossier, document, world.ids["owner"], world.ids["clerk"], world.ids["roleless"]]
    kind = GetMessageClass(world.rpcs[rpc].input_type)
    requests = st.composite(lambda draw: _fill(draw, kind(), ids))()
    loop = asyncio.get_running_loop()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(request=requests, who=st.sampled_from(CALLERS))
    def every(request: Message, who: str) -> None:
        outcome = asyncio.run_coroutine_threadsafe(world.call(rpc, request, who), loop).result(60)
        assert outcome.code not in ("INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED"), (who, outcome)
        assert outcome.code == "OK" or outcome.reason, (who, outcome)

    await asyncio.to_thread(every)
