"""How much an account keeps in its vault, and how much it may."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from dossier.domain.document import Document, Purpose, Upload
from kit.errors import FailedPrecondition, RateLimited

MOST_RESERVED = 1_000
"""Unfinished uploads into one vault; each delegate of an owner has a limit of their own."""
_COUNT_SOON = timedelta(days=1)  # a first count is checked once the release that did not count is gone
_COUNT_AGAIN = timedelta(days=7)
_COUNT_LATER = timedelta(hours=1)


@dataclass(frozen=True)
class Allowance:
    """What a vault may hold: bytes of files, and documents."""

    size: int
    documents: int


@dataclass(frozen=True)
class Reservation:
    """What an unfinished upload will take."""

    size: int
    documents: int
    expires: datetime


@dataclass
class Storage:
    """A count of what the vault of an account holds, and of what is promised to its unfinished uploads.

    What an office puts there is not counted: it must never fail for want of room. Nor are renditions, which
    the owner did not ask for, so that an upload takes exactly the bytes that it announced.
    """

    id: str  # the owner
    size: int  # bytes
    documents: int
    recount: datetime  # when the count is next compared with the documents
    organisation: bool | None = None  # None: identity has not said yet
    reserved: dict[str, Reservation] = field(default_factory=dict)  # by upload
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    @property
    def taken(self) -> tuple[int, int]:
        """Bytes and documents that are there or promised."""
        promised = self.reserved.values()
        return self.size + sum(r.size for r in promised), self.documents + sum(r.documents for r in promised)

    def reserve(self, upload: Upload, allowance: Allowance) -> None:
        """Promises an upload its room, once. Raises FailedPrecondition STORAGE_FULL with what is left, or
        RateLimited TOO_MANY_UPLOADS."""
        wanted = Reservation(upload.size, int(upload.purpose is Purpose.DOCUMENT), upload.expires)
        if known := self.reserved.get(upload.id):
            self.reserved[upload.id] = replace(known, expires=max(known.expires, wanted.expires))
            return
        size, documents = self.taken
        if size + wanted.size > allowance.size or documents + wanted.documents > allowance.documents:
            left = max(0, allowance.size - size)
            raise FailedPrecondition(
                "STORAGE_FULL",
                "the vault has no room for it",
                left_bytes=left,
                left_megabytes=left // 1_000_000,
                left_documents=max(0, allowance.documents - documents),
            )
        if len(self.reserved) >= MOST_RESERVED:
            raise RateLimited("TOO_MANY_UPLOADS", "finish or cancel one first", limit=MOST_RESERVED)
        self.reserved[upload.id] = wanted

    def settle(self, upload: str, *, kept: bool) -> None:
        """An upload has ended: what it was promised is in use now, or given back. Once; a promise that is
        not there has been settled."""
        promised = self.reserved.pop(upload, None)
        if kept and promised is not None:
            self.size += promised.size
            self.documents += promised.documents

    def expire(self, upload: str, at: datetime) -> None:
        """Gives back what was promised to an upload that never came to be, when its time is over."""
        if upload in self.reserved and self.reserved[upload].expires <= at:
            del self.reserved[upload]

    def counted(self, size: int, documents: int, at: datetime) -> None:
        """The documents have been counted, while nothing was promised or settled."""
        self.size, self.documents, self.recount = size, documents, at + _COUNT_AGAIN

    def count_later(self, at: datetime) -> None:
        """Uploads were under way, so that the documents could not be counted."""
        if self.recount <= at:
            self.recount = at + _COUNT_LATER


def first_count(owner: str, size: int, documents: int, at: datetime, *, whole: bool) -> Storage:
    """The count of an account that had none. One that is not whole is to be made again at once."""
    return Storage(owner, size, documents, recount=at + _COUNT_SOON if whole else at)


def is_counted(upload: Upload) -> bool:
    """Whether an upload takes of its owner's room: not where an office puts something into the vault."""
    return upload.purpose is not Purpose.RESULT and not upload.desk


def counted(document: Document) -> tuple[int, int]:
    """Bytes and documents for which this one counts."""
    if document.dossier:
        return 0, 0
    own = document.versions[1:] if document.desk else document.versions
    return sum(version.size for version in own), int(not document.desk)
