"""Bytes of uploads and documents in object storage: a folder, or any S3-compatible store.

Keys: `uploads/<upload>/…` parts as they arrived, `staging/<upload>` a file being put together,
`sha256/ab/<digest>` finished content. Nothing here holds more than one part in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
import obstore.exceptions
from obstore.store import LocalStore, ObjectStore, from_url

from kit.errors import Unavailable

EDGE = 64 * 1024  # bytes of a file's beginning that recognising its type may look at
_READ = 512 * 1024  # bytes asked for at once
_WRITE = 5 * 2**20  # bytes written at once: the least that S3 takes as a part
_ASSEMBLING = 8  # files put together at once, each with a part in memory; more wait
_DELETES = 16  # objects deleted at the same time
# What may be told of a failure. The rest stays out: S3 puts access keys and signatures into its answers.
_TOLD = re.compile(r"status code: (\d{3})|<Code>(\w+)</Code>|HTTP error: ([a-z ]+)|(os error \d+)")


@contextmanager
def _reaching() -> Iterator[None]:
    """What keeps the store from answering is Unavailable; what is not there stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (obstore.exceptions.BaseError, OSError) as error:
        told = dict.fromkeys(filter(None, (part for found in _TOLD.findall(str(error)) for part in found)))
        why = " ".join([type(error).__name__, *told])
        raise Unavailable("OBJECT_STORE_UNAVAILABLE", f"object storage fails: {why}") from None


@dataclass(frozen=True)
class Assembled:
    """A file put together from its parts."""

    key: str
    sha256: str
    size: int
    head: bytes


@dataclass(frozen=True)
class Stored:
    key: str
    modified: datetime


def open_objects(url: str) -> Objects:
    """The store that `url` names: `file:///path` (made if missing) or `s3://bucket/prefix`.

    Of S3 the environment says the rest: AWS_ENDPOINT (of a store other than Amazon's), AWS_REGION,
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ALLOW_HTTP=true for an endpoint without TLS, AWS_TIMEOUT
    (of one request, `30s`). The bucket must be there; its reader must be allowed to list it, or what is
    missing would look forbidden. Raises ValueError without repeating the URL, in case a secret is in it.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        folder = Path(url2pathname(parts.path))
        folder.mkdir(parents=True, exist_ok=True)
        return Objects(LocalStore(folder, mkdir=True))
    if parts.scheme != "s3" or not parts.netloc:
        raise ValueError("it is neither file:///folder nor s3://bucket/prefix")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("it has a bucket and a prefix only; credentials and endpoint come by AWS_*")
    try:
        # No client options here: they would hide those of the environment, such as AWS_ALLOW_HTTP.
        store = from_url(url, retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=30)})
    except obstore.exceptions.BaseError as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    return Objects(store)


class Objects:
    """What the vault needs of an object store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._assembling = asyncio.Semaphore(_ASSEMBLING)

    async def put(self, key: str, data: bytes | bytearray) -> None:
        """Writes one object whole; for parts, never for files. `data` must not be changed meanwhile."""
        with _reaching():
            await obstore.put_async(self._store, key, data, use_multipart=False)

    async def assemble(self, parts: Sequence[str], key: str) -> Assembled:
        """Streams the parts, in order, into one object at `key`, hashing on the way."""
        digest, size, head = hashlib.sha256(), 0, b""
        with _reaching():
            async with (
                self._assembling,
                obstore.open_writer_async(self._store, key, buffer_size=_WRITE, max_concurrency=1) as writer,
            ):
                for part in parts:
                    async for chunk in self._chunks(part):
                        digest.update(chunk)
                        size += len(chunk)
                        if len(head) < EDGE:
                            head += chunk[: EDGE - len(head)]
                        await writer.write(chunk)
        return Assembled(key, digest.hexdigest(), size, head)

    async def fetch(self, key: str, path: Path) -> None:
        """Writes an object into a file. Raises FileNotFoundError when it is not there."""
        with path.open("wb") as file, _reaching():
            async for chunk in self._chunks(key):
                await asyncio.to_thread(file.write, chunk)

    async def move(self, source: str, target: str) -> None:
        """Renames; what was at `target` is replaced. On S3 a copy and a deletion: after a crash between them
        both are there."""
        with _reaching():
            await obstore.rename_async(self._store, source, target, overwrite=True)

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes what is there of these."""
        for start in range(0, len(keys), _DELETES):
            await asyncio.gather(*map(self._delete, keys[start : start + _DELETES]))

    async def _delete(self, key: str) -> None:
        with suppress(FileNotFoundError), _reaching():
            await obstore.delete_async(self._store, key)

    async def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        """The bytes [offset, offset + length) in pieces of at most 256 KiB. Raises FileNotFoundError."""
        end = offset + length
        while offset < end:
            # Not one stream: a reader that takes its time would run into the time-out of the request.
            with _reaching():
                ahead = await obstore.get_range_async(
                    self._store, key, start=offset, end=min(offset + _READ, end)
                )
            piece = memoryview(ahead)
            if not piece:
                return
            for start in range(0, len(piece), 256 * 1024):
                yield bytes(piece[start : start + 256 * 1024])
            offset += len(piece)

    async def list(self, prefix: str) -> AsyncIterator[Stored]:
        """Every object below the prefix, in no order."""
        with _reaching():
            async for batch in obstore.list(self._store, prefix, chunk_size=500):
                for item in batch:
                    yield Stored(item["path"], item["last_modified"])

    async def modified(self, key: str) -> datetime | None:
        """When the object was last written; None when it is not there."""
        try:
            with _reaching():
                return (await obstore.head_async(self._store, key))["last_modified"]
        except FileNotFoundError:
            return None

    async def check(self) -> None:
        """Raises Unavailable when the store cannot be reached."""
        with _reaching():
            await obstore.list_with_delimiter_async(self._store, "sha256")

    async def _chunks(self, key: str) -> AsyncIterator[bytes]:
        result = await obstore.get_async(self._store, key)
        async for chunk in result.stream(min_chunk_size=_READ):
            yield bytes(chunk)
