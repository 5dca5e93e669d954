"""What looking into a file tells, and why one is not taken."""

from __future__ import annotations

from dataclasses import dataclass

from dossier.content.recognise import refusal
from kit.errors import InvalidInput


@dataclass(frozen=True)
class Finding:
    """A file that is taken. `signed`: it carries a signature, which nobody has verified here; `attachments`:
    it carries other files, which only a signed one may. `rendition`: a picture of it was written."""

    content_type: str
    signed: bool = False
    attachments: bool = False
    rendition: bool = False


def damaged(why: str) -> InvalidInput:
    """It is broken, cut off, or not what its first bytes say. `why` is for the log."""
    error = refusal("FILE_DAMAGED")
    error.message = why
    return error


def encrypted() -> InvalidInput:
    """Nobody can look into it without its password."""
    return refusal("FILE_ENCRYPTED")


def active(what: str) -> InvalidInput:
    """It carries what a reader's program would run or fetch. `what`: a word such as JavaScript."""
    return refusal("ACTIVE_CONTENT", what=what)


def too_much(what: str) -> InvalidInput:
    """It is larger inside than anybody needs. `what` with its limit, such as `2000 pages`."""
    return refusal("FILE_TOO_COMPLEX", what=what)
