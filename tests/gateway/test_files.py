"""Files: tus with a real client, bodies that break off, ranges, names."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import unquote

import pytest
from tusclient.client import TusClient

from gateway.files import byte_range, disposition

TUS = {"tus-resumable": "1.0.0"}


@pytest.fixture
def signed(issue: Callable[..., str]) -> dict[str, str]:
    return TUS | {"authorization": f"Bearer {issue()}"}


async def test_a_real_client_uploads_in_pieces_and_goes_on_where_it_was(
    gateway: Any, fakes: Any, issue: Callable[..., str]
) -> None:
    content = os.urandom(3_000_001)
    fakes.upload_size = len(content)
    url = f"{gateway.url}/files/upload-1"
    client = TusClient(gateway.url, headers={"Authorization": f"Bearer {issue()}"})

    def upload(stop_at: int | None) -> int:
        uploader = client.uploader(file_stream=io.BytesIO(content), url=url, chunk_size=1_000_000)
        uploader.upload(stop_at=stop_at)
        return int(uploader.offset)

    assert await asyncio.to_thread(upload, 1_000_000) == 1_000_000
    assert await asyncio.to_thread(upload, None) == len(content)
    assert bytes(fakes.upload) == content
    assert fakes.largest_message <= 256 * 1024


async def test_a_real_client_creates_an_upload(gateway: Any, fakes: Any, issue: Callable[..., str]) -> None:
    client = TusClient(f"{gateway.url}/files", headers={"Authorization": f"Bearer {issue()}"})

    def upload() -> str:
        uploader = client.uploader(
            file_stream=io.BytesIO(b"abc" * 1000), metadata={"filename": "khai sinh.pdf"}, chunk_size=1000
        )
        uploader.upload()
        return str(uploader.url)

    assert (await asyncio.to_thread(upload)).endswith("/files/upload-1")
    assert fakes.requests["BeginUpload"].filename == "khai sinh.pdf"
    assert bytes(fakes.upload) == b"abc" * 1000


async def test_options_tells_the_protocol(gateway: Any) -> None:
    for path in ("/files", "/files/upload-1"):
        response = await gateway.http.options(path)
        assert response.status_code == 204
        assert response.headers["tus-version"] == "1.0.0"
        assert "creation" in response.headers["tus-extension"]
        assert int(response.headers["tus-max-size"]) > 0


async def test_head_tells_where_to_go_on(gateway: Any, fakes: Any, signed: dict[str, str]) -> None:
    fakes.upload_size = 10
    fakes.upload += b"12345"
    response = await gateway.http.head("/files/upload-1", headers=signed)
    assert response.status_code == 200
    assert (response.headers["upload-offset"], response.headers["upload-length"]) == ("5", "10")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["tus-resumable"] == "1.0.0"


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"tus-resumable": "0.9"}, 412),
        ({"upload-offset": "3"}, 409),
        ({"upload-offset": "x"}, 400),
        ({"upload-offset": "-1"}, 400),
        ({"upload-offset": "²"}, 400),
        ({"upload-offset": "9" * 5000}, 400),
        ({"content-type": "application/json"}, 415),
    ],
)
async def test_a_patch_that_breaks_the_protocol_changes_nothing(
    gateway: Any, fakes: Any, signed: dict[str, str], changed: dict[str, str], status: int
) -> None:
    fakes.upload_size = 10
    headers = signed | {"upload-offset": "0", "content-type": "application/offset+octet-stream"} | changed
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    response = await gateway.http.patch("/files/upload-1", content=b"12345", headers=raw)
    assert response.status_code == status
    assert fakes.calls["AppendUpload"] == 0


@pytest.mark.parametrize(("length", "status"), [("²", 400), ("9" * 5000, 400), ("9" * 18, 413), ("-1", 400)])
async def test_an_upload_of_no_length_or_too_much_is_not_created(
    gateway: Any, fakes: Any, signed: dict[str, str], length: str, status: int
) -> None:
    raw = {name: value.encode("latin-1") for name, value in (signed | {"upload-length": length}).items()}
    assert (await gateway.http.post("/files", headers=raw)).status_code == status
    assert fakes.calls["BeginUpload"] == 0


async def test_more_bytes_than_announced_are_refused(
    gateway: Any, fakes: Any, signed: dict[str, str]
) -> None:
    fakes.upload_size = 3

    async def chunks() -> AsyncIterator[bytes]:
        yield b"1234"
        yield b"5678"

    headers = signed | {"upload-offset": "0", "content-type": "application/offset+octet-stream"}
    for content in (b"12345", chunks()):
        response = await gateway.http.patch("/files/upload-1", content=content, headers=headers)
        assert response.status_code == 413
    assert len(fakes.upload) <= 3


async def test_the_last_piece_names_the_document(gateway: Any, fakes: Any, signed: dict[str, str]) -> None:
    fakes.upload_size = 5
    headers = signed | {"upload-offset": "0", "content-type": "application/offset+octet-stream"}
    response = await gateway.http.patch("/files/upload-1", content=b"12345", headers=headers)
    assert (response.status_code, response.headers["upload-offset"]) == (204, "5")
    assert response.headers["upload-document"]


async def test_what_came_before_a_break_is_kept(gateway: Any, fakes: Any, signed: dict[str, str]) -> None:
    fakes.upload_size = 1_000_000
    host, port = gateway.url.removeprefix("http://").split(":")
    _reader, writer = await asyncio.open_connection(host, int(port))
    head = signed | {
        "host": host,
        "upload-offset": "0",
        "content-type": "application/offset+octet-stream",
        "content-length": "1000000",
    }
    writer.write(b"PATCH /files/upload-1 HTTP/1.1\r\n")
    writer.write("".join(f"{name}: {value}\r\n" for name, value in head.items()).encode() + b"\r\n")
    writer.write(b"x" * 400_000)
    await writer.drain()
    writer.close()
    async with asyncio.timeout(5):
        while len(fakes.upload) != 400_000:  # noqa: ASYNC110 - the fake has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE"])
async def test_an_upload_is_its_owners_only(
    gateway: Any, fakes: Any, issue: Callable[..., str], method: str
) -> None:
    from kit.errors import NotFound

    fakes.fail["CancelUpload"] = NotFound("UPLOAD_NOT_FOUND")
    headers = TUS | {
        "authorization": f"Bearer {issue('account-binh')}",
        "upload-offset": "0",
        "content-type": "application/offset+octet-stream",
    }
    response = await gateway.http.request(method, "/files/upload-1", headers=headers)
    assert response.status_code == 404


async def test_the_method_may_be_overridden(gateway: Any, fakes: Any, signed: dict[str, str]) -> None:
    fakes.upload_size = 2
    headers = signed | {
        "upload-offset": "0",
        "content-type": "application/offset+octet-stream",
        "x-http-method-override": "PATCH",
    }
    assert (await gateway.http.post("/files/upload-1", content=b"12", headers=headers)).status_code == 204


# Downloads


@pytest.mark.parametrize(
    ("header", "status", "part", "content_range"),
    [
        (None, 200, slice(0, 5000), None),
        ("bytes=0-99", 206, slice(0, 100), "bytes 0-99/5000"),
        ("bytes=100-", 206, slice(100, 5000), "bytes 100-4999/5000"),
        ("bytes=-10", 206, slice(4990, 5000), "bytes 4990-4999/5000"),
        ("bytes=4990-9999", 206, slice(4990, 5000), "bytes 4990-4999/5000"),
        ("bytes=0-1,5-6", 200, slice(0, 5000), None),
        ("bytes=9-3", 200, slice(0, 5000), None),
        ("lines=1-2", 200, slice(0, 5000), None),
        ("bytes=5000-", 416, slice(0, 0), "bytes */5000"),
        ("bytes=-0", 416, slice(0, 0), "bytes */5000"),
        (f"bytes=0-{'9' * 5000}", 200, slice(0, 5000), None),
    ],
)
async def test_ranges(
    gateway: Any, fakes: Any, header: str | None, status: int, part: slice, content_range: str | None
) -> None:
    fakes.document = os.urandom(5000)
    response = await gateway.http.get("/files/d/token-1", headers={"range": header} if header else {})
    assert response.status_code == status
    assert response.content == fakes.document[part]
    assert response.headers.get("content-range") == content_range
    assert response.headers["etag"] == '"abc"'


async def test_a_download_cannot_run_or_break_out_of_its_name(gateway: Any, fakes: Any) -> None:
    fakes.document = b"x"
    fakes.document_name = 'khai "sinh"\r\nX-Evil: 1;é.pdf'
    response = await gateway.http.get("/files/d/token-1")
    assert "x-evil" not in response.headers
    assert response.headers["content-disposition"].startswith("attachment;")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]


async def test_what_the_client_has_already_is_not_sent_again(gateway: Any, fakes: Any) -> None:
    fakes.document = b"x" * 100
    same = await gateway.http.get("/files/d/token-1", headers={"if-none-match": '"abc"'})
    assert (same.status_code, same.content) == (304, b"")
    other = await gateway.http.get("/files/d/token-1", headers={"range": "bytes=0-1", "if-range": '"old"'})
    assert other.status_code == 200


async def test_head_has_the_headers_and_no_bytes(gateway: Any, fakes: Any) -> None:
    fakes.document = b"x" * 100
    response = await gateway.http.head("/files/d/token-1")
    assert (response.headers["content-length"], response.content) == ("100", b"")
    assert fakes.calls["ReadDocument"] == 1


async def test_another_token_finds_nothing(gateway: Any) -> None:
    response = await gateway.http.get("/files/d/token-2")
    assert response.status_code == 404
    assert response.json()["reason"] == "DOWNLOAD_NOT_FOUND"


def test_names_survive_in_any_language() -> None:
    header = disposition("Giấy khai sinh «Bé».pdf")
    assert unquote(header.rpartition("''")[2]) == "Giấy khai sinh «Bé».pdf"
    assert header.isascii()
    assert disposition("../../etc/passwd").count("/") == 0
    assert 'filename="document"' in disposition("")


def test_a_range_of_an_empty_file_is_not_there() -> None:
    assert byte_range("bytes=0-", 0) == ()
    assert byte_range("bytes=", 5) is None
