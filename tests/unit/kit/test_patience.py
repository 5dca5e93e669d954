"""What of a database's failures is waited out, and what is told at once."""

from __future__ import annotations

import pytest
from pymongo.errors import AutoReconnect, CursorNotFound, OperationFailure, WTimeoutError

from kit.mongo import patiently


@pytest.mark.parametrize(
    "failure",
    [
        AutoReconnect("connection closed"),
        OperationFailure("not primary", 10107),
        OperationFailure("stepped down", 189),
        CursorNotFound("cursor id 7 not found", 43),  # the server has died and come back between two batches
        OperationFailure("could not find host matching read preference", 133),
        WTimeoutError("waiting for replication timed out", 64),
    ],
)
async def test_what_passes_is_tried_again(failure: Exception) -> None:
    said = [failure]

    async def operation() -> str:
        if said:
            raise said.pop()
        return "done"

    assert await patiently(operation) == "done"


async def test_what_no_waiting_mends_is_raised_at_once() -> None:
    tries = []

    async def operation() -> str:
        tries.append(1)
        raise OperationFailure("Authentication failed.", 18)

    with pytest.raises(OperationFailure):
        await patiently(operation)
    assert tries == [1]
