"""Documents of the vault, their uploads, and who looked at them."""

from __future__ import annotations

import hmac
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from enum import IntEnum, StrEnum
from hashlib import sha256
from typing import Any

from kit.errors import (
    FailedPrecondition,
    FieldViolation,
    Forbidden,
    InvalidInput,
    Unauthenticated,
)
from kit.text import line

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TYPE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
MOST_PARTS = 4096
MOST_VERSIONS = 200


class Trust(IntEnum):
    """Best first."""

    SIGNED_ORIGINAL = 1
    CERTIFIED_COPY = 2
    OFFICER_SCAN = 3
    OWN_SCAN = 4


class Act(StrEnum):
    READ = "READ"
    USE = "USE"
    VERIFY = "VERIFY"
    DELEGATED_READ = "DELEGATED_READ"
    IDENTITY = "IDENTITY"  # an official saw the numbers and addresses that identify the owner


class Purpose(IntEnum):
    DOCUMENT = 1
    VERSION = 2
    RESULT = 3


@dataclass(frozen=True)
class Details:
    """What a document says of itself; dates are ISO dates or empty."""

    type: str = ""
    title: str = ""
    issuer: str = ""
    issued: str = ""
    expires: str = ""

    def checked(self) -> Details:
        """The same in NFC. Raises InvalidInput with the fields that are wrong."""
        wrong = []
        if self.type and not _TYPE.fullmatch(self.type):
            wrong.append(FieldViolation("type", "BAD_TYPE", "lower-case letters, digits and _ . -"))
        for name, value, limit in (("title", self.title, 300), ("issuer", self.issuer, 300)):
            if len(value) > limit:
                wrong.append(FieldViolation(name, "TOO_LONG", f"at most {limit} letters"))
        for name, value in (("issue_date", self.issued), ("expiry_date", self.expires)):
            if value and not _is_date(value):
                wrong.append(FieldViolation(name, "BAD_DATE", "a date is YYYY-MM-DD"))
        if not wrong and self.issued and self.expires and self.expires < self.issued:
            wrong.append(FieldViolation("expiry_date", "BEFORE_ISSUE", "it expires before it is issued"))
        if wrong:
            raise InvalidInput(violations=wrong)
        return replace(self, title=line(self.title), issuer=line(self.issuer))


class Check(StrEnum):
    """What is known of a version's content."""

    NONE = "none"  # there was no antivirus when it came
    CHECKING = "checking"
    CLEAN = "clean"
    REFUSED = "refused"


@dataclass(frozen=True)
class Rendition:
    """A picture of a version that every browser draws, an object of its own."""

    sha256: str
    size: int
    content_type: str


@dataclass(frozen=True)
class Version:
    number: int
    sha256: str
    size: int
    content_type: str
    filename: str
    created: datetime
    added_by: str
    signed: bool = False  # carries a signature, which nobody here has verified
    attachments: bool = False  # carries other files; only a signed one may
    rendition: Rendition | None = None
    check: str = Check.NONE  # a Check, or what a newer release says there
    found: str = ""  # what the antivirus found in it

    def check_readable(self) -> None:
        """Raises FailedPrecondition for one that nobody may read: FILE_BEING_CHECKED, FILE_REFUSED."""
        if self.check == Check.REFUSED:
            raise FailedPrecondition("FILE_REFUSED", "the antivirus found something", what=self.found)
        if self.check not in (Check.NONE, Check.CLEAN):
            raise FailedPrecondition("FILE_BEING_CHECKED", "nobody reads it before it is checked")


@dataclass(frozen=True)
class Noted:
    """An event: the name of its message in events.proto and whom it names."""

    name: str
    agency: str = ""
    version: int = 0


@dataclass
class Document:
    """A document and its versions, newest last. `owner` is an account, or while a result is not signed the
    code of the agency that prepares it."""

    id: str
    owner: str
    details: Details
    trust: Trust
    versions: list[Version]
    created: datetime
    verified_by: str = ""
    verified_agency: str = ""
    verified: datetime | None = None
    superseded_by: str = ""
    dossier: str = ""  # whose result it is
    desk: str = ""  # agency whose reception scanned it for the owner
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    @property
    def newest(self) -> Version:
        return self.versions[-1]

    def version(self, number: int) -> Version | None:
        """The version of that number, or for 0 the newest."""
        if number == 0:
            return self.newest
        return self.versions[number - 1] if 1 <= number <= len(self.versions) else None

    def describe(self, details: Details, superseded_by: str) -> None:
        """New metadata. What an officer vouched for stays as it was vouched for."""
        if self.trust is not Trust.OWN_SCAN and details != self.details:
            raise FailedPrecondition("VERIFIED_ALREADY", "a verified document cannot be described anew")
        if superseded_by == self.id:
            raise InvalidInput("SUPERSEDES_ITSELF", "a document cannot supersede itself")
        self.details, self.superseded_by = details, superseded_by

    def check_room(self) -> None:
        """Raises FailedPrecondition when there is no place for another version."""
        if self.dossier:
            raise FailedPrecondition("RESULT_IS_FINAL", "a result has one version")
        if len(self.versions) >= MOST_VERSIONS:
            raise FailedPrecondition("TOO_MANY_VERSIONS", f"at most {MOST_VERSIONS}", limit=MOST_VERSIONS)

    def add_version(self, version: Version) -> None:
        """A new version is what its owner says it is, until an officer verifies it again."""
        self.check_room()
        self.versions.append(replace(version, number=len(self.versions) + 1))
        self.trust, self.verified_by, self.verified_agency, self.verified = Trust.OWN_SCAN, "", "", None
        self.events.append(Noted("DocumentVersionAdded"))

    def judge(self, number: int, *, clean: bool, found: str) -> None:
        """The antivirus's verdict on a version that waits for it; a second one changes nothing."""
        version = self.version(number)
        if version is None or number < 1 or version.check != Check.CHECKING:
            return
        self.versions[number - 1] = replace(
            version, check=Check.CLEAN if clean else Check.REFUSED, found="" if clean else found
        )
        self.events.append(Noted("DocumentChecked", version=number))

    @property
    def held_back(self) -> list[Version]:
        """The versions that wait for the antivirus's verdict."""
        return [version for version in self.versions if version.check == Check.CHECKING]

    def hold_back(self, number: int) -> None:
        """A version that came while there was no antivirus waits for its verdict now."""
        version = self.version(number)
        if version is not None and version.check == Check.NONE:
            self.versions[version.number - 1] = replace(version, check=Check.CHECKING)

    def verify(self, *, trust: Trust, by: str, agency: str, at: datetime) -> None:
        """An officer who saw the original raises the trust; it is never lowered."""
        if trust not in (Trust.CERTIFIED_COPY, Trust.OFFICER_SCAN):
            raise InvalidInput("BAD_TRUST", "an officer certifies a copy or vouches for a scan")
        self.newest.check_readable()
        if trust > self.trust:
            raise FailedPrecondition("TRUSTED_MORE", "the document is trusted more than that already")
        self.trust, self.verified_by, self.verified_agency, self.verified = trust, by, agency, at
        self.events.append(Noted("DocumentVerified", agency))

    def deposit(self, *, owner: str, by: str, agency: str, at: datetime) -> None:
        """A signed result becomes the applicant's; once."""
        if self.owner == owner:
            return
        self.owner, self.trust = owner, Trust.SIGNED_ORIGINAL
        self.verified_by, self.verified_agency, self.verified = by, agency, at
        self.events.append(Noted("DocumentAdded", agency))


def new_document(
    id: str,
    upload: Upload,
    version: Version,
) -> Document:
    """The document that a finished upload makes."""
    made = Document(
        id=id,
        owner=upload.vault,
        details=upload.details,
        trust=Trust.OFFICER_SCAN if upload.desk else Trust.OWN_SCAN,
        versions=[version],
        created=version.created,
        dossier=upload.dossier if upload.purpose is Purpose.RESULT else "",
        desk=upload.desk,
    )
    if upload.desk:
        made.verified_by, made.verified_agency, made.verified = upload.owner, upload.desk, version.created
    if upload.purpose is not Purpose.RESULT:
        made.events.append(Noted("DocumentAdded", upload.desk))
    return made


@dataclass(frozen=True)
class Part:
    key: str
    size: int


class UploadState(StrEnum):
    OPEN = "open"
    DONE = "done"
    REFUSED = "refused"
    GONE = "gone"  # cancelled or expired


@dataclass
class Upload:
    """A file on its way in. `offset` counts the bytes that are stored; a client goes on from there."""

    id: str
    owner: str  # who uploads
    vault: str  # whose document it becomes
    purpose: Purpose
    size: int
    filename: str
    content_type: str
    expires: datetime
    created: datetime
    details: Details
    sha256: str = ""
    target: str = ""  # the document that gets a new version
    dossier: str = ""
    desk: str = ""
    offset: int = 0
    parts: list[Part] = field(default_factory=list)
    state: UploadState = UploadState.OPEN
    refused: str = ""
    document: str = ""
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self.offset == self.size

    def check_there(self, at: datetime) -> None:
        """Raises FailedPrecondition for one that takes nothing more: UPLOAD_REFUSED, UPLOAD_EXPIRED."""
        if self.state is UploadState.REFUSED:
            raise FailedPrecondition("UPLOAD_REFUSED", "the file was refused", cause=self.refused)
        ended = self.state is UploadState.OPEN and at >= self.expires and not self.complete
        if self.state is UploadState.GONE or ended:
            raise FailedPrecondition("UPLOAD_EXPIRED", "the upload has expired or was cancelled")

    def check_offset(self, offset: int, at: datetime) -> None:
        """Raises FailedPrecondition: WRONG_OFFSET with the right one, UPLOAD_REFUSED, UPLOAD_EXPIRED."""
        self.check_there(at)
        if offset != self.offset:
            raise FailedPrecondition("WRONG_OFFSET", "bytes go on at the stored offset", offset=self.offset)

    def append(self, part: Part, offset: int, at: datetime) -> None:
        """Takes a stored part. Of two writers at one offset the second gets WRONG_OFFSET."""
        self.check_offset(offset, at)
        if offset + part.size > self.size:
            raise InvalidInput("TOO_MANY_BYTES", "more bytes than announced", size=self.size)
        if len(self.parts) >= MOST_PARTS:
            raise FailedPrecondition("TOO_MANY_PARTS", f"at most {MOST_PARTS} pieces; send larger ones")
        self.parts.append(part)
        self.offset += part.size

    def finish(self, document: str) -> None:
        """The document is there."""
        self.state, self.document, self.parts = UploadState.DONE, document, []

    def refuse(self, reason: str) -> None:
        """The content is not what may be stored."""
        self.state, self.refused, self.parts = UploadState.REFUSED, reason, []

    def drop(self, *, stuck: bool = False) -> None:
        """Cancelled or expired. Raises FailedPrecondition UPLOAD_DONE for one that is whole, which becomes a
        document; `stuck` when it could not for long."""
        if self.state is UploadState.DONE or (self.complete and self.state is UploadState.OPEN and not stuck):
            raise FailedPrecondition("UPLOAD_DONE", "all of it is there already")
        if self.state is UploadState.OPEN:
            self.state, self.parts = UploadState.GONE, []


@dataclass
class Blob:
    """Which documents rest on one stored content; its id is the SHA-256."""

    id: str
    size: int
    documents: list[str] = field(default_factory=list)
    revision: int = 0
    events: list[Any] = field(default_factory=list)

    def used_by(self, document: str) -> None:
        """Notes a document, once."""
        if document not in self.documents:
            self.documents.append(document)


@dataclass
class Access:
    """Somebody read, used or verified a document, or saw what identifies its owner, which is of no document.
    Never changed."""

    id: str
    document: str
    version: int
    owner: str
    actor: str
    agency: str
    act: Act
    purpose: str
    dossier: str
    at: datetime
    revision: int = 0
    events: list[Any] = field(default_factory=list)


def checked_sha256(text: str) -> str:
    """Lower-case hexadecimal, or empty. Raises InvalidInput."""
    if text and not _SHA256.fullmatch(text.lower()):
        raise InvalidInput("BAD_SHA256", "a SHA-256 has 64 hexadecimal digits")
    return text.lower()


@dataclass(frozen=True)
class Ticket:
    """The right to read one version, or its rendition, for a short while, whoever holds it."""

    document: str
    version: int
    subject: str
    expires: int  # Unix seconds
    rendition: bool = False

    def signed(self, secret: bytes) -> str:
        """As an opaque token: payload and HMAC-SHA256, both base64url."""
        parts = [self.document, self.version, self.subject, self.expires, *([True] * self.rendition)]
        payload = json.dumps(parts).encode()
        return f"{_b64(payload)}.{_b64(_mac(secret, payload))}"

    @classmethod
    def read(cls, token: str, secret: bytes, at: datetime) -> Ticket:
        """The ticket of a token. Raises Unauthenticated DOWNLOAD_INVALID or DOWNLOAD_EXPIRED."""
        try:
            payload, mac = (urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
            genuine = hmac.compare_digest(mac, _mac(secret, payload))
            ticket = cls(*json.loads(payload)) if genuine else None
        except (ValueError, TypeError):
            ticket = None
        if ticket is None:
            raise Unauthenticated("DOWNLOAD_INVALID", "not a download token of ours")
        if at.timestamp() >= ticket.expires:
            raise Unauthenticated("DOWNLOAD_EXPIRED", "the download token has expired")
        return ticket


def not_yours(document: str) -> Forbidden:
    """The same answer for a document of someone else and for one that is not there."""
    return Forbidden("NOT_YOUR_DOCUMENT", "no document of yours has this id", document=document)


def _mac(secret: bytes, payload: bytes) -> bytes:
    return hmac.new(secret, b"download\0" + payload, sha256).digest()


def _b64(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
