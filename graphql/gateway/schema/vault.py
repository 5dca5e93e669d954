"""The vault: documents, uploads, downloads, and who read what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import strawberry
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.binding import enum, fill, view
from gateway.ids import from_global
from gateway.relay import connect
from gateway.scalars import Date, DateTime, Long
from gateway.schema.base import (
    Connection,
    Info,
    Node,
    mutation,
    one,
    other,
    own,
    resolver,
    rpc,
    subscription,
)
from gateway.schema.refs import AccountRef, AgencyRef, DocumentRef, DossierRef
from motcua.dossier.v1 import vault_pb2 as pb

if TYPE_CHECKING:
    from gateway.context import Context


@dataclass(frozen=True)
class DownloadAddress:
    """What `createDownload` answers."""

    url: str
    expire_time: Timestamp


@enum(pb.TrustLevel, "TRUST_LEVEL_")
class TrustLevel(IntEnum):
    """How far a document can be trusted, best first."""

    SIGNED_ORIGINAL = 1
    CERTIFIED_COPY = 2
    OFFICER_SCAN = 3
    OWN_SCAN = 4


@enum(pb.UploadPurpose, "UPLOAD_PURPOSE_")
class UploadPurpose(IntEnum):
    """What an upload becomes."""

    DOCUMENT = 1
    VERSION = 2
    RESULT = 3


@view(pb.Access, key="id")
class Access:
    id: strawberry.ID
    document: DocumentRef | None = one(
        "documents", "document_id", description="Null where somebody saw what identifies the owner."
    )
    document_version: int | None
    actor: AccountRef | None = one("accounts", "actor_id")
    agency: AgencyRef | None = one("agencies", "agency")
    act: str = strawberry.field(
        description="READ, USE, VERIFY, DELEGATED_READ, or IDENTITY: the owner's numbers and addresses."
    )
    purpose: str | None
    dossier: DossierRef | None = one("dossiers", "dossier_id")
    time: DateTime


@view(pb.Document, key="id")
class Document(Node):
    """A paper in somebody's vault."""

    owner: AccountRef | None = one("accounts", "owner_id")
    type: str = strawberry.field(description="Such as `birth_certificate`.")
    title: str
    issuer: str | None
    issue_date: Date | None
    expiry_date: Date | None
    trust: TrustLevel
    verified_by: AccountRef | None = one("accounts", "verified_by_id")
    verified_by_agency: AgencyRef | None = one("agencies", "verified_by_agency")
    verify_time: DateTime | None
    superseded_by: Document | None = one("documents", "superseded_by_id")
    versions: list[DocumentVersion] = strawberry.field(description="Newest last.")
    dossier: DossierRef | None = one("dossiers", "dossier_id", description="The dossier whose result it is.")
    create_time: DateTime | None
    etag: str | None

    @resolver(Connection[Access], description="Who read or used it, newest first. The owner's only.")
    async def accesses(self: Any, info: Info, first: int = 20, after: str | None = None) -> Any:
        context: Context = info.context

        async def fetch(size: int, token: str) -> Any:
            request = pb.ListAccessesRequest(document_id=self.id, page_size=size, page_token=token)
            reply = await context.call(context.services.vault.ListAccesses, request)
            return reply.accesses, reply.next_page_token, None

        return await connect(first, after, fetch)


@enum(pb.FileCheck, "FILE_CHECK_")
class FileCheck(IntEnum):
    """What the antivirus said of a file. While it is CHECKING nobody can download it; REFUSED nobody ever."""

    NONE = 1
    CHECKING = 2
    CLEAN = 3
    REFUSED = 4


@view(pb.Rendition)
class Rendition:
    """A picture that every browser draws: upright, without what the camera noted of itself and the place.
    `createDownload` with `rendition: true` makes its address."""

    size: Long
    content_type: str


@view(pb.DocumentVersion)
class DocumentVersion:
    version: int
    sha256: str
    size: Long
    content_type: str = strawberry.field(description="By the content, whatever the file was called.")
    filename: str | None = strawberry.field(description="Its extension follows the content type.")
    create_time: DateTime | None
    signed: bool = strawberry.field(description="It carries a signature, which nobody here has verified.")
    attachments: bool = strawberry.field(description="It carries other files; only a signed one may.")
    rendition: Rendition | None = strawberry.field(description="Of pictures.")
    check: FileCheck
    found: str | None = strawberry.field(description="What the antivirus found, in a file that is REFUSED.")


@view(pb.Upload, key="id")
class Upload(Node):
    """A place to send bytes to with tus 1.0: PATCH the url with the access token."""

    @resolver(str, description="Where its bytes go.")
    def url(self: Any, info: Info) -> Any:
        return f"{info.context.public_url}/files/{self.id}"

    size: Long
    offset: Long
    expire_time: DateTime | None
    document: Document | None = one(
        "documents", "document_id", description="What it became, once the last byte is there."
    )


@view(pb.Storage)
class Storage:
    """How much is in a vault and how much may be. What an office puts there, such as a result, does not
    count."""

    used_bytes: Long = strawberry.field(description="With what is promised to unfinished uploads.")
    limit_bytes: Long
    documents: int = strawberry.field(description="With those that unfinished uploads will make.")
    document_limit: int


@view(DownloadAddress)
class Download:
    """A short-lived address of a document's bytes; it takes range requests and needs no header."""

    url: str
    expire_time: DateTime


@strawberry.input
class BeginUploadInput:
    request_id: str | None = None
    purpose: UploadPurpose = UploadPurpose.DOCUMENT
    size: Long = strawberry.field(description="In bytes.")
    filename: str
    content_type: str | None = None
    sha256: str | None = strawberry.field(default=None, description="Checked when the last byte is there.")
    type: str | None = None
    title: str | None = None
    issuer: str | None = None
    issue_date: Date | None = None
    expiry_date: Date | None = None
    document_id: strawberry.ID | None = strawberry.field(default=None, description="With purpose VERSION.")
    dossier_id: strawberry.ID | None = strawberry.field(default=None, description="With purpose RESULT.")


@strawberry.input
class CreateDownloadInput:
    request_id: str | None = None
    document_id: strawberry.ID
    version: int | None = strawberry.field(default=None, description="Absent: the newest.")
    purpose: str | None = strawberry.field(
        default=None, description="Why an official reads it; the owner can see it."
    )
    dossier_id: strawberry.ID | None = strawberry.field(
        default=None, description="The dossier for which an official reads it."
    )
    rendition: bool = strawberry.field(
        default=False, description="The picture that every browser draws, in place of the file itself."
    )


@view(pb.AccountRecord)
class AccountRecord:
    """What identifies a person or an organisation, whole. That it was looked at is recorded; the owner can
    read by whom, for which agency and why."""

    account: AccountRef | None = one("accounts", "account_id")
    name: str
    citizen_number: str | None
    tax_code: str | None
    phone: str | None
    email: str | None
    expire_time: DateTime | None = strawberry.field(
        description="Until when the caller may look. Null: while the agency holds the dossier."
    )


@strawberry.input(description="Whose record: an account's, a dossier's applicant's, or by an identifier.")
class OpenAccountRecordInput:
    request_id: str | None = None
    account_id: strawberry.ID | None = None
    identifier: str | None = strawberry.field(
        default=None, description="Citizen number, tax code, phone or e-mail, alone and at a reception."
    )
    dossier_id: strawberry.ID | None = strawberry.field(
        default=None, description="The dossier for which the caller looks."
    )
    purpose: str | None = strawberry.field(
        default=None,
        description="Why; the owner can read it. Required unless the caller's agency holds a dossier of "
        "theirs or has let it go no more than 30 days ago.",
    )
    agency: str | None = strawberry.field(
        default=None, description="The agency at whose reception the caller looks, if at several."
    )


@strawberry.input
class UpdateDocumentInput:
    request_id: str | None = None
    document_id: strawberry.ID
    title: str | None = None
    type: str | None = None
    issuer: str | None = None
    issue_date: Date | None = None
    expiry_date: Date | None = None
    superseded_by_id: strawberry.ID | None = None
    etag: str | None = None


@strawberry.input
class VerifyDocumentInput:
    request_id: str | None = None
    document_id: strawberry.ID
    dossier_id: strawberry.ID = strawberry.field(description="The dossier to which it is attached.")
    trust: TrustLevel
    note: str | None = None
    etag: str | None = None


@strawberry.type
class AccountVault:
    """The vault of an account."""

    @resolver(Connection[Document], description="The vault, newest first.")
    async def documents(
        self: Any, info: Info, type: str | None = None, first: int = 20, after: str | None = None
    ) -> Any:
        context: Context = info.context

        async def fetch(size: int, token: str) -> Any:
            request = pb.ListDocumentsRequest(
                owner_id=other(context, self), type=type or "", page_size=size, page_token=token
            )
            reply = await context.call(context.services.vault.ListDocuments, request)
            return reply.documents, reply.next_page_token, None

        return await connect(first, after, fetch)

    @resolver(Storage | None, description="How much is in the vault and how much may be.")
    async def storage(self: Any, info: Info) -> Any:
        context: Context = info.context
        request = pb.GetStorageRequest(owner_id=other(context, self))
        return (await context.call(context.services.vault.GetStorage, request)).storage

    @resolver(
        Connection[Access],
        description="Who read or used the account's documents, or saw what identifies its owner; newest "
        "first. The owner's only.",
    )
    async def accesses(self: Any, info: Info, first: int = 20, after: str | None = None) -> Any:
        context: Context = info.context
        own(context, self)

        async def fetch(size: int, token: str) -> Any:
            request = pb.ListAccessesRequest(page_size=size, page_token=token)
            reply = await context.call(context.services.vault.ListAccesses, request)
            return reply.accesses, reply.next_page_token, None

        return await connect(first, after, fetch)


async def document_changed(context: Context, id: str) -> AsyncIterator[pb.Document]:
    """The source of `documentChanged`: read as the caller each time, like a dossier's."""
    key = from_global(id, "Document")
    async with context.live.watch_dossier(key) as changes:
        request = pb.GetDocumentRequest(id=key)
        yield (await context.call(context.services.vault.GetDocument, request)).document
        async for _ in changes:
            yield (await context.call(context.services.vault.GetDocument, request)).document


@strawberry.type
class VaultSubscription:
    """Subscriptions to documents."""

    @subscription(Document, description="The document as it is now, and again after each change.")
    async def document_changed(self, info: Info, id: strawberry.ID) -> AsyncIterator[Any]:
        async for document in document_changed(info.context, id):
            yield document


@strawberry.type
class VaultMutation:
    """Mutations of the vault."""

    begin_upload = rpc(
        "vault",
        pb.BeginUploadRequest,
        BeginUploadInput,
        Upload,
        "Makes a place to send a file to.",
        answer="upload",
    )

    @mutation(Download, "Makes a short-lived address of a document's bytes; the owner sees who.")
    async def create_download(self, info: Info, input: CreateDownloadInput) -> Any:
        context: Context = info.context
        request = fill(pb.CreateDownloadRequest(), input, without=("request_id",))
        reply = await context.call(context.services.vault.CreateDownload, request)
        return DownloadAddress(f"{context.public_url}/files/d/{reply.token}", reply.expire_time)

    @mutation(
        AccountRecord,
        "Shows an official what identifies a person or an organisation, and records that they looked.",
    )
    async def open_account_record(self, info: Info, input: OpenAccountRecordInput) -> Any:
        context: Context = info.context
        request = fill(pb.OpenAccountRecordRequest(), input, without=("request_id",))
        return (await context.call(context.services.vault.OpenAccountRecord, request)).record

    update_document = rpc(
        "vault",
        pb.UpdateDocumentRequest,
        UpdateDocumentInput,
        Document,
        "Changes what is said about a document.",
        answer="document",
        subject="document_id",
    )
    verify_document = rpc(
        "vault",
        pb.VerifyDocumentRequest,
        VerifyDocumentInput,
        Document,
        "Raises the trust of a document of which an officer saw the original.",
        answer="document",
        subject="document_id",
    )
