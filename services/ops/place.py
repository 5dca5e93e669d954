"""Where backups and objects are kept: a folder or an S3-compatible store. Files are streamed and hashed."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

from kit.settings import CannotStart
from ops.settings import BackupSettings

_GZIP = 16 + zlib.MAX_WBITS


class Damaged(ValueError):
    """A file of a backup is not what was written; the message names it."""


@dataclass(frozen=True)
class File:
    """A file of a backup: its path, the SHA-256 and the bytes of what is stored."""

    path: str
    sha256: str
    bytes: int


def open_place(setting: str, url: str, **own: str) -> ObjectStore:
    """The store that `url` names; what `own` leaves empty is taken from AWS_*. Raises CannotStart."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        folder = Path(url2pathname(parts.path))
        folder.mkdir(parents=True, exist_ok=True)
        return LocalStore(folder, mkdir=True)
    if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc or parts.query:
        raise CannotStart(f"{setting} is neither file:///folder nor s3://bucket/prefix")
    given: Any = {name: value for name, value in own.items() if value}
    made: ObjectStore = from_url(
        url, retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=60)}, **given
    )
    return made


def backups(settings: BackupSettings) -> ObjectStore:
    """The store of the backups."""
    return open_place(
        "BACKUP_URL",
        settings.backup_url,
        endpoint=settings.backup_aws_endpoint,
        region=settings.backup_aws_region,
        access_key_id=settings.backup_aws_access_key_id,
        secret_access_key=settings.backup_aws_secret_access_key.get_secret_value(),
    )


def objects(settings: BackupSettings) -> ObjectStore:
    """The store of the vault's objects."""
    return open_place("OBJECT_STORE_URL", settings.object_store_url)


class Sink:
    """A file being written; `file` says what it became, once the block around it has ended."""

    def __init__(self, writer: Any, packed: bool) -> None:
        self.file = File("", "", 0)
        self._writer = writer
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._pack = zlib.compressobj(6, wbits=_GZIP) if packed else None

    async def write(self, data: bytes) -> None:
        """Adds bytes."""
        await self._put(self._pack.compress(data) if self._pack else data)

    async def _put(self, data: bytes) -> None:
        if data:
            self._digest.update(data)
            self._bytes += len(data)
            await self._writer.write(data)

    async def end(self, path: str) -> None:
        """Writes what is still held back and names the file."""
        if self._pack:
            await self._put(self._pack.flush())
        self.file = File(path, self._digest.hexdigest(), self._bytes)


@asynccontextmanager
async def writing(store: ObjectStore, path: str, *, packed: bool = False) -> AsyncIterator[Sink]:
    """A new file, with gzip when `packed`; it is there only when the block ended well."""
    async with obstore.open_writer_async(store, path, buffer_size=8 * 2**20, max_concurrency=2) as writer:
        sink = Sink(writer, packed)
        yield sink
        await sink.end(path)


async def reading(store: ObjectStore, file: File, *, packed: bool = False) -> AsyncIterator[bytes]:
    """The file in pieces. Raises Damaged at its end when it is not what was written."""
    digest, size = hashlib.sha256(), 0
    unpack = zlib.decompressobj(_GZIP) if packed else None
    answer = await obstore.get_async(store, file.path)
    async for chunk in answer.stream(min_chunk_size=2**20):
        data = bytes(chunk)
        digest.update(data)
        size += len(data)
        if piece := unpack.decompress(data) if unpack else data:
            yield piece
    if unpack and (rest := unpack.flush()):
        yield rest
    if (digest.hexdigest(), size) != (file.sha256, file.bytes):
        raise Damaged(f"{file.path} is not what was written")


async def put_json(store: ObjectStore, path: str, value: Any) -> None:
    """Writes a small file whole."""
    await obstore.put_async(store, path, json.dumps(value, indent=1).encode(), use_multipart=False)


async def get_json(store: ObjectStore, path: str) -> Any:
    """What put_json wrote. Raises FileNotFoundError."""
    return json.loads(bytes(await (await obstore.get_async(store, path)).bytes_async()))


async def listed(store: ObjectStore, prefix: str) -> dict[str, int]:
    """Path and size of every file below the prefix."""
    found = {}
    async for batch in obstore.list(store, prefix, chunk_size=1000):
        found.update({item["path"]: int(item["size"]) for item in batch})
    return found
