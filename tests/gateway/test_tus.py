"""The tus protocol where clients go wrong, or speak what we do not."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from kit.errors import FailedPrecondition

TUS = {"tus-resumable": "1.0.0"}
proof = pytest.mark.proof("9.18")


@pytest.fixture
def signed(issue: Any) -> dict[str, str]:
    return TUS | {"authorization": f"Bearer {issue()}"}


def metadata(**values: str) -> str:
    return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in values.items())


async def create(gateway: Any, signed: dict[str, str], sent: str) -> Any:
    """The answer to the creation of an upload with this Upload-Metadata."""
    headers = signed | {"upload-length": "5", "upload-metadata": sent}
    raw = {name: value.encode() for name, value in headers.items()}
    return await gateway.http.post("/files", headers=raw)


@proof
@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("upload-concat", "partial"),
        ("upload-concat", "final;/files/a /files/b"),
        ("upload-checksum", "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="),
        ("upload-defer-length", "1"),
    ],
)
async def test_an_extension_that_we_do_not_speak_is_refused(
    gateway: Any, fakes: Any, signed: dict[str, str], header: str, value: str
) -> None:
    response = await gateway.http.post("/files", headers=signed | {"upload-length": "5", header: value})
    assert response.status_code == 400
    assert header in response.text
    assert fakes.calls["BeginUpload"] == 0
    fakes.upload_size = 5
    piece = signed | {"upload-offset": "0", "content-type": "application/offset+octet-stream", header: value}
    assert (await gateway.http.patch("/files/upload-1", content=b"12345", headers=piece)).status_code == 400
    assert not fakes.upload


@proof
@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE"])
@pytest.mark.parametrize("reason", ["UPLOAD_EXPIRED", "UPLOAD_REFUSED"])
async def test_an_upload_that_is_no_more_is_gone(
    gateway: Any, fakes: Any, signed: dict[str, str], method: str, reason: str
) -> None:
    fakes.fail["GetUpload"] = fakes.fail["CancelUpload"] = FailedPrecondition(reason)
    headers = signed | {"upload-offset": "0", "content-type": "application/offset+octet-stream"}
    response = await gateway.http.request(method, "/files/upload-1", headers=headers)
    assert response.status_code == 410
    assert "upload-offset" not in response.headers


@proof
async def test_what_stock_clients_send_besides_is_harmless(
    gateway: Any, fakes: Any, signed: dict[str, str]
) -> None:
    """As Uppy does: `type` is a media type there, and everything is in twice."""
    sent = metadata(
        relativePath="null", name="ảnh.jpg", type="image/jpeg", filetype="image/jpeg", filename="ảnh.jpg"
    )
    response = await gateway.http.post(
        "/files", headers=signed | {"upload-length": "5", "upload-metadata": sent}
    )
    assert response.status_code == 201
    begun = fakes.requests["BeginUpload"]
    assert begun.type == ""
    assert (begun.filename, begun.content_type) == ("ảnh.jpg", "image/jpeg")


async def test_a_document_type_has_a_name_of_its_own(
    gateway: Any, fakes: Any, signed: dict[str, str]
) -> None:
    sent = metadata(name="a.pdf", document_type="birth_notice", title="Giấy chứng sinh")
    await create(gateway, signed, sent)
    begun = fakes.requests["BeginUpload"]
    assert (begun.filename, begun.type, begun.title) == ("a.pdf", "birth_notice", "Giấy chứng sinh")


@pytest.mark.parametrize(
    "sent",
    [
        "filename !!!",
        "filename 4pyT4pyT4pyT4pyTzA",  # cut off
        "filename /w==",  # no UTF-8
        "filename YQ==,filename Yg==",
        "tệp YQ==",
        "a " + "QUFB" * 5000,
        ",".join(f"k{n} QUE=" for n in range(4000)),
    ],
)
@proof
async def test_metadata_that_cannot_be_meant_are_refused(
    gateway: Any, fakes: Any, signed: dict[str, str], sent: str
) -> None:
    response = await create(gateway, signed, sent)
    assert response.status_code in (400, 431)
    assert fakes.calls["BeginUpload"] == 0


async def test_metadata_may_be_empty_or_without_values(
    gateway: Any, fakes: Any, signed: dict[str, str]
) -> None:
    for sent in ("", "is_confidential", "is_confidential ,filename YQ==", "filename YQ==, note Yg=="):
        response = await gateway.http.post(
            "/files", headers=signed | {"upload-length": "5", "upload-metadata": sent}
        )
        assert response.status_code == 201, sent


async def test_a_header_that_is_there_twice_means_nothing(
    gateway: Any, fakes: Any, signed: dict[str, str]
) -> None:
    headers = [*signed.items(), ("upload-length", "5"), ("upload-length", "6")]
    assert (await gateway.http.post("/files", headers=headers)).status_code == 400
    assert fakes.calls["BeginUpload"] == 0


async def test_bytes_that_come_with_the_creation_are_not_taken_and_the_client_is_told(
    gateway: Any, fakes: Any, signed: dict[str, str]
) -> None:
    headers = signed | {"upload-length": "5", "content-type": "application/offset+octet-stream"}
    response = await gateway.http.post("/files", headers=headers, content=b"12345")
    assert (response.status_code, response.headers["upload-offset"]) == (201, "0")
    assert "creation-with-upload" not in (await gateway.http.options("/files")).headers["tus-extension"]
