"""Looks into PDF files: active content, encryption, embedded files, signatures (ISO 32000-1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
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
_ARRAY, _DICTIONARY, _STREAM = (
    pikepdf.ObjectType.array,
    pikepdf.ObjectType.dictionary,
    pikepdf.ObjectType.stream,
)
_HOLDERS = frozenset((_ARRAY, _DICTIONARY))
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
        keys = thing.keys()
        if (what := _activity(thing, keys)) is not None:
            raise active(what)
        attachments = attachments or _carries_file(thing, keys)
        if "/ByteRange" in keys and "/Contents" in keys:
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
            kind = _kind(found)
            if kind == _ARRAY:
                inner: Iterable[Any] = found
            elif kind == _STREAM:
                yield found
                inner = [found.get(key) for key in found.keys()]  # noqa: SIM118 (a stream is no mapping)
            elif kind == _DICTIONARY:
                yield found
                inner = found.values()
            else:
                continue
            # Indirect ones come by themselves; following them would go in circles.
            waiting.extend(item for item in inner if _kind(item) in _HOLDERS and not item.is_indirect)
    # What memory did not suffice for, or what cannot be read, is left out by the library, with a warning.
    if unread := next((w for w in map(str, file.get_warnings()) if "error reading object" in w), ""):
        raise too_much("memory") if "bad_alloc" in unread else damaged("PDF: an object cannot be read")


def _kind(thing: Any) -> Any:
    """The library's own `isinstance` is many times slower."""
    return thing._type_code if type(thing) is pikepdf.Object else None


def _activity(thing: Any, keys: set[str]) -> str | None:
    """The word for what would happen, or None."""
    if not keys.isdisjoint(_KEYS):
        return next(what for key, what in _KEYS.items() if key in keys)
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
    if not keys.isdisjoint(("/F", "/FFilter")) and _kind(thing) == _STREAM:
        return "external file"
    if "/Ref" in keys and isinstance(thing.get("/Ref"), pikepdf.Dictionary) and "/F" in thing.get("/Ref"):
        return "external file"
    return None


def _carries_file(thing: Any, keys: set[str]) -> bool:
    return (
        not keys.isdisjoint(("/EF", "/EmbeddedFiles", "/Collection"))
        or ("/Type" in keys and _name(thing.get("/Type")) == "/EmbeddedFile")
        or ("/Subtype" in keys and _name(thing.get("/Subtype")) == "/FileAttachment")
    )


def _name(value: Any) -> str:
    return str(value) if _kind(value) == pikepdf.ObjectType.name_ else ""


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
