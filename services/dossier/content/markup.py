"""Reads XML of strangers: by expat, which fetches nothing, without document types and their entities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import IO
from xml.parsers import expat

from dossier.content.finding import Finding, active, damaged, too_much
from dossier.content.recognise import refusal
from dossier.domain.kinds import TAKEN, XML

MOST_DEPTH = 250
_MOST_ELEMENTS = 5_000_000
_STEP = 256 * 1024

# What a browser or an office program would run, show or open as its own, although it is XML. What is included
# was not signed, and may be a file of whoever opens it.
_PROGRAMS = {
    "http://www.w3.org/1999/xhtml": "HTML",
    "http://www.w3.org/2000/svg": "SVG",
    "http://www.w3.org/1999/XSL/Transform": "XSLT",
    "http://www.w3.org/2001/XInclude": "XInclude",
    "http://www.mozilla.org/keymaster/gatekeeper/there.is.only.xul": "XUL",
    "http://schemas.microsoft.com/winfx/2006/xaml/presentation": "XAML",
    "http://schemas.microsoft.com/office/word/2003/wordml": "Word XML",
    "http://schemas.microsoft.com/office/2006/xmlPackage": "Office XML",
    "urn:schemas-microsoft-com:office:spreadsheet": "Excel XML",
    "urn:schemas-microsoft-com:xslt": "XSLT",
}
_ROOTS = frozenset({"html", "svg", "script", "stylesheet", "transform", "package", "scriptlet", "component"})

Start = Callable[[str, Mapping[str, str]], None]


def read(
    source: IO[bytes],
    *,
    start: Start | None = None,
    text: Callable[[str], None] | None = None,
    end: Callable[[str], None] | None = None,
    instructions: bool = False,
) -> None:
    """Reads it to the end. `start` is told each element and its attributes, `end` its end, `text` what is
    between; names are `namespace name`. `instructions`: those to a program may be in it. Raises
    InvalidInput for what is not well-formed or is not taken."""
    depth = elements = 0

    def begin(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, elements
        depth, elements = depth + 1, elements + 1
        if depth > MOST_DEPTH:
            raise too_much(f"{MOST_DEPTH} levels of XML")
        if elements > _MOST_ELEMENTS:
            raise too_much(f"{_MOST_ELEMENTS} elements of XML")
        if start is not None:
            start(name, attributes)

    def finish(name: str) -> None:
        nonlocal depth
        depth -= 1
        if end is not None:
            end(name)

    def no_type(*_: object) -> None:
        raise active("DOCTYPE")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = begin, finish
    parser.StartDoctypeDeclHandler = no_type
    if text is not None:
        parser.CharacterDataHandler = text
    if not instructions:
        parser.ProcessingInstructionHandler = _instruction
    try:
        while piece := source.read(_STEP):
            parser.Parse(piece, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise damaged(f"XML: {expat.ErrorString(error.code)} in line {error.lineno}") from None
    except (LookupError, ValueError):  # an encoding that expat does not know
        raise damaged("XML: encoding") from None


def _instruction(target: str, _data: str) -> None:
    """A style sheet, or a program of Office that shall open the file: `xml-stylesheet`, `mso-application`."""
    raise active(f"<?{target[:30]}?>")


def look(path: str) -> Finding:
    """What there is to tell of an XML file. Raises InvalidInput for one that is not taken."""
    first = True

    def start(name: str, _attributes: Mapping[str, str]) -> None:
        nonlocal first
        namespace, _, local = name.rpartition(" ")
        if namespace in _PROGRAMS or (first and local.lower() in _ROOTS):
            what = _PROGRAMS.get(namespace, local.upper())
            if first:
                raise refusal("UNSUPPORTED_TYPE", found=what, taken=TAKEN)
            raise active(what)
        first = False

    with open(path, "rb") as file:
        read(file, start=start)
    return Finding(XML)
