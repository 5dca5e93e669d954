"""Looks into PDF files: active content, encryption, embedded files, signatures (ISO 32000-1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pikepdf

from dossier.content.finding import Finding, active, damaged, encrypted, too_much
from dossier.content.signature import certificates
from dossier.domain.kinds import PDF

MOST_PAGES = 5_000
_MOST_OBJECTS = 2_000_000

# Actions (12.6.4) that run, fetch, send or play something, or open another file.
_ACTIONS = {
    "/JavaScript": "JavaScript",
    "/Launch": "Launch",
    "/GoToR": "GoToR",
    "/GoToE": "GoToE",
    "/SubmitForm": "SubmitForm",
    "/ImportData": "ImportData",
    "/Rendition": "Rendition",
    "/Movie": "Movie",
    "/Sound": "Sound",
    "/RichMediaExecute": "RichMedia",
    "/GoTo3DView": "3D",
}
_KEYS = {"/JS": "JavaScript", "/JavaScript": "JavaScript", "/XFA": "XFA", "/RichMediaContent": "RichMedia"}
_ANNOTATIONS = {
    "/RichMedia": "RichMedia",
    "/Movie": "Movie",
    "/Sound": "Sound",
    "/Screen": "Screen",
    "/3D": "3D",
}
_LINK = re.compile(r"\s*(https?|mailto|tel):", re.IGNORECASE)
_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]*:|\\\\|//)", re.IGNORECASE)


def look(path: str) -> Finding:
    """What there is to tell of a PDF file. Raises InvalidInput for one that is not taken."""
    try:
        with pikepdf.open(path, access_mode=pikepdf.AccessMode.stream, suppress_warnings=True) as file:
            return _looked(file, path)
    except pikepdf.PasswordError:
        raise encrypted() from None
    except (pikepdf.PdfError, ValueError, RecursionError) as error:
        raise damaged(f"PDF: {type(error).__name__}") from None


def _looked(file: pikepdf.Pdf, path: str) -> Finding:
    if file.is_encrypted:
        raise encrypted()
    pages = len(file.pages)
    if not pages:
        raise damaged("PDF: no page")
    if pages > MOST_PAGES:
        raise too_much(f"{MOST_PAGES} pages")
    if len(file.objects) > _MOST_OBJECTS:
        raise too_much(f"{_MOST_OBJECTS} objects")
    attachments, signatures = False, []
    for thing in _things(file):
        if (what := _activity(thing)) is not None:
            raise active(what)
        attachments = attachments or _carries_file(thing)
        if "/ByteRange" in thing and "/Contents" in thing:
            signatures.append(thing)
    signed = any(_is_signature(thing, path) for thing in signatures)
    if attachments and not signed:
        raise active("embedded file")
    return Finding(PDF, signed=signed, attachments=attachments)


def _things(file: pikepdf.Pdf) -> Iterator[Any]:
    """Every dictionary (that of a stream, too) of the file, wherever it stands."""
    waiting: list[Any] = [file.trailer]
    for thing in file.objects:
        waiting.append(thing)
        while waiting:
            found = waiting.pop()
            if isinstance(found, pikepdf.Array):
                inner: Any = found
            elif isinstance(found, (pikepdf.Dictionary, pikepdf.Stream)):
                yield found
                inner = found.values() if isinstance(found, pikepdf.Dictionary) else _values(found)
            else:
                continue
            # Indirect ones come by themselves; following them would go in circles.
            waiting.extend(
                item
                for item in inner
                if isinstance(item, (pikepdf.Array, pikepdf.Dictionary)) and not item.is_indirect
            )


def _values(stream: Any) -> list[Any]:
    return [stream.get(key) for key in stream.keys()]  # noqa: SIM118 (a stream is no mapping)


def _activity(thing: Any) -> str | None:
    """The word for what would happen, or None."""
    keys = set(thing.keys())
    for key, what in _KEYS.items():
        if key in keys:
            return what
    if "/S" in keys and (what := _ACTIONS.get(_name(thing.get("/S")), "")):
        return what
    if "/Subtype" in keys and (what := _ANNOTATIONS.get(_name(thing.get("/Subtype")), "")):
        return what
    if "/URI" in keys:
        address = thing.get("/URI")
        # A dictionary called /URI is the base of relative links, in the catalogue.
        text = str(address.get("/Base", "")) if isinstance(address, pikepdf.Dictionary) else str(address)
        if _SCHEME.match(text) and not _LINK.match(text):
            return "URI"
    if isinstance(thing, pikepdf.Stream) and {"/F", "/FFilter"} & keys:
        return "external file"
    if "/Ref" in keys and isinstance(thing.get("/Ref"), pikepdf.Dictionary) and "/F" in thing.get("/Ref"):
        return "external file"
    return None


def _carries_file(thing: Any) -> bool:
    return (
        "/EF" in thing
        or "/EmbeddedFiles" in thing
        or "/Collection" in thing
        or _name(thing.get("/Type")) == "/EmbeddedFile"
        or _name(thing.get("/Subtype")) == "/FileAttachment"
    )


def _name(value: Any) -> str:
    return str(value) if isinstance(value, pikepdf.Name) else ""


def _is_signature(thing: Any, path: str) -> bool:
    """Whether it has the shape of a signature in this file (12.8.1): its range leaves out only itself, and it
    is a CMS message with a certificate. Whether it holds, a verifier says."""
    try:
        ranges = [int(number) for number in thing.get("/ByteRange")]
        contents = bytes(thing.get("/Contents"))
        if len(ranges) != 4 or ranges[0] != 0 or min(ranges) < 0:
            return False
        gap = (ranges[1], ranges[2])
        with open(path, "rb") as raw:
            size = raw.seek(0, 2)
            if ranges[2] + ranges[3] > size or gap[0] >= gap[1]:
                return False
            raw.seek(gap[0])
            hexadecimal = raw.read(min(gap[1] - gap[0], 4 * len(contents) + 1024)).strip()
        in_the_gap = bytes.fromhex(hexadecimal.strip(b"<>").decode("ascii"))
        if in_the_gap.rstrip(b"\0") != contents.rstrip(b"\0"):
            return False
        return certificates(contents) > 0
    except (TypeError, ValueError, OverflowError):
        return False
