"""Looks into the zip archives that we take: Office Open XML, OpenDocument, and signed containers (ASiC-E)."""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO

from dossier.content import markup
from dossier.content.finding import Finding, active, damaged, encrypted, too_much
from dossier.content.recognise import refusal
from dossier.content.signature import certificates
from dossier.domain.kinds import ASIC, DOCX, ODT, TAKEN, XLSX

MOST_ENTRIES = 10_000
MOST_BYTES = 1024 * 2**20  # of all entries together, unpacked
_MOST_TEXT = 256 * 2**20  # of one entry that is XML
_MOST_SIGNATURE = 2**20
_STEP = 256 * 1024
_BAD = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
)

_WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
_SHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
_ACTIVE_TYPES = {  # pieces of content types of parts, ECMA-376 and MS-OFFMACRO2
    "macroenabled": "macro",
    "vbaproject": "macro",
    "vbadata": "macro",
    "macrosheet": "macro",
    "dialogsheet": "macro",
    "activex": "ActiveX",
    "oleobject": "OLE",
    "customui": "customUI",
}
_ACTIVE_RELATIONS = {  # last pieces of types of relationships
    "vbaproject": "macro",
    "wordvbadata": "macro",
    "xlmacrosheet": "macro",
    "xlintlmacrosheet": "macro",
    "dialogsheet": "macro",
    "oleobject": "OLE",
    "control": "ActiveX",
    "activexcontrolbinary": "ActiveX",
    "afchunk": "altChunk",
    "subdocument": "external document",
    "externallink": "external workbook",
    "externallinkpath": "external workbook",
    "connections": "external data",
    "frame": "external frame",
    "mailmergesource": "external data",
    "extensibility": "customUI",
}
_LINK = re.compile(r"\s*(https?:|mailto:|tel:|#)", re.IGNORECASE)
# Word notes where the writer's template was; on the reader's disk there is nothing of the writer's.
_OWN_DISK = re.compile(r"(file:/{1,3})?[A-Za-z]:[/\\]|[^/\\:]+$", re.IGNORECASE)
_FIELD = re.compile(r"(DDEAUTO|DDE|INCLUDETEXT|LINK|DATABASE)\b", re.IGNORECASE)
_CELL = re.compile(
    r"^[+=@\s-]*[A-Za-z.]+\s*\||\bWEBSERVICE\s*\(|\bCALL\s*\(|\bREGISTER(\.ID)?\s*\(", re.IGNORECASE
)
_PROGRAMS = {b"\xd0\xcf\x11\xe0": "OLE", b"MZ": "program", b"\x7fELF": "program"}

Look = Callable[[str], Finding]


def look(path: str, look_inside: Look) -> Finding:
    """What there is to tell of an archive; `look_inside` looks at a file that one carries. Raises
    InvalidInput for one that is not taken."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _looked(archive, path, look_inside)
    except _BAD as error:
        raise damaged(f"zip: {type(error).__name__}") from None


def _looked(archive: zipfile.ZipFile, path: str, look_inside: Look) -> Finding:
    entries = _entries(archive, os.path.getsize(path))
    _unpack(archive, entries)
    first = archive.infolist()[0]
    if first.filename == "mimetype" and first.header_offset == 0:
        stated = archive.read(first)[:200].decode("ascii", "replace").strip()
        if stated == ODT:
            _open_document(archive, entries)
            return Finding(ODT)
        if stated == ASIC:
            return _signed_container(archive, entries, look_inside)
        raise refusal("UNSUPPORTED_TYPE", found=stated[:60] or "ZIP", taken=TAKEN)
    if "[Content_Types].xml" in entries:
        return Finding(_office(archive, entries, look_inside))
    raise refusal("UNSUPPORTED_TYPE", found="ZIP", taken=TAKEN)


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name. One list, one meaning: no name twice, none that leads out, no bytes shared."""
    entries: dict[str, zipfile.ZipInfo] = {}
    if len(archive.infolist()) > MOST_ENTRIES:
        raise too_much(f"{MOST_ENTRIES} entries")
    folded = set[str]()
    for entry in archive.infolist():
        name = entry.filename
        parts = name.replace("\\", "/").split("/")
        if (
            name != entry.orig_filename
            or name.startswith("/")
            or ".." in parts
            or "\\" in name
            or ":" in parts[0]
        ):
            raise damaged("zip: a name that leads out of it")
        if name.lower() in folded:
            raise damaged("zip: a name twice")
        if entry.flag_bits & 0x41:
            raise encrypted()
        if entry.external_attr >> 16 & 0o170000 == 0o120000:
            raise damaged("zip: a symbolic link")
        folded.add(name.lower())
        entries[name] = entry
    if not entries:
        raise damaged("zip: empty")
    if sum(entry.file_size for entry in entries.values()) > MOST_BYTES:
        raise too_much(f"{MOST_BYTES // 2**20} MB unpacked")
    end = 0
    for entry in sorted(entries.values(), key=lambda e: e.header_offset):
        if entry.header_offset < end:
            raise damaged("zip: entries that overlap")
        end = entry.header_offset + 30 + entry.compress_size
    if min(entry.header_offset for entry in entries.values()) != 0 or end > size:
        raise damaged("zip: something before the first entry")
    return entries


def _unpack(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]) -> None:
    """Unpacks all of it once: sizes and checksums are what the list says, and nothing in it is a program."""
    total = 0
    for entry in entries.values():
        with archive.open(entry) as file:
            head = file.read(4)
            if what := next((what for magic, what in _PROGRAMS.items() if head.startswith(magic)), ""):
                raise active(what)
            total += len(head)
            while piece := file.read(_STEP):
                total += len(piece)
                if total > MOST_BYTES:
                    raise too_much(f"{MOST_BYTES // 2**20} MB unpacked")


@contextmanager
def _part(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    if entry.file_size > _MOST_TEXT:
        raise too_much(f"{_MOST_TEXT // 2**20} MB of XML")
    with archive.open(entry) as file:
        yield file


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


# Office Open XML (ECMA-376)


def _office(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], look_inside: Look) -> str:
    types = _content_types(archive, entries["[Content_Types].xml"])
    for stated in types:
        if what := next((what for piece, what in _ACTIVE_TYPES.items() if piece in stated), ""):
            raise active(what)
    kind = DOCX if _WORD in types else XLSX if _SHEET in types else ""
    if not kind:
        raise refusal("UNSUPPORTED_TYPE", found="ZIP (Office)", taken=TAKEN)
    if ("word/document.xml" if kind == DOCX else "xl/workbook.xml") not in entries:
        raise damaged("OOXML: no main part")
    for name, entry in entries.items():
        low = name.lower()
        if low.endswith(".rels"):
            _relations(archive, entry)
        elif low.endswith(".xml") and entry.file_size:
            _office_part(archive, entry)
        elif "vbaproject" in low or "/activex/" in low:
            raise active("macro")
        elif low.endswith((".bin", ".ole")) and "/printersettings/" not in low:
            raise active("OLE")
        elif "/embeddings/" in low and not low.endswith("/"):
            _embedded(archive, entry, look_inside)
    return kind


def _content_types(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> set[str]:
    found = set[str]()

    def start(name: str, attributes: Mapping[str, str]) -> None:
        if "ContentType" in attributes:
            stated = attributes["ContentType"]
            found.add(stated if stated in (_WORD, _SHEET) else stated.lower())

    with _part(archive, entry) as file:
        markup.read(file, instructions=True, start=start)
    return found


def _relations(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    def start(name: str, attributes: Mapping[str, str]) -> None:
        if _local(name) != "Relationship":
            return
        kind = attributes.get("Type", "").rpartition("/")[2].lower()
        if kind in _ACTIVE_RELATIONS:
            raise active(_ACTIVE_RELATIONS[kind])
        target = attributes.get("Target", "")
        harmless = (kind == "hyperlink" and _is_link(target)) or (
            kind == "attachedtemplate" and _OWN_DISK.match(target) is not None
        )
        if attributes.get("TargetMode", "").lower() == "external" and not harmless:
            raise active("external template" if kind == "attachedtemplate" else "external content")

    with _part(archive, entry) as file:
        markup.read(file, instructions=True, start=start)


def _is_link(target: str) -> bool:
    """Also relative ones, as Word writes them; not `file:`, `javascript:`, or another computer's folder."""
    target = target.strip()
    return bool(_LINK.match(target)) or not (
        target.startswith(("\\", "//")) or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", target)
    )


def _office_part(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Word's fields and Excel's formulas that fetch or run something. A field may be cut into many pieces."""
    field: list[str] = []
    inside = ""

    def start(name: str, attributes: Mapping[str, str]) -> None:
        nonlocal inside
        local = _local(name)
        if local in ("ddeLink", "oleLink", "oleObject"):
            raise active("DDE" if local == "ddeLink" else "OLE")
        if local == "control" and "word" in name:
            raise active("ActiveX")
        if local == "instrText" or (local == "f" and "spreadsheetml" in name):
            inside = local
            if local == "f":
                field.clear()
        elif local == "fldChar":
            if _attribute(attributes, "fldCharType") == "begin":
                field.clear()
        elif local == "fldSimple":
            _field(_attribute(attributes, "instr"))

    def text(piece: str) -> None:
        if not inside:
            return
        field.append(piece)
        if inside == "instrText":
            _field("".join(field[-200:]))

    def end(name: str) -> None:
        nonlocal inside
        if inside == "f" and _local(name) == "f":
            if _CELL.search("".join(field)[:8192]):
                raise active("DDE")
            field.clear()
        if _local(name) == inside:
            inside = ""

    with _part(archive, entry) as file:
        markup.read(file, instructions=True, start=start, text=text, end=end)


def _attribute(attributes: Mapping[str, str], local: str) -> str:
    return next((value for name, value in attributes.items() if _local(name) == local), "")


def _field(instruction: str) -> None:
    found = _FIELD.match(instruction[:8192].strip())
    if found is not None:
        raise active("DDE" if found[1].upper().startswith("DDE") else found[1].upper())


def _embedded(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, look_inside: Look) -> None:
    """The workbook behind a chart is a file of its own; other embedded files are not taken."""
    if look_inside is no_deeper:
        raise active("embedded file")
    with _unpacked(archive, entry) as path:
        if look_inside(path).content_type not in (DOCX, XLSX):
            raise active("embedded file")


# OpenDocument (ISO/IEC 26300)

_ODF_ACTIVE = {
    "script": "macro",
    "event-listener": "macro",
    "dde-connection": "DDE",
    "dde-connection-decl": "DDE",
    "dde-source": "DDE",
    "object-ole": "OLE",
    "applet": "applet",
    "plugin": "plug-in",
    "floating-frame": "external frame",
}


def _open_document(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]) -> None:
    if "content.xml" not in entries or "META-INF/manifest.xml" not in entries:
        raise damaged("ODF: no content")
    for name, entry in entries.items():
        if name.startswith(("Basic/", "Scripts/", "Dialogs/")):
            raise active("macro")
        if name == "META-INF/manifest.xml":
            _manifest(archive, entry)
        elif name.endswith(".xml") and entry.file_size:  # LibreOffice leaves parts of its settings empty
            _odf_part(archive, entry)


def _manifest(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    def start(name: str, attributes: Mapping[str, str]) -> None:
        if _local(name) == "encryption-data":
            raise encrypted()

    with _part(archive, entry) as file:
        markup.read(file, instructions=True, start=start)


def _odf_part(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    def start(name: str, attributes: Mapping[str, str]) -> None:
        local = _local(name)
        if local in _ODF_ACTIVE and "opendocument" in name:
            raise active(_ODF_ACTIVE[local])
        target = attributes.get("http://www.w3.org/1999/xlink href", "")
        if target and not _is_link(target):
            raise active("external content")
        # Relative addresses lead into the archive; `../` out of it, to where the document lies.
        if local != "a" and (re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]*:", target) or target.startswith("..")):
            raise active("external content")

    with _part(archive, entry) as file:
        markup.read(file, instructions=True, start=start)


# Signed containers (ETSI EN 319 162-1)


def _signed_container(
    archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], look_inside: Look
) -> Finding:
    """What is signed in it are files, each of a kind that we take."""
    if look_inside is no_deeper:
        raise too_much("one level of containers")
    signatures = carried = 0
    for name, entry in entries.items():
        if name == "mimetype" or name.endswith("/"):
            continue
        if name.upper().startswith("META-INF/"):
            signatures += _signature(archive, entry)
            continue
        with _unpacked(archive, entry) as path:
            look_inside(path)
        carried += 1
    if not signatures or not carried:
        raise damaged("ASiC: no signature, or nothing that is signed")
    return Finding(ASIC, signed=True, attachments=carried > 1)


def _signature(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """How many signatures a file of META-INF holds: XAdES in XML, or one CAdES."""
    found = 0

    def start(name: str, _attributes: Mapping[str, str]) -> None:
        nonlocal found
        found += name == "http://www.w3.org/2000/09/xmldsig# SignatureValue"

    name = entry.filename.lower()
    with _part(archive, entry) as file:
        if name.endswith(".p7s"):
            return certificates(file.read(_MOST_SIGNATURE))
        if name.endswith(".xml"):
            markup.read(file, start=start)
    return found


@contextmanager
def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[str]:
    """The entry as a file of its own."""
    folder = os.path.dirname(str(archive.filename))  # whoever called us cleans it up, also when we are killed
    with tempfile.NamedTemporaryFile(dir=folder) as target, archive.open(entry) as source:
        while piece := source.read(_STEP):
            target.write(piece)
        target.flush()
        yield target.name


def no_deeper(path: str) -> Finding:
    """For files in a file in a file: they are not looked into."""
    raise too_much("one level of containers")
