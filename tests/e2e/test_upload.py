"""A file that nobody holds whole, over a line that breaks; `make upload-test` does the same with 200 MB."""

from __future__ import annotations

from dev.stack import Stack
from tests.load.upload import MEGABYTE, carry, wrong

WARM_UP = 12 * MEGABYTE
SIZE = 24 * MEGABYTE
GROWTH = 16 * MEGABYTE  # less than the file: a process that held it would grow by more


async def test_an_upload_that_breaks_twice_arrives_whole_and_nobody_holds_it(stack: Stack) -> None:
    # The parts and windows of streams that are in memory whatever the size are there after a first file.
    await carry(stack.addresses, stack.pids, WARM_UP)
    report = await carry(stack.addresses, stack.pids, SIZE)
    assert wrong(report, GROWTH) == []
