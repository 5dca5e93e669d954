"""Uploads that can be resumed, what becomes of them, and what is swept up behind them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from dossier.domain.document import (
    Blob,
    Check,
    Details,
    Document,
    Part,
    Purpose,
    Rendition,
    Upload,
    UploadState,
    Version,
    checked_sha256,
    new_document,
)
from dossier.domain.dossier import is_open
from dossier.domain.kinds import JPEG, named, safe_name
from dossier.domain.states import Party
from dossier.handlers import Ports, storage
from dossier.handlers.sight import open_dossier, speaks_for
from dossier.handlers.vault import content_key, no_document
from kit.auth import CITIZEN, OFFICIAL, Caller, allow
from kit.errors import (
    Conflict,
    DomainError,
    FailedPrecondition,
    FieldViolation,
    Forbidden,
    InvalidInput,
    NotFound,
    RateLimited,
    Unavailable,
)
from kit.ids import derived, uuid7

log = logging.getLogger(__name__)
_STUCK = timedelta(days=7)  # after its expiry a whole upload that cannot be finished is dropped
_ORPHAN_HOURS = 24.0  # an object that nothing refers to is left alone for so long
_AT_ONCE = 100  # objects whose need is looked up together


@allow(CITIZEN, OFFICIAL)
async def begin_upload(
    ports: Ports,
    caller: Caller,
    *,
    purpose: Purpose,
    size: int,
    filename: str,
    content_type: str,
    sha256: str,
    details: Details,
    document: str,
    dossier: str,
    request: Any = None,
) -> Upload:
    """Makes room for a file: a new document, a new version of one's own, or the result of a dossier. Raises
    FailedPrecondition STORAGE_FULL, RateLimited TOO_MANY_UPLOADS, and what is wrong with the request."""
    if size <= 0:
        raise InvalidInput(violations=[FieldViolation("size", "EMPTY_FILE", "a file has at least one byte")])
    if size > ports.limits.upload_bytes:
        raise InvalidInput(
            "FILE_TOO_LARGE",
            f"at most {ports.limits.upload_bytes} bytes",
            limit=ports.limits.upload_bytes,
            violations=[FieldViolation("size", "FILE_TOO_LARGE", f"at most {ports.limits.upload_bytes}")],
        )
    filename = safe_name(filename)
    claimed = ports.claimed(content_type)  # raises for what is certainly not taken
    digest, described = checked_sha256(sha256), details.checked()
    vault, desk = await _destination(ports, caller, purpose, document, dossier)
    at = ports.clock()
    id = await ports.uploads.id_for(request)
    if request is not None and (known := await ports.uploads.find(id)) is not None:
        return known
    limit = ports.limits.open_uploads
    if await ports.uploads.count({"owner": caller.subject, "open": 1}) >= limit:
        raise RateLimited("TOO_MANY_UPLOADS", "finish or cancel one first", limit=limit)
    upload = Upload(
        id=id,
        owner=caller.subject,
        vault=vault,
        purpose=purpose,
        size=size,
        filename=filename,
        content_type=claimed,
        sha256=digest,
        details=described,
        target=document if purpose is Purpose.VERSION else "",
        dossier=dossier,
        desk=desk,
        expires=at + timedelta(hours=ports.limits.upload_hours),
        created=at,
    )
    await storage.reserve(ports, upload)
    return await ports.uploads.create(lambda _: upload, id=id)


@allow(CITIZEN, OFFICIAL)
async def get_upload(ports: Ports, caller: Caller, id: str) -> Upload:
    """Where to go on. One that a crash left complete but unfinished is finished by the sweeper, or by adding
    nothing to it. Raises FailedPrecondition UPLOAD_EXPIRED for one that expired or was cancelled, and
    UPLOAD_REFUSED."""
    upload = await _own_upload(ports, caller, id)
    upload.check_there(ports.clock())
    return upload


class Appending:
    """Bytes being added to an upload. Parts are stored as they fill; `close` stores the rest, also after a
    break, so that what arrived is kept."""

    def __init__(self, ports: Ports, upload: Upload, offset: int) -> None:
        self._ports = ports
        self._buffer = bytearray()
        self._offset = offset
        self.upload = upload

    async def write(self, data: bytes) -> None:
        """Adds bytes. Raises InvalidInput TOO_MANY_BYTES, or FailedPrecondition when another one writes."""
        if self._offset + len(self._buffer) + len(data) > self.upload.size:
            raise InvalidInput("TOO_MANY_BYTES", "more bytes than announced", size=self.upload.size)
        self._buffer += data
        if len(self._buffer) >= self._ports.limits.part_bytes:
            await self._store()

    async def close(self) -> None:
        """Stores what is left."""
        if self._buffer:
            await self._store()

    async def finish(self) -> tuple[Upload, Document | None]:
        """The upload as it stands; with the document when the last byte is there."""
        await self.close()
        if not self.upload.complete:
            return self.upload, None
        return await _finish(self._ports, self.upload)

    async def _store(self) -> None:
        ports, offset = self._ports, self._offset
        data, self._buffer = self._buffer, bytearray()
        part = Part(f"uploads/{self.upload.id}/{offset:012d}-{uuid7()[-12:]}", len(data))
        await ports.objects.put(part.key, data)
        try:
            self.upload = await ports.uploads.change(
                self.upload.id, lambda u: u.append(part, offset, ports.clock())
            )
        except DomainError as error:
            if not isinstance(error, Unavailable):  # then it may have been noted; the sweeper decides
                await ports.objects.delete([part.key])
            raise
        self._offset = offset + part.size


@allow(CITIZEN, OFFICIAL)
async def append_upload(ports: Ports, caller: Caller, id: str, *, offset: int) -> Appending:
    """Begins to add bytes at an offset, which must be the stored one."""
    upload = await _own_upload(ports, caller, id)
    if upload.state is not UploadState.DONE:
        upload.check_offset(offset, ports.clock())
    elif offset != upload.size:
        raise FailedPrecondition("WRONG_OFFSET", "the upload is complete", offset=upload.size)
    return Appending(ports, upload, offset)


@allow(CITIZEN, OFFICIAL)
async def cancel_upload(ports: Ports, caller: Caller, id: str) -> None:
    """Forgets an unfinished upload and its bytes. Raises FailedPrecondition UPLOAD_DONE for a whole one."""
    upload = await _own_upload(ports, caller, id)
    upload.check_there(ports.clock())
    await _drop(ports, upload)


async def _finish(ports: Ports, upload: Upload) -> tuple[Upload, Document]:
    """Checks the content and makes the document. Safe to run twice and at once: the document's id follows
    from the upload's, and the document is written last, after its bytes."""
    if upload.state is UploadState.DONE:
        return upload, await ports.documents.get(upload.document)
    staging = f"staging/{upload.id}-{uuid7()[-12:]}"
    try:
        file = await ports.objects.assemble([part.key for part in upload.parts], staging)
    except FileNotFoundError:
        fresh = await ports.uploads.get(upload.id)
        if fresh.state is UploadState.DONE:  # another one finished it and has cleaned up
            return fresh, await ports.documents.get(fresh.document)
        raise Conflict("LOST_RACE", "the upload is being finished") from None
    try:
        _check_announced(upload, file.sha256, file.size)
        finding, picture = await ports.inspect(staging, file.head, upload.owner)
    except InvalidInput as error:
        await _refuse(ports, upload, staging, error)
        raise
    except DomainError:  # something is away: the parts stay, and it is tried again
        await ports.objects.delete([staging])
        raise
    digest = file.sha256
    await ports.objects.move(staging, content_key(digest))
    target = upload.target or derived("document", upload.id)
    await _note_content(ports, digest, upload.size, target)
    version = Version(
        1,
        digest,
        upload.size,
        finding.content_type,
        named(upload.filename, finding.content_type),
        ports.clock(),
        upload.owner,
        signed=finding.signed,
        attachments=finding.attachments,
        rendition=await _store_rendition(ports, picture, target) if picture else None,
        check=Check.NONE if ports.antivirus is None else Check.CHECKING,
    )
    if upload.target:
        try:
            document = await ports.documents.change(
                target, lambda d: d.add_version(version), handled=upload.id
            )
        except FailedPrecondition as error:  # its places were used up while this one came in
            await _refuse(ports, upload, staging, error)
            raise
    else:
        document = await ports.documents.create(lambda id: new_document(id, upload, version), id=target)
    done = await ports.uploads.change(upload.id, lambda u: u.finish(target))
    await storage.settle(ports, done)
    await ports.objects.delete([part.key for part in upload.parts])
    ports.to_check()
    return done, document


def _check_announced(upload: Upload, digest: str, size: int) -> None:
    """Raises InvalidInput SIZE_MISMATCH or CHECKSUM_MISMATCH."""
    reason = ""
    if size != upload.size:
        reason = "SIZE_MISMATCH"
    elif upload.sha256 and upload.sha256 != digest:
        reason = "CHECKSUM_MISMATCH"
    if reason:
        raise InvalidInput(reason, violations=[FieldViolation("content", reason)])


async def _refuse(ports: Ports, upload: Upload, staging: str, error: DomainError) -> None:
    """The file is not taken, and nothing of it stays."""
    await ports.objects.delete([staging])
    refused = await ports.uploads.change(upload.id, lambda u: u.refuse(error.reason))
    await storage.settle(ports, refused)
    await ports.objects.delete([part.key for part in upload.parts])
    log.info("upload refused: %s", error)


async def _note_content(ports: Ports, digest: str, size: int, document: str) -> None:
    await ports.blobs.create(lambda id: Blob(id, size), id=digest)
    await ports.blobs.change(digest, lambda b: b.used_by(document))


async def _store_rendition(ports: Ports, picture: bytes, document: str) -> Rendition:
    """Kept like the file itself, by its SHA-256, before the document that names it is written."""
    digest = hashlib.sha256(picture).hexdigest()
    await ports.objects.put(content_key(digest), picture)
    await _note_content(ports, digest, len(picture), document)
    return Rendition(digest, len(picture), JPEG)


async def _destination(
    ports: Ports, caller: Caller, purpose: Purpose, document: str, dossier: str
) -> tuple[str, str]:
    """Whose vault the file is for, and the desk that scans it for somebody else."""
    if purpose is Purpose.VERSION:
        known = await ports.documents.find(document)
        if known is None or not await speaks_for(ports, caller, known.owner, "VAULT"):
            raise no_document(document)
        known.check_room()
        return known.owner, ""
    if purpose is Purpose.RESULT:
        seen = await open_dossier(ports, caller, dossier)
        if not seen.actor.parties & {Party.EXAMINER, Party.LEADER, Party.CLERK}:
            raise Forbidden("NOT_ALLOWED", "results come from the agency that has the dossier")
        if not is_open(seen.dossier):
            raise FailedPrecondition("WRONG_STATE", "no result is due", **{"from": seen.dossier.state.name})
        return seen.dossier.current_agency, ""
    if dossier:
        seen = await open_dossier(ports, caller, dossier)
        if Party.DESK in seen.actor.parties:
            desks = (seen.dossier.support_point, seen.dossier.receiving_agency)
            return seen.dossier.applicant, next(desk for desk in desks if caller.has("reception", desk))
        if not await speaks_for(ports, caller, seen.dossier.applicant, "VAULT"):
            raise Forbidden("NOT_DELEGATED", "you may not use this vault")
        return seen.dossier.applicant, ""
    if caller.kind != "citizen":
        raise Forbidden("NO_VAULT", "an official uploads for a dossier")
    return caller.subject, ""


async def _own_upload(ports: Ports, caller: Caller, id: str) -> Upload:
    upload = await ports.uploads.find(id)
    if upload is None or upload.owner != caller.subject:
        raise NotFound("UPLOAD_NOT_FOUND", "no such upload", id=id)
    return upload


async def _drop(ports: Ports, upload: Upload, *, stuck: bool = False) -> None:
    dropped = await ports.uploads.change(upload.id, lambda u: u.drop(stuck=stuck))
    await storage.settle(ports, dropped)
    await ports.objects.delete([item.key async for item in ports.objects.list(f"uploads/{upload.id}")])


async def sweep(ports: Ports) -> int:
    """Finishes what a crash left complete, drops what expired, settles the room that uploads took, and
    deletes objects that nothing refers to and that nobody touched for a day. Answers how many went."""
    at, gone = ports.clock(), 0
    token = ""
    while True:
        page = await ports.uploads.page({"open": 1}, size=100, token=token)
        for upload in page.items:
            if upload.complete:
                try:
                    await _finish(ports, upload)
                except DomainError as error:
                    log.info("an upload could not be finished: %s", error.reason)
                    if at >= upload.expires + _STUCK:
                        await _forget(ports, upload, stuck=True)
            elif at >= upload.expires:
                await _forget(ports, upload)
        if not (token := page.next_token):
            break
    await storage.reconcile(ports)
    old = at - timedelta(hours=_ORPHAN_HOURS)
    for prefix, needed in (("uploads", _parts_needed), ("staging", _none), ("sha256", _contents_needed)):
        aged: list[str] = []
        async for item in ports.objects.list(prefix):
            if item.modified < old:
                aged.append(item.key)
            if len(aged) == _AT_ONCE:
                gone += await _sweep_up(ports, aged, await needed(ports, aged), old)
                aged = []
        gone += await _sweep_up(ports, aged, await needed(ports, aged), old)
    return gone


async def _forget(ports: Ports, upload: Upload, *, stuck: bool = False) -> None:
    with suppress(FailedPrecondition):  # its last byte came meanwhile
        await _drop(ports, upload, stuck=stuck)


async def _sweep_up(ports: Ports, keys: Sequence[str], needed: set[str], old: datetime) -> int:
    gone = 0
    for key in keys:
        if key in needed:
            continue
        # It may have been written again meanwhile: only what is still old goes.
        modified = await ports.objects.modified(key)
        if modified is not None and modified < old:
            await ports.objects.delete([key])
            gone += 1
    return gone


async def _parts_needed(ports: Ports, keys: Sequence[str]) -> set[str]:
    uploads = await ports.uploads.batch([key.split("/")[1] for key in keys])
    return {part.key for upload in uploads for part in upload.parts}


async def _contents_needed(ports: Ports, keys: Sequence[str]) -> set[str]:
    blobs = await ports.blobs.batch([key.rpartition("/")[2] for key in keys])
    documents = await ports.documents.batch([id for blob in blobs for id in blob.documents])
    versions = [version for document in documents for version in document.versions]
    pictures = {content_key(version.rendition.sha256) for version in versions if version.rendition}
    return pictures | {content_key(version.sha256) for version in versions}


async def _none(ports: Ports, keys: Sequence[str]) -> set[str]:
    return set()
