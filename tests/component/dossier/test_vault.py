"""The vault: uploads that break off, downloads by range, who may see what, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from dossier.domain.document import Part
from dossier.handlers.uploads import sweep
from kit.errors import (
    AlreadyExists,
    FailedPrecondition,
    Forbidden,
    InvalidInput,
    NotFound,
    Unauthenticated,
)
from kit.ids import uuid7
from kit.status import from_rpc
from motcua.dossier.v1 import dossier_pb2 as pb
from motcua.dossier.v1 import vault_pb2 as vp
from motcua.identity.v1 import identity_pb2 as idp
from tests import papers

WARD = "H32.15"
MB = 2**20
pytestmark = pytest.mark.parametrize("object_store_url", ["folder", "s3"], indirect=True)
PNG, JPEG = papers.picture("PNG"), papers.picture("JPEG")


def big(size: int, seed: int = 1) -> bytes:
    return papers.pdf(size, seed)


def memory() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def begin(world: Any, who: str, size: int, **fields: Any) -> vp.Upload:
    request = vp.BeginUploadRequest(**{"size": size, "filename": "a.pdf", "title": "Giấy tờ", **fields})
    answer = await world.call("BeginUpload", who, request)
    assert isinstance(answer.upload, vp.Upload)
    return answer.upload


async def offset_of(world: Any, who: str, id: str) -> int:
    return int((await world.call("GetUpload", who, vp.GetUploadRequest(id=id))).upload.offset)


async def download(world: Any, token: str, **fields: Any) -> tuple[vp.DocumentVersion, bytes]:
    version, data = None, bytearray()
    try:
        async for reply in world.vault.ReadDocument(vp.ReadDocumentRequest(token=token, **fields)):
            if reply.HasField("version"):
                version = reply.version
            assert len(reply.data) <= 256 * 1024
            data += reply.data
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from None
    assert version is not None
    return version, bytes(data)


async def ticket(world: Any, who: str, document: str, **fields: Any) -> str:
    request = vp.CreateDownloadRequest(document_id=document, **fields)
    return str((await world.call("CreateDownload", who, request)).token)


async def test_20_mb_interrupted_at_random_points_arrive_whole_in_bounded_memory(
    world: Any, anh: str, eventually: Any
) -> None:
    data, dice = big(20 * MB), random.Random(7)  # noqa: S311
    upload = await begin(world, anh, len(data), sha256=hashlib.sha256(data).hexdigest())
    gc.collect()
    before, peak = memory(), 0
    breaks = sorted(dice.randrange(len(data)) for _ in range(5))
    for stop in breaks:
        offset = await offset_of(world, anh, upload.id)
        if stop <= offset:
            continue
        sent = asyncio.Event()

        async def pieces(
            start: int = offset, end: int = stop, sent: asyncio.Event = sent
        ) -> AsyncIterator[vp.AppendUploadRequest]:
            for at in range(start, end, 200_000):
                piece = data[at : min(at + 200_000, end)]
                yield vp.AppendUploadRequest(id=upload.id, offset=start, data=piece)
            sent.set()
            await asyncio.Event().wait()  # the line goes dead

        call = asyncio.create_task(world.vault.AppendUpload(pieces(), metadata=world.metadata(anh)))

        async def arriving(
            call: Any = call, sent: asyncio.Event = sent, least: int = offset, end: int = stop
        ) -> bool:
            # It ends by itself when the rest of the stream before came in only now and moved the offset.
            return call.done() or (
                sent.is_set() and (end - least < MB or await offset_of(world, anh, upload.id) > least)
            )

        await eventually(arriving, within=30, message="nothing arrives")
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        peak = max(peak, memory())

    async def rest() -> Any:
        start = await offset_of(world, anh, upload.id)
        try:
            return await world.append(anh, upload.id, data[start:], offset=start)
        except FailedPrecondition as error:  # the last part of a broken stream came in just now
            return None if error.reason == "WRONG_OFFSET" else pytest.fail(str(error))

    done = await eventually(rest, within=30)
    peak = max(peak, memory())
    version = done.document.versions[0]
    assert (version.sha256, version.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert peak - before < 48 * MB, f"grew by {(peak - before) / MB:.0f} MB, client and server together"
    _, back = await download(world, await ticket(world, anh, done.document.id))
    assert hashlib.sha256(back).hexdigest() == version.sha256
    assert not [name for name in await world.stored() if name.startswith(("uploads", "staging"))]


async def test_what_arrived_before_a_break_is_kept_also_when_it_is_less_than_a_part(
    world: Any, anh: str, eventually: Any
) -> None:
    data = big(2 * MB)
    upload = await begin(world, anh, len(data))

    async def pieces() -> AsyncIterator[vp.AppendUploadRequest]:
        for start in range(0, MB + 1, 256 * 1024):  # a part and a quarter
            yield vp.AppendUploadRequest(id=upload.id, data=data[start : start + 256 * 1024])
        await asyncio.Event().wait()

    call = asyncio.create_task(world.vault.AppendUpload(pieces(), metadata=world.metadata(anh)))

    async def first_part() -> bool:
        return await offset_of(world, anh, upload.id) == MB

    await eventually(first_part)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)

    async def the_rest() -> int:
        offset = await offset_of(world, anh, upload.id)
        return offset if offset > MB else 0

    arrived = await eventually(the_rest)
    assert arrived == MB + 256 * 1024
    done = await world.append(anh, upload.id, data[arrived:], offset=arrived)
    assert done.document.versions[0].size == len(data)


async def test_a_wrong_offset_is_told_the_right_one_and_of_two_writers_one_wins(world: Any, anh: str) -> None:
    data = big(3 * MB)
    upload = await begin(world, anh, len(data))
    await world.append(anh, upload.id, data[: MB + 5])
    with pytest.raises(FailedPrecondition) as wrong:
        await world.append(anh, upload.id, data[MB:], offset=MB)
    assert (wrong.value.reason, wrong.value.metadata["offset"]) == ("WRONG_OFFSET", str(MB + 5))

    both = await asyncio.gather(
        *(world.append(anh, upload.id, data[MB + 5 :], offset=MB + 5) for _ in range(2)),
        return_exceptions=True,
    )
    won = [answer for answer in both if isinstance(answer, vp.AppendUploadResponse)]
    assert won, both
    for lost in both:
        assert isinstance(lost, vp.AppendUploadResponse) or getattr(lost, "reason", "") in (
            "WRONG_OFFSET",
            "LOST_RACE",
        )
    assert won[0].document.versions[0].sha256 == hashlib.sha256(data).hexdigest()
    assert len(won[0].document.versions) == 1


async def test_more_bytes_than_announced_are_refused_and_the_rest_stays_usable(world: Any, anh: str) -> None:
    data = big(400_000)
    upload = await begin(world, anh, len(data))
    with pytest.raises(InvalidInput) as error:
        await world.append(anh, upload.id, data + b"!", chunk=100_000)
    assert error.value.reason == "TOO_MANY_BYTES"
    offset = await offset_of(world, anh, upload.id)
    done = await world.append(anh, upload.id, data[offset:], offset=offset)
    assert done.document.versions[0].sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("data", "filename", "content_type", "reason"),
    [
        (PNG[:-20], "a.pdf", "application/pdf", "FILE_DAMAGED"),
        (b"%PDF-1.4\n\0", "a.pdf", "", "FILE_DAMAGED"),
        (b"MZ\x90\x00" + bytes(100), "a.pdf", "", "UNSUPPORTED_TYPE"),
        (b"<html><script>alert(1)</script></html>", "a.pdf", "application/pdf", "UNSUPPORTED_TYPE"),
        (b"<?xml version='1.0'?><svg xmlns='x'><script/></svg>", "a.xml", "", "UNSUPPORTED_TYPE"),
        (papers.docx(more={"word/vbaProject.bin": b"x"}), "a.docx", "", "ACTIVE_CONTENT"),
        (
            papers.archive({"[Content_Types].xml": "<Types/>", "thing": b"x"}),
            "a.docx",
            "",
            "UNSUPPORTED_TYPE",
        ),
    ],
)
async def test_a_file_that_is_not_what_it_seems_is_refused_and_nothing_remains(
    world: Any, anh: str, data: bytes, filename: str, content_type: str, reason: str
) -> None:
    before = await world.stored()
    upload = await begin(world, anh, len(data), filename=filename, content_type=content_type)
    with pytest.raises(InvalidInput) as error:
        await world.append(anh, upload.id, data)
    assert error.value.reason == reason
    assert await world.stored() == before
    assert not (await world.call("ListDocuments", anh, vp.ListDocumentsRequest())).documents
    with pytest.raises(FailedPrecondition) as again:
        await world.append(anh, upload.id, data)
    assert again.value.reason == "UPLOAD_REFUSED"


@pytest.mark.parametrize(
    ("data", "filename", "found"),
    [
        (PNG, "ảnh.png", "image/png"),
        (JPEG, "ảnh.JPG", "image/jpeg"),
        (papers.docx(), "đơn.docx", "openxmlformats-officedocument.wordprocessingml.document"),
        (b"<?xml version='1.0'?>\n<!-- x --><hoSo><ma>1</ma></hoSo>", "a.xml", "application/xml"),
        (papers.HEIC, "a.heic", "image/heic"),
    ],
)
async def test_what_it_is_decides_its_content_type(
    world: Any, anh: str, data: bytes, filename: str, found: str
) -> None:
    document = await world.upload(anh, data, filename=filename)
    assert document.versions[0].content_type.endswith(found)
    assert document.versions[0].filename == filename.replace(".JPG", ".jpg")
    assert document.trust == vp.TRUST_LEVEL_OWN_SCAN


async def test_what_may_not_be_uploaded_is_said_before_a_byte_is_sent(world: Any, anh: str) -> None:
    async def refused(**fields: Any) -> str:
        request = vp.BeginUploadRequest(**{"size": 10, "filename": "a.pdf", **fields})
        error = await world.refused("BeginUpload", anh, request)
        return str((getattr(error, "violations", None) and error.violations[0].reason) or error.reason)

    assert await refused(size=0) == "EMPTY_FILE"
    assert await refused(size=65 * MB) == "FILE_TOO_LARGE"
    assert await refused(content_type="video/mp4") == "UNSUPPORTED_TYPE"
    assert await refused(sha256="zz") == "BAD_SHA256"
    assert await refused(issue_date="2026-02-30") == "DATE_SHAPE"
    assert await refused(purpose=vp.UPLOAD_PURPOSE_VERSION, document_id=uuid7()) == "DOCUMENT_NOT_FOUND"


async def test_a_checksum_that_does_not_match_refuses_the_file(world: Any, anh: str) -> None:
    data = big(1000)
    upload = await begin(world, anh, len(data), sha256="0" * 64)
    with pytest.raises(InvalidInput) as error:
        await world.append(anh, upload.id, data)
    assert error.value.reason == "CHECKSUM_MISMATCH"


async def test_an_upload_is_its_owners_and_a_repeated_request_finds_the_same(
    world: Any, anh: str, binh: str
) -> None:
    key = uuid7()
    upload = await begin(world, anh, 1000, request_id=key)
    assert (await begin(world, anh, 1000, request_id=key)).id == upload.id
    with pytest.raises(AlreadyExists):
        await begin(world, anh, 1001, request_id=key)
    assert isinstance(await world.refused("GetUpload", binh, vp.GetUploadRequest(id=upload.id)), NotFound)
    with pytest.raises(NotFound):
        await world.append(binh, upload.id, b"x" * 1000)
    await world.call("CancelUpload", anh, vp.CancelUploadRequest(id=upload.id))
    with pytest.raises(FailedPrecondition):
        await world.append(anh, upload.id, b"x" * 1000)


async def test_a_new_version_keeps_the_old_one_readable(world: Any, anh: str) -> None:
    first, second = big(5000, 1), big(6000, 2)
    document = await world.upload(anh, first)
    changed = await world.upload(
        anh, second, purpose=vp.UPLOAD_PURPOSE_VERSION, document_id=document.id, filename="mới.pdf"
    )
    assert [version.version for version in changed.versions] == [1, 2]
    _, old = await download(world, await ticket(world, anh, document.id, version=1))
    _, new = await download(world, await ticket(world, anh, document.id))
    assert (old, new) == (first, second)


async def test_ranges_are_exact(world: Any, anh: str) -> None:
    data = big(3 * MB)
    document = await world.upload(anh, data)
    token = await ticket(world, anh, document.id)
    for offset, length in ((0, 1), (5, MB), (MB - 1, 2), (2 * MB, 0), (len(data) - 1, 100), (len(data), 0)):
        version, part = await download(world, token, offset=offset, length=length)
        assert part == (data[offset : offset + length] if length else data[offset:])
        assert version.size == len(data)
    version, nothing = await download(world, token, metadata_only=True)
    assert (version.size, nothing) == (len(data), b"")
    with pytest.raises(InvalidInput) as error:
        await download(world, token, offset=len(data) + 1)
    assert error.value.reason == "RANGE_NOT_SATISFIABLE"


async def test_a_forged_or_expired_token_opens_nothing(world: Any, anh: str) -> None:
    document = await world.upload(anh)
    token = await ticket(world, anh, document.id)
    payload, mac = token.split(".")
    for forged in ("", "x", f"{payload}.{mac[:-2]}AA", f"{payload[:-2]}AA.{mac}", f"{payload}."):
        with pytest.raises(Unauthenticated) as error:
            await download(world, forged)
        assert error.value.reason == "DOWNLOAD_INVALID"
    world.time.forward(seconds=world.settings.download_seconds)
    with pytest.raises(Unauthenticated) as error:
        await download(world, token)
    assert error.value.reason == "DOWNLOAD_EXPIRED"


async def test_only_those_allowed_see_a_document_and_its_owner_reads_who_did(
    world: Any, anh: str, binh: str, eventually: Any
) -> None:
    document = await world.upload(anh)
    get = vp.GetDocumentRequest(id=document.id)
    for who in (binh, "examiner", "other_examiner"):
        assert isinstance(await world.refused("GetDocument", who, get), NotFound)
    assert isinstance(await world.refused("GetDocument", "", get), Unauthenticated)
    batch = vp.BatchGetDocumentsRequest(ids=[document.id, uuid7()])
    assert not (await world.call("BatchGetDocuments", binh, batch)).documents

    world.lend(anh, binh, idp.DELEGATION_SCOPE_VAULT)
    assert (await world.call("GetDocument", binh, get)).document.id == document.id
    await ticket(world, binh, document.id)
    world.identity.delegations.clear()

    attached = [pb.Attachment(component_id="birth_proof", document_id=document.id)]
    dossier = await world.received(anh, attachments=attached)
    assert (await world.call("GetDocument", "examiner", get)).document.id == document.id
    assert len((await world.call("BatchGetDocuments", "examiner", batch)).documents) == 1
    assert isinstance(await world.refused("GetDocument", "other_examiner", get), NotFound)
    silent = vp.CreateDownloadRequest(document_id=document.id)
    error = await world.refused("CreateDownload", "examiner", silent)
    assert isinstance(error, InvalidInput), "an official says why"
    token = await ticket(world, "examiner", document.id, purpose="thẩm tra", dossier_id=dossier.id)
    assert (await download(world, token))[1].startswith(b"%PDF")
    await world.call("CompleteStep", "examiner", pb.CompleteStepRequest(id=dossier.id))
    assert (await world.call("GetDocument", "other_examiner", get)).document.id == document.id
    assert (await world.call("GetDocument", "examiner", get)).document.id == document.id, "had it before"

    accesses = vp.ListAccessesRequest(document_id=document.id)
    log = (await world.call("ListAccesses", anh, accesses)).accesses
    assert [(a.act, a.actor_id, a.agency) for a in log] == [
        ("READ", "official-examiner", WARD),
        ("USE", anh, WARD),
        ("DELEGATED_READ", binh, ""),
    ]
    assert (log[0].purpose, log[0].dossier_id) == ("thẩm tra", dossier.id)
    assert isinstance(await world.refused("ListAccesses", binh, accesses), NotFound)
    assert isinstance(await world.refused("ListAccesses", "examiner", accesses), Forbidden)


async def test_an_officer_who_has_the_dossier_raises_trust_and_the_owner_sees_it(
    world: Any, anh: str
) -> None:
    document = await world.upload(anh)
    attached = [pb.Attachment(component_id="birth_proof", document_id=document.id)]
    dossier = await world.received(anh, attachments=attached)
    verify = vp.VerifyDocumentRequest(
        id=document.id, dossier_id=dossier.id, trust=vp.TRUST_LEVEL_CERTIFIED_COPY, note="đã xem bản chính"
    )
    assert isinstance(await world.refused("VerifyDocument", anh, verify), Forbidden)
    assert isinstance(await world.refused("VerifyDocument", "other_examiner", verify), NotFound)
    original = vp.VerifyDocumentRequest(
        id=document.id, dossier_id=dossier.id, trust=vp.TRUST_LEVEL_SIGNED_ORIGINAL
    )
    assert (await world.refused("VerifyDocument", "examiner", original)).reason == "BAD_TRUST"
    verified = (await world.call("VerifyDocument", "examiner", verify)).document
    assert (verified.trust, verified.verified_by_agency) == (vp.TRUST_LEVEL_CERTIFIED_COPY, WARD)
    again = (await world.call("VerifyDocument", "examiner", verify)).document
    assert again.trust == vp.TRUST_LEVEL_CERTIFIED_COPY
    log = (await world.call("ListAccesses", anh, vp.ListAccessesRequest(document_id=document.id))).accesses
    assert "VERIFY" in {access.act for access in log}
    edit = vp.UpdateDocumentRequest(id=document.id, title="Khác")
    assert (await world.refused("UpdateDocument", anh, edit)).reason == "VERIFIED_ALREADY"


async def test_a_vault_is_listed_newest_first_by_type_and_in_pages(world: Any, anh: str, binh: str) -> None:
    made = [(await world.upload(anh, type=kind)).id for kind in ("a", "b", "a", "a")]

    async def listed(who: str, **fields: Any) -> list[str]:
        found, token = [], ""
        while True:
            page = await world.call(
                "ListDocuments", who, vp.ListDocumentsRequest(page_size=2, page_token=token, **fields)
            )
            found += [document.id for document in page.documents]
            if not (token := page.next_page_token):
                return found

    assert await listed(anh) == made[::-1]
    assert await listed(anh, type="a") == [made[3], made[2], made[0]]
    with pytest.raises(Forbidden):
        await listed(binh, owner_id=anh)


async def test_the_same_bytes_are_stored_once_and_survive_the_other_owner(
    world: Any, anh: str, binh: str
) -> None:
    data = big(50_000, 99)
    digest = hashlib.sha256(data).hexdigest()
    mine, theirs = await world.upload(anh, data), await world.upload(binh, data)
    assert mine.id != theirs.id
    assert [name for name in await world.stored() if digest in name] == [f"sha256/{digest[:2]}/{digest}"]
    _, back = await download(world, await ticket(world, binh, theirs.id))
    assert back == data


async def test_the_sweeper_finishes_what_a_crash_left_complete_and_drops_what_expired(
    world: Any, anh: str
) -> None:
    data = big(200_000, 5)
    document = await world.upload(anh, data)
    crashed, idle = await begin(world, anh, len(data)), await begin(world, anh, len(data))
    await world.append(anh, idle.id, data[:1000])
    # The last part was stored and noted, and then the process died.
    key = f"uploads/{crashed.id}/000000000000-crash"
    await world.ports.objects.put(key, data)
    await world.ports.uploads.change(crashed.id, lambda u: u.append(Part(key, len(data)), 0, world.time()))
    orphans = ["staging/left-over", "sha256/ab/" + "ab" * 32, f"uploads/{uuid7()}/000000000000-x"]
    for orphan in orphans:
        await world.ports.objects.put(orphan, b"orphan")

    world.time.at = max(world.time.at, datetime.now(UTC)) + timedelta(days=2)
    await sweep(world.ports)

    finished = (await world.call("GetUpload", anh, vp.GetUploadRequest(id=crashed.id))).upload
    assert finished.document_id
    names = await world.stored()
    assert not [orphan for orphan in orphans if orphan in names]
    assert not [name for name in names if idle.id in name]
    _, back = await download(world, await ticket(world, anh, document.id))
    assert back == data, "what is referred to stays"
    with pytest.raises(FailedPrecondition) as error:
        await world.append(anh, idle.id, data[1000:], offset=1000)
    assert error.value.reason == "UPLOAD_EXPIRED"
