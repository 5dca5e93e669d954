"""Recognises a file by its first bytes. What is not on the list is not taken, whatever its name says; what is
on it is taken, whatever its name says."""

from __future__ import annotations

import re

import filetype  # type: ignore[import-untyped]

from dossier.domain.kinds import ALLOWED, HEIC, JPEG, PDF, PNG, TAKEN, XML
from kit.errors import FieldViolation, InvalidInput

HEAD = 64 * 1024  # bytes that are looked at
ZIP = "application/zip"  # which of our containers it is, its entries tell

_UNKNOWN = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_SAME = {
    "text/xml": XML,
    "application/x-xml": XML,
    "application/x-pdf": PDF,
    "application/acrobat": PDF,
    "text/pdf": PDF,
    "image/jpg": JPEG,
    "image/pjpeg": JPEG,
    "image/jfif": JPEG,
    "image/x-png": PNG,
    "image/heif": HEIC,
}
# What no spelling of ours looks like: said before the first byte is sent.
_NEVER = ("video/", "audio/", "font/", "model/", "message/", "multipart/")

_PDF_WITHIN = 1024  # Acrobat's rule (ISO 32000-1, annex H.3, note 13): something else may come before it
# Brands of ISO 23008-12 for still pictures in HEVC, and for any codec; of AVIF, which is another codec.
_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis"})
_STILL = frozenset({b"mif1", b"mif2"})
_SEQUENCE = b"msf1"
_AVIF = frozenset({b"avif", b"avis"})
_COMPOUND = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # Word and Excel until 2003, and newer ones with a password
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_LABELS = {
    b"MZ": "EXE",
    b"\x7fELF": "ELF",
    b"#!": "SCRIPT",
    b"{\\rtf": "RTF",
    b"\x00\x00\x01\xba": "MPEG",
    b"ITSF": "CHM",
}


def canonical(media_type: str) -> str:
    """The media type without parameters, in the spelling used here; empty when it says nothing."""
    bare = media_type.split(";", 1)[0].strip().lower()
    return "" if bare in _UNKNOWN else _SAME.get(bare, bare)


def claimed(media_type: str) -> str:
    """What a client says that a file is, where that is one of our types; else empty. Programs guess it from
    the name, so it is a hint. Raises InvalidInput UNSUPPORTED_TYPE for what is certainly none of them."""
    stated = canonical(media_type[:200])
    if stated.startswith(_NEVER):
        raise refusal("UNSUPPORTED_TYPE", field="content_type", found=stated[:60], taken=TAKEN)
    return stated if stated in ALLOWED else ""


def refusal(reason: str, *, field: str = "content", **metadata: str) -> InvalidInput:
    """Why a file is not taken; the metadata go into what people are told."""
    return InvalidInput(reason, violations=[FieldViolation(field, reason)], **metadata)


def recognise(head: bytes) -> str:
    """The media type of a file from its first 64 KiB; ZIP for every container that is one. Raises
    InvalidInput UNSUPPORTED_TYPE or FILE_ENCRYPTED."""
    head = head[:HEAD]
    if head.startswith(b"PK\x03\x04"):
        return ZIP
    if head.startswith(b"\xff\xd8\xff"):
        return JPEG
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if head[4:8] == b"ftyp":
        if _is_heic(head):
            return HEIC
        raise _unsupported(_box_label(head))
    if head.startswith(_COMPOUND):
        if _ENCRYPTED in head:
            raise refusal("FILE_ENCRYPTED")
        raise _unsupported("DOC/XLS 97-2003")
    if label := next((label for magic, label in _LABELS.items() if head.startswith(magic)), ""):
        raise _unsupported(label)
    if not head.startswith(b"%PDF-") and (kind := filetype.guess(head)) is not None:
        raise _unsupported(str(kind.extension).upper())
    if _is_xml(head):
        return XML
    if b"%PDF-" in head[: _PDF_WITHIN + 4]:  # the mark itself begins within the first 1,024 bytes
        return PDF
    raise _unsupported("HTML" if re.match(rb"\s*<(!doctype\s+html|html)", head, re.IGNORECASE) else "?")


def _unsupported(found: str) -> InvalidInput:
    return refusal("UNSUPPORTED_TYPE", found=found, taken=TAKEN)


def _brands(head: bytes) -> list[bytes]:
    """The major and the compatible brands of the `ftyp` box."""
    end = min(int.from_bytes(head[:4], "big"), len(head), 1024)
    return [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]


def _is_heic(head: bytes) -> bool:
    """A still picture in HEVC, or in a codec that only its decoder can tell. A sequence that holds a still
    picture, too, is one."""
    major, *others = _brands(head)
    if major in _HEIC:
        return True
    if _AVIF.intersection(others):
        return False
    return major in _STILL or (major == _SEQUENCE and bool((_HEIC | _STILL).intersection(others)))


def _box_label(head: bytes) -> str:
    brands = _brands(head)
    if _AVIF.intersection(brands):
        return "AVIF"
    if brands[0] in (b"hevc", b"hevx", b"hevm", b"hevs", _SEQUENCE):
        return "HEIF sequence"
    return "MP4/MOV"


def _is_xml(head: bytes) -> bool:
    return _decoded(head).startswith(b"<?xml")


def _decoded(head: bytes) -> bytes:
    """The beginning as UTF-8 where it is in UTF-16 with a mark of its byte order; without that mark."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return head[: len(head) // 2 * 2].decode("utf-16", "replace").encode(errors="replace").lstrip()
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()
