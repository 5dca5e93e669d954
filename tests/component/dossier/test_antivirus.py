"""Files are held back until ClamAV has found them clean: with a real daemon, also while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import nats
import pytest

from dev.options import free_port
from dossier.antivirus import Clamd
from dossier.domain.document import Check
from kit.errors import FailedPrecondition, InvalidInput
from motcua.dossier.v1 import dossier_pb2 as pb
from motcua.dossier.v1 import events_pb2 as ev
from motcua.dossier.v1 import vault_pb2 as vp
from tests import papers
from tests.clam import EICAR, OURS, Clam

Eventually = Callable[..., Awaitable[Any]]
CHECKING, CLEAN, REFUSED = vp.FILE_CHECK_CHECKING, vp.FILE_CHECK_CLEAN, vp.FILE_CHECK_REFUSED


def holding(bytes_: bytes) -> bytes:
    """A PDF that is right, with these bytes in it."""
    return papers.pdf(objects=[b"<< /Length %d >>\nstream\n" % len(bytes_) + bytes_ + b"\nendstream"])


@pytest.fixture(scope="module")
def clam(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clam]:
    made = Clam(tmp_path_factory.mktemp("clam"), free_port())
    yield made
    made.stop()


@pytest.fixture(scope="module")
def antivirus_url(clam: Clam) -> str:
    return clam.url


@pytest.fixture(autouse=True)
def running(clam: Clam) -> None:
    clam.start()


async def check(world: Any, who: str, document: str) -> int:
    found = (await world.call("GetDocument", who, vp.GetDocumentRequest(id=document))).document
    return int(found.versions[-1].check)


async def judged(world: Any, who: str, document: str, eventually: Eventually) -> int:
    async def verdict() -> int:
        now = await check(world, who, document)
        return 0 if now == CHECKING else now

    return int(await eventually(verdict, within=30))


async def read(world: Any, who: str, document: str, **fields: Any) -> bytes:
    request = vp.CreateDownloadRequest(document_id=document, purpose="thẩm tra", **fields)
    token = (await world.call("CreateDownload", who, request)).token
    replies = world.vault.ReadDocument(vp.ReadDocumentRequest(token=token))
    return b"".join([reply.data async for reply in replies])


async def unreadable(world: Any, who: str, document: str, **fields: Any) -> str:
    request = vp.CreateDownloadRequest(document_id=document, purpose="thẩm tra", **fields)
    error = await world.refused("CreateDownload", who, request)
    assert isinstance(error, FailedPrecondition)
    return error.reason


async def test_a_clean_file_is_read_once_it_was_checked(world: Any, anh: str, eventually: Eventually) -> None:
    data = papers.pdf(300_000, 1)
    document = await world.upload(anh, data)
    assert document.versions[0].check == CHECKING
    assert await judged(world, anh, document.id, eventually) == CLEAN
    assert await read(world, anh, document.id) == data


@pytest.mark.parametrize("harm", [EICAR, OURS])
async def test_what_is_found_is_refused_told_and_never_read_or_filed(
    world: Any, anh: str, eventually: Eventually, harm: bytes
) -> None:
    client = await nats.connect(world.settings.nats_url)
    told = await client.subscribe("motcua.dossier.v1.document_checked.>")
    document = await world.upload(anh, holding(harm))
    assert await judged(world, anh, document.id, eventually) == REFUSED

    async with asyncio.timeout(20):
        event = ev.DocumentChecked()
        while event.document_id != document.id:
            event = ev.DocumentChecked.FromString((await told.next_msg(20)).data)
    await client.close()
    assert (event.check, event.owner_id, event.version) == (REFUSED, anh, 1)
    assert await unreadable(world, anh, document.id) == "FILE_REFUSED"
    draft = await world.draft(
        anh, attachments=[pb.Attachment(component_id="birth_proof", document_id=document.id)]
    )
    error = await world.refused("SubmitDossier", anh, pb.SubmitDossierRequest(id=draft.id))
    assert isinstance(error, InvalidInput)
    assert [violation.reason for violation in error.violations] == ["FILE_REFUSED"]


async def test_while_the_antivirus_is_away_a_file_can_be_filed_but_nobody_reads_it(
    world: Any, anh: str, clam: Clam, eventually: Eventually
) -> None:
    clam.stop()
    data = papers.pdf(3000, 2)
    document = await world.upload(anh, data)
    filed = await world.received(
        anh, attachments=[pb.Attachment(component_id="birth_proof", document_id=document.id)]
    )
    for who, fields in (
        (anh, {}),
        ("examiner", {"dossier_id": filed.id}),
        ("reception", {"dossier_id": filed.id}),
    ):
        assert await unreadable(world, who, document.id, **fields) == "FILE_BEING_CHECKED"
    verify = vp.VerifyDocumentRequest(id=document.id, dossier_id=filed.id, trust=vp.TRUST_LEVEL_OFFICER_SCAN)
    assert (await world.refused("VerifyDocument", "reception", verify)).reason == "FILE_BEING_CHECKED"

    clam.start()
    assert await judged(world, anh, document.id, eventually) == CLEAN
    assert await read(world, "examiner", document.id, dossier_id=filed.id) == data


async def test_a_result_is_not_signed_before_it_was_checked(
    world: Any, anh: str, clam: Clam, eventually: Eventually
) -> None:
    filed = await world.received(anh)
    clam.stop()
    result = await world.upload(
        "examiner",
        papers.pdf(2000, 3),
        purpose=vp.UPLOAD_PURPOSE_RESULT,
        dossier_id=filed.id,
        type="",
        title="KQ",
    )
    error = await world.refused(
        "SignResult", "leader", pb.SignResultRequest(id=filed.id, document_id=result.id)
    )
    assert error.reason == "FILE_BEING_CHECKED"
    clam.start()


async def test_what_came_before_there_was_an_antivirus_is_checked_when_somebody_wants_it(
    world: Any, anh: str, eventually: Eventually
) -> None:
    document = await world.upload(anh, holding(OURS + b" as it came long ago"))
    await judged(world, anh, document.id, eventually)

    def unchecked(known: Any) -> None:
        known.versions[0] = replace(known.versions[0], check=Check.NONE, found="")

    await world.ports.documents.change(document.id, unchecked)
    assert await unreadable(world, anh, document.id) == "FILE_BEING_CHECKED"
    assert await judged(world, anh, document.id, eventually) == REFUSED


async def test_a_token_from_before_opens_nothing_that_is_held_back(
    world: Any, anh: str, eventually: Eventually
) -> None:
    document = await world.upload(anh, papers.pdf(2000, 4))
    await judged(world, anh, document.id, eventually)
    token = (await world.call("CreateDownload", anh, vp.CreateDownloadRequest(document_id=document.id))).token

    def held_back(known: Any) -> None:
        known.versions[0] = replace(known.versions[0], check="a state of a newer release")

    await world.ports.documents.change(document.id, held_back)
    assert await check(world, anh, document.id) == CHECKING
    with pytest.raises(Exception, match="nobody reads it"):
        await anext(aiter(world.vault.ReadDocument(vp.ReadDocumentRequest(token=token))))


async def test_a_file_larger_than_the_antivirus_takes_is_never_called_clean(
    world: Any, anh: str, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    document = await world.upload(anh, papers.pdf(41 * 2**20, 5))

    async def asked() -> bool:
        return "could not be checked" in caplog.text or await check(world, anh, document.id) != CHECKING

    await eventually(asked, within=60)
    assert await check(world, anh, document.id) != CLEAN


async def test_it_is_reached_by_a_unix_socket_too(world: Any, clam: Clam) -> None:
    async def pieces() -> Any:
        for _ in range(300):
            yield bytes(100_000)
        yield EICAR

    scanned = await Clamd(clam.socket, seconds=20).scan(pieces())
    assert not scanned.clean
    assert "Eicar" in scanned.found
    assert await Clamd(clam.socket, seconds=20).signatures() is None, "signatures of our own have no date"
