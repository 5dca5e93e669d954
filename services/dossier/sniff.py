"""Recognises a file by its content. What is not on the list is not accepted, whatever its name says."""

from __future__ import annotations

import re

import filetype  # type: ignore[import-untyped]

from kit.errors import FieldViolation, InvalidInput

PDF = "application/pdf"
XML = "application/xml"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
ODT = "application/vnd.oasis.opendocument.text"
ASIC = "application/vnd.etsi.asic-e+zip"  # a signed container, ETSI EN 319 162-1

EXTENSIONS = {
    "pdf": PDF,
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "heic": "image/heic",
    "docx": DOCX,
    "xlsx": XLSX,
    "odt": ODT,
    "xml": XML,
    "asice": ASIC,
    "sce": ASIC,
}
ALLOWED = frozenset(EXTENSIONS.values())
_SAME = {"text/xml": XML, "image/jpg": "image/jpeg", "image/heif": "image/heic"}
_UNKNOWN = frozenset({"", "application/octet-stream", "binary/octet-stream"})

# Formats that a browser or an office program would run: XML by its wording, but not a record.
_ACTIVE_ROOTS = frozenset({b"html", b"svg", b"script", b"stylesheet", b"transform"})
_ROOT = re.compile(rb"<(?:[A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)")


def canonical(media_type: str) -> str:
    """The media type without parameters, in the spelling used here; empty when it says nothing."""
    bare = media_type.split(";", 1)[0].strip().lower()
    return "" if bare in _UNKNOWN else _SAME.get(bare, bare)


def claimed(name: str, media_type: str) -> str:
    """What a client says a file is, by media type and by name, in agreement; empty when it says nothing.
    Raises InvalidInput UNSUPPORTED_TYPE or TYPE_MISMATCH."""
    stated, named = canonical(media_type), by_name(name)
    if stated and stated not in ALLOWED:
        raise _refused("content_type", "UNSUPPORTED_TYPE", ", ".join(sorted(ALLOWED)))
    if stated and named and stated != named:
        raise _refused("filename", "TYPE_MISMATCH", "name and media type disagree")
    return stated or named


def by_name(name: str) -> str:
    """The media type that a file's name claims; empty when it claims none that we know."""
    return EXTENSIONS.get(name.rsplit(".", 1)[-1].lower(), "") if "." in name else ""


def recognise(head: bytes, tail: bytes) -> str:
    """The media type of a file from its first and last 64 KiB; empty when it is none of the allowed ones."""
    if head.startswith(b"%PDF-"):
        return PDF
    if head.startswith(b"PK\x03\x04"):
        return _zip(head, tail)
    kind = filetype.guess(head)
    if kind is not None:
        mime = canonical(kind.mime)
        return mime if mime in ALLOWED else ""
    return XML if _is_record(head) else ""


def _refused(field: str, reason: str, description: str) -> InvalidInput:
    return InvalidInput(reason, description, violations=[FieldViolation(field, reason, description)])


def _zip(head: bytes, tail: bytes) -> str:
    # The names of the entries stand in the central directory, at the end of the file.
    if b"vbaProject.bin" in tail or b"vbaProject.bin" in head:
        return ""
    # Both OpenDocument and ASiC store their type first, uncompressed, in an entry called `mimetype`.
    if head[30:38] == b"mimetype":
        stated = head[38 : 38 + 80]
        for mime in (ODT, ASIC):
            if stated.startswith(mime.encode()):
                return mime
        return ""
    if b"[Content_Types].xml" in tail or b"[Content_Types].xml" in head:
        if b"word/document.xml" in tail:
            return DOCX
        if b"xl/workbook.xml" in tail:
            return XLSX
    return ""


def _is_record(head: bytes) -> bool:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith(b"<?xml") or b"\x00" in text or b"<!ENTITY" in text:
        return False
    root = _ROOT.search(re.sub(rb"<!--.*?-->", b"", text, flags=re.DOTALL))
    return root is not None and root.group(1).lower() not in _ACTIVE_ROOTS
