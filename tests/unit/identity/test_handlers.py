"""What the use cases of identity do that nobody sees from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import pytest

from identity.domain.accounts import Account, Kind, Status
from identity.domain.identifiers import Identifier
from identity.domain.one_time import OneTime, Purpose
from identity.domain.sessions import Limits, Session
from identity.handlers import accounts, sessions
from identity.handlers.ports import Challenge, Ended, PendingSignIn, Ports
from identity.handlers.sessions import SignedIn
from kit.auth import ANONYMOUS, Caller
from kit.errors import Conflict, Forbidden, NotFound, Unauthenticated

NOW = datetime(2026, 11, 23, 5, tzinfo=UTC)

A = TypeVar("A")


@dataclass
class Found(Generic[A]):
    items: list[A]
    next_token: str = ""


@dataclass
class FakeStore(Generic[A]):
    """Aggregates in a dictionary, read as copies; `matches` says which a list's filter wants."""

    matches: Callable[[A, Mapping[str, Any]], bool] = lambda _aggregate, _filter: True
    kept: dict[str, Any] = field(default_factory=dict)

    async def get(self, id: str) -> A:
        if id not in self.kept:
            raise NotFound("NOT_FOUND")
        found: A = copy(self.kept[id])
        return found

    async def find(self, id: str) -> A | None:
        return copy(self.kept.get(id))

    async def batch(self, ids: Sequence[str]) -> list[A]:
        return [copy(self.kept[id]) for id in ids if id in self.kept]

    async def add(self, aggregate: A) -> A:
        self.kept[aggregate.id] = aggregate  # type: ignore[attr-defined]
        return aggregate

    async def create(
        self,
        make: Callable[[str], A],
        request: Any = None,
        id: str | None = None,
    ) -> A:
        return self.kept.get(id or "") or await self.add(make(id or "new"))

    async def change(
        self,
        id: str,
        fn: Callable[[A], None],
        *,
        request: Any = None,
        etag: str | None = None,
    ) -> A:
        await self.get(id)
        aggregate: A = self.kept[id]
        fn(aggregate)
        return aggregate

    async def page(self, filter: Mapping[str, Any], *, size: int, token: str = "") -> Found[A]:
        return Found([kept for kept in self.kept.values() if self.matches(kept, filter)])


@dataclass
class FakeNames:
    held: dict[Identifier, str] = field(default_factory=dict)

    async def holder(self, name: Identifier) -> str | None:
        return self.held.get(name)

    async def propose(self, name: Identifier, account: str) -> str:
        return self.held.setdefault(name, account)

    async def take(self, names: Sequence[Identifier], account: str) -> None:
        self.held.update(dict.fromkeys(names, account))

    async def release(self, names: Sequence[Identifier], account: str) -> None:
        for name in names:
            self.held.pop(name, None)


@dataclass
class FakePasswords:
    verified: list[str] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None

    async def hash(self, password: str) -> str:
        return f"hash of {password}"

    async def verify(self, stored: str, password: str) -> bool:
        self.verified.append(stored)
        self.meanwhile()
        return stored in (f"hash of {password}", f"old hash of {password}")

    async def guessable(self, texts: Sequence[str], words: Sequence[str]) -> bool:
        return False

    def outdated(self, stored: str) -> bool:
        return stored.startswith("old")


@dataclass
class FakeTokens:
    jwks: Mapping[str, Any] = field(default_factory=dict)

    def issue(
        self, caller: Caller, now: datetime, epoch: int = 0, methods: Sequence[str] = ()
    ) -> tuple[str, datetime]:
        return f"token of {caller.subject}", now + timedelta(minutes=5)


@dataclass
class FakeAttempts:
    counts: dict[tuple[str, str], int] = field(default_factory=dict)

    async def count(self, what: str, who: str) -> None:
        self.counts[what, who] = self.counts.get((what, who), 0) + 1

    async def forgive(self, what: str, who: str) -> None:
        self.counts[what, who] -= 1

    async def slow(self, what: str, who: str) -> None:
        await self.count(what, who)

    async def relax(self, what: str, who: str) -> None:
        await self.forgive(what, who)


@dataclass
class FakeDevices:
    kept: set[tuple[str, str]] = field(default_factory=set)

    async def accounts(self, token_hash: str) -> list[str]:
        return [account for account, known in self.kept if known == token_hash]

    async def known(self, account: str, token_hash: str) -> bool:
        return (account, token_hash) in self.kept

    async def remember(self, account: str, token_hash: str) -> None:
        self.kept.add((account, token_hash))

    async def forget(self, account: str) -> None:
        self.kept = {one for one in self.kept if one[0] != account}


async def nothing_ended(since: datetime) -> list[Ended]:
    return []


@dataclass
class FakeSignIns:
    kept: dict[str, PendingSignIn] = field(default_factory=dict)

    async def keep(self, state: str, pending: PendingSignIn) -> None:
        self.kept[state] = pending

    async def take(self, state: str) -> PendingSignIn | None:
        return self.kept.pop(state, None)


@dataclass
class FakeOneTimes:
    kept: dict[str, OneTime] = field(default_factory=dict)

    async def keep(self, key: str, value: OneTime) -> None:
        self.kept[key] = value

    async def find(self, key: str) -> OneTime | None:
        return self.kept.get(key)

    async def swap(self, key: str, held: OneTime, value: OneTime) -> bool:
        self.kept[key] = value
        return True

    async def take(self, key: str) -> OneTime | None:
        return self.kept.pop(key, None)

    async def forget(self, account: str, purpose: Purpose) -> None:
        self.kept = {
            key: it for key, it in self.kept.items() if (it.account, it.purpose) != (account, purpose)
        }


class FakeChallenges:
    kept: dict[str, Challenge] = field(default_factory=dict)

    async def keep(self, id: str, challenge: Challenge) -> None:
        self.kept[id] = challenge

    async def take(self, id: str) -> Challenge | None:
        return self.kept.pop(id, None)


def _listed(account: Account, filter: Mapping[str, Any]) -> bool:
    [(name, key)] = filter.items()
    if name == "claim":
        claim = account.unproven_number
        return claim is not None and claim.key == key
    return False


@dataclass
class World:
    accounts: FakeStore[Account] = field(default_factory=lambda: FakeStore(_listed))
    sessions: FakeStore[Session] = field(default_factory=FakeStore)
    names: FakeNames = field(default_factory=FakeNames)
    passwords: FakePasswords = field(default_factory=FakePasswords)
    attempts: FakeAttempts = field(default_factory=FakeAttempts)

    @property
    def ports(self) -> Ports:
        day = Limits(timedelta(days=1), timedelta(days=1))
        return Ports(
            accounts=self.accounts,
            agencies=FakeStore(),
            sessions=self.sessions,
            delegations=FakeStore(),
            names=self.names,
            passwords=self.passwords,
            tokens=FakeTokens(),
            attempts=self.attempts,
            devices=FakeDevices(),
            clock=lambda: NOW,
            limits=dict.fromkeys(Kind, day),
            ended=nothing_ended,
            service_secrets={},
            sign_ins=FakeSignIns(),
            one_times=FakeOneTimes(),
            challenges=FakeChallenges(),
        )

    def has(self, account: Account) -> Account:
        self.accounts.kept[account.id] = account
        self.names.held.update(dict.fromkeys(account.identifiers, account.id))
        return account

    async def sign_in(self, identifier: str, password: str) -> SignedIn:
        answer = await sessions.sign_in(
            self.ports,
            ANONYMOUS,
            identifier=identifier,
            password=password,
            client_address="203.0.113.1",
            user_agent="",
        )
        assert isinstance(answer, SignedIn)
        return answer


def person(account_id: str, **more: Any) -> Account:
    known = {"phone": "0901000101", "status": Status.ACTIVE, "password_hash": "hash of right", **more}
    known.setdefault("verified_phone", known["phone"])
    return Account(account_id, Kind.PERSON, "An", created=NOW, **known)


@pytest.fixture
def world() -> World:
    return World()


async def test_a_password_is_verified_as_often_whether_or_not_there_is_an_account(world: World) -> None:
    world.has(person("a"))
    world.has(person("b", password_hash="", phone="0901000102", status=Status.UNCLAIMED))
    for identifier in ("0901000101", "0901000102", "0901000103", "no such thing", ""):
        world.passwords.verified.clear()
        with pytest.raises(Unauthenticated, match="INVALID_CREDENTIALS"):
            await world.sign_in(identifier, "wrong")
        assert len(world.passwords.verified) == (3 if identifier.isdigit() else 1)


async def test_a_number_that_is_a_phone_and_a_tax_code_opens_the_account_whose_password_fits(
    world: World,
) -> None:
    world.has(person("phone", phone="0316794479"))
    company = person("company", phone="", tax_code="0316794479", password_hash="hash of other")
    company.kind = Kind.ORGANISATION
    world.has(company)
    assert (await world.sign_in("0316794479", "right")).account.id == "phone"
    assert (await world.sign_in("0316794479", "other")).account.id == "company"


async def test_only_a_wrong_try_stays_counted(world: World) -> None:
    world.has(person("a"))
    await world.sign_in("0901000101", "right")
    assert set(world.attempts.counts.values()) == {0}
    with pytest.raises(Unauthenticated):
        await world.sign_in("0901000101", "wrong")
    assert set(world.attempts.counts.values()) == {1}
    assert len(world.attempts.counts) == 2


async def test_a_right_password_brings_an_outdated_hash_up_to_date(world: World) -> None:
    account = world.has(person("a", password_hash="old hash of right"))
    with pytest.raises(Unauthenticated):
        await world.sign_in("0901000101", "wrong")
    assert account.password_hash == "old hash of right"
    await world.sign_in("0901000101", "right")
    assert account.password_hash == "hash of right"


async def test_only_its_owner_learns_that_an_account_is_locked(world: World) -> None:
    account = world.has(person("a"))
    signed_in = await world.sign_in("0901000101", "right")
    account.status = Status.LOCKED
    with pytest.raises(Unauthenticated, match="INVALID_CREDENTIALS"):
        await world.sign_in("0901000101", "wrong")
    with pytest.raises(Forbidden, match="ACCOUNT_LOCKED"):
        await world.sign_in("0901000101", "right")
    with pytest.raises(Unauthenticated, match="SESSION_ENDED"):
        await sessions.refresh_session(world.ports, ANONYMOUS, refresh_token=signed_in.refresh_token)


async def test_a_new_password_is_not_undone_by_a_sign_in_that_hashes_the_old_one_anew(world: World) -> None:
    account = world.has(person("a", password_hash="old hash of right"))

    def meanwhile() -> None:
        account.change_password(
            verified=account.password_hash, password_hash="hash of new", session="", mark="", now=NOW
        )

    world.passwords.meanwhile = meanwhile
    with pytest.raises(Unauthenticated, match="INVALID_CREDENTIALS"):
        await world.sign_in("0901000101", "right")
    assert account.password_hash == "hash of new"


@pytest.mark.parametrize("reason", ["LOCKED", "PASSWORD_CHANGED"])
async def test_a_sign_in_that_a_lock_or_a_new_password_overtakes_leaves_no_session(
    world: World, reason: str
) -> None:
    account = world.has(person("a"))

    class Overtaken(FakeStore[Session]):
        async def add(self, aggregate: Session) -> Session:
            if reason == "LOCKED":
                account.lock(NOW)
            else:
                account.change_password(
                    verified="hash of right", password_hash="hash of new", session="", mark="", now=NOW
                )
            return await super().add(aggregate)

    world.sessions = Overtaken()
    with pytest.raises(Unauthenticated, match="INVALID_CREDENTIALS"):
        await world.sign_in("0901000101", "right")
    assert [session.revoked_reason for session in world.sessions.kept.values()] == [reason]


async def test_of_two_who_change_a_password_at_once_one_succeeds(world: World) -> None:
    account = world.has(person("a"))

    def meanwhile() -> None:
        account.password_hash = "hash of another"

    world.passwords.meanwhile = meanwhile
    with pytest.raises(Conflict, match="LOST_RACE"):
        await sessions.change_password(
            world.ports, Caller("a", "citizen"), current="right", new="một mật khẩu dài", request=None
        )
    assert account.password_hash == "hash of another"


async def test_a_reservation_without_its_account_names_nobody(world: World) -> None:
    world.has(person("a"))
    world.names.held[Identifier("phone", "0901000109")] = "a"
    world.names.held[Identifier("phone", "0901000108")] = "dead"
    for phone in ("0901000109", "0901000108"):
        with pytest.raises(NotFound):
            await accounts.find_account(world.ports, Caller("dossier", "service"), identifier=phone)


async def test_signing_out_of_a_session_that_is_forgotten_is_fine(world: World) -> None:
    gone = Caller("a", "citizen", session="gone")
    await sessions.sign_out(world.ports, gone, refresh_token="", everywhere=False)
