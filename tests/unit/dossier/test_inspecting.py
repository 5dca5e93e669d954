"""What is looked for inside files, and that looking has an end."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pikepdf
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from PIL import Image

from dossier.content import archives, pdf, pictures
from dossier.content.finding import Finding
from dossier.content.inspect import inspect
from dossier.content.inspector import Inspector
from kit.errors import InvalidInput
from tests import papers


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "file"


def looked(place: Path, data: bytes) -> Finding:
    place.write_bytes(data)
    return inspect(str(place), f"{place}-rendition")


def refused(place: Path, data: bytes) -> str:
    with pytest.raises(InvalidInput) as error:
        looked(place, data)
    return error.value.reason


ACTIVE = "ACTIVE_CONTENT"
WORD = "wordprocessingml.document"

# PDF


def signed(catalog: str = "", objects: tuple[str, ...] = (), *, whole: bool = True) -> bytes:
    """A PDF with a signature that holds, over all of it but itself."""
    room = 8192
    ranges = " ".join(["0", *["0" * 10] * 3])
    holder = "<< /Type /Sig /Filter /Adobe.PPKLite /SubFilter /adbe.pkcs7.detached "
    holder += f"/ByteRange [{ranges}] /Contents <{'0' * room}> >>"
    field = "<< /FT /Sig /T (S) /V 10 0 R >>"
    data = papers.pdf(
        catalog=f"/AcroForm << /SigFlags 3 /Fields [11 0 R] >> {catalog}", objects=(holder, field, *objects)
    )
    start = data.index(b"/Contents <") + len(b"/Contents ")
    end = start + room + 2
    told = b"/ByteRange [0 %010d %010d %010d]" % (start, end, len(data) - end)
    at = data.index(b"/ByteRange")
    data = data[:at] + told + data[at + len(told) :]
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Nguyễn Văn An")])
    now = datetime(2026, 11, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    message = (
        pkcs7.PKCS7SignatureBuilder()
        .set_data(data[:start] + data[end:])
        .add_signer(certificate, key, hashes.SHA256())
        .sign(serialization.Encoding.DER, [pkcs7.PKCS7Options.DetachedSignature])
    )
    text = message.hex().ljust(room, "0") if whole else "30" * (room // 2)
    return data[: start + 1] + text.encode() + data[end - 1 :]


EMBEDDED = (
    "/Names << /EmbeddedFiles << /Names [(a.xml) 12 0 R] >> >>",
    (
        "<< /Type /Filespec /F (a.xml) /EF << /F 13 0 R >> >>",
        "<< /Type /EmbeddedFile /Length 0 >>\nstream\n\nendstream",
    ),
)


def test_a_signed_file_with_attachments_is_taken_and_marked(place: Path) -> None:
    assert looked(place, signed(*EMBEDDED)) == Finding("application/pdf", signed=True, attachments=True)
    assert looked(place, signed()) == Finding("application/pdf", signed=True)


def test_what_only_looks_like_a_signature_excuses_nothing(place: Path) -> None:
    assert refused(place, signed(*EMBEDDED, whole=False)) == ACTIVE
    catalog, objects = EMBEDDED
    nothing = "<< /Type /Sig /ByteRange [0 1 2 3] /Contents <30> >>"
    assert refused(place, papers.pdf(catalog=catalog, objects=(nothing, "<< >>", *objects))) == ACTIVE


def test_a_signed_file_may_hold_no_program(place: Path) -> None:
    assert refused(place, signed("/OpenAction << /S /JavaScript /JS (1) >>")) == ACTIVE


@pytest.mark.parametrize("password", ["", "secret"])
def test_an_encrypted_file_is_called_that(place: Path, password: str) -> None:
    with pikepdf.open(io.BytesIO(papers.pdf())) as file:
        file.save(place, encryption=pikepdf.Encryption(owner="owner", user=password))
    assert refused(place, place.read_bytes()) == "FILE_ENCRYPTED"


def test_what_is_hidden_in_compressed_objects_is_found(place: Path) -> None:
    with pikepdf.open(io.BytesIO(papers.pdf())) as file:
        action = pikepdf.Dictionary(S=pikepdf.Name.JavaScript, JS=pikepdf.String("1"))
        file.Root.Threads = file.make_indirect(pikepdf.Array([[[pikepdf.Dictionary(A=action)]]]))
        file.save(place, object_stream_mode=pikepdf.ObjectStreamMode.generate)
    data = place.read_bytes()
    assert b"JavaScript" not in data
    assert refused(place, data) == ACTIVE


@pytest.mark.parametrize(
    "object",
    [
        "<< /S /GoToE /F (x) >>",
        "<< /S /ImportData /F (x) >>",
        "<< /S /URI /URI (file:///c:/x.exe) >>",
        "<< /S /URI /URI (\\\\\\\\evil\\\\share) >>",
        "<< /Type /Annot /Subtype /FileAttachment /FS << >> >>",
        "<< /Type /Annot /Subtype /Screen >>",
        "<< /Length 0 /F (http://evil.example/x) >>\nstream\n\nendstream",
        "<< /A << /Next [ << /S /Launch >> ] >> >>",
        "<< /S#ubtype /Widget /AA << /K << /S /Java#53cript >> >> >>",
    ],
)
def test_what_a_reader_would_run_or_fetch_is_refused(place: Path, object: str) -> None:
    assert refused(place, papers.pdf(objects=[object])) == ACTIVE


@pytest.mark.parametrize(
    "object",
    [
        "<< /Type /Annot /Subtype /Link /F 4 /A << /S /URI /URI (mailto:mot@cua.vn) >> >>",
        "<< /S /GoTo /D [3 0 R /Fit] >>",
        "<< /S /Named /N /NextPage >>",
        "<< /Type /StructElem /S /P >>",
        "<< /URI << /Base (https://dichvucong.gov.vn/) >> >>",
    ],
)
def test_what_papers_have_is_taken(place: Path, object: str) -> None:
    assert looked(place, papers.pdf(objects=[object])) == Finding("application/pdf")


def test_pages_are_counted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "MOST_PAGES", 3)
    assert looked(place, papers.pdf(pages=3))
    assert refused(place, papers.pdf(pages=4)) == "FILE_TOO_COMPLEX"
    assert refused(place, papers.pdf(pages=0)) == "FILE_DAMAGED"


# Pictures


def test_a_picture_cut_off_anywhere_is_damaged(place: Path) -> None:
    for data in (papers.picture("PNG"), papers.picture("JPEG"), papers.HEIC):
        for part in (0.3, 0.6, 0.9):
            assert refused(place, data[: int(len(data) * part)]) in ("FILE_DAMAGED", "UNSUPPORTED_TYPE")


def test_a_picture_larger_than_anybody_needs_is_not_unpacked(place: Path) -> None:
    """60,000 by 60,000 points in a few bytes."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    assert refused(place, data) == "FILE_TOO_COMPLEX"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png_has_a_rendition(place: Path, mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (30, 20)).save(file, "PNG")
    assert looked(place, file.getvalue()).rendition
    with Image.open(f"{place}-rendition") as drawn:
        assert (drawn.format, drawn.mode, drawn.size) == ("JPEG", "RGB", (30, 20))


def test_what_is_seen_through_is_on_white(place: Path) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(file, "PNG")
    looked(place, file.getvalue())
    with Image.open(f"{place}-rendition") as drawn:
        assert drawn.getpixel((4, 4)) == (255, 255, 255)


def test_what_the_camera_noted_is_in_no_rendition(place: Path) -> None:
    looked(place, papers.HEIC)
    with Image.open(f"{place}-rendition") as drawn:
        assert not drawn.getexif()
    assert b"Apple" not in Path(f"{place}-rendition").read_bytes()
    assert pictures.MOST_EDGE >= 4000


# Archives


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (
            papers.docx(types='<Default Extension="bin" ContentType="application/vnd.ms-office.activeX"/>'),
            ACTIVE,
        ),
        (papers.docx(more={"word/embeddings/oleObject1.bin": b"x"}), ACTIVE),
        (papers.docx(more={"word/media/a.png": b"\xd0\xcf\x11\xe0"}), ACTIVE),
        (papers.docx(more={"word/media/a.png": b"MZ program"}), ACTIVE),
        (papers.docx(more={"word/embeddings/x.zip": b"PK"}), "UNSUPPORTED_TYPE"),
        (papers.docx(relations=papers.relation("aFChunk", "x.html")), ACTIVE),
        (papers.docx(relations=papers.relation("hyperlink", "\\\\evil\\x", external=True)), ACTIVE),
        (papers.docx('<w:fldSimple w:instr=" DDEAUTO c:\\\\x "/>'), ACTIVE),
        (papers.docx(more={"word/x.xml": "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"}), ACTIVE),
        (papers.docx(more={"word/x.xml": "<a>"}), "FILE_DAMAGED"),
        (papers.xlsx("cmd|'/C calc'!A0"), ACTIVE),
        (papers.xlsx("WEBSERVICE(A1)"), ACTIVE),
        (
            papers.xlsx(
                types='<Override ContentType="application/vnd.ms-excel.sheet.macroEnabled.main+xml"/>'
            ),
            ACTIVE,
        ),
        (
            papers.odt(
                "<office:scripts><office:event-listeners><script:event-listener/></office:event-listeners></office:scripts>"
            ),
            ACTIVE,
        ),
        (papers.odt('<draw:image xlink:href="http://evil/x.png"/>'), ACTIVE),
        (papers.odt('<draw:image xlink:href="../x.png"/>'), ACTIVE),
        (papers.odt(more={"Basic/Standard/Module1.xml": "<a/>"}), ACTIVE),
        (papers.odt(manifest="<encryption-data/>"), "FILE_ENCRYPTED"),
        (papers.asice({"a.exe": b"MZ"}), ACTIVE),
        (papers.asice({"a.html": b"<html>"}), "UNSUPPORTED_TYPE"),
        (papers.asice({"a.pdf": papers.pdf()}, signature=""), "FILE_DAMAGED"),
        (papers.asice({"a.asice": papers.asice({"a.pdf": papers.pdf()})}), "FILE_TOO_COMPLEX"),
        (
            papers.asice({"a.pdf": papers.pdf(catalog="/OpenAction << /S /JavaScript /JS (1) >>")}),
            ACTIVE,
        ),
        (papers.archive({"../x": "a"}), "FILE_DAMAGED"),
        (papers.archive({"/x": "a"}), "FILE_DAMAGED"),
        (papers.archive({"a\\..\\x": "a"}), "FILE_DAMAGED"),
        (papers.archive({"A.xml": "a", "a.XML": "b"}), "FILE_DAMAGED"),
        (papers.archive({"a": "a"}), "UNSUPPORTED_TYPE"),
        (b"PK\x03\x04" + bytes(100), "FILE_DAMAGED"),
        (papers.docx()[:-30], "FILE_DAMAGED"),
        (b"PK\x03\x04junk" + papers.docx(), "FILE_DAMAGED"),
    ],
)
def test_what_an_archive_hides_is_found(place: Path, data: bytes, why: str) -> None:
    assert refused(place, data) == why


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (
            papers.docx(relations=papers.relation("hyperlink", "mailto:a@b.vn", external=True)),
            "wordprocessingml.document",
        ),
        (papers.docx(more={"customXml/item1.xml": "<?mso-contentType?><a/>"}), WORD),
        (papers.docx(more={"word/embeddings/chart.xlsx": papers.xlsx()}), WORD),
        (papers.docx("<w:instrText> PAGE </w:instrText>"), WORD),
        (papers.xlsx(more={"xl/printerSettings/printerSettings1.bin": b"x"}), "spreadsheetml.sheet"),
        (
            papers.odt(
                '<text:a xlink:href="https://a.vn/">a</text:a><draw:image xlink:href="Pictures/a.png"/>'
            ),
            "opendocument.text",
        ),
        (papers.odt(more={"Configurations2/accelerator/current.xml": ""}), "opendocument.text"),
        (papers.asice({"a.pdf": papers.pdf(), "b.docx": papers.docx()}), "asic-e+zip"),
    ],
)
def test_what_office_programs_write_is_taken(place: Path, data: bytes, kind: str) -> None:
    assert looked(place, data).content_type.endswith(kind)


def test_a_bomb_is_not_unpacked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 10 * 2**20)
    assert refused(place, papers.docx(more={"word/media/a.png": bytes(11 * 2**20)})) == "FILE_TOO_COMPLEX"
    lying = papers.docx(more={"word/media/a.png": bytes(11 * 2**20)})
    size = struct.pack("<I", 11 * 2**20)
    assert refused(place, lying.replace(size, struct.pack("<I", 1000))) == "FILE_DAMAGED"
    monkeypatch.setattr(archives, "MOST_ENTRIES", 100)
    assert refused(place, papers.archive({str(n): "" for n in range(101)})) == "FILE_TOO_COMPLEX"


def test_entries_that_share_their_bytes_are_refused(place: Path) -> None:
    """As the bombs that need no nesting do (D. Fifield, 2019): two names lead to one body."""
    data = papers.docx(more={"word/media/a.png": bytes(1000), "word/media/b.png": bytes(1000)})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        first, second = (archive.getinfo(f"word/media/{name}.png").header_offset for name in "ab")
    directory = data.rindex(b"PK\x01\x02")
    assert data[directory + 42 : directory + 46] == struct.pack("<I", second)
    shared = data[: directory + 42] + struct.pack("<I", first) + data[directory + 46 :]
    assert refused(place, shared) == "FILE_DAMAGED"


def test_an_encrypted_entry_is_called_that(place: Path) -> None:
    data = bytearray(papers.docx())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    assert refused(place, bytes(data)) == "FILE_ENCRYPTED"


# In a process with limits


class Folder:
    """Where a test's files are."""

    def __init__(self, place: Path) -> None:
        self.place = place

    async def fetch(self, key: str, path: Path) -> None:
        path.write_bytes((self.place / key).read_bytes())


@pytest_asyncio.fixture(loop_scope="session")
async def inspector(tmp_path: Path) -> AsyncIterator[Inspector]:
    (tmp_path / "scratch").mkdir()
    made = Inspector(
        Folder(tmp_path),
        count=1,
        cpu_seconds=1,
        memory_bytes=200 * 2**20,
        wall_seconds=20,
        folder=str(tmp_path / "scratch"),
    )
    yield made
    await made.close()


def expensive(name: str) -> bytes:
    """A file that takes more than it may."""
    if name == "objects":
        return papers.pdf(objects=[b"[" + b"<<>>" * 3_000_000 + b"]"])
    if name == "text":
        return papers.docx(more={"word/x.xml": b"<a>" + b"<b></b>" * 3_000_000 + b"</a>"})
    file = io.BytesIO()
    Image.new("RGB", (9900, 9900)).save(file, "PNG", compress_level=1)
    return file.getvalue()


@pytest.mark.parametrize("name", ["objects", "text", "picture"])
async def test_looking_has_an_end_and_leaves_nothing(inspector: Inspector, tmp_path: Path, name: str) -> None:
    data = expensive(name)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidInput) as error:
        await inspector.look(name, data[:65536])
    assert error.value.reason in ("WORK_LIMIT_EXCEEDED", "FILE_TOO_COMPLEX")
    assert not list((tmp_path / "scratch").iterdir())
    (tmp_path / "good").write_bytes(papers.HEIC)
    finding, drawn = await inspector.look("good", papers.HEIC)
    assert finding.content_type == "image/heic"
    assert drawn.startswith(b"\xff\xd8\xff")
