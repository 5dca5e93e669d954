"""The use cases of dossiers and the vault, and what they need of the world."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from dossier.domain.document import Access, Blob, Document, Upload
from dossier.domain.dossier import Dossier
from dossier.domain.records import Channel, FeeLine, Limit, Procedure
from dossier.domain.sight import Sight
from dossier.domain.storage import Allowance, Storage
from kit.auth import Caller
from kit.clock import Clock
from kit.errors import FieldViolation, InvalidInput, NotFound
from kit.text import typed

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)

WORKING_ROLES = ("reception", "examiner", "leader", "clerk")


class Page(Protocol[A_co]):
    """Some of a list."""

    @property
    def items(self) -> Sequence[A_co]: ...
    @property
    def next_token(self) -> str: ...
    @property
    def tokens(self) -> Sequence[str]: ...


class Repository(Protocol[A]):
    """A collection of aggregates; `kit.mongo.Store` is one."""

    async def find(self, id: str) -> A | None: ...
    async def get(self, id: str) -> A: ...
    async def batch(self, ids: Sequence[str], *, without: Sequence[str] = ()) -> list[A]: ...
    async def count(self, filter: Mapping[str, Any]) -> int: ...
    async def page(
        self,
        filter: Mapping[str, Any],
        *,
        size: int,
        token: str = "",
        order: str = "created",
        without: Sequence[str] = (),
    ) -> Page[A]: ...
    def scan(self, filter: Mapping[str, Any]) -> AsyncIterator[A]: ...
    async def id_for(self, request: Any = None, id: str | None = None) -> str: ...
    async def create(
        self,
        make: Callable[[str], A],
        request: Any = None,
        id: str | None = None,
    ) -> A: ...
    async def change(
        self,
        id: str,
        fn: Callable[[A], None],
        *,
        request: Any = None,
        etag: str | None = None,
        handled: str | None = None,
    ) -> A: ...


@dataclass(frozen=True)
class Quote:
    lines: list[FeeLine]
    known: bool
    refundable: bool


@dataclass(frozen=True)
class Account:
    """An account and what identifies its owner; a value that is not known is empty."""

    id: str
    official: bool
    roles: tuple[tuple[str, str], ...] = ()  # (agency, role)
    verified: bool = False  # whether somebody proved who it is
    organisation: bool = False
    name: str = ""
    citizen_number: str = ""
    tax_code: str = ""
    phone: str = ""
    email: str = ""


class Catalog(Protocol):
    """Procedures and the working calendar."""

    async def procedure(self, code: str, version: int = 0) -> Procedure:
        """That version, or for 0 the one in force. Raises NotFound."""

    async def due(self, start: datetime, limit: Limit) -> datetime:
        """When a limit that starts with something received at `start` is over."""

    async def working_days(self, start: datetime, end: datetime) -> int:
        """Working days between two instants."""

    async def quote(
        self, procedure: str, version: int, channel: Channel, quantities: Mapping[str, int]
    ) -> Quote:
        """What a filing costs."""


class Identity(Protocol):
    """Accounts, agencies and delegations."""

    async def may_act(self, principal: str, delegate: str, scope: str) -> bool:
        """Whether a delegation with scope FILE, READ or VAULT holds now."""

    async def receives(self, agency: str) -> bool:
        """Whether the agency exists today and has a reception."""

    async def exists(self, agency: str) -> bool:
        """Whether the agency exists today."""

    async def account(self, id: str) -> Account | None:
        """An account, or None."""

    async def account_named(self, identifier: str) -> Account | None:
        """The account with this citizen number, tax code, phone or e-mail address, or None."""


class Codes(Protocol):
    """Dossier codes: unique, and one for a dossier."""

    async def assign(self, dossier: str, agency: str, at: datetime) -> str:
        """The code of this dossier: the one it has been given, else the next of that agency and day."""

    async def holder(self, code: str) -> str:
        """The dossier that has the code; empty for none."""


class Forms(Protocol):
    """Validates forms."""

    async def unknown(
        self, procedure: str, schema: Mapping[str, Any], form: Mapping[str, Any]
    ) -> list[FieldViolation]:
        """The keys that the schema neither names nor allows."""

    async def violations(
        self, procedure: str, schema: Mapping[str, Any], form: Mapping[str, Any]
    ) -> list[FieldViolation]: ...


class Assembled(Protocol):
    """A file put together from its parts."""

    @property
    def sha256(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def head(self) -> bytes: ...


class Stored(Protocol):
    """An object in storage."""

    @property
    def key(self) -> str: ...
    @property
    def modified(self) -> datetime: ...


class Objects(Protocol):
    """Bytes."""

    async def put(self, key: str, data: bytes | bytearray) -> None: ...
    async def assemble(self, parts: Sequence[str], key: str) -> Assembled: ...
    async def move(self, source: str, target: str) -> None: ...
    async def delete(self, keys: Sequence[str]) -> None: ...
    def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]: ...
    def list(self, prefix: str) -> AsyncIterator[Stored]: ...
    async def modified(self, key: str) -> datetime | None: ...


class Finding(Protocol):
    """What a file is that is taken."""

    @property
    def content_type(self) -> str: ...
    @property
    def signed(self) -> bool: ...
    @property
    def attachments(self) -> bool: ...


class Inspect(Protocol):
    """Looks into files."""

    async def __call__(self, key: str, head: bytes, owner: str) -> tuple[Finding, bytes]:
        """What the object is, and its rendition (empty for none). Raises InvalidInput when not taken."""


class Verdict(Protocol):
    """What the antivirus says of a file."""

    @property
    def clean(self) -> bool: ...
    @property
    def found(self) -> str: ...


class Antivirus(Protocol):
    """Says whether files are clean."""

    async def scan(self, pieces: AsyncIterator[bytes]) -> Verdict:
        """The verdict. Raises Unavailable when there is none now."""


class Limiter(Protocol):
    """Counts attempts."""

    def check(self, key: str) -> None:
        """Raises RateLimited with `retry_after` when there were too many."""


@dataclass(frozen=True)
class Limits:
    """What a deployment may set."""

    upload_bytes: int
    upload_hours: float
    open_uploads: int
    part_bytes: int
    download_seconds: int
    person_storage: Allowance
    organisation_storage: Allowance


@dataclass(frozen=True)
class Ports:
    """All that the handlers reach outside."""

    clock: Clock
    dossiers: Repository[Dossier]
    documents: Repository[Document]
    uploads: Repository[Upload]
    accesses: Repository[Access]
    sights: Repository[Sight]
    blobs: Repository[Blob]
    storages: Repository[Storage]
    codes: Codes
    catalog: Catalog
    identity: Identity
    forms: Forms
    objects: Objects
    tracking: Limiter
    inspect: Inspect
    claimed: Callable[[str], str]  # the type that a client states, if it is one of ours
    secret: bytes
    limits: Limits
    antivirus: Antivirus | None = None
    to_check: Callable[[], None] = lambda: None  # tells whoever checks files that there is one


def words(field: str, text: str, *, required: bool = False, limit: int = 2000) -> str:
    """Free text as it is kept (`kit.text.typed`). Raises InvalidInput when it is missing or too long."""
    clean = typed(text)
    if required and not clean:
        raise InvalidInput(violations=[FieldViolation(field, "REQUIRED", "say something here")])
    if len(clean) > limit:
        raise InvalidInput(violations=[FieldViolation(field, "TOO_LONG", f"at most {limit} letters")])
    return clean


def agencies_of(caller: Caller) -> list[str]:
    """The agencies in which an official works on dossiers."""
    return list(dict.fromkeys(role.agency for role in caller.roles if role.name in WORKING_ROLES))


def not_there(id: str) -> NotFound:
    """The same answer for a dossier of others and for one that is not there."""
    return NotFound("DOSSIER_NOT_FOUND", "no such dossier", id=id)
