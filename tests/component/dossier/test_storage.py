"""The count of what a vault holds: it follows the uploads, whatever becomes of them and of the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dossier.domain.document import Details, Document, Purpose, Rendition, Trust, Upload, UploadState, Version
from dossier.domain.storage import Allowance
from dossier.handlers import storage, uploads
from kit.auth import Caller, Role
from kit.errors import DomainError, FailedPrecondition, Forbidden, NotFound, Unavailable
from kit.ids import uuid7
from kit.mongo import Request
from motcua.dossier.v1 import vault_pb2 as vp
from motcua.identity.v1 import identity_pb2 as idp
from tests import papers

WARD = "H32.15"
PDF = papers.pdf(20_000)


async def used(world: Any, who: str, owner: str = "") -> tuple[int, int]:
    """Bytes and documents of a vault."""
    found = (await world.call("GetStorage", who, vp.GetStorageRequest(owner_id=owner))).storage
    return found.used_bytes, found.documents


async def begin(world: Any, who: str, size: int = len(PDF), **fields: Any) -> str:
    request = vp.BeginUploadRequest(**{"size": size, "filename": "a.pdf", **fields})
    return str((await world.call("BeginUpload", who, request)).upload.id)


def smaller(world: Any, size: int, documents: int) -> Any:
    """The ports of an installation where a person may keep this much."""
    return replace(world.ports, limits=replace(world.ports.limits, person_storage=Allowance(size, documents)))


async def directly(ports: Any, who: str, size: int, request: Any = None) -> Upload:
    """An upload without the server between."""
    return await uploads.begin_upload(
        ports,
        Caller(who, "citizen", verified=True),
        purpose=Purpose.DOCUMENT,
        size=size,
        filename="a.pdf",
        content_type="",
        sha256="",
        details=Details(),
        document="",
        dossier="",
        request=request,
    )


async def test_room_is_promised_taken_and_given_back(world: Any, anh: str) -> None:
    assert await used(world, anh) == (0, 0)
    first = await begin(world, anh)
    assert await used(world, anh) == (len(PDF), 1)
    made = (await world.append(anh, first, PDF)).document
    assert await used(world, anh) == (len(PDF), 1)
    second = await begin(world, anh, document_id=made.id, purpose=vp.UPLOAD_PURPOSE_VERSION)
    assert await used(world, anh) == (2 * len(PDF), 1)  # a version is no further document
    await world.append(anh, second, PDF)
    third = await begin(world, anh, 1000)
    await world.call("CancelUpload", anh, vp.CancelUploadRequest(id=third))
    with pytest.raises(DomainError):
        await world.call("CancelUpload", anh, vp.CancelUploadRequest(id=third))
    fourth = await begin(world, anh, 9)
    with pytest.raises(DomainError):
        await world.append(anh, fourth, b"no paper!")
    assert await used(world, anh) == (2 * len(PDF), 1)


async def test_an_upload_that_expires_gives_its_room_back(world: Any, anh: str) -> None:
    id = await begin(world, anh)
    await world.append(anh, id, PDF[:5000])
    world.time.at = max(world.time.at, datetime.now(UTC)) + timedelta(days=2)
    await uploads.sweep(world.ports)
    assert await used(world, anh) == (0, 0)


async def test_the_request_that_is_repeated_takes_room_once(world: Any, anh: str) -> None:
    ports = smaller(world, 100, 1)
    request = Request.of(Caller(anh, "citizen"), uuid7(), vp.BeginUploadRequest(size=100))
    once = await directly(ports, anh, 100, request)
    assert (await directly(ports, anh, 100, request)).id == once.id
    assert await used(world, anh) == (100, 1)


@pytest.mark.parametrize(("size", "documents"), [(100, 10), (1000, 1)])
async def test_of_those_who_race_for_the_last_room_one_gets_it(
    world: Any, anh: str, size: int, documents: int
) -> None:
    ports = smaller(world, size, documents)
    racing = [directly(ports, anh, 60) for _ in range(8)]
    answers = await asyncio.gather(*racing, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, FailedPrecondition)]
    assert len(refused) == 7
    assert {error.reason for error in refused} == {"STORAGE_FULL"}
    left = {"left_bytes": str(size - 60), "left_megabytes": "0", "left_documents": str(documents - 1)}
    assert refused[0].metadata == left
    assert await ports.uploads.count({"owner": anh, "open": 1}) == 1


async def test_a_refusal_leaves_nothing_behind_and_the_same_request_may_be_tried_again(
    world: Any, anh: str
) -> None:
    ports = smaller(world, 100, 10)
    held = await directly(ports, anh, 60)
    request = Request.of(Caller(anh, "citizen"), uuid7(), vp.BeginUploadRequest(size=60))
    with pytest.raises(FailedPrecondition):
        await directly(ports, anh, 60, request)
    assert await used(world, anh) == (60, 1)
    await uploads.cancel_upload(ports, Caller(anh, "citizen"), held.id)
    assert (await directly(ports, anh, 60, request)).size == 60


async def test_what_a_crash_left_promised_is_settled_by_the_sweeper(
    world: Any, anh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between what became of an upload and the count of it, and before the upload was stored."""
    kept, dropped = await begin(world, anh), await begin(world, anh, 700)

    async def killed(*_: object) -> None:
        """Nothing more comes to be done."""

    with monkeypatch.context() as patch:
        patch.setattr(storage, "settle", killed)
        await world.append(anh, kept, PDF)
        await world.call("CancelUpload", anh, vp.CancelUploadRequest(id=dropped))
    with monkeypatch.context() as patch:
        patch.setattr(world.ports.uploads, "add", killed)
        await directly(world.ports, anh, 50)
    assert await used(world, anh) == (len(PDF) + 750, 3)
    await uploads.sweep(world.ports)
    await uploads.sweep(world.ports)
    assert await used(world, anh) == (len(PDF) + 50, 2)
    world.time.at = max(world.time.at, datetime.now(UTC)) + timedelta(hours=25)
    await uploads.sweep(world.ports)
    assert await used(world, anh) == (len(PDF), 1)


async def test_nobody_cancels_what_is_becoming_a_document(
    world: Any, anh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await begin(world, anh)
    looking, go_on = asyncio.Event(), asyncio.Event()
    inspect = world.ports.inspect

    async def slowly(*args: Any) -> Any:
        looking.set()
        await go_on.wait()
        return await inspect(*args)

    slow = replace(world.ports, inspect=slowly)
    appending = await uploads.append_upload(slow, Caller(anh, "citizen"), id, offset=0)
    await appending.write(PDF)
    finishing = asyncio.create_task(appending.finish())
    await asyncio.wait_for(looking.wait(), 20)
    with pytest.raises(FailedPrecondition, match="UPLOAD_DONE"):
        await world.call("CancelUpload", anh, vp.CancelUploadRequest(id=id))
    go_on.set()
    done, _ = await finishing
    assert done.state is UploadState.DONE
    assert await used(world, anh) == (len(PDF), 1)


async def test_a_whole_upload_that_can_never_be_finished_holds_its_room_for_days_not_for_ever(
    world: Any, anh: str
) -> None:
    id = await begin(world, anh)
    appending = await uploads.append_upload(world.ports, Caller(anh, "citizen"), id, offset=0)
    await appending.write(PDF)
    await appending.close()
    await world.ports.objects.delete([part.key for part in appending.upload.parts])  # a disk was lost
    world.time.at = max(world.time.at, datetime.now(UTC)) + timedelta(days=2)
    await uploads.sweep(world.ports)
    assert await used(world, anh) == (len(PDF), 1)
    world.time.at += timedelta(days=7)
    await uploads.sweep(world.ports)
    assert await used(world, anh) == (0, 0)


def document(owner: str, at: datetime, size: int = 100, **fields: Any) -> Callable[[str], Document]:
    """One that was stored before there was a count."""
    version = Version(1, "0" * 64, size, "application/pdf", "a.pdf", at, owner)
    return lambda id: Document(
        **{
            "id": id,
            "owner": owner,
            "details": Details(),
            "trust": Trust.OWN_SCAN,
            "versions": [version],
            "created": at,
            **fields,
        }
    )


async def test_what_was_there_before_is_counted_once(world: Any, anh: str) -> None:
    ports, at = world.ports, world.time()
    picture = Rendition("1" * 64, 10_000, "image/jpeg")
    one = Version(1, "0" * 64, 30, "image/png", "a.png", at, anh, rendition=picture)
    for number in range(205):
        await ports.documents.create(document(anh, at), id=f"{anh}-{number}")
    await ports.documents.create(document(anh, at, dossier="d"), id=uuid7())  # a result
    await ports.documents.create(document(anh, at, desk=WARD), id=uuid7())  # a desk's scan
    await ports.documents.create(
        document(anh, at, desk=WARD, versions=[one, replace(one, number=2, size=7)]), id=uuid7()
    )
    await ports.documents.create(document(anh, at, versions=[one]), id=uuid7())
    both = list(await asyncio.gather(used(world, anh), used(world, anh)))  # as two replicas would
    assert both == [(205 * 100 + 7 + 30, 206)] * 2
    await ports.documents.create(document(anh, at), id=uuid7())  # by a release that does not count
    assert await used(world, anh) == both[0]
    world.time.at = max(world.time.at, datetime.now(UTC)) + timedelta(days=2)
    await uploads.sweep(ports)
    assert await used(world, anh) == (206 * 100 + 37, 207)


async def test_a_request_waits_for_some_pages_of_a_count_and_the_sweeper_counts_the_rest(
    world: Any, anh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_PAGE", 4)
    for number in range(50):
        await world.ports.documents.create(document(anh, world.time()), id=f"{anh}-{number}")
    assert await used(world, anh) == (4000, 40)
    await uploads.sweep(world.ports)
    assert await used(world, anh) == (5000, 50)


async def test_documents_are_not_counted_while_an_upload_is_under_way(world: Any, anh: str) -> None:
    id = await begin(world, anh)
    world.time.at = max(world.time.at, datetime.now(UTC)) + timedelta(hours=25)
    held = await world.ports.storages.get(anh)
    await world.ports.uploads.change(id, lambda u: setattr(u, "expires", held.recount + timedelta(days=9)))
    await uploads.sweep(world.ports)
    after = await world.ports.storages.get(anh)
    assert (list(after.reserved), after.size) == ([id], 0)
    assert after.recount > held.recount


async def test_what_an_office_puts_there_takes_no_room_and_never_lacks_it(world: Any, anh: str) -> None:
    draft = await world.draft("reception", applicant_id=anh, attachments=[])
    ports = smaller(world, 1, 1)
    await directly(ports, anh, 1)  # the last of the room
    before = await used(world, anh)
    upload = await uploads.begin_upload(
        ports,
        Caller("official-reception", "official", (Role(WARD, "reception"),)),
        purpose=Purpose.DOCUMENT,
        size=len(PDF),
        filename="a.pdf",
        content_type="",
        sha256="",
        details=Details(),
        document="",
        dossier=draft.id,
    )
    assert upload.desk == WARD
    made = await world.append("reception", upload.id, PDF)
    assert (await world.ports.documents.get(made.document.id)).owner == anh
    assert await used(world, anh) == before


async def test_an_organisation_may_keep_more_and_a_person_no_more_while_identity_is_away(
    world: Any, anh: str, binh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.identity.accounts[anh].kind = idp.ACCOUNT_KIND_ORGANISATION
    found = (await world.call("GetStorage", anh, vp.GetStorageRequest())).storage
    assert (found.limit_bytes, found.document_limit) == (20 * 2**30, 20_000)
    world.identity.accounts[binh].kind = idp.ACCOUNT_KIND_ORGANISATION

    async def away(_id: str) -> None:
        raise Unavailable("IDENTITY_UNAVAILABLE", "away")

    with monkeypatch.context() as patch:
        patch.setattr(world.ports.identity, "account", away)
        found = (await world.call("GetStorage", binh, vp.GetStorageRequest())).storage
        assert (found.limit_bytes, found.document_limit) == (2 * 2**30, 1_000)
        await begin(world, binh)
    found = (await world.call("GetStorage", binh, vp.GetStorageRequest())).storage
    assert (found.limit_bytes, found.documents) == (20 * 2**30, 1)


async def test_the_room_is_its_owners_business_and_a_delegates(world: Any, anh: str, binh: str) -> None:
    await begin(world, anh)
    assert isinstance(await world.refused("GetStorage", binh, vp.GetStorageRequest(owner_id=anh)), Forbidden)
    assert isinstance(
        await world.refused("GetStorage", "reception", vp.GetStorageRequest(owner_id=anh)), Forbidden
    )
    world.lend(anh, binh, idp.DELEGATION_SCOPE_VAULT)
    assert await used(world, binh, anh) == (len(PDF), 1)


async def test_an_upload_that_began_before_there_was_a_count_ends_as_it_should(world: Any, anh: str) -> None:
    id = await begin(world, anh)
    await world.ports.storages._collection.delete_one({"_id": anh})
    made = (await world.append(anh, id, PDF)).document
    with pytest.raises(NotFound):
        await world.ports.storages.get(anh)
    assert made.id
    assert await used(world, anh) == (len(PDF), 1)
