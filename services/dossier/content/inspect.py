"""Looks into a file whole. Runs in a process of its own, with limits: strangers write what is read."""

from __future__ import annotations

import os
import tempfile

from dossier.content import archives, markup, pdf, pictures
from dossier.content.finding import Finding
from dossier.content.recognise import HEAD, recognise
from dossier.domain.kinds import PDF, PICTURES, XML


def inspect(path: str, rendition: str) -> Finding:
    """What the file at `path` is; of a picture writes the one that every browser draws to `rendition`. Raises
    InvalidInput: UNSUPPORTED_TYPE, FILE_DAMAGED, FILE_ENCRYPTED, ACTIVE_CONTENT, FILE_TOO_COMPLEX."""
    return _look(path, rendition, inside=False)


def _look(path: str, rendition: str, *, inside: bool) -> Finding:
    with open(path, "rb") as file:
        kind = recognise(file.read(HEAD))
    if kind == PDF:
        return pdf.look(path)
    if kind in PICTURES:
        return pictures.look(path, kind, rendition)
    if kind == XML:
        return markup.look(path)
    return archives.look(path, archives.no_deeper if inside else _inside)


def _inside(path: str) -> Finding:
    """A file that another one carries."""
    fd, scratch = tempfile.mkstemp(prefix="inner-")
    os.close(fd)
    try:
        return _look(path, scratch, inside=True)
    finally:
        os.unlink(scratch)
