"""A form that would keep a pattern busy for ever keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from motcua.catalog.v1 import catalog_pb2 as cat
from motcua.dossier.v1 import dossier_pb2 as pb

WARD = "H32.15"
EMAIL = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"
LONGEST_WAIT = 0.5  # seconds; a turn of the loop takes 50 ms at most, and this machine may be busy


def procedure(world: Any, code: str, properties: dict[str, Any]) -> None:
    """Another procedure in the catalogue, with this form."""
    made = cat.Procedure()
    made.CopyFrom(world.catalog.procedures["1.001193"])
    made.code = code
    made.form.Clear()
    made.form.update({"type": "object", "properties": properties, "additionalProperties": False})
    world.catalog.procedures[code] = made


async def longest_wait(work: Any) -> tuple[float, Any]:
    """What somebody else on the same loop waited for at most meanwhile, and what became of the work."""
    longest = 0.0

    async def others() -> None:
        nonlocal longest
        while True:
            asked = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - asked)

    waiting = asyncio.create_task(others())
    await asyncio.sleep(0.02)
    done: Any = (await asyncio.gather(work, return_exceptions=True))[0]
    await asyncio.sleep(0.02)
    waiting.cancel()
    return longest, done


async def filed(world: Any, who: str, code: str, form: dict[str, Any]) -> tuple[float, Any]:
    request = pb.CreateDossierRequest(procedure_code=code, receiving_agency=WARD)
    request.form.update(form)
    draft = (await world.call("CreateDossier", who, request)).dossier
    return await longest_wait(world.refused("SubmitDossier", who, pb.SubmitDossierRequest(id=draft.id)))


@pytest.mark.proof("9.1")
async def test_a_pattern_with_a_quadratic_worst_case_holds_nobody_up(world: Any, anh: str) -> None:
    procedure(world, "1.001612", {"requester_email": {"type": "string", "pattern": EMAIL}})
    longest, error = await filed(world, anh, "1.001612", {"requester_email": "a@" + "." * 60_000 + " "})
    assert longest < LONGEST_WAIT
    told = [(v.field, v.reason) for v in error.violations if v.field.startswith("/form")]
    assert told == [("/form/requester_email", "PATTERN")]


@pytest.mark.proof("9.1")
async def test_items_that_must_differ_are_compared_in_linear_time(world: Any, anh: str) -> None:
    procedure(world, "1.001613", {"list": {"type": "array", "uniqueItems": True}})
    longest, error = await filed(world, anh, "1.001613", {"list": [{"a": n} for n in range(2_000)]})
    assert longest < LONGEST_WAIT
    assert not [v for v in error.violations if v.field.startswith("/form")]


@pytest.mark.proof("9.1")
async def test_a_pattern_that_only_a_slow_engine_knows_refuses_the_form_and_not_the_service(
    world: Any, anh: str
) -> None:
    procedure(world, "1.001614", {"a": {"type": "string", "pattern": r"^(?=a)(a+)+$"}})
    longest, error = await filed(world, anh, "1.001614", {"a": "a" * 26 + "!"})
    assert longest < LONGEST_WAIT
    assert error.reason == "BAD_SCHEMA"
