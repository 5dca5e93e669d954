"""`kill -9` of any one process in the middle of the journey, and a restart: nothing lost, nothing done twice.

Citizens file while a part is killed at a random moment; they ask again with the same `requestId` until they
get an answer. Afterwards what the stores and the mail box hold of every dossier must be exactly what they
hold of one that nobody disturbed. `CHAOS_SEED` plays the same moments again.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dev.stack import Stack
from tests.whole_town import (
    Town,
    accounts_add_up,
    at_rest,
    caught_mails,
    file_and_follow,
    left_behind,
    town_at,
    undisturbed_filing,
)

OFTEN = ("dossier", "payment", "nats", "mongodb")  # in every `make test`; the others in `make chaos`
SELDOM = ("identity", "catalog", "notify", "gateway", "sandbox", "mail")
# Between the moment a mail server takes a mail and the moment that notify has written this down, either's
# death leaves only one safe thing to do: send the same mail, with the same Message-ID, again.
MAIL_IN_HAND = {"notify", "mail", "mongodb"}

JSON = dict[str, Any]


@pytest.fixture(scope="session")
async def undisturbed(stack: Stack) -> tuple[float, JSON]:
    """How long one filing takes (seconds) and what it leaves behind, when nothing happens."""
    async with town_at(stack.addresses) as town:
        began = time.monotonic()
        await file_and_follow(town)
        seconds = time.monotonic() - began
        expected = await undisturbed_filing(town)
        await accounts_add_up(town, Counter(), mail_twice=False)
        return seconds, expected


@pytest.fixture
async def town(stack: Stack, undisturbed: tuple[float, JSON]) -> AsyncIterator[Town]:
    async with town_at(stack.addresses) as town:
        yield town


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Chance that can be had again: the seed is in the report of a test that fails."""
    seed = os.environ.get("CHAOS_SEED") or os.urandom(3).hex()
    print(f"CHAOS_SEED={seed}")
    return random.Random(f"{seed} {request.node.name}")  # noqa: S311


async def survive(
    stack: Stack,
    town: Town,
    undisturbed: tuple[float, JSON],
    citizens: int,
    kills: list[tuple[str, float]],
) -> None:
    """So many citizens file at once while parts are killed and restarted, each after a share of the time that
    a filing usually takes; then all must be as if nothing had happened."""
    usual, expected = undisturbed
    before = await caught_mails(town)
    async with asyncio.TaskGroup() as together:
        journeys = [together.create_task(file_and_follow(town)) for _ in range(citizens)]
        for part, moment in kills:
            await asyncio.sleep(moment * usual)  # no condition to wait for: the crash comes when it comes
            print(f"{part} killed after {moment:.0%} of {usual:.1f} s")
            await stack.kill(part)
            await stack.restart(part)
    await at_rest(town)
    for journey in journeys:
        assert await left_behind(town, journey.result()) == expected
    await accounts_add_up(town, before, mail_twice=bool(MAIL_IN_HAND & {part for part, _ in kills}))


@pytest.mark.parametrize("part", [*OFTEN, *(pytest.param(part, marks=pytest.mark.chaos) for part in SELDOM)])
async def test_killing_a_part_in_the_middle_of_the_journey_loses_nothing_and_repeats_nothing(
    part: str, stack: Stack, town: Town, undisturbed: tuple[float, JSON], chance: random.Random
) -> None:
    await survive(stack, town, undisturbed, citizens=3, kills=[(part, chance.uniform(0.1, 1.0))])


@pytest.mark.chaos
async def test_eight_citizens_file_at_once_while_dossier_and_then_payment_are_killed(
    stack: Stack, town: Town, undisturbed: tuple[float, JSON], chance: random.Random
) -> None:
    kills = [(part, chance.uniform(0.2, 1.5)) for part in ("dossier", "payment")]
    await survive(stack, town, undisturbed, citizens=8, kills=kills)
