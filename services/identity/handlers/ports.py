"""What the use cases need from outside; `store.py`, `passwords.py` and `tokens.py` give the real ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeVar

from identity.domain.accounts import Account, Kind
from identity.domain.agencies import Agency
from identity.domain.delegations import Delegation
from identity.domain.identifiers import Identifier
from identity.domain.one_time import OneTime, Purpose
from identity.domain.second_factor import Way
from identity.domain.sessions import Limits, Session
from kit.auth import Caller
from kit.clock import Clock

A = TypeVar("A")
Item = TypeVar("Item", covariant=True)


class Listed(Protocol[Item]):
    """A page of a list; `next_token` is empty on the last one."""

    @property
    def items(self) -> Sequence[Item]: ...
    @property
    def next_token(self) -> str: ...


class Aggregates(Protocol[A]):
    """Aggregates of one type, as `kit.mongo.Store` keeps them. `request` is the key of a repeatable write."""

    async def get(self, id: str) -> A: ...
    async def find(self, id: str) -> A | None: ...
    async def batch(self, ids: Sequence[str]) -> list[A]: ...
    async def add(self, aggregate: A) -> A: ...
    async def create(
        self,
        make: Callable[[str], A],
        request: Any = None,
        id: str | None = None,
    ) -> A: ...
    async def change(
        self, id: str, fn: Callable[[A], None], *, request: Any = None, etag: str | None = None
    ) -> A: ...
    async def page(self, filter: Mapping[str, Any], *, size: int, token: str = "") -> Listed[A]: ...


class Asked(Protocol):
    """A repeatable request, as `kit.mongo.Request` keeps it."""

    @property
    def fingerprint(self) -> str: ...


class Names(Protocol):
    """Which account each identifier names."""

    async def holder(self, name: Identifier) -> str | None:
        """The account that the identifier is reserved for, whether or not it exists."""

    async def propose(self, name: Identifier, account: str) -> str:
        """Reserves the identifier unless it is reserved already; answers the account that has it now."""

    async def take(self, names: Sequence[Identifier], account: str) -> None:
        """Reserves all for the account. Raises AlreadyExists (`<TYPE>_TAKEN`) when another one has one."""

    async def release(self, names: Sequence[Identifier], account: str) -> None:
        """Gives up those that the account has."""


class Passwords(Protocol):
    """Slow hashes of what people know."""

    async def hash(self, password: str) -> str: ...
    async def verify(self, stored: str, password: str) -> bool: ...
    async def guessable(self, texts: Sequence[str], words: Sequence[str]) -> bool: ...
    def outdated(self, stored: str) -> bool: ...


class Tokens(Protocol):
    """Access tokens and the keys that verify them."""

    @property
    def jwks(self) -> Mapping[str, Any]: ...
    def issue(
        self, caller: Caller, now: datetime, epoch: int = 0, methods: Sequence[str] = ()
    ) -> tuple[str, datetime]: ...


class Attempts(Protocol):
    """Counts tries, over all replicas."""

    async def count(self, what: str, who: str) -> None:
        """One try more. Raises RateLimited with `retry_after` when there were too many in this window."""

    async def slow(self, what: str, who: str) -> None:
        """One try more. The first few are free; each later one waits longer. Raises RateLimited with
        `retry_after` for one that comes too early, which then does not count."""

    async def relax(self, what: str, who: str) -> None:
        """The last try of `slow` was right: it is taken back."""

    async def forgive(self, what: str, who: str) -> None:
        """Takes one try back."""


class Devices(Protocol):
    """Devices that signed in to an account lately, by the SHA-256 of their tokens."""

    async def accounts(self, token_hash: str) -> list[str]: ...
    async def known(self, account: str, token_hash: str) -> bool: ...
    async def remember(self, account: str, token_hash: str) -> None: ...
    async def forget(self, account: str) -> None: ...


class OneTimes(Protocol):
    """Secrets that serve once, and requests for them, by key; one that has expired is not there."""

    async def keep(self, key: str, value: OneTime) -> None:
        """Keeps it until it expires, in place of what has the key."""

    async def find(self, key: str) -> OneTime | None: ...

    async def swap(self, key: str, held: OneTime, value: OneTime) -> bool:
        """Replaces what was read; False when it is another one by now."""

    async def take(self, key: str) -> OneTime | None:
        """What was kept, for one caller once."""

    async def forget(self, account: str, purpose: Purpose) -> None:
        """None of the account's for that purpose serves any more."""


@dataclass(frozen=True)
class Ended:
    """The end of one session, or of all sessions of an account of earlier epochs but the kept one."""

    at: datetime
    session: str = ""
    account: str = ""
    epoch: int = 0
    kept: str = ""


@dataclass(frozen=True)
class Stated:
    """What an identity provider states: its name for somebody, and whether it has proven who that is."""

    issuer: str
    subject: str
    number: str
    name: str
    proven: bool


class IdentityProvider(Protocol):
    """An identity provider that citizens sign in with."""

    async def url(self, *, state: str, nonce: str, verifier: str) -> str:
        """Where the browser goes. Raises Unavailable."""

    async def redeem(self, *, code: str, issuer: str, nonce: str, verifier: str) -> Stated:
        """What it states of whoever brought the code. Raises Unauthenticated, Unavailable."""


@dataclass(frozen=True)
class PendingSignIn:
    """A sign-in that waits for the provider: the hash of the browser's secret, and for whom it was begun."""

    binding: str
    account: str
    take_over: bool
    expires: datetime


class SignIns(Protocol):
    """Sign-ins that wait for an identity provider, by the hash of their state."""

    async def keep(self, state: str, pending: PendingSignIn) -> None:
        """Keeps it until it expires."""

    async def take(self, state: str) -> PendingSignIn | None:
        """What was kept, for one caller once."""


@dataclass(frozen=True)
class Challenge:
    """What waits for a second factor, of an account in an epoch: a sign-in, or with `enrol` the beginning of
    a new factor, in the session if there is one.

    `device` is the hash of the token of the device that began it, and `methods` what its owner has shown.
    Of a factor that is to be added: its way, its name, and the sealed secret.
    """

    account: str
    epoch: int
    expires: datetime
    device: str = ""
    session: str = ""
    methods: tuple[str, ...] = ()
    tries_left: int = 5
    enrol: bool = False
    way: Way | None = None
    name: str = ""
    secret: str = ""


class Challenges(Protocol):
    """What waits for a second factor, by the hash of its id."""

    async def keep(self, id: str, challenge: Challenge) -> None:
        """Keeps it until it expires."""

    async def take(self, id: str) -> Challenge | None:
        """What was kept, for one caller once."""


class Sealer(Protocol):
    """Encrypts what is stored of an account and must be read again."""

    def seal(self, text: str, of: str) -> str: ...
    def open(self, sealed: str, of: str) -> str: ...
    def outdated(self, sealed: str) -> bool: ...


@dataclass(frozen=True)
class Ports:
    """Everything the use cases work with. `service_secrets` are SHA-256 digests by service, several
    while a secret is changed. `ended` answers what ended since an instant, newest first. `must_have` are the
    rules of `identity.domain.second_factor.must_have`; without a sealer nobody can add an app."""

    accounts: Aggregates[Account]
    agencies: Aggregates[Agency]
    sessions: Aggregates[Session]
    delegations: Aggregates[Delegation]
    names: Names
    passwords: Passwords
    tokens: Tokens
    attempts: Attempts
    devices: Devices
    clock: Clock
    limits: Mapping[Kind, Limits]
    ended: Callable[[datetime], Awaitable[list[Ended]]]
    service_secrets: Mapping[str, tuple[bytes, ...]]
    sign_ins: SignIns
    one_times: OneTimes
    challenges: Challenges
    provider: IdentityProvider | None = None
    sealer: Sealer | None = None
    must_have: Mapping[str, datetime] = field(default_factory=dict)
