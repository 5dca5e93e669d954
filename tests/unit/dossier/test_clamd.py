"""clamd's protocol with a daemon that misbehaves: no file is called clean that it did not call so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from dossier.antivirus import Clamd, signed_at
from dossier.bootstrap import DossierSettings, build
from kit.errors import Unavailable
from kit.service import CannotStart

Daemon = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def daemon(behave: Daemon) -> AsyncIterator[Clamd]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await behave(reader, writer)
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield Clamd(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", seconds=0.5)


async def file(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def whole(reader: asyncio.StreamReader) -> bytes:
    """What a client streams, put together."""
    assert await reader.readuntil(b"\0") == b"zINSTREAM\0"
    held = b""
    while length := int.from_bytes(await reader.readexactly(4), "big"):
        assert length <= 64 * 1024
        held += await reader.readexactly(length)
    return held


async def test_all_of_a_file_arrives_in_pieces_that_clamd_takes() -> None:
    got = b""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        got = await whole(reader)
        writer.write(b"stream: OK\0")
        await writer.drain()

    async with daemon(behave) as clamd:
        assert (await clamd.scan(file(b"a" * 200_000, b"", b"b" * 3))).clean
    assert got == b"a" * 200_000 + b"bbb"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0",
        b"stream: OK",  # cut off
        b"stream: OK FOUND OR NOT\0",
        b"INSTREAM size limit exceeded. ERROR\0",
        b"stream: Can't allocate memory ERROR\0",
        b"OK\0",
        b"x" * 100_000,
        b"\xff\xfe\0",
    ],
)
async def test_an_answer_that_is_no_verdict_is_none(answer: bytes) -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await whole(reader)
        writer.write(answer)
        await writer.drain()

    async with daemon(behave) as clamd:
        with pytest.raises(Unavailable):
            await clamd.scan(file(b"abc"))


async def test_a_daemon_that_is_silent_takes_nothing_or_hangs_up_gives_no_verdict() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def taking_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    async def hanging_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    for behave in (silent, taking_nothing, hanging_up):
        async with daemon(behave) as clamd:
            with pytest.raises(Unavailable):
                await clamd.scan(file(*[bytes(2**20)] * 20))


async def test_a_limit_that_is_told_in_the_middle_is_heard() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100_000)
        writer.write(b"INSTREAM size limit exceeded. ERROR\0")
        await writer.drain()

    async with daemon(behave) as clamd:
        with pytest.raises(Unavailable):
            await clamd.scan(file(*[bytes(2**20)] * 5))


async def test_nobody_at_the_address_is_away() -> None:
    with pytest.raises(Unavailable) as error:
        await Clamd("unix:///nowhere/clamd", seconds=1).scan(file(b"x"))
    assert error.value.reason == "ANTIVIRUS_UNAVAILABLE"


@pytest.mark.parametrize("url", ["clamd:3310", "http://clamd:3310", "tcp://clamd", "tcp://:3310", "unix://"])
def test_an_address_that_is_none_is_said(url: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        Clamd(url, seconds=1)


@pytest.mark.parametrize(
    ("answer", "made"),
    [
        ("ClamAV 1.4.3/27827/Sat Nov 28 09:12:00 2026", datetime(2026, 11, 28, 9, 12, tzinfo=UTC)),
        ("ClamAV 0.103.8/26915/Fri May  5 07:23:12 2023", datetime(2023, 5, 5, 7, 23, 12, tzinfo=UTC)),
        ("ClamAV 1.4.3", None),
        ("ClamAV 1.4.3/27827/Sat Nov 31 09:12:00 2026", None),
        ("", None),
    ],
)
def test_how_old_signatures_are(answer: str, made: datetime | None) -> None:
    assert signed_at(answer) == made


def test_production_has_an_antivirus_or_says_that_it_has_none() -> None:
    settings = DossierSettings(
        environment="production",
        download_secret=SecretStr("x" * 32),
        object_store_url="s3://bucket",
        service_secret=SecretStr("x"),
        mongodb_url="mongodb://127.0.0.1:1",
    )
    with pytest.raises(CannotStart, match="ANTIVIRUS_URL"):
        build(settings)
    for wrong in ("clamd", "tcp://x"):
        with pytest.raises(CannotStart, match="ANTIVIRUS_URL"):
            build(settings.model_copy(update={"antivirus_url": wrong}))
