"""Bytes: uploads by tus 1.0 at `/files/<upload>`, downloads at `/files/d/<token>`.

Nothing is ever held whole: a request's chunks go into a client stream of the vault as they come, and
grpc's flow control holds the sender back; a download is the vault's stream, cut to the range asked for.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

import grpc
from graphql import GraphQLError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from gateway.context import RPC_TIMEOUT, Context
from gateway.endpoint import GraphQL, locale_of
from gateway.errors import formatted
from gateway.ids import to_global
from kit.errors import DomainError, Unavailable
from kit.status import answered, code_of, from_rpc
from motcua.dossier.v1 import vault_pb2 as pb

VERSION = "1.0.0"
CHUNK = 256 * 1024  # most bytes of one message to the vault
_MOST_METADATA = 16 * 1024  # letters
# Headers that change what a request means, of extensions that we do not announce: a client that is not told
# would have a piece of a file taken for all of it, or bytes taken unchecked.
_NOT_SPOKEN = ("upload-concat", "upload-defer-length", "upload-checksum")
_GONE = ("UPLOAD_EXPIRED", "UPLOAD_REFUSED")  # tus 1.0, Termination and Expiration: 404 or 410
_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}


class Files:
    """The handlers of `/files`."""

    def __init__(self, graphql: GraphQL) -> None:
        self._graphql = graphql
        self._settings = graphql.settings
        self._vault = graphql.services.vault

    # Uploads

    async def tus(self, request: Request) -> Response:
        """One tus request, to an upload or to the collection."""
        method = request.method
        if method == "POST":  # the origin of a GET is not checked: it must stay one
            method = request.headers.get("x-http-method-override", method).upper()
        headers = {"tus-resumable": VERSION, "cache-control": "no-store"}
        if method == "OPTIONS":
            return Response(
                status_code=204,
                headers=headers
                | {
                    "tus-version": VERSION,
                    "tus-extension": "creation,expiration,termination",
                    "tus-max-size": str(self._settings.max_upload_bytes),
                },
            )
        if request.headers.get("tus-resumable") != VERSION:
            return Response(status_code=412, headers=headers | {"tus-version": VERSION})
        if extension := next((name for name in _NOT_SPOKEN if name in request.headers), ""):
            return Response(f"{extension} is of an extension that this server does not speak", 400, headers)
        id = request.path_params.get("id", "")
        act: Callable[[Request, Context, str], Any] | None = {
            (True, "HEAD"): self._head,
            (True, "PATCH"): self._patch,
            (True, "DELETE"): self._cancel,
            (False, "POST"): self._create,
        }.get((bool(id), method))
        if act is None:
            allow = "HEAD, PATCH, DELETE, OPTIONS" if id else "POST, OPTIONS"
            return Response(status_code=405, headers=headers | {"allow": allow})
        try:
            caller, token = await self._graphql.caller(request.headers.get("authorization", ""))
            if caller.subject:
                self._graphql.crowd.ask(account=caller.subject)
            response: Response = await act(
                request, self._graphql.context(request, caller, token, http=False), id
            )
        except (DomainError, grpc.aio.AioRpcError) as error:
            response = failure(error, request)
        response.headers.update(headers)
        return response

    async def _create(self, request: Request, context: Context, _id: str) -> Response:
        size = _number(_only(request, "upload-length"))
        if size is None:
            return Response("Upload-Length is needed", 400)
        if size > self._settings.max_upload_bytes:
            most = self._settings.max_upload_bytes
            return Response(f"Upload-Length is more than the {most} bytes of Tus-Max-Size", 413)
        given = _metadata(",".join(request.headers.getlist("upload-metadata")))
        if given is None:
            return Response("Upload-Metadata cannot be read", 400)
        reply = await context.call(
            self._vault.BeginUpload,
            pb.BeginUploadRequest(
                purpose=pb.UPLOAD_PURPOSE_DOCUMENT,
                size=size,
                # Stock clients send `name`, `type` and `relativePath` of their own, too.
                filename=given.get("filename") or given.get("name", ""),
                content_type=given.get("filetype", ""),
                type=given.get("document_type", ""),
                title=given.get("title", ""),
            ),
        )
        response = _described(reply.upload, 201)
        response.headers["location"] = f"{context.public_url}/files/{reply.upload.id}"
        return response

    async def _head(self, _request: Request, context: Context, id: str) -> Response:
        reply = await context.call(self._vault.GetUpload, pb.GetUploadRequest(id=id))
        upload = reply.upload
        response = _described(upload, 200)
        response.headers["upload-length"] = str(upload.size)
        if upload.filename:
            response.headers["upload-metadata"] = (
                "filename " + base64.b64encode(upload.filename.encode()).decode()
            )
        return response

    async def _cancel(self, _request: Request, context: Context, id: str) -> Response:
        await context.call(self._vault.CancelUpload, pb.CancelUploadRequest(id=id))
        return Response(status_code=204)

    async def _patch(self, request: Request, context: Context, id: str) -> Response:
        if request.headers.get("content-type", "") != "application/offset+octet-stream":
            return Response("Content-Type must be application/offset+octet-stream", 415)
        offset = _number(_only(request, "upload-offset"))
        if offset is None:
            return Response("Upload-Offset is needed", 400)
        known = (await context.call(self._vault.GetUpload, pb.GetUploadRequest(id=id))).upload
        if offset != known.offset:
            return _described(known, 409)
        length = _number(request.headers.get("content-length", ""))
        if length is not None and offset + length > known.size:
            return Response("more bytes than were announced", 413)
        body = _Body(request, id, offset, known.size)
        holder = {"account": context.caller.subject, "address": context.client_address}
        with self._graphql.crowd.hold("upload", **holder):
            reply = await answered(self._vault.AppendUpload(body.messages(), metadata=context.metadata))
        if body.broken:  # what came is stored; there is nobody to tell
            return Response(status_code=400)
        response = _described(reply.upload, 413 if body.too_long else 204)
        document = reply.document.id or reply.upload.document_id
        if document:
            response.headers["upload-document"] = to_global("Document", document)
        return response

    # Downloads

    async def download(self, request: Request) -> Response:
        """The bytes that a download token stands for, or a range of them."""
        token = request.path_params["token"]
        try:
            version = await self._version(token)
        except (DomainError, grpc.aio.AioRpcError) as error:
            return failure(error, request)
        etag = f'"{version.sha256}"'
        headers = {
            "etag": etag,
            "accept-ranges": "bytes",
            "cache-control": "private, no-cache",
            "content-disposition": disposition(version.filename),
            "content-security-policy": "default-src 'none'; sandbox",
            "cross-origin-resource-policy": "same-origin",
        }
        if etag in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
            return Response(status_code=304, headers=headers)
        start, stop, status = 0, version.size, 200
        wanted = request.headers.get("range", "")
        if wanted and request.headers.get("if-range", etag) == etag:
            cut = byte_range(wanted, version.size)
            if cut == ():
                return Response(
                    status_code=416, headers=headers | {"content-range": f"bytes */{version.size}"}
                )
            if cut:
                (start, stop), status = cut, 206
                headers["content-range"] = f"bytes {start}-{stop - 1}/{version.size}"
        headers["content-length"] = str(stop - start)
        media = version.content_type or "application/octet-stream"
        if request.method == "HEAD" or stop == start:
            return Response(status_code=status, headers=headers, media_type=media)
        return StreamingResponse(self._bytes(token, start, stop), status, headers=headers, media_type=media)

    async def _version(self, token: str) -> pb.DocumentVersion:
        call = self._vault.ReadDocument(
            pb.ReadDocumentRequest(token=token, metadata_only=True), timeout=RPC_TIMEOUT
        )
        try:
            async for reply in call:
                return reply.version  # type: ignore[no-any-return]
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        raise Unavailable("EMPTY_ANSWER", "the vault answered nothing")

    async def _bytes(self, token: str, start: int, stop: int) -> AsyncIterator[bytes]:
        request = pb.ReadDocumentRequest(token=token, offset=start, length=stop - start)
        async for reply in self._vault.ReadDocument(request):
            if reply.data:
                yield reply.data


class _Body:
    """A request's bytes as messages to the vault. A client that goes away ends them early but cleanly, so
    that what came before is kept."""

    def __init__(self, request: Request, id: str, offset: int, size: int) -> None:
        self._request = request
        self._id = id
        self._offset = offset
        self._left = size - offset
        self.broken = False
        self.too_long = False

    async def messages(self) -> AsyncIterator[pb.AppendUploadRequest]:
        yield pb.AppendUploadRequest(id=self._id, offset=self._offset)
        held = bytearray()
        try:
            async for part in self._request.stream():
                if len(part) > self._left:
                    self.too_long = True
                    part = part[: self._left]
                self._left -= len(part)
                held += part
                while len(held) >= CHUNK:
                    yield pb.AppendUploadRequest(data=bytes(held[:CHUNK]))
                    del held[:CHUNK]
                if self.too_long:
                    break
        except ClientDisconnect:
            self.broken = True
        if held:
            yield pb.AppendUploadRequest(data=bytes(held))


def _described(upload: pb.Upload, status: int) -> Response:
    headers = {"upload-offset": str(upload.offset)}
    if upload.HasField("expire_time") and not upload.document_id:
        expires = upload.expire_time.ToDatetime(tzinfo=UTC)
        headers["upload-expires"] = format_datetime(expires, usegmt=True)
    if upload.document_id:
        headers["upload-document"] = to_global("Document", upload.document_id)
    return Response(status_code=status, headers=headers)


def _only(request: Request, name: str) -> str:
    """The header's value; empty when it is there several times: which one would be meant?"""
    values = request.headers.getlist(name)
    return values[0] if len(values) == 1 else ""


def _number(header: str) -> int | None:
    """The number that a header is, or None: other than ASCII digits, and more of them than a size has."""
    return int(header) if re.fullmatch(r"[0-9]{1,18}", header) else None


def _metadata(header: str) -> dict[str, str] | None:
    """Upload-Metadata as names and values, or None when it is malformed: a name twice, or more of it than
    anybody has to say."""
    found: dict[str, str] = {}
    if len(header) > _MOST_METADATA:
        return None
    for pair in filter(None, (piece.strip(" ") for piece in header.split(","))):
        name, _, value = pair.partition(" ")
        if not name or not name.isascii() or name in found:
            return None
        try:
            found[name] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            return None
    return found


def byte_range(header: str, size: int) -> tuple[int, int] | tuple[()] | None:
    """Start and stop (exclusive) of a Range header; () when nothing of it is there, None when it is to be
    ignored (another unit, several ranges, malformed). RFC 9110, 14.1.2."""
    match = re.fullmatch(r"bytes\s*=\s*([0-9]{0,18})-([0-9]{0,18})", header.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        return (size - length, size) if length else ()
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        return ()
    return start, min(int(last) + 1, size) if last else size


def disposition(filename: str) -> str:
    """A Content-Disposition that saves the file under its name, in any language, and cannot break out of its
    header. RFC 6266."""
    name = re.sub(r"[\x00-\x1f\x7f/\\]", "_", filename).strip(". ") or "document"
    plain = re.sub(r'[^\x20-\x7e]|["%;]', "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def failure(error: DomainError | grpc.aio.AioRpcError, request: Request) -> Response:
    """A failure as an HTTP status with reason and message in the caller's language."""
    locale = locale_of(request.headers.get("accept-language", "")) or "vi"
    told = formatted(GraphQLError(str(error), original_error=error), locale)
    status = _STATUS.get(code_of(error), 500) if isinstance(error, DomainError) else 500
    if isinstance(error, DomainError) and error.reason in _GONE:
        status = 410
    if isinstance(error, DomainError) and error.reason == "STORAGE_FULL":
        status = 413
    headers = {}
    if isinstance(error, DomainError) and error.metadata.get("retry_after"):
        headers["retry-after"] = str(int(float(error.metadata["retry_after"])))
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="motcua"'
    return JSONResponse({"message": told["message"], **told["extensions"]}, status, headers=headers)
