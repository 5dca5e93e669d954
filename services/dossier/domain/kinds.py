"""The kinds of file that the vault takes, and the name that a file of a kind has.

What a file is follows from its content. Its name is only what people call it, so the extension is ours: by it
the reader's system chooses the program that opens the file.
"""

from __future__ import annotations

import re

from kit.text import line

PDF = "application/pdf"
XML = "application/xml"
JPEG = "image/jpeg"
PNG = "image/png"
HEIC = "image/heic"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
ODT = "application/vnd.oasis.opendocument.text"
ASIC = "application/vnd.etsi.asic-e+zip"  # a signed container, ETSI EN 319 162-1

EXTENSION = {
    PDF: "pdf",
    JPEG: "jpg",
    PNG: "png",
    HEIC: "heic",
    DOCX: "docx",
    XLSX: "xlsx",
    ODT: "odt",
    XML: "xml",
    ASIC: "asice",
}
ALLOWED = frozenset(EXTENSION)
PICTURES = frozenset({JPEG, PNG, HEIC})
TAKEN = "PDF, JPEG, PNG, HEIC, DOCX, XLSX, ODT, XML, ASiC-E"  # as people are told

MOST_LETTERS = 150  # of a name, its extension included
# Letters that look like the marks which part folders and extensions, and the marks of Windows.
_LOOK_ALIKE = str.maketrans({**dict.fromkeys("．․﹒", "."), **dict.fromkeys("／∕⁄⧸＼\\", "/")})
_LONGEST = 2000  # letters that are looked at
_FORBIDDEN = frozenset('"<>|:*?/')  # in a name on Windows, and `/` everywhere
_LAST = re.compile(r"\.\s*([A-Za-z0-9-]{1,20})$")
# Not `số 12.2026` or `báo cáo.v2`: these are parts of a name.
_MADE_UP = re.compile(r"(?![vV]?[0-9]+$)[A-Za-z0-9]{1,5}")
# Never left before our extension: a system that hides those it knows would show `x.exe.pdf` as `x.exe`.
_PROGRAMS = """
    7z ade adp apk app application appref-ms appx bat chm cmd com cpl diagcab dll dmg doc docb docm dot
    dotm dotx exe gadget hlp hta htm html inf ins iso img jar jnlp js jse library-ms lnk mde mht mhtml msc
    msh msi msp mst ocx one ops pif potm ppam pps ppsm ppt pptm prg ps1 psm1 py rar reg rtf scf scr sct
    search-ms settingcontent-ms sh shb shs slk svg swf sys theme url vb vbe vbs vhd vhdx vxd wsc wsf wsh
    xhtml xlam xll xls xlsb xlsm xlt xltm xps zip
"""
# Names of devices on Windows, with any extension.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.IGNORECASE)


def safe_name(name: str) -> str:
    """The bare name without folders, control characters, or marks that turn text around or cannot be seen;
    at most 150 letters, and never empty."""
    bare = _bare(name)
    if len(bare) > MOST_LETTERS:
        stem, dot, extension = bare.rpartition(".")
        short = f"{stem[: 140 - len(extension)]}{dot}{extension}"
        bare = short if dot and len(extension) < 10 else bare[:MOST_LETTERS]
    return bare or "file"


def named(name: str, content_type: str) -> str:
    """The name under which a file of this type is kept and downloaded: what people call it, and the extension
    of what it is. The same again for a name that it has made. For a type that is not ours, the bare name."""
    extension = EXTENSION.get(content_type)
    if extension is None:
        return safe_name(name)
    base, first = _bare(name), True
    while (found := _LAST.search(base)) is not None:
        given = found[1].lower()
        if given not in _KNOWN and not (first and _MADE_UP.fullmatch(given)):
            break
        base, first = base[: found.start()].strip(". "), False
    base = base[: MOST_LETTERS - len(extension) - 1].strip(". ") or "file"
    while (found := _LAST.search(base)) is not None and found[1].lower() in _KNOWN:
        base = base[: found.start()].strip(". ") or "file"  # the cut had made one
    return f"{'_' if _DEVICE.match(base) else ''}{base}.{extension}"


def _bare(name: str) -> str:
    if len(name) > _LONGEST:  # its end tells more than what is between
        name = name[: _LONGEST // 2] + name[-_LONGEST // 2 :]
    bare = name.translate(_LOOK_ALIKE).rstrip("/ ").rsplit("/", 1)[-1]
    return line("".join(filter(_allowed, bare))).strip(". ")


def _allowed(letter: str) -> bool:
    return letter >= " " and letter not in _FORBIDDEN and (letter.isprintable() or letter.isspace())


_KNOWN = frozenset([*EXTENSION.values(), *_PROGRAMS.split(), "jpeg", "jpe", "jfif", "heif", "sce"])
