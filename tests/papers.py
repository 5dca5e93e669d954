"""Files as people upload them, small and right; and what to change in them to make them wrong."""

from __future__ import annotations

import base64
import io
import random
import zipfile
from collections.abc import Mapping, Sequence

from PIL import Image

# A picture as a telephone writes it: lying, to be turned upright, with maker and place in its EXIF.
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


def pdf(
    size: int = 0, seed: int = 0, *, catalog: str = "", objects: Sequence[str | bytes] = (), pages: int = 1
) -> bytes:
    """A PDF file; of exactly `size` bytes where that is more than it needs. Its catalogue has `catalog`, and
    `objects` follow, numbered from 10 on."""
    front, back = frame(size, catalog=catalog, objects=objects, pages=pages)
    noise = random.Random(seed).randbytes(max(0, size - len(front) - len(back)))  # noqa: S311
    return front + noise + back


def frame(
    size: int, *, catalog: str = "", objects: Sequence[str | bytes] = (), pages: int = 1
) -> tuple[bytes, bytes]:
    """What is before and behind the noise in a PDF file of `size` bytes."""
    kids = " ".join(["3 0 R"] * pages)
    bodies: dict[int, bytes] = {
        1: f"<< /Type /Catalog /Pages 2 0 R {catalog} >>".encode(),
        2: f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>".encode(),
        3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] >>",
    }
    bodies |= {10 + n: o.encode() if isinstance(o, str) else o for n, o in enumerate(objects)}
    front, back = _framed(bodies, 0)
    return _framed(bodies, max(0, size - len(front) - len(back)))


def _framed(bodies: Mapping[int, bytes], noise: int) -> tuple[bytes, bytes]:
    out, offsets = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"), {}
    for number, body in sorted(bodies.items()):
        offsets[number] = len(out)
        out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    offsets[4] = len(out)
    out += b"4 0 obj\n<< /Length %010d >>\nstream\n" % noise
    back = b"\nendstream\nendobj\n"
    start, last = len(out) + noise + len(back), max(offsets) + 1
    back += b"xref\n0 %d\n0000000000 65535 f \n" % last
    for number in range(1, last):
        back += b"%010d 00000 n \n" % offsets[number] if number in offsets else b"0000000000 00000 f \n"
    back += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%010d\n%%%%EOF\n" % (last, start)
    return bytes(out), back


def picture(format: str = "PNG", size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    """A picture with a red corner."""
    made = Image.new("RGB", size, "white")
    made.paste((255, 0, 0), (0, 0, size[0] // 4, size[1] // 4))
    file = io.BytesIO()
    made.save(file, format, **options)
    return file.getvalue()


def archive(entries: Mapping[str, str | bytes], *, plain: Sequence[str] = ("mimetype",)) -> bytes:
    """A zip archive; the entries named in `plain` are not compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in entries.items():
            how = zipfile.ZIP_STORED if name in plain else zipfile.ZIP_DEFLATED
            made.writestr(name, data, how)
    return file.getvalue()


_TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_MAIN = "application/vnd.openxmlformats-officedocument.{}.main+xml"
_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_S = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def docx(
    body: str = "", more: Mapping[str, str | bytes] | None = None, *, relations: str = "", types: str = ""
) -> bytes:
    """A Word file with this body, these further parts, relationships and content types."""
    return archive(
        {
            "[Content_Types].xml": f'<Types xmlns="{_TYPES}"><Override PartName="/word/document.xml" '
            f'ContentType="{_MAIN.format("wordprocessingml.document")}"/>{types}</Types>',
            "_rels/.rels": f'<Relationships xmlns="{_RELATIONS}"><Relationship Id="r1" '
            f'Type="{_OFFICE}/officeDocument" Target="word/document.xml"/></Relationships>',
            "word/document.xml": f'<w:document xmlns:w="{_W}"><w:body>{body}</w:body></w:document>',
            "word/_rels/document.xml.rels": (
                f'<Relationships xmlns="{_RELATIONS}">{relations}</Relationships>'
            ),
            **(more or {}),
        }
    )


def relation(kind: str, target: str, *, external: bool = False) -> str:
    """A relationship of an Office file."""
    mode = ' TargetMode="External"' if external else ""
    return f'<Relationship Id="x" Type="{_OFFICE}/{kind}" Target="{target}"{mode}/>'


def xlsx(formula: str = "1+1", more: Mapping[str, str | bytes] | None = None, *, types: str = "") -> bytes:
    """An Excel file with one formula."""
    return archive(
        {
            "[Content_Types].xml": f'<Types xmlns="{_TYPES}"><Override PartName="/xl/workbook.xml" '
            f'ContentType="{_MAIN.format("spreadsheetml.sheet")}"/>{types}</Types>',
            "xl/workbook.xml": f'<workbook xmlns="{_S}"/>',
            "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{_S}"><sheetData><row><c>'
            f"<f>{formula}</f></c></row></sheetData></worksheet>",
            **(more or {}),
        }
    )


_DSIG = "http://www.w3.org/2000/09/xmldsig#"
_O = "urn:oasis:names:tc:opendocument:xmlns"


def odt(body: str = "", more: Mapping[str, str | bytes] | None = None, *, manifest: str = "") -> bytes:
    """An OpenDocument text; `office`, `text`, `draw`, `script` and `xlink` are declared in its content."""
    spaces = " ".join(f'xmlns:{n}="{_O}:{n}:1.0"' for n in ("office", "text", "script"))
    spaces += f' xmlns:draw="{_O}:drawing:1.0" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return archive(
        {
            "mimetype": "application/vnd.oasis.opendocument.text",
            "content.xml": f"<office:document-content {spaces}>{body}</office:document-content>",
            "META-INF/manifest.xml": f'<manifest xmlns="{_O}:manifest:1.0">{manifest}</manifest>',
            **(more or {}),
        }
    )


def asice(files: Mapping[str, str | bytes], *, signature: str = "META-INF/signatures0.xml") -> bytes:
    """A signed container of these files; what stands for the signature signs nothing."""
    entries = {"mimetype": "application/vnd.etsi.asic-e+zip", **files}
    if signature:
        value = f'<Signature xmlns="{_DSIG}"><SignatureValue>AA==</SignatureValue></Signature>'
        entries[signature] = f"<signatures>{value}</signatures>"
    return archive(entries)
