"""The vault's objects: never changed, named by their SHA-256, so a copy is only ever of what is missing."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import obstore
from obstore.store import ObjectStore

from ops.documents import References
from ops.place import listed

_PARALLEL = 8
_WHOLE = 8 * 2**20  # bytes up to which an object is checked before it is written
log = logging.getLogger(__name__)


@dataclass
class Tally:
    """What became of the objects; `wrong` names those that are missing or not what their name says."""

    objects: int = 0
    bytes: int = 0
    copied: int = 0
    wrong: list[str] = field(default_factory=list)


def key(digest: str) -> str:
    """Where an object is, in the vault as in a backup."""
    return f"sha256/{digest[:2]}/{digest}"


async def copy(source: ObjectStore, target: ObjectStore, wanted: References) -> Tally:
    """Copies those of the wanted that the target has not, and checks the hash of each on the way."""
    tally = Tally()
    room = asyncio.Semaphore(_PARALLEL)

    async def one(digest: str, size: int) -> None:
        async with room:
            try:
                await _copy(source, target, digest, size)
                tally.copied += 1
            except (FileNotFoundError, ValueError):
                tally.wrong.append(digest)

    for prefix, sizes in wanted.groups():
        if sizes:
            there = await _there(target, prefix)
            missing = {digest: size for digest, size in sizes.items() if there.get(digest) != size}
            await asyncio.gather(*(one(digest, size) for digest, size in missing.items()))
            tally.objects += len(sizes)
            tally.bytes += sum(sizes.values())
    return tally


async def compare(store: ObjectStore, wanted: References, *, deep: bool) -> Tally:
    """Looks whether all wanted objects are there in their size; `deep`: every byte is read and hashed."""
    tally = Tally()
    room = asyncio.Semaphore(_PARALLEL)

    async def is_right(digest: str) -> bool:
        async with room:
            actual = hashlib.sha256()
            async for piece in _pieces(store, key(digest)):
                actual.update(piece)
            return actual.hexdigest() == digest

    for prefix, sizes in wanted.groups():
        if not sizes:
            continue
        there = await _there(store, prefix)
        right = [digest for digest, size in sizes.items() if there.get(digest) == size]
        tally.wrong += sorted(sizes.keys() - set(right))
        if deep:
            answers = await asyncio.gather(*map(is_right, right))
            tally.wrong += [digest for digest, good in zip(right, answers, strict=True) if not good]
        tally.objects += len(sizes)
        tally.bytes += sum(sizes.values())
    return tally


async def _there(store: ObjectStore, prefix: str) -> dict[str, int]:
    found = await listed(store, f"sha256/{prefix}")
    return {path.rpartition("/")[2]: size for path, size in found.items()}


async def _pieces(store: ObjectStore, path: str) -> AsyncIterator[bytes]:
    answer = await obstore.get_async(store, path)
    async for piece in answer.stream(min_chunk_size=2**20):
        yield bytes(piece)


async def _copy(source: ObjectStore, target: ObjectStore, digest: str, size: int) -> None:
    """Raises ValueError when the source is not what its name says; the target then has nothing of it."""
    actual = hashlib.sha256()
    if size <= _WHOLE:
        data = bytes(await (await obstore.get_async(source, key(digest))).bytes_async())
        actual.update(data)
        if actual.hexdigest() != digest:
            raise ValueError(digest)
        await obstore.put_async(target, key(digest), data, use_multipart=False)
        return
    draft = f"partial/{digest}"
    async with obstore.open_writer_async(target, draft, buffer_size=_WHOLE, max_concurrency=2) as writer:
        async for piece in _pieces(source, key(digest)):
            actual.update(piece)
            await writer.write(piece)
    if actual.hexdigest() != digest:
        await obstore.delete_async(target, draft)
        raise ValueError(digest)
    await obstore.rename_async(target, draft, key(digest))
