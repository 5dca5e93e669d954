"""Documents of the vault: who sees them, who reads their bytes, and the log of both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from dossier.domain.document import (
    Access,
    Act,
    Check,
    Details,
    Document,
    Ticket,
    Trust,
    Version,
)
from dossier.domain.states import Party
from dossier.handlers import Ports, not_there, words
from dossier.handlers.sight import find_dossier, hidden, open_dossier, speaks_for, visible_documents
from kit.auth import ANYONE, CITIZEN, OFFICIAL, Caller, allow, official, service
from kit.errors import (
    FailedPrecondition,
    Forbidden,
    InvalidInput,
    NotFound,
)
from kit.ids import derived, uuid7


@dataclass(frozen=True)
class Read:
    """A version to read, and its bytes."""

    version: Version
    offset: int
    length: int


@allow(CITIZEN, OFFICIAL, service("notify", "gateway"))
async def get_document(ports: Ports, caller: Caller, id: str) -> Document:
    """One document, if the caller may see it."""
    return (await _seen(ports, caller, id))[0]


@allow(CITIZEN, OFFICIAL, service("notify", "gateway"))
async def batch_get_documents(ports: Ports, caller: Caller, ids: Sequence[str]) -> list[Document]:
    """Those that exist and that the caller may see."""
    if len(ids) > 100:
        raise InvalidInput("TOO_MANY", "at most 100 at once")
    return (await visible_documents(ports, caller, await ports.documents.batch(list(ids))))[0]


@allow(CITIZEN)
async def list_documents(
    ports: Ports,
    caller: Caller,
    *,
    owner: str,
    type: str,
    size: int,
    token: str,
) -> tuple[list[Document], str]:
    """A vault, newest first: one's own, or one that its owner lets the caller use."""
    owner = owner or caller.subject
    if not await speaks_for(ports, caller, owner, "VAULT"):
        raise Forbidden("NOT_DELEGATED", "you may not use this vault")
    wanted = {"owner": owner, **({"type": type} if type else {})}
    page = await ports.documents.page(wanted, size=min(size or 20, 100), token=token)
    return [d for d in page.items if not hidden(caller, d)], page.next_token


@allow(CITIZEN)
async def update_document(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    details: Details,
    superseded_by: str,
    request: Any = None,
    etag: str = "",
) -> Document:
    """What the owner says of a document."""
    document = await ports.documents.find(id)
    if document is None or document.owner != caller.subject:
        raise no_document(id)
    if superseded_by:
        successor = await ports.documents.find(superseded_by)
        if successor is None or successor.owner != caller.subject:
            raise no_document(superseded_by)
    described = details.checked()
    return await ports.documents.change(
        id, lambda d: d.describe(described, superseded_by), request=request, etag=etag or None
    )


@allow(official("reception", "examiner", "clerk"))
async def verify_document(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    dossier: str,
    trust: Trust,
    note: str,
    request: Any = None,
    etag: str = "",
) -> Document:
    """An officer who saw the original vouches for a document of a dossier that the agency has now."""
    seen = await open_dossier(ports, caller, dossier)
    if not seen.actor.parties & {Party.RECEPTION, Party.EXAMINER, Party.CLERK}:
        raise Forbidden("NOT_ALLOWED", "your agency does not have this dossier now")
    attached = [a for a in seen.dossier.attachments if a.document == id]
    document = await ports.documents.find(id)
    if document is None or not attached:
        raise no_document(id)
    if not any(a.version == document.newest.number for a in attached):
        raise FailedPrecondition("NEWER_VERSION", "the owner has a newer version than the one attached")
    note, at, agency = words("note", note), ports.clock(), seen.actor.agency
    changed = await ports.documents.change(
        id,
        lambda d: d.verify(trust=trust, by=caller.subject, agency=agency, at=at),
        request=request,
        etag=etag or str(document.revision),
    )
    access = Access(
        id="",
        document=id,
        version=document.newest.number,
        owner=document.owner,
        actor=caller.subject,
        agency=agency,
        act=Act.VERIFY,
        purpose=note,
        dossier=dossier,
        at=at,
    )
    await _log(ports, access, derived("verify", id, dossier, str(changed.revision)))
    return changed


@allow(CITIZEN, OFFICIAL)
async def create_download(
    ports: Ports,
    caller: Caller,
    id: str,
    *,
    version: int,
    purpose: str,
    dossier: str,
    rendition: bool = False,
) -> tuple[str, datetime]:
    """A token for reading one version for a few minutes, and when it ends. Anyone but the owner leaves a
    record; an official says why, and reads only what was given to the office."""
    if caller.kind == "official" and dossier:
        document, through = await _in_dossier(ports, caller, id, dossier), dossier
    else:
        document, through = await _seen(ports, caller, id)
    purpose = words("purpose", purpose, required=caller.kind == "official", limit=500)
    if caller.kind == "official":
        given = await _versions_given(ports, document, through)
        version = version or max(given, default=0)
        if version not in given:
            raise Forbidden("VERSION_NOT_ATTACHED", "this version was not attached", version=version)
    wanted = document.version(version)
    if wanted is None:
        raise NotFound("DOCUMENT_NOT_FOUND", "the document has no such version", version=version)
    if ports.antivirus is not None and wanted.check == Check.NONE:
        number = wanted.number
        wanted = (await ports.documents.change(id, lambda d: d.hold_back(number))).versions[number - 1]
        ports.to_check()
    wanted.check_readable()
    if rendition and wanted.rendition is None:
        raise NotFound("NO_RENDITION", "only pictures have one", version=wanted.number)
    at = ports.clock()
    if caller.subject != document.owner:
        office = caller.kind == "official"
        agency = ""
        if office:
            agency = (await open_dossier(ports, caller, through)).actor.agency if through else document.desk
        access = Access(
            id="",
            document=id,
            version=wanted.number,
            owner=document.owner,
            actor=caller.subject,
            agency=agency,
            act=Act.READ if office else Act.DELEGATED_READ,
            purpose=purpose,
            dossier=through,
            at=at,
        )
        await _log(ports, access, uuid7())
    ends = at + timedelta(seconds=ports.limits.download_seconds)
    ticket = Ticket(id, wanted.number, caller.subject, int(ends.timestamp()), rendition)
    return ticket.signed(ports.secret), ends


@allow(ANYONE)
async def read_document(ports: Ports, caller: Caller, token: str, *, offset: int, length: int) -> Read:
    """The version that a token opens, and the range of it that is asked for; length 0: to the end."""
    ticket = Ticket.read(token, ports.secret, ports.clock())
    document = await ports.documents.find(ticket.document)
    version = None if document is None else document.version(ticket.version)
    if version is None:
        raise NotFound("DOCUMENT_NOT_FOUND", "the document is no longer there")
    version.check_readable()
    if ticket.rendition:
        if version.rendition is None:
            raise NotFound("NO_RENDITION", "only pictures have one", version=version.number)
        version = replace(
            version,
            sha256=version.rendition.sha256,
            size=version.rendition.size,
            content_type=version.rendition.content_type,
        )
    if offset < 0 or length < 0 or offset > version.size:
        raise InvalidInput("RANGE_NOT_SATISFIABLE", "outside the file", size=version.size)
    rest = version.size - offset
    return Read(version, offset, min(length or rest, rest))


def content(ports: Ports, read: Read) -> AsyncIterator[bytes]:
    """The bytes of a range in pieces of at most 256 KiB."""
    return ports.objects.read(content_key(read.version.sha256), read.offset, read.length)


@allow(CITIZEN)
async def list_accesses(
    ports: Ports, caller: Caller, *, document: str, size: int, token: str
) -> tuple[list[Access], str]:
    """Who read or used a document, or for none anything of the caller's and what identifies them; newest
    first."""
    which = {"document": document} if document else {"owner": caller.subject}
    known = await ports.documents.find(document) if document else None
    if document and (known is None or known.owner != caller.subject):
        raise no_document(document)
    page = await ports.accesses.page(which, size=min(size or 20, 100), token=token)
    return list(page.items), page.next_token


async def _seen(ports: Ports, caller: Caller, id: str) -> tuple[Document, str]:
    """The document, and for an official the dossier that gives the right to see it."""
    document = await ports.documents.find(id)
    seen, through = await visible_documents(ports, caller, [document] if document else [])
    if not seen:
        raise no_document(id)
    return seen[0], through.get(id, "")


async def _in_dossier(ports: Ports, caller: Caller, id: str, dossier: str) -> Document:
    """The document of a dossier that the official needs to know now. Raises NotFound, Forbidden
    NOT_IN_DOSSIER, or SIGHT_ENDED where a purpose has to be recorded first."""
    document, seen = await ports.documents.find(id), await find_dossier(ports, caller, dossier)
    if document is not None and seen is not None:
        uses = [*(a.document for a in seen.dossier.attachments), *seen.dossier.results]
        if id in uses or document.dossier == dossier:
            if not seen.whole:
                raise Forbidden("SIGHT_ENDED", "open the record of the dossier for a purpose first")
            return document
    await _seen(ports, caller, id)
    if seen is None:
        raise not_there(dossier)
    raise Forbidden("NOT_IN_DOSSIER", "the document does not belong to this dossier")


async def _versions_given(ports: Ports, document: Document, through: str) -> set[int]:
    """The versions that an office was given: attached to the dossier, its result, or scanned at its desk;
    not what the owner had before or has added since."""
    if not through or document.dossier == through:
        return {1}
    dossier = await ports.dossiers.get(through)
    uses = await ports.accesses.page({"document": document.id, "act": Act.USE.value}, size=200)
    attached = {a.version for a in dossier.attachments if a.document == document.id}
    return attached | {use.version for use in uses.items if use.dossier == through}


async def _log(ports: Ports, access: Access, id: str) -> None:
    def make(known: str) -> Access:
        access.id = known
        return access

    await ports.accesses.create(make, id=id)


def content_key(digest: str) -> str:
    """Where content lies in object storage."""
    return f"sha256/{digest[:2]}/{digest}"


def no_document(id: str) -> NotFound:
    return NotFound("DOCUMENT_NOT_FOUND", "no such document", id=id)
