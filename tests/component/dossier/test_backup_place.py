"""Where backups are kept: the same promises in a folder and on a real S3 server."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest
from bson import encode
from bson.raw_bson import RawBSONDocument
from obstore.store import ObjectStore

from ops import objects, place
from ops.documents import References

both = pytest.mark.parametrize("object_store_url", ["folder", "s3"], indirect=True)
CONTENTS = [random.Random(n).randbytes(size) for n, size in enumerate((1, 70_000, 9 * 2**20))]  # noqa: S311


@pytest.fixture
def store(object_store_url: str) -> ObjectStore:
    return place.open_place("BACKUP_URL", object_store_url)


def references(*contents: bytes) -> References:
    """As a document of the vault has them."""
    found = References()
    versions: list[dict[str, Any]] = [
        {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for content in contents
    ]
    found.add(RawBSONDocument(encode({"state": {"versions": versions}})))
    return found


@both
async def test_a_file_is_read_as_it_was_written_and_listed(store: ObjectStore) -> None:
    text = b"a line of a collection\n" * 500_000
    async with place.writing(store, "runs/1/x.gz", packed=True) as sink:
        for start in range(0, len(text), 100_000):
            await sink.write(text[start : start + 100_000])
    pieces = [piece async for piece in place.reading(store, sink.file, packed=True)]
    assert b"".join(pieces) == text
    assert await place.listed(store, "runs/1") == {"runs/1/x.gz": sink.file.bytes}


@both
async def test_a_file_whose_writing_broke_off_is_not_there(store: ObjectStore) -> None:
    async def break_off() -> None:
        async with place.writing(store, "runs/2/x") as sink:
            await sink.write(bytes(20 * 2**20))
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await break_off()
    assert await place.listed(store, "runs/2") == {}


@both
async def test_objects_are_copied_once_and_checked(store: ObjectStore, tmp_path_factory: Any) -> None:
    source = place.open_place("X", tmp_path_factory.mktemp("source").as_uri())
    vault: Any = source
    for content in CONTENTS:
        await vault.put_async(objects.key(hashlib.sha256(content).hexdigest()), content)
    wanted = references(*CONTENTS)
    assert (await objects.copy(source, store, wanted)).copied == 3
    assert (await objects.copy(source, store, wanted)).copied == 0
    assert (await objects.compare(store, wanted, deep=True)).wrong == []
    assert await place.listed(store, "partial") == {}


@both
async def test_an_object_that_is_not_what_its_name_says_is_not_copied(
    store: ObjectStore, tmp_path_factory: Any
) -> None:
    source = place.open_place("X", tmp_path_factory.mktemp("damaged").as_uri())
    vault: Any = source
    damaged = [bytes(len(content)) + b"!" for content in CONTENTS[1:]]
    for content in damaged:
        await vault.put_async(objects.key(hashlib.sha256(content).hexdigest()), content[:-1] + b"?")
    tally = await objects.copy(source, store, references(*damaged))
    assert (tally.copied, len(tally.wrong)) == (0, 2)
    assert len((await objects.compare(store, references(*damaged), deep=False)).wrong) == 2
