"""Pictures as every browser draws them, beside what was uploaded."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from PIL import Image

from dossier.handlers.uploads import sweep
from kit.errors import Forbidden, NotFound
from motcua.dossier.v1 import dossier_pb2 as pb
from motcua.dossier.v1 import vault_pb2 as vp
from ops.documents import References
from tests import papers

# EXIF that says nothing but that the camera was held upright.
TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"


async def read(world: Any, who: str, document: str, **fields: Any) -> tuple[vp.DocumentVersion, bytes]:
    request = vp.CreateDownloadRequest(document_id=document, purpose="thẩm tra", **fields)
    token = (await world.call("CreateDownload", who, request)).token
    replies = [reply async for reply in world.vault.ReadDocument(vp.ReadDocumentRequest(token=token))]
    return replies[0].version, b"".join(reply.data for reply in replies)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (papers.HEIC, (48, 64)),
        (papers.picture("PNG"), (64, 48)),
        (papers.picture("JPEG"), (64, 48)),
        (papers.picture("JPEG", exif=TURNED), (48, 64)),
        (papers.picture("PNG", (5000, 20)), (4096, 16)),
    ],
)
async def test_a_picture_has_one_that_every_browser_draws(
    world: Any, anh: str, data: bytes, size: tuple[int, int]
) -> None:
    document = await world.upload(anh, data, filename="ảnh.heic")
    version, original = await read(world, anh, document.id)
    assert original == data, "what was uploaded stays as it is"
    shown, drawn = await read(world, anh, document.id, rendition=True)
    assert (shown.content_type, shown.filename) == ("image/jpeg", "ảnh.jpg")
    assert (shown.size, shown.sha256) == (len(drawn), hashlib.sha256(drawn).hexdigest())
    assert version.rendition.size == len(drawn)
    with Image.open(io.BytesIO(drawn), formats=["JPEG"]) as picture:
        assert picture.size == size
        assert not picture.getexif()
    assert b"Exif" not in drawn
    assert b"Apple" not in drawn


async def test_it_is_for_whoever_may_see_the_document_and_for_nobody_else(
    world: Any, anh: str, binh: str
) -> None:
    document = await world.upload(anh, papers.HEIC, filename="a.heic")
    filed = await world.received(
        anh, attachments=[pb.Attachment(component_id="birth_proof", document_id=document.id)]
    )
    _, drawn = await read(world, "examiner", document.id, dossier_id=filed.id, rendition=True)
    assert drawn.startswith(b"\xff\xd8\xff")
    request = vp.CreateDownloadRequest(document_id=document.id, rendition=True)
    assert isinstance(await world.refused("CreateDownload", binh, request), NotFound | Forbidden)


async def test_what_is_no_picture_has_none(world: Any, anh: str) -> None:
    document = await world.upload(anh)
    assert not document.versions[0].HasField("rendition")
    request = vp.CreateDownloadRequest(document_id=document.id, rendition=True)
    assert (await world.refused("CreateDownload", anh, request)).reason == "NO_RENDITION"


async def test_it_is_swept_when_nothing_needs_it_and_backed_up_when_something_does(
    world: Any, anh: str
) -> None:
    document = await world.upload(anh, papers.HEIC, filename="a.heic")
    rendition = document.versions[0].rendition.sha256
    orphan = hashlib.sha256(b"an orphan").hexdigest()
    await world.ports.objects.put(f"sha256/{orphan[:2]}/{orphan}", b"an orphan")
    world.time.at = max(world.time.at, datetime.now(UTC)) + timedelta(days=2)
    await sweep(world.ports)
    there = await world.stored()
    assert f"sha256/{rendition[:2]}/{rendition}" in there
    assert not [key for key in there if orphan in key]

    known = References()
    stored = await world.ports.documents._collection.find_one({"_id": document.id})
    known.add(stored)
    assert rendition in {digest for _, sizes in known.groups() for digest in sizes}
