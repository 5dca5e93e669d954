"""Work with limits: what goes past them is killed, and the next call is served all the same."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kit import bounded
from kit.errors import FieldViolation, InvalidInput, RateLimited, Unavailable

MB = 1 << 20


@asynccontextmanager
async def workers(**limits: Any) -> AsyncIterator[bounded.Workers]:
    made = bounded.Workers(
        **{"cpu_seconds": 0.3, "memory_bytes": 200 * MB, "wall_seconds": 5.0, "waiting": 4} | limits
    )
    try:
        yield made
    finally:
        await made.close()


def process() -> int:
    return os.getpid()


def add(one: int, other: int) -> int:
    return one + other


def hold_the_lock() -> bool:
    return re.search(r"^(a+)+$", "a" * 40 + "!") is not None


def fill(size: int) -> int:
    return len(b"x" * size)


def recurse() -> int:
    return recurse() + 1


def wait_for_nothing() -> None:
    signal.pause()


def refuse() -> None:
    raise InvalidInput("NOT_THIS", violations=[FieldViolation("/a", "WRONG")], limit=3)


def fail() -> None:
    raise KeyError("079123456789")


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)


def leave() -> None:
    os._exit(7)


def print_and_read() -> str:
    print("not an answer", flush=True)
    return sys.stdin.read()


def surroundings() -> dict[str, str]:
    return dict(os.environ)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.getpid, ()


def trap() -> Trap:
    return Trap()


async def test_a_result_and_a_refusal_come_through() -> None:
    async with workers() as some:
        assert await some.run(add, 1, other=2) == 3
        with pytest.raises(InvalidInput) as refused:
            await some.run(refuse)
    assert (refused.value.reason, refused.value.metadata) == ("NOT_THIS", {"limit": "3"})
    assert refused.value.violations == [FieldViolation("/a", "WRONG")]


async def test_work_that_holds_the_interpreters_lock_is_killed_by_its_cpu_time_while_the_loop_goes_on() -> (
    None
):
    async with workers() as some:
        first = await some.run(process)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        counting = asyncio.create_task(count())
        began = time.monotonic()
        with pytest.raises(bounded.TooExpensive) as refused:
            await some.run(hold_the_lock)
        counting.cancel()
        assert refused.value.reason == "WORK_LIMIT_EXCEEDED"
        assert refused.value.code == "INVALID_ARGUMENT"
        assert time.monotonic() - began < 4
        assert turns > 5
        assert await some.run(process) != first


async def test_cpu_time_is_counted_for_each_call_alone() -> None:
    async with workers(cpu_seconds=0.2) as some:
        one = await some.run(process)
        for _ in range(12):
            await some.run(fill, 20 * MB)
        assert await some.run(process) == one


async def test_memory_time_and_a_deep_stack_are_bounded() -> None:
    async with workers(wall_seconds=0.3) as some:
        with pytest.raises(bounded.TooExpensive):
            await some.run(wait_for_nothing)
    async with workers() as some:
        assert await some.run(fill, 10 * MB) == 10 * MB
        with pytest.raises(bounded.TooExpensive):
            await some.run(fill, 1000 * MB)
        with pytest.raises(RuntimeError, match="RecursionError"):
            await some.run(recurse)
        assert await some.run(add, 1, 1) == 2


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
async def test_input_that_crashes_a_library_is_the_inputs_fault(number: int) -> None:
    async with workers() as some:
        with pytest.raises(bounded.TooExpensive):
            await some.run(end_by, number)
        assert await some.run(add, 1, 1) == 2


async def test_a_worker_killed_by_somebody_else_may_be_tried_again() -> None:
    async with workers() as some:
        with pytest.raises(Unavailable, match="WORKER_LOST"):
            await some.run(end_by, signal.SIGKILL)
        with pytest.raises(bounded.TooExpensive):
            await some.run(leave)
        idle = await some.run(process)
        os.kill(idle, signal.SIGKILL)
        assert await some.run(process) != idle


async def test_a_full_queue_refuses_and_those_who_wait_are_served() -> None:
    async with workers(waiting=2, wall_seconds=2) as some:
        busy = asyncio.create_task(some.run(wait_for_nothing))
        waiting = [asyncio.create_task(some.run(add, 1, n)) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(RateLimited, match="WORKERS_BUSY"):
            await some.run(add, 1, 1)
        assert await asyncio.gather(*waiting) == [1, 2]
        with pytest.raises(bounded.TooExpensive):
            await busy


async def test_a_caller_who_goes_away_takes_the_work_along(tmp_path: Path) -> None:
    async with workers() as some:
        one = await some.run(process)
        call = asyncio.create_task(some.run(wait_for_nothing))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not Path(f"/proc/{one}").exists()
        assert await some.run(add, 1, 1) == 2


async def test_what_nobody_expected_says_where_and_not_what() -> None:
    async with workers() as some:
        with pytest.raises(RuntimeError, match=r"KeyError in fail .*test_bounded\.py") as failed:
            await some.run(fail)
        assert "079123456789" not in str(failed.value)


async def test_a_library_that_prints_or_reads_disturbs_no_answer() -> None:
    async with workers() as some:
        assert await some.run(print_and_read) == ""


async def test_a_worker_has_no_secrets_and_its_answers_call_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URL", "mongodb://user:secret@db")
    async with workers() as some:
        assert "MONGODB_URL" not in await some.run(surroundings)
        with pytest.raises(pickle.UnpicklingError):
            await some.run(trap)


async def test_closing_ends_every_process() -> None:
    async with workers(count=2) as some:
        ids = await asyncio.gather(some.run(process), some.run(process))
    assert not any(Path(f"/proc/{id}").exists() for id in ids)


PARENT = """
import asyncio, os, uvloop
from kit import bounded
from tests.unit.kit.test_bounded import process, wait_for_nothing
async def main():
    workers = bounded.Workers(2, cpu_seconds=1, memory_bytes=1 << 28, wall_seconds=1)
    ids = await asyncio.gather(workers.run(process), workers.run(process))
    busy = asyncio.create_task(workers.run(wait_for_nothing))
    await asyncio.sleep(0.1)
    print(*ids, flush=True)
    os._exit(0)
uvloop.run(main())
"""


@pytest.fixture
def orphans() -> list[int]:
    answer = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=True)
    return [int(id) for id in answer.stdout.split()]


async def test_workers_end_with_their_parent_even_in_the_middle_of_work(
    orphans: list[int], eventually: Callable[..., Awaitable[Any]]
) -> None:
    assert len(set(orphans)) == 2
    await eventually(lambda: not any(_lives(id) for id in orphans))


FORKING = """
import asyncio, ctypes, uvloop
libc = ctypes.CDLL(None)
libc.__register_atfork(None, None, libc.abort, None)
from kit import bounded
from tests.unit.kit.test_bounded import add
async def main():
    workers = bounded.Workers(cpu_seconds=1, memory_bytes=1 << 28, wall_seconds=1)
    print(await workers.run(add, 1, 2))
    await workers.close()
uvloop.run(main())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "__register_atfork"), reason="needs glibc")
def test_a_worker_starts_whatever_a_library_does_when_the_process_forks() -> None:
    """gRPC starts threads then, which crash a child that is about to become a worker."""
    answer = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True)
    assert answer.stdout == "3\n", answer.stderr[-500:]


def _lives(id: int) -> bool:
    try:
        return Path(f"/proc/{id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
