"""What one dossier costs: CPU and memory of each process, events, bytes at rest; for docs/operations.md.

python -m tests.load.sizing [--journeys 60] [--clients 4]

Starts a stack of its own, lets citizens file (account, document, dossier, fee, two steps, signed result), and
reads what the kernel knows of each process before and after. One process of each kind.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient
from rich.console import Console
from rich.table import Table

from dev.options import SERVICES, private
from dev.stack import Stack
from tests.whole_town import Town, at_rest, file_and_follow, town_at

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Use:
    """What a process and its children have used: CPU in ms, resident memory in MB."""

    cpu: float
    memory: float


def use(pid: int) -> Use:
    """Of one process group leader; the stack starts each part in a session of its own."""
    cpu = memory = 0.0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == pid or int(entry.name) == pid:  # field 6 of stat: the session
            cpu += (int(fields[11]) + int(fields[12])) * 1000 / _TICK
            memory += int(fields[21]) * _PAGE / 2**20
    return Use(cpu, memory)


@dataclass(frozen=True)
class Held:
    """What is at rest: documents and their bytes by service, events, and bytes in files."""

    documents: Mapping[str, int]
    bytes: Mapping[str, int]
    events: int
    event_bytes: int
    files: Mapping[str, int]


async def held(town: Town, data: Path) -> Held:
    """Looks behind the stack. Bytes of documents are of their BSON, before any compression or index."""
    documents: dict[str, int] = {}
    sizes: dict[str, int] = {}
    async with AsyncMongoClient[dict[str, Any]](town.where.mongodb) as client:
        raw: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)
        for service in SERVICES:
            database = client[f"motcua_{service}"]
            documents[service] = sizes[service] = 0
            for name in await database.list_collection_names():
                everything: Any = database.get_collection(name, codec_options=raw)
                async for document in everything.find({}):
                    documents[service] += 1
                    sizes[service] += len(document.raw)
    connection = await nats.connect(town.where.nats)
    states = [stream.state for stream in await connection.jetstream().streams_info()]
    await connection.close()
    files = {
        name: sum(path.stat().st_size for path in (data / name).rglob("*") if path.is_file())
        for name in ("nats", "nx-27017", "objects")
        if (data / name).exists()
    }
    return Held(documents, sizes, sum(s.messages for s in states), sum(s.bytes for s in states), files)


async def measure(journeys: int, clients: int, console: Console) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        async with Stack(private(data)) as stack, town_at(stack.addresses) as town:
            idle = {name: use(pid) for name, pid in stack.pids.items()}
            await asyncio.gather(*(file_and_follow(town) for _ in range(clients)))  # caches and connections
            await at_rest(town)
            before, started = await held(town, data), {n: use(pid) for n, pid in stack.pids.items()}
            took, peak = await _file(town, stack, journeys, clients)
            ended = {name: use(pid) for name, pid in stack.pids.items()}
            after = await held(town, data)
    processor = next((line for line in _read("/proc/cpuinfo").splitlines() if "model name" in line), ":")
    machine = (
        f"{os.cpu_count()} cores {processor.partition(':')[2].strip()}, Python {platform.python_version()}"
    )
    console.print(f"{datetime.now(UTC):%Y-%m-%d}, {machine}; store: {stack.addresses.store}")
    console.print(
        f"{journeys} journeys by {clients} at a time in {took:.1f} s: {journeys / took:.2f} a second"
    )
    table = Table("process", "CPU ms a journey", "MB at start", "MB at most", "documents", "BSON bytes")
    for name in idle:
        cpu = (ended[name].cpu - started[name].cpu) / journeys
        row = [name, f"{cpu:.0f}", f"{idle[name].memory:.0f}", f"{peak[name]:.0f}"]
        if name in SERVICES:
            row += [f"{(x[name] - y[name]) / journeys:.1f}" for x, y in _pairs(after, before)]
        table.add_row(*row)
    console.print(table)
    events, size = after.events - before.events, after.event_bytes - before.event_bytes
    console.print(f"a journey: {events / journeys:.1f} events, {size / journeys:.0f} bytes in JetStream")
    for name, number in after.files.items():
        grown = (number - before.files.get(name, 0)) / journeys
        console.print(f"a journey: {grown:.0f} bytes of files in {name}/")


def _pairs(after: Held, before: Held) -> list[tuple[Mapping[str, int], Mapping[str, int]]]:
    return [(after.documents, before.documents), (after.bytes, before.bytes)]


async def _file(town: Town, stack: Stack, journeys: int, clients: int) -> tuple[float, dict[str, float]]:
    """So many journeys, `clients` at a time: seconds until all is at rest, and the most memory of each."""
    peak = dict.fromkeys(stack.pids, 0.0)
    left = iter(range(journeys))

    async def work() -> None:
        for _ in left:
            await file_and_follow(town)
            for name, pid in stack.pids.items():
                peak[name] = max(peak[name], use(pid).memory)

    began = time.monotonic()
    await asyncio.gather(*(work() for _ in range(clients)))
    await at_rest(town)
    return time.monotonic() - began, peak


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--journeys", type=int, default=60)
    parser.add_argument("--clients", type=int, default=4)
    arguments = parser.parse_args()
    os.environ.setdefault("REQUESTS_PER_ACCOUNT", "100000000")
    os.environ.setdefault("REQUESTS_PER_ADDRESS", "100000000")
    asyncio.run(measure(arguments.journeys, arguments.clients, Console(width=110)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
