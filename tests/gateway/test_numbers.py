"""Numbers that are written into a query: none is so long that it cannot be read."""

from __future__ import annotations

from typing import Any

import pytest

LONG = "9" * 5000


@pytest.mark.proof("9.12")
@pytest.mark.parametrize("number", [LONG, f"-{LONG}"])
@pytest.mark.parametrize(
    "query",
    [
        "{ procedures(first: %s) { nodes { code } } }",
        "query($first: Int = %s) { procedures(first: $first) { nodes { code } } }",
        "{ node(id: %s) { id } }",
    ],
)
async def test_a_number_too_long_to_be_read_is_refused(gateway: Any, query: str, number: str) -> None:
    answer = (await gateway.ask(query % number)).json()
    assert "INTERNAL" not in {error["extensions"]["code"] for error in answer.get("errors", ())}


async def test_many_digits_are_fine_in_a_text(gateway: Any) -> None:
    answer = (await gateway.ask(f'{{ node(id: "{LONG}") {{ id }} }}')).json()
    assert answer == {"data": {"node": None}}
