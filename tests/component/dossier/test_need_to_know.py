"""Officials see papers and identifiers while they need to, or for a purpose that the owner can read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from dossier.domain.document import Access, Act
from dossier.handlers import common
from kit.errors import Unavailable
from kit.ids import uuid7
from motcua.dossier.v1 import dossier_pb2 as pb
from motcua.dossier.v1 import vault_pb2 as vp
from motcua.identity.v1 import identity_pb2 as idp

WARD = "H32.15"
NUMBER, PHONE = "079090000112", "0901000101"


@pytest_asyncio.fixture(loop_scope="session")
async def an(world: Any) -> str:
    id = str(world.citizen())
    world.identity.accounts[id].MergeFrom(
        idp.Account(name="Nguyễn Thị An", citizen_number=NUMBER, phone=PHONE, email="an@example.vn")
    )
    return id


async def filed_and_ended(world: Any, an: str) -> tuple[pb.Dossier, str]:
    document = await world.upload(an)
    attachments = [pb.Attachment(component_id="birth_proof", document_id=document.id)]
    dossier = await world.received(an, attachments=attachments)
    stop = pb.StopDossierRequest(id=dossier.id, reason="Dừng")
    return await world.dossier_of("StopDossier", "leader", stop), document.id


async def log(world: Any, an: str) -> list[vp.Access]:
    return list((await world.call("ListAccesses", an, vp.ListAccessesRequest())).accesses)


@pytest.mark.proof("9.6")
async def test_papers_of_a_dossier_are_seen_while_it_is_held_and_for_thirty_days(world: Any, an: str) -> None:
    dossier, document = await filed_and_ended(world, an)
    get = vp.GetDocumentRequest(id=document)
    read = vp.CreateDownloadRequest(document_id=document, purpose="Đối chiếu", dossier_id=dossier.id)
    world.time.forward(days=29)
    assert (await world.call("GetDocument", "examiner", get)).document.id == document
    assert (await world.call("CreateDownload", "examiner", read)).token
    assert "child" in str(await world.get("examiner", dossier.id))
    world.time.forward(days=2)
    batch = vp.BatchGetDocumentsRequest(ids=[document])
    assert not (await world.call("BatchGetDocuments", "examiner", batch)).documents
    assert (await world.refused("GetDocument", "examiner", get)).reason == "DOCUMENT_NOT_FOUND"
    assert (await world.refused("CreateDownload", "examiner", read)).reason == "SIGHT_ENDED"
    later = await world.get("examiner", dossier.id)
    assert (later.form_withheld, "child" in str(later)) == (True, False)


@pytest.mark.proof("9.6")
async def test_more_uses_than_a_page_cuts_nothing(world: Any, an: str) -> None:
    """A paper that other agencies' dossiers use thousands of times is still seen through one of our own."""
    document = await world.upload(an)
    attachments = [pb.Attachment(component_id="birth_proof", document_id=document.id)]
    ours = await world.received(an, attachments=attachments)
    for _ in range(2001):
        await world.ports.accesses.create(lambda id: _use(id, document.id, an), id=uuid7())
    batch = vp.BatchGetDocumentsRequest(ids=[document.id])
    seen = await world.call("BatchGetDocuments", "examiner", batch)
    assert [found.id for found in seen.documents] == [document.id]
    await world.call("StopDossier", "leader", pb.StopDossierRequest(id=ours.id, reason="Dừng"))


def _use(id: str, document: str, owner: str) -> Any:
    at = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
    return Access(id, document, 1, owner, owner, "H32.05", Act.USE, "x", uuid7(), at)


async def test_identifiers_are_seen_while_the_dossier_is_held_and_the_owner_reads_who_looked(
    world: Any, an: str
) -> None:
    dossier = await world.received(an)
    ask = vp.OpenAccountRecordRequest(account_id=an)
    for _ in range(3):
        record = (await world.call("OpenAccountRecord", "examiner", ask)).record
    assert (record.citizen_number, record.phone, record.email) == (NUMBER, PHONE, "an@example.vn")
    assert not record.HasField("expire_time")
    [look] = [access for access in await log(world, an) if access.act == "IDENTITY"]
    assert (look.actor_id, look.agency, look.purpose, look.dossier_id) == (
        "official-examiner",
        WARD,
        dossier.procedure_name,
        dossier.id,
    )
    for who in ("other_examiner", "other_leader"):
        refused = await world.refused("OpenAccountRecord", who, ask)
        assert [v.reason for v in refused.violations] == ["PURPOSE_REQUIRED"]
        ask.purpose = "Tò mò"
        assert (await world.refused("OpenAccountRecord", who, ask)).reason == "NOT_YOUR_DESK"
        ask.purpose = ""
    assert (await world.refused("OpenAccountRecord", "admin", ask)).reason == "NOT_ALLOWED"
    assert (await world.refused("OpenAccountRecord", an, ask)).reason == "NOT_ALLOWED"
    named = vp.OpenAccountRecordRequest(dossier_id=dossier.id)
    assert (await world.refused("OpenAccountRecord", "other_examiner", named)).reason == "DOSSIER_NOT_FOUND"
    named.account_id = world.citizen()
    assert (await world.refused("OpenAccountRecord", "examiner", named)).reason == "NOT_IN_DOSSIER"


async def test_a_right_that_a_crash_kept_from_being_written_follows_from_the_dossier(
    world: Any, an: str, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    dossier = await world.received(an)

    async def died(*_: Any) -> None:
        raise Unavailable("DATABASE_UNAVAILABLE", "the process died here")

    with monkeypatch.context() as patch:
        patch.setattr(common, "keep_sights", died)
        await world.refused("CompleteStep", "examiner", pb.CompleteStepRequest(id=dossier.id))
    ask = vp.OpenAccountRecordRequest(dossier_id=dossier.id)
    record = (await world.call("OpenAccountRecord", "other_examiner", ask)).record
    assert record.citizen_number == NUMBER, "the dossier itself says who holds it"
    by_account = vp.OpenAccountRecordRequest(account_id=an)

    async def seen() -> bool:
        sights = await world.ports.sights.page({"dossier": dossier.id}, size=200)
        return any(sight.holder == "H32.05" for sight in sights.items)

    await eventually(seen)
    assert (await world.call("OpenAccountRecord", "other_examiner", by_account)).record.phone == PHONE


async def test_later_a_purpose_opens_the_record_and_the_papers_for_an_hour(world: Any, an: str) -> None:
    dossier, document = await filed_and_ended(world, an)
    world.time.forward(days=31)
    ask = vp.OpenAccountRecordRequest(dossier_id=dossier.id)
    refused = await world.refused("OpenAccountRecord", "examiner", ask)
    assert [v.reason for v in refused.violations] == ["PURPOSE_REQUIRED"]
    ask.purpose = "Giải quyết khiếu nại số 12"
    record = (await world.call("OpenAccountRecord", "examiner", ask)).record
    until = record.expire_time.ToDatetime(UTC)
    assert (record.citizen_number, until) == (NUMBER, world.time() + timedelta(hours=1))
    assert not (await world.get("examiner", dossier.id)).form_withheld
    again = vp.OpenAccountRecordRequest(account_id=an)
    assert (await world.call("OpenAccountRecord", "examiner", again)).record.citizen_number == NUMBER
    read = vp.CreateDownloadRequest(document_id=document, purpose="Khiếu nại", dossier_id=dossier.id)
    assert (await world.call("CreateDownload", "examiner", read)).token
    assert (await world.refused("CreateDownload", "leader", read)).reason == "SIGHT_ENDED"
    world.time.forward(minutes=61)
    assert (await world.refused("CreateDownload", "examiner", read)).reason == "SIGHT_ENDED"
    assert (await world.get("examiner", dossier.id)).form_withheld
    purposes = [a.purpose for a in await log(world, an) if a.act == "IDENTITY"]
    assert purposes == ["Giải quyết khiếu nại số 12"]


async def test_a_reception_looks_somebody_up_by_number_for_a_purpose(world: Any, an: str) -> None:
    ask = vp.OpenAccountRecordRequest(identifier=NUMBER, purpose="Khách đến nộp hồ sơ", agency=WARD)
    world.identity.named[NUMBER] = an
    record = (await world.call("OpenAccountRecord", "reception", ask)).record
    assert (record.account_id, record.name) == (an, "Nguyễn Thị An")
    ask.account_id = an
    assert (await world.refused("OpenAccountRecord", "reception", ask)).violations[0].reason == "REQUIRED"
    ask = vp.OpenAccountRecordRequest(identifier="001085000999", purpose="Khách đến nộp hồ sơ")
    assert (await world.refused("OpenAccountRecord", "reception", ask)).reason == "ACCOUNT_NOT_FOUND"
    ask.agency = "H32.05"
    assert (await world.refused("OpenAccountRecord", "reception", ask)).reason == "NOT_YOUR_DESK"


async def test_the_record_of_looks_is_the_owners_only(world: Any, an: str) -> None:
    await world.received(an)
    await world.call("OpenAccountRecord", "examiner", vp.OpenAccountRecordRequest(account_id=an))
    assert {a.act for a in await log(world, an)} == {"USE", "IDENTITY"}
    assert await log(world, str(world.citizen())) == []
    refused = await world.refused("ListAccesses", "examiner", vp.ListAccessesRequest())
    assert refused.reason == "NOT_ALLOWED"


async def test_dossiers_from_before_get_their_rights_once(world: Any, an: str) -> None:
    from dossier.handlers.records import backfill, keep_sights

    dossier = await world.received(an)
    assert await backfill(world.ports) == 0, "the service has done it at its start"
    stored = await world.ports.dossiers.get(dossier.id)
    before = await world.ports.sights.count({"dossier": dossier.id})
    await keep_sights(world.ports, stored)
    assert await world.ports.sights.count({"dossier": dossier.id}) == before > 0
