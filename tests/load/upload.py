"""`make upload-test`: a large file by tus over a line that breaks, and what it costs each process in memory.

python -m tests.load.upload [--megabytes 200] [--growth 64]

Uses the stack that `make run` started, else one of its own. The line between the tus client and the gateway
is cut twice in the middle of a PATCH; each time the client asks where the upload stands and goes on there.
Exits with 1 when the file did not arrive as it was sent or a process grew by more than was allowed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import random
import socket
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from rich.console import Console
from rich.table import Table
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from dev.journey import PASSWORD, new_citizen, pdf
from dev.options import HOST, private
from dev.parts import Addresses
from dev.person import Person
from dev.stack import Stack, find
from tests import papers

MEGABYTE = 2**20
BLOCK = MEGABYTE  # of the file, made anew from its number whenever it is read
EVERY = 0.05  # seconds between two looks at the memory
PATIENCE = 60.0  # seconds that the client goes on asking after a cut
PATCHES = 3  # in so many pieces the client would send the file if nothing happened
FIELDS = "url document { id versions { sha256 size } }"


class MadeUp(io.RawIOBase):
    """A PDF of one empty page and noise, never held whole: the same bytes at every reading."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed, self._at = size, seed, 0
        self._front, self._back = papers.frame(size)

    def _block(self, number: int) -> bytes:
        noise = random.Random(self._seed * 1_000_003 + number).randbytes(BLOCK)  # noqa: S311
        block = noise[: self._size - number * BLOCK]
        if number == 0:
            block = self._front + block[len(self._front) :]
        missing = len(self._back) - max(0, self._size - (number + 1) * BLOCK)  # of the back, what is in here
        if missing > 0:
            block = block[: max(0, len(block) - missing)] + self._back[:missing][-len(block) :]
        return block

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._at + size, self._size)
        found = bytearray()
        while self._at < end:
            number, start = divmod(self._at, BLOCK)
            piece = self._block(number)[start : start + end - self._at]
            found += piece
            self._at += len(piece)
        return bytes(found)

    def sha256(self) -> str:
        """Of the whole file."""
        digest = hashlib.sha256()
        for number in range(-(-self._size // BLOCK)):
            digest.update(self._block(number)[: self._size - number * BLOCK])
        return digest.hexdigest()


class Line:
    """A way to the gateway that breaks, with a reset to both ends, each time so many bytes have gone up."""

    def __init__(self, gateway: str, cuts: list[int]) -> None:
        self._gateway = urlsplit(gateway)
        self._cuts = cuts
        self._carried = 0
        self.broken: list[int] = []  # bytes that had gone up at each cut

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Its address."""
        async with await asyncio.start_server(self._connection, HOST, 0) as server:
            yield f"{HOST}:{server.sockets[0].getsockname()[1]}"

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ahead, away = await asyncio.open_connection(self._gateway.hostname, self._gateway.port)
        both = (writer, away)
        down = asyncio.create_task(self._carry(ahead, writer))
        try:
            while data := await reader.read(64 * 1024):
                away.write(data)
                await away.drain()
                self._carried += len(data)
                if self._cuts and self._carried >= self._cuts[0]:
                    self._cuts.pop(0)
                    self.broken.append(self._carried)
                    for end in both:
                        _reset(end)
                    return
        except ConnectionError:
            return
        finally:
            down.cancel()
            for end in both:
                end.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(64 * 1024):
            writer.write(data)
            await writer.drain()
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@dataclass
class Memory:
    """Resident memory of processes by name, with their children, in bytes: at first, at most."""

    pids: Mapping[str, int]
    before: dict[str, int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Looks again and again meanwhile."""
        self.before = {name: resident(pid) for name, pid in self.pids.items()}
        self.peak = dict(self.before)

        async def look() -> None:
            while True:
                for name, pid in self.pids.items():
                    self.peak[name] = max(self.peak[name], resident(pid))
                await asyncio.sleep(EVERY)

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            looking.cancel()

    @property
    def growth(self) -> dict[str, int]:
        """By how much each one grew at most."""
        return {name: self.peak[name] - self.before[name] for name in self.pids}


def resident(pid: int) -> int:
    """Resident memory of a process and of all that it started, in bytes (Linux)."""
    return sum(_resident(one) for one in _family(pid))


def _resident(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    line = next((line for line in status.splitlines() if line.startswith("VmRSS:")), "VmRSS: 0 kB")
    return int(line.split()[1]) * 1024


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _family(int(child))


@dataclass(frozen=True)
class Report:
    """What happened to a file."""

    size: int
    sent: str  # SHA-256 of what was sent
    stored: str  # as the vault says
    received: str  # of what came back
    resumed: list[tuple[int, int]]  # at each cut: bytes that had gone up, bytes that were kept
    up: float  # seconds
    down: float
    memory: Memory


async def carry(where: Addresses, pids: Mapping[str, int], size: int) -> Report:
    """Sends a file of that size over a line that breaks twice, and fetches it again."""
    file = MadeUp(size, seed=random.randrange(2**32))  # noqa: S311
    sent = file.sha256()
    line = Line(where.gateway, cuts=[size // 5, size * 3 // 5])
    number, phone = new_citizen()
    async with Person("Nguyễn Thị An", where.gateway) as citizen:
        await citizen.do(
            "signUp",
            "Account",
            "id",
            kind="PERSON",
            name=citizen.name,
            citizenNumber=number,
            phone=phone,
            password=PASSWORD + "!",
        )
        await citizen.sign_in(number, PASSWORD + "!")
        await citizen.upload(pdf("Nho"), filename="nho.pdf", contentType="application/pdf")  # all is loaded
        request = {
            "requestId": f"upload-{number}",
            "size": size,
            "filename": "lon.pdf",
            "contentType": "application/pdf",
            "sha256": sent,
        }
        begun = await citizen.do("beginUpload", "Upload", FIELDS, **request)
        memory = Memory(pids)
        async with memory.watched(), line.open() as address:
            url = urlunsplit(urlsplit(begun["url"])._replace(netloc=address))
            began = time.perf_counter()
            kept = await asyncio.to_thread(_send, url, citizen.headers, file)
            up = time.perf_counter() - began
            document = (await citizen.do("beginUpload", "Upload", FIELDS, **request))["document"]
            began = time.perf_counter()
            received = await _fetch(citizen, document["id"], size)
            down = time.perf_counter() - began
        version = document["versions"][0]
        resumed = list(zip(line.broken, kept, strict=True))
        return Report(size, sent, version["sha256"], received, resumed, up, down, memory)


def _send(url: str, headers: dict[str, str], file: MadeUp) -> list[int]:
    """Sends the file by tus and answers where the upload stood after each break (bytes)."""
    size = file.seek(0, io.SEEK_END)
    kept: list[int] = []
    deadline = time.monotonic() + PATIENCE
    broken = False
    while True:
        try:
            uploader = TusClient(url, headers=headers).uploader(
                file_stream=file, url=url, chunk_size=-(-size // PATCHES)
            )
            if broken:
                kept.append(uploader.offset)
            broken = True
            uploader.upload()
            return kept
        except TusCommunicationError as error:
            if error.status_code == 409 and kept:
                kept.pop()  # what came before the cut was still being put away when we asked
            elif error.status_code is not None:
                raise
            if time.monotonic() > deadline:
                raise


async def _fetch(citizen: Person, document: str, size: int) -> str:
    """The SHA-256 of the document's bytes, fetched as one range."""
    url = (await citizen.do("createDownload", "Download", "url", documentId=document))["url"]
    digest = hashlib.sha256()
    whole = {"Range": f"bytes=0-{size - 1}"}
    async with httpx.AsyncClient(timeout=60) as client, client.stream("GET", url, headers=whole) as answer:
        assert answer.status_code == 206, answer.status_code
        assert answer.headers["content-range"] == f"bytes 0-{size - 1}/{size}"
        async for piece in answer.aiter_bytes():
            digest.update(piece)
    return digest.hexdigest()


def wrong(report: Report, growth: int) -> list[str]:
    """What is not as it should be; `growth` is what a process may grow by (bytes)."""
    found = [
        f"{name} grew by {grown / MEGABYTE:.0f} MB, more than {growth / MEGABYTE:.0f} MB"
        for name, grown in report.memory.growth.items()
        if grown > growth
    ]
    if report.stored != report.sent:
        found.append("the vault has another SHA-256 than the file")
    if report.received != report.sent:
        found.append("what came back is not what was sent")
    if len(report.resumed) != 2 or any(kept == 0 for _, kept in report.resumed):
        found.append(f"the upload was not resumed twice: {report.resumed}")
    return found


def show(console: Console, report: Report, growth: int) -> None:
    """Prints it."""
    table = Table("process", "before", "peak", "growth", title="resident memory, MB")
    for column in table.columns[1:]:
        column.justify = "right"
    memory = report.memory
    for name, grown in sorted(memory.growth.items(), key=lambda item: -item[1]):
        numbers = [memory.before[name], memory.peak[name], grown]
        style = "bold red" if grown > growth else ""
        table.add_row(name, *(f"{number / MEGABYTE:.1f}" for number in numbers), style=style)
    console.print(table)
    for carried, kept in report.resumed:
        console.print(f"cut after {carried / MEGABYTE:.1f} MB, went on from {kept / MEGABYTE:.1f} MB")
    size = report.size / MEGABYTE
    console.print(
        f"{size:.0f} MB up in {report.up:.1f} s ({size / report.up:.1f} MB/s), "
        f"down in {report.down:.1f} s ({size / report.down:.1f} MB/s)"
    )
    console.print(f"SHA-256 {report.sent}")


def main() -> int:
    """Entry of `make upload-test`."""
    parser = argparse.ArgumentParser(
        prog="make upload-test",
        usage='make upload-test ARGS="[--megabytes N] [--growth N]"',
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument("--megabytes", type=int, default=200, help="size of the file")
    parser.add_argument("--growth", type=int, default=64, help="megabytes that a process may grow by")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    report = asyncio.run(_run(console, arguments.megabytes * MEGABYTE))
    show(console, report, arguments.growth * MEGABYTE)
    found = wrong(report, arguments.growth * MEGABYTE)
    for line in found:
        console.print(f"[bold red]{line}[/]")
    return 1 if found else 0


async def _run(console: Console, size: int) -> Report:
    running = find()
    if running is not None:
        state: dict[str, Any] = json.loads((Path(running.data) / "stack.json").read_text())
        return await carry(running, state["pids"], size)
    with tempfile.TemporaryDirectory(prefix="motcua-") as folder:
        console.print("no stack runs here; starting one")
        async with Stack(private(Path(folder))) as stack:
            return await carry(stack.addresses, stack.pids, size)


if __name__ == "__main__":
    sys.exit(main())
