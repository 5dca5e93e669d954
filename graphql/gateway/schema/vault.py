"""Documents of the vault, uploads and downloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from gateway.binding import Info, Part, fill
from gateway.context import Context
from gateway.execution import never_waits
from gateway.relay import Page, connect
from gateway.schema.base import connection, mutation, rpc
from motcua.dossier.v1 import vault_pb2 as pb
from motcua.identity.v1 import identity_pb2 as identity

part = Part('''
extend type Account {
  """The vault, newest first."""
  documents(type: String, first: Int! = 20, after: String): DocumentConnection!
}

"""A paper in somebody's vault."""
type Document implements Node {
  id: ID!
  owner: Account
  """Such as `birth_certificate`."""
  type: String!
  title: String!
  issuer: String
  issueDate: Date
  expiryDate: Date
  trust: TrustLevel!
  verifiedBy: Account
  verifiedByAgency: Agency
  verifyTime: DateTime
  supersededBy: Document
  """Newest last."""
  versions: [DocumentVersion!]!
  """The dossier whose result it is."""
  dossier: Dossier
  createTime: DateTime
  etag: String
  """Who read or used it, newest first. The owner's only."""
  accesses(first: Int! = 20, after: String): AccessConnection!
}
type DocumentVersion {
  version: Int!
  sha256: String!
  size: Long!
  contentType: String!
  filename: String
  createTime: DateTime
}
type Access {
  id: ID!
  documentVersion: Int
  actor: Account
  agency: Agency
  """READ, USE, VERIFY or DELEGATED_READ."""
  act: String!
  purpose: String
  dossier: Dossier
  time: DateTime!
}

"""A place to send bytes to with tus 1.0: PATCH the url with the access token."""
type Upload implements Node {
  id: ID!
  url: String!
  size: Long!
  offset: Long!
  expireTime: DateTime
  """What it became, once the last byte is there."""
  document: Document
}
"""A short-lived address of a document's bytes; it takes range requests and needs no header."""
type Download { url: String! expireTime: DateTime! }

input BeginUploadInput {
  requestId: String
  purpose: UploadPurpose! = DOCUMENT
  """In bytes."""
  size: Long!
  filename: String!
  contentType: String
  """Checked when the last byte is there."""
  sha256: String
  type: String
  title: String
  issuer: String
  issueDate: Date
  expiryDate: Date
  """With purpose VERSION."""
  documentId: ID
  """With purpose RESULT."""
  dossierId: ID
}
input CreateDownloadInput {
  requestId: String
  documentId: ID!
  """Absent: the newest."""
  version: Int
  """Why an official reads it; the owner can see it."""
  purpose: String
  """The dossier for which an official reads it."""
  dossierId: ID
}
input UpdateDocumentInput {
  requestId: String
  documentId: ID!
  title: String
  type: String
  issuer: String
  issueDate: Date
  expiryDate: Date
  supersededById: ID
  etag: String
}
input VerifyDocumentInput {
  requestId: String
  documentId: ID!
  """The dossier to which it is attached."""
  dossierId: ID!
  trust: TrustLevel!
  note: String
  etag: String
}
''')
part.enum("TrustLevel", pb.TrustLevel, "How far a document can be trusted, best first.")
part.enum("UploadPurpose", pb.UploadPurpose, "What an upload becomes.")
part.type("Document", pb.Document, key="id")
part.type("DocumentVersion", pb.DocumentVersion)
part.type("Access", pb.Access, key="id")
connection(part, "Document")
connection(part, "Access")


@dataclass(frozen=True)
class Download:
    url: str
    expire_time: Timestamp


part.type("Upload", pb.Upload, key="id")
part.type("Download", Download)
part.resolve("Upload.url")(never_waits(lambda upload, info: f"{info.context.public_url}/files/{upload.id}"))
part.resolve("Upload.document")(lambda upload, info: info.context.documents.load(upload.document_id))


@part.resolve("Account.documents")
async def documents(
    account: identity.Account, info: Info, first: int, type: str | None = None, after: str | None = None
) -> Page:
    context: Context = info.context

    async def fetch(size: int, token: str) -> Any:
        request = pb.ListDocumentsRequest(
            owner_id=other(context, account), type=type or "", page_size=size, page_token=token
        )
        reply = await context.call(context.services.vault.ListDocuments, request)
        return reply.documents, reply.next_page_token, None

    return await connect(first, after, fetch)


def other(context: Context, account: identity.Account) -> str:
    """The account's id, or nothing when it is the caller's own: what list requests want."""
    return "" if account.id == context.caller.subject else account.id


@part.resolve("Document.accesses")
async def accesses(document: pb.Document, info: Info, first: int, after: str | None = None) -> Page:
    context: Context = info.context

    async def fetch(size: int, token: str) -> Any:
        request = pb.ListAccessesRequest(document_id=document.id, page_size=size, page_token=token)
        reply = await context.call(context.services.vault.ListAccesses, request)
        return reply.accesses, reply.next_page_token, None

    return await connect(first, after, fetch)


part.resolve("Document.owner")(lambda document, info: info.context.accounts.load(document.owner_id))
part.resolve("Document.verifiedBy")(
    lambda document, info: info.context.accounts.load(document.verified_by_id)
)
part.resolve("Document.verifiedByAgency")(
    lambda document, info: info.context.agencies.load(document.verified_by_agency)
)
part.resolve("Document.supersededBy")(
    lambda document, info: info.context.documents.load(document.superseded_by_id)
)
part.resolve("Document.dossier", "Access.dossier")(
    lambda source, info: info.context.dossiers.load(source.dossier_id)
)
part.resolve("Access.actor")(lambda access, info: info.context.accounts.load(access.actor_id))
part.resolve("Access.agency")(lambda access, info: info.context.agencies.load(access.agency))


@mutation(part, "beginUpload", "Upload", "Makes a place to send a file to.")
async def begin_upload(context: Context, input: Mapping[str, Any]) -> Any:
    request = fill(pb.BeginUploadRequest(), input)
    reply = await context.call(context.services.vault.BeginUpload, request)
    return reply.upload


@mutation(
    part,
    "createDownload",
    "Download",
    "Makes a short-lived address of a document's bytes; the owner sees who.",
)
async def create_download(context: Context, input: Mapping[str, Any]) -> Any:
    request = fill(pb.CreateDownloadRequest(), {k: v for k, v in input.items() if k != "requestId"})
    reply = await context.call(context.services.vault.CreateDownload, request)
    return Download(f"{context.public_url}/files/d/{reply.token}", reply.expire_time)


rpc(
    part,
    "updateDocument",
    "Document",
    "Changes what is said about a document.",
    method=lambda context: context.services.vault.UpdateDocument,
    request=pb.UpdateDocumentRequest,
    answer=lambda reply: reply.document,
    subject="documentId",
)
rpc(
    part,
    "verifyDocument",
    "Document",
    "Raises the trust of a document of which an officer saw the original.",
    method=lambda context: context.services.vault.VerifyDocument,
    request=pb.VerifyDocumentRequest,
    answer=lambda reply: reply.document,
    subject="documentId",
)
