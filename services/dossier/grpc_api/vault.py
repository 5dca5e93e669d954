"""The gRPC API of the vault."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from dossier import wire
from dossier.domain.document import Details, Document, Purpose, Trust, Upload
from dossier.handlers import Ports, records, storage, uploads, vault
from kit.errors import DomainError, FieldViolation, InvalidInput, Unavailable
from kit.grpc_server import current_caller
from kit.mongo import Request
from motcua.dossier.v1 import vault_pb2 as pb
from motcua.dossier.v1.vault_pb2_grpc import VaultServiceServicer

T = TypeVar("T")
log = logging.getLogger(__name__)
CHUNK = 256 * 1024  # bytes in one message
_DRAINED, _DRAIN_SECONDS = 16 * 2**20, 5.0  # bytes and time spent on a client that has been refused


class VaultApi(VaultServiceServicer):
    """Turns requests into calls of handlers, and what they answer into messages. At most `streams` uploads
    are taken in at once, each with one part in memory; more wait. A client that sends nothing for `idle`
    seconds gives its place to them."""

    def __init__(self, ports: Ports, *, streams: int, idle: float) -> None:
        self._ports = ports
        self._room = asyncio.Semaphore(streams)
        self._idle = idle
        self._ending: set[asyncio.Task[Any]] = set()

    async def BeginUpload(self, request: pb.BeginUploadRequest, context: Any) -> pb.BeginUploadResponse:
        try:
            purpose = Purpose(request.purpose or Purpose.DOCUMENT)
        except ValueError:
            raise _bad("purpose", "UNKNOWN_PURPOSE") from None
        upload = await uploads.begin_upload(
            self._ports,
            current_caller(),
            purpose=purpose,
            size=request.size,
            filename=request.filename,
            content_type=request.content_type,
            sha256=request.sha256,
            details=_details(request),
            document=request.document_id,
            dossier=request.dossier_id,
            request=_remember(request),
        )
        return pb.BeginUploadResponse(upload=wire.upload(upload))

    async def GetUpload(self, request: pb.GetUploadRequest, context: Any) -> pb.GetUploadResponse:
        upload = await uploads.get_upload(self._ports, current_caller(), request.id)
        return pb.GetUploadResponse(upload=wire.upload(upload))

    async def AppendUpload(
        self, requests: AsyncIterator[pb.AppendUploadRequest], context: Any
    ) -> pb.AppendUploadResponse:
        requests = aiter(requests)
        first = await anext(requests, None)
        if first is None:
            raise _bad("id", "REQUIRED")
        try:
            appending = await uploads.append_upload(
                self._ports, current_caller(), first.id, offset=first.offset
            )
            upload, document = await self._to_the_end(self._take_in(appending, first, requests))
        except DomainError:
            await _drain(requests)
            raise
        return pb.AppendUploadResponse(
            upload=wire.upload(upload), document=wire.document(document) if document else None
        )

    async def _take_in(
        self,
        appending: uploads.Appending,
        first: pb.AppendUploadRequest,
        requests: AsyncIterator[pb.AppendUploadRequest],
    ) -> tuple[Upload, Document | None]:
        async with self._room:
            try:
                await appending.write(_piece(first))
                while (request := await self._next(requests)) is not None:
                    await appending.write(_piece(request))
            finally:
                await appending.close()  # what arrived is kept, also what came before a break
        # Others come in meanwhile: putting a file together and looking into it may take a while.
        return await appending.finish()

    async def _next(self, requests: AsyncIterator[pb.AppendUploadRequest]) -> pb.AppendUploadRequest | None:
        try:
            async with asyncio.timeout(self._idle):
                return await anext(requests, None)
        except TimeoutError:
            raise Unavailable("UPLOAD_STALLED", "nothing arrives; go on from the stored offset") from None

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it in a task of its own: when a client breaks off, gRPC ends the stream of requests and
        cancels the call that answers it, but what has arrived shall be stored."""
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("the end of an upload: %s", error)  # the caller, if still there, has it too

    async def CancelUpload(self, request: pb.CancelUploadRequest, context: Any) -> pb.CancelUploadResponse:
        await uploads.cancel_upload(self._ports, current_caller(), request.id)
        return pb.CancelUploadResponse()

    async def GetStorage(self, request: pb.GetStorageRequest, context: Any) -> pb.GetStorageResponse:
        found, allowance = await storage.get_storage(self._ports, current_caller(), request.owner_id)
        return pb.GetStorageResponse(storage=wire.storage(found, allowance))

    async def GetDocument(self, request: pb.GetDocumentRequest, context: Any) -> pb.GetDocumentResponse:
        document = await vault.get_document(self._ports, current_caller(), request.id)
        return pb.GetDocumentResponse(document=wire.document(document))

    async def BatchGetDocuments(
        self, request: pb.BatchGetDocumentsRequest, context: Any
    ) -> pb.BatchGetDocumentsResponse:
        documents = await vault.batch_get_documents(self._ports, current_caller(), list(request.ids))
        return pb.BatchGetDocumentsResponse(documents=map(wire.document, documents))

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: Any) -> pb.ListDocumentsResponse:
        documents, token = await vault.list_documents(
            self._ports,
            current_caller(),
            owner=request.owner_id,
            type=request.type,
            size=request.page_size,
            token=request.page_token,
        )
        return pb.ListDocumentsResponse(documents=map(wire.document, documents), next_page_token=token)

    async def UpdateDocument(
        self, request: pb.UpdateDocumentRequest, context: Any
    ) -> pb.UpdateDocumentResponse:
        document = await vault.update_document(
            self._ports,
            current_caller(),
            request.id,
            details=_details(request),
            superseded_by=request.superseded_by_id,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.UpdateDocumentResponse(document=wire.document(document))

    async def VerifyDocument(
        self, request: pb.VerifyDocumentRequest, context: Any
    ) -> pb.VerifyDocumentResponse:
        try:
            trust = Trust(request.trust or Trust.OFFICER_SCAN)
        except ValueError:
            raise _bad("trust", "UNKNOWN_TRUST") from None
        document = await vault.verify_document(
            self._ports,
            current_caller(),
            request.id,
            dossier=request.dossier_id,
            trust=trust,
            note=request.note,
            request=_remember(request),
            etag=request.etag,
        )
        return pb.VerifyDocumentResponse(document=wire.document(document))

    async def CreateDownload(
        self, request: pb.CreateDownloadRequest, context: Any
    ) -> pb.CreateDownloadResponse:
        token, ends = await vault.create_download(
            self._ports,
            current_caller(),
            request.document_id,
            version=request.version,
            purpose=request.purpose,
            dossier=request.dossier_id,
            rendition=request.rendition,
        )
        return pb.CreateDownloadResponse(token=token, expire_time=wire.stamp(ends))

    async def ReadDocument(
        self, request: pb.ReadDocumentRequest, context: Any
    ) -> AsyncIterator[pb.ReadDocumentResponse]:
        read = await vault.read_document(
            self._ports, current_caller(), request.token, offset=request.offset, length=request.length
        )
        yield pb.ReadDocumentResponse(version=wire.version(read.version))
        if not request.metadata_only:
            async for piece in vault.content(self._ports, read):
                yield pb.ReadDocumentResponse(data=piece)

    async def ListAccesses(self, request: pb.ListAccessesRequest, context: Any) -> pb.ListAccessesResponse:
        accesses, token = await vault.list_accesses(
            self._ports,
            current_caller(),
            document=request.document_id,
            size=request.page_size,
            token=request.page_token,
        )
        return pb.ListAccessesResponse(accesses=map(wire.access, accesses), next_page_token=token)

    async def OpenAccountRecord(
        self, request: pb.OpenAccountRecordRequest, context: Any
    ) -> pb.OpenAccountRecordResponse:
        found, until = await records.open_account_record(
            self._ports,
            current_caller(),
            account=request.account_id,
            identifier=request.identifier,
            dossier=request.dossier_id,
            purpose=request.purpose,
            agency=request.agency,
        )
        return pb.OpenAccountRecordResponse(record=wire.account_record(found, until))


async def _drain(requests: AsyncIterator[pb.AppendUploadRequest]) -> None:
    """Takes what a client still sends, within bounds: one whose call ends while it writes is told INTERNAL by
    its own gRPC library instead of the reason."""
    left = _DRAINED
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for request in requests:
                left -= len(request.data)
                if left < 0:
                    return
    except TimeoutError:
        return


def _details(request: pb.BeginUploadRequest | pb.UpdateDocumentRequest) -> Details:
    return Details(
        type=request.type,
        title=request.title,
        issuer=request.issuer,
        issued=request.issue_date,
        expires=request.expiry_date,
    )


def _piece(request: pb.AppendUploadRequest) -> bytes:
    if len(request.data) > CHUNK:
        raise InvalidInput("CHUNK_TOO_LARGE", f"at most {CHUNK} bytes in a message", limit=CHUNK)
    return request.data


def _remember(request: Any) -> Request | None:
    return Request.of(current_caller(), request.request_id, request)


def _bad(field: str, reason: str) -> InvalidInput:
    return InvalidInput(violations=[FieldViolation(field, reason)])
