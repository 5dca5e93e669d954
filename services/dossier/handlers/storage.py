"""The room in vaults: promised when an upload begins, taken when it is done, given back when it is not.

The count follows the uploads. An upload is promised its room before it is stored, and the promise stands
until it is stored how the upload ended; what a crash leaves between the two, `reconcile` finds. So a crash
holds room for a while, and never lets in more than there is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from dossier.domain.document import Upload, UploadState
from dossier.domain.storage import Allowance, Storage, counted, first_count, is_counted
from dossier.handlers import Ports
from dossier.handlers.sight import speaks_for
from kit.auth import CITIZEN, Caller, allow
from kit.clock import to_text
from kit.errors import Conflict, DomainError, Forbidden, NotFound, Unavailable

log = logging.getLogger(__name__)
_PAGE = 200  # documents counted at a time
_AT_ONCE = 10  # pages that a request waits for; the sweeper counts what is beyond
_RECOUNTED = 200  # vaults that are counted again in one sweep


@allow(CITIZEN)
async def get_storage(ports: Ports, caller: Caller, owner: str) -> tuple[Storage, Allowance]:
    """What a vault holds and may hold: one's own, or one that its owner lets the caller use."""
    owner = owner or caller.subject
    if not await speaks_for(ports, caller, owner, "VAULT"):
        raise Forbidden("NOT_DELEGATED", "you may not use this vault")
    return await _storage(ports, owner)


async def reserve(ports: Ports, upload: Upload) -> None:
    """Promises room to an upload before it is stored; again for the same one changes nothing. Raises
    FailedPrecondition STORAGE_FULL."""
    if is_counted(upload):
        _, allowance = await _storage(ports, upload.vault)
        await ports.storages.change(upload.vault, lambda s: s.reserve(upload, allowance))


async def settle(ports: Ports, upload: Upload) -> None:
    """Takes or gives back what an upload was promised, after it is stored how it ended. What fails here is
    left to `reconcile`."""
    if not is_counted(upload) or upload.state is UploadState.OPEN:
        return
    try:
        await ports.storages.change(
            upload.vault, lambda s: s.settle(upload.id, kept=upload.state is UploadState.DONE)
        )
    except NotFound:  # it began before its owner's vault was counted
        return
    except DomainError as error:
        log.info("the room of an upload is settled later: %s", error.reason)


async def reconcile(ports: Ports) -> None:
    """Settles what crashes left promised to uploads that have ended or never came to be, and compares counts
    with documents from time to time."""
    at, token = ports.clock(), ""
    while True:
        page = await ports.storages.page({"reserving": 1}, size=100, token=token)
        for storage in page.items:
            await _reconcile(ports, storage, at)
        if not (token := page.next_token):
            break
    due = await ports.storages.page({"recount": {"$lte": to_text(at)}}, size=_RECOUNTED, order="+recount")
    for storage in due.items:
        await _recount(ports, storage, at)


async def _reconcile(ports: Ports, storage: Storage, at: datetime) -> None:
    uploads = {upload.id: upload for upload in await ports.uploads.batch(list(storage.reserved))}
    for id, promised in storage.reserved.items():
        if id in uploads:
            await settle(ports, uploads[id])
        elif promised.expires <= at:  # it would be expired, too, if it were stored now
            await ports.storages.change(storage.id, _expiring(id, at))


def _expiring(upload: str, at: datetime) -> Callable[[Storage], None]:
    return lambda storage: storage.expire(upload, at)


async def _recount(ports: Ports, storage: Storage, at: datetime) -> None:
    """Every document that counts is written between a promise and its settlement. So a count is right if
    nothing was promised at its beginning and the vault's entry is the same at its end."""
    try:
        if storage.reserved:
            raise Conflict("LOST_RACE", "uploads are under way")
        size, documents, _ = await _count(ports, storage.id)
        if (size, documents) != (storage.size, storage.documents):
            log.warning("the count of a vault was wrong by %d bytes", size - storage.size)
        await ports.storages.change(
            storage.id, lambda s: s.counted(size, documents, at), etag=str(storage.revision)
        )
    except Conflict:
        await ports.storages.change(storage.id, lambda s: s.count_later(at))


async def _storage(ports: Ports, owner: str) -> tuple[Storage, Allowance]:
    """The count of a vault, made when it is first asked for, and the allowance. Two who make it at once have
    counted the same: nothing is promised before the first of the two counts is stored."""
    storage = await ports.storages.find(owner)
    if storage is None:
        size, documents, whole = await _count(ports, owner, pages=_AT_ONCE)
        storage = await ports.storages.create(
            lambda id: first_count(id, size, documents, ports.clock(), whole=whole), id=owner
        )
    if storage.organisation is None:
        storage = await _know_kind(ports, storage)
    limits = ports.limits
    return storage, limits.organisation_storage if storage.organisation else limits.person_storage


async def _know_kind(ports: Ports, storage: Storage) -> Storage:
    try:
        account = await ports.identity.account(storage.id)
    except Unavailable:  # as for a person until identity is there again
        return storage
    organisation = account is not None and account.organisation

    def note(s: Storage) -> None:
        s.organisation = organisation

    return await ports.storages.change(storage.id, note)


async def _count(ports: Ports, owner: str, *, pages: int = 0) -> tuple[int, int, bool]:
    """Bytes and documents of a vault, and whether these are all; 0 pages: without end."""
    size, documents, read, token = 0, 0, 0, ""
    while True:
        page = await ports.documents.page({"owner": owner}, size=_PAGE, token=token)
        counts: Sequence[tuple[int, int]] = [counted(document) for document in page.items]
        size += sum(bytes for bytes, _ in counts)
        documents += sum(number for _, number in counts)
        read, token = read + 1, page.next_token
        if not token or read == pages:
            return size, documents, not token
