"""An official reads what was attached to a dossier, not what its owner puts into the vault besides."""

from __future__ import annotations

from typing import Any

from kit.errors import Forbidden
from motcua.dossier.v1 import dossier_pb2 as pb
from motcua.dossier.v1 import vault_pb2 as vp
from tests import papers


def version(number: int) -> bytes:
    return papers.pdf(1000, number)


async def read(world: Any, who: str, **fields: Any) -> bytes:
    request = vp.CreateDownloadRequest(purpose="thẩm tra", **fields)
    token = (await world.call("CreateDownload", who, request)).token
    replies = world.vault.ReadDocument(vp.ReadDocumentRequest(token=token))
    return b"".join([reply.data async for reply in replies])


async def test_a_version_that_was_never_attached_is_its_owners_alone(world: Any, anh: str) -> None:
    document = await world.upload(anh, version(1))

    async def renew(number: int) -> None:
        await world.upload(
            anh, version(number), purpose=vp.UPLOAD_PURPOSE_VERSION, document_id=document.id, filename="m.pdf"
        )

    await renew(2)
    attached = [pb.Attachment(component_id="birth_proof", document_id=document.id)]
    dossier = await world.received(anh, attachments=attached)
    await renew(3)

    assert await read(world, anh, document_id=document.id) == version(3)
    for asked in ({}, {"dossier_id": dossier.id}, {"version": 2}):
        assert await read(world, "examiner", document_id=document.id, **asked) == version(2)
    for number in (1, 3):
        other = vp.CreateDownloadRequest(document_id=document.id, version=number, purpose="thẩm tra")
        error = await world.refused("CreateDownload", "examiner", other)
        assert isinstance(error, Forbidden)
        assert error.reason == "VERSION_NOT_ATTACHED"

    ask = pb.RequestSupplementRequest(id=dossier.id, defects=["bản mờ"])
    await world.call("RequestSupplement", "examiner", ask)
    answer = pb.SupplementDossierRequest(id=dossier.id, attachments=attached)
    await world.call("SupplementDossier", anh, answer)
    assert await read(world, "examiner", document_id=document.id) == version(3)
    assert await read(world, "examiner", document_id=document.id, version=2) == version(2), "attached before"
